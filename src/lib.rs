//! gateway-proxy keeps the Gateway sessions (shards) of a Discord bot open.
#![warn(missing_docs)]

pub mod compression;
pub mod downstream;
pub mod log;
pub mod net;
pub mod protocol;
pub mod upstream;
pub mod websocket;
