"""The protocol between a test bot and the harness, for the bots written in Python: what a bot is told by its environment,
the JSON lines that it prints, and the JSON lines that it reads. See ../README.md."""

import asyncio
import json
import os
import re
import sys
import threading
import traceback


def _required(name):
    value = os.environ.get(name)
    if not value:
        sys.exit(f"the environment variable {name} is not set; tests/clients/README.md lists all of them")
    return value


GATEWAY_URL = _required("GATEWAY_URL")
API_URL = _required("API_URL")
TOKEN = _required("TOKEN")
SHARDS = int(_required("SHARDS"))
INTENTS = int(os.environ.get("INTENTS", 53608447))
HEARTBEAT_MS = int(os.environ.get("HEARTBEAT_MS", 0))
COMPRESS = os.environ.get("COMPRESS", "")

_NUMBER = re.compile(r"n:(\d+)")


def emit(event, **fields):
    """Prints one event as one line."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def fail(error, **fields):
    """Tells the harness of something that should not happen."""
    if isinstance(error, BaseException):
        traceback.print_exception(type(error), error, error.__traceback__)
        error = f"{type(error).__name__}: {error}"
    emit("error", message=str(error), **fields)


def number_of(content):
    """The number k of a message whose content is `n:<k>`, perhaps with padding behind it; else None."""
    found = _NUMBER.match(content or "")
    return int(found.group(1)) if found else None


def shard_of(guild):
    """The shard that Discord assigns a guild to."""
    return (int(guild) >> 22) % SHARDS


class Chunks:
    """Collects GUILD_MEMBERS_CHUNK events for libraries that do not do it themselves."""

    def __init__(self):
        self._sums = {}

    def chunk(self, guild, members, count):
        """Takes one chunk; with the last one of an answer, the harness is told the sum."""
        total, chunks = self._sums.pop(guild, (0, 0))
        total, chunks = total + members, chunks + 1
        if chunks == count:
            emit("members", guild=str(guild), count=total)
        else:
            self._sums[guild] = (total, chunks)


def listen(handlers):
    """Reads commands for ever, in a thread, and runs the coroutine function of that name with the command in the running
    event loop. The end of standard input means that the harness is gone: the bot ends too."""
    loop = asyncio.get_running_loop()
    running = set()  # the loop itself holds its tasks weakly

    async def run(line):
        try:
            command = json.loads(line)
            await handlers[command["cmd"]](command)
        except Exception as error:  # whatever it is, the harness has to hear of it
            fail(error)

    def start(line):
        task = loop.create_task(run(line))
        running.add(task)
        task.add_done_callback(running.discard)

    def read():
        for line in sys.stdin:
            if json.loads(line).get("cmd") == "exit":
                break
            loop.call_soon_threadsafe(start, line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
