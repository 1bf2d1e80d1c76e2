use super::*;
use crate::{
    cache::{Counts, Flags},
    protocol::event::EventKind,
};
use serde_json::{Value, json};
use std::thread;

fn apply(cache: &mut Cache, event: &str, data: &Value) {
    cache.apply(EventKind::from_name(event.as_bytes()), data.to_string().as_bytes());
}

fn ready(flags: Flags) -> Cache {
    let mut cache = Cache::new(flags);
    let ready = json!({"user": {"id": "77"}, "guilds": [{"id": "1", "unavailable": true}, {"id": "2"}]});
    cache.ready(ready.to_string().as_bytes()).expect("READY");
    cache
}

fn member(id: u64) -> Value {
    json!({
        "user": {"id": id.to_string(), "username": format!("user {id}"), "global_name": null, "bot": id == 77},
        "nick": "a \"nick\"", "roles": ["100000000000000005", "100000000000000006"], "score": 1.5,
        "joined_at": "2024-02-29T23:59:59.999999+00:00", "avatar": format!("{id:032x}"), "odd": [[1], {"a": -3}],
    })
}

fn guild(id: u64, members: u64) -> Value {
    json!({
        "id": id.to_string(), "name": "name", "member_count": members, "features": ["A", "B"], "nothing": null,
        "channels": [{"id": "10", "name": "c", "last_message_id": "100000000000000009", "parent_id": "11"}],
        "threads": null, "roles": [{"id": "100000000000000005", "name": "online"}], "emojis": [],
        "members": (77..77 + members).map(member).collect::<Vec<_>>(),
        "presences": [{"user": {"id": "78"}, "status": "idle", "activities": [{"name": "x", "state": "online"}]}],
        "embedded_activities": [{"odd": 1}], "soundboard_sounds": [{"sound_id": "4"}, {"no_id": true}],
    })
}

