'use strict';
const { GATEWAY_URL, TOKEN, SHARDS, INTENTS, COMPRESS, emit, fail, listen, numberOf } = require('../common/protocol.js');

// recipe:start
const { Client } = require('oceanic.js'); // if erlpack is installed, too, the library speaks ETF instead of JSON

const client = new Client({
  auth: `Bot ${TOKEN}`,
  gateway: {
    intents: INTENTS,
    override: {
      getBot: async () => ({ url: GATEWAY_URL, shards: SHARDS, sessionStartLimit: { maxConcurrency: SHARDS } }),
      appendQuery: true, // the library's own: version, encoding and compression
      timeBetweenShardConnects: 0,
    },
    // recipe:end
    // With pako or zstd-napi. With zlib of Node.js itself the library gives its user messages of a connection that it has closed.
    compress: COMPRESS || false,
    // recipe:start
  },
});
// recipe:end

function guild(guild, join) {
  emit('guild', { shard: guild.shard.id, id: guild.id, members: guild.memberCount, unavailable: false, join });
}

// The guilds of READY until the shard is ready: the library does not say on which shard an unavailable guild is, and it says
// that the shard is ready after RESUMED, too.
const announced = new Map();
client.on('packet', ({ t: type, d: data }, shard) => {
  if (type === 'READY') announced.set(shard, data.guilds.map((guild) => guild.id));
});
client.on('shardReady', (shard) => {
  if (!announced.has(shard)) return;
  // Guilds that come before this event have none of their own.
  const up = client.guilds.filter((guild) => guild.shard.id === shard);
  const down = announced.get(shard).filter((id) => client.unavailableGuilds.has(id));
  announced.delete(shard);
  emit('ready', { shard, guilds: [...up.map((guild) => guild.id), ...down] });
  for (const found of up) guild(found, false);
});
client.on('guildAvailable', (found) => guild(found, false));
client.on('guildCreate', (found) => guild(found, true));
client.on('messageCreate', (message) => {
  const n = numberOf(message.content);
  if (n !== null) emit('message', { shard: client.guildShardMap.get(message.guildID), n });
});
client.on('shardResume', (shard) => emit('resumed', { shard }));
client.on('shardDisconnect', (error, shard) => emit('reconnecting', { shard }));
client.on('error', (error, shard) => {
  // A connection that the other side has cut is no error of the library: it makes a new one.
  if (error.code === 'ECONNRESET') console.error(shard, error);
  else fail(error, { shard });
});
client.on('warn', (message, shard) => {
  console.error(shard, message);
  // The library warns of gaps in the sequence and goes on; to the test they are an error.
  if (String(message).includes('Non-consecutive sequence')) fail(message, { shard });
});
client.on('debug', (message, shard) => console.error(shard, message));

/** What the library's cache holds of a guild, in the terms of the harness. */
function view(found) {
  if (!found) return null;
  const names = (all) => Object.fromEntries(all.map((entry) => [entry.id, entry.name]));
  const voice = found.voiceStates.filter((state) => state.channelID);
  return {
    name: found.name,
    channels: names(found.channels),
    roles: names(found.roles),
    members: Object.fromEntries(found.members.map((member) => [member.id, member.nick ?? null])),
    voice: Object.fromEntries(voice.map((state) => [state.userID, state.channelID])),
    threads: names(found.threads),
  };
}

listen({
  cache: ({ guild }) => emit('cache', { guild, view: view(client.guilds.get(guild)) }),
  members: async ({ guild }) => {
    const members = await client.guilds.get(guild).fetchMembers();
    emit('members', { guild, count: members.length });
  },
  presence: ({ status, name }) => client.editStatus(status, [{ name, type: 0 }]),
  reconnect: ({ shard }) => client.shards.get(shard).disconnect(true),
});

// recipe:start
client.connect();
// recipe:end
