//! The ids by which clients know their sessions.

/// Length of the proxy's session ids in bytes.
pub const ID_LENGTH: usize = 32;

/// A session id that can not be guessed. The id contains the id of its shard, so the door routes a RESUME without a
/// table.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId([u8; ID_LENGTH]);

impl SessionId {
    /// Makes the id of a session on `shard`. `random` comes from a cryptographic source.
    pub fn new(shard: u32, random: [u8; 12]) -> Self {
        let mut id = [0; ID_LENGTH];
        let bytes = shard.to_be_bytes().into_iter().chain(random);
        for (pair, byte) in id.chunks_exact_mut(2).zip(bytes) {
            pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
            pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
        }
        Self(id)
    }

    /// Reads the id that a client has sent; `None`: it is not an id of this form.
    pub fn parse(text: &str) -> Option<Self> {
        let id: [u8; ID_LENGTH] = text.as_bytes().try_into().ok()?;
        id.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')).then_some(Self(id))
    }

    /// The shard of the session.
    pub fn shard(&self) -> u32 {
        u32::from_str_radix(&self.as_str()[..8], 16).expect("checked to be hexadecimal")
    }

    /// The text of the id, as READY has it.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("checked to be hexadecimal")
    }
}

impl std::fmt::Debug for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A log must not show a whole id: together with the token it is enough to take the session over.
        write!(f, "{}…", &self.as_str()[..12])
    }
}

/// The path between the proxy's URL and the id of the session in a resume URL.
pub const RESUME_PATH: &str = "/r/";

/// The session that the path of a resume URL names, if any.
pub fn session_in(path: &str) -> Option<SessionId> {
    let (_, id) = path.rsplit_once(RESUME_PATH)?;
    SessionId::parse(id.trim_end_matches('/'))
}

/// The session that a client names in its RESUME.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A session by the proxy's id.
    Own(SessionId),
    /// A session by the id of Discord's session with the shard.
    Upstream {
        /// The id of Discord's session.
        id: String,
        /// The proxy's id of the client's session, from the path of the URL; `None`: the URL has none.
        resume_key: Option<SessionId>,
    },
}
