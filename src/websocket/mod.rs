//! WebSocket (RFC 6455) without sockets: bytes in, messages out.
//!
//! Owns the framing, masking, fragmentation and UTF-8 rules and the opening handshake, for both sides: the proxy is a
//! server to bots and a client to Discord, and `discord-sim` is the reverse.
//!
//! Promises: a message that comes out of [`Inbound`] obeys the RFC (text is UTF-8, control frames are short and whole,
//! close codes are legal); no input makes it panic or buffer more than the limit it was given.
//!
//! Never: reads or writes a socket, looks at the clock, answers pings or closes by itself. Whoever owns the connection
//! has one output buffer and puts every reply into it, so frames can not interleave. Extensions are never negotiated
//! (Discord's gateway uses none), so a reserved bit is always a violation.

mod frame;
mod handshake;
mod inbound;
mod outgoing;

pub use frame::{MAX_HEADER, Opcode, mask_in_place, write_close, write_frame, write_header};
pub use handshake::{HandshakeError, Upgrade, client_request, parse_response, server_response, upgrade_of};
pub use inbound::{Inbound, Message, Role, Violation};
pub use outgoing::Outgoing;
