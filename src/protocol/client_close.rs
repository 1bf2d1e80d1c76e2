//! Why the proxy closes a client's connection: each reason with its close code and its text.
//!
//! Promises: two different reasons are two different values, so code that counts or logs closes looks at the reason and
//! never at its text. Texts are constants, so none can have a token in it. Never sends anything.

use super::{
    close::{
        ALREADY_AUTHENTICATED, AUTHENTICATION_FAILED, DECODE_ERROR, INVALID_SHARD, NOT_AUTHENTICATED, RATE_LIMITED,
        SESSION_TIMED_OUT, UNKNOWN_ERROR, UNKNOWN_OPCODE,
    },
    command_check::CommandError,
    etf::Unreadable,
};

/// Discord has closed a shard for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FatalClose {
    /// Discord's close code.
    pub code: u16,
    /// What the operator has to change.
    pub advice: &'static str,
}

/// Why the proxy closes a client's connection. As an error of a function: the caller has to close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.reason())]
pub enum Close {
    /// The client has closed the connection. The close frame repeats its code and has no text.
    Answer(u16),

    // ---- what the client has sent ----
    /// A message is longer than a command may be.
    TooLong,
    /// A message of text is not UTF-8.
    NotUtf8,
    /// The client broke another rule of RFC 6455; the code is the one of its section 7.4.1.
    Violation(u16),
    /// A message is not a term of ETF that stands for JSON.
    NotTerm(Unreadable),
    /// A payload has no opcode.
    NoOpcode,
    /// An IDENTIFY, a RESUME or another payload before them has not the documented form.
    Undocumented,
    /// The data of a command is not as documented. The proxy has not sent the command: Discord could not read it and
    /// would close the shard's connection.
    Command(CommandError),
    /// Discord has closed the shard's connection, because it does not know the opcode of the client's last command.
    OpcodeRefused,
    /// Discord has closed the shard's connection, because it could not read the client's last command.
    CommandRefused,
    /// The client has sent more commands than Discord allows a shard.
    TooManyCommands,
    /// The queue of commands for Discord is full.
    CommandsWaiting,
    /// The client has too many requests for members under way.
    RequestsWaiting,

    // ---- who the client is ----
    /// The client has sent a command before its IDENTIFY.
    NotIdentified,
    /// The token of an IDENTIFY or RESUME is not that of the proxy or of a client of `clients`.
    WrongToken,
    /// The operator has revoked the client's credential, or changed its secret.
    Revoked,
    /// The client has sent another IDENTIFY or RESUME on the connection.
    AlreadyIdentified,
    /// The client has not identified in time.
    NoIdentify,
    /// The client has sent too many RESUMEs of sessions that do not exist.
    NoSession,
    /// The number of shards in an IDENTIFY is not the bot's.
    WrongShardCount,
    /// Another proxy serves the shard of an IDENTIFY, or none does.
    ShardNotHere,
    /// The client's credential does not allow the shard.
    ShardNotCovered,

    // ---- room ----
    /// The shard has as many clients as it may have.
    ShardFull,
    /// All clients together use `client_memory`.
    MemoryUsedUp,
    /// The clients of one address use `client_memory_per_address`.
    AddressMemoryUsedUp,

    // ---- the session ----
    /// The shard does not know the session any more.
    SessionEnded,
    /// The session can not be resumed. Invalid Session can not be sent, because a large message is only half sent on
    /// this connection.
    SessionInvalid,
    /// The client is so slow that the log has dropped events which it has not received.
    Lagged,
    /// The client has sent no heartbeat for too long.
    Silent,
    /// The session has a newer connection.
    Superseded,

    // ---- the proxy and Discord ----
    /// The proxy stops, and the client has no session yet.
    Stopping,
    /// The proxy stops, and the client's session can be resumed.
    Restarting,
    /// Discord has closed the shard for good.
    Fatal(FatalClose),
}

impl Close {
    /// The close code (docs: Opcodes and Status Codes, Gateway Close Event Codes).
    pub fn code(self) -> u16 {
        self.code_and_reason().0
    }