fn full(flags: Flags, members: u64) -> Cache {
    let mut cache = ready(flags);
    for id in [1, 2] {
        apply(&mut cache, "GUILD_CREATE", &guild(id, members));
        // A role with white space between its tokens.
        cache.apply(EventKind::GuildRoleCreate, format!(r#"{{"guild_id":"{id}","role":{{"id": "9"}}}}"#).as_bytes());
        let joins = json!({"guild_id": id.to_string(), "user": {"id": "5"}, "roles": []});
        apply(&mut cache, "GUILD_MEMBER_ADD", &joins);
    }
    cache
}

fn text(cache: &Cache, guild: u64) -> String {
    let mut snapshot = cache.snapshot(guild, View::ALL).expect("a guild");
    let mut out = Vec::new();
    while !snapshot.write(&mut out, 1 << 20) {}
    assert_eq!(out.len(), snapshot.len(), "the length that was announced");
    String::from_utf8(out).expect("UTF-8")
}

/// The tables and all guilds as bytes.
fn write_all(cache: &mut Cache) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut tables = Vec::new();
    cache.write_tables(&mut tables);
    let write = |id: u64| {
        let mut out = Vec::new();
        cache.write_guild(id, &mut out).then_some(out)
    };
    (tables, cache.order.iter().filter_map(|id| write(*id)).collect())
}

/// Asserts that both caches show the same, now and after some more events.
fn compare(mut old: Cache, mut new: Cache) {
    for round in 0..4u64 {
        for id in [1, 2] {
            assert_eq!(text(&old, id), text(&new, id), "round {round}");
        }
        // The number of ignored events is not part of the state.
        let counts = |cache: &Cache| Counts { ignored_events: 0, ..cache.counts() };
        assert_eq!(counts(&old), counts(&new));
        let texts =
            |cache: &Cache| cache.guilds.values().map(|guild| guild.arrays.each_ref().map(|a| a.text)).collect();
        let (mut before, mut after): (Vec<_>, Vec<_>) = (texts(&old), texts(&new));
        before.sort_unstable();
        after.sort_unstable();
        assert_eq!(before, after);
        for cache in [&mut old, &mut new] {
            let id = (round % 2 + 1).to_string();
            apply(cache, "GUILD_MEMBER_REMOVE", &json!({"guild_id": id, "user": {"id": (78 + round).to_string()}}));
            apply(
                cache,
                "GUILD_MEMBER_UPDATE",
                &json!({"guild_id": id, "user": {"id": "80"}, "nick": "new", "roles": []}),
            );
            apply(cache, "PRESENCE_UPDATE", &json!({"guild_id": id, "user": {"id": "78"}, "status": "dnd"}));
            apply(cache, "GUILD_ROLE_DELETE", &json!({"guild_id": id, "role_id": "100000000000000006"}));
            let message =
                json!({"guild_id": id, "channel_id": "10", "id": (100_000_000_000_000_010u64 + round).to_string()});
            apply(cache, "MESSAGE_CREATE", &message);
        }
    }
    for cache in [&mut old, &mut new] {
        apply(cache, "GUILD_DELETE", &json!({"id": "1"}));
        apply(cache, "GUILD_DELETE", &json!({"id": "2", "unavailable": true}));
        assert_eq!(cache.totals, [0; Kind::COUNT]);
    }
}

fn read_all(flags: Flags, tables: &[u8], guilds: &[Vec<u8>]) -> (Cache, bool) {
    let mut cache = ready(flags);
    let origin = cache.read_tables(tables).expect("well-formed tables");
    for (bytes, id) in guilds.iter().zip([1, 2]) {
        assert_eq!(cache.read_guild(&origin, bytes), Some(id));
    }
    (cache, origin.tables.is_none())
}

#[test]
fn a_guild_is_the_same_with_any_tables() {
    let own = Flags { current_member: true, users: true, roles: true, ..Flags::default() };
    for (flags, members) in
        [(Flags::ALL, 300), (Flags { users: false, ..Flags::ALL }, 40), (own, 50), (Flags::default(), 50)]
    {
        let mut old = full(flags, members);
        let (tables, guilds) = write_all(&mut old);
        let (new, taken) = read_all(flags, &tables, &guilds);
        assert!(taken, "the tables are the same");
        compare(old, new);
        // Now the tables of this thread have one more template than those of the file.
        apply(
            &mut full(flags, 3),
            "GUILD_UPDATE",
            &json!({"id": "1", "and": {"x": [{"new": 1, "template": "of some length", "to": 3}]}}),
        );
        let (new, taken) = read_all(flags, &tables, &guilds);
        assert!(taken, "the same indexes mean the same");
        compare(full(flags, members), new);
        for other in [false, true] {
            let (tables, guilds) = (tables.clone(), guilds.clone());
            let task = move || {
                if other {
                    apply(&mut ready(flags), "GUILD_CREATE", &json!({"id": "2", "another": "template"}));
                }
                let (new, taken) = read_all(flags, &tables, &guilds);
                assert_eq!(taken, !other, "tables with other content are not taken over");
                compare(full(flags, members), new);
            };
            thread::spawn(task).join().expect("no panic");
        }
    }
}

#[test]
fn a_removal_under_way_is_finished_before_writing() {
    let mut old = ready(Flags::ALL);
    apply(&mut old, "GUILD_CREATE", &guild(1, 9_000));
    apply(&mut old, "GUILD_CREATE", &guild(2, 2));
    apply(&mut old, "GUILD_ROLE_DELETE", &json!({"guild_id": "1", "role_id": "100000000000000005"}));
    apply(&mut old, "GUILD_ROLE_DELETE", &json!({"guild_id": "1", "role_id": "100000000000000006"}));
    assert!(old.guilds[&1].removal.is_some());
    let (mut snapshot, mut before) = (old.snapshot(1, View::ALL).expect("a guild"), Vec::new());
    while !snapshot.write(&mut before, 1 << 20) {}
    let (tables, guilds) = write_all(&mut old);
    let (new, _) = read_all(Flags::ALL, &tables, &guilds);
    let now = text(&new, 1);
    assert!(now.as_bytes() == before && !now.contains(r#""roles":[""#));
    compare(old, new);
}

#[test]
fn an_unavailable_guild_is_not_written() {
    let mut cache = ready(Flags::ALL);
    apply(&mut cache, "GUILD_CREATE", &json!({"id": "2", "unavailable": true}));
    for id in [1, 2, 3] {
        assert!(!cache.write_guild(id, &mut Vec::new()));
    }
}

#[test]
fn a_guild_that_does_not_go_with_the_flags_is_refused() {
    let (tables, guilds) = write_all(&mut full(Flags::ALL, 3));
    for flags in [Flags { emojis: true, ..Flags::default() }, Flags { members: false, ..Flags::ALL }] {
        let mut cache = ready(flags);
        let origin = cache.read_tables(&tables).expect("well-formed tables");
        assert_eq!(cache.read_guild(&origin, &guilds[0]), None);
        assert_eq!((cache.totals, cache.guilds[&1].is_available()), ([0; Kind::COUNT], false));
    }
}

#[test]
fn a_few_bytes_cannot_become_gigabytes() {
    let long = [br#"{"x":""#, &vec![b'a'; 1 << 20][..], br#""}"#].concat();
    let mut tables = vec![2];
    write_bytes(&mut tables, &long);
    write_bytes(&mut tables, b"{\"x\":\x13}");
    tables.push(0);
    let mut cache = ready(Flags::ALL);
    let origin = cache.read_tables(&tables).expect("two templates and no strings");
    for (times, good) in [(2, true), (1_000, false)] {
        let mut fields = vec![0, 0, 0, 0, 0, 0, 0, 0, 2];
        write_varint(&mut fields, br#"{"x":[]}"#.len() as u64 + times * (long.len() as u64 + 1) - 1);
        write_varint(&mut fields, times);
        fields.resize(fields.len() + times as usize, 0);
        let mut bytes = vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        write_bytes(&mut bytes, &fields);
        bytes.resize(bytes.len() + 1 + Kind::COUNT, 0);
        assert_eq!(cache.read_guild(&origin, &bytes).is_some(), good);
    }
}

#[test]
fn malformed_bytes_do_no_harm() {
    let (tables, guilds) = write_all(&mut full(Flags::ALL, 3));
    let whole = &guilds[0];
    let mut cache = ready(Flags::ALL);
    let own = cache.read_tables(&tables).expect("well-formed tables");
    for length in 0..whole.len() {
        assert_eq!(cache.read_guild(&own, &whole[..length]), None, "{length} bytes");
    }
    assert_eq!(cache.read_guild(&own, &[&whole[..], &[0]].concat()), None);
    for length in 0..tables.len() {
        assert!(cache.read_tables(&tables[..length]).is_none(), "{length} bytes");
    }
    assert!(cache.read_tables(&[&tables[..], &[0]].concat()).is_none());
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut read = 0;
    for round in 0..6_000 {
        let (mut tables, mut bytes) = (tables.clone(), whole.clone());
        let changed = if round % 3 == 0 { &mut tables } else { &mut bytes };
        for _ in 0..rng.usize(1..3) {
            let at = rng.usize(0..changed.len());
            changed[at] = if rng.bool() { rng.u8(..) } else { changed[at] ^ 1 << rng.u8(0..8) };
        }
        let Some(origin) = cache.read_tables(&tables) else { continue };
        let Some(id) = cache.read_guild(&origin, &bytes) else { continue };
        read += 1;
        let (mut snapshot, mut out) = (cache.snapshot(id, View::ALL).expect("a guild"), Vec::new());
        while !snapshot.write(&mut out, 1 << 20) {}
        assert_eq!(out.len(), snapshot.len(), "the length that was announced");
        assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&out).is_ok(), "{}", String::from_utf8_lossy(&out));
        apply(
            &mut cache,
            "GUILD_MEMBER_UPDATE",
            &json!({"guild_id": id.to_string(), "user": {"id": "78"}, "nick": null}),
        );
        apply(&mut cache, "GUILD_ROLE_DELETE", &json!({"guild_id": id.to_string(), "role_id": "100000000000000006"}));
        apply(&mut cache, "GUILD_MEMBER_REMOVE", &json!({"guild_id": id.to_string(), "user": {"id": "79"}}));
        apply(&mut cache, "GUILD_DELETE", &json!({"id": id.to_string()}));
        assert_eq!(cache.totals, [0; Kind::COUNT]);
    }
    assert!(read > 500, "{read} of them could be read");
}
