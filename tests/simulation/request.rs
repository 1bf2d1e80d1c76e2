//! A client's request for all members of a guild, and what its answer has to be.

use crate::host::Host;
use gateway_proxy::protocol::Time;
use serde_json::Value;
use std::collections::BTreeSet;

/// A request for all members of a guild.
pub struct Request {
    pub guild: u64,
    /// Whom the client knew when it asked.
    pub known: BTreeSet<u64>,
    pub told: BTreeSet<u64>,
    pub chunks: u64,
    /// Upstream sessions when it asked.
    pub renewals: u64,
    /// The connection that it was sent on, and where it ends there.
    pub sent: (u64, u64),
    /// The guild was away, or came anew, or may have been away when it asked; or the proxy may not have heard it.
    pub disturbed: bool,
    pub asked_at: Time,
}

impl Request {
    /// What was known of the guild went with an outage or a session, so perhaps nobody can answer.
    pub fn is_excused(&self, host: &Host) -> bool {
        self.disturbed || self.renewals != host.renewals
    }

    /// A chunk, as true as the events before it: all of its members are `shown` to the client. Is it the last one?
    pub fn take(&mut self, data: &Value, guild: u64, shown: &BTreeSet<u64>, name: &str) -> bool {
        assert_eq!((guild, data["chunk_index"].as_u64()), (self.guild, Some(self.chunks)), "P3: {name}");
        self.chunks += 1;
        for member in data["members"].as_array().expect("members") {
            let user = member["user"]["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
            assert!(shown.contains(&user), "P5: {user} is told in {name}, and has left");
            assert!(self.told.insert(user), "P3: {user} comes twice in {name}");
        }
        let last = data["chunk_count"].as_u64() == Some(self.chunks);
        if last && !self.disturbed {
            let missing = self.known.intersection(shown).find(|user| !self.told.contains(user));
            assert_eq!(missing, None, "P3: {name}");
        }
        last
    }
}
