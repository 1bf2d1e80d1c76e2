'use strict';
const { GATEWAY_URL, TOKEN, SHARDS, INTENTS, COMPRESS, emit, fail, listen } = require('../common/protocol.js');
const { dispatch } = require('../common/raw_events.js');

// recipe:start
const { createGatewayManager } = require('@discordeno/gateway');

const gateway = createGatewayManager({
  token: TOKEN,
  intents: INTENTS,
  connection: {
    url: GATEWAY_URL,
    shards: SHARDS,
    sessionStartLimit: { total: 1000, remaining: 1000, resetAfter: 86400000, maxConcurrency: SHARDS },
  },
  resharding: { enabled: false },
  // recipe:end
  transportCompression: COMPRESS === 'none' || COMPRESS === '' ? null : COMPRESS,
  preferSnakeCase: true,
  events: {
    message: (shard, payload) => dispatch(shard.id, payload),
    disconnected: (shard) => emit('reconnecting', { shard: shard.id }),
    invalidSession: (shard, resumable) => console.error(shard.id, 'invalid session, resumable:', resumable),
  },
  logger: {
    debug: (...message) => console.error(...message),
    info: (...message) => console.error(...message),
    warn: (...message) => console.error(...message),
    error: (...message) => fail(message.join(' ')),
    fatal: (...message) => fail(message.join(' ')),
  },
  // recipe:start
});
// recipe:end

listen({
  members: ({ guild }) => gateway.requestMembers(guild, { limit: 0 }),
  presence: ({ status, name }) => gateway.editBotStatus({ status, activities: [{ name, type: 0 }] }),
  reconnect: ({ shard }) => gateway.shards.get(shard).socket.close(4000, 'asked to'),
});

// recipe:start
gateway.spawnShards();
// recipe:end
