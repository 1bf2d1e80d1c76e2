//! The credentials of clients (config key `clients`): what a client without the bot's token may see and do.
//!
//! A client shows the secret of its credential as the `token` of IDENTIFY and RESUME. The proxy knows only the SHA-256
//! hash of the secret. A slow hash, as for passwords, protects secrets that can be guessed. A secret of 256 random bits
//! can not be guessed, so a slow hash would protect nothing, and anybody who reaches the port could make the control
//! core compute it.
//!
//! Promises: how long the search for the credential of a secret takes depends on the length of the secret and on the
//! number of credentials, and not on the bytes of any hash. A secret is never kept, and neither a secret nor a hash is
//! in any debug output.

use crate::protocol::{event::EventKind, intents::Intents, opcode, token::bare};
use ring::{
    digest::{SHA256, SHA256_OUTPUT_LEN, digest},
    rand::{SecureRandom, SystemRandom},
};
use std::{fmt, ops::RangeInclusive, sync::Arc};
use subtle::ConstantTimeEq;

/// The most credentials of a configuration. The metrics have some series for each.
pub const MAX_CREDENTIALS: usize = 256;
/// Longest name of a credential, in bytes.
pub const MAX_NAME: usize = 64;
/// What a hash in the configuration begins with.
const PREFIX: &str = "sha256:";
/// Number of random bytes in a secret.
const SECRET_BYTES: usize = 32;

/// The hash of a secret. It is also the identity of a credential: a credential with another secret is another one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretHash([u8; SHA256_OUTPUT_LEN]);

impl SecretHash {
    /// The hash of a secret. A prefix `Bot ` is no part of the secret, because many libraries add it.
    pub fn of(secret: &str) -> Self {
        let hash = digest(&SHA256, bare(secret).as_bytes());
        Self(hash.as_ref().try_into().expect("SHA-256 has this length"))
    }

    /// Reads `sha256:` and 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX)?.as_bytes();
        if digits.len() != 2 * SHA256_OUTPUT_LEN {
            return None;
        }
        let mut hash = [0; SHA256_OUTPUT_LEN];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |place: usize| char::from(pair[place]).to_digit(16);
            *byte = (digit(0)? << 4 | digit(1)?) as u8;
        }
        Some(Self(hash))
    }
}

/// The form that [`SecretHash::parse`] reads.
impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", hexadecimal(&self.0))
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The system has no random numbers for a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system has no random numbers")]
pub struct NoRandomNumbers;

/// Makes a secret of 256 random bits. `first_part`: what the secret begins with, in the form of a bot's token, for
/// libraries that read the bot's id from there.
pub fn new_secret(first_part: Option<&str>) -> Result<String, NoRandomNumbers> {
    let mut random = [0; SECRET_BYTES];
    SystemRandom::new().fill(&mut random).map_err(|_| NoRandomNumbers)?;
    let random = hexadecimal(&random);
    Ok(match first_part {
        Some(first_part) => format!("{first_part}.gwprox.{random}"),
        None => format!("gwp_{random}"),
    })
}

/// What the clients with one secret may see and do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The name in logs and metrics.
    pub name: Arc<str>,
    /// The hash of the secret.
    pub hash: SecretHash,
    /// The intents that a client can have at most.
    pub intents: Intents,
    /// The shards that a client may identify for; `None`: all.
    pub shards: Option<Vec<RangeInclusive<u32>>>,
    /// The opcodes of commands that a client may send; `None`: all.
    pub ops: Option<Vec<u64>>,
    /// Clients get INTERACTION_CREATE, whose token allows to answer in the name of the bot without any other token.
    pub interactions: bool,
}

impl Credential {
    /// The stand-in for the credential of a session that a former process has left. It permits nothing.
    pub fn of_former_process(hash: SecretHash) -> Self {
        let (shards, ops) = (Some(Vec::new()), Some(Vec::new()));
        Self { name: "".into(), hash, intents: Intents::ALL, shards, ops, interactions: false }
    }

    /// Says whether a client may identify for this shard.
    pub fn covers(&self, shard: u32) -> bool {
        self.shards.as_ref().is_none_or(|ranges| ranges.iter().any(|range| range.contains(&shard)))
    }

    /// Says whether a client may send commands with this opcode. What the protocol needs, such as heartbeats, is always
    /// permitted and not asked for here.
    pub fn permits(&self, op: u64) -> bool {
        self.ops.as_ref().is_none_or(|ops| ops.contains(&op))
    }

