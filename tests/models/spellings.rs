//! The cache shows the same result however the JSON of a payload is spelled. Each event goes to two caches: to one in
//! Discord's spelling, and to the other one in another valid spelling, with white space between tokens, keys in another
//! order, escapes in keys and strings, and repeated keys, of which the last one counts.

use fastrand::Rng;
use gateway_proxy::{
    cache::{Cache, Flags, MemberRequest, View},
    protocol::event::EventKind,
};
use proptest::prelude::*;
use serde_json::{Value, json as value};
use world::{Body, Settings, Wish, World};

/// The bot's user id in the payloads of this file.
const OWN: &str = "999";

/// Writes JSON in a random spelling.
struct Speller<'a> {
    rng: &'a mut Rng,
    // Which changes are made. They are chosen at random, so that each is also tried alone.
    spaces: bool,
    shuffled: bool,
    escapes: bool,
    repeated: bool,
}

impl<'a> Speller<'a> {
    fn new(rng: &'a mut Rng) -> Self {
        let ways = 1 + rng.u8(0..15);
        let way = |bit: u8| ways >> bit & 1 == 1;
        Self { spaces: way(0), shuffled: way(1), escapes: way(2), repeated: way(3), rng }
    }

    fn spell(&mut self, value: &Value) -> String {
        let mut out = String::new();
        self.space(&mut out);
        self.write(value, &mut out);
        self.space(&mut out);
        out
    }

    fn space(&mut self, out: &mut String) {
        while self.spaces && self.rng.u8(0..4) == 0 {
            out.push([' ', '\n', '\t', '\r'][self.rng.usize(0..4)]);
        }
    }

    fn string(&mut self, text: &str, out: &mut String) {
        if !self.escapes || self.rng.bool() {
            out.push_str(&value!(text).to_string());
            return;
        }
        out.push('"');
        for letter in text.chars() {
            match letter {
                '/' if self.rng.bool() => out.push_str("\\/"),
                '"' | '\\' | '\0'..'\u{20}' => {
                    let quoted = value!(letter).to_string();
                    out.push_str(&quoted[1..quoted.len() - 1]);
                }
                _ if self.rng.u8(0..4) == 0 => {
                    for unit in letter.encode_utf16(&mut [0; 2]) {
                        let digits = if self.rng.bool() { format!("{unit:04x}") } else { format!("{unit:04X}") };
                        out.push_str(&format!("\\u{digits}"));
                    }
                }
                _ => out.push(letter),
            }
        }
        out.push('"');
    }

    /// A value for an earlier occurrence of a key, which a parser has to ignore.
    fn other(&mut self, value: &Value) -> Value {
        match self.rng.u8(0..6) {
            0 => Value::Null,
            1 => value!({"id": "1", "user": {"id": "2"}}),
            2 => value!([]),
            3 => value!("offline"),
            4 => value!(1),
            _ => value.clone(),
        }
    }

    fn write(&mut self, value: &Value, out: &mut String) {
        match value {
            Value::String(text) => self.string(text, out),
            Value::Array(items) => {
                out.push('[');
                self.space(out);
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                        self.space(out);
                    }
                    self.write(item, out);
                    self.space(out);
                }
                out.push(']');
            }
            Value::Object(entries) => {
                let mut entries: Vec<(&str, Value)> =
                    entries.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
                if self.shuffled {
                    self.rng.shuffle(&mut entries);
                }
                for _ in 0..if self.repeated { self.rng.usize(0..3) } else { 0 } {
                    if let Some(at) = (0..entries.len()).nth(self.rng.usize(0..entries.len().max(1))) {
                        let (key, last) = entries[at].clone();
                        let before = self.rng.usize(0..=at);
                        let other = self.other(&last);
                        entries.insert(before, (key, other));
                    }
                }
                out.push('{');
                self.space(out);
                for (index, (key, value)) in entries.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                        self.space(out);
                    }
                    self.string(key, out);
                    self.space(out);
                    out.push(':');
                    self.space(out);
                    self.write(value, out);
                    self.space(out);
                }
                out.push('}');
            }
            other => out.push_str(&other.to_string()),
        }
    }
}

/// The same JSON in another spelling. Checks that a parser reads both as the same.
fn respelled(rng: &mut Rng, text: &str) -> String {
    let parsed: Value = serde_json::from_str(text).expect("JSON");
    let spelled = Speller::new(rng).spell(&parsed);
    let again: Value = serde_json::from_str(&spelled).unwrap_or_else(|error| panic!("{error} in {spelled}"));
    assert_eq!(again, parsed, "the speller is wrong: {spelled}");
    spelled
}

