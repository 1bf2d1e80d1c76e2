'use strict';
// discord-hybrid-sharding: four shards to a process. With WAIT=no the processes start at once, which only a proxy allows;
// otherwise as the library does it by itself: the next process 7 s later for each shard of the one before.

const path = require('node:path');
const { ClusterManager } = require('discord-hybrid-sharding');

// The manager asks https://discord.com for the number of shards, whatever REST base the bot has: so it has to be given.
const manager = new ClusterManager(path.join(__dirname, 'shard.js'), {
  totalShards: Number(process.env.TOTAL),
  shardsPerClusters: 4,
  token: process.env.TOKEN,
  respawn: false,
});
const options = process.env.WAIT === 'no' ? { delay: 0, timeout: -1 } : {};
manager.spawn({ amount: Number(process.env.TOTAL), ...options }).catch((error) => {
  process.stdout.write(`${JSON.stringify({ event: 'error', message: String(error) })}\n`);
});
