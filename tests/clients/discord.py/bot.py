import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "common"))

from protocol import API_URL, COMPRESS, GATEWAY_URL, SHARDS, TOKEN

if COMPRESS == "zlib-stream":
    # With zstandard importable the library asks for zstd-stream, without it for zlib-stream: make it not importable.
    sys.modules["zstandard"] = None
    sys.modules["compression.zstd"] = None

# recipe:start
import discord
import yarl

discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(GATEWAY_URL)


class Bot(discord.AutoShardedClient):
    async def before_identify_hook(self, shard_id, *, initial=False):
        pass  # the library would wait 5 s before each IDENTIFY; the proxy needs no such wait


# recipe:end
from discord_py_family import attach, every_intent

discord.http.Route.BASE = f"{API_URL}/v10"
intents = every_intent(discord)

# recipe:start
bot = Bot(intents=intents, shard_count=SHARDS)
# recipe:end
attach(bot, discord)
# recipe:start
bot.run(TOKEN)
# recipe:end
