//! Answers to Request Guild Members from the cache.

use super::*;

#[test]
fn members_are_answered_from_the_cache() {
    let mut cache = cache(Flags::ALL);
    let all = ask(&cache, json!({"guild_id": 1, "query": "", "limit": 0, "presences": true, "nonce": "n\"1"})).unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0]["members"], guild()["members"]);
    assert_eq!(all[0]["presences"], guild()["presences"]);
    assert_eq!(
        (&all[0]["nonce"], &all[0]["chunk_index"], &all[0]["chunk_count"]),
        (&json!("n\"1"), &json!(0), &json!(1))
    );
    let ids = ask(&cache, json!({"guild_id": ["1"], "user_ids": [78, "5"]})).unwrap();
    assert_eq!((&ids[0]["members"][0]["user"]["id"], &ids[0]["not_found"]), (&json!("78"), &json!(["5"])));
    assert!(ids[0].get("nonce").is_none() && ids[0].get("presences").is_none());
    for (name, count) in [("BO", 1), ("b", 2), ("zzz", 0)] {
        let named = ask(&cache, json!({"guild_id": "1", "query": name, "limit": 10})).unwrap();
        assert_eq!(named[0]["members"].as_array().unwrap().len(), count, "{name}");
    }
    // A guild of which not all members are known, and an unknown guild.
    apply(&mut cache, "GUILD_CREATE", json!({"id": "2", "member_count": 5, "members": []}));
    assert!(ask(&cache, json!({"guild_id": "2", "query": "", "limit": 0})).is_none());
    assert!(ask(&cache, json!({"guild_id": "3", "query": "", "limit": 0})).is_none());
    // A nonce that is too long is ignored (docs: Request Guild Members).
    for (length, kept) in [(32, true), (33, false)] {
        let request = json!({"guild_id": "1", "user_ids": ["78"], "nonce": "n".repeat(length)});
        assert_eq!(ask(&cache, request).unwrap()[0].get("nonce").is_some(), kept);
    }
    for odd in [
        json!({}),
        json!({"guild_id": "1"}),
        json!({"guild_id": ["1", "2"], "query": "", "limit": 0}),
        json!({"guild_id": "1", "query": ""}),
    ] {
        assert_eq!(MemberRequest::parse(odd.to_string().as_bytes()), None, "{odd}");
    }
}

#[test]
fn an_answer_waits_for_its_guild_and_is_left_to_discord_when_members_are_missing() {
    let mut cache = cache(Flags::ALL);
    let request = |data: Value| MemberRequest::parse(data.to_string().as_bytes()).unwrap();
    let all = json!({"guild_id": "1", "query": "", "limit": 0, "presences": true, "nonce": "n"});
    let answer = cache.answer(request(all)).unwrap();
    assert_eq!(cache.readiness(&answer), Readiness::Now);
    apply(&mut cache, "GUILD_DELETE", json!({"id": "1", "unavailable": true}));
    assert_eq!(cache.readiness(&answer), Readiness::Later);
    apply(&mut cache, "GUILD_CREATE", guild());
    assert_eq!(cache.readiness(&answer), Readiness::Now);
    apply(&mut cache, "GUILD_CREATE", json!({"id": "1", "member_count": 5, "members": []}));
    assert_eq!(cache.readiness(&answer), Readiness::Never);
    for data in [
        json!({"guild_id": "1", "query": "", "limit": 0, "presences": true, "nonce": "n"}),
        json!({"guild_id": "1", "query": "bo", "limit": 7}),
        json!({"guild_id": "1", "user_ids": ["5", "78"]}),
    ] {
        apply(&mut cache, "GUILD_CREATE", guild());
        let answer = cache.answer(request(data.clone())).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&answer.request()).unwrap(), data);
    }
    apply(&mut cache, "GUILD_DELETE", json!({"id": "1"}));
    assert_eq!(cache.readiness(&answer), Readiness::Now, "the remaining chunks are empty");
}

#[test]
fn a_saved_answer_that_contradicts_itself_is_refused() {
    let cache = cache(Flags::ALL);
    let request = json!({"guild_id": "1", "query": "", "limit": 0}).to_string();
    let answer = cache.answer(MemberRequest::parse(request.as_bytes()).unwrap()).unwrap();
    let good = serde_json::to_value(answer.save()).unwrap();
    assert!(MemberAnswer::restore(serde_json::from_value(good.clone()).unwrap()).is_some());
    for (key, value) in [("chunk", json!(2)), ("chunks", json!(0)), ("chunks", json!(3))] {
        let mut bad = good.clone();
        bad[key] = value;
        assert!(MemberAnswer::restore(serde_json::from_value(bad).unwrap()).is_none(), "{key}");
    }
}

