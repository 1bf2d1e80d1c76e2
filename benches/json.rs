//! The JSON parsers that the proxy could read payloads with: serde_json, simd-json, and its own envelope scan.
//! `cargo bench --bench json`. docs/adr/0007-json-parsers.md draws the conclusion.
//!
//! simd-json changes the text that it parses, so its rows include a copy of the payload, which the proxy would need too:
//! a client's payload is in a receive buffer, and an event goes on to clients as it came.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gateway_proxy::protocol::envelope::Envelope;
use serde::Deserialize;
use std::{fmt::Write, hint::black_box};

/// The fields of an IDENTIFY that the proxy reads.
#[derive(Deserialize)]
struct Identify {
    #[expect(dead_code, reason = "the bench only parses it")]
    d: IdentifyData,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "the bench only parses it")]
struct IdentifyData {
    token: String,
    intents: u64,
    shard: Option<(u32, u32)>,
    compress: Option<bool>,
    large_threshold: Option<u32>,
    properties: serde_json::Value,
}

/// An IDENTIFY as discord.js sends it.
const IDENTIFY: &[u8] = br#"{"op":2,"d":{"token":"MTIzNDU2Nzg5MDEyMzQ1Njc4.abcdef.abcdefghijklmnopqrstuvwxyz01234567","properties":{"os":"linux","browser":"discord.js","device":"discord.js"},"intents":53608447,"shard":[3,64],"compress":false,"large_threshold":250}}"#;

/// A READY of a shard with 1,000 guilds.
fn ready() -> Vec<u8> {
    let mut text = String::from(
        r#"{"t":"READY","s":1,"op":0,"d":{"v":10,"user":{"id":"123456789012345678","username":"bot","bot":true},"session_id":"0123456789abcdef0123456789abcdef","resume_gateway_url":"wss://gateway-us-east1-b.discord.gg","shard":[0,1],"guilds":["#,
    );
    for index in 0..1_000_u64 {
        let comma = if index == 0 { "" } else { "," };
        write!(text, r#"{comma}{{"unavailable":true,"id":"{}"}}"#, 600_000_000_000_000_000 + index).expect("memory");
    }
    text.push_str("]}}");
    text.into_bytes()
}

fn identify(c: &mut Criterion) {
    let mut group = c.benchmark_group("identify");
    group.throughput(Throughput::Bytes(IDENTIFY.len() as u64));
    group.bench_function("serde_json", |b| {
        b.iter(|| black_box(serde_json::from_slice::<Identify>(IDENTIFY).expect("an IDENTIFY")));
    });
    let mut buffers = simd_json::Buffers::new(IDENTIFY.len());
    group.bench_function("simd-json with kept buffers", |b| {
        b.iter(|| {
            let mut copy = IDENTIFY.to_vec();
            let parsed = simd_json::serde::from_slice_with_buffers::<Identify>(&mut copy, &mut buffers);
            black_box(parsed.expect("an IDENTIFY"))
        });
    });
    group.finish();
}

fn ready_with_1000_guilds(c: &mut Criterion) {
    let text = ready();
    let mut group = c.benchmark_group("ready");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("serde_json into values", |b| {
        b.iter(|| black_box(serde_json::from_slice::<serde_json::Value>(&text).expect("a READY")));
    });
    group.bench_function("simd-json into borrowed values", |b| {
        b.iter(|| drop(black_box(simd_json::to_borrowed_value(&mut text.clone()).expect("a READY"))));
    });
    group.bench_function("simd-json into a tape", |b| {
        b.iter(|| drop(black_box(simd_json::to_tape(&mut text.clone()).expect("a READY"))));
    });
    group.bench_function("the proxy's envelope scan", |b| {
        b.iter(|| black_box(Envelope::scan(&text).expect("a READY")));
    });
    group.finish();
}

criterion_group!(benches, identify, ready_with_1000_guilds);
criterion_main!(benches);
