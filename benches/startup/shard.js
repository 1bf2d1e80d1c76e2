'use strict';
// One process of a sharded bot on discord.js. Whoever started it (sharding_manager.js, hybrid_sharding.js, or
// scripts/startup-times itself) has put into its environment which shards it runs. It prints a line for each shard that
// discord.js calls ready, in the form of the test bots (tests/clients/README.md).

const { Client } = require('discord.js');

const options = { intents: Number(process.env.INTENTS), rest: { api: process.env.API_URL } };
if (process.env.CLUSTER_MANAGER) {
  const { ClusterClient, getInfo } = require('discord-hybrid-sharding');
  options.shards = getInfo().SHARD_LIST;
  options.shardCount = getInfo().TOTAL_SHARDS;
  const client = new Client(options);
  client.cluster = new ClusterClient(client);
  run(client);
} else {
  // ShardingManager has set SHARDS and SHARD_COUNT, which discord.js reads itself. A bot without a manager has neither of
  // them and asks the REST API how many shards there are.
  if (!process.env.SHARDING_MANAGER) options.shards = 'auto';
  run(new Client(options));
}

function run(client) {
  const say = (report) => process.stdout.write(`${JSON.stringify(report)}\n`);
  client.on('shardReady', (shard) => say({ event: 'ready', shard }));
  client.on('error', (error) => say({ event: 'error', message: String(error) }));
  client.login(process.env.TOKEN).catch((error) => {
    say({ event: 'error', message: String(error) });
    process.exit(1);
  });
}
