//! The messages between a data core and the control core, and the configuration that a data core starts with.

use super::figures::Added;
use crate::{
    compression::Transport,
    downstream::{
        budget::MemoryBudget,
        credential::Credentials,
        outbox::Outbox,
        session::{Claim, Options},
        visitor::Visitor,
    },
    log::Limits,
    net::dial::{ConnectError, Dialled},
    protocol::{Time, denied::Denied},
    shard::report::Report,
    upstream::{loss::Reason, session::Status},
    watchdog::{Finding, Pulse},
    websocket::FrameDecoder,
};
use serde_json::value::RawValue;
use std::{io, os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Duration};

/// What a data core needs to run its shards.
#[derive(Clone)]
pub struct CoreConfig {
    /// Index of the data core.
    pub index: usize,
    /// Ids of the core's shards.
    pub shards: Vec<u32>,
    /// Number of shards that the bot has in total.
    pub shard_count: u32,
    /// The bot's token, without a prefix such as `Bot`.
    pub token: Arc<str>,
    /// The URL that `/gateway/bot` returned.
    pub gateway_url: String,
    /// The intents that the shards identify with.
    pub intents: u64,
    /// The presence of each shard, in the order of `shards`.
    pub presences: Vec<Box<RawValue>>,
    /// The transport compression of the connections to Discord.
    pub transport: Transport,
    /// The URL at which clients resume, as READY tells them.
    pub public_url: String,
    /// Limits of each shard's log.
    pub log: Limits,
    /// How long a detached session can be resumed.
    pub resume_window: Duration,
    /// Which entities are cached.
    pub cache: crate::cache::Flags,
    /// Whether the shards ask Discord for the members of guilds that the cache does not know.
    pub prefetch_members: bool,
    /// Whether a client gets only the events of its intents.
    pub honor_client_intents: bool,
    /// Events that no client gets.
    pub denied: Denied,
    /// How long the bot stays in a voice channel after the connection of the client that joined it has ended.
    pub voice_grace: Duration,
    /// Whether the bot joins its voice channels again when Discord has begun a new session.
    pub voice_rejoin: bool,
    /// Directory of the state files; `None`: no state is kept.
    pub state_dir: Option<PathBuf>,
    /// Opcodes of commands that are forwarded to Discord although the proxy does not know them.
    pub forward_opcodes: Vec<u64>,
    /// The memory budget of the clients of all cores.
    pub memory: Arc<MemoryBudget>,
    /// What clients without the bot's token may see and do.
    pub credentials: Credentials,
}

/// A client's connection taken apart: plain data that is not bound to a thread, on its way between two cores.
pub struct ConnectionParts<S = OwnedFd> {
    /// The socket.
    pub socket: S,
    /// Bytes that were received and not handled yet.
    pub inbound: FrameDecoder,
    /// Bytes to send, and the state of the compression.
    pub outbox: Outbox,
}

/// What a client has sent to the door.
#[derive(Debug)]
pub enum SessionRequest {
    /// IDENTIFY: the client wants a new session.
    Identify(Options),
    /// RESUME: the client wants to go on with a session.
    Resume {
        /// The session that the client names.
        claim: Claim,
        /// The last sequence number that the client has received.
        sequence: u64,
    },
}

/// A client that the door hands to a data core.
pub struct NewClient<S = OwnedFd> {
    /// The client's connection.
    pub parts: ConnectionParts<S>,
    /// Id of the shard that the client wants.
    pub shard: u32,
    /// What the client has sent to the door.
    pub request: SessionRequest,
    /// What the door knows of the client. The door needs it again when the connection comes back and the client
    /// identifies once more.
    pub visitor: Visitor,
}

/// The parts of a changed configuration that concern the shards of a core.
pub struct ConfigChange {
    /// Limits of each shard's log.
    pub log: Limits,
    /// How long a detached session can be resumed.
    pub resume_window: Duration,
    /// How long the bot stays in a voice channel after the connection of the client that joined it has ended.
    pub voice_grace: Duration,
    /// Whether a client gets only the events of its intents.
    pub honor_client_intents: bool,
    /// Events that no client gets.
    pub denied: Denied,
    /// What clients without the bot's token may see and do.
    pub credentials: Credentials,
    /// The new presence of each shard, in the order of [`CoreConfig::shards`]; `None`: the presences are unchanged.
    pub presences: Option<Vec<Box<RawValue>>>,
}

/// How a shard is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// With a new connection, on which the session is resumed.
    Reconnect,
    /// With a new session, which costs an IDENTIFY. All clients have to identify again.
    Identify,
}

/// A change of the status of a shard's upstream session.
#[derive(Clone, Copy, Debug)]
pub struct StatusChange {
    /// Id of the shard.
    pub shard: u32,
    /// Time of the change.
    pub at: Time,
    /// The status before.
    pub from: Status,
    /// The status now.
    pub to: Status,
    /// If the connection was lost: the reason, and the close code if Discord sent one.
    pub loss: Option<(Reason, Option<u16>)>,
}

