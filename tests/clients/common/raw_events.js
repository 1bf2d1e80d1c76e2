'use strict';
// Reports for libraries that hand every dispatch to their user as Discord sent it.

const { emit, numberOf } = require('./protocol.js');

/** The guilds in the READY of each shard. */
const announced = new Map();

/** The members and chunks so far of each guild whose members were asked for. */
const answers = new Map();

/** Takes one dispatch of a shard. */
function dispatch(shard, { t: type, d: data }) {
  switch (type) {
    case 'READY': {
      const guilds = data.guilds.map((guild) => guild.id);
      announced.set(shard, new Set(guilds));
      emit('ready', { shard, guilds });
      break;
    }
    case 'RESUMED':
      emit('resumed', { shard });
      break;
    case 'GUILD_CREATE':
      emit('guild', {
        shard,
        id: data.id,
        members: data.member_count ?? null,
        unavailable: data.unavailable ?? false,
        // How the documentation tells a join from a guild coming up.
        join: !announced.get(shard)?.has(data.id) || data.unavailable === undefined,
      });
      break;
    case 'MESSAGE_CREATE': {
      const n = numberOf(data.content);
      if (n !== null) emit('message', { shard, n });
      break;
    }
    case 'GUILD_MEMBERS_CHUNK': {
      const answer = answers.get(data.guild_id) ?? { members: 0, chunks: 0 };
      answer.members += data.members.length;
      answer.chunks += 1;
      answers.set(data.guild_id, answer);
      if (answer.chunks === data.chunk_count) {
        answers.delete(data.guild_id);
        emit('members', { guild: data.guild_id, count: answer.members });
      }
      break;
    }
  }
}

module.exports = { dispatch };
