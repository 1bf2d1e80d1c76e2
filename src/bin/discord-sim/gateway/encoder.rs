//! Turns payloads into WebSocket frames, with the compression that the connection asked for.

use flate2::{Compress, Compression, FlushCompress, Status};
use gateway_proxy::websocket::{Opcode, write_frame};
use std::io;
use zstd::stream::raw::{CParameter, Encoder as Zstd, InBuffer, Operation, OutBuffer};

/// Compression level. It is low because the simulator produces load.
const LEVEL: i32 = 1;

/// log2 of the window size of zstd-stream in bytes. It is small because each connection has its own encoder.
const ZSTD_WINDOW_LOG: u32 = 17;

/// With payload compression, payloads above this many bytes are compressed.
const LARGE_PAYLOAD: usize = 1_024;

/// The parameter `compress` of the connection's URL (Gateway: "Transport Compression").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One zlib stream, flushed after each payload.
    ZlibStream,
    /// One zstd frame, flushed after each payload.
    ZstdStream,
}

impl Transport {
    /// The value of the URL parameter.
    pub fn name(self) -> &'static str {
        match self {
            Self::ZlibStream => "zlib-stream",
            Self::ZstdStream => "zstd-stream",
        }
    }

    /// Parses the value of the URL parameter.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "zlib-stream" => Some(Self::ZlibStream),
            "zstd-stream" => Some(Self::ZstdStream),
            _ => None,
        }
    }
}

/// The state of one connection's outgoing stream.
pub enum Encoder {
    /// Text frames. With `true` (docs: "Payload Compression") a large payload is a whole zlib stream in a binary frame.
    Plain(bool),
    /// zlib-stream.
    Zlib(Box<Compress>),
    /// zstd-stream.
    Zstd(Box<Zstd<'static>>),
}

fn zlib() -> Compress {
    Compress::new(Compression::new(LEVEL.unsigned_abs()), true)
}

fn deflate(stream: &mut Compress, payload: &[u8], flush: FlushCompress, out: &mut Vec<u8>) -> io::Result<()> {
    let start = stream.total_in();
    loop {
        out.reserve(payload.len() / 4 + 128);
        let done = usize::try_from(stream.total_in() - start).unwrap_or(payload.len());
        let status = stream.compress_vec(&payload[done..], out, flush).map_err(io::Error::other)?;
        let all = stream.total_in() - start == payload.len() as u64;
        // Free room in `out` means that the compressor holds back no output.
        if status == Status::StreamEnd || (all && flush != FlushCompress::Finish && out.len() < out.capacity()) {
            return Ok(());
        }
    }
}

fn zstd_flush(stream: &mut Zstd<'static>, payload: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut input = InBuffer::around(payload);
    while input.pos() < payload.len() {
        out.reserve(payload.len() / 4 + 128);
        let at = out.len();
        stream.run(&mut input, &mut OutBuffer::around_pos(out, at))?;
    }
    loop {
        out.reserve(256);
        let at = out.len();
        if stream.flush(&mut OutBuffer::around_pos(out, at))? == 0 {
            return Ok(());
        }
    }
}

impl Encoder {
    /// An encoder for a new connection.
    ///
    /// # Errors
    /// When zstd rejects its settings.
    pub fn new(transport: Option<Transport>) -> io::Result<Self> {
        Ok(match transport {
            None => Self::Plain(false),
            Some(Transport::ZlibStream) => Self::Zlib(Box::new(zlib())),
            Some(Transport::ZstdStream) => {
                let mut stream = Zstd::new(LEVEL)?;
                stream.set_parameter(CParameter::WindowLog(ZSTD_WINDOW_LOG))?;
                Self::Zstd(Box::new(stream))
            }
        })
    }

    /// Turns on payload compression, because IDENTIFY asked for it. Has no effect on a connection with transport
    /// compression.
    pub fn compress_payloads(&mut self) {
        if let Self::Plain(payloads) = self {
            *payloads = true;
        }
    }

