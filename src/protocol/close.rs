//! The Gateway's close codes, and what the receiver of each code has to do (docs: Opcodes and Status Codes, Gateway
//! Close Event Codes).
//!
//! Owns the table of codes; [`Close`] has the reasons for which the proxy closes its clients. Promises: every code,
//! known or unknown, has an answer. Never sends or receives anything.

pub use super::client_close::{Close, FatalClose};
use twilight_model::gateway::CloseCode;

/// The connection ends normally. A client that closes with this code gives its session up.
pub const NORMAL: u16 = 1000;
/// The endpoint is going away. A client that closes with this code gives its session up.
pub const GOING_AWAY: u16 = 1001;
/// "Try reconnecting": the only code that every client library answers with a RESUME.
pub const UNKNOWN_ERROR: u16 = CloseCode::UnknownError as u16;
/// The peer sent an opcode that does not exist.
pub const UNKNOWN_OPCODE: u16 = CloseCode::UnknownOpcode as u16;
/// The peer sent a payload that can not be decoded.
pub const DECODE_ERROR: u16 = CloseCode::DecodeError as u16;
/// The client sent a command before its IDENTIFY.
pub const NOT_AUTHENTICATED: u16 = CloseCode::NotAuthenticated as u16;
/// The token of an IDENTIFY or RESUME is wrong.
pub const AUTHENTICATION_FAILED: u16 = CloseCode::AuthenticationFailed as u16;
/// The client sent a second IDENTIFY on one connection.
pub const ALREADY_AUTHENTICATED: u16 = CloseCode::AlreadyAuthenticated as u16;
/// The client sent too many commands.
pub const RATE_LIMITED: u16 = CloseCode::RateLimited as u16;
/// The session timed out.
pub const SESSION_TIMED_OUT: u16 = CloseCode::SessionTimedOut as u16;
/// The `shard` of an IDENTIFY names a shard that this server does not serve.
pub const INVALID_SHARD: u16 = CloseCode::InvalidShard as u16;

/// What the proxy has to do after Discord has closed the connection of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Reconnect and RESUME.
    Resume,
    /// Reconnect and IDENTIFY, because Discord has ended the session.
    Identify,
    /// Do not reconnect: the configuration is wrong. The text tells the operator what to change.
    Fatal(&'static str),
}

/// Maps a close code from Discord to the proxy's reaction. `None` stands for a connection that ended without a close
/// frame.
pub fn remedy(code: Option<u16>) -> Remedy {
    // A code that is unknown here does not end the session: a RESUME finds out.
    let Some(known) = code.and_then(|code| CloseCode::try_from(code).ok()) else { return Remedy::Resume };
    match known {
        // After NotAuthenticated and InvalidSequence Discord has no session on this connection.
        CloseCode::NotAuthenticated | CloseCode::InvalidSequence | CloseCode::SessionTimedOut => Remedy::Identify,
        CloseCode::AuthenticationFailed => Remedy::Fatal("the token is not valid: set a current one and restart"),
        CloseCode::InvalidShard => {
            Remedy::Fatal("Discord refused the shard: check `shards`, `shard_start` and `shard_end`")
        }
        CloseCode::ShardingRequired => Remedy::Fatal("the bot needs more shards: raise `shards` or remove it"),
        CloseCode::InvalidApiVersion => {
            Remedy::Fatal("Discord no longer accepts this version of the gateway API: update the proxy")
        }
        CloseCode::InvalidIntents => Remedy::Fatal("`intents` has bits that Discord does not know"),
        CloseCode::DisallowedIntents => {
            Remedy::Fatal("`intents` has privileged intents that are not enabled for the bot in the developer portal")
        }
        _ => Remedy::Resume,
    }
}

/// Says whether a close code from Discord is about the session rather than about the connection only. Codes of the
/// WebSocket protocol, 4000 ("try reconnecting") and 4008 (too many commands) concern the connection only.
pub fn is_about_session(code: Option<u16>) -> bool {
    matches!(code, Some(4001..=4007 | 4009..=4999))
}

/// Says whether a client that closes its connection with this code gives its session up (docs: Gateway, Initiating a
/// Disconnect).
pub fn ends_session(code: Option<u16>) -> bool {
    matches!(code, Some(NORMAL | GOING_AWAY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_table() {
        for code in [4000, 4001, 4002, 4005, 4006, 4008, 4015, 4900, 1000, 1001, 1006, 1011] {
            assert_eq!(remedy(Some(code)), Remedy::Resume, "{code}");
        }
        assert_eq!(remedy(None), Remedy::Resume);
        for code in [4003, 4007, 4009] {
            assert_eq!(remedy(Some(code)), Remedy::Identify, "{code}");
        }
        for code in [4004, 4010, 4011, 4012, 4013, 4014] {
            assert!(matches!(remedy(Some(code)), Remedy::Fatal(_)), "{code}");
        }
    }

    #[test]
    fn a_code_of_the_gateway_is_about_the_session() {
        for code in [4001, 4005, 4006, 4009] {
            assert!(is_about_session(Some(code)), "{code}");
        }
        for code in [None, Some(1000), Some(1006), Some(1012), Some(4000), Some(4008)] {
            assert!(!is_about_session(code), "{code:?}");
        }
    }

    #[test]
    fn only_1000_and_1001_end_a_session() {
        assert!(ends_session(Some(1000)) && ends_session(Some(1001)));
        for code in [None, Some(1012), Some(3000), Some(4000), Some(4200), Some(4901)] {
            assert!(!ends_session(code));
        }
    }
}