#[test]
fn a_large_answer_has_several_chunks_and_can_go_back() {
    let mut cache = cache(Flags::ALL);
    let member = |id: usize| json!({"user": {"id": (1000 + id).to_string(), "username": format!("user{id}")}});
    let mut members: Vec<Value> = (0..4321).map(member).collect();
    apply(&mut cache, "GUILD_CREATE", json!({"id": "2", "member_count": members.len(), "members": members}));
    let request = json!({"guild_id": "2", "query": "", "limit": 0}).to_string();
    let mut answer = cache.answer(MemberRequest::parse(request.as_bytes()).unwrap()).unwrap();
    let next = |answer: &mut MemberAnswer, cache: &Cache| -> Value {
        let mut out = Vec::new();
        assert!(cache.next_chunk(answer, &mut out));
        serde_json::from_slice(&out).unwrap()
    };
    let named = ask(&cache, json!({"guild_id": "2", "query": "user4320", "limit": 5})).unwrap();
    assert_eq!(named[0]["members"].as_array().unwrap().len(), 1);
    let first: Vec<Value> = (0..3).map(|_| next(&mut answer, &cache)).collect();
    assert_eq!(first[2]["members"], json!(members[2000..3000]));
    // The client gets these events before the next chunk, so the chunk must not contradict them.
    apply(&mut cache, "GUILD_MEMBER_REMOVE", json!({"guild_id": "2", "user": {"id": "2500"}}));
    apply(&mut cache, "GUILD_MEMBER_REMOVE", json!({"guild_id": "2", "user": {"id": "4500"}}));
    apply(&mut cache, "GUILD_MEMBER_UPDATE", json!({"guild_id": "2", "user": {"id": "4501"}, "nick": "new"}));
    apply(&mut cache, "GUILD_MEMBER_ADD", json!({"guild_id": "2", "user": {"id": "9999", "username": "late"}}));
    members[3501] = json!({"user": {"id": "4501"}, "nick": "new"});
    members.remove(3500);
    members.remove(1500);
    answer.rewind(1);
    assert_eq!((answer.made(), answer.is_complete()), (1, false));
    let saved: SavedAnswer = serde_json::from_value(serde_json::to_value(answer.save()).unwrap()).unwrap();
    let restored = MemberAnswer::restore(saved).unwrap();
    for mut answer in [answer, restored] {
        let mut chunks = vec![first[0].clone()];
        while !answer.is_complete() {
            chunks.push(next(&mut answer, &cache));
        }
        let numbers: Vec<_> = chunks.iter().map(|chunk| chunk["chunk_index"].as_u64().unwrap()).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
        let all: Vec<Value> = chunks.iter().flat_map(|chunk| chunk["members"].as_array().unwrap().clone()).collect();
        assert_eq!(all, members);
        answer.rewind(0);
        assert_eq!(next(&mut answer, &cache)["members"], first[0]["members"]);
    }
    // The bot has left the guild. The answer is finished with empty chunks.
    let request = json!({"guild_id": "2", "query": "", "limit": 0}).to_string();
    let mut answer = cache.answer(MemberRequest::parse(request.as_bytes()).unwrap()).unwrap();
    let named = json!({"guild_id": "2", "query": "user", "limit": 5}).to_string();
    let mut by_name = cache.answer(MemberRequest::parse(named.as_bytes()).unwrap()).unwrap();
    apply(&mut cache, "GUILD_DELETE", json!({"id": "2"}));
    while !answer.is_complete() {
        assert_eq!(next(&mut answer, &cache)["members"], json!([]));
    }
    assert_eq!(next(&mut by_name, &cache)["members"], json!([]));
    let limited = json!({"guild_id": "1", "query": "", "limit": 1});
    assert_eq!(ask(&cache, limited).unwrap()[0]["members"].as_array().unwrap().len(), 1);
}

/// The client has got all events up to the time when a chunk is made. An older state would undo them.
#[test]
fn a_chunk_shows_members_as_they_are_when_it_is_made() {
    let requests = [
        json!({"guild_id": "2", "query": "", "limit": 0}),
        json!({"guild_id": "2", "query": "user", "limit": 100}),
        json!({"guild_id": "2", "user_ids": ["1000", "1001", "1002"]}),
    ];
    for request in requests {
        let mut cache = cache(Flags::ALL);
        apply(&mut cache, "GUILD_CREATE", large_guild(3));
        let named = request.get("user_ids").is_some();
        let mut answer = cache.answer(MemberRequest::parse(request.to_string().as_bytes()).unwrap()).unwrap();
        let renamed = json!({"guild_id": "2", "user": {"id": "1001", "username": "user1"}, "nick": "new", "roles": []});
        apply(&mut cache, "GUILD_MEMBER_UPDATE", renamed);
        apply(&mut cache, "GUILD_MEMBER_REMOVE", json!({"guild_id": "2", "user": {"id": "1002"}}));
        let mut out = Vec::new();
        assert!(cache.next_chunk(&mut answer, &mut out));
        let chunk: Value = serde_json::from_slice(&out).unwrap();
        let members: Vec<_> = chunk["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|member| (&member["user"]["id"], &member["nick"]))
            .collect();
        assert_eq!(members, [(&json!("1000"), &Value::Null), (&json!("1001"), &json!("new"))]);
        assert_eq!(chunk.get("not_found"), named.then(|| json!(["1002"])).as_ref());
        // The guild has an outage. A chunk that was made before is made again, without members.
        apply(&mut cache, "GUILD_DELETE", json!({"id": "2", "unavailable": true}));
        answer.rewind(0);
        out.clear();
        assert!(cache.next_chunk(&mut answer, &mut out));
        let chunk: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&chunk["members"], chunk.get("not_found")), (&json!([]), None));
    }
}
