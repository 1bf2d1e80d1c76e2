'use strict';
const { GATEWAY_URL, TOKEN, SHARDS, INTENTS, COMPRESS, emit, fail, listen, shardOf } = require('../common/protocol.js');
const { CompressionMethod } = require('@discordjs/ws');
const { dispatch } = require('../common/raw_events.js');

// recipe:start
// For bots without discord.js. discord.js brings a copy of this package, perhaps of another major version: import from there.
const { WebSocketManager, WebSocketShardEvents } = require('@discordjs/ws');

const gateway = {
  url: GATEWAY_URL,
  shards: SHARDS,
  session_start_limit: { total: 1000, remaining: 1000, reset_after: 86400000, max_concurrency: 1000 },
};
const manager = new WebSocketManager({
  token: TOKEN,
  intents: INTENTS,
  rest: { get: async () => gateway }, // all that the library asks of REST is GET /gateway/bot
  // recipe:end
  compression: { 'zlib-stream': CompressionMethod.ZlibNative, 'zlib-sync': CompressionMethod.ZlibSync }[COMPRESS] ?? null,
  // recipe:start
});
// recipe:end

manager.on(WebSocketShardEvents.Dispatch, (payload, shard) => dispatch(shard, payload));
manager.on(WebSocketShardEvents.Closed, (code, shard) => emit('reconnecting', { shard }));
manager.on(WebSocketShardEvents.Error, (error, shard) => fail(error, { shard }));
manager.on(WebSocketShardEvents.SocketError, (error, shard) => fail(error, { shard }));
manager.on(WebSocketShardEvents.Debug, (message, shard) => console.error(shard, message));

listen({
  members: ({ guild }) => manager.send(shardOf(guild), { op: 8, d: { guild_id: guild, query: '', limit: 0 } }),
  presence: async ({ status, name }) => {
    const d = { status, activities: [{ name, type: 0 }], since: null, afk: false };
    for (let shard = 0; shard < SHARDS; shard += 1) await manager.send(shard, { op: 3, d });
  },
  reconnect: async ({ shard }) => {
    const one = manager.strategy.shards.get(shard);
    const { connection, nativeInflate } = one;
    if (nativeInflate) {
      // What is still being decompressed when the library sends RESUME would come twice.
      connection.pause();
      await new Promise((done) => nativeInflate.flush(done));
    }
    const destroyed = one.destroy({ code: 4200, reason: 'asked to', recover: 1 });
    connection.resume();
    await destroyed;
  },
});

// recipe:start
manager.connect();
// recipe:end
