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
/// 128 KiB of history: 240 KiB for an encoder instead of 613 at a ratio of 8.4 instead of 8.7.
const ZSTD_WINDOW_LOG: u32 = 17;
/// Output grows by at least this much at a time.
const GROWTH: usize = 4 << 10;

/// The compressor of one connection. Memory: some 300 KiB for zlib, 240 KiB for zstd.
pub struct Deflater {
    stream: Stream,
}

enum Stream {
    Zlib(Box<Compress>),
    Zstd(Box<Encoder<'static>>),
}

impl Deflater {
    /// A stream at its start; `None` when there is nothing to compress.
    pub fn new(transport: Transport) -> Option<Self> {
        let stream = match transport {
            Transport::None => return None,
            Transport::Zlib => Stream::Zlib(Box::new(Compress::new(Compression::new(ZLIB_LEVEL), true))),
            Transport::Zstd => {
                let mut encoder = Encoder::new(ZSTD_LEVEL).expect("a zstd encoder can be allocated");
                encoder
                    .set_parameter(CParameter::WindowLog(ZSTD_WINDOW_LOG))
                    .expect("the window is within zstd's own range");
                Stream::Zstd(Box::new(encoder))
            }
        };
        Some(Self { stream })
    }

    /// Adds a part of a payload; output may come now or at the flush.
    pub fn write(&mut self, part: &[u8], out: &mut Vec<u8>) {
        match &mut self.stream {
            Stream::Zlib(stream) => deflate_zlib(stream, part, FlushCompress::None, out),
            Stream::Zstd(stream) => {
                let mut input = InBuffer::around(part);
                while input.pos() < part.len() {
                    out.reserve(GROWTH);
                    let filled = out.len();
                    stream
                        .run(&mut input, &mut OutBuffer::around_pos(out, filled))
                        .expect("compressing into memory can not fail");
                }
            }
        }
    }

    /// Ends a payload: everything written so far can be read by the peer.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        match &mut self.stream {
            Stream::Zlib(stream) => deflate_zlib(stream, &[], FlushCompress::Sync, out),
            Stream::Zstd(stream) => loop {
                out.reserve(GROWTH);
                let filled = out.len();
                let left = stream
                    .flush(&mut OutBuffer::around_pos(out, filled))
                    .expect("compressing into memory can not fail");
                if left == 0 {
                    return;
                }
            },
        }
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
