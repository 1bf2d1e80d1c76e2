import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "common"))

from protocol import (
    API_URL,
    COMPRESS,
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

if COMPRESS == "zlib-stream":
    # With backports.zstd importable the library asks for zstd-stream, without it for zlib-stream: make it not importable.
    sys.modules["backports.zstd"] = None
    sys.modules["compression.zstd"] = None

# recipe:start
import hikari

fetch_gateway_bot_info = hikari.impl.RESTClientImpl.fetch_gateway_bot_info


async def through_the_proxy(self):
    info = await fetch_gateway_bot_info(self)
    info.url = GATEWAY_URL
    info.session_start_limit.max_concurrency = 1000  # all shards at once
    return info


hikari.impl.RESTClientImpl.fetch_gateway_bot_info = through_the_proxy

bot = hikari.GatewayBot(
    TOKEN,
    intents=hikari.Intents(INTENTS),
    # recipe:end
    banner=None,
    logs=None,
    rest_url=f"{API_URL}/v10",
    # recipe:start
)
# recipe:end
logging.basicConfig(stream=sys.stderr, level=logging.INFO)
chunks = Chunks()


@bot.listen()
async def on_starting(_event: hikari.StartingEvent) -> None:
    listen({"members": members, "cache": cache, "presence": presence, "reconnect": reconnect})


@bot.listen()
async def on_ready(event: hikari.ShardReadyEvent) -> None:
    emit("ready", shard=event.shard.id, guilds=[str(guild) for guild in event.unavailable_guilds])


def guild_event(event, join):
    emit(
        "guild",
        shard=event.shard.id,
        id=str(event.guild.id),
        members=event.guild.member_count,
        unavailable=False,
        join=join,
    )


@bot.listen()
async def on_guild_available(event: hikari.GuildAvailableEvent) -> None:
    guild_event(event, False)


@bot.listen()
async def on_guild_join(event: hikari.GuildJoinEvent) -> None:
    guild_event(event, True)


@bot.listen()
async def on_message(event: hikari.GuildMessageCreateEvent) -> None:
    number = number_of(event.content)
    if number is not None:
        emit("message", shard=event.shard.id, n=number)


@bot.listen()
async def on_chunk(event: hikari.MemberChunkEvent) -> None:
    chunks.chunk(event.guild_id, len(event.members), event.chunk_count)


@bot.listen()
async def on_resumed(event: hikari.ShardResumedEvent) -> None:
    emit("resumed", shard=event.shard.id)


@bot.listen()
async def on_disconnected(event: hikari.ShardDisconnectedEvent) -> None:
    emit("reconnecting", shard=event.shard.id)


@bot.listen()
async def on_exception(event: hikari.ExceptionEvent) -> None:
    fail(event.exception)


async def members(command):
    await bot.request_guild_members(int(command["guild"]))


def view(guild):
    """What the library's cache holds of a guild, in the terms of the harness."""
    found = bot.cache.get_available_guild(guild)
    if found is None:
        return None
    states = bot.cache.get_voice_states_view_for_guild(guild).items()
    return {
        "name": found.name,
        "channels": {str(i): channel.name for i, channel in bot.cache.get_guild_channels_view_for_guild(guild).items()},
        "roles": {str(i): role.name for i, role in bot.cache.get_roles_view_for_guild(guild).items()},
        "members": {str(i): member.nickname for i, member in bot.cache.get_members_view_for_guild(guild).items()},
        "voice": {str(i): str(state.channel_id) for i, state in states},
        "threads": {str(i): thread.name for i, thread in bot.cache.get_threads_view_for_guild(guild).items()},
    }


async def cache(command):
    emit("cache", guild=command["guild"], view=view(hikari.Snowflake(command["guild"])))


async def presence(command):
    await bot.update_presence(status=hikari.Status(command["status"]), activity=hikari.Activity(name=command["name"]))


async def reconnect(command):
    # As a network failure would. A close frame from here would race with the library's own, which may then end the session.
    bot.shards[command["shard"]]._ws._ws._response.connection.transport.abort()


# recipe:start
bot.run(shard_count=SHARDS)
# recipe:end
