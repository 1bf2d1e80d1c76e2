import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "common"))

from protocol import API_URL, GATEWAY_URL, SHARDS, TOKEN

# recipe:start
import discord

URL = f"{GATEWAY_URL}/?encoding=json&v=10&compress=zlib-stream"


async def get_gateway(self, **options):
    return URL


async def get_bot_gateway(self, **options):
    return SHARDS, URL


discord.http.HTTPClient.get_gateway = get_gateway
discord.http.HTTPClient.get_bot_gateway = get_bot_gateway


class Bot(discord.AutoShardedClient):
    async def before_identify_hook(self, shard_id, *, initial=False):
        pass  # the library would wait 5 s before each IDENTIFY; the proxy needs no such wait


# recipe:end
from discord_py_family import attach, every_intent

discord.http.Route.API_BASE_URL = f"{API_URL}/v10"
intents = every_intent(discord)

# recipe:start
bot = Bot(intents=intents, shard_count=SHARDS)
# recipe:end
# Guild.chunk returns nothing in this library.
attach(bot, discord, chunk=lambda guild: guild._state.chunk_guild(guild))
# recipe:start
bot.run(TOKEN)
# recipe:end
