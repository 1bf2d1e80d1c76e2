//! A shard's connection to Discord: the session machine and the command limiter, both pure. The sockets are in
//! [`crate::data_core`].

pub mod limiter;
pub mod session;
