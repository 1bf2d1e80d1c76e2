//! A client's connection to the proxy: its session (pure) and the encoder of its stream (pure). The sockets are in
//! [`crate::control::door`] before IDENTIFY and in [`crate::data_core`] after it.

pub mod budget;
pub mod outbox;
pub mod session;
mod session_id;
