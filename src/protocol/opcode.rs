//! Gateway opcodes (docs: Opcodes and Status Codes, Gateway Opcodes).

/// An event; carries a sequence and a type.
pub const DISPATCH: u64 = 0;
/// Keeps a connection alive; either side.
pub const HEARTBEAT: u64 = 1;
/// Starts a session.
pub const IDENTIFY: u64 = 2;
/// Changes the presence of the bot.
pub const PRESENCE_UPDATE: u64 = 3;
/// Joins, moves within or leaves voice.
pub const VOICE_STATE_UPDATE: u64 = 4;
/// Continues a session.
pub const RESUME: u64 = 6;
/// The client should reconnect and resume.
pub const RECONNECT: u64 = 7;
/// Asks for members of a guild.
pub const REQUEST_GUILD_MEMBERS: u64 = 8;
/// The session can not be used; `d` says whether a resume may work.
pub const INVALID_SESSION: u64 = 9;
/// First payload of a connection; carries the heartbeat interval.
pub const HELLO: u64 = 10;
/// Answers a heartbeat.
pub const HEARTBEAT_ACK: u64 = 11;
/// Asks for the soundboard sounds of guilds.
pub const REQUEST_SOUNDBOARD_SOUNDS: u64 = 31;
/// Asks for what channels of a guild say of themselves.
pub const REQUEST_CHANNEL_INFO: u64 = 43;
