//! The output buffer of a connection: bytes that have to be sent in order, some of which the kernel may own at the
//! moment.
//!
//! There are two ways to send. A caller that writes to the socket itself reads [`Outgoing::pending`] and reports to
//! [`Outgoing::wrote`]. A caller that has to hand the memory to the kernel calls [`Outgoing::take`], and returns the
//! memory with [`Outgoing::returned`]; bytes that are appended in between are sent after it.
//!
//! Promises: every byte is sent once and in order. Never writes a socket, and never limits its own length: the owner
//! does.

/// The bytes on their way to one peer. See the module's description.
#[derive(Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    /// How many bytes at the start of `bytes` have been sent.
    written: usize,
    /// While the kernel owns bytes: the offset at which sending starts, and how many bytes are to be sent.
    taken: Option<(usize, usize)>,
}

impl Outgoing {
    /// The buffer, for appending. The caller must not shorten it.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The bytes that have to be sent next. Bytes that are taken are not among them.
    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// Number of bytes that have not been sent, including those that are taken.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.written + self.taken.map_or(0, |(_, length)| length)
    }

    /// Says whether every byte has been sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Capacity of the buffer in bytes, without memory that is taken.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Replaces the buffer, which must have nothing pending, by `bytes`, of which the first `written` bytes are not
    /// to be sent. Returns the old buffer.
    pub fn replace(&mut self, bytes: Vec<u8>, written: usize) -> Vec<u8> {
        debug_assert!(self.pending().is_empty(), "pending bytes would be lost");
        self.written = written;
        std::mem::replace(&mut self.bytes, bytes)
    }

    /// Reports that the first `n` bytes of [`Outgoing::pending`] have been sent. Frees the buffer when it is then
    /// empty and larger than `keep` bytes.
    pub fn wrote(&mut self, n: usize, keep: usize) {
        self.written += n;
        assert!(self.written <= self.bytes.len(), "more bytes written than there were");
        if self.written == self.bytes.len() {
            self.written = 0;
            self.bytes.clear();
            if self.bytes.capacity() > keep {
                self.bytes = Vec::new();
            }
        }
    }

    /// Takes the buffer, so that the kernel can send it from the returned offset on. `None`: nothing is pending, or
    /// the memory that was taken before has not been returned.
    pub fn take(&mut self) -> Option<(Vec<u8>, usize)> {
        if self.taken.is_some() || self.pending().is_empty() {
            return None;
        }
        let (bytes, from) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.written));
        self.taken = Some((from, bytes.len() - from));
        Some((bytes, from))
    }

    /// Says whether bytes are taken that have not been returned.
    pub fn is_taken(&self) -> bool {
        self.taken.is_some()
    }

    /// Returns the memory that was taken, of which `sent` bytes have been sent. The rest becomes pending again,
    /// before the bytes that were appended since. When all bytes have been sent, the caller gets the memory back.
    pub fn returned(&mut self, mut bytes: Vec<u8>, sent: usize) -> Option<Vec<u8>> {
        let (from, length) = self.taken.take().expect("something was taken");
        assert!(sent <= length, "more bytes sent than there were");
        if sent == length {
            return Some(bytes);
        }
        bytes.extend_from_slice(self.pending());
        (self.bytes, self.written) = (bytes, from + sent);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every byte is sent once and in order, whatever is appended and however much each write or send takes.
        #[test]
        fn bytes_leave_in_order(steps in prop::collection::vec((0u8..4, 0usize..50), 1..200)) {
            let mut outgoing = Outgoing::default();
            let (mut added, mut left) = (Vec::new(), Vec::new());
            let mut away: Option<(Vec<u8>, usize)> = None;
            for (number, (what, size)) in steps.into_iter().enumerate() {
                match what {
                    0 | 1 => {
                        let bytes = vec![number as u8; size];
                        added.extend_from_slice(&bytes);
                        outgoing.buffer().extend_from_slice(&bytes);
                    }
                    2 if away.is_none() => {
                        let n = size.min(outgoing.pending().len());
                        left.extend_from_slice(&outgoing.pending()[..n]);
                        outgoing.wrote(n, 20);
                    }
                    _ => match away.take() {
                        Some((bytes, from)) => {
                            let sent = size.min(bytes.len() - from);
                            left.extend_from_slice(&bytes[from..from + sent]);
                            let whole = from + sent == bytes.len();
                            prop_assert_eq!(outgoing.returned(bytes, sent).is_some(), whole);
                        }
                        None => away = outgoing.take(),
                    },
                }
                prop_assert_eq!(outgoing.len(), added.len() - left.len());
                prop_assert_eq!(outgoing.is_taken(), away.is_some());
            }
            if let Some((bytes, from)) = away {
                left.extend_from_slice(&bytes[from..]);
                let all = bytes.len() - from;
                prop_assert!(outgoing.returned(bytes, all).is_some());
            }
            left.extend_from_slice(outgoing.pending());
            prop_assert_eq!(left, added);
        }
    }
}
