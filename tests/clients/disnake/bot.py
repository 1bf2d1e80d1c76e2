import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "common"))

from protocol import API_URL, GATEWAY_URL, SHARDS, TOKEN

# recipe:start
import disnake

URL = f"{GATEWAY_URL}/?encoding=json&v=10&compress=zlib-stream"


async def get_gateway(self, **options):
    return URL


async def get_bot_gateway(self, **options):
    limit = {"total": 1000, "remaining": 1000, "reset_after": 86400000, "max_concurrency": 1000}
    return SHARDS, URL, limit


disnake.http.HTTPClient.get_gateway = get_gateway
disnake.http.HTTPClient.get_bot_gateway = get_bot_gateway


class Bot(disnake.AutoShardedClient):
    async def before_identify_hook(self, shard_id, *, initial=False):
        pass  # the library would wait 5 s before each IDENTIFY; the proxy needs no such wait


# recipe:end
from discord_py_family import attach, every_intent

disnake.http.Route.BASE = f"{API_URL}/v10"
intents = every_intent(disnake)

# recipe:start
bot = Bot(intents=intents, shard_count=SHARDS)
# recipe:end
attach(bot, disnake)
# recipe:start
bot.run(TOKEN)
# recipe:end
