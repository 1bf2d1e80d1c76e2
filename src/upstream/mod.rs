//! A shard's connection to Discord: the session machine, the waits after a loss, and the command limiter. All are pure.
//! [`crate::data_core`] owns the sockets.

pub(crate) mod counters;
pub(crate) mod limiter;
pub(crate) mod loss;
pub mod reconnect;
pub mod session;
