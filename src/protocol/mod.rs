//! The Gateway protocol as data: opcodes, close codes, intents, event types, the envelope of a payload, and the
//! payloads that the proxy writes.
//!
//! Owns what Discord's documentation defines about payloads (docs: Topics / Gateway, Gateway Events, Opcodes and
//! Status Codes). Never uses another module of this crate, a socket or a clock.

mod client_close;
pub mod close;
pub mod command;
mod command_check;
pub(crate) mod denied;
pub mod edit;
pub mod envelope;
pub mod etf;
pub mod event;
pub mod intents;
pub mod json;
pub(crate) mod library;
pub(crate) mod opcode;
pub mod payload;
pub mod spelling;
pub(crate) mod token;

use serde::{Deserialize, Serialize};

/// A point in time: the time since the process started, on a monotonic clock. Pure code receives it as an argument
/// and never reads the clock.
pub type Time = std::time::Duration;

/// The index of a shard and the number of shards (docs: Gateway, Sharding).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardId {
    /// Index of the shard, from 0.
    pub id: u32,
    /// Number of shards that the bot has.
    pub count: u32,
}

impl std::fmt::Display for ShardId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{},{}]", self.id, self.count)
    }
}

/// The key of a client's session on its shard, unique in the life of the shard. State files keep it, so the next
/// process knows the session by the same key. It never leaves the proxy: the client knows its session by a session id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionKey(pub u32);

impl SessionKey {
    /// A key that no session has. It stands for the proxy itself as the sender of a command, and for an event that no
    /// session receives. The keys of sessions start at 1.
    pub const NONE: Self = Self(0);

    /// The key after this one. Never [`SessionKey::NONE`].
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1).max(1))
    }
}

impl std::fmt::Display for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of a client's connection, unique in the life of the data core that serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u64);

/// The encoding of payloads on a connection (docs: Gateway, Encoding and Compression).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Encoding {
    /// JSON text.
    #[default]
    Json,
    /// Erlang's external term format.
    Etf,
}

impl Encoding {
    /// Parses the value of the `encoding` parameter of a gateway URL. `None`: the encoding is not supported.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "json" => Some(Self::Json),
            "etf" => Some(Self::Etf),
            _ => None,
        }
    }

    /// The value of the `encoding` parameter of a gateway URL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Etf => "etf",
        }
    }
}
