//! Reading a compressed stream.

use super::Transport;
use flate2::{Decompress, FlushDecompress, Status};
use std::fmt;
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

/// How a zlib message ends: the mark of a sync flush.
const SYNC_MARK: [u8; 4] = [0, 0, 0xff, 0xff];
/// Output grows by at least this much at a time.
const GROWTH: usize = 16 << 10;
/// Largest window a peer may ask us to keep, as a power of two (8 MiB, the most that a decoder has to support).
const MAX_WINDOW_LOG: u32 = 23;

/// Why a stream can not be read on; the connection is lost.
#[derive(Debug)]
pub enum InflateError {
    /// Not a stream of the agreed kind, or damaged.
    Corrupt(String),
    /// A payload beyond the limit.
    TooLarge,
}

impl fmt::Display for InflateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt(what) => write!(f, "broken compression stream: {what}"),
            Self::TooLarge => f.write_str("payload beyond the limit"),
        }
    }
}

impl std::error::Error for InflateError {}

/// The decompressor of one connection.
pub struct Inflater {
    stream: Stream,
    max_payload: usize,
}

enum Stream {
    Plain,
    Zlib(Decompress),
    Zstd(Box<Decoder<'static>>),
}

impl Inflater {
    /// A stream at its start, for payloads of at most `max_payload` bytes.
    pub fn new(transport: Transport, max_payload: usize) -> Self {
        let stream = match transport {
            Transport::None => Stream::Plain,
            Transport::Zlib => Stream::Zlib(Decompress::new(true)),
            Transport::Zstd => {
                let mut decoder = Decoder::new().expect("a zstd decoder can be allocated");
                decoder
                    .set_parameter(zstd::zstd_safe::DParameter::WindowLogMax(MAX_WINDOW_LOG))
                    .expect("the window limit is within zstd's own range");
                Stream::Zstd(Box::new(decoder))
            }
        };
        Self { stream, max_payload }
    }

    /// Appends what `message` holds to `out`; true when a payload is complete in it.
    pub fn inflate(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<bool, InflateError> {
        match &mut self.stream {
            Stream::Plain => {
                if out.len() + message.len() > self.max_payload {
                    return Err(InflateError::TooLarge);
                }
                out.extend_from_slice(message);
                Ok(true)
            }
            Stream::Zlib(stream) => {
                inflate_zlib(stream, message, out, self.max_payload)?;
                Ok(message.ends_with(&SYNC_MARK))
            }
            Stream::Zstd(stream) => {
                inflate_zstd(stream, message, out, self.max_payload)?;
                Ok(true)
            }
        }
    }
}

/// Makes room for more output, never beyond `max` bytes in all.
fn grow(out: &mut Vec<u8>, more: usize, max: usize) -> Result<(), InflateError> {
    if out.len() >= max {
        return Err(InflateError::TooLarge);
    }
    if out.capacity() - out.len() < GROWTH.min(max - out.len()) {
        let more = more.max(GROWTH).max(out.len()).min(max - out.len());
        out.reserve_exact(more);
    }
    Ok(())
}

fn inflate_zlib(stream: &mut Decompress, mut input: &[u8], out: &mut Vec<u8>, max: usize) -> Result<(), InflateError> {
    loop {
        // One byte over the limit, so that a payload of exactly the limit is told from a longer one.
        grow(out, input.len() * 8, max + 1)?;
        let before = stream.total_in();
        let filled = out.len();
        let status = stream
            .decompress_vec(input, out, FlushDecompress::Sync)
            .map_err(|error| InflateError::Corrupt(error.to_string()))?;
        input = &input[(stream.total_in() - before) as usize..];
        if out.len() > max {
            out.truncate(max);
            return Err(InflateError::TooLarge);
        }
        if status == Status::StreamEnd {
            return Err(InflateError::Corrupt("the stream ended".into()));
        }
        let full = out.len() == out.capacity();
        if input.is_empty() && !full {
            return Ok(());
        }
        if !full && out.len() == filled && stream.total_in() == before {
            return Err(InflateError::Corrupt("no progress".into()));
        }
    }
}

fn inflate_zstd(stream: &mut Decoder<'_>, input: &[u8], out: &mut Vec<u8>, max: usize) -> Result<(), InflateError> {
    let mut input = InBuffer::around(input);
    loop {
        grow(out, input.src.len() * 8, max + 1)?;
        let filled = out.len();
        let consumed = input.pos();
        let mut buffer = OutBuffer::around_pos(out, filled);
        stream.run(&mut input, &mut buffer).map_err(|error| InflateError::Corrupt(error.to_string()))?;
        let full = buffer.pos() == buffer.capacity();
        if out.len() > max {
            out.truncate(max);
            return Err(InflateError::TooLarge);
        }
        if input.pos() == input.src.len() && !full {
            return Ok(());
        }
        if !full && out.len() == filled && input.pos() == consumed {
            return Err(InflateError::Corrupt("no progress".into()));
        }
    }
}
