//! What is on its way to one client: payloads go in, framed and compressed bytes come out.
//!
//! Every byte to a client passes here, so frames can not interleave and a compressed stream has all its messages. The
//! encoder is made before the first message (HELLO is part of the stream) and travels with the connection.

use crate::{
    compression::{Deflater, Transport},
    websocket::{Opcode, write_close, write_frame, write_header},
};

/// Producers stop filling at this many bytes and wait until they are written.
pub const HIGH_WATER: usize = 64 << 10;
/// Memory beyond this is given back once it was written.
const KEEP: usize = 2 * HIGH_WATER;

/// See the module's description.
pub struct Outbox {
    deflater: Option<Deflater>,
    wire: Vec<u8>,
    /// Bytes of `wire` that are written already.
    written: usize,
    /// A close frame is in it: nothing may follow.
    closed: bool,
}

impl Outbox {
    /// An empty one.
    pub fn new(transport: Transport) -> Self {
        Self { deflater: Deflater::new(transport), wire: Vec::new(), written: 0, closed: false }
    }

    /// Adds one payload, given in parts.
    pub fn message(&mut self, parts: &[&[u8]]) {
        if self.closed {
            return;
        }
        match &mut self.deflater {
            None => {
                let length = parts.iter().map(|part| part.len()).sum();
                self.wire.reserve(length + 10);
                write_header(&mut self.wire, Opcode::Text, length, None);
                for part in parts {
                    self.wire.extend_from_slice(part);
                }
            }
            Some(deflater) => {
                // Room for the commonest header; the size is known only afterwards.
                const GUESS: usize = 4;
                let start = self.wire.len();
                self.wire.extend_from_slice(&[0; GUESS]);
                for part in parts {
                    deflater.write(part, &mut self.wire);
                }
                deflater.flush(&mut self.wire);
                let mut header = Vec::with_capacity(10);
                write_header(&mut header, Opcode::Binary, self.wire.len() - start - GUESS, None);
                self.wire.splice(start..start + GUESS, header);
            }
        }
    }

    /// Adds a pong.
    pub fn pong(&mut self, payload: &[u8]) {
        if !self.closed {
            write_frame(&mut self.wire, Opcode::Pong, payload, None);
        }
    }

    /// Adds a close frame; whatever is added afterwards is dropped.
    pub fn close(&mut self, code: Option<u16>, reason: &str) {
        if !self.closed {
            write_close(&mut self.wire, code, reason, None);
            self.closed = true;
        }
    }

    /// Has a close frame been added?
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Adds bytes that are no WebSocket frames: the HTTP response of the upgrade.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.wire.extend_from_slice(bytes);
    }

    /// What has to be written next.
    pub fn pending(&self) -> &[u8] {
        &self.wire[self.written..]
    }

    /// Announces that the first `n` bytes of [`Outbox::pending`] were written.
    pub fn wrote(&mut self, n: usize) {
        self.written += n;
        assert!(self.written <= self.wire.len(), "more bytes written than there were");
        if self.written == self.wire.len() {
            self.written = 0;
            if self.wire.capacity() > KEEP {
                self.wire = Vec::new();
            } else {
                self.wire.clear();
            }
        }
    }

    /// Should producers wait?
    pub fn is_full(&self) -> bool {
        self.wire.len() - self.written >= HIGH_WATER
    }

    /// Gives the empty buffer back, for a connection that went idle.
    pub fn release(&mut self) {
        if self.pending().is_empty() {
            self.wire = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compression::Inflater,
        websocket::{Inbound, Message, Role},
    };

    /// Reads everything that is pending, in writes of `step` bytes, as a client would.
    fn read(outbox: &mut Outbox, inbound: &mut Inbound, inflater: &mut Inflater, step: usize) -> Vec<String> {
        let mut got = Vec::new();
        while !outbox.pending().is_empty() {
            let space = inbound.space();
            let n = outbox.pending().len().min(step).min(space.len());
            space[..n].copy_from_slice(&outbox.pending()[..n]);
            inbound.filled(n);
            outbox.wrote(n);
            while let Some(message) = inbound.next().unwrap() {
                got.push(match message {
                    Message::Text(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                    Message::Binary(bytes) => {
                        let mut out = Vec::new();
                        assert!(inflater.inflate(bytes, &mut out).unwrap());
                        String::from_utf8(out).unwrap()
                    }
                    other => format!("{other:?}"),
                });
            }
        }
        got
    }

    #[test]
    fn payloads_of_all_sizes_arrive_whole() {
        for transport in [Transport::None, Transport::Zlib, Transport::Zstd] {
            let mut outbox = Outbox::new(transport);
            let mut inbound = Inbound::new(Role::Client, 16 << 20);
            let mut inflater = Inflater::new(transport, 16 << 20);
            let mut random = fastrand::Rng::with_seed(1);
            for size in [0, 1, 100, 125, 126, 1_000, 65_535, 65_536, 300_000] {
                let text: String = (0..size).map(|_| random.alphanumeric()).collect();
                let (a, b) = text.split_at(size / 3);
                outbox.message(&[a.as_bytes(), b.as_bytes()]);
                outbox.message(&[b"x"]);
                assert_eq!(read(&mut outbox, &mut inbound, &mut inflater, 7_777), [text, "x".into()]);
            }
        }
    }

    #[test]
    fn nothing_follows_a_close() {
        let mut outbox = Outbox::new(Transport::None);
        outbox.message(&[b"1"]);
        outbox.close(Some(4000), "bye");
        outbox.message(&[b"2"]);
        outbox.pong(b"");
        outbox.close(Some(4001), "");
        let got = read(&mut outbox, &mut Inbound::new(Role::Client, 99), &mut Inflater::new(Transport::None, 99), 1);
        assert_eq!(got, ["1", "Close(Some((4000, \"bye\")))"]);
    }

    #[test]
    fn memory_is_given_back() {
        let mut outbox = Outbox::new(Transport::None);
        outbox.message(&[&vec![0; 1 << 20]]);
        assert!(outbox.is_full());
        outbox.wrote(outbox.pending().len());
        assert_eq!(outbox.wire.capacity(), 0);
    }
}