/// The state of a data core in numbers.
#[derive(Clone, Debug, Default)]
pub struct CoreReport {
    /// Index of the data core.
    pub index: usize,
    /// CPU time of the core's thread.
    pub cpu: Duration,
    /// Number of turns of the loop.
    pub turns: u64,
    /// The longest turn of this minute and the one before.
    pub longest_turn: Duration,
    /// Number of `io_uring_enter` system calls, which start operations or wait for completions.
    pub enters: u64,
    /// Bytes that went into the compression for clients.
    pub compression_input: u64,
    /// Bytes that came out of the compression for clients.
    pub compression_output: u64,
    /// The latency that the proxy adds to events.
    pub added: Added,
    /// The reports of the core's shards.
    pub shards: Vec<Report>,
}

/// The end of a slot of the [watchdog](crate::watchdog).
#[derive(Clone, Debug)]
pub struct EndOfSlot {
    /// Number of the slot that has ended. Slots have ended in order; numbers may be left out.
    pub slot: u64,
    /// The pulse of all shards in the slot before.
    pub before: Pulse,
}

/// What a data core's shards showed in a slot of the watchdog.
#[derive(Clone, Debug)]
pub struct SlotReport {
    /// Index of the data core.
    pub core: usize,
    /// Number of the slot.
    pub slot: u64,
    /// The pulse of the core's shards.
    pub pulse: Pulse,
    /// The sick shards of the core, by their ids.
    pub sick: Vec<(u32, Finding)>,
}

/// Messages to a data core.
pub enum ToCore<S = OwnedFd> {
    /// Starts the shards of the configuration. The control core sends it once.
    Start(Box<CoreConfig>),
    /// The identify queue permits this shard one IDENTIFY.
    Permit(u32),
    /// `/gateway/bot` has returned another URL than the configuration has.
    GatewayUrl(String),
    /// The result of [`ToControl::Dial`].
    Dialled {
        /// Id of the shard.
        shard: u32,
        /// The number of the attempt, from [`ToControl::Dial`].
        attempt: u64,
        /// The connection, or why there is none.
        result: Result<Box<Dialled<S>>, Box<ConnectError>>,
    },
    /// A client that the core has to serve.
    Client(Box<NewClient<S>>),
    /// Asks for [`ToControl::Reports`] with this number.
    Report(u64),
    /// Asks for [`ToControl::Pulse`], to see whether the core's loop turns.
    Pulse,
    /// The operator has changed the configuration.
    ConfigChanged(Box<ConfigChange>),
    /// The shard with this id has to be repaired, because an operator or the watchdog wants that.
    Repair(u32, Repair, Reason),
    /// Switches the trace of the frames of the shard with this id on or off.
    Trace(u32, bool),
    /// A slot of the watchdog has ended. The core answers with [`ToControl::SlotEnded`].
    EndSlot(Box<EndOfSlot>),
    /// Stops the core: it leaves Discord and the clients so that both sessions can be resumed, and answers with
    /// [`ToControl::Stopped`].
    Stop,
}

/// Why a data core could not start or can not go on.
#[derive(Debug, thiserror::Error)]
pub enum CoreFailure {
    /// The thread of the data core can not run on its CPU.
    #[error("data core {index} can not be pinned to CPU {cpu}: {source}")]
    Pin {
        /// Index of the data core.
        index: usize,
        /// The CPU.
        cpu: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The ring can not be made.
    #[error("can not make a ring (Linux 6.1 or newer is needed): {0}")]
    Ring(#[source] io::Error),
    /// A panic has happened that belongs to no shard.
    #[error("it panicked outside of any shard")]
    Panicked,
}

/// Messages to the control core.
pub enum ToControl<S = OwnedFd> {
    /// The shard with this id goes on with a session of a former process, so it needs no permit to start.
    Restored(u32),
    /// A shard's id, and the id of its session with Discord, by which clients may resume. Sent once when the shard
    /// begins, and whenever the session's id changes.
    UpstreamId(u32, Option<String>),
    /// The shard with this id wants a permit to identify.
    WantPermit(u32),
    /// A shard wants a connection to this URL. An earlier attempt of the same shard is void.
    Dial {
        /// Id of the shard.
        shard: u32,
        /// The number of the attempt, which comes back with [`ToCore::Dialled`].
        attempt: u64,
        /// `ws://` or `wss://`, without a query.
        url: String,
    },
    /// A client whose RESUME was refused or whose session is over, and what the door knew of it. The client may
    /// identify on the same connection.
    Return(Box<ConnectionParts<S>>, Visitor),
    /// The report of a core, in answer to the [`ToCore::Report`] with this number.
    Reports(u64, Box<CoreReport>),
    /// What the core's shards showed in a slot, in answer to [`ToCore::EndSlot`].
    SlotEnded(Box<SlotReport>),
    /// The loop of the core with this index has turned, in answer to [`ToCore::Pulse`].
    Pulse(usize),
    /// The status of a shard's upstream session has changed.
    StatusChanged(StatusChange),
    /// A panic has happened and was contained.
    Panicked,
    /// A core could not start or can not go on.
    Failed(CoreFailure),
    /// The core has stopped.
    Stopped,
}
