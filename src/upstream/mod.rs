//! A shard's connection to Discord: the session machine, the waits after a loss, and the command limiter. All are pure.
//! [`crate::data_core`] owns the sockets.

pub mod counters;
pub mod limiter;
pub mod loss;
pub mod reconnect;
pub mod session;
