//! The sending half of a connection: bytes in the order in which they have to leave, while the kernel may own some of them.
//!
//! There are two ways to send. Whoever writes to the socket itself looks at [`Outgoing::pending`] and says how much it
//! [`Outgoing::wrote`]. Whoever gives the bytes away takes them with [`Outgoing::take`] and brings them back with
//! [`Outgoing::returned`]; what is added in between waits behind them.

/// See the module's description.
#[derive(Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    /// Bytes of `bytes` that have left already.
    written: usize,
    /// While bytes are taken: from where they were to be sent, and how many.
    taken: Option<(usize, usize)>,
}

impl Outgoing {
    /// Where bytes are added, at the end. It must not be made shorter than it was.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// What has to leave next.
    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// Everything that has not left, with what is taken, in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.written + self.taken.map_or(0, |(_, length)| length)
    }

    /// Has everything left?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Capacity of the buffer in bytes.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Replaces the buffer by `bytes`, of which those from `written` on have to leave.
    pub fn replace(&mut self, bytes: Vec<u8>, written: usize) -> Vec<u8> {
        debug_assert!(self.pending().is_empty(), "what waits would be lost");
        self.written = written;
        std::mem::replace(&mut self.bytes, bytes)
    }

    /// The first `n` bytes of [`Outgoing::pending`] have left. Gives up the buffer when it is empty and larger than `keep`.
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

    /// Takes everything that is pending, to be sent from the returned index on. `None`: there is nothing, or what was taken
    /// before is not back yet.
    pub fn take(&mut self) -> Option<(Vec<u8>, usize)> {
        if self.taken.is_some() || self.pending().is_empty() {
            return None;
        }
        let (bytes, from) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.written));
        self.taken = Some((from, bytes.len() - from));
        Some((bytes, from))
    }

    /// Are bytes taken that are not back yet?
    pub fn is_taken(&self) -> bool {
        self.taken.is_some()
    }

    /// Brings back what was taken, of which `sent` bytes have left. Returns the memory when it is not needed any more.
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
        /// Whatever is added and sent in parts, in both ways: everything leaves once and in order.
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
