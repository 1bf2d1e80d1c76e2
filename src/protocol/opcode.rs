//! Gateway opcodes (docs: Opcodes and Status Codes, Gateway Opcodes). Plain numbers, because opcodes that are not
//! listed here are relayed too.

/// Dispatches an event. The payload has a sequence and a type.
pub const DISPATCH: u64 = 0;
/// Keeps a connection alive. Either side may send it.
pub const HEARTBEAT: u64 = 1;
/// The client starts a session.
pub const IDENTIFY: u64 = 2;
/// The client changes the presence of the bot.
pub const PRESENCE_UPDATE: u64 = 3;
/// The client joins, leaves, or moves between voice channels.
pub const VOICE_STATE_UPDATE: u64 = 4;
/// The client resumes a session.
pub const RESUME: u64 = 6;
/// The server asks the client to reconnect and resume.
pub const RECONNECT: u64 = 7;
/// The client requests members of a guild.
pub const REQUEST_GUILD_MEMBERS: u64 = 8;
/// The server says that the session is invalid; `d` says whether the client may resume it.
pub const INVALID_SESSION: u64 = 9;
/// The first payload of the server on a connection. Its data has the heartbeat interval.
pub const HELLO: u64 = 10;
/// The server acknowledges a heartbeat.
pub const HEARTBEAT_ACK: u64 = 11;
