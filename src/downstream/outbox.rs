//! The output side of one client's connection: JSON payloads go in, and WebSocket frames come out, encoded and
//! compressed as the client wants.
//!
//! Every byte for the client goes through its outbox, so frames do not interleave, and a compressed stream contains all
//! messages in order. The state of a connection's compression is in its outbox and moves with the connection to another
//! core. Encoders and buffers that are needed for one payload at a time are shared by all connections of a core. Only a
//! connection with a compressed stream has a compressor of its own.
//!
//! Memory of a connection besides the bytes that wait to be sent: none for JSON, ETF and payload compression. For a
//! compressed stream it is that of its [`Deflater`].

use crate::{
    compression::{Deflater, PayloadCompressor, Transport, count},
    protocol::{Encoding, etf},
    websocket::{Opcode, Outgoing, write_close, write_frame, write_header},
};
use std::cell::RefCell;

/// An outbox with this many bytes is full: producers wait until some have been sent.
pub const HIGH_WATER: usize = 64 << 10;
/// Buffers with a larger capacity, in bytes, are freed when they are empty.
const KEEP: usize = 2 * HIGH_WATER;
/// Smallest payload in bytes that payload compression compresses. Smaller payloads would hardly shrink, and the client
/// would have to inflate them.
pub const COMPRESS_FROM: usize = 1024;
/// Number of empty buffers that a core keeps, each of at most [`KEEP_SPARE`] bytes.
const SPARES: usize = 64;
/// Largest capacity in bytes of a buffer that is kept; see [`SPARES`].
const KEEP_SPARE: usize = 16 << 10;
/// Bytes reserved for the header of a message whose length is known only after it was written. Most messages need
/// exactly this many.
const HEADER: usize = 4;
/// Length in bytes of the longest header.
const LONGEST_HEADER: usize = 10;
/// Bytes that a client is charged for besides its outbox: its session, its frame decoder, its entries in lists.
const REST_OF_CLIENT: usize = 4 << 10;
/// The number of messages that can wait while a payload is written in pieces. More messages are dropped.
pub const MAX_DEFERRED: usize = 64;

/// Encoders and buffers that the connections of a core share. A connection uses them for one payload at a time.
#[derive(Default)]
struct SharedEncoders {
    encoder: etf::Encoder,
    /// The compressor, made when the first payload is compressed.
    compressor: Option<PayloadCompressor>,
    /// A payload that is encoded or compressed as a whole. A panic may have left bytes in it, so each use clears it first.
    scratch: Vec<u8>,
    /// Empty buffers of connections whose bytes have all been sent, at most [`SPARES`]. The last one is used first,
    /// because it is in the CPU's cache.
    spares: Vec<Vec<u8>>,
}

thread_local! {
    static ENCODERS: RefCell<SharedEncoders> = RefCell::default();
}

/// The encoding and compression of a connection.
enum Form {
    /// JSON in text messages.
    Plain,
    /// JSON with payload compression: large payloads are compressed one by one and go into binary messages.
    CompressedPayloads,
    /// ETF in binary messages.
    Etf,
    /// A compressed stream of payloads in this encoding.
    Stream(Deflater, Encoding),
}

/// A message that is written piece by piece, so that the core can serve other clients in between.
struct PartialMessage {
    /// Room for the header, then the payload so far.
    frame: Vec<u8>,
    /// Messages that were added since [`Outbox::begin`], at most [`MAX_DEFERRED`].
    deferred: Vec<Vec<u8>>,
}

/// The output side of one client's connection. See the module's description.
pub struct Outbox {
    form: Form,
    partial: Option<PartialMessage>,
    wire: Outgoing,
    /// A close frame was added, and no frame may follow it.
    closed: bool,
    /// The shard and the session of the client, for the log; `None`: the client has not identified.
    owner: Option<(u32, u32)>,
}

impl Outbox {
    /// Makes an empty outbox.
    pub fn new(transport: Transport, encoding: Encoding) -> Self {
        let form = match (Deflater::new(transport), encoding) {
            (Some(deflater), encoding) => Form::Stream(deflater, encoding),
            (None, Encoding::Json) => Form::Plain,
            (None, Encoding::Etf) => Form::Etf,
        };
        Self { form, partial: None, wire: Outgoing::default(), closed: false, owner: None }
    }

