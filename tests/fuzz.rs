//! Random damaged input: `make fuzz SECONDS=60`; `SEED=` repeats a run. `cargo test` runs it for a few seconds.
//!
//! Real payloads are mutated (bits, cuts, repetitions, pieces of other payloads, tokens with a meaning) and given to
//! all code that reads bytes from outside: the envelope scan, the JSON cursor, the codec and its records, the cache
//! with all its events and its packed guilds, ETF in both directions, frames of both sides, decompression. The targets
//! of cargo-fuzz (`fuzz/targets.rs`) run here, too, with mutations of their corpora. No input may cause a panic.
//! Accepted input must come out unchanged, and snapshots of the cache must be JSON. There is no coverage feedback; the
//! mutations know the formats instead.

#[path = "../fuzz/targets.rs"]
mod targets;

use fastrand::Rng;
use gateway_proxy::{
    cache::{
        Cache, Flags, MemberRequest, View,
        codec::{Decoder, Encoder, IdPath, IdTable, Shape, Tables, text_length},
    },
    compression::{Inflater, Transport},
    protocol::{command::Command, edit, envelope::Envelope, etf, event::EventKind, json as text, spelling},
    websocket::{FrameDecoder, Role},
};
use serde_json::Value;
use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::{Duration, Instant},
};
use world::{Body, Settings, Wish, World};

/// Duration of the fuzzing in `cargo test`.
const MOMENT: Duration = Duration::from_secs(3);
/// Number of rounds between two checks of the time. Each cache is used for as many rounds.
const ROUNDS: u64 = 200;
/// Maximum length of a text in bytes. With short texts there are more rounds.
const MOST: usize = 64 << 10;

/// Pieces of text that have a meaning in one of the formats.
const TOKENS: [&[u8]; 28] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"\\",
    b"\\u00e9",
    b"\\ud800",
    b"null",
    b"true",
    b"-0",
    b"1e999",
    b"0.1",
    b"\"id\":",
    b"\"id\":\"1\"",
    b"\"guild_id\":\"0\"",
    b"\"user\":{}",
    b"\"members\":[]",
    b"18446744073709551616",
    b"\"\"",
    b"\x00",
    b"\xff",
    b"\x83t",
    b"\x83m\xff\xff\xff\xff",
    b" ",
    b"\n",
];

/// A target of cargo-fuzz and the inputs of its corpus.
struct Seeds {
    name: &'static str,
    target: targets::Target,
    seeds: Vec<Vec<u8>>,
}

impl Seeds {
    fn all() -> Vec<Self> {
        let read = |(name, target): (&'static str, targets::Target)| {
            let directory = format!("{}/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
            let files = std::fs::read_dir(&directory).expect("a corpus");
            let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
            // The order of the files differs between machines. Sorted, a seed of the generator gives the same run on
            // all of them.
            paths.sort();
            let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).expect("a file")).collect();
            assert!(!seeds.is_empty(), "{directory} is empty");
            Self { name, target, seeds }
        };
        targets::ALL.map(read).into()
    }

    fn mutated(&self, rng: &mut Rng, corpus: &Corpus) -> Vec<u8> {
        let mut bytes = self.seeds[rng.usize(0..self.seeds.len())].clone();
        for _ in 0..rng.usize(0..6) {
            if rng.u8(0..4) == 0 {
                // The rest of another input of the same target.
                let other = &self.seeds[rng.usize(0..self.seeds.len())];
                let (at, from) = (rng.usize(0..=bytes.len()), rng.usize(0..=other.len()));
                bytes.splice(at.., other[from..].iter().copied());
            } else {
                corpus.mutate(rng, &mut bytes);
            }
        }
        bytes
    }
}

