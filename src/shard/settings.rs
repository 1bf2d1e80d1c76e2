//! The settings of all shards.

use crate::{cache::Flags, log::Limits, protocol::denied::Denied};
use std::time::Duration;

/// The settings of all shards.
#[derive(Clone)]
pub struct Settings {
    /// The proxy's URL for clients, from which `resume_gateway_url` in READY is made.
    pub public_url: String,
    /// Bounds of each shard's log.
    pub log: Limits,
    /// How long a session without a connection can be resumed.
    pub resume_window: Duration,
    /// Which resources are cached.
    pub cache: Flags,
    /// The shard asks Discord for the members of guilds that the cache does not know.
    pub prefetch_members: bool,
    /// Filter events by the intents of each client.
    pub honor_client_intents: bool,
    /// The intents in the shard's IDENTIFY.
    pub intents: u64,
    /// Events that no client gets.
    pub denied: Denied,
    /// How long the bot stays in a voice channel whose client is gone.
    pub voice_grace: Duration,
    /// Whether the bot joins its voice channels again when Discord has begun a new session.
    pub voice_rejoin: bool,
    /// Opcodes that the proxy does not know and whose commands it passes on all the same.
    pub forward_opcodes: Vec<u64>,
}