    /// Sets the shard and the key of the session that log lines about this outbox name.
    pub fn set_owner(&mut self, shard: u32, client: u32) {
        self.owner = Some((shard, client));
    }

    /// Starts compression, because the client has identified or resumed. `payloads`: the client has asked for payload
    /// compression (docs: Gateway, Payload Compression). Payload compression is for JSON without transport compression;
    /// on other connections `payloads` changes nothing.
    pub fn start_compressing(&mut self, payloads: bool) {
        match &mut self.form {
            Form::Plain | Form::CompressedPayloads if payloads => self.form = Form::CompressedPayloads,
            // The client may have asked for payload compression when it identified on this connection before.
            Form::Plain | Form::CompressedPayloads => self.form = Form::Plain,
            Form::Stream(deflater, _) => deflater.start(),
            Form::Etf => {}
        }
    }

    /// The encoding of payloads in both directions.
    pub fn encoding(&self) -> Encoding {
        match self.form {
            Form::Plain | Form::CompressedPayloads => Encoding::Json,
            Form::Etf => Encoding::Etf,
            Form::Stream(_, encoding) => encoding,
        }
    }

    /// The compression of payloads, for metrics: `none`, `payload`, `zlib-stream` or `zstd-stream`.
    pub fn compression(&self) -> &'static str {
        match &self.form {
            Form::Plain | Form::Etf => "none",
            Form::CompressedPayloads => "payload",
            Form::Stream(deflater, _) => deflater.transport().name().unwrap_or("none"),
        }
    }

    /// Adds one payload. `parts` are the parts of its JSON text; each ends between two tokens. A payload is dropped
    /// after a close frame, or when [`MAX_DEFERRED`] payloads wait already. A payload that can not be encoded as ETF is
    /// logged and dropped.
    pub fn message(&mut self, parts: &[&[u8]]) {
        if self.closed {
            return;
        }
        if let Some(partial) = &mut self.partial {
            if partial.deferred.len() < MAX_DEFERRED {
                partial.deferred.push(parts.concat());
            }
            return;
        }
        let owner = self.owner;
        let Self { form, wire, .. } = self;
        let wire = wire.buffer();
        if wire.capacity() == 0
            && let Some(spare) = ENCODERS.with_borrow_mut(|encoders| encoders.spares.pop())
        {
            *wire = spare;
        }
        match form {
            Form::Plain => write_text(wire, parts),
            Form::CompressedPayloads => write_compressed(wire, parts),
            Form::Etf => ENCODERS.with_borrow_mut(|encoders| {
                let start = begin_binary(wire);
                wire.reserve(parts.iter().map(|part| part.len()).sum());
                match encoders.encoder.encode(parts, wire) {
                    Ok(()) => end_binary(wire, start),
                    Err(malformed) => {
                        wire.truncate(start);
                        report(malformed, owner);
                    }
                }
            }),
            Form::Stream(deflater, Encoding::Json) => write_stream(wire, deflater, parts),
            Form::Stream(deflater, Encoding::Etf) => ENCODERS.with_borrow_mut(|encoders| {
                encoders.scratch.clear();
                match encoders.encoder.encode(parts, &mut encoders.scratch) {
                    Ok(()) => write_stream(wire, deflater, &[&encoders.scratch]),
                    Err(malformed) => report(malformed, owner),
                }
                encoders.clear_scratch();
            }),
        }
    }

    /// Begins a payload that comes in pieces. Until [`Outbox::end`] other payloads wait. Returns false when the
    /// connection's encoding needs the payload as a whole, or after a close frame.
    pub fn begin(&mut self) -> bool {
        let pieces = matches!(self.form, Form::Plain | Form::Stream(_, Encoding::Json)) && !self.closed;
        if pieces {
            debug_assert!(self.partial.is_none(), "one after the other");
            self.partial = Some(PartialMessage { frame: vec![0; LONGEST_HEADER], deferred: Vec::new() });
        }
        pieces
    }

    /// Adds a piece to the payload that [`Outbox::begin`] began.
    pub fn piece(&mut self, piece: &[u8]) {
        let Some(partial) = &mut self.partial else { return };
        match &mut self.form {
            Form::Stream(deflater, _) => {
                deflater.write(piece, &mut partial.frame);
                count::add(piece.len(), 0);
            }
            _ => partial.frame.extend_from_slice(piece),
        }
    }

    /// Ends the payload that [`Outbox::begin`] began. The payloads that waited follow it.
    pub fn end(&mut self) {
        let Some(PartialMessage { mut frame, deferred }) = self.partial.take() else { return };
        let opcode = match &mut self.form {
            Form::Stream(deflater, _) => {
                deflater.flush(&mut frame);
                count::add(0, frame.len() - LONGEST_HEADER);
                Opcode::Binary
            }
            _ => Opcode::Text,
        };
        let mut header = Vec::with_capacity(LONGEST_HEADER);
        write_header(&mut header, opcode, frame.len() - LONGEST_HEADER, None);
        let start = LONGEST_HEADER - header.len();
        frame[start..LONGEST_HEADER].copy_from_slice(&header);
        if self.pending().is_empty() {
            // The frame becomes the buffer, so a large payload is not copied.
            self.wire.replace(frame, start);
        } else {
            self.wire.buffer().extend_from_slice(&frame[start..]);
        }
        deferred.iter().for_each(|payload| self.message(&[payload]));
    }

    /// Discards the payload that is being written in pieces, if there is one. The payloads that waited are added.
    /// Returns false when a part of the payload is in the compressed stream already: then only a close frame can
    /// follow.
    pub fn abandon(&mut self) -> bool {
        if self.partial.is_some() && matches!(self.form, Form::Stream(..)) {
            return false;
        }
        let deferred = self.partial.take().map(|partial| partial.deferred);
        deferred.iter().flatten().for_each(|payload| self.message(&[payload]));
        true
    }

    /// Adds a pong frame. Nothing is added after a close frame.
    pub fn pong(&mut self, payload: &[u8]) {
        if !self.closed {
            write_frame(self.wire.buffer(), Opcode::Pong, payload, None);
        }
    }

    /// Adds a close frame. Frames that are added later are dropped, and so is a payload that is not complete.
    pub fn close(&mut self, code: Option<u16>, reason: &str) {
        self.partial = None;
        if !self.closed {
            write_close(self.wire.buffer(), code, reason, None);
            self.closed = true;
        }
    }

    /// Adds bytes that are no WebSocket frame: the HTTP response of the upgrade.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.wire.buffer().extend_from_slice(bytes);
    }

    /// The bytes that have to be sent next. Bytes that were taken are not among them.
    pub fn pending(&self) -> &[u8] {
        self.wire.pending()
    }

    /// Reports that the first `n` bytes of [`Outbox::pending`] were sent.
    pub fn wrote(&mut self, n: usize) {
        self.wire.wrote(n, KEEP);
    }

    /// Takes the buffer with all pending bytes, to be sent from the returned offset on. `None`: nothing is pending, or
    /// the buffer that was taken before has not been returned.
    pub fn take(&mut self) -> Option<(Vec<u8>, usize)> {
        self.wire.take()
    }

    /// Gives back the buffer of [`Outbox::take`], of which `sent` bytes were sent. Returns whether these were all that
    /// were to be sent.
    pub fn returned(&mut self, bytes: Vec<u8>, sent: usize) -> bool {
        self.wire.returned(bytes, sent).map(spare).is_some()
    }

    /// Says whether all bytes of finished messages were sent, including those that were taken. A payload that is still
    /// being written in pieces, and messages that wait for its end, do not count.
    pub fn is_empty(&self) -> bool {
        self.wire.is_empty()
    }

    /// Number of bytes that were not sent yet, including those that were taken.
    pub fn len(&self) -> usize {
        self.wire.len()
    }

    /// Bytes that the client is charged for, the rest of its connection included. For a compressed stream the memory of
    /// the compressor counts from the beginning, before it is allocated.
    pub fn memory(&self) -> usize {
        let encoder = match &self.form {
            Form::Stream(deflater, _) => deflater.memory(),
            Form::Plain | Form::CompressedPayloads | Form::Etf => 0,
        };
        let partial = self
            .partial
            .as_ref()
            .map_or(0, |partial| partial.frame.capacity() + partial.deferred.iter().map(Vec::capacity).sum::<usize>());
        REST_OF_CLIENT + encoder + partial + self.wire.capacity().max(self.wire.len())
    }

    /// Says whether producers have to wait: the outbox has [`HIGH_WATER`] bytes or more.
    pub fn is_full(&self) -> bool {
        self.wire.len() >= HIGH_WATER
    }
}

