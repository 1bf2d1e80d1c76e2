//! Compresses the messages of one connection as one stream (docs: Gateway, Transport Compression).
//!
//! Promises: the peer can read each message as soon as it has the bytes up to its flush. Memory is the bound that
//! [`Deflater`] names.

use super::Transport;
use flate2::{Compress, Compression, FlushCompress};
use zstd::{
    stream::raw::{Encoder, InBuffer, Operation, OutBuffer},
    zstd_safe::CParameter,
};

/// The cheapest compression levels. For messages of 1 KB they take a fifth of the time of the next levels, and their
/// output is a tenth larger.
const ZLIB_LEVEL: u32 = 1;
const ZSTD_LEVEL: i32 = 1;
/// The window of zstd: 128 KiB. Compared with the 512 KiB that this level would use, an encoder needs a third less
/// memory, and its output is a twentieth larger.
const ZSTD_WINDOW_LOG: u32 = 17;
/// Longest block of zstd in bytes. The encoder has several buffers of this size: with zstd's default of 128 KiB an
/// encoder had three times the memory, and its output was not smaller.
const ZSTD_MAX_BLOCK: u32 = 16 << 10;
/// The output buffer grows by at least this many bytes at a time.
const GROWTH: usize = 4 << 10;

/// A zlib header (RFC 1950 section 2.2): deflate, a window of 32 KiB, the fastest algorithm.
const ZLIB_HEADER: [u8; 2] = [0x78, 0x01];
/// A zstd frame header (RFC 8878 section 3.1.1.1): no checksum, no content size, the window of [`ZSTD_WINDOW_LOG`].
const ZSTD_HEADER: [u8; 6] = [0x28, 0xb5, 0x2f, 0xfd, 0, ((ZSTD_WINDOW_LOG - 10) << 3) as u8];
/// What a compressor allocates, in bytes.
const ZLIB_MEMORY: usize = 372 << 10;
/// See [`ZLIB_MEMORY`].
const ZSTD_MEMORY: usize = 310 << 10;
/// Longest stored block in bytes: zlib has 16 bits for its length.
const MAX_STORED: usize = 0xffff;

/// The compressor of one connection.
///
/// The stream begins with the first message, HELLO. Until [`Deflater::start`] the stream consists of stored
/// (uncompressed) blocks, which both formats have, and there is no compressor. The compressor continues the stream
/// after these blocks. So a connection that never identifies costs no memory here. A compressor takes 372 KiB for
/// zlib and 310 KiB for zstd; the part that no payload was long enough for is never touched.
pub struct Deflater {
    stream: Stream,
}

enum Stream {
    /// Messages are stored uncompressed. `begun`: the header of the stream has been written.
    Stored {
        zstd: bool,
        begun: bool,
    },
    Zlib(Box<Compress>),
    /// `header`: the encoder's next output begins with a second header, which has to be dropped.
    Zstd {
        encoder: Box<Encoder<'static>>,
        header: bool,
    },
}

impl Deflater {
    /// Starts a stream. `None`: the connection has no transport compression.
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

    /// Bytes that it takes once it has started.
    pub fn memory(&self) -> usize {
        match self.stream {
            Stream::Stored { zstd: true, .. } | Stream::Zstd { .. } => ZSTD_MEMORY,
            Stream::Stored { zstd: false, .. } | Stream::Zlib(_) => ZLIB_MEMORY,
        }
    }

    /// Compresses everything that is written from now on. Must not be called within a message.
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

    /// Adds a part of a message. The compressed bytes are appended to `out` now or at the flush.
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

    /// Ends a message: appends to `out` what the peer needs to read everything that was written.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        match &mut self.stream {
            Stream::Stored { zstd, begun } => {
                begin_stored(*zstd, begun, out);
                // An empty stored block ends a message in zlib. In zstd the peer can read every block at once.
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

/// Writes the header of the stream before the first stored block.
fn begin_stored(zstd: bool, begun: &mut bool, out: &mut Vec<u8>) {
    if !*begun {
        *begun = true;
        out.extend_from_slice(if zstd { &ZSTD_HEADER } else { &ZLIB_HEADER });
    }
}

/// Appends a stored block of at most [`MAX_STORED`] bytes that is not the last one of the stream (RFC 1951 section
/// 3.2.4, RFC 8878 section 3.1.1.2).
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

/// Drops the encoder's header when stored blocks have already begun the stream with one.
fn drop_header(header: &mut bool, start: usize, out: &mut Vec<u8>) {
    if *header && out.len() > start {
        *header = false;
        assert!(out[start..].starts_with(&ZSTD_HEADER), "the encoder writes the header that the stored blocks had");
        out.drain(start..start + ZSTD_HEADER.len());
    }
}

fn deflate_zlib(stream: &mut Compress, mut input: &[u8], flush: FlushCompress, out: &mut Vec<u8>) {
    loop {
        out.reserve(GROWTH.max(input.len() / 4));
        let before = stream.total_in();
        stream.compress_vec(input, out, flush).expect("compressing into memory can not fail");
        input = &input[(stream.total_in() - before) as usize..];
        // A flush is complete when it has not filled the output buffer.
        if input.is_empty() && out.len() < out.capacity() {
            return;
        }
    }
}
