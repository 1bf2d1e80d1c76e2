//! What a client can ask for in the URL of its connection, and how it reads a compressed stream.
//!
//! The decompressors are zlib's and zstd's own, without the proxy's code around them.

use flate2::{Decompress, FlushDecompress, Status};
use zstd::{
    stream::raw::{Decoder, InBuffer, Operation, OutBuffer},
    zstd_safe::DParameter,
};

/// Bytes by which the buffer for decompressed bytes grows.
const GROWTH: usize = 64 << 10;

/// Largest window of `zstd-stream` as a power of two: 8 MiB, which every zstd decoder has to support.
const MAX_WINDOW_LOG: u32 = 23;

/// The last bytes of a message of `zlib-stream`: the mark of a sync flush.
const SYNC_MARK: [u8; 4] = [0, 0, 0xff, 0xff];

/// `compress` in the URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// The parameter is left out.
    #[default]
    None,
    /// `zlib-stream`.
    Zlib,
    /// `zstd-stream`.
    Zstd,
}

impl Transport {
    /// The value of the parameter; `None`: it is left out.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Zlib => Some("zlib-stream"),
            Self::Zstd => Some("zstd-stream"),
        }
    }
}

/// `encoding` in the URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// JSON.
    #[default]
    Json,
    /// Erlang's external term format.
    Etf,
}

impl Encoding {
    /// The value of the parameter.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Etf => "etf",
        }
    }
}

/// The decompressor of one connection.
pub(crate) enum Inflater {
    Plain,
    Zlib(Decompress),
    Zstd(Box<Decoder<'static>>),
}

impl Inflater {
    pub fn new(transport: Transport) -> Self {
        match transport {
            Transport::None => Self::Plain,
            Transport::Zlib => Self::Zlib(Decompress::new(true)),
            Transport::Zstd => {
                let mut decoder = Decoder::new().expect("a zstd decoder");
                decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG)).expect("a limit of the window");
                Self::Zstd(Box::new(decoder))
            }
        }
    }

    /// Decompresses one message, which has to be one whole payload.
    ///
    /// # Panics When the stream is not of the format, or the payload is larger than `limit` bytes.
    pub fn inflate(&mut self, message: &[u8], limit: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let mut consumed = 0;
        loop {
            out.reserve(GROWTH);
            let (rest, filled) = (&message[consumed..], out.len());
            let read = match self {
                Self::Plain => {
                    out.extend_from_slice(rest);
                    rest.len()
                }
                Self::Zlib(stream) => {
                    assert!(message.ends_with(&SYNC_MARK), "a message of zlib-stream ends with a sync flush");
                    let before = stream.total_in();
                    let status = stream.decompress_vec(rest, &mut out, FlushDecompress::Sync).expect("a zlib stream");
                    assert_ne!(status, Status::StreamEnd, "the stream goes on");
                    (stream.total_in() - before) as usize
                }
                Self::Zstd(stream) => {
                    let mut input = InBuffer::around(rest);
                    stream.run(&mut input, &mut OutBuffer::around_pos(&mut out, filled)).expect("a zstd stream");
                    input.pos()
                }
            };
            consumed += read;
            assert!(out.len() <= limit, "a payload of more than {limit} bytes");
            // Output that fills the buffer may have more behind it.
            if consumed == message.len() && (out.len() < out.capacity() || matches!(self, Self::Plain)) {
                return out;
            }
            assert!(read > 0 || out.len() > filled, "the stream makes no progress");
        }
    }
}