/// Empties a buffer whose bytes have been sent, and keeps its memory for the next connection of this thread that
/// writes. A buffer above [`KEEP_SPARE`] is freed, and so is one more than [`SPARES`].
fn spare(mut bytes: Vec<u8>) {
    if bytes.capacity() <= KEEP_SPARE {
        bytes.clear();
        ENCODERS.with_borrow_mut(|encoders| {
            if encoders.spares.len() < SPARES {
                encoders.spares.push(bytes);
            }
        });
    }
}

impl SharedEncoders {
    fn clear_scratch(&mut self) {
        if self.scratch.capacity() > KEEP {
            self.scratch = Vec::new();
        } else {
            self.scratch.clear();
        }
    }
}

/// Logs a payload that can not be encoded as ETF. The proxy checks only the structure of Discord's payloads when it
/// receives them, so malformed values are found here. A JSON client gets such a payload as it is.
fn report(malformed: crate::protocol::json::Malformed, owner: Option<(u32, u32)>) {
    let (shard, client) = (owner.map(|(shard, _)| shard), owner.map(|(_, client)| client));
    tracing::error!(
        shard,
        client,
        "a payload from Discord was not sent to a client with ETF encoding, because it is not valid JSON: {malformed}"
    );
}

fn write_text(wire: &mut Vec<u8>, parts: &[&[u8]]) {
    let length = parts.iter().map(|part| part.len()).sum();
    wire.reserve(length + 10);
    write_header(wire, Opcode::Text, length, None);
    for part in parts {
        wire.extend_from_slice(part);
    }
}

