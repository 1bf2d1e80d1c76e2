//! Payload compression (docs: Gateway, Payload Compression): each payload is a complete zlib stream.

use libdeflater::{CompressionLvl, Compressor};

/// The cheapest level compresses 300 MB/s and more. The usual level, 6, takes at least half as long again, and its
/// output is 2 to 9 % smaller.
const LEVEL: i32 = 1;

/// Compresses single payloads. One compressor serves any number of connections.
pub struct PayloadCompressor {
    compressor: Compressor,
}

impl Default for PayloadCompressor {
    fn default() -> Self {
        let level = CompressionLvl::new(LEVEL).expect("the level is one of libdeflate's");
        Self { compressor: Compressor::new(level) }
    }
}

impl PayloadCompressor {
    /// Appends the compressed `payload` to `out` if that saves at least an eighth of its length. Otherwise returns
    /// false and leaves `out` as it was. While it works, `out` grows by seven eighths of the length of the payload.
    pub fn compress(&mut self, payload: &[u8], out: &mut Vec<u8>) -> bool {
        let start = out.len();
        out.resize(start + payload.len() - payload.len() / 8, 0);
        match self.compressor.zlib_compress(payload, &mut out[start..]) {
            Ok(length) => {
                out.truncate(start + length);
                true
            }
            // The only possible error: the output does not fit.
            Err(_) => {
                out.truncate(start);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn each_payload_stands_alone() {
        let mut compressor = PayloadCompressor::default();
        for size in [1_000, 70_000, 3_000_000] {
            let payload = b"{\"name\":\"value\"},".repeat(size / 17 + 1);
            for _ in 0..2 {
                let mut out = b"before".to_vec();
                assert!(compressor.compress(&payload, &mut out));
                assert!(out.len() < payload.len() / 2);
                let mut text = Vec::new();
                flate2::read::ZlibDecoder::new(&out[6..]).read_to_end(&mut text).unwrap();
                assert!(text == payload);
            }
        }
    }

    #[test]
    fn what_does_not_shrink_is_left_alone() {
        let mut random = fastrand::Rng::with_seed(1);
        for size in [0, 1, 7, 1_000, 100_000] {
            let payload: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(size).collect();
            let mut out = b"before".to_vec();
            assert!(!PayloadCompressor::default().compress(&payload, &mut out), "{size}");
            assert_eq!(out, b"before");
        }
    }
}
