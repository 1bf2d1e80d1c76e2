//! When the cache knows all members of a guild. Only then does it answer requests for members.

use super::*;

fn member(id: u64, joined_at: Value) -> Value {
    json!({"user": {"id": id.to_string(), "username": format!("user{id}")}, "roles": [], "joined_at": joined_at})
}

fn members(ids: impl IntoIterator<Item = u64>) -> Vec<Value> {
    ids.into_iter().map(|id| member(id, json!("2020-01-01T00:00:00+00:00"))).collect()
}

fn guest(id: u64) -> Value {
    let mut guest = member(id, Value::Null);
    guest["flags"] = 16.into();
    guest
}

fn with(large: bool, count: u64, members: Vec<Value>) -> Cache {
    let mut cache = Cache::new(Flags::ALL);
    cache.ready(br#"{"user":{"id":"77"},"guilds":[]}"#).unwrap();
    let create = json!({"id": "1", "large": large, "member_count": count, "members": members, "voice_states": []});
    assert!(apply(&mut cache, "GUILD_CREATE", create).changed);
    cache
}

fn all(cache: &Cache) -> Option<usize> {
    let chunks = ask(cache, json!({"guild_id": "1", "query": "", "limit": 0}))?;
    Some(chunks.iter().map(|chunk| chunk["members"].as_array().unwrap().len()).sum())
}

fn chunk(cache: &mut Cache, request: u64, members: Vec<Value>, index: u64, count: u64) {
    let data = json!({"guild_id": "1", "members": members, "chunk_index": index, "chunk_count": count});
    assert_eq!(apply(cache, "GUILD_MEMBERS_CHUNK", data.clone()).ignored, None);
    cache.chunk_of_all_members(request, data.to_string().as_bytes());
}

fn joins_voice(cache: &mut Cache, member: &Value) {
    let user = &member["user"]["id"];
    apply(
        cache,
        "VOICE_STATE_UPDATE",
        json!({"guild_id": "1", "user_id": user, "channel_id": "202", "session_id": "x", "member": member}),
    );
}

#[test]
fn guests_from_voice_channels_do_not_complete_the_list() {
    let mut cache = with(true, 4, members([900, 77]));
    for user in [951, 952] {
        joins_voice(&mut cache, &guest(user));
    }
    assert_eq!(cache.counts().members, 4);
    assert_eq!(all(&cache), None, "two members who are no guests are missing");
    chunk(&mut cache, 1, members([900, 901, 902, 77]), 0, 1);
    assert_eq!(all(&cache), Some(6));
}

#[test]
fn guests_in_a_guild_create_do_not_complete_the_list() {
    let both = |large, count| {
        let mut list = members([900, 77]);
        list.push(guest(951));
        all(&with(large, count, list))
    };
    assert_eq!(both(false, 3), None);
    assert_eq!(both(false, 2), Some(3));
    assert_eq!(both(true, 2), None, "the list of a large guild is never complete");
    assert_eq!(all(&with(false, 3, members([900, 77, 900]))), None, "one of the members is listed twice");
    assert_eq!(all(&with(false, 1, members([900, 77]))), None, "more members are listed than counted");
    assert_eq!(all(&with(false, 2, members([900, 77]))), Some(2));
}

#[test]
fn only_a_whole_unfiltered_answer_completes_the_list() {
    let mut cache = with(true, 3, members([77]));
    // A chunk that answers a request for some members.
    let data = json!({"guild_id": "1", "members": [guest(951), guest(952)], "chunk_index": 0, "chunk_count": 1});
    apply(&mut cache, "GUILD_MEMBERS_CHUNK", data);
    assert_eq!(all(&cache), None);
    chunk(&mut cache, 5, members([900]), 0, 3);
    chunk(&mut cache, 5, members([77]), 2, 3);
    assert_eq!(all(&cache), None, "the second chunk is missing");
    chunk(&mut cache, 6, members([900]), 0, 2);
    chunk(&mut cache, 6, members([77, 901]), 1, 2);
    assert_eq!(all(&cache), Some(5));
}

#[test]
fn a_wrong_member_count_does_not_complete_the_list() {
    let mut cache = with(true, 3, members([900, 77]));
    // An unknown member leaves, and Discord says so twice: member_count is now lower than the number of members.
    for _ in 0..2 {
        apply(&mut cache, "GUILD_MEMBER_REMOVE", json!({"guild_id": "1", "user": {"id": "903"}}));
    }
    assert_eq!(all(&cache), None);
    // When all members are known, the second event is recognised.
    let mut cache = with(false, 3, members([900, 901, 77]));
    for _ in 0..2 {
        apply(&mut cache, "GUILD_MEMBER_REMOVE", json!({"guild_id": "1", "user": {"id": "901"}}));
    }
    assert_eq!((all(&cache), &shown(&cache, 1, View::ALL)["member_count"]), (Some(2), &json!(2)));
}

#[test]
fn guests_come_and_go_without_being_counted() {
    let mut cache = with(false, 2, members([900, 77]));
    let count = |cache: &Cache| shown(cache, 1, View::ALL)["member_count"].clone();
    let mut added = guest(951);
    added["guild_id"] = "1".into();
    apply(&mut cache, "GUILD_MEMBER_ADD", added.clone());
    assert_eq!((count(&cache), all(&cache)), (json!(2), Some(3)));
    apply(&mut cache, "GUILD_MEMBER_REMOVE", json!({"guild_id": "1", "user": {"id": "951"}}));
    assert_eq!((count(&cache), all(&cache)), (json!(2), Some(2)));
    // A guest can become a member.
    joins_voice(&mut cache, &guest(951));
    added["joined_at"] = "2026-01-01T00:00:00+00:00".into();
    apply(&mut cache, "GUILD_MEMBER_ADD", added);
    assert_eq!((count(&cache), all(&cache)), (json!(3), Some(3)));
    // Any other guest is removed when they leave the voice channel.
    joins_voice(&mut cache, &guest(952));
    assert_eq!(all(&cache), Some(4));
    apply(&mut cache, "VOICE_STATE_UPDATE", json!({"guild_id": "1", "user_id": "952", "channel_id": null}));
    assert_eq!((count(&cache), all(&cache)), (json!(3), Some(3)));
    let own = Flags { current_member: true, ..Flags::default() };
    for flags in [own, Flags::default()] {
        let mut cache = super::cache(flags);
        let mut added = guest(951);
        added["guild_id"] = "1".into();
        apply(&mut cache, "GUILD_MEMBER_ADD", added);
        assert_eq!(count(&cache), json!(2), "{flags:?}");
    }
}

#[test]
fn an_event_that_contradicts_the_list_ends_its_completeness() {
    type Step = fn(&mut Cache);
    let steps: [(&str, Step); 6] = [
        ("a gap in the events", |cache| cache.doubt_members()),
        ("the guild comes anew", |cache| {
            let create = json!({"id": "1", "large": true, "member_count": 2, "members": members([77])});
            apply(cache, "GUILD_CREATE", create);
        }),
        ("an outage", |cache| {
            apply(cache, "GUILD_DELETE", json!({"id": "1", "unavailable": true}));
        }),
        ("an update of somebody else", |cache| {
            apply(cache, "GUILD_MEMBER_UPDATE", json!({"guild_id": "1", "user": {"id": "5"}, "roles": []}));
        }),
        ("somebody else in a voice channel", |cache| joins_voice(cache, &members([5])[0])),
        ("a join that can not be read", |cache| {
            apply(cache, "GUILD_MEMBER_ADD", json!({"guild_id": "1", "roles": []}));
        }),
    ];
    for (what, step) in steps {
        let mut cache = with(false, 2, members([900, 77]));
        assert_eq!(all(&cache), Some(2));
        step(&mut cache);
        assert_eq!(all(&cache), None, "{what}");
    }
    // The guild comes again between two chunks, so the members of the first chunk are lost.
    let mut cache = with(true, 2, members([77]));
    chunk(&mut cache, 1, members([900]), 0, 2);
    let create = json!({"id": "1", "large": true, "member_count": 2, "members": members([77])});
    apply(&mut cache, "GUILD_CREATE", create);
    chunk(&mut cache, 1, members([77]), 1, 2);
    assert_eq!(all(&cache), None);
}

#[test]
fn completeness_survives_a_restart() {
    for other_tables in [false, true] {
        for (mut cache, expected) in [
            (with(true, 4, members([900, 77])), None),
            (with(false, 2, members([900, 77])), Some(2)),
            // Here member_count contradicts the complete answer. The answer decides.
            {
                let mut cache = with(true, 9, members([77]));
                chunk(&mut cache, 1, members([900, 77]), 0, 1);
                (cache, Some(2))
            },
            {
                let mut cache = with(false, 2, members([900, 77]));
                cache.doubt_members();
                (cache, None)
            },
        ] {
            let (mut tables, mut packed) = (Vec::new(), Vec::new());
            cache.write_tables(&mut tables);
            assert!(cache.write_guild(1, &mut packed));
            let read = move || {
                let mut next = Cache::new(Flags::ALL);
                next.ready(br#"{"user":{"id":"77"},"guilds":[]}"#).unwrap();
                if other_tables {
                    apply(&mut next, "GUILD_CREATE", json!({"id": "2", "another": "template"}));
                }
                let origin = next.read_tables(&tables).expect("tables");
                assert_eq!(next.read_guild(&origin, &packed), Some(1));
                all(&next)
            };
            assert_eq!(std::thread::spawn(read).join().expect("no panic"), expected);
        }
    }
}
