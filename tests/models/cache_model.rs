//! The cache is compared with two models after each event:
//!
//! * discord-sim's world, with events as they happen in real guilds;
//! * a plain tree of JSON values ([`model`]), with [`random_events`], which also have unusual keys and values and lack
//!   some keys.

mod model;
mod random_events;

use gateway_proxy::{
    cache::{Cache, Flags, MemberRequest, View},
    protocol::event::EventKind,
};
use model::{Model, without};
use proptest::prelude::*;
use random_events::{array_of, event};
use serde_json::{Map, Value, json as value};
use world::{Body, Settings, Wish, World};

/// The bot's user id.
const OWN: &str = "3";
/// The arrays of a guild whose entities the cache stores one by one.
const ARRAYS: [&str; 11] = [
    "channels",
    "threads",
    "members",
    "presences",
    "roles",
    "emojis",
    "stickers",
    "voice_states",
    "guild_scheduled_events",
    "stage_instances",
    "soundboard_sounds",
];

/// The snapshot of a guild, written in slices of about `slice` bytes; `None` when the guild is unknown or unavailable.
fn shown(cache: &Cache, guild: u64, slice: usize) -> Option<Value> {
    let mut snapshot = cache.snapshot(guild, View::ALL)?;
    if snapshot.unavailable() {
        return None;
    }
    let (mut out, length) = (Vec::new(), snapshot.len());
    while !snapshot.write(&mut out, slice) {}
    assert_eq!(out.len(), length, "the length that the snapshot said");
    Some(serde_json::from_slice(&out).unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(&out))))
}

/// The guild with the entities of each array sorted. The world does not keep the order of its arrays.
fn canonical(mut guild: Value) -> Value {
    for array in ARRAYS {
        if let Some(rows) = guild[array].as_array_mut() {
            rows.sort_by_cached_key(ToString::to_string);
        }
    }
    guild
}

#[test]
fn the_cache_equals_the_world_after_every_event() {
    let (shards, guilds, members, presences) = (1, 6, 12, 0.4);
    let mut world =
        World::generate(Settings { seed: 11, shards, guilds, members, presences, channels: 6, roles: 5, emojis: 3 });
    let mut cache = Cache::new(Flags::ALL);
    let ready = value!({"user": {"id": world.bot().to_string()}, "guilds": []});
    cache.ready(ready.to_string().as_bytes()).expect("READY");
    let create = |cache: &mut Cache, world: &World, guild: u64| {
        let text = world.guild(guild).expect("a guild").create(None, false, world.bot());
        assert!(cache.apply(EventKind::GuildCreate, text.as_bytes()).changed);
    };
    for guild in world.guilds_of(0).map(|guild| guild.id()).collect::<Vec<_>>() {
        create(&mut cache, &world, guild);
    }
    for round in 0..4_000 {
        let wish = if round % 3 == 0 { Wish::Any } else { Wish::State };
        // One step of the world can cause several events, and the world shows all of them. So all are applied before
        // comparing.
        let events = world.happen(0, wish);
        for event in &events {
            match &event.body {
                Body::Json { text, .. } => {
                    let outcome = cache.apply(EventKind::from_name(event.name.as_bytes()), text.as_bytes());
                    assert_eq!(outcome.ignored, None, "{} {text}", event.name);
                }
                Body::Guild { .. } => create(&mut cache, &world, event.guild),
            }
        }
        for event in &events {
            let truth = world.guild(event.guild).filter(|guild| guild.available());
            let truth = truth.map(|guild| {
                let text = guild.create(None, false, world.bot());
                canonical(serde_json::from_str(&text).expect("JSON"))
            });
            let slice = [1, 100, 1 << 20][round % 3];
            assert_eq!(shown(&cache, event.guild, slice).map(canonical), truth, "after {} of {round}", event.name);
        }
    }
    let counts = cache.counts();
    let total =
        |of: fn(&world::Guild) -> usize| world.guilds_of(0).filter(|guild| guild.available()).map(of).sum::<usize>();
    assert_eq!(counts.members, total(|guild| guild.member_count()));
}

/// The guild without its empty arrays. An array that GUILD_CREATE did not have may be missing or empty.
fn without_empty(guild: Value) -> Value {
    let empty = |key: &&str| guild[*key].as_array().is_some_and(Vec::is_empty);
    let keys: Vec<&str> = ARRAYS.into_iter().filter(empty).collect();
    without(&guild, &keys)
}

/// The first two keys whose values differ.
fn difference(shown: &Option<Value>, truth: &Option<Value>) -> String {
    let (Some(shown), Some(truth)) = (shown, truth) else { return format!("{shown:?} instead of {truth:?}") };
    let keys = shown.as_object().into_iter().chain(truth.as_object()).flat_map(Map::keys);
    let wrong = keys.filter(|key| shown.get(key) != truth.get(key));
    wrong.map(|key| format!("{key}: {:?} instead of {:?}", shown.get(key), truth.get(key))).take(2).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_events_change_the_cache_as_the_model(seeds in prop::collection::vec(any::<u64>(), 1..60), choice in 0u8..5) {
        let flags = match choice {
            0 | 1 => Flags::ALL,
            2 => Flags { users: false, emojis: false, voice_states: false, ..Flags::ALL },
            3 => Flags { voice_states: true, ..Flags::default() },
            _ => Flags { channels: true, current_member: true, ..Flags::default() },
        };
        let mut cache = Cache::new(flags);
        cache.ready(value!({"user": {"id": OWN}, "guilds": []}).to_string().as_bytes()).expect("READY");
        let mut model = Model::new(flags);
        for seed in seeds {
            let (name, data) = event(seed);
            let before = model.guilds.clone();
            model.apply(name, &data);
            let outcome = cache.apply(EventKind::from_name(name.as_bytes()), data.to_string().as_bytes());
            // An event that counts as a change is not sent to clients whose snapshot is newer, so the snapshot must
            // show it. An event that a snapshot shows must count as a change, or such clients would get it twice.
            // Messages and answers to requests are exceptions: clients get them in any case.
            if !name.starts_with("MESSAGE_") && name != "GUILD_MEMBERS_CHUNK" {
                let off = array_of(name).is_some_and(|array| !model.keeps(&Value::Null, array, None));
                prop_assert!(!(off && outcome.changed), "{name} {data} is in no snapshot but counts as a change");
                // Deleting an unknown channel is ignored, but removes the threads that name it as their parent.
                let off = off || name.ends_with("_DELETE");
                prop_assert!(off || outcome.changed || before == model.guilds, "{name} {data} is in the snapshot but does not count as a change");
            }
            for guild in [1, 2] {
                let everybody = value!({"guild_id": guild, "query": "", "limit": 0}).to_string();
                let request = MemberRequest::parse(everybody.as_bytes()).expect("a request");
                let knows_all = cache.answer(request).is_some();
                prop_assert!(knows_all == model.known.contains(&guild), "{knows_all} after {name} {data}");
                let truth = model.shown(guild).map(without_empty);
                let shown = shown(&cache, guild, 64).map(without_empty);
                prop_assert!(shown == truth, "{} after {name} {data}", difference(&shown, &truth));
            }
        }
    }
}
