//! Why the gateway closes the connection of a client that broke a rule (docs: Opcodes and Status Codes, Gateway Close
//! Event Codes).

/// Why a connection is closed. The text says what the client did; `/sim/stats` lists it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An opcode that Discord does not know.
    #[error("op {0}")]
    UnknownOpcode(u64),
    /// A payload that can not be parsed, or that lacks a field.
    #[error("{0}")]
    Malformed(String),
    /// A command that needs a session, before there is one.
    #[error("op {0} before IDENTIFY")]
    NotAuthenticated(u64),
    /// A token that is not the bot's, in this command.
    #[error("{0} with a wrong token")]
    WrongToken(&'static str),
    /// No IDENTIFY is left for today.
    #[error("IDENTIFY without any session start remaining")]
    NoStartLeft,
    /// A second IDENTIFY or RESUME on one connection.
    #[error("op {0} on an identified connection")]
    AlreadyAuthenticated(u64),
    /// A RESUME that names events which the session does not have yet.
    #[error("RESUME with seq {seq} of a session at {newest}")]
    InvalidSequence {
        /// The sequence of the RESUME.
        seq: u64,
        /// The newest sequence of the session.
        newest: u64,
    },
    /// More payloads than the limit allows.
    #[error("more than {limit} payloads in 60 s")]
    RateLimited {
        /// The most payloads in 60 s.
        limit: usize,
    },
    /// A shard that the bot does not have.
    #[error("IDENTIFY as shard [{shard},{of}] of {count}")]
    InvalidShard {
        /// The shard of the IDENTIFY.
        shard: u64,
        /// The number of shards of the IDENTIFY.
        of: u64,
        /// The number of shards of the bot.
        count: usize,
    },
    /// No shard, though the bot has this many.
    #[error("IDENTIFY without shard, there are {0}")]
    ShardingRequired(usize),
    /// No intents.
    #[error("IDENTIFY without intents")]
    NoIntents,
    /// Intents that Discord does not know.
    #[error("intents {0}")]
    InvalidIntents(u64),
    /// Intents that the bot is not allowed.
    #[error("intents {0}")]
    DisallowedIntents(u64),
}

impl Refusal {
    /// The code and the text of the close frame.
    pub fn close(&self) -> (u16, &'static str) {
        match self {
            Self::UnknownOpcode(_) => (4001, "Unknown opcode."),
            Self::Malformed(_) => (4002, "Error while decoding payload."),
            Self::NotAuthenticated(_) => (4003, "Not authenticated."),
            Self::WrongToken(_) | Self::NoStartLeft => (4004, "Authentication failed."),
            Self::AlreadyAuthenticated(_) => (4005, "Already authenticated."),
            Self::InvalidSequence { .. } => (4007, "Invalid seq."),
            Self::RateLimited { .. } => (4008, "Rate limited."),
            Self::InvalidShard { .. } => (4010, "Invalid shard."),
            Self::ShardingRequired(_) => (4011, "Sharding required."),
            Self::NoIntents | Self::InvalidIntents(_) => (4013, "Invalid intent(s)."),
            Self::DisallowedIntents(_) => (4014, "Disallowed intent(s)."),
        }
    }
}
