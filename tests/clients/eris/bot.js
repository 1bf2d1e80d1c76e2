'use strict';
const { GATEWAY_URL, TOKEN, SHARDS, INTENTS } = require('../common/protocol.js');
const { watch } = require('../common/eris.js');

// recipe:start
const Eris = require('eris'); // and not erlpack, which the library would use instead of JSON

const client = new Eris.Client(`Bot ${TOKEN}`, {
  intents: INTENTS,
  maxShards: SHARDS,
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
