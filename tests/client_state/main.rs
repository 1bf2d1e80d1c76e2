//! What client libraries make of what the proxy sends: with every configuration of the proxy's cache (`configurations`),
//! and after the proxy had to begin a new session at Discord (`new_sessions`); and whether they can tell how quick it is
//! (`heartbeats`). `CLIENTS` chooses the libraries, as in tests/real_clients.rs.

mod configurations;
mod heartbeats;
mod new_sessions;
#[path = "../support/mod.rs"]
mod support;
