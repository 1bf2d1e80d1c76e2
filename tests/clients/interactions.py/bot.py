import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "common"))

from protocol import (
    API_URL,
    GATEWAY_URL,
    INTENTS,
    SHARDS,
    TOKEN,
    Chunks,
    emit,
    fail,
    listen,
    number_of,
)

# recipe:start
import interactions
from interactions.api.http.http_client import HTTPClient


async def get_gateway(self):
    return f"{GATEWAY_URL}?encoding=json&v=10&compress=zlib-stream"


async def get_gateway_bot(self):
    # If max_concurrency is above 1, the library waits until all shards are ready before it starts the second bucket: for ever.
    limit = {"total": 1000, "remaining": 1000, "reset_after": 86400000, "max_concurrency": 1}
    return {"url": GATEWAY_URL, "shards": SHARDS, "session_start_limit": limit}


HTTPClient.get_gateway = get_gateway
HTTPClient.get_gateway_bot = get_gateway_bot

bot = interactions.AutoShardedClient(
    intents=interactions.Intents(INTENTS),
    total_shards=SHARDS,
    # recipe:end
    sync_interactions=False,
    # recipe:start
)
# recipe:end

interactions.api.http.route.Route.BASE = f"{API_URL}/v10"
logging.basicConfig(stream=sys.stderr, level=logging.INFO)

chunks = Chunks()
announced = {}
handle = interactions.api.gateway.gateway.GatewayClient.dispatch_event


async def report_and_handle(self, data, sequence, event):
    """The library's own events do not say on which shard they are, nor tell a guild that was there before from a new one
    while the bot starts, nor that an answer is complete, and a message may have been edited before its event is handled:
    look at what the library is about to handle."""
    shard = self.shard[0]
    if event == "READY":
        announced[shard] = [guild["id"] for guild in data["guilds"]]
    elif event == "RESUMED":
        emit("resumed", shard=shard)
    elif event == "GUILD_CREATE":
        emit(
            "guild",
            shard=shard,
            id=data["id"],
            members=data.get("member_count"),
            unavailable=data.get("unavailable", False),
            join=data["id"] not in announced[shard] or "unavailable" not in data,
        )
    elif event == "MESSAGE_CREATE":
        number = number_of(data["content"])
        if number is not None:
            emit("message", shard=shard, n=number)
    elif event == "GUILD_MEMBERS_CHUNK":
        chunks.chunk(data["guild_id"], len(data["members"]), data["chunk_count"])
    await handle(self, data, sequence, event)


interactions.api.gateway.gateway.GatewayClient.dispatch_event = report_and_handle


@interactions.listen()
async def on_shard_connect(event: interactions.api.events.ShardConnect):
    # The library itself knows nothing of a guild that is down.
    emit("ready", shard=event.shard_id, guilds=announced[event.shard_id])


@interactions.listen()
async def on_shard_disconnect(event: interactions.api.events.ShardDisconnect):
    emit("reconnecting", shard=event.shard_id)


@interactions.listen(disable_default_listeners=True)
async def on_error(event: interactions.api.events.Error):
    fail(event.error)


@interactions.listen()
async def on_login(_event: interactions.api.events.Login):
    listen({"members": members, "presence": presence, "reconnect": reconnect})


for listener in (on_shard_connect, on_shard_disconnect, on_error, on_login):
    bot.add_listener(listener)


async def members(command):
    await bot.get_guild(command["guild"]).gateway_chunk(wait=False)


async def presence(command):
    await bot.change_presence(command["status"], command["name"])


async def reconnect(command):
    gateway = bot.shards[command["shard"]].gateway
    emit("reconnecting", shard=command["shard"])
    await gateway.reconnect(resume=True, url=gateway.ws_resume_url)


# recipe:start
bot.start(TOKEN)
# recipe:end
