//! Close codes of the Gateway and what they ask of the side that receives them
//! (docs: Opcodes and Status Codes, Gateway Close Event Codes).

/// A normal end; a client that sends it gives its session up.
pub const NORMAL: u16 = 1000;
/// The endpoint goes away; a client that sends it gives its session up.
pub const GOING_AWAY: u16 = 1001;
/// "Try reconnecting": the one code that every library answers with a RESUME.
pub const UNKNOWN_ERROR: u16 = 4000;
/// An opcode that does not exist.
pub const UNKNOWN_OPCODE: u16 = 4001;
/// A payload that can not be decoded.
pub const DECODE_ERROR: u16 = 4002;
/// A command before IDENTIFY.
pub const NOT_AUTHENTICATED: u16 = 4003;
/// The token is wrong.
pub const AUTHENTICATION_FAILED: u16 = 4004;
/// A second IDENTIFY.
pub const ALREADY_AUTHENTICATED: u16 = 4005;
/// Too many commands.
pub const RATE_LIMITED: u16 = 4008;
/// The session timed out.
pub const SESSION_TIMED_OUT: u16 = 4009;
/// The `shard` of IDENTIFY is not one that is served here.
pub const INVALID_SHARD: u16 = 4010;

/// What Discord's close of a connection asks of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Reconnect and RESUME.
    Resume,
    /// Reconnect and IDENTIFY: the session is gone.
    Identify,
    /// Do not reconnect: the configuration is wrong.
    Fatal(&'static str),
}

/// The remedy for a close code received from Discord; `None` is a connection that ended without one.
pub fn remedy(code: Option<u16>) -> Remedy {
    match code {
        // 4003 and 4007 mean that Discord knows no session of ours on this connection.
        Some(4003 | 4007 | 4009) => Remedy::Identify,
        Some(4004) => Remedy::Fatal("the token is not valid: set a current one and restart"),
        Some(4010) => Remedy::Fatal("Discord refused the shard: check `shards`, `shard_start` and `shard_end`"),
        Some(4011) => Remedy::Fatal("the bot needs more shards: raise `shards` or remove it"),
        Some(4012) => Remedy::Fatal("Discord no longer accepts this version of the gateway API: update the proxy"),
        Some(4013) => Remedy::Fatal("`intents` has bits that Discord does not know"),
        Some(4014) => {
            Remedy::Fatal("`intents` has privileged intents that are not enabled for the bot in the developer portal")
        }
        _ => Remedy::Resume,
    }
}

/// Does this code from Discord say something about the session, and not only that the connection ends? 4000 ("try
/// reconnecting") and 4008 (too many commands) do not, nor do codes of the WebSocket protocol.
pub fn is_about_session(code: Option<u16>) -> bool {
    matches!(code, Some(4001..=4007 | 4009..=4999))
}

/// Does a client that closes with this code give its session up? (docs: Gateway, Initiating a Disconnect)
pub fn ends_session(code: Option<u16>) -> bool {
    matches!(code, Some(NORMAL | GOING_AWAY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_table() {
        for code in [4000, 4001, 4002, 4005, 4008, 1000, 1001, 1006, 1011] {
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
