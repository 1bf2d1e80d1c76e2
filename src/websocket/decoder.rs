//! Decodes the bytes that one WebSocket connection receives into messages. The decoder owns the read buffer.
//!
//! Promises: every message obeys RFC 6455; memory stays within the bound of [`FrameDecoder`]; no input causes a panic.
//! Never reads a socket and never answers a ping.

use super::frame::{Header, MAX_CONTROL, MAX_HEADER, Opcode, mask_in_place};
use std::{cell::RefCell, fmt, mem, ops::Range};

/// The role of this endpoint. A server receives masked frames, a client unmasked ones (RFC 6455 section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// This endpoint opened the connection.
    Client,
    /// This endpoint accepted the connection.
    Server,
}

/// A received message or control frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A complete text message. It is valid UTF-8.
    Text(&'a [u8]),
    /// A complete binary message.
    Binary(&'a [u8]),
    /// A ping. The receiver has to answer with a pong of the same payload.
    Ping(&'a [u8]),
    /// A pong. It may come without a ping.
    Pong(&'a [u8]),
    /// The peer's close frame, with code and reason if it has any.
    Close(Option<(u16, &'a str)>),
}

/// Why the bytes of the peer can not be decoded further: the peer broke a rule of RFC 6455, or sent a message above the
/// decoder's limit. The connection has to be closed. [`Violation::close_code`] is the code of the RFC; a client of the
/// gateway gets 4002 instead for [`Violation::TooLarge`], as at Discord.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The message is longer than the limit.
    #[error("message too large")]
    TooLarge,
    /// A text message or a close reason is not UTF-8.
    #[error("text is not UTF-8")]
    Utf8,
    /// A frame of a client has no mask, or a frame of a server has one.
    #[error("wrong masking")]
    Mask,
    /// A reserved bit is set, though no extension was negotiated.
    #[error("reserved bit set without an extension")]
    ReservedBit,
    /// The RFC does not define the opcode.
    #[error("unknown opcode")]
    Opcode,
    /// A control frame is fragmented or longer than 125 bytes.
    #[error("control frame fragmented or too long")]
    Control,
    /// A continuation frame without a message to continue, or a new message inside a fragmented one.
    #[error("fragments out of order")]
    Fragment,
    /// The payload of a close frame has one byte, or a code that must not be sent.
    #[error("illegal close code")]
    CloseCode,
}

impl Violation {
    /// The close code for this violation (RFC 6455 section 7.4.1).
    pub fn close_code(self) -> u16 {
        match self {
            Self::TooLarge => 1009,
            Self::Utf8 => 1007,
            _ => 1002,
        }
    }
}

/// Decodes the frames of one connection, with the buffer that the connection reads into. Read bytes into
/// [`FrameDecoder::space`], report their number to [`FrameDecoder::filled`], then call [`FrameDecoder::next`] until it returns
/// `None`.
///
/// Memory: at most twice the sum of the message limit and one read chunk (the second time for a fragmented message).
/// The buffer grows with the bytes that arrived, never with the length that a header claims. A connection can give an
/// empty buffer back to its thread, and the next connection that reads takes it. So many connections read into the
/// same memory, which stays in the CPU's cache. The decoder is plain data, so a connection can move to another thread
/// between two reads without losing a byte.
pub struct FrameDecoder {
    role: Role,
    max_message: usize,
    /// All of the buffer is initialised. `start..end` has the bytes that are not consumed.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The fragments that have arrived of a fragmented message.
    assembled: Vec<u8>,
    /// The opcode of the first of these fragments; `None`: no message is incomplete.
    assembling: Option<Opcode>,
    /// The last message that was returned lies in `assembled`, which the next call may clear.
    handed_out: bool,
}

thread_local! {
    /// For each role, a buffer that no connection of this thread uses now.
    static SPARE: RefCell<[Vec<u8>; 2]> = RefCell::default();
}

/// Where the payload of a decoded message lies.
enum PayloadLocation {
    Buffer(Range<usize>),
    Assembled,
}

impl FrameDecoder {
    /// Least space in bytes that is offered to one read. Bots send little, Discord sends bursts.
    const READ_CHUNK_SERVER: usize = 2 << 10;
    const READ_CHUNK_CLIENT: usize = 32 << 10;

    /// Makes a decoder for messages of at most `max_message` bytes. It allocates nothing before the first read.
    pub fn new(role: Role, max_message: usize) -> Self {
        Self {
            role,
            max_message,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            assembled: Vec::new(),
            assembling: None,
            handed_out: false,
        }
    }

    fn read_chunk(&self) -> usize {
        match self.role {
            Role::Client => Self::READ_CHUNK_CLIENT,
            Role::Server => Self::READ_CHUNK_SERVER,
        }
    }

    /// The space for the next read. It is never empty.
    pub fn space(&mut self) -> &mut [u8] {
        let chunk = self.read_chunk();
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.buffer.len() > 2 * chunk {
                self.buffer = Vec::new();
            }
            if self.buffer.is_empty() {
                self.buffer = SPARE.with_borrow_mut(|spare| mem::take(&mut spare[self.role as usize]));
            }
        } else if self.start > 0 && self.buffer.len() - self.end < chunk {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buffer.len() - self.end < chunk {
            // Doubling keeps the total copying linear in the bytes received. The bound holds for messages. An HTTP
            // head may grow beyond it, in chunks rather than byte by byte; its reader has a bound of its own.
            let target = (self.end + chunk).max(self.end * 2).min(self.max_message + MAX_HEADER + chunk);
            self.buffer.resize(target.max(self.end + chunk), 0);
        }
        &mut self.buffer[self.end..]
    }

    /// Reports that a read has filled the first `n` bytes of [`FrameDecoder::space`].
    pub fn filled(&mut self, n: usize) {
        self.end += n;
        assert!(self.end <= self.buffer.len(), "more bytes filled than there was space");
    }

    /// Appends received bytes by copying them, for callers that receive into memory of their own instead of into
    /// [`FrameDecoder::space`]. The buffer grows to exactly what it holds.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.start >= self.buffer.len() / 2 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        self.buffer.truncate(self.end);
        self.buffer.extend_from_slice(bytes);
        self.end = self.buffer.len();
    }

    /// Frees the buffer when it is empty and larger than `keep` bytes.
    pub fn shrink(&mut self, keep: usize) {
        if self.start == self.end && self.buffer.capacity() > keep {
            self.buffer = Vec::new();
            self.start = 0;
            self.end = 0;
        }
        if self.assembling.is_none() && self.assembled.capacity() > keep {
            self.assembled = Vec::new();
        }
    }

    /// Number of bytes that have been received and not consumed.
    pub fn pending(&self) -> usize {
        self.end - self.start
    }

    /// The bytes that have been received and not consumed. The opening handshake reads these before the first frame.
    pub fn unconsumed(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Drops the first `n` bytes of [`FrameDecoder::unconsumed`].
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.pending(), "more bytes consumed than there were");
        self.start += n;
    }

    /// Gives an empty buffer back to the thread. To be called when the connection has nothing more to read now.
    pub fn release(&mut self) {
        if self.start == self.end {
            let buffer = mem::take(&mut self.buffer);
            if (1..=2 * self.read_chunk()).contains(&buffer.len()) {
                SPARE.with_borrow_mut(|spare| spare[self.role as usize] = buffer);
            }
            self.start = 0;
            self.end = 0;
        }
        if self.assembling.is_none() {
            self.assembled = Vec::new();
        }
    }

    /// Returns the next complete message; `None` when more bytes are needed. After a violation the decoder must not
    /// be used again.
    #[allow(clippy::should_implement_trait)] // a message borrows the buffer, which the items of an Iterator can not
    pub fn next(&mut self) -> Result<Option<Message<'_>>, Violation> {
        if self.handed_out {
            self.handed_out = false;
            if self.assembled.capacity() > 2 * self.read_chunk() {
                self.assembled = Vec::new();
            } else {
                self.assembled.clear();
            }
        }
        let Some((opcode, location)) = self.decode()? else { return Ok(None) };
        let payload = match location {
            PayloadLocation::Buffer(range) => &self.buffer[range],
            PayloadLocation::Assembled => {
                self.handed_out = true;
                &self.assembled[..]
            }
        };
        Ok(Some(match opcode {
            Opcode::Text => {
                simdutf8::basic::from_utf8(payload).map_err(|_| Violation::Utf8)?;
                Message::Text(payload)
            }
            Opcode::Binary | Opcode::Continuation => Message::Binary(payload),
            Opcode::Ping => Message::Ping(payload),
            Opcode::Pong => Message::Pong(payload),
            Opcode::Close => Message::Close(parse_close(payload)?),
        }))
    }

    /// Consumes frames up to the end of a message or of a control frame.
    fn decode(&mut self) -> Result<Option<(Opcode, PayloadLocation)>, Violation> {
        loop {
            let Some(header) = Header::parse(&self.buffer[self.start..self.end]) else { return Ok(None) };
            let opcode = self.check(&header)?;
            // `check` has bounded the length, so it fits a usize.
            let length = header.length as usize;
            let from = self.start + header.size;
            if self.end - from < length {
                return Ok(None);
            }
            let range = from..from + length;
            if let Some(mask) = header.mask {
                mask_in_place(&mut self.buffer[range.clone()], mask);
            }
            self.start = range.end;
            if opcode.is_control() {
                return Ok(Some((opcode, PayloadLocation::Buffer(range))));
            }
            match (header.fin, self.assembling) {
                (true, None) => return Ok(Some((opcode, PayloadLocation::Buffer(range)))),
                (fin, first) => {
                    self.assembled.extend_from_slice(&self.buffer[range]);
                    let first = first.unwrap_or(opcode);
                    if fin {
                        self.assembling = None;
                        return Ok(Some((first, PayloadLocation::Assembled)));
                    }
                    self.assembling = Some(first);
                }
            }
        }
    }

    /// Checks that a frame with this header is legal now, and that its message stays within the limit.
    fn check(&self, header: &Header) -> Result<Opcode, Violation> {
        if header.reserved {
            return Err(Violation::ReservedBit);
        }
        let opcode = header.opcode.ok_or(Violation::Opcode)?;
        if header.mask.is_some() != (self.role == Role::Server) {
            return Err(Violation::Mask);
        }
        if opcode.is_control() {
            if !header.fin || header.length > MAX_CONTROL as u64 {
                return Err(Violation::Control);
            }
            return Ok(opcode);
        }
        if (opcode == Opcode::Continuation) != self.assembling.is_some() {
            return Err(Violation::Fragment);
        }
        if header.length > (self.max_message - self.assembled.len()) as u64 {
            return Err(Violation::TooLarge);
        }
        Ok(opcode)
    }
}

/// Parses the payload of a close frame (section 5.5.1).
fn parse_close(payload: &[u8]) -> Result<Option<(u16, &str)>, Violation> {
    if payload.is_empty() {
        return Ok(None);
    }
    let (code, reason) = payload.split_first_chunk::<2>().ok_or(Violation::CloseCode)?;
    let code = u16::from_be_bytes(*code);
    // Section 7.4: 1004 to 1006 and 1015 are never sent; the other codes below 3000 that are missing here are
    // reserved.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::CloseCode);
    }
    let reason = std::str::from_utf8(reason).map_err(|_| Violation::Utf8)?;
    Ok(Some((code, reason)))
}