struct Corpus {
    /// Event types and their data.
    events: Vec<(&'static str, Vec<u8>)>,
}

impl Corpus {
    fn new(seed: u64) -> Self {
        let (shards, guilds, members, presences) = (1, 5, 12, 0.4);
        let mut world =
            World::generate(Settings { seed, shards, guilds, members, presences, channels: 5, roles: 4, emojis: 3 });
        let mut events: Vec<(&'static str, Vec<u8>)> = world
            .guilds_of(0)
            .map(|guild| ("GUILD_CREATE", guild.create(None, false, world.bot()).into_bytes()))
            .filter(|(_, text)| text.len() < MOST)
            .collect();
        for _ in 0..1_500 {
            for event in world.happen(0, Wish::Any) {
                if let Body::Json { text, .. } = event.body {
                    events.push((event.name, text.into_bytes()));
                }
            }
        }
        Self { events }
    }

    fn any(&self, rng: &mut Rng) -> (&'static str, &[u8]) {
        let (name, text) = &self.events[rng.usize(0..self.events.len())];
        (name, text)
    }

    /// The data of a random event, with up to four mutations.
    fn mutated(&self, rng: &mut Rng) -> (&'static str, Vec<u8>) {
        let (name, text) = self.any(rng);
        let mut text = text.to_vec();
        for _ in 0..rng.usize(0..5) {
            self.mutate(rng, &mut text);
        }
        text.truncate(MOST);
        // Sometimes the type is that of another event.
        (if rng.u8(0..8) == 0 { self.any(rng).0 } else { name }, text)
    }

    fn mutate(&self, rng: &mut Rng, text: &mut Vec<u8>) {
        if text.is_empty() {
            text.extend_from_slice(TOKENS[rng.usize(0..TOKENS.len())]);
            return;
        }
        let at = rng.usize(0..text.len());
        let end = (at + rng.usize(0..40)).min(text.len());
        match rng.u8(0..9) {
            0 => text[at] ^= 1 << rng.u8(0..8),
            1 => text[at] = rng.u8(..),
            2 => text.truncate(at),
            3 => drop(text.drain(at..end)),
            4 => {
                let piece = text[at..end].to_vec();
                text.splice(at..at, piece);
            }
            5 => {
                let other = self.any(rng).1;
                let from = rng.usize(0..other.len());
                let piece = other[from..(from + rng.usize(0..60)).min(other.len())].to_vec();
                text.splice(at..end, piece);
            }
            6 => {
                let open = TOKENS[rng.usize(0..4)].repeat(rng.usize(1..600));
                text.splice(at..at, open);
            }
            _ => drop(text.splice(at..end, TOKENS[rng.usize(0..TOKENS.len())].iter().copied())),
        }
    }
}

/// The codec: the text of an accepted object comes back byte for byte, and damaged records cause no panic.
fn codec(rng: &mut Rng, text: &[u8], tables: &mut Tables, ids: &mut IdTable) {
    let mut encoder = Encoder::default();
    let shape = match rng.u8(0..5) {
        0 => Shape::of(IdPath::None),
        1 => Shape::of(IdPath::At("id")),
        2 => Shape { loose: true, ..Shape::of(IdPath::At("id")) },
        3 => Shape { leave_out: &["guild_id", "user"], ..Shape::of(IdPath::User) },
        _ => Shape { bare_user: true, ..Shape::of(IdPath::User) },
    };
    let Ok(encoded) = encoder.encode(tables, ids, &shape, text, 0) else { return };
    let mut out = Vec::new();
    let decoder = Decoder { tables, ids };
    decoder.decode(encoded.id, encoder.record(), &mut out).expect("its own record");
    assert_eq!((out.len(), text_length(encoder.record())), (encoded.length, Some(encoded.length)));
    if shape.leave_out.is_empty() && !shape.bare_user {
        assert_eq!(out, text[..encoded.end].trim_ascii_start(), "what came back");
    }
    serde_json::from_slice::<serde::de::IgnoredAny>(&out).expect("JSON");
    let mut record = encoder.record().to_vec();
    // The second time the codec may already have the template of the object.
    let again = encoder.encode(tables, ids, &shape, text, 0).expect("as before");
    let mut followed = Vec::new();
    let decoder = Decoder { tables, ids };
    decoder.decode(again.id, encoder.record(), &mut followed).expect("its own record");
    assert_eq!((again, followed), (encoded, out.clone()), "a second time");
    for _ in 0..4 {
        if !record.is_empty() {
            let at = rng.usize(0..record.len());
            match rng.u8(0..3) {
                0 => record.truncate(at),
                1 => record[at] = rng.u8(..),
                _ => record.insert(at, rng.u8(..)),
            }
        }
        out.clear();
        let _ = decoder.decode(rng.u64(..), &record, &mut out);
        let _ = (decoder.check(rng.u64(..), &record), text_length(&record));
        assert!(out.len() < 64 << 20, "a record of {} bytes became {}", record.len(), out.len());
    }
}

/// Merging two records must give the same JSON as merging their texts.
fn merging(rng: &mut Rng, text: &[u8], tables: &mut Tables, ids: &mut IdTable) {
    let Ok(Value::Object(old)) = serde_json::from_slice::<Value>(text) else { return };
    let mut new = old.clone();
    new.retain(|key, _| key == "id" || rng.u8(0..4) > 0);
    for (_, value) in new.iter_mut().filter(|(key, _)| *key != "id") {
        match rng.u8(0..6) {
            0 => *value = Value::Null,
            1 => *value = old.values().nth(rng.usize(0..old.len())).cloned().unwrap_or_default(),
            _ => {}
        }
    }
    if rng.bool() {
        new.insert("added".to_owned(), rng.u32(..).into());
    }
    let (old, new) = (Value::Object(old).to_string(), Value::Object(new).to_string());
    let (mut encoder, shape) = (Encoder::default(), Shape::of(IdPath::At("id")));
    let first = encoder.encode(tables, ids, &shape, old.as_bytes(), 0).expect("JSON");
    let record = encoder.record().to_vec();
    let second = encoder.encode(tables, ids, &shape, new.as_bytes(), 0).expect("JSON");
    assert_eq!(first.id, second.id);
    let Some(merged) = encoder.merge(tables, ids, second, &record) else { return };
    let mut out = Vec::new();
    Decoder { tables, ids }.decode(merged.id, encoder.record(), &mut out).expect("a sound record");
    assert_eq!(out.len(), merged.length);
    let texts = edit::merge(old.as_bytes(), new.as_bytes(), &[]).expect("JSON");
    let value = |text: &[u8]| serde_json::from_slice::<Value>(text).expect("JSON");
    assert_eq!(value(&out), value(&texts), "{new} over {old}");
}

/// The cache takes any event with any data, and its snapshots stay JSON.
fn cache(cache: &mut Cache, name: &str, text: &[u8]) {
    let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok();
    let outcome = cache.apply(EventKind::from_name(name.as_bytes()), text);
    if let Some(guild) = outcome.guild.filter(|_| outcome.changed)
        && let Some(mut snapshot) = cache.snapshot(guild, View::ALL)
        && !snapshot.unavailable()
    {
        let (mut out, length) = (Vec::new(), snapshot.len());
        while !snapshot.write(&mut out, 10_000) {}
        assert_eq!(out.len(), length, "the length that was announced");
        // In the proxy all data is JSON, because the envelope has been scanned before. The cache may keep other data as
        // it is.
        if is_json {
            serde_json::from_slice::<serde::de::IgnoredAny>(&out).expect("a guild that is JSON");
        } else {
            cache.apply(EventKind::GuildDelete, format!(r#"{{"id":"{guild}"}}"#).as_bytes());
        }
    }
    if let Some(request) = MemberRequest::parse(text)
        && let Some(mut answer) = cache.answer(request)
    {
        let mut out = Vec::new();
        while !answer.is_complete() {
            cache.next_chunk(&mut answer, &mut out);
        }
    }
}

/// Damaged packed guilds, as from another process: an accepted guild is JSON, and can be changed and removed.
fn packed(rng: &mut Rng, from: &mut Cache, flags: Flags) {
    let guilds: Vec<u64> = from.guilds().filter(|(_, available)| *available).map(|(guild, _)| guild).collect();
    let Some(guild) = rng.choice(guilds) else { return };
    let (mut tables, mut bytes) = (Vec::new(), Vec::new());
    from.write_tables(&mut tables);
    assert!(from.write_guild(guild, &mut bytes));
    let mut into = Cache::new(flags);
    let whole = rng.u8(0..4) == 0;
    for _ in 0..if whole { 0 } else { rng.usize(1..4) } {
        let changed = if rng.u8(0..4) == 0 { &mut tables } else { &mut bytes };
        if !changed.is_empty() {
            let at = rng.usize(0..changed.len());
            match rng.u8(0..6) {
                0 => changed.truncate(at),
                1 => changed.insert(at, rng.u8(..)),
                2 => drop(changed.remove(at)),
                _ => changed[at] = rng.u8(..),
            }
        }
    }
    let read = into.read_tables(&tables).and_then(|origin| into.read_guild(&origin, &bytes));
    assert!(!whole || read == Some(guild), "its own guild");
    let Some(guild) = read else { return };
    let mut snapshot = into.snapshot(guild, View::ALL).expect("a guild");
    let mut out = Vec::new();
    while !snapshot.write(&mut out, 10_000) {
        assert!(out.len() <= snapshot.len(), "the length that was announced");
    }
    serde_json::from_slice::<serde::de::IgnoredAny>(&out).expect("a guild that is JSON");
    into.apply(EventKind::GuildDelete, format!(r#"{{"id":"{guild}"}}"#).as_bytes());
    assert_eq!((into.counts().members, into.counts().channels, into.counts().presences), (0, 0, 0));
}

/// All other code that reads bytes.
fn readers(rng: &mut Rng, text: &[u8]) {
    let _ = Envelope::scan(text);
    let _ = Envelope::scan(&[br#"{"t":"X","s":1,"op":0,"d":"#, text, b"}"].concat());
    let _ = text::elements(text);
    let _ = text::get(text, "id").and_then(text::parse_id);
    let (plain, is_plain) = (spelling::plain(text), spelling::is_plain(text));
    if let Ok(parsed) = serde_json::from_slice::<Value>(text) {
        let plain = plain.expect("it is JSON");
        assert!(spelling::is_plain(&plain) && (!is_plain || plain == text));
        assert!(
            serde_json::from_slice::<Value>(&plain).is_ok_and(|read| read == parsed),
            "a parser reads something else"
        );
    }
    if let Ok(text) = std::str::from_utf8(text)
        && let Ok(command) = Command::parse(text.as_bytes())
    {
        let _ = (command.identify(), command.resume());
    }
    let mut term = Vec::new();
    if etf::Encoder::default().encode(&[text], &mut term).is_ok() && serde_json::from_slice::<Value>(text).is_ok() {
        let _ = etf::to_json(&term, &mut Vec::new());
    }
    let _ = etf::to_json(text, &mut Vec::new());
    for transport in [Transport::Zlib, Transport::Zstd] {
        let mut inflater = Inflater::new(transport, 1 << 20);
        let _ = inflater.inflate(text, &mut Vec::new());
    }
    for role in [Role::Client, Role::Server] {
        let mut inbound = FrameDecoder::new(role, 4096);
        let mut rest = text;
        'frames: while !rest.is_empty() {
            let space = inbound.space();
            let n = rest.len().min(space.len()).min(rng.usize(1..64));
            space[..n].copy_from_slice(&rest[..n]);
            inbound.filled(n);
            rest = &rest[n..];
            loop {
                match inbound.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => break 'frames,
                }
            }
        }
    }
}

fn main() -> ExitCode {
    let number = |name: &str| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let limit = number("SECONDS_TO_FUZZ").map_or(MOMENT, Duration::from_secs);
    let first = number("SEED").unwrap_or_else(|| fastrand::u64(..));
    let corpus = Corpus::new(1);
    let all = Seeds::all();
    let start = Instant::now();
    let (mut rounds, mut seed) = (0, first);
    println!("fuzzing for {} s, SEED={first}", limit.as_secs());
    while start.elapsed() < limit {
        let mut rng = Rng::with_seed(seed);
        let (mut tables, mut ids) = (Tables::default(), IdTable::default());
        let flags = if rng.bool() { Flags::ALL } else { Flags { users: false, ..Flags::ALL } };
        let mut kept = Cache::new(flags);
        for _ in 0..ROUNDS {
            let (name, text) = corpus.mutated(&mut rng);
            let result = catch_unwind(AssertUnwindSafe(|| {
                codec(&mut rng, &text, &mut tables, &mut ids);
                merging(&mut rng, &text, &mut tables, &mut ids);
                cache(&mut kept, name, &text);
                readers(&mut rng, &text);
                if rng.u8(0..8) == 0 {
                    packed(&mut rng, &mut kept, flags);
                }
            }));
            if result.is_err() {
                println!("SEED={seed} fails at {name}: {}", String::from_utf8_lossy(&text));
                return ExitCode::FAILURE;
            }
            rounds += 1;
            let one = &all[rng.usize(0..all.len())];
            let bytes = one.mutated(&mut rng, &corpus);
            if catch_unwind(AssertUnwindSafe(|| (one.target)(&bytes))).is_err() {
                println!("SEED={seed} fails at {}: {:?}", one.name, bytes.escape_ascii().to_string());
                return ExitCode::FAILURE;
            }
        }
        seed = seed.wrapping_add(1);
    }
    println!("{rounds} texts, nothing found");
    ExitCode::SUCCESS
}
