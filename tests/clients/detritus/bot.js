'use strict';
const { GATEWAY_URL, TOKEN, SHARDS, INTENTS, COMPRESS, emit, fail, listen, shardOf } = require('../common/protocol.js');
const { dispatch } = require('../common/raw_events.js');

// recipe:start
const { Gateway } = require('detritus-client-socket'); // if erlpack is installed, too, it speaks ETF instead of JSON

const shards = Array.from({ length: SHARDS }, (_, shardId) => new Gateway.Socket(TOKEN, {
  intents: INTENTS,
  shardCount: SHARDS,
  shardId,
  // recipe:end
  compress: COMPRESS !== 'none',
  reconnectDelay: 500, // 5 s, the default, would only make the test longer
  // recipe:start
}));
// recipe:end

for (const [shard, socket] of shards.entries()) {
  socket.on('packet', (payload) => {
    if (payload.op === 0) dispatch(shard, payload);
  });
  socket.on('close', ({ code }) => emit('reconnecting', { shard, code }));
  socket.on('killed', ({ error }) => fail(error ?? 'gave up', { shard }));
  socket.on('warn', (error) => {
    // A connection that the other side has cut is no error of the library: it makes a new one.
    if (['ECONNRESET', 'ECONNREFUSED'].includes(error.code)) console.error(shard, error);
    else fail(error, { shard });
  });
  socket.on('state', ({ state }) => console.error(shard, state));
}

listen({
  members: ({ guild }) => shards[shardOf(guild)].requestGuildMembers(guild, { limit: 0, query: '' }),
  presence: ({ status, name }) => {
    for (const socket of shards) socket.setPresence({ status, activity: { name, type: 0 } });
  },
  reconnect: ({ shard }) => shards[shard].socket.close(4000, 'asked to'),
});

// recipe:start
for (const socket of shards) socket.connect(GATEWAY_URL);
// recipe:end
