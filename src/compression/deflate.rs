//! Writing a compressed stream.

use super::Transport;
use flate2::{Compress, Compression, FlushCompress};
use zstd::{
    stream::raw::{Encoder, InBuffer, Operation, OutBuffer},
    zstd_safe::CParameter,
};

/// The cheapest levels: at 1 KB a message they cost a fifth of the next ones and give up a tenth of the ratio.
const ZLIB_LEVEL: u32 = 1;
const ZSTD_LEVEL: i32 = 1;
/// 128 KiB of history: a third less memory than the 512 KiB of this level, and a twentieth of the ratio.
const ZSTD_WINDOW_LOG: u32 = 17;
/// Longest block. Several buffers are as long: with the 128 KiB that zstd would take an encoder had three times the
/// memory, and gained nothing.
const ZSTD_MAX_BLOCK: u32 = 16 << 10;
/// Output grows by at least this much at a time.
const GROWTH: usize = 4 << 10;

/// A zlib header (RFC 1950 section 2.2): deflate with a window of 32 KiB, the fastest algorithm.
const ZLIB_HEADER: [u8; 2] = [0x78, 0x01];
/// A frame header of zstd (RFC 8878 section 3.1.1.1): no checksum, no size, the window from above.
const ZSTD_HEADER: [u8; 6] = [0x28, 0xb5, 0x2f, 0xfd, 0, ((ZSTD_WINDOW_LOG - 10) << 3) as u8];
/// Longest block that is not compressed; zlib's have 16 bits for it.
const MAX_STORED: usize = 0xffff;

/// The compressor of one connection.
///
/// The stream begins with the first message, HELLO, but a compressor is not made before [`Deflater::start`]: until then
/// messages are stored in blocks that both formats have for that, and the compressor goes on behind them. So a
/// connection that never identifies costs nothing here. Afterwards it is 372 KiB for zlib and 310 KiB
/// for zstd, of which what no payload was long enough for stays untouched.
pub struct Deflater {
    stream: Stream,
}

enum Stream {
    /// Nothing is compressed yet. `begun`: the header of the stream was written.
    Stored {
        zstd: bool,
        begun: bool,
    },
    Zlib(Box<Compress>),
    /// `header`: the next output begins with a header.
    Zstd {
        encoder: Box<Encoder<'static>>,
        header: bool,
    },
}

impl Deflater {
    /// A stream at its start; `None` when there is nothing to compress.
    pub fn new(transport: Transport) -> Option<Self> {
        match transport {
            Transport::None => None,
            Transport::Zlib => Some(Self { stream: Stream::Stored { zstd: false, begun: false } }),
            Transport::Zstd => Some(Self { stream: Stream::Stored { zstd: true, begun: false } }),
        }
    }

    /// The compression that it writes.
    pub fn transport(&self) -> Transport {
        match self.stream {
            Stream::Stored { zstd: true, .. } | Stream::Zstd { .. } => Transport::Zstd,
            Stream::Stored { zstd: false, .. } | Stream::Zlib(_) => Transport::Zlib,
        }
    }

    /// From now on, between two payloads, the stream is compressed.
    pub fn start(&mut self) {
        let Stream::Stored { zstd, begun } = self.stream else { return };
        self.stream = if zstd {
            let mut encoder = Encoder::new(ZSTD_LEVEL).expect("a zstd encoder can be allocated");
            encoder
                .set_parameter(CParameter::WindowLog(ZSTD_WINDOW_LOG))
                .and_then(|()| encoder.set_parameter(CParameter::MaxBlockSize(ZSTD_MAX_BLOCK)))
                .expect("these are within zstd's own ranges");
            Stream::Zstd { encoder: Box::new(encoder), header: begun }
        } else {
            Stream::Zlib(Box::new(Compress::new(Compression::new(ZLIB_LEVEL), !begun)))
        };
    }

    /// Adds a part of a payload; output may come now or at the flush.
    pub fn write(&mut self, part: &[u8], out: &mut Vec<u8>) {
        match &mut self.stream {
            Stream::Stored { zstd, begun } => {
                begin_stored(*zstd, begun, out);
                for block in part.chunks(MAX_STORED) {
                    store(*zstd, block, out);
                }
            }
            Stream::Zlib(stream) => deflate_zlib(stream, part, FlushCompress::None, out),
            Stream::Zstd { encoder, header } => {
                let start = out.len();
                let mut input = InBuffer::around(part);
                while input.pos() < part.len() {
                    out.reserve(GROWTH);
                    let filled = out.len();
                    encoder
                        .run(&mut input, &mut OutBuffer::around_pos(out, filled))
                        .expect("compressing into memory can not fail");
                }
                drop_header(header, start, out);
            }
        }
    }

    /// Ends a payload: everything written so far can be read by the peer.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        match &mut self.stream {
            Stream::Stored { zstd, begun } => {
                begin_stored(*zstd, begun, out);
                // What the end of a message looks like in zlib; in zstd every block can be read at once.
                if !*zstd {
                    store(false, &[], out);
                }
            }
            Stream::Zlib(stream) => deflate_zlib(stream, &[], FlushCompress::Sync, out),
            Stream::Zstd { encoder, header } => {
                let start = out.len();
                loop {
                    out.reserve(GROWTH);
                    let filled = out.len();
                    let left = encoder
                        .flush(&mut OutBuffer::around_pos(out, filled))
                        .expect("compressing into memory can not fail");
                    if left == 0 {
                        break;
                    }
                }
                drop_header(header, start, out);
            }
        }
    }
}

fn begin_stored(zstd: bool, begun: &mut bool, out: &mut Vec<u8>) {
    if !*begun {
        *begun = true;
        out.extend_from_slice(if zstd { &ZSTD_HEADER } else { &ZLIB_HEADER });
    }
}

/// A block as it is, of at most [`MAX_STORED`] bytes, and not the last one of its stream (RFC 1951 section 3.2.4, RFC 8878
/// section 3.1.1.2).
fn store(zstd: bool, block: &[u8], out: &mut Vec<u8>) {
    let length = block.len() as u32;
    if zstd {
        out.extend_from_slice(&(length << 3).to_le_bytes()[..3]);
    } else {
        out.push(0);
        out.extend_from_slice(&(length | !length << 16).to_le_bytes());
    }
    out.extend_from_slice(block);
}

/// The encoder's own header is dropped when the stream has one already.
fn drop_header(header: &mut bool, start: usize, out: &mut Vec<u8>) {
    if *header && out.len() > start {
        *header = false;
        assert!(out[start..].starts_with(&ZSTD_HEADER), "the encoder has a window of its own");
        out.drain(start..start + ZSTD_HEADER.len());
    }
}

fn deflate_zlib(stream: &mut Compress, mut input: &[u8], flush: FlushCompress, out: &mut Vec<u8>) {
    loop {
        out.reserve(GROWTH.max(input.len() / 4));
        let before = stream.total_in();
        stream.compress_vec(input, out, flush).expect("compressing into memory can not fail");
        input = &input[(stream.total_in() - before) as usize..];
        // A flush is complete when it left room in the output.
        if input.is_empty() && out.len() < out.capacity() {
            return;
        }
    }
}
