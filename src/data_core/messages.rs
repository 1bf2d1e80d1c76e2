//! What a data core and the control core say to each other, and what it starts with.

use crate::{
    compression::Transport,
    downstream::{
        budget::MemoryBudget,
        outbox::Outbox,
        session::{Claim, Options},
    },
    log::Limits,
    net::tls::Tls,
    protocol::{Time, denied::Denied},
    shard::report::Report,
    upstream::{loss::Reason, session::Status},
    websocket::FrameDecoder,
};
use serde_json::value::RawValue;
use std::{os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Duration};

/// What a data core needs to know to run its shards.
#[derive(Clone)]
pub struct Plan {
    /// Its place among the data cores.
    pub index: usize,
    /// Ids of its shards.
    pub shards: Vec<u32>,
    /// How many shards the bot has in total.
    pub shard_count: u32,
    /// The bot's token, bare.
    pub token: Arc<str>,
    /// What `/gateway/bot` returned.
    pub gateway_url: String,
    /// Intents to identify with.
    pub intents: u64,
    /// Presence of each shard, in the order of `shards`.
    pub presences: Vec<Box<RawValue>>,
    /// How Discord compresses what it sends.
    pub transport: Transport,
    /// What READY tells clients to resume at.
    pub public_url: String,
    /// Bounds of each log.
    pub log: Limits,
    /// How long a client can resume.
    pub resume_window: Duration,
    /// What is cached.
    pub cache: crate::cache::Flags,
    /// Filter by the intents of each client.
    pub honor_client_intents: bool,
    /// Events that no client gets.
    pub denied: Denied,
    /// How long a voice channel is kept whose client is gone.
    pub voice_grace: Duration,
    /// Join the voice channels again when Discord has begun a new session.
    pub voice_rejoin: bool,
    /// Where state is kept between two processes.
    pub state_dir: Option<PathBuf>,
    /// Opcodes of commands that are passed on though nothing is known of them.
    pub forward_opcodes: Vec<u64>,
    /// What the clients of all cores may take together.
    pub memory: Arc<MemoryBudget>,
}

/// A client's connection on its way between two cores: plain data, bound to no thread.
pub struct Parcel<S = OwnedFd> {
    /// The socket.
    pub socket: S,
    /// Bytes received and not consumed yet.
    pub inbound: FrameDecoder,
    /// Bytes to send and the state of the compression.
    pub outbox: Outbox,
}

/// How a client asked to be let in.
#[derive(Debug)]
pub enum Entry {
    /// A new session.
    Identify(Options),
    /// An old one, from this sequence on.
    Resume {
        /// Which.
        claim: Claim,
        /// The last sequence that the client has seen.
        sequence: u64,
    },
}

/// A client that passed the door.
pub struct Arrival<S = OwnedFd> {
    /// Its connection.
    pub parcel: Parcel<S>,
    /// The shard that it wants.
    pub shard: u32,
    /// What it asked for.
    pub entry: Entry,
    /// Its API version, for an IDENTIFY that follows on the same connection.
    pub version: u8,
}

/// A connection to Discord after its upgrade.
pub struct Dialled<S = OwnedFd> {
    /// The socket.
    pub socket: S,
    /// The state of its TLS, where the URL is a `wss` one.
    pub tls: Option<Box<Tls>>,
    /// Bytes that came after the response to the upgrade.
    pub inbound: FrameDecoder,
}

/// What the operator has changed in the configuration, for the shards of a core.
pub struct Change {
    /// Bounds of each log.
    pub log: Limits,
    /// How long a client can resume.
    pub resume_window: Duration,
    /// How long the bot stays in a voice channel after its client's connection has ended.
    pub voice_grace: Duration,
    /// Filter by the intents of each client.
    pub honor_client_intents: bool,
    /// Events that no client gets.
    pub denied: Denied,
    /// Another presence of each shard, in the order of [`Plan::shards`]; `None`: it stays as it is.
    pub presences: Option<Vec<Box<RawValue>>>,
}

/// How an operator wants a shard repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// By a new connection, on which the session is resumed.
    Reconnect,
    /// By a new session, which costs an IDENTIFY; clients have to identify anew.
    Identify,
}

/// A change of a shard's state.
#[derive(Clone, Copy, Debug)]
pub struct Changed {
    /// Which shard.
    pub shard: u32,
    /// When.
    pub at: Time,
    /// Its state before.
    pub from: Status,
    /// Its state now.
    pub to: Status,
    /// Why the connection was lost, and the close code if Discord gave one, when that was the change.
    pub loss: Option<(Reason, Option<u16>)>,
}

/// The state of a data core in numbers.
#[derive(Clone, Debug, Default)]
pub struct CoreReport {
    /// Its place among the data cores.
    pub index: usize,
    /// Time that its thread has run on a CPU.
    pub cpu: Duration,
    /// Turns of its loop.
    pub turns: u64,
    /// The longest turn of this minute and the one before.
    pub longest_turn: Duration,
    /// System calls that gave operations to the ring or waited for it (`io_uring_enter`).
    pub enters: u64,
    /// Bytes that went into the compression of clients' connections.
    pub compression_input: u64,
    /// Bytes that came out of it.
    pub compression_output: u64,
    /// Its shards.
    pub shards: Vec<Report>,
}

/// Messages to a data core.
pub enum ToCore<S = OwnedFd> {
    /// Start. Comes once and first.
    Start(Box<Plan>),
    /// The identify queue lets a shard go.
    Permit(u32),
    /// `/gateway/bot` names another URL than the plan.
    GatewayUrl(String),
    /// What came of [`ToControl::Dial`], with its number.
    Dialled {
        /// For which shard.
        shard: u32,
        /// The number of the attempt.
        attempt: u64,
        /// A connection, or why there is none.
        result: Result<Box<Dialled<S>>, String>,
    },
    /// A client to serve.
    Client(Box<Arrival<S>>),
    /// Answer with [`ToControl::Reports`].
    Report(u64),
    /// Go on with other settings.
    Change(Box<Change>),
    /// An operator wants a shard repaired.
    Repair(u32, Repair),
    /// Leave Discord and the clients so that both can be resumed, then answer with [`ToControl::Stopped`].
    Stop,
}

/// Messages to the control core.
pub enum ToControl<S = OwnedFd> {
    /// A shard has a session of a former process: it needs no permit to start.
    Restored(u32),
    /// Discord's id of a shard's session, by which clients may come to resume. Comes once when the shard begins, and with each
    /// new session.
    Named(u32, Option<String>),
    /// A shard wants to identify.
    WantPermit(u32),
    /// A shard wants a connection to this URL. It makes an earlier attempt for the same shard void.
    Dial {
        /// Which shard.
        shard: u32,
        /// The number of the attempt, which comes back with [`ToCore::Dialled`].
        attempt: u64,
        /// `ws://` or `wss://`, without a query.
        url: String,
    },
    /// A client whose RESUME was refused: it may identify on the same connection.
    Return(Box<Parcel<S>>, u8),
    /// The state of a core and its shards, in answer to the request of that number.
    Reports(u64, Box<CoreReport>),
    /// A shard has got another state.
    Changed(Changed),
    /// A panic has happened, and was contained.
    Panicked,
    /// A core can not go on, or could not begin.
    Failed(String),
    /// A core has nothing left to do.
    Stopped,
}
