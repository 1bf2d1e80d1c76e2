//! The names of clients' sessions.

/// Longest session id; ours have exactly this length.
pub const ID_LENGTH: usize = 32;

/// An unguessable name that carries the id of its shard, so that the door can route a RESUME without a table.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId([u8; ID_LENGTH]);

impl SessionId {
    /// Of a shard, with 96 bits from a cryptographic source.
    pub fn new(shard: u32, random: [u8; 12]) -> Self {
        let mut id = [0; ID_LENGTH];
        let bytes = shard.to_be_bytes().into_iter().chain(random);
        for (pair, byte) in id.chunks_exact_mut(2).zip(bytes) {
            pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
            pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
        }
        Self(id)
    }

    /// Reads what a client sent; `None` when it can not be one of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let id: [u8; ID_LENGTH] = text.as_bytes().try_into().ok()?;
        id.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')).then_some(Self(id))
    }

    /// The shard that it belongs to.
    pub fn shard(&self) -> u32 {
        u32::from_str_radix(&self.as_str()[..8], 16).expect("checked to be hexadecimal")
    }

    /// As it stands in READY.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("checked to be hexadecimal")
    }
}

impl std::fmt::Debug for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Whoever knows all of it, and the token, can take the session over.
        write!(f, "{}…", &self.as_str()[..12])
    }
}

/// Which session a client says that it resumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The one with this id of the proxy's.
    Own(SessionId),
    /// One with Discord's id of the shard's session.
    Upstream {
        /// That id.
        id: String,
        /// The proxy's id, from the path of the URL.
        key: Option<SessionId>,
    },
}
