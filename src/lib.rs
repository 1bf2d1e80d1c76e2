//! gateway-proxy keeps the Gateway sessions (shards) of a Discord bot open.
#![warn(missing_docs)]

pub mod protocol;
pub mod websocket;
