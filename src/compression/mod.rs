//! Compression (docs: Gateway, Encoding and Compression): of a whole connection with one shared context, or of each
//! payload by itself.
//!
//! [`Inflater`] reads what Discord sends, [`Deflater`] writes a client's stream, [`PayloadCompressor`] compresses single
//! payloads. All of these are pure: bytes in, bytes out. A stream belongs to one connection and moves to another core
//! together with the connection.

pub(crate) mod count;
mod deflate;
mod inflate;
mod payload;

pub use deflate::Deflater;
pub use inflate::{InflateError, Inflater};
pub use payload::PayloadCompressor;

/// A transport compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Transport {
    /// Messages are not compressed.
    #[default]
    None,
    /// `zlib-stream`: the messages are one zlib stream. Every message ends with a sync flush.
    Zlib,
    /// `zstd-stream`: the messages are one zstd frame. Every message is flushed.
    Zstd,
}

impl Transport {
    /// Parses the value of the `compress` parameter of a gateway URL. `None`: the compression is not supported.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "zlib-stream" => Some(Self::Zlib),
            "zstd-stream" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The value of the `compress` parameter of a gateway URL. `None`: the parameter has to be left out.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Zlib => Some("zlib-stream"),
            Self::Zstd => Some("zstd-stream"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Every message can be read as soon as it has been written, in any number of parts, and so can the next one.
        #[test]
        fn round_trip(
            messages in prop::collection::vec(prop::collection::vec(prop::collection::vec(0u8..40, 0..3_000), 1..4), 1..12),
            zstd in any::<bool>(),
            stored in 0usize..12,
        ) {
            let transport = if zstd { Transport::Zstd } else { Transport::Zlib };
            let mut deflater = Deflater::new(transport).unwrap();
            let mut inflater = Inflater::new(transport, 1 << 20);
            let mut wire = Vec::new();
            let mut out = Vec::new();
            for (number, parts) in messages.into_iter().enumerate() {
                wire.clear();
                if number == stored {
                    deflater.start();
                }
                for part in &parts {
                    deflater.write(part, &mut wire);
                }
                deflater.flush(&mut wire);
                if !zstd {
                    prop_assert!(wire.ends_with(&[0, 0, 0xff, 0xff]));
                }
                prop_assert!(inflater.inflate(&wire, &mut out).unwrap());
                prop_assert_eq!(&out, &parts.concat());
                out.clear();
            }
        }

        #[test]
        fn noise_is_an_error_or_waits(bytes in prop::collection::vec(any::<u8>(), 0..2_000), zstd in any::<bool>()) {
            let transport = if zstd { Transport::Zstd } else { Transport::Zlib };
            let mut out = Vec::new();
            let _ = Inflater::new(transport, 1 << 16).inflate(&bytes, &mut out);
            prop_assert!(out.len() <= 1 << 16);
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        for transport in [Transport::Zlib, Transport::Zstd] {
            let mut deflater = Deflater::new(transport).unwrap();
            deflater.start();
            let mut wire = Vec::new();
            for _ in 0..64 {
                deflater.write(&[0; 1 << 16], &mut wire);
            }
            deflater.flush(&mut wire);
            assert!(wire.len() < 4 << 16, "not a bomb: {} bytes", wire.len());
            let mut out = Vec::new();
            let mut inflater = Inflater::new(transport, 1 << 20);
            assert!(matches!(inflater.inflate(&wire, &mut out), Err(InflateError::TooLarge)));
            assert!(out.len() <= 1 << 20);
        }
    }

    #[test]
    fn a_zlib_message_may_come_in_two() {
        let mut deflater = Deflater::new(Transport::Zlib).unwrap();
        deflater.start();
        let mut wire = Vec::new();
        deflater.write(b"hello, hello", &mut wire);
        deflater.flush(&mut wire);
        let mut inflater = Inflater::new(Transport::Zlib, 1 << 20);
        let mut out = Vec::new();
        let (first, second) = wire.split_at(wire.len() - 6);
        assert!(!inflater.inflate(first, &mut out).unwrap());
        assert!(inflater.inflate(second, &mut out).unwrap());
        assert_eq!(out, b"hello, hello");
    }

    /// Stored blocks of 64 KiB, and compressed blocks that do not refer back to stored ones.
    #[test]
    fn large_stored_messages_and_then_compressed_ones() {
        for transport in [Transport::Zlib, Transport::Zstd] {
            let mut deflater = Deflater::new(transport).unwrap();
            let mut inflater = Inflater::new(transport, 1 << 24);
            let message = b"the same again; ".repeat(20_000);
            for number in 0..6 {
                if number == 3 {
                    deflater.start();
                }
                let (mut wire, mut out) = (Vec::new(), Vec::new());
                deflater.write(&message, &mut wire);
                deflater.flush(&mut wire);
                assert_eq!(wire.len() < message.len() / 10, number >= 3);
                assert!(inflater.inflate(&wire, &mut out).unwrap());
                assert!(out == message);
            }
        }
    }

    #[test]
    fn plain_text_passes() {
        let mut out = Vec::new();
        assert!(Inflater::new(Transport::None, 10).inflate(b"12345", &mut out).unwrap());
        assert_eq!(out, b"12345");
        out.clear();
        assert!(Inflater::new(Transport::None, 4).inflate(b"12345", &mut out).is_err());
        assert!(Deflater::new(Transport::None).is_none());
    }

    #[test]
    fn names() {
        for transport in [Transport::Zlib, Transport::Zstd] {
            assert_eq!(Transport::from_name(transport.name().unwrap()), Some(transport));
        }
        assert_eq!(Transport::from_name("gzip"), None);
    }
}
