//! A session as state files have it, between two processes.
//!
//! Only a session that its client can resume is saved. The names of the fields are part of the format of state files.

use super::{Options, Phase, Session, SessionId, Shown};
use crate::{
    downstream::credential::{Credential, SecretHash},
    protocol::{SessionKey, Time, intents::Intents, library::Library},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A session in a state file: all that the next process needs to serve a RESUME.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    /// See [`Session::key`].
    #[serde(rename = "number")]
    pub key: SessionKey,
    id: String,
    intents: u64,
    version: u8,
    #[serde(default)]
    compress: bool,
    #[serde(default)]
    library: String,
    #[serde(default, rename = "named")]
    has_upstream_id: bool,
    /// The hash of the client's secret, as [`SecretHash::parse`] reads it; `None`: the client has the bot's token.
    #[serde(default)]
    credential: Option<String>,
    user: Option<u64>,
    sequence: u64,
    cursor: u64,
    /// The lowest sequence number that the client can resume from, and the cursor after it.
    pub base: (u64, u64),
    sent: Vec<u64>,
    /// For each guild of the snapshot: its id, the log position of [`Session::set_snapshot_position`], and what the
    /// client was sent of it.
    contained: Vec<(u64, u64, Shown)>,
}

impl Session {
    /// Returns the session for a state file; `None`: the client can not resume it.
    pub fn save(&self) -> Option<Saved> {
        if !self.is_resumable() {
            return None;
        }
        Some(Saved {
            key: self.key,
            id: self.id.as_str().to_owned(),
            intents: self.options.intents.0,
            version: self.options.version,
            compress: self.options.compress,
            library: self.options.library.name().to_owned(),
            has_upstream_id: self.has_upstream_id,
            credential: self.credential.as_ref().map(|credential| credential.hash.to_string()),
            user: self.user,
            sequence: self.sequence,
            cursor: self.cursor,
            base: self.base,
            sent: self.sent.iter().copied().collect(),
            contained: self.snapshot_marks.iter().collect(),
        })
    }

    /// Makes a detached session from a state file; `None`: the numbers of `saved` contradict each other, or its id or
    /// its hash is malformed. A session with a credential is bound to one that permits nothing, until the caller binds
    /// it to the one of the configuration.
    pub fn restore(saved: Saved, now: Time) -> Option<Self> {
        let id = SessionId::parse(&saved.id)?;
        let cursors = std::iter::once(&saved.base.1).chain(&saved.sent).chain([&saved.cursor]);
        let numbered = saved.base.0.checked_add(saved.sent.len() as u64) == Some(saved.sequence);
        if !numbered || !cursors.is_sorted() {
            return None;
        }
        let options = Options {
            intents: Intents(saved.intents),
            version: saved.version,
            compress: saved.compress,
            library: Library::from_name(&saved.library),
        };
        let mut session = Self::new(saved.key, id, options, now);
        session.phase = Phase::Live;
        session.detached_at = Some(now);
        if let Some(hash) = &saved.credential {
            session.bind(Arc::new(Credential::of_former_process(SecretHash::parse(hash)?)));
        }
        (session.has_upstream_id, session.user) = (saved.has_upstream_id, saved.user);
        (session.sequence, session.cursor, session.base) = (saved.sequence, saved.cursor, saved.base);
        session.sent = saved.sent.into();
        for (guild, position, shown) in saved.contained {
            session.set_snapshot_position(guild, position, shown);
        }
        Some(session)
    }
}