fn write_compressed(wire: &mut Vec<u8>, parts: &[&[u8]]) {
    if parts.iter().map(|part| part.len()).sum::<usize>() < COMPRESS_FROM {
        return write_text(wire, parts);
    }
    ENCODERS.with_borrow_mut(|encoders| {
        encoders.scratch.clear();
        for part in parts {
            encoders.scratch.extend_from_slice(part);
        }
        let start = begin_binary(wire);
        if encoders.compressor.get_or_insert_default().compress(&encoders.scratch, wire) {
            count::add(encoders.scratch.len(), wire.len() - start - HEADER);
            end_binary(wire, start);
        } else {
            wire.truncate(start);
            write_text(wire, &[&encoders.scratch]);
        }
        encoders.clear_scratch();
    });
}

fn write_stream(wire: &mut Vec<u8>, deflater: &mut Deflater, parts: &[&[u8]]) {
    let (start, mut input) = (begin_binary(wire), 0);
    for part in parts {
        input += part.len();
        deflater.write(part, wire);
    }
    deflater.flush(wire);
    count::add(input, wire.len() - start - HEADER);
    end_binary(wire, start);
}

/// Reserves [`HEADER`] bytes for the header of a message. Returns the offset where the message starts.
fn begin_binary(wire: &mut Vec<u8>) -> usize {
    let start = wire.len();
    wire.extend_from_slice(&[0; HEADER]);
    start
}

/// Writes the header of the message that starts at `start` and ends with the buffer.
fn end_binary(wire: &mut Vec<u8>, start: usize) {
    let mut header = Vec::with_capacity(10);
    write_header(&mut header, Opcode::Binary, wire.len() - start - HEADER, None);
    if header.len() == HEADER {
        wire[start..start + HEADER].copy_from_slice(&header);
    } else {
        wire.splice(start..start + HEADER, header);
    }
}

#[cfg(test)]
mod tests;
