'use strict';
const { GATEWAY_URL, TOKEN, SHARDS, INTENTS, emit, fail, listen, shardOf } = require('../common/protocol.js');
const { dispatch } = require('../common/raw_events.js');
const { Logger, LogLevels } = require('seyfert');

// The library logs to standard output, which is for reports.
Logger.customize((logger, level, message) => {
  console.error(logger.name, LogLevels[level], ...message);
  // A connection that the other side has cut is no error of the library: it makes a new one.
  const cut = message.some((part) => ['ECONNRESET', 'ECONNREFUSED'].includes(part?.code));
  if (level >= LogLevels.Error && !cut) fail(message.map(String).join(' '));
});

/** Takes one dispatch of a shard. */
function onPayload(shard, payload) {
  // The library renames the events of guilds that READY has announced.
  dispatch(shard, { ...payload, t: payload.t.replace(/^RAW_/, '') });
}

// recipe:start
const http = require('node:http');
const https = require('node:https');
const { ShardManager } = require('seyfert');

// On Node.js the library opens its gateway with https.request() and names no port, so it can only reach wss:// on port 443.
const { hostname, port } = new URL(GATEWAY_URL);
const { request } = https;
https.request = (options, ...more) =>
  options.hostname === hostname ? http.request({ ...options, port }, ...more) : request(options, ...more);

const gateway = new ShardManager({
  token: TOKEN,
  intents: INTENTS,
  info: {
    url: GATEWAY_URL,
    shards: SHARDS,
    session_start_limit: { total: 1000, remaining: 1000, reset_after: 86400000, max_concurrency: SHARDS },
  },
  handlePayload: onPayload, // it may do nothing: a Client handles payloads by itself
  // recipe:end
  onShardDisconnect: ({ shardId }) => emit('reconnecting', { shard: shardId }),
  // recipe:start
});
// With a Client: client.setServices({ gateway }), then client.start(). On its own:
// recipe:end

listen({
  members: ({ guild }) => gateway.send(shardOf(guild), { op: 8, d: { guild_id: guild, query: '', limit: 0 } }),
  presence: ({ status, name }) => gateway.setPresence({ status, activities: [{ name, type: 0 }], since: null, afk: false }),
  reconnect: ({ shard }) => gateway.get(shard).reconnect().catch(fail),
});

// recipe:start
gateway.spawnShards();
// recipe:end
