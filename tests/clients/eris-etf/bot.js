'use strict';
const { GATEWAY_URL, TOKEN, SHARDS, INTENTS, COMPRESS } = require('../common/protocol.js');
const { watch } = require('../common/eris.js');

// recipe:start
const Eris = require('eris'); // with erlpack installed, the library speaks ETF instead of JSON

const client = new Eris.Client(`Bot ${TOKEN}`, {
  intents: INTENTS,
  maxShards: SHARDS,
  // recipe:end
  compress: COMPRESS === 'zlib-stream',
  // recipe:start
});
client.getGateway = client.getBotGateway = async () => ({
  url: GATEWAY_URL,
  shards: SHARDS,
  session_start_limit: { max_concurrency: 1000 },
});
// recipe:end

watch(client);

// recipe:start
client.connect();
// recipe:end