fn shown(cache: &Cache, guild: u64) -> Option<Value> {
    let mut snapshot = cache.snapshot(guild, View::ALL).filter(|snapshot| !snapshot.unavailable())?;
    let (mut out, length) = (Vec::new(), snapshot.len());
    while !snapshot.write(&mut out, 1 << 20) {}
    assert_eq!(out.len(), length, "the length that the snapshot said");
    Some(serde_json::from_slice(&out).unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(&out))))
}

/// Two caches that must always show the same.
struct Pair {
    usual: Cache,
    other: Cache,
    rng: Rng,
}

impl Pair {
    fn new(flags: Flags, seed: u64, ready: &str) -> Self {
        let mut pair = Self { usual: Cache::new(flags), other: Cache::new(flags), rng: Rng::with_seed(seed) };
        let spelled = respelled(&mut pair.rng, ready);
        assert_eq!(pair.usual.ready(ready.as_bytes()), pair.other.ready(spelled.as_bytes()), "{spelled}");
        assert_eq!(pair.user(true), pair.user(false), "{spelled}");
        pair
    }

    fn user(&self, usual: bool) -> Value {
        let cache = if usual { &self.usual } else { &self.other };
        serde_json::from_slice(cache.user().expect("a user")).expect("JSON")
    }

    fn apply(&mut self, name: &str, text: &str, guilds: &[u64]) {
        let spelled = respelled(&mut self.rng, text);
        let kind = EventKind::from_name(name.as_bytes());
        let expected = self.usual.apply(kind, text.as_bytes());
        let outcome = self.other.apply(kind, spelled.as_bytes());
        assert_eq!(outcome, expected, "{name} {text} as {spelled}");
        for guild in guilds {
            let (shown, expected) = (shown(&self.other, *guild), shown(&self.usual, *guild));
            assert!(shown == expected, "{name} {text}\nas {spelled}\nshows {shown:?}\ninstead of {expected:?}");
            let request = format!(r#"{{"guild_id":"{guild}","query":"","limit":0}}"#);
            let answers =
                |cache: &Cache| cache.answer(MemberRequest::parse(request.as_bytes()).expect("a request")).is_some();
            assert_eq!(answers(&self.other), answers(&self.usual), "{name} {text} as {spelled}");
        }
        assert_eq!(self.other.counts(), self.usual.counts(), "{name} {text} as {spelled}");
        assert_eq!(self.user(false), self.user(true), "{name} {text} as {spelled}");
    }
}

fn flags(choice: u64) -> Flags {
    let on = |bit: u64| choice >> bit & 1 == 1;
    if choice.is_multiple_of(4) {
        return Flags::ALL;
    }
    Flags {
        channels: on(2),
        presences: on(3),
        emojis: on(4),
        current_member: on(5),
        members: on(6),
        roles: on(7),
        scheduled_events: on(8),
        stage_instances: on(9),
        stickers: on(10),
        users: on(11),
        voice_states: on(12),
    }
}

/// The types of the events that [`data`] makes: those that discord-sim's world does not make, or does not make with all
/// of these keys.
const TYPES: [&str; 20] = [
    "GUILD_CREATE",
    "GUILD_UPDATE",
    "GUILD_DELETE",
    "GUILD_MEMBER_ADD",
    "GUILD_MEMBER_UPDATE",
    "GUILD_MEMBER_REMOVE",
    "GUILD_MEMBERS_CHUNK",
    "PRESENCE_UPDATE",
    "VOICE_STATE_UPDATE",
    "CHANNEL_UPDATE",
    "CHANNEL_PINS_UPDATE",
    "THREAD_CREATE",
    "THREAD_MEMBERS_UPDATE",
    "MESSAGE_CREATE",
    "MESSAGE_DELETE",
    "MESSAGE_DELETE_BULK",
    "GUILD_ROLE_UPDATE",
    "GUILD_ROLE_DELETE",
    "GUILD_SCHEDULED_EVENT_USER_ADD",
    "USER_UPDATE",
];

fn some_id(rng: &mut Rng) -> String {
    rng.u64(900..906).to_string()
}

fn some_user(rng: &mut Rng) -> Value {
    value!({"id": some_id(rng), "username": "né \"w\"", "discriminator": "0", "avatar": null})
}

fn some_member(rng: &mut Rng) -> Value {
    let joined_at = if rng.bool() { value!("2020-01-01T00:00:00+00:00") } else { Value::Null };
    value!({"user": some_user(rng), "roles": ["55"], "nick": "a\\b\n", "joined_at": joined_at, "odd": {"user": {"id": "7"}}})
}

fn some_presence(rng: &mut Rng) -> Value {
    let status = ["online", "offline", "idle"][rng.usize(0..3)];
    value!({"user": some_user(rng), "status": status, "activities": [{"name": "offline", "a \"key\"": {"é": 1}}]})
}

/// The data of a random event of this type, in guild 100.
fn data(rng: &mut Rng, event: &str) -> Value {
    let mut data = match event {
        "GUILD_CREATE" => {
            let members: Vec<Value> = (0..rng.usize(0..4)).map(|_| some_member(rng)).collect();
            value!({
                "id": "100", "name": "g", "large": rng.bool(), "member_count": members.len(), "unavailable": rng.u8(0..4) == 0,
                "members": members, "presences": [some_presence(rng)], "roles": [{"id": "55", "name": "r"}], "threads": null,
                "channels": [{"id": "202", "type": 15, "last_message_id": null, "permission_overwrites": [{"id": "55", "deny": "0"}]}],
                "voice_states": [{"user_id": some_id(rng), "channel_id": "202"}], "emojis": [{"id": "6", "user": some_user(rng)}],
                "guild_scheduled_events": [{"id": "8", "status": 1, "user_count": 3, "creator": some_user(rng)}],
                "unknown": {"x": [[1, {"y": 2}], 1.5e3]},
            })
        }
        "GUILD_UPDATE" => {
            value!({"id": "100", "name": some_id(rng), "roles": [{"id": "55", "name": "s"}], "emojis": []})
        }
        "GUILD_DELETE" => value!({"id": "100", "unavailable": rng.bool()}),
        "GUILD_MEMBER_ADD" | "GUILD_MEMBER_UPDATE" | "GUILD_MEMBER_REMOVE" => some_member(rng),
        "GUILD_MEMBERS_CHUNK" => {
            value!({"members": [some_member(rng), some_member(rng)], "presences": [some_presence(rng)], "chunk_index": 0, "chunk_count": 1})
        }
        "PRESENCE_UPDATE" => some_presence(rng),
        "VOICE_STATE_UPDATE" => {
            let mut member = some_member(rng);
            let user = some_id(rng);
            member["user"]["id"] = user.clone().into();
            let channel = if rng.bool() { value!("202") } else { Value::Null };
            value!({"user_id": user, "channel_id": channel, "session_id": "s", "member": member})
        }
        "CHANNEL_UPDATE" => value!({"id": "202", "name": some_id(rng), "topic": null, "é": {"b": 1}}),
        "CHANNEL_PINS_UPDATE" => value!({"channel_id": "202", "last_pin_timestamp": "2020-01-01T00:00:00+00:00"}),
        "THREAD_CREATE" => value!({
            "id": some_id(rng), "parent_id": "202", "newly_created": true, "message_count": 0, "total_message_sent": 0,
            "thread_metadata": {"archived": rng.u8(0..4) == 0}, "member": {"id": "1", "user_id": OWN, "flags": 1},
        }),
        "THREAD_MEMBERS_UPDATE" => value!({
            "id": some_id(rng), "member_count": 4, "added_members": [{"id": "1", "user_id": OWN, "flags": rng.u8(0..9)}],
            "removed_member_ids": [some_id(rng)],
        }),
        "MESSAGE_CREATE" => value!({
            "id": rng.u64(1 << 60..).to_string(), "type": 0, "content": "\"id\":\"1\"",
            "channel_id": if rng.bool() { "202".to_owned() } else { some_id(rng) },
        }),
        "MESSAGE_DELETE" => value!({"id": "1", "channel_id": some_id(rng)}),
        "MESSAGE_DELETE_BULK" => value!({"ids": ["1", "2"], "channel_id": some_id(rng)}),
        "GUILD_ROLE_UPDATE" => value!({"role": {"id": "55", "name": some_id(rng), "tags": {"bot_id": "1"}}}),
        "GUILD_ROLE_DELETE" => value!({"role_id": "55"}),
        "USER_UPDATE" => value!({"id": OWN, "username": some_id(rng), "é \"": 1}),
        _ => value!({"guild_scheduled_event_id": "8", "user_id": some_id(rng)}),
    };
    if !matches!(event, "GUILD_CREATE" | "GUILD_UPDATE" | "GUILD_DELETE" | "USER_UPDATE") {
        data["guild_id"] = "100".into();
    }
    data
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_spelling_of_any_event_shows_the_same(seed: u64, choice: u64) {
        let ready = value!({"user": {"id": OWN, "username": "bot"}, "guilds": [{"id": "100", "unavailable": true}]});
        let mut pair = Pair::new(flags(choice), seed, &ready.to_string());
        let mut rng = Rng::with_seed(!seed);
        for _ in 0..120 {
            let event = TYPES[rng.usize(0..TYPES.len())];
            pair.apply(event, &data(&mut rng, event).to_string(), &[100]);
        }
    }
}

#[test]
fn any_spelling_of_real_guilds_and_their_events_shows_the_same() {
    for (seed, choice) in [(1, 0), (2, u64::MAX ^ 1 << 11), (3, 1 | 1 << 5 | 1 << 12), (4, 0b1_0101_0101_0111)] {
        let (shards, guilds, members, presences) = (1, 4, 12, 0.4);
        let mut world =
            World::generate(Settings { seed, shards, guilds, members, presences, channels: 5, roles: 4, emojis: 3 });
        let ids: Vec<u64> = world.guilds_of(0).map(|guild| guild.id()).collect();
        let named: Vec<Value> = ids.iter().map(|id| value!({"id": id.to_string(), "unavailable": true})).collect();
        let ready = value!({"user": {"id": world.bot().to_string(), "username": "bot"}, "guilds": named});
        let mut pair = Pair::new(flags(choice), seed, &ready.to_string());
        for id in ids {
            let text = world.guild(id).expect("a guild").create(None, false, world.bot());
            pair.apply("GUILD_CREATE", &text, &[id]);
        }
        for round in 0..1_200 {
            for event in world.happen(0, if round % 3 == 0 { Wish::Any } else { Wish::State }) {
                match &event.body {
                    Body::Json { text, .. } => pair.apply(event.name, text, &[event.guild]),
                    Body::Guild { joined } => {
                        let text = world.guild(event.guild).expect("a guild").create(None, *joined, world.bot());
                        pair.apply("GUILD_CREATE", &text, &[event.guild]);
                    }
                }
            }
        }
        assert_eq!(pair.other.counts().refused_guilds, 0);
    }
}

/// In an earlier version a payload with one space between the key `user` and its object lost data.
#[test]
fn a_space_before_a_user_object_loses_nothing() {
    for flags in [Flags::ALL, Flags { users: false, ..Flags::ALL }, Flags { current_member: true, ..Flags::default() }]
    {
        let mut cache = Cache::new(flags);
        cache.ready(br#"{"user":{"id":"999","username":"bot"},"guilds":[{"id":"101"}]}"#).expect("READY");
        let create = r#"{"id":"101","member_count":1,"roles":[],"channels":[],"members":[{"user": {"id":"999","username":"bot"},
            "roles":["55"],"nick":"N","joined_at":"2020-01-01T00:00:00+00:00"}],"presences":[]}"#;
        assert!(cache.apply(EventKind::GuildCreate, create.as_bytes()).changed);
        let presence = r#"{"user": {"id":"901"},"status":"online","guild_id":"101","client_status":{"web":"online"},"activities":[]}"#;
        let add = r#"{"guild_id":"101","user": {"id":"905","username":"new"},"roles":["55"],"nick":"N"}"#;
        for (kind, text) in [(EventKind::PresenceUpdate, presence), (EventKind::GuildMemberAdd, add)] {
            assert_eq!(cache.apply(kind, text.as_bytes()).ignored, None);
        }
        let guild = shown(&cache, 101).expect("an available guild");
        assert_eq!((&guild["members"][0]["nick"], &guild["member_count"]), (&value!("N"), &value!(2)), "{flags:?}");
        if flags.presences {
            assert_eq!(guild["presences"][0]["client_status"], value!({"web": "online"}), "{flags:?}");
            assert_eq!(guild["members"][1]["user"], value!({"id": "905", "username": "new"}), "{flags:?}");
        }
    }
}

#[test]
fn a_refused_guild_is_counted() {
    let mut cache = Cache::new(Flags::ALL);
    for bad in
        [r#"{"id":"1","members":[{"user":{"id":"2"},"x":01}]}"#, r#"{"name":"no id"}"#, r#"{"id":"1","members":[1]}"#]
    {
        assert!(cache.apply(EventKind::GuildCreate, bad.as_bytes()).ignored.is_some(), "{bad}");
    }
    assert_eq!((cache.counts().refused_guilds, cache.counts().members), (3, 0));
}
