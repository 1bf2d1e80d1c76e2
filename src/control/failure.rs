//! Why the proxy can not run on.

use crate::{config::ShardRangeError, data_core::CoreFailure, net::tls::TlsError};
use glommio::GlommioError;
use std::io;

/// Why the proxy could not start, had to end without a signal that asked for it, or could not stop in order.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The signal handlers can not be installed.
    #[error("can not handle signals: {0}")]
    Signals(#[source] io::Error),
    /// TLS can not be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The limit of open files can not be read or raised.
    #[error("the limit of open files: {0}")]
    OpenFiles(#[source] io::Error),
    /// A listening socket can not be duplicated.
    #[error("can not copy a descriptor: {0}")]
    Listener(#[source] io::Error),
    /// The thread of the control core can not be started.
    #[error("can not start the control core: {0}")]
    ControlCore(#[source] GlommioError<()>),
    /// The thread of the control core can not run on its CPU.
    #[error("the control core can not be pinned to CPU {cpu}: {source}")]
    PinControlCore {
        /// The CPU.
        cpu: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The control core panicked.
    #[error("the control core ended: {0}")]
    ControlCoreEnded(#[source] GlommioError<()>),
    /// A thread for blocking work can not be started.
    #[error("can not start thread {name}: {source}")]
    Thread {
        /// The name of the thread.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The descriptor that wakes a data core can not be made.
    #[error("can not start data core {index} on CPU {cpu}: {source}")]
    DataCoreWaker {
        /// Index of the data core.
        index: usize,
        /// The CPU of its thread.
        cpu: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The thread of a data core can not be started.
    #[error("can not start data core {index} on CPU {cpu}: {source}")]
    DataCore {
        /// Index of the data core.
        index: usize,
        /// The CPU of its thread.
        cpu: usize,
        /// Why.
        source: GlommioError<()>,
    },
    /// The proxy would serve no shard.
    #[error(transparent)]
    Shards(#[from] ShardRangeError),
    /// A data core does not take the message that starts its shards.
    #[error("data core {0} has ended")]
    DataCoreEnded(usize),
    /// A data core can not go on.
    #[error("a data core failed: {0}")]
    DataCoreFailed(#[source] CoreFailure),
    /// Discord has answered GET `/gateway/bot` with 401.
    #[error("Discord refused the token (401): set a current one in TOKEN or `token`")]
    Unauthorized,
    /// A second signal came while the proxy was stopping.
    #[error("a second signal came: the proxy quits without waiting for its data cores")]
    SecondSignal,
    /// The data cores have not stopped in time.
    #[error("the data cores did not end in time")]
    StopTimeout,
}
