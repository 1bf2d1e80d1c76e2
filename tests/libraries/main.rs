//! The proxy with programs of others: client libraries, the WebSocket test suite Autobahn, and servers in front of the
//! proxy.

mod autobahn;
mod behind_others;
mod chaos;
mod client_state;
mod real_clients;
mod startup_times;
mod voice_clients;
