//! What a model client knows about its session: the guilds and members that it was told of, the requests that it waits for,
//! and how far it is in what the shard was sent.
//!
//! It panics when the proxy breaks one of the promises P3 and P5 of the simulation (see `main.rs`).

use crate::{host::Host, voice::Heard};
use gateway_proxy::protocol::Time;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What the client knows about its session.
pub struct Session {
    pub id: String,
    /// Where READY has told the client to resume.
    pub url: String,
    pub sequence: u64,
    /// The guilds of READY. Until each of them is in `answered`, the client may lack some of its guilds, and then the
    /// proxy does not let it resume.
    pub announced: Vec<u64>,
    pub answered: BTreeSet<u64>,
    /// The client has received an event that is not part of a snapshot.
    pub live: bool,
    /// The members and `member_count` of each guild that the client has received.
    pub guilds: BTreeMap<u64, (BTreeSet<u64>, u64)>,
    /// Index in [`Host::fed`] of the next event that the client has to receive.
    pub at: usize,
    pub synced_at: Option<usize>,
    /// Number of upstream sessions when the session began.
    pub renewals: u64,
    /// The number of the upstream session that READY belongs to. Events of another upstream session must not follow.
    pub era: u64,
    /// The number of the proxy process in which the session began.
    pub generation: u64,
    /// What the client knows about voice connections.
    pub voice: Heard,
    /// The requests for members that have not been answered, by nonce.
    pub requests: BTreeMap<u64, Request>,
}

/// A request for all members of a guild.
pub struct Request {
    pub guild: u64,
    /// The members that the client knew when it sent the request.
    pub known: BTreeSet<u64>,
    pub told: BTreeSet<u64>,
    pub chunks: u64,
    /// Number of upstream sessions when the client sent the request.
    pub renewals: u64,
    /// The connection that the request was sent on, and the offset of its end in the stream.
    pub sent: (u64, u64),
    /// The request may remain unanswered: the guild was unavailable or was sent again since, or may have been
    /// unavailable when the client asked, or the proxy may not have read the request.
    pub disturbed: bool,
    pub asked_at: Time,
}

impl Request {
    /// After an outage of the guild or a new upstream session, perhaps nobody can answer the request.
    pub fn is_excused(&self, host: &Host) -> bool {
        self.disturbed || self.renewals != host.renewals
    }
}

impl Session {
    /// A session that has received nothing.
    pub fn new(host: &mut Host) -> Self {
        let mut voice = Heard::default();
        voice.connects(host);
        Self {
            id: String::new(),
            url: String::new(),
            sequence: 0,
            announced: Vec::new(),
            answered: BTreeSet::new(),
            live: false,
            guilds: BTreeMap::new(),
            at: 0,
            synced_at: None,
            renewals: 0,
            era: 0,
            generation: host.generation,
            voice,
            requests: BTreeMap::new(),
        }
    }

    /// A guild was deleted or sent again, so requests about it may remain unanswered.
    pub fn disturb(&mut self, guild: u64) {
        self.requests
            .values_mut()
            .filter(|request| request.guild == guild)
            .for_each(|request| request.disturbed = true);
    }

    /// Checks a GUILD_MEMBERS_CHUNK against the members that the client knows. Returns whether it is the last one of
    /// its answer.
    pub fn chunk(&mut self, data: &Value, guild: u64, name: usize) -> bool {
        let nonce = data["nonce"].as_str().and_then(|nonce| nonce.parse().ok()).expect("a nonce of its own");
        let request = self.requests.get_mut(&nonce);
        let request = request.unwrap_or_else(|| panic!("P3: client {name} waits for no answer {nonce}"));
        assert_eq!((guild, data["chunk_index"].as_u64()), (request.guild, Some(request.chunks)), "P3: client {name}");
        request.chunks += 1;
        let nobody = BTreeSet::new();
        let shown = self.guilds.get(&guild).map_or(&nobody, |(members, _)| members);
        for member in data["members"].as_array().expect("members") {
            let user = member["user"]["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
            assert!(shown.contains(&user), "P5: {user} is told to client {name}, and has left");
            assert!(request.told.insert(user), "P3: {user} comes twice in answer {nonce} for client {name}");
        }
        let last = data["chunk_count"].as_u64() == Some(request.chunks);
        if last && !request.disturbed {
            let missing = request.known.intersection(shown).find(|user| !request.told.contains(user));
            assert_eq!(missing, None, "P3: answer {nonce} for client {name}");
        }
        if last {
            self.requests.remove(&nonce);
        }
        last
    }

    /// Advances to message `number`, or to the end when it is `None`, and checks that no message in between was for
    /// this client.
    pub fn skip_to(&mut self, number: Option<u64>, host: &Host, name: usize) {
        loop {
            let Some(fed) = host.fed.get(self.at) else {
                assert_eq!(number, None, "P3: client {name} gets a message that it had, or that nobody has sent");
                return;
            };
            self.at += 1;
            if fed.number.is_none() {
                continue;
            }
            if fed.number == number {
                return;
            }
            // When the bot leaves a guild before its GUILD_CREATE is sent, the messages of the guild are not sent
            // either.
            let syncing = self.synced_at.is_none_or(|synced| self.at <= synced);
            let left = host.fed[self.at..].iter().any(|later| later.guild == fed.guild && later.number.is_none());
            assert!(
                syncing && left,
                "P3: client {name} has not been sent message {:?} of guild {}, but {number:?}",
                fed.number,
                fed.guild
            );
        }
    }

    /// A guild and its members arrive.
    pub fn guild_create(&mut self, data: &Value, guild: u64, name: usize) {
        self.answered.insert(guild);
        self.disturb(guild);
        let list = data["members"].as_array().expect("members");
        let members: BTreeSet<u64> = list.iter().map(|member| id(&member["user"]["id"])).collect();
        let count = data["member_count"].as_u64().expect("a count");
        assert_eq!(count, members.len() as u64, "P5: members of guild {guild} for client {name}");
        let before = self.guilds.insert(guild, (members, count));
        assert!(before.is_none(), "P5: guild {guild} twice for client {name}");
        self.voice.guild(guild, data);
    }

    /// A guild is gone or unavailable.
    pub fn guild_delete(&mut self, data: &Value, guild: u64, name: usize) {
        self.answered.insert(guild);
        self.voice.guild_left(guild);
        self.disturb(guild);
        let known = self.guilds.remove(&guild).is_some() || self.announced.contains(&guild);
        // The proxy sends the GUILD_DELETE for a guild that the bot left while the shard had no session; the client may
        // have identified only afterwards.
        let left_before = data["era"].is_null() && data["unavailable"].is_null() && self.renewals > 1;
        assert!(known || left_before, "P5: client {name} has never heard of guild {guild}");
    }

    /// A member joins or leaves.
    pub fn member(&mut self, kind: &str, guild: u64, user: u64, name: usize) {
        let shown = self.guilds.get_mut(&guild);
        let (members, count) = shown.unwrap_or_else(|| panic!("P5: client {name}: {kind} before guild {guild}"));
        if kind == "GUILD_MEMBER_ADD" {
            assert!(members.insert(user), "P5: {user} joined twice for client {name}");
            *count += 1;
        } else {
            assert!(members.remove(&user), "P5: {user} leaves without having been there for client {name}");
            *count -= 1;
        }
    }
}

/// An id that is written as a string; 0: there is none.
pub fn id(value: &Value) -> u64 {
    value.as_str().and_then(|id| id.parse().ok()).unwrap_or(0)
}
