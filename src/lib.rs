//! gateway-proxy keeps the Gateway sessions (shards) of a Discord bot open.

pub mod cache;
pub mod compression;
pub mod config;
pub mod control;
pub mod data_core;
pub mod downstream;
pub mod io;
pub mod listener;
pub mod log;
pub mod logging;
pub mod net;
pub mod placement;
pub mod preflight;
pub mod protocol;
pub mod shard;
pub mod state_dir;
pub mod upstream;
pub mod watchdog;
pub mod websocket;
