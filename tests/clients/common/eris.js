'use strict';
// What the bots of eris share: everything but how the library is set up.

const Eris = require('eris');
const { emit, fail, listen, numberOf } = require('./protocol.js');

/** Reports what the client tells its user, and does what the harness asks for. */
function watch(client) {
  function guild(guild, join) {
    emit('guild', { shard: guild.shard.id, id: guild.id, members: guild.memberCount, unavailable: false, join });
  }

  // The guilds of READY until the shard is ready: the library does not say on which shard an unavailable guild is.
  const announced = new Map();
  client.on('rawWS', ({ t: type, d: data }, shard) => {
    if (type === 'READY') announced.set(shard, data.guilds.map((guild) => guild.id));
  });
  client.on('shardReady', (shard) => {
    // Guilds that come before this event have none of their own.
    const up = client.guilds.filter((guild) => guild.shard.id === shard);
    const down = announced.get(shard).filter((id) => client.unavailableGuilds.has(id));
    emit('ready', { shard, guilds: [...up.map((guild) => guild.id), ...down] });
    for (const found of up) guild(found, false);
  });
  client.on('guildAvailable', (found) => guild(found, false));
  client.on('guildCreate', (found) => guild(found, true));
  client.on('messageCreate', (message) => {
    const n = numberOf(message.content);
    if (n !== null) emit('message', { shard: client.guildShardMap[message.guildID], n });
  });
  client.on('shardResume', (shard) => emit('resumed', { shard }));
  client.on('shardDisconnect', (error, shard) => emit('reconnecting', { shard }));
  client.on('error', (error, shard) => {
    // A connection that the other side has cut is no error of the library: it makes a new one.
    if (error.code === 1006) console.error(shard, error);
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
    const names = (all) => Object.fromEntries([...all.values()].map((entry) => [entry.id, entry.name]));
    const voice = [...found.voiceStates.values()].filter((state) => state.channelID);
    return {
      name: found.name,
      channels: names(found.channels),
      roles: names(found.roles),
      members: Object.fromEntries([...found.members.values()].map((member) => [member.id, member.nick ?? null])),
      voice: Object.fromEntries(voice.map((state) => [state.id, state.channelID])),
      threads: names(found.threads),
    };
  }

  /** Joins a voice channel, or leaves if there is none, and tells when the connection is there and when it is gone. */
  async function voice({ guild, channel }) {
    if (!channel) return client.voiceConnections.leave(guild);
    // The simulator's roles are random; whether the bot may join is Discord's to say.
    client.getChannel(channel).permissionsOf = () => ({ allow: Eris.Constants.Permissions.voiceConnect });
    const connection = await client.joinVoiceChannel(channel, { opusOnly: true });
    connection.on('debug', (message) => console.error(message));
    connection.on('error', (error) => fail(error));
    connection.on('disconnect', () => emit('voice', { guild, state: 'disconnected' }));
    emit('voice', { guild, state: 'connected' });
  }

  listen({
    voice,
    cache: ({ guild }) => emit('cache', { guild, view: view(client.guilds.get(guild)) }),
    members: async ({ guild }) => {
      const members = await client.guilds.get(guild).fetchMembers();
      emit('members', { guild, count: members.length });
    },
    presence: ({ status, name }) => client.editStatus(status, [{ name, type: 0 }]),
    reconnect: ({ shard }) => client.shards.get(shard).disconnect({ reconnect: 'auto' }),
  });
}

module.exports = { watch };
