//! WebSocket (RFC 6455) without sockets: bytes in, messages out.
//!
//! Owns the rules of framing, masking, fragmentation and UTF-8 and the opening handshake, for both sides: the proxy
//! is a server to bots and a client to Discord; `discord-sim` is the reverse.
//!
//! Promises: every message that [`FrameDecoder`] returns obeys the RFC (text is UTF-8, control frames are short and whole,
//! close codes are legal); no input makes the decoder panic or buffer more than its limit.
//!
//! Never: reads or writes a socket, looks at the clock, answers pings, or closes a connection. The owner of a
//! connection has one output buffer and appends every reply to that buffer, so frames can not interleave. Extensions
//! are never negotiated, because Discord's gateway uses none, so a reserved bit is always a violation.

mod decoder;
mod endpoint;
mod frame;
mod handshake;
mod outgoing;

pub use decoder::{FrameDecoder, Message, Role, Violation};
pub use endpoint::{Endpoint, EndpointError};
pub use frame::{MAX_HEADER, Opcode, mask_in_place, write_close, write_frame, write_header};
pub use handshake::{HandshakeError, Upgrade, client_request, parse_response, server_response, upgrade_of};
pub use outgoing::Outgoing;
