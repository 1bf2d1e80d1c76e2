//! Decompresses the messages of one connection, which Discord compresses as one stream (docs: Gateway, Transport
//! Compression).
//!
//! Promises: a payload is never larger than the limit, whatever a peer sends. Never keeps the text of an earlier
//! payload, except the format's own window.

use super::Transport;
use flate2::{Decompress, FlushDecompress, Status};
use std::io;
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

/// The last bytes of a zlib message: the mark of a sync flush.
const SYNC_MARK: [u8; 4] = [0, 0, 0xff, 0xff];
/// The output buffer grows by at least this many bytes at a time.
const GROWTH: usize = 16 << 10;
/// Largest window that a peer may ask for, as a power of two: 8 MiB, which every zstd decoder has to support.
const MAX_WINDOW_LOG: u32 = 23;

/// Why a stream can not be read any further. The connection has to be given up.
#[derive(Debug, thiserror::Error)]
pub enum InflateError {
    /// The bytes are not a zlib stream.
    #[error("the compressed stream is corrupt: {0}")]
    Zlib(#[from] flate2::DecompressError),
    /// The bytes are not a zstd stream.
    #[error("the compressed stream is corrupt: {0}")]
    Zstd(#[from] io::Error),
    /// The peer has ended the stream, which lasts as long as the connection.
    #[error("the compressed stream is corrupt: the stream ended")]
    Ended,
    /// The decompressor takes none of the bytes that are left, and makes none of them.
    #[error("the compressed stream is corrupt: no progress")]
    Stuck,
    /// A payload is larger than the limit.
    #[error("the payload is larger than the limit")]
    TooLarge,
}

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
    /// Starts a stream whose payloads have at most `max_payload` bytes.
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

    /// Decompresses one WebSocket message and appends the result to `out`, which holds the payload so far and nothing
    /// else: the limit counts all of it. Returns whether the payload is complete; with zlib it may come in several
    /// messages. After an error the connection has to be given up.
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

/// Reserves memory for more output, `max` bytes in all at most.
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
        // One byte more than the limit, to distinguish a payload of exactly the limit from a longer one.
        grow(out, input.len() * 8, max + 1)?;
        let before = stream.total_in();
        let filled = out.len();
        let status = stream.decompress_vec(input, out, FlushDecompress::Sync)?;
        input = &input[(stream.total_in() - before) as usize..];
        if out.len() > max {
            out.truncate(max);
            return Err(InflateError::TooLarge);
        }
        if status == Status::StreamEnd {
            return Err(InflateError::Ended);
        }
        let full = out.len() == out.capacity();
        if input.is_empty() && !full {
            return Ok(());
        }
        if !full && out.len() == filled && stream.total_in() == before {
            return Err(InflateError::Stuck);
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
        stream.run(&mut input, &mut buffer)?;
        let full = buffer.pos() == buffer.capacity();
        if out.len() > max {
            out.truncate(max);
            return Err(InflateError::TooLarge);
        }
        if input.pos() == input.src.len() && !full {
            return Ok(());
        }
        if !full && out.len() == filled && input.pos() == consumed {
            return Err(InflateError::Stuck);
        }
    }
}
