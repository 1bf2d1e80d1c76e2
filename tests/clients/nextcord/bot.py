import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "common"))

from protocol import API_URL, GATEWAY_URL, SHARDS, TOKEN

# recipe:start
import nextcord

URL = f"{GATEWAY_URL}/?encoding=json&v=10&compress=zlib-stream"


async def get_gateway(self, **options):
    return URL


async def get_bot_gateway(self, **options):
    return SHARDS, URL


nextcord.http.HTTPClient.get_gateway = get_gateway
nextcord.http.HTTPClient.get_bot_gateway = get_bot_gateway


class Bot(nextcord.AutoShardedClient):
    async def before_identify_hook(self, shard_id, *, initial=False):
        pass  # the library would wait 5 s before each IDENTIFY; the proxy needs no such wait


# recipe:end
from discord_py_family import attach, every_intent

nextcord.http.Route.BASE = f"{API_URL}/v10"
intents = every_intent(nextcord)

# recipe:start
bot = Bot(intents=intents, shard_count=SHARDS)
# recipe:end
attach(bot, nextcord)


@bot.event
async def on_connect():
    pass  # the library would register its application commands over REST, which the test does not have


@bot.event
async def on_interaction(_interaction):
    pass  # the library would answer it over REST


# recipe:start
bot.run(TOKEN)
# recipe:end
