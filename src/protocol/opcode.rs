//! Gateway opcodes (docs: Opcodes and Status Codes, Gateway Opcodes). Plain numbers, because the configuration can list
//! opcodes that are not listed here.

use twilight_model::gateway::OpCode;

/// Dispatches an event. The payload has a sequence and a type.
pub const DISPATCH: u64 = OpCode::Dispatch as u64;
/// Keeps a connection alive. Either side may send it.
pub const HEARTBEAT: u64 = OpCode::Heartbeat as u64;
/// The client starts a session.
pub const IDENTIFY: u64 = OpCode::Identify as u64;
/// The client changes the presence of the bot.
pub const PRESENCE_UPDATE: u64 = OpCode::PresenceUpdate as u64;
/// The client joins, leaves, or moves between voice channels.
pub const VOICE_STATE_UPDATE: u64 = OpCode::VoiceStateUpdate as u64;
/// The client resumes a session.
pub const RESUME: u64 = OpCode::Resume as u64;
/// The server asks the client to reconnect and resume.
pub const RECONNECT: u64 = OpCode::Reconnect as u64;
/// The client requests members of a guild.
pub const REQUEST_GUILD_MEMBERS: u64 = OpCode::RequestGuildMembers as u64;
/// The server says that the session is invalid; `d` says whether the client may resume it.
pub const INVALID_SESSION: u64 = OpCode::InvalidSession as u64;
/// The first payload of the server on a connection. Its data has the heartbeat interval.
pub const HELLO: u64 = OpCode::Hello as u64;
/// The server acknowledges a heartbeat.
pub const HEARTBEAT_ACK: u64 = OpCode::HeartbeatAck as u64;
/// The client requests the soundboard sounds of guilds.
pub const REQUEST_SOUNDBOARD_SOUNDS: u64 = 31;
/// The client requests the status and the start of the voice session of a guild's channels.
pub const REQUEST_CHANNEL_INFO: u64 = 43;
