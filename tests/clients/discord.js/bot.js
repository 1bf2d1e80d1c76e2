'use strict';
const { GATEWAY_URL, API_URL, LOGIN, TOKEN, SHARDS, INTENTS, emit, fail, listen, numberOf } = require('../common/protocol.js');

// recipe:start
// Take SimpleShardingStrategy from discord.js, too: that of a separate @discordjs/ws works only if it has the same major version.
const { Client, SimpleShardingStrategy } = require('discord.js');

const client = new Client({
  intents: INTENTS,
  ws: {
    buildStrategy: (manager) => {
      manager.fetchGatewayInformation = async () => ({
        url: GATEWAY_URL,
        shards: SHARDS,
        session_start_limit: { total: 1000, remaining: 1000, reset_after: 86400000, max_concurrency: 1000 },
      });
      return new SimpleShardingStrategy(manager);
    },
  },
  // recipe:end
  shards: 'auto',
  rest: { api: API_URL },
  // recipe:start
});
// recipe:end

// The strategy holds the connections; the only way to drop one as a network failure would.
let strategy;
const { buildStrategy } = client.options.ws;
client.options.ws.buildStrategy = (manager) => {
  strategy = LOGIN === 'rest' ? new SimpleShardingStrategy(manager) : buildStrategy(manager);
  return strategy;
};

function guild(guild, join) {
  emit('guild', {
    shard: guild.shardId,
    id: guild.id,
    members: guild.memberCount,
    unavailable: !guild.available,
    join,
  });
}

client.on('shardReady', (shard) => {
  const guilds = client.guilds.cache.filter((guild) => guild.shardId === shard).map((guild) => guild.id);
  emit('ready', { shard, guilds });
});
client.on('guildAvailable', (found) => guild(found, false));
client.on('guildCreate', (found) => guild(found, true));
client.on('messageCreate', (message) => {
  const n = numberOf(message.content);
  if (n !== null) emit('message', { shard: message.guild.shardId, n });
});
client.on('shardResume', (shard) => emit('resumed', { shard }));
client.on('shardReconnecting', (shard) => emit('reconnecting', { shard }));
client.on('shardError', (error, shard) => fail(error, { shard }));
client.on('shardDisconnect', (event, shard) => fail(`gave up after close code ${event.code}`, { shard }));
client.on('error', (error) => fail(error));
client.on('warn', (message) => console.error(message));
client.on('debug', (message) => console.error(message));

/** What the library's cache holds of a guild, in the terms of the harness. */
function view(found) {
  if (!found?.available) return null;
  const channels = found.channels.cache.filter((channel) => !channel.isThread());
  const threads = found.channels.cache.filter((channel) => channel.isThread());
  const voice = found.voiceStates.cache.filter((state) => state.channelId);
  const names = (all) => Object.fromEntries(all.map((entry) => [entry.id, entry.name]));
  return {
    name: found.name,
    channels: names(channels),
    roles: names(found.roles.cache),
    members: Object.fromEntries(found.members.cache.map((member) => [member.id, member.nickname])),
    voice: Object.fromEntries(voice.map((state) => [state.id, state.channelId])),
    threads: names(threads),
  };
}

/** Joins a voice channel, or leaves if there is none, and tells each state of the connection. */
function voice({ guild, channel }) {
  const { getVoiceConnection, joinVoiceChannel } = require('@discordjs/voice');
  if (!channel) return getVoiceConnection(guild).destroy();
  const { voiceAdapterCreator } = client.guilds.cache.get(guild);
  const connection = joinVoiceChannel({ guildId: guild, channelId: channel, adapterCreator: voiceAdapterCreator, debug: true });
  connection.on('debug', (message) => console.error(message));
  connection.on('error', (error) => fail(error));
  connection.on('stateChange', (before, { status }) => {
    if (status !== before.status) emit('voice', { guild, state: status === 'ready' ? 'connected' : status });
  });
}

listen({
  voice,
  cache: ({ guild }) => emit('cache', { guild, view: view(client.guilds.cache.get(guild)) }),
  members: async ({ guild }) => {
    const members = await client.guilds.cache.get(guild).members.fetch();
    emit('members', { guild, count: members.size });
  },
  presence: ({ status, name }) => client.user.setPresence({ status, activities: [{ name }] }),
  reconnect: ({ shard }) => strategy.shards.get(shard).destroy({ code: 4200, reason: 'asked to', recover: 1 }),
});

client.login(TOKEN).catch((error) => {
  fail(error);
  process.exit(1);
});