impl fmt::Debug for FrameDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The buffer may contain a token, so Debug leaves it out.
        f.debug_struct("FrameDecoder")
            .field("role", &self.role)
            .field("pending", &self.pending())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{write_close, write_frame, write_header};
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Clone)]
    enum Owned {
        Text(Vec<u8>),
        Binary(Vec<u8>),
        Ping(Vec<u8>),
        Pong(Vec<u8>),
        Close(Option<(u16, String)>),
    }

    impl From<Message<'_>> for Owned {
        fn from(message: Message<'_>) -> Self {
            match message {
                Message::Text(bytes) => Self::Text(bytes.to_vec()),
                Message::Binary(bytes) => Self::Binary(bytes.to_vec()),
                Message::Ping(bytes) => Self::Ping(bytes.to_vec()),
                Message::Pong(bytes) => Self::Pong(bytes.to_vec()),
                Message::Close(close) => Self::Close(close.map(|(code, reason)| (code, reason.to_owned()))),
            }
        }
    }

    /// Gives `bytes` to the decoder in pieces of the given sizes (repeated) and collects the messages.
    fn feed(inbound: &mut FrameDecoder, mut bytes: &[u8], pieces: &[usize]) -> Result<Vec<Owned>, Violation> {
        let mut out = Vec::new();
        let mut pieces = pieces.iter().cycle();
        while !bytes.is_empty() {
            let space = inbound.space();
            assert!(!space.is_empty());
            let n = bytes.len().min(space.len()).min(*pieces.next().unwrap());
            space[..n].copy_from_slice(&bytes[..n]);
            inbound.filled(n);
            bytes = &bytes[n..];
            while let Some(message) = inbound.next()? {
                out.push(message.into());
            }
        }
        Ok(out)
    }

    fn frame(fin: bool, opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
        let mut out = Vec::new();
        write_frame(&mut out, Opcode::from_bits(opcode).unwrap_or(Opcode::Text), payload, mask);
        out[0] = (if fin { 0x80 } else { 0 }) | opcode;
        out
    }

    const MASK: Option<[u8; 4]> = Some([1, 2, 3, 250]);

    fn violation(bytes: &[u8]) -> Violation {
        feed(&mut FrameDecoder::new(Role::Server, 4096), bytes, &[usize::MAX]).unwrap_err()
    }

    #[test]
    fn violations_are_found() {
        assert_eq!(violation(&frame(true, 1, b"a", None)), Violation::Mask);
        assert_eq!(violation(&frame(true, 1, b"\xff", MASK)), Violation::Utf8);
        assert_eq!(violation(&frame(true, 3, b"", MASK)), Violation::Opcode);
        assert_eq!(violation(&frame(true, 11, b"", MASK)), Violation::Opcode);
        assert_eq!(violation(&frame(false, 9, b"", MASK)), Violation::Control);
        assert_eq!(violation(&frame(true, 9, &[0; 126], MASK)), Violation::Control);
        assert_eq!(violation(&frame(true, 0, b"", MASK)), Violation::Fragment);
        assert_eq!(violation(&[frame(false, 1, b"", MASK), frame(true, 1, b"", MASK)].concat()), Violation::Fragment);
        assert_eq!(violation(&frame(true, 2, &[0; 4097], MASK)), Violation::TooLarge);
        assert_eq!(
            violation(&[frame(false, 2, &[0; 4000], MASK), frame(true, 0, &[0; 97], MASK)].concat()),
            Violation::TooLarge
        );
        let mut reserved = frame(true, 1, b"", MASK);
        reserved[0] |= 0x40;
        assert_eq!(violation(&reserved), Violation::ReservedBit);
        for payload in [&[3u8][..], &1005u16.to_be_bytes(), &999u16.to_be_bytes(), &2000u16.to_be_bytes()] {
            assert_eq!(violation(&frame(true, 8, payload, MASK)), Violation::CloseCode);
        }
        assert_eq!(violation(&frame(true, 8, b"\x03\xe8\xff", MASK)), Violation::Utf8);
        let client = feed(&mut FrameDecoder::new(Role::Client, 64), &frame(true, 1, b"a", MASK), &[1]);
        assert_eq!(client, Err(Violation::Mask));
    }

    #[test]
    fn a_header_that_claims_much_allocates_little() {
        let mut inbound = FrameDecoder::new(Role::Client, 1 << 30);
        let mut header = Vec::new();
        write_header(&mut header, Opcode::Binary, 1 << 30, None);
        assert_eq!(feed(&mut inbound, &header, &[1]), Ok(vec![]));
        assert!(inbound.space().len() <= 64 << 10);
    }

    #[test]
    fn close_reasons_are_cut_at_a_character() {
        let mut out = Vec::new();
        write_close(&mut out, Some(4000), &"é".repeat(100), None);
        let got = feed(&mut FrameDecoder::new(Role::Client, 64), &out, &[7]).unwrap();
        assert_eq!(got, vec![Owned::Close(Some((4000, "é".repeat(61))))]);
    }

    #[test]
    fn memory_is_given_back() {
        let mut inbound = FrameDecoder::new(Role::Client, 8 << 20);
        let big = frame(true, 2, &vec![7; 4 << 20], None);
        assert_eq!(feed(&mut inbound, &big, &[40_000]).unwrap().len(), 1);
        inbound.space();
        assert!(inbound.buffer.len() <= FrameDecoder::READ_CHUNK_CLIENT);
        inbound.release();
        assert_eq!(inbound.buffer.capacity(), 0);
    }

    #[test]
    fn connections_lend_one_another_their_buffer() {
        let mut first = FrameDecoder::new(Role::Client, 1 << 20);
        let memory = first.space().as_ptr();
        let half = &frame(true, 2, b"payload", None)[..5];
        first.space()[..5].copy_from_slice(half);
        first.filled(5);
        first.release();
        assert_eq!(first.unconsumed(), half, "unconsumed bytes stay in the buffer");
        first.consume(5);
        first.release();
        // Releasing without a buffer keeps the spare buffer.
        first.release();
        let mut other = FrameDecoder::new(Role::Server, 1 << 20);
        assert!(
            other.space().len() < FrameDecoder::READ_CHUNK_CLIENT,
            "the spare buffer of a client is not given to a server"
        );
        let mut second = FrameDecoder::new(Role::Client, 1 << 20);
        assert_eq!(second.space().as_ptr(), memory);
        assert_ne!(first.space().as_ptr(), memory);
    }

    fn message() -> impl Strategy<Value = Owned> {
        let bytes = prop::collection::vec(any::<u8>(), 0..70_000);
        let small = prop::collection::vec(any::<u8>(), 0..=125);
        prop_oneof![
            ".{0,300}".prop_map(|text| Owned::Text(text.into_bytes())),
            bytes.prop_map(Owned::Binary),
            small.clone().prop_map(Owned::Ping),
            small.prop_map(Owned::Pong),
            prop::option::of((3000u16..5000, "[a-z]{0,100}")).prop_map(Owned::Close),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The decoder returns what was written, whatever the masks, the fragments, the pings between them, and the
        /// sizes of the reads.
        #[test]
        fn round_trip(
            messages in prop::collection::vec((message(), 1usize..5, any::<bool>()), 1..8),
            mask in prop::option::of(any::<[u8; 4]>()),
            pieces in prop::collection::vec(1usize..40_000, 1..20),
        ) {
            let mut wire = Vec::new();
            let mut expected = Vec::new();
            for (message, fragments, ping_between) in messages {
                let (opcode, payload) = match &message {
                    Owned::Text(bytes) => (1, bytes.clone()),
                    Owned::Binary(bytes) => (2, bytes.clone()),
                    Owned::Ping(bytes) => (9, bytes.clone()),
                    Owned::Pong(bytes) => (10, bytes.clone()),
                    Owned::Close(close) => {
                        write_close(&mut wire, close.as_ref().map(|c| c.0), close.as_ref().map_or("", |c| &c.1), mask);
                        expected.push(message);
                        continue;
                    }
                };
                let fragments = if opcode < 8 { fragments } else { 1 };
                let size = payload.len().div_ceil(fragments).max(1);
                let mut parts: Vec<&[u8]> = payload.chunks(size).collect();
                if parts.is_empty() {
                    parts.push(b"");
                }
                for (i, part) in parts.iter().enumerate() {
                    let last = i + 1 == parts.len();
                    wire.extend(frame(last, if i == 0 { opcode } else { 0 }, part, mask));
                    if ping_between && !last {
                        wire.extend(frame(true, 9, b"between", mask));
                        expected.push(Owned::Ping(b"between".to_vec()));
                    }
                }
                expected.push(message);
            }
            let role = if mask.is_some() { Role::Server } else { Role::Client };
            let mut inbound = FrameDecoder::new(role, 1 << 20);
            prop_assert_eq!(feed(&mut inbound, &wire, &pieces), Ok(expected));
            prop_assert_eq!(inbound.pending(), 0);
        }

        /// Random bytes never cause a panic, and what the decoder has assembled of a fragmented message is within its
        /// limit afterwards.
        #[test]
        fn noise(bytes in prop::collection::vec(any::<u8>(), 0..5000), pieces in prop::collection::vec(1usize..300, 1..9)) {
            for role in [Role::Client, Role::Server] {
                let mut inbound = FrameDecoder::new(role, 1000);
                let _ = feed(&mut inbound, &bytes, &pieces);
                prop_assert!(inbound.assembled.len() <= 1000);
            }
        }
    }
}