    /// The text of the close frame.
    pub fn reason(self) -> &'static str {
        self.code_and_reason().1
    }

    fn code_and_reason(self) -> (u16, &'static str) {
        match self {
            Self::Answer(code) => (code, ""),
            Self::TooLong => (DECODE_ERROR, "payload longer than 4096 bytes"),
            Self::NotUtf8 => (1007, "text is not UTF-8"),
            Self::Violation(code) => (code, "WebSocket protocol violated"),
            Self::NotTerm(unreadable) => (DECODE_ERROR, unreadable.0),
            Self::NoOpcode => (DECODE_ERROR, "not a JSON payload with an op"),
            Self::Undocumented => (DECODE_ERROR, "not a payload of the documented form"),
            Self::Command(error) => (DECODE_ERROR, error.text()),
            Self::OpcodeRefused => (UNKNOWN_OPCODE, "Discord does not know the opcode of the last command"),
            Self::CommandRefused => (DECODE_ERROR, "Discord could not read the last command"),
            Self::TooManyCommands => (RATE_LIMITED, "more than 120 commands in 60 seconds"),
            Self::CommandsWaiting => (RATE_LIMITED, "too many commands are waiting for Discord"),
            Self::RequestsWaiting => (RATE_LIMITED, "too many requests for members are not answered yet"),
            Self::NotIdentified => (NOT_AUTHENTICATED, "a command before IDENTIFY"),
            Self::WrongToken => (AUTHENTICATION_FAILED, "the token is not the one of this proxy"),
            Self::Revoked => (AUTHENTICATION_FAILED, "the credential of this client was revoked"),
            Self::AlreadyIdentified => (ALREADY_AUTHENTICATED, "already identified on this connection"),
            Self::NoIdentify => (SESSION_TIMED_OUT, "no IDENTIFY in 60 seconds"),
            Self::NoSession => (SESSION_TIMED_OUT, "no session that can be resumed: identify on a new connection"),
            Self::WrongShardCount => {
                (INVALID_SHARD, "wrong number of shards: GET /shard-count tells how many there are")
            }
            Self::ShardNotHere => (INVALID_SHARD, "this shard is not served here"),
            Self::ShardNotCovered => (INVALID_SHARD, "the credential of this client does not cover this shard"),
            Self::ShardFull => (RATE_LIMITED, "too many clients on this shard"),
            Self::MemoryUsedUp => (RATE_LIMITED, "the memory for clients (`client_memory`) is used up"),
            Self::AddressMemoryUsedUp => {
                (RATE_LIMITED, "the memory for one address (`client_memory_per_address`) is used up")
            }
            Self::SessionEnded => (UNKNOWN_ERROR, "the session has ended"),
            Self::SessionInvalid => (UNKNOWN_ERROR, "the session is no longer valid"),
            Self::Lagged => (UNKNOWN_ERROR, "too slow: events were dropped, reconnect"),
            Self::Silent => (UNKNOWN_ERROR, "no heartbeat: reconnect and resume"),
            Self::Superseded => (UNKNOWN_ERROR, "resumed on another connection"),
            Self::Stopping => (UNKNOWN_ERROR, "the proxy restarts"),
            Self::Restarting => (UNKNOWN_ERROR, "restarting: reconnect and resume"),
            Self::Fatal(fatal) => (fatal.code, fatal.advice),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_close_is_its_reason_and_fits_into_a_close_frame() {
        for close in [
            Close::Command(CommandError::GuildMembers),
            Close::NoSession,
            Close::WrongShardCount,
            Close::AddressMemoryUsedUp,
            Close::Fatal(FatalClose { code: 4014, advice: "enable the intents" }),
        ] {
            assert_eq!(close.to_string(), close.reason());
            // RFC 6455 section 5.5: 125 bytes at most, of which the code takes two.
            assert!(close.reason().len() <= 123, "{close:?}");
        }
        assert_eq!((Close::Answer(1001).code(), Close::Answer(1001).reason()), (1001, ""));
    }
}
