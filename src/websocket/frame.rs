//! WebSocket frames: header, mask and payload (RFC 6455 section 5.2).
//!
//! Owns the layout of one frame. Never decides whether a frame is legal at its place in a connection: the decoder
//! does.

/// Longest frame header in bytes: 2 fixed, 8 of extended length, 4 of mask.
pub const MAX_HEADER: usize = 14;
/// Longest payload of a control frame in bytes (section 5.5).
pub(super) const MAX_CONTROL: usize = 125;

/// The frame opcodes that RFC 6455 defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// A fragment of a message other than the first.
    Continuation = 0,
    /// A text message, in UTF-8.
    Text = 1,
    /// A binary message.
    Binary = 2,
    /// The last frame that an endpoint sends.
    Close = 8,
    /// Asks the peer for a pong with the same payload.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

impl Opcode {
    pub(super) fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    pub(super) fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// A parsed frame header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub fin: bool,
    pub reserved: bool,
    /// `None`: the RFC reserves the opcode.
    pub opcode: Option<Opcode>,
    pub mask: Option<[u8; 4]>,
    /// Length of the header in bytes.
    pub size: usize,
    /// Length of the payload in bytes, as the header claims.
    pub length: u64,
}

impl Header {
    /// Parses the header at the start of `bytes`. `None`: the header is not complete yet.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (&[first, second], rest) = bytes.split_first_chunk::<2>()?;
        let (length, rest) = match second & 0x7f {
            126 => {
                let (length, rest) = rest.split_first_chunk::<2>()?;
                (u64::from(u16::from_be_bytes(*length)), rest)
            }
            127 => {
                let (length, rest) = rest.split_first_chunk::<8>()?;
                (u64::from_be_bytes(*length), rest)
            }
            short => (u64::from(short), rest),
        };
        let (mask, rest) = if second & 0x80 == 0 {
            (None, rest)
        } else {
            let (mask, rest) = rest.split_first_chunk::<4>()?;
            (Some(*mask), rest)
        };
        Some(Self {
            fin: first & 0x80 != 0,
            reserved: first & 0x70 != 0,
            opcode: Opcode::from_bits(first & 0x0f),
            mask,
            size: bytes.len() - rest.len(),
            length,
        })
    }
}

/// Appends the header of a final frame. The caller has to append `length` bytes of payload, masked with `mask` if
/// there is one.
pub fn write_header(out: &mut Vec<u8>, opcode: Opcode, length: usize, mask: Option<[u8; 4]>) {
    let mask_bit = if mask.is_some() { 0x80 } else { 0 };
    out.push(0x80 | opcode as u8);
    match length {
        0..=125 => out.push(mask_bit | length as u8),
        126..=0xffff => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    if let Some(mask) = mask {
        out.extend_from_slice(&mask);
    }
}

/// Appends one final frame with its payload. A client has to give a `mask`, a server must not (section 5.1).
pub fn write_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) {
    write_header(out, opcode, payload.len(), mask);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(mask) = mask {
        mask_in_place(&mut out[start..], mask);
    }
}

/// Appends a close frame. Without a `code` the frame has no reason either. A reason that is too long is cut at a
/// character boundary.
pub fn write_close(out: &mut Vec<u8>, code: Option<u16>, reason: &str, mask: Option<[u8; 4]>) {
    let mut payload = Vec::with_capacity(MAX_CONTROL);
    if let Some(code) = code {
        payload.extend_from_slice(&code.to_be_bytes());
        let mut end = reason.len().min(MAX_CONTROL - 2);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        payload.extend_from_slice(&reason.as_bytes()[..end]);
    }
    write_frame(out, Opcode::Close, &payload, mask);
}

/// Masks a whole payload, or unmasks it: the operation is its own inverse (section 5.3).
pub fn mask_in_place(payload: &mut [u8], mask: [u8; 4]) {
    let word = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let (words, tail) = payload.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}
