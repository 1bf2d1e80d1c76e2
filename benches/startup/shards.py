"""One process of a bot on discord.py: AutoShardedClient with all shards, or with those that SHARD_IDS lists. It prints a line for
each shard that discord.py calls ready, in the form of the test bots (tests/clients/README.md). With WAIT=no it does not
wait between two IDENTIFYs, which only a proxy allows; otherwise the library waits 5 s before each but the first."""

import json
import os

import discord
import yarl

# The base of the REST API says where the gateway is, unless the number of shards is given: then the library takes a constant.
discord.http.Route.BASE = os.environ["API_URL"] + "/v10"
discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(os.environ["GATEWAY_URL"])


class Bot(discord.AutoShardedClient):
    async def on_shard_ready(self, shard):
        print(json.dumps({"event": "ready", "shard": shard}), flush=True)

    async def on_error(self, event, *_args, **_kwargs):
        print(json.dumps({"event": "error", "message": f"an error in {event}, see the log"}), flush=True)
        await super().on_error(event)

    async def before_identify_hook(self, shard_id, *, initial=False):
        if os.environ.get("WAIT") != "no":
            await super().before_identify_hook(shard_id, initial=initial)


intents = discord.Intents.none()
intents.value = int(os.environ["INTENTS"])
ids = os.environ.get("SHARD_IDS")
shards = {"shard_ids": [int(shard) for shard in ids.split(",")], "shard_count": int(os.environ["TOTAL"])} if ids else {}
Bot(intents=intents, **shards).run(os.environ["TOKEN"])