    /// Says whether a client gets events of this kind, as far as its intents select them. Two kinds carry tokens with
    /// which a client could act as the bot: those of interactions, and those of voice connections.
    pub fn gets(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::InteractionCreate => self.interactions,
            EventKind::VoiceServerUpdate => self.permits(opcode::VOICE_STATE_UPDATE),
            _ => true,
        }
    }
}

/// The credentials of a configuration, at most [`MAX_CREDENTIALS`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials(Arc<[Arc<Credential>]>);

impl Credentials {
    /// Takes credentials whose names and hashes differ.
    pub fn new(credentials: Vec<Credential>) -> Self {
        debug_assert!(credentials.len() <= MAX_CREDENTIALS);
        Self(credentials.into_iter().map(Arc::new).collect())
    }

    /// Says whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Credential>> {
        self.0.iter()
    }

    /// The credential of a secret that a client has shown; see the promise of the module.
    pub fn of_secret(&self, secret: &str) -> Option<&Arc<Credential>> {
        if self.is_empty() {
            return None;
        }
        let shown = SecretHash::of(secret);
        // The search does not end at the credential that it finds.
        self.iter().fold(None, |found, credential| {
            let is_it: bool = credential.hash.0.ct_eq(&shown.0).into();
            if is_it { Some(credential) } else { found }
        })
    }

    /// The credential with this hash, which no client has shown.
    pub fn with_hash(&self, hash: SecretHash) -> Option<&Arc<Credential>> {
        self.iter().find(|credential| credential.hash == hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(name: &str, secret: &str) -> Credential {
        let hash = SecretHash::of(secret);
        Credential { name: name.into(), hash, intents: Intents::ALL, shards: None, ops: None, interactions: true }
    }

    #[test]
    fn a_hash_is_read_as_it_is_written() {
        // The digest of "abc" in FIPS 180-2, appendix B.1.
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(SecretHash::of("abc").to_string(), text);
        assert_eq!(SecretHash::of("Bot abc"), SecretHash::of("abc"));
        assert_eq!(SecretHash::parse(text), Some(SecretHash::of("abc")));
        assert_eq!(SecretHash::parse(&text.to_uppercase().replace("SHA256", "sha256")), Some(SecretHash::of("abc")));
        for bad in ["", "sha256:", "abc", &text[7..], &text[..70], &format!("{text}0"), &text.replace('f', "g")] {
            assert_eq!(SecretHash::parse(bad), None, "{bad}");
        }
        assert_eq!(format!("{:?}", SecretHash::of("abc")), "SecretHash(…)");
    }

    #[test]
    fn a_secret_finds_its_own_credential() {
        let all = Credentials::new(vec![credential("a", "one"), credential("b", "two"), credential("c", "three")]);
        for (secret, name) in
            [("one", Some("a")), ("Bot two", Some("b")), ("three", Some("c")), ("four", None), ("", None)]
        {
            assert_eq!(all.of_secret(secret).map(|found| &*found.name), name, "{secret}");
        }
        // Its hash is not a secret that opens anything.
        assert_eq!(all.of_secret(&SecretHash::of("one").to_string()), None);
        assert_eq!(Credentials::default().of_secret("one"), None);
        assert_eq!(all.with_hash(SecretHash::of("two")).map(|found| &*found.name), Some("b"));
    }

    #[test]
    fn what_a_credential_permits() {
        let mut one = credential("a", "one");
        assert!(one.covers(7) && one.permits(4) && one.gets(EventKind::VoiceServerUpdate));
        (one.shards, one.ops, one.interactions) = (Some(vec![1..=1, 4..=6]), Some(vec![8]), false);
        let covered: Vec<u32> = (0..9).filter(|shard| one.covers(*shard)).collect();
        assert_eq!(covered, [1, 4, 5, 6]);
        assert!(one.permits(8) && !one.permits(4) && !one.permits(3));
        assert!(!one.gets(EventKind::VoiceServerUpdate) && !one.gets(EventKind::InteractionCreate));
        assert!(one.gets(EventKind::MessageCreate) && one.gets(EventKind::Ready));
        let former = Credential::of_former_process(one.hash);
        assert!(!former.covers(0) && !former.permits(8) && !former.gets(EventKind::InteractionCreate));
    }

    #[test]
    fn secrets_differ_and_have_256_bits() {
        let (one, other) = (new_secret(None).unwrap(), new_secret(None).unwrap());
        assert!(one != other && one.len() == "gwp_".len() + 64 && one.starts_with("gwp_"), "{one}");
        let like_a_token = new_secret(Some("MTIz")).unwrap();
        assert!(like_a_token.starts_with("MTIz.gwprox.") && like_a_token.len() == "MTIz.gwprox.".len() + 64);
    }
}
