//! Finds out who a client is by the token that it shows: the bot itself, or a client with a credential (config key
//! `clients`).
//!
//! Promises: a client that shows neither the bot's token nor the secret of a credential is counted, and logged at most
//! once a minute. The credentials are those of the configuration in force, so a revoked one opens nothing from the
//! reload on.

use super::{Control, pool::LogThrottle};
use crate::{
    downstream::credential::{Credential, Credentials},
    protocol::close::Close,
};
use std::{cell::RefCell, collections::BTreeMap, net::SocketAddr, sync::Arc};

/// The close for a client that shows no token of this proxy.
pub(super) const WRONG_TOKEN: Close = Close::WrongToken;

/// The client that has shown a token.
#[derive(Clone, Debug)]
pub(super) enum TokenHolder {
    /// A client with the bot's token. Without `validate_token`, any client without the secret of a credential.
    Bot,
    /// A client with the secret of this credential.
    Client(Arc<Credential>),
}

impl TokenHolder {
    /// The credential of the client; `None`: the client has the bot's token.
    pub fn credential(self) -> Option<Arc<Credential>> {
        match self {
            Self::Bot => None,
            Self::Client(credential) => Some(credential),
        }
    }
}

/// What the control core notes about credentials.
#[derive(Default)]
pub(super) struct Noted {
    /// How often clients have shown the secret of each credential of the configuration in force, by its name.
    shown: RefCell<BTreeMap<Arc<str>, u64>>,
    shard_log: RefCell<LogThrottle>,
}

impl Noted {
    /// How often the secret of each of these credentials was shown, by the credential's name.
    pub fn shown(&self, credentials: &Credentials) -> BTreeMap<Arc<str>, u64> {
        let shown = self.shown.borrow();
        let count = |name: &Arc<str>| shown.get(name).copied().unwrap_or(0);
        credentials.iter().map(|credential| (credential.name.clone(), count(&credential.name))).collect()
    }

    /// Forgets the credentials that are not among these. So the number of counts is bounded by that of credentials.
    pub fn keep(&self, credentials: &Credentials) {
        self.shown.borrow_mut().retain(|name, _| credentials.iter().any(|credential| credential.name == *name));
    }
}

impl Control {
    /// Says whether this is the bot's token, or no token is asked for.
    pub(super) fn accepts_token(&self, token: &str) -> bool {
        !self.config.validate_token || self.config.token.matches(token)
    }

    /// The client that shows this token. Counts how often each secret is shown. Without `validate_token`, a client that
    /// shows no secret counts as the bot. Otherwise `None`: the token is neither the bot's token nor a secret. Such a token
    /// is counted, and logged with the client's address, once a minute at most.
    pub(super) fn holder_of(&self, token: &str, peer: Option<SocketAddr>) -> Option<TokenHolder> {
        let live = self.live();
        // Where no token is asked for, a client may still show a secret, and then has the rights of its credential.
        if self.config.validate_token && self.config.token.matches(token) {
            return Some(TokenHolder::Bot);
        }
        if let Some(credential) = live.clients.of_secret(token) {
            *self.noted.shown.borrow_mut().entry(credential.name.clone()).or_default() += 1;
            return Some(TokenHolder::Client(credential.clone()));
        }
        if !self.config.validate_token {
            return Some(TokenHolder::Bot);
        }
        self.note_wrong_token(peer);
        None
    }

    /// The close for a client that may not identify for this shard or resume on it; `None`: it may. A refusal is logged
    /// with the address `peer`, once a minute at most.
    pub(super) fn refuses_shard(&self, holder: &TokenHolder, shard: u32, peer: Option<SocketAddr>) -> Option<Close> {
        let TokenHolder::Client(credential) = holder else { return None };
        if credential.covers(shard) {
            return None;
        }
        if let Some(held_back) = self.noted.shard_log.borrow_mut().poll(self.now()) {
            let peer = peer.map_or_else(|| "an address that is gone".to_owned(), |peer| peer.to_string());
            tracing::warn!(
                held_back,
                client = &*credential.name,
                shard,
                "a client at {peer} asks for a shard that its credential in `clients` does not cover"
            );
        }
        Some(Close::ShardNotCovered)
    }
}
