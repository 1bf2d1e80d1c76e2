//! Undoes transport compression: each binary message becomes one payload.

use flate2::{Decompress, FlushDecompress, Status};
use std::io;
use zstd::stream::raw::{Decoder as Zstd, InBuffer, Operation, OutBuffer};

/// Largest payload in bytes.
const MAX_PAYLOAD: usize = 256 << 20;

/// The state of one connection's incoming stream.
pub enum Decoder {
    /// No compression.
    Plain,
    /// zlib-stream.
    Zlib(Box<Decompress>),
    /// zstd-stream.
    Zstd(Box<Zstd<'static>>),
}

impl Decoder {
    /// A decoder for the value of the URL parameter `compress`.
    ///
    /// # Errors
    /// When the zstd decoder cannot be created.
    pub fn new(compress: Option<&str>) -> io::Result<Self> {
        Ok(match compress {
            Some("zlib-stream") => Self::Zlib(Box::new(Decompress::new(true))),
            Some("zstd-stream") => Self::Zstd(Box::new(Zstd::new()?)),
            _ => Self::Plain,
        })
    }

    /// Replaces the contents of `out` with the payload of a binary message.
    ///
    /// # Errors
    /// When the message does not continue the compressed stream.
    pub fn decode(&mut self, message: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        match self {
            Self::Plain => Err(io::Error::other("a binary message without compression")),
            Self::Zlib(stream) => {
                let start = stream.total_in();
                loop {
                    out.reserve(message.len() * 4 + 1_024);
                    let done = usize::try_from(stream.total_in() - start).unwrap_or(message.len());
                    let status = stream.decompress_vec(&message[done..], out, FlushDecompress::Sync);
                    let status = status.map_err(io::Error::other)?;
                    let all = stream.total_in() - start == message.len() as u64;
                    if status == Status::StreamEnd || (all && out.len() < out.capacity()) {
                        return Ok(());
                    }
                    limit(out)?;
                }
            }
            Self::Zstd(stream) => {
                let mut input = InBuffer::around(message);
                loop {
                    out.reserve(message.len() * 4 + 1_024);
                    let at = out.len();
                    let room = out.capacity();
                    stream.run(&mut input, &mut OutBuffer::around_pos(out, at))?;
                    if input.pos() == message.len() && out.len() < room {
                        return Ok(());
                    }
                    limit(out)?;
                }
            }
        }
    }
}

fn limit(out: &[u8]) -> io::Result<()> {
    if out.len() > MAX_PAYLOAD { Err(io::Error::other("a payload of more than 256 MiB")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::{Encoder, Transport};
    use crate::link::inbound;
    use gateway_proxy::websocket::{Message, Role};

    #[test]
    fn what_the_simulator_compresses_comes_back() {
        let mut rng = fastrand::Rng::with_seed(9);
        for transport in [Transport::ZlibStream, Transport::ZstdStream] {
            let mut encoder = Encoder::new(Some(transport)).unwrap();
            let mut decoder = Decoder::new(Some(transport.name())).unwrap();
            let (mut scratch, mut frames, mut out) = (Vec::new(), Vec::new(), Vec::new());
            for round in 0..80 {
                let length = if round % 20 == 0 { 2_000_000 } else { rng.usize(1..3_000) };
                let payload: Vec<u8> = (0..length).map(|_| rng.u8(b'a'..b'g')).collect();
                frames.clear();
                encoder.encode(&payload, &mut scratch, &mut frames).unwrap();
                let mut inbound = inbound(Role::Client, 1 << 24, &frames);
                let Ok(Some(Message::Binary(message))) = inbound.next() else { panic!("a binary message") };
                decoder.decode(message, &mut out).unwrap();
                assert!(out == payload);
            }
            assert!(decoder.decode(b"nonsense that is no continuation", &mut out).is_err());
        }
        assert!(Decoder::new(None).unwrap().decode(b"x", &mut Vec::new()).is_err());
    }
}
