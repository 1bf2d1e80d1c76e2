//! The Gateway's language, as data: opcodes, close codes, intents, events, the envelope of a payload, payloads we make.
//!
//! Owns everything that Discord's documentation defines about payloads (docs: Topics / Gateway, Gateway Events,
//! Opcodes and Status Codes). Knows no other module of this crate, no socket and no clock.

pub mod close;
pub mod command;
pub mod denied;
pub mod edit;
pub mod envelope;
pub mod etf;
pub mod event;
pub mod intents;
pub mod json;
pub mod library;
pub mod nesting;
pub mod opcode;
pub mod payload;
pub mod spelling;
pub mod swar;
pub mod token;

/// A point on the process's monotonic clock: the time since it started. Pure code is handed one, it never asks for it.
pub type Time = std::time::Duration;

/// Which shard of how many (docs: Gateway, Sharding).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardId {
    /// Zero-based index of the shard.
    pub id: u32,
    /// How many shards the bot has in total.
    pub count: u32,
}

impl std::fmt::Display for ShardId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{},{}]", self.id, self.count)
    }
}

/// How payloads are written on a connection (docs: Gateway, Encoding and Compression).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Encoding {
    /// JSON text.
    #[default]
    Json,
    /// Erlang's external term format.
    Etf,
}

impl Encoding {
    /// From the value of the `encoding` parameter of a gateway URL.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "json" => Some(Self::Json),
            "etf" => Some(Self::Etf),
            _ => None,
        }
    }

    /// The value of the `encoding` parameter.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Etf => "etf",
        }
    }
}
