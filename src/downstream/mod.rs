//! One client of the proxy: its session, the output side of its connection, what it may see and do, and the memory
//! budget of all clients.
//! Sessions and outboxes are pure. The sockets are in `control/door.rs` before IDENTIFY, and in [`crate::data_core`]
//! after it.

pub(crate) mod budget;
pub mod credential;
pub mod outbox;
pub mod session;
mod session_id;
pub mod source;
pub mod visitor;
