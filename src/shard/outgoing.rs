//! Writes dispatches into the outbox of a client (docs: Gateway Events, Payload Structure).
//!
//! A dispatch from the log gets the sequence of the client's session between its two stored parts. A synthetic
//! dispatch, which the proxy itself has made, is put together here. Never: decides which client gets a dispatch.

use crate::{
    downstream::outbox::Outbox,
    protocol::{event::EventKind, payload},
};

/// Writes a dispatch: `prefix` up to the sequence, the sequence, and what follows it. `suffix` is one part that the log
/// has stored, or the data and the closing brace.
pub(super) fn write_dispatch(outbox: &mut Outbox, prefix: &[u8], sequence: u64, suffix: &[&[u8]]) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(sequence).as_bytes();
    match suffix {
        [one] => outbox.message(&[prefix, digits, one]),
        [data, ..] => outbox.message(&[prefix, digits, payload::DISPATCH_MIDDLE, data, b"}"]),
        [] => unreachable!("a dispatch has data"),
    }
}

/// Writes a dispatch that the proxy itself has made and that is not in the log.
pub(super) fn write_synthetic(outbox: &mut Outbox, kind: EventKind, sequence: u64, data: &[u8]) {
    let mut prefix = Vec::with_capacity(48);
    payload::write_dispatch_prefix(&mut prefix, kind.name().as_bytes());
    write_dispatch(outbox, &prefix, sequence, &[data, b"}"]);
}

/// Writes such a dispatch up to its data. The caller appends the pieces of the data and a closing brace.
pub(super) fn begin_synthetic(outbox: &mut Outbox, kind: EventKind, sequence: u64) {
    let mut head = Vec::with_capacity(80);
    payload::write_dispatch_prefix(&mut head, kind.name().as_bytes());
    head.extend_from_slice(itoa::Buffer::new().format(sequence).as_bytes());
    head.extend_from_slice(payload::DISPATCH_MIDDLE);
    outbox.piece(&head);
}
