//! What the cache costs: taking a GUILD_CREATE apart, packing and unpacking objects, updates, synthesis. `cargo bench
//! --bench cache`, or `-- update` for some of it.
//!
//! The guilds are those of discord-sim, made as like to Discord's as we know. Absolute times depend on the machine; the rows
//! `memcpy` and `serde_json` of the same run say what they are worth.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use gateway_proxy::{
    cache::{
        Cache, Flags, MemberRequest, View,
        codec::{Decoder, Encoder, IdPath, IdTable, Shape, Tables},
    },
    protocol::{event::EventKind, json as text},
};
use std::hint::black_box;
use world::{Body, Settings, Wish, World};

fn world(guilds: usize, members: u64) -> World {
    let (seed, shards, presences) = (7, 1, 0.3);
    World::generate(Settings { seed, shards, guilds, members, presences, channels: 30, roles: 25, emojis: 20 })
}

fn creates(world: &World) -> Vec<String> {
    world.guilds_of(0).map(|guild| guild.create(None, false, world.bot())).collect()
}

fn filled(texts: &[String]) -> Cache {
    let mut cache = Cache::new(Flags::ALL);
    for text in texts {
        assert!(cache.apply(EventKind::GuildCreate, text.as_bytes()).changed);
    }
    cache
}

