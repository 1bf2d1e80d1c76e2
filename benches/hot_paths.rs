//! What is done for every event, and what a joining client costs. `cargo bench`, or `cargo bench -- scan` for one.
//!
//! Absolute times depend on the machine; the rows `memcpy` and `serde_json` in the same run say what they are worth.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gateway_proxy::{
    compression::Transport,
    downstream::outbox::Outbox,
    log::{Limits, Log},
    protocol::{
        Encoding,
        envelope::Envelope,
        etf,
        event::{EventKind, Meta},
    },
};
use std::{fmt::Write, hint::black_box};

/// A message of about 1 KB, as Discord sends them.
fn message() -> String {
    let content = "some words of a message, with \\\"quotes\\\" and \\u00e9 escapes. ".repeat(6);
    format!(
        r#"{{"t":"MESSAGE_CREATE","s":123456,"op":0,"d":{{"type":0,"tts":false,"timestamp":"2026-01-01T00:00:00.000000+00:00","pinned":false,"mentions":[],"mention_roles":[],"mention_everyone":false,"member":{{"roles":["111111111111111111"],"mute":false,"joined_at":"2020-01-01T00:00:00.000000+00:00","deaf":false}},"id":"222222222222222222","flags":0,"embeds":[],"edited_timestamp":null,"content":"{content}","components":[],"channel_id":"333333333333333333","author":{{"username":"somebody","public_flags":0,"id":"444444444444444444","global_name":"Somebody","discriminator":"0","avatar":"00112233445566778899aabbccddeeff"}},"attachments":[],"guild_id":"555555555555555555"}}}}"#
    )
}

fn member(id: u64) -> String {
    format!(
        r#"{{"user":{{"username":"user{id}","public_flags":0,"primary_guild":null,"id":"{id}","global_name":"User {id}","discriminator":"0","collectibles":null,"clan":null,"bot":false,"avatar_decoration_data":null,"avatar":"00112233445566778899aabbccddeeff"}},"roles":["111111111111111111","111111111111111112"],"premium_since":null,"pending":false,"nick":null,"mute":false,"joined_at":"2020-01-01T00:00:00.000000+00:00","flags":0,"deaf":false,"communication_disabled_until":null,"banner":null,"avatar":null}}"#
    )
}

fn presence(id: u64, status: &str) -> String {
    format!(
        r#"{{"user":{{"id":"{id}"}},"status":"{status}","client_status":{{"desktop":"{status}"}},"activities":[{{"type":0,"timestamps":{{"start":1700000000000}},"name":"a game of some length","id":"0011223344556677","created_at":1700000000000}}]}}"#
    )
}

const GUILD: u64 = 555_555_555_555_555_555;
const MEMBERS: u64 = 2_000;

fn guild() -> String {
    let mut text =
        format!(r#"{{"id":"{GUILD}","name":"a guild","member_count":{MEMBERS},"unavailable":false,"members":["#);
    for id in 0..MEMBERS {
        write!(text, "{}{}", if id == 0 { "" } else { "," }, member(600_000_000_000_000_000 + id)).expect("memory");
    }
    text.push_str(r#"],"presences":["#);
    for id in 0..MEMBERS / 3 {
        let presence = presence(600_000_000_000_000_000 + id, "online");
        write!(text, "{}{presence}", if id == 0 { "" } else { "," }).expect("memory");
    }
    text.push_str(r#"],"channels":[],"roles":[],"emojis":[]}"#);
    text
}

fn scan(c: &mut Criterion) {
    let text = message();
    let mut group = c.benchmark_group("scan");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("envelope", |b| b.iter(|| Envelope::scan(black_box(text.as_bytes())).expect("good").s));
    group.bench_function("serde_json", |b| {
        b.iter(|| serde_json::from_slice::<serde_json::Value>(black_box(text.as_bytes())).expect("good"));
    });
    group.bench_function("memcpy", |b| b.iter(|| black_box(text.as_bytes()).to_vec()));
    group.finish();
}

fn relay(c: &mut Criterion) {
    let text = message();
    let data = Envelope::scan(text.as_bytes()).expect("good").d;
    let meta = Meta { kind: EventKind::MessageCreate, changed_guild: None, recipient: None };
    let mut group = c.benchmark_group("relay");
    group.throughput(Throughput::Elements(1));
    let mut log = Log::new(Limits { bytes: 1 << 20, entries: 100 });
    group.bench_function("append", |b| b.iter(|| log.append(b"MESSAGE_CREATE", black_box(data), meta)));
    let entry = log.read(log.next() - 1).and_then(|mut entries| entries.next()).expect("the newest event");
    for (name, transport, encoding, payloads) in [
        ("send_plain", Transport::None, Encoding::Json, false),
        ("send_packed", Transport::None, Encoding::Json, true),
        ("send_zlib", Transport::Zlib, Encoding::Json, false),
        ("send_zstd", Transport::Zstd, Encoding::Json, false),
        ("send_etf", Transport::None, Encoding::Etf, false),
    ] {
        let mut outbox = Outbox::new(transport, encoding);
        outbox.start_compressing(payloads);
        group.bench_function(name, |b| {
            b.iter(|| {
                outbox.message(&[entry.prefix, b"123456", entry.suffix]);
                let pending = outbox.pending().len();
                outbox.wrote(pending);
            });
        });
    }
    group.finish();
}

fn terms(c: &mut Criterion) {
    let text = guild();
    let mut group = c.benchmark_group("etf");
    group.throughput(Throughput::Bytes(text.len() as u64));
    let mut out = Vec::with_capacity(2 * text.len());
    let mut encoder = etf::Encoder::default();
    group.bench_function("encode", |b| {
        b.iter(|| {
            out.clear();
            encoder.encode(&[black_box(text.as_bytes())], &mut out).expect("JSON");
        });
    });
    group.bench_function("memcpy", |b| {
        b.iter(|| {
            out.clear();
            out.extend_from_slice(black_box(text.as_bytes()));
        });
    });
    group.finish();
}

criterion_group!(benches, scan, relay, terms);
criterion_main!(benches);
