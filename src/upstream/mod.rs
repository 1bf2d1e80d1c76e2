//! A shard's connection to Discord: the session machine, when it comes back after a loss, and
//! the command limiter, all pure. The sockets are in
//! [`crate::data_core`].

pub mod comeback;
pub mod counters;
pub mod limiter;
pub mod loss;
pub mod session;