/// From and to GUILD_CREATE.
fn guilds(c: &mut Criterion) {
    let texts = creates(&world(200, 200));
    let bytes: usize = texts.iter().map(String::len).sum();
    let mut group = c.benchmark_group("guilds");
    group.throughput(Throughput::Bytes(bytes as u64)).sample_size(20);
    group.bench_function("split_and_store", |b| {
        b.iter_batched(|| (), |()| filled(black_box(&texts)), BatchSize::PerIteration);
    });
    group.bench_function("split_without_flags", |b| {
        b.iter_batched(
            || Cache::new(Flags::default()),
            |mut cache| {
                for text in &texts {
                    assert!(cache.apply(EventKind::GuildCreate, black_box(text.as_bytes())).changed);
                }
                cache
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("serde_json", |b| {
        b.iter_batched(
            || (),
            |()| -> Vec<serde_json::Value> {
                texts.iter().map(|text| serde_json::from_slice(black_box(text.as_bytes())).expect("JSON")).collect()
            },
            BatchSize::PerIteration,
        );
    });
    let cache = filled(&texts);
    let ids: Vec<u64> = cache.guilds().map(|(id, _)| id).collect();
    let mut out = Vec::with_capacity(bytes);
    group.bench_function("synthesis", |b| {
        b.iter(|| {
            out.clear();
            for id in &ids {
                let mut snapshot = cache.snapshot(*id, View::ALL).expect("a guild");
                while !snapshot.write(&mut out, 64 << 10) {}
            }
        });
    });
    // A filter may have left it out.
    assert!(out.is_empty() || out.len() == bytes, "synthesis gives what went in");
    let whole = texts.concat();
    group.bench_function("memcpy", |b| {
        b.iter(|| {
            out.clear();
            out.extend_from_slice(black_box(whole.as_bytes()));
        });
    });
    group.finish();
}

/// Single objects: packing and unpacking.
fn objects(c: &mut Criterion) {
    let texts = creates(&world(20, 200));
    let mut group = c.benchmark_group("objects");
    for (array, id) in [("members", IdPath::User), ("presences", IdPath::User), ("channels", IdPath::At("id"))] {
        let all: Vec<&[u8]> = texts
            .iter()
            .flat_map(|guild| text::elements(text::get(guild.as_bytes(), array).expect("an array")).expect("objects"))
            .collect();
        let shape = Shape::of(id);
        let (mut tables, mut ids, mut encoder) = (Tables::default(), IdTable::default(), Encoder::default());
        let records: Vec<(u64, Vec<u8>)> = all
            .iter()
            .map(|object| {
                let encoded = encoder.encode(&mut tables, &mut ids, &shape, object, 0).expect("JSON");
                (encoded.id, encoder.record().to_vec())
            })
            .collect();
        let mut next = 0;
        group.bench_function(format!("encode/{array}"), |b| {
            b.iter(|| {
                next = (next + 1) % all.len();
                encoder.encode(&mut tables, &mut ids, &shape, black_box(all[next]), 0).expect("JSON")
            });
        });
        let decoder = Decoder { tables: &tables, ids: &ids };
        let mut out = Vec::new();
        group.bench_function(format!("decode/{array}"), |b| {
            b.iter(|| {
                next = (next + 1) % all.len();
                out.clear();
                decoder.decode(records[next].0, black_box(&records[next].1), &mut out).expect("a record");
            });
        });
        group.bench_function(format!("serde_json/{array}"), |b| {
            b.iter(|| {
                next = (next + 1) % all.len();
                serde_json::from_slice::<serde_json::Value>(black_box(all[next])).expect("JSON")
            });
        });
    }
    group.finish();
}

/// Events of one type, as they happen in the world.
fn events(world: &mut World, name: &'static str, count: usize) -> Vec<String> {
    let mut texts = Vec::with_capacity(count);
    while texts.len() < count {
        for event in world.happen(0, Wish::Only(name)) {
            if let (true, Body::Json { text, .. }) = (event.name == name, event.body) {
                texts.push(text);
            }
        }
    }
    texts
}

/// Updates: hot ones go over few entities again and again, cold ones over a cache of some hundred thousand.
fn updates(c: &mut Criterion) {
    let mut group = c.benchmark_group("update");
    for (temperature, guilds, members) in [("hot", 4, 200), ("cold", 2_000, 200)] {
        let mut world = world(guilds, members);
        let mut cache = filled(&creates(&world));
        for name in ["PRESENCE_UPDATE", "GUILD_MEMBER_UPDATE", "MESSAGE_CREATE", "VOICE_STATE_UPDATE"] {
            let texts = events(&mut world, name, if temperature == "hot" { 200 } else { 100_000 });
            let kind = EventKind::from_name(name.as_bytes());
            let mut next = 0;
            group.bench_function(format!("{name}/{temperature}"), |b| {
                b.iter(|| {
                    next = (next + 1) % texts.len();
                    cache.apply(kind, black_box(texts[next].as_bytes()))
                });
            });
            if temperature == "cold" {
                group.bench_function(format!("{name}/serde_json"), |b| {
                    b.iter(|| {
                        next = (next + 1) % texts.len();
                        serde_json::from_slice::<serde_json::Value>(black_box(texts[next].as_bytes())).expect("JSON")
                    });
                });
            }
        }
    }
    group.finish();
}

/// What could hold a core up: single operations on a guild with 100,000 members.
fn pauses(c: &mut Criterion) {
    let mut world = world(1, 100_000);
    let texts = creates(&world);
    let mut cache = filled(&texts);
    let id = cache.guilds().next().expect("a guild").0;
    let mut group = c.benchmark_group("pauses_100k");
    group.bench_function("snapshot_begin", |b| b.iter(|| cache.snapshot(id, View::ALL).expect("a guild")));
    let bare = View { members: false, presences: false, ..View::ALL };
    group.bench_function("snapshot_begin_few_members", |b| b.iter(|| cache.snapshot(id, bare).expect("a guild")));
    let mut out = Vec::with_capacity(1 << 20);
    group.bench_function("snapshot_slice_64KiB", |b| {
        b.iter_batched_ref(
            || cache.snapshot(id, View::ALL).expect("a guild"),
            |snapshot| {
                out.clear();
                snapshot.write(&mut out, 64 << 10)
            },
            BatchSize::SmallInput,
        );
    });
    for (name, request) in [
        ("members_chunk", format!(r#"{{"guild_id":"{id}","query":"","limit":0}}"#)),
        ("members_search", format!(r#"{{"guild_id":"{id}","query":"zzzz","limit":100}}"#)),
    ] {
        let request = MemberRequest::parse(request.as_bytes()).expect("a request");
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || cache.answer(request.clone()).expect("all members are known"),
                |answer| {
                    out.clear();
                    cache.next_chunk(answer, &mut out)
                },
                BatchSize::SmallInput,
            );
        });
    }
    let leaves = events(&mut world, "GUILD_MEMBER_REMOVE", 2_000);
    let mut next = 0;
    group.bench_function("member_remove", |b| {
        b.iter(|| {
            next = (next + 1) % leaves.len();
            cache.apply(EventKind::GuildMemberRemove, black_box(leaves[next].as_bytes()))
        });
    });
    let roles: Vec<u64> = text::elements(text::get(texts[0].as_bytes(), "roles").expect("roles"))
        .expect("objects")
        .into_iter()
        .filter_map(|role| text::get(role, "id").and_then(text::parse_id))
        .collect();
    group.bench_function("role_delete_first_slice", |b| {
        b.iter(|| {
            next = (next + 1) % roles.len();
            let data = format!(r#"{{"guild_id":"{id}","role_id":"{}"}}"#, roles[next]);
            cache.apply(EventKind::GuildRoleDelete, data.as_bytes())
        });
    });
    group.finish();
}

criterion_group!(benches, guilds, objects, updates, pauses);
criterion_main!(benches);
