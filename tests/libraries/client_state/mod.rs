//! How client libraries handle what the proxy sends: with every configuration of the proxy's cache (`configurations`),
//! after the proxy has begun a new session at Discord (`new_sessions`), and whether they can measure the latency of
//! heartbeats (`heartbeats`). `CLIENTS` chooses the libraries, as in `real_clients`.

mod configurations;
mod heartbeats;
mod new_sessions;
