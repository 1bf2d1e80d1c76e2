'use strict';
// discord.js' ShardingManager: a process for each shard. With WAIT=no the processes start at once, which only a proxy allows;
// otherwise as the library does it by itself: one process after the other, each when the one before is ready, and
// 5.5 s apart at least.

const path = require('node:path');
const { ShardingManager } = require('discord.js');

// The manager asks https://discord.com for the number of shards, whatever REST base the bot has: so it has to be given.
const manager = new ShardingManager(path.join(__dirname, 'shard.js'), {
  totalShards: Number(process.env.TOTAL),
  token: process.env.TOKEN,
  respawn: false,
});
// The library gives up after 30 s without a ready shard, which a machine that does other things as well can exceed.
const options = process.env.WAIT === 'no' ? { delay: 0, timeout: -1 } : { timeout: 300_000 };
manager.spawn(options).catch((error) => {
  process.stdout.write(`${JSON.stringify({ event: 'error', message: String(error) })}\n`);
});