    /// Appends the frame of a payload to `out`. `scratch` holds the compressed bytes in between.
    ///
    /// # Errors
    /// When a compressor fails. The stream is unusable after that.
    pub fn encode(&mut self, payload: &[u8], scratch: &mut Vec<u8>, out: &mut Vec<u8>) -> io::Result<()> {
        scratch.clear();
        match self {
            Self::Plain(compress) if !*compress || payload.len() <= LARGE_PAYLOAD => {
                write_frame(out, Opcode::Text, payload, None);
                return Ok(());
            }
            Self::Plain(_) => deflate(&mut zlib(), payload, FlushCompress::Finish, scratch)?,
            Self::Zlib(stream) => deflate(stream, payload, FlushCompress::Sync, scratch)?,
            Self::Zstd(stream) => zstd_flush(stream, payload, scratch)?,
        }
        write_frame(out, Opcode::Binary, scratch, None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::inbound;
    use gateway_proxy::websocket::{Message, Role};

    fn payloads() -> Vec<Vec<u8>> {
        let mut rng = fastrand::Rng::with_seed(3);
        (0..60)
            .map(|at| {
                let length = if at % 9 == 0 { 300_000 } else { rng.usize(1..4_000) };
                (0..length).map(|_| b"abcdef{}\":,0123"[rng.usize(..15)]).collect()
            })
            .collect()
    }

    fn frames(mut encoder: Encoder) -> Vec<(bool, Vec<u8>)> {
        let mut out = Vec::new();
        let mut scratch = Vec::new();
        for payload in payloads() {
            encoder.encode(&payload, &mut scratch, &mut out).unwrap();
        }
        let mut inbound = inbound(Role::Client, 1 << 24, &out);
        let mut frames = Vec::new();
        while let Some(message) = inbound.next().unwrap() {
            frames.push(match message {
                Message::Text(bytes) => (false, bytes.to_vec()),
                Message::Binary(bytes) => (true, bytes.to_vec()),
                other => panic!("{other:?}"),
            });
        }
        frames
    }

    #[test]
    fn each_zlib_frame_ends_with_a_sync_flush_and_gives_one_payload() {
        let mut stream = flate2::Decompress::new(true);
        for ((binary, frame), payload) in
            frames(Encoder::new(Some(Transport::ZlibStream)).unwrap()).iter().zip(payloads())
        {
            assert!(binary);
            assert!(frame.ends_with(&[0, 0, 0xff, 0xff]));
            let mut out = Vec::with_capacity(payload.len() + 64);
            stream.decompress_vec(frame, &mut out, flate2::FlushDecompress::Sync).unwrap();
            assert!(out == payload);
        }
    }

    #[test]
    fn each_zstd_frame_gives_one_payload_of_one_stream() {
        let mut stream = zstd::stream::raw::Decoder::new().unwrap();
        for ((binary, frame), payload) in
            frames(Encoder::new(Some(Transport::ZstdStream)).unwrap()).iter().zip(payloads())
        {
            assert!(binary);
            let mut out = vec![0; payload.len() + 64];
            let (mut read, mut written) = (0, 0);
            while read < frame.len() {
                let status = stream.run_on_buffers(&frame[read..], &mut out[written..]).unwrap();
                read += status.bytes_read;
                written += status.bytes_written;
            }
            assert!(out[..written] == payload);
        }
    }

    #[test]
    fn payload_compression_makes_whole_streams_of_large_payloads() {
        let mut encoder = Encoder::new(None).unwrap();
        encoder.compress_payloads();
        for ((binary, frame), payload) in frames(encoder).iter().zip(payloads()) {
            assert_eq!(*binary, payload.len() > LARGE_PAYLOAD);
            if *binary {
                let mut out = Vec::with_capacity(payload.len() + 64);
                let status = flate2::Decompress::new(true)
                    .decompress_vec(frame, &mut out, flate2::FlushDecompress::Finish)
                    .unwrap();
                assert_eq!(status, Status::StreamEnd);
                assert!(out == payload);
            } else {
                assert!(*frame == payload);
            }
        }
    }
}
