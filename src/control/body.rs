//! Finds the end of a request's body (RFC 9112, 6 and 7.1). Pure.
//!
//! Bytes that follow the body must not be forwarded: the server behind the proxy could take them for another request,
//! which the proxy has not checked. So a length that can be read in two ways is refused.

/// Longest line between chunks, in bytes.
const MAX_LINE: u16 = 4096;

/// The state of a body that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// This number of bytes is left. Zero: the body is over.
    Bytes(u64),
    /// The size line of a chunk: the size so far, and how many hexadecimal digits have come.
    Size(u64, u8),
    /// The rest of a chunk's size line: the size of the chunk, the bytes of the rest so far, and whether the last byte
    /// was a CR.
    Extension(u64, u16, bool),
    /// This number of bytes of a chunk is left.
    Chunk(u64),
    /// The CR LF after a chunk; whether the CR has come.
    ChunkEnd(bool),
    /// A line behind the last chunk: its bytes so far, and whether the last byte was a CR. An empty line ends the body.
    Trailer(u16, bool),
}

impl Body {
    /// The state before a body, from the headers of its request. The error says what is wrong with the headers.
    pub fn of(headers: &[httparse::Header<'_>]) -> Result<Self, &'static str> {
        let mut body = None;
        for header in headers {
            let found = if header.name.eq_ignore_ascii_case("content-length") {
                let digits = header.value;
                let number = digits.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(digits).ok());
                let number = number.flatten().and_then(|digits| digits.parse().ok());
                Self::Bytes(number.ok_or("Content-Length is no number")?)
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                if !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err("Transfer-Encoding is something else than chunked");
                }
                Self::Size(0, 0)
            } else {
                continue;
            };
            if body.replace(found).is_some() {
                return Err("the length of the body is given twice");
            }
        }
        Ok(body.unwrap_or(Self::Bytes(0)))
    }

    /// Says whether the whole body has been read.
    pub fn is_over(&self) -> bool {
        *self == Self::Bytes(0)
    }

    /// Reads the body's part of `bytes` and returns its length. Bytes behind that length do not belong to the body. The
    /// error says that the chunks are malformed.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at)
            && !self.is_over()
        {
            let mut taken = 1;
            *self = match (*self, byte) {
                (Self::Bytes(left), _) => {
                    taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    Self::Bytes(left - taken as u64)
                }
                (Self::Chunk(left), _) => {
                    taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    match left - taken as u64 {
                        0 => Self::ChunkEnd(false),
                        left => Self::Chunk(left),
                    }
                }
                (Self::Size(size, digits @ 0..15), _) if byte.is_ascii_hexdigit() => {
                    let digit = char::from(byte).to_digit(16).unwrap_or(0);
                    Self::Size(size * 16 + u64::from(digit), digits + 1)
                }
                (Self::Size(size, 1..), b'\r') => Self::Extension(size, 0, true),
                (Self::Size(size, 1..), b';' | b' ' | b'\t') => Self::Extension(size, 0, false),
                (Self::Extension(0, _, true), b'\n') => Self::Trailer(0, false),
                (Self::Extension(size, _, true), b'\n') => Self::Chunk(size),
                (Self::Extension(size, length @ 0..MAX_LINE, false), _) if byte != b'\n' => {
                    Self::Extension(size, length + 1, byte == b'\r')
                }
                (Self::ChunkEnd(false), b'\r') => Self::ChunkEnd(true),
                (Self::ChunkEnd(true), b'\n') => Self::Size(0, 0),
                (Self::Trailer(0, true), b'\n') => Self::Bytes(0),
                (Self::Trailer(_, true), b'\n') => Self::Trailer(0, false),
                (Self::Trailer(length, false), b'\r') => Self::Trailer(length, true),
                (Self::Trailer(length @ 0..MAX_LINE, false), _) if byte != b'\n' => Self::Trailer(length + 1, false),
                _ => return Err("the chunks of the body are not what they should be"),
            };
            at += taken;
        }
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&str, &str)]) -> Result<Body, &'static str> {
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
        Body::of(&headers)
    }

    #[test]
    fn headers_say_it_in_one_way_only() {
        assert_eq!(of(&[("Host", "a")]), Ok(Body::Bytes(0)));
        assert_eq!(of(&[("content-length", "17")]), Ok(Body::Bytes(17)));
        assert_eq!(of(&[("Transfer-Encoding", "Chunked")]), Ok(Body::Size(0, 0)));
        for bad in [
            &[("Content-Length", "")][..],
            &[("Content-Length", "+5")],
            &[("Content-Length", "5, 5")],
            &[("Content-Length", "99999999999999999999")],
            &[("Transfer-Encoding", "gzip, chunked")],
            &[("Transfer-Encoding", "identity")],
            &[("Content-Length", "5"), ("Content-Length", "5")],
            &[("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
            &[("Transfer-Encoding", "chunked"), ("transfer-encoding", "chunked")],
        ] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_follows_does_not_belong_to_it() {
        let next = b"GET /api/v10/users/@me HTTP/1.1\r\n\r\n";
        let chunked = Body::Size(0, 0);
        for (start, body) in [
            (Body::Bytes(0), &b""[..]),
            (Body::Bytes(5), b"12345"),
            (chunked, b"0\r\n\r\n"),
            (chunked, b"5\r\n0\r\n\r\n\r\n0\r\n\r\n"),
            (chunked, b"A;x=\"1\"\r\n0123456789\r\n1 \r\n\n\r\n000\r\nX: 1\r\nY: 2\r\n\r\n"),
        ] {
            let bytes = [body, next].concat();
            for step in 1..bytes.len() {
                let (mut state, mut taken) = (start, 0);
                for part in bytes.chunks(step) {
                    taken += state.advance(part).unwrap();
                }
                assert_eq!((taken, state), (body.len(), Body::Bytes(0)), "in steps of {step}");
            }
        }
    }

    #[test]
    fn odd_chunks_are_refused() {
        let endless = [b"1;", &[b'x'; 2 * MAX_LINE as usize][..]].concat();
        for bad in [
            &b"\r\n"[..],
            b"x\r\n",
            b"-1\r\n",
            b"5\n",
            b"5\rx",
            b"5;\n",
            b"1\r\nab",
            b"1\r\na\n",
            b"0\r\n\n",
            b"0\r\nX: 1\n",
            b"0\r\nX\rY",
            b"0000000000000000\r\n",
            &endless,
        ] {
            assert!(Body::Size(0, 0).advance(bad).is_err(), "{bad:?}");
        }
    }
}
