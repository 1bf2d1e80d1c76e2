"""What discord.py and its forks have in common: the event names, the member requests, the way to drop a connection.

The forks still share nearly all of their interface with discord.py 1.x; each bot keeps what is its own: the recipe."""

import collections
import logging
import sys
import time

from protocol import HEARTBEAT_MS, INTENTS, emit, fail, listen, number_of


def every_intent(library):
    """The library's own Intents object for the bits that the harness asks for."""
    intents = library.Intents.none()
    intents.value = INTENTS
    return intents


class WarningsThatFail(logging.Handler):
    """Warnings that a user would take for a broken connection are errors to the test."""

    def emit(self, record):
        if "Can't keep up" in record.getMessage():
            fail(record.getMessage())


def view(guild):
    """What the library's cache holds of a guild, in the terms of the harness."""
    if guild is None or guild.unavailable:
        return None
    states = {user: state for user, state in guild._voice_states.items() if state.channel is not None}
    return {
        "name": guild.name,
        "channels": {str(channel.id): channel.name for channel in guild.channels},
        "roles": {str(role.id): role.name for role in guild.roles},
        "members": {str(member.id): member.nick for member in guild.members},
        "voice": {str(user): str(state.channel.id) for user, state in states.items()},
        "threads": {str(thread.id): thread.name for thread in guild.threads},
    }


def watch_heartbeats(library):
    """Lets the library send heartbeats more often than HELLO says, and reports each acknowledgement with the time that it took.
    One that overtakes the library's own note of when it sent the heartbeat is early: the library then takes the whole interval
    for latency."""
    handler = library.gateway.KeepAliveHandler
    init, payload, ack = handler.__init__, handler.get_payload, handler.ack

    def quick(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.interval = HEARTBEAT_MS / 1000
        self.pending = collections.deque()  # when each heartbeat without an acknowledgement was made
        self.count = 0

    def timed(self):
        self.pending.append(time.perf_counter())
        return payload(self)

    def checked(self):
        took = time.perf_counter() - self.pending.popleft()
        ack(self)
        self.count += 1
        # The first heartbeat of a connection comes before IDENTIFY, and the library measures nothing by it.
        if self.count > 1:
            emit("acknowledged", shard=self.shard_id, early=self.latency > self.interval * 0.9, ms=took * 1000)

    handler.__init__, handler.get_payload, handler.ack = quick, timed, checked


def attach(client, library, chunk=lambda guild: guild.chunk()):
    """Makes `client` report its events, and obey the harness's commands once it runs. `chunk` requests all members of a
    guild and returns them."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    logging.getLogger().addHandler(WarningsThatFail())
    # The library calls a shard ready when no guild has come for 2 s. A guild that comes later, while the library still waits
    # for members of the others, is never reported. On a machine that runs other tests as well a process may pause longer.
    client._connection.guild_ready_timeout = 5.0
    if HEARTBEAT_MS:
        watch_heartbeats(library)

    def guild_event(guild, join):
        emit(
            "guild",
            shard=guild.shard_id,
            id=str(guild.id),
            members=guild.member_count,
            unavailable=bool(guild.unavailable),
            join=join,
        )

    async def on_shard_ready(shard_id):
        guilds = [str(guild.id) for guild in client.guilds if guild.shard_id == shard_id]
        emit("ready", shard=shard_id, guilds=guilds)

    async def on_guild_available(guild):
        guild_event(guild, False)

    async def on_guild_join(guild):
        guild_event(guild, True)

    async def on_shard_resumed(shard_id):
        emit("resumed", shard=shard_id)

    async def on_shard_disconnect(shard_id):
        emit("reconnecting", shard=shard_id)

    async def on_error(event, *_args, **_kwargs):
        fail(sys.exc_info()[1], during=event)

    for handler in (
        on_shard_ready,
        on_guild_available,
        on_guild_join,
        on_shard_resumed,
        on_shard_disconnect,
        on_error,
    ):
        client.event(handler)

    async def members(command):
        guild = client.get_guild(int(command["guild"]))
        found = await chunk(guild)
        emit("members", guild=command["guild"], count=len(found))

    async def cache(command):
        emit("cache", guild=command["guild"], view=view(client.get_guild(int(command["guild"]))))

    async def presence(command):
        activity = library.Game(name=command["name"])
        await client.change_presence(status=library.Status(command["status"]), activity=activity)

    async def reconnect(command):
        # The shard's websocket is not public; closing it with 4000 is what the library itself does when it resumes.
        await client.get_shard(command["shard"])._parent.ws.close(4000)

    async def voice(command):
        guild = client.get_guild(int(command["guild"]))
        if command["channel"] is None:
            return await guild.voice_client.disconnect(force=True)
        await guild.get_channel(int(command["channel"])).connect()
        emit("voice", guild=command["guild"], state="connected")

    dispatch = client._connection.dispatch

    def report_and_dispatch(event, *args, **kwargs):
        # Not in on_message: that runs a little later, and if the message has been edited by then it has the new content.
        if event == "message":
            number = number_of(args[0].content)
            if number is not None:
                emit("message", shard=args[0].guild.shard_id, n=number)
        dispatch(event, *args, **kwargs)

    client._connection.dispatch = report_and_dispatch
    login = client.login

    async def login_and_listen(*args, **kwargs):
        commands = {"members": members, "cache": cache, "presence": presence, "reconnect": reconnect}
        listen({**commands, "voice": voice})
        await login(*args, **kwargs)

    client.login = login_and_listen
