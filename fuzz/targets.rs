//! Everything that reads bytes from outside, one function for each, for any bytes: nothing may panic, take more than it is given,
//! or depend on how the bytes are cut into pieces.
//!
//! cargo-fuzz runs them with coverage feedback (`fuzz/fuzz_targets`); `tests/fuzz.rs` runs them on stable Rust with
//! mutations of `fuzz/corpus`.

use gateway_proxy::{
    cache::Flags,
    compression::{Inflater, Transport},
    control::{
        http::{self, OriginPolicy, Route},
        origin,
    },
    log::Limits,
    protocol::{
        ShardId,
        command::{Command, Forwarded, forward},
        envelope::Envelope,
        etf,
    },
    shard::{Settings, Shard},
    upstream::session::Identity,
    websocket::{FrameDecoder, Role},
};
use std::{rc::Rc, time::Duration};

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// All of them, by the names of their corpora.
pub const ALL: [(&str, Target); 8] = [
    ("http_head", http_head),
    ("proxy_header", proxy_header),
    ("frames", frames),
    ("inflate", inflate),
    ("etf", etf_term),
    ("envelope", envelope),
    ("command", command),
    ("state", state),
];

/// The head of a request, from a client.
pub fn http_head(bytes: &[u8]) {
    let policy = OriginPolicy { origins: vec!["https://a.example".into()], hosts: vec!["a.example".into()] };
    let parsed = http::parse_for(bytes, Some(&policy));
    if let Some((size, route)) = &parsed {
        assert!(*size <= bytes.len());
        if let Route::Refused(response) = route {
            assert!(response.encode().starts_with(b"HTTP/1.1 4"), "{response:?}");
        }
    }
    // A head that is complete is recognised as one that may be, or it is refused.
    if matches!(parsed, Some((_, route)) if !matches!(route, Route::Refused(_))) {
        assert!(http::may_end_after(bytes, 0));
    }
    let _ = origin::forwarded_for(bytes, &[]);
}

/// The header of the PROXY protocol, from a terminator.
pub fn proxy_header(bytes: &[u8]) {
    if let Ok(Some((size, source))) = origin::proxy_header(bytes) {
        assert!(size <= bytes.len());
        // What is behind it changes nothing, and without its end it is not complete.
        assert_eq!(origin::proxy_header(&bytes[..size]), Ok(Some((size, source))));
        assert_eq!(origin::proxy_header(&bytes[..size - 1]), Ok(None));
    }
}

/// Frames, from either side. The messages are the same however the bytes come.
pub fn frames(bytes: &[u8]) {
    let Some((&step, bytes)) = bytes.split_first() else { return };
    for role in [Role::Client, Role::Server] {
        let read = |step: usize| {
            let mut inbound = FrameDecoder::new(role, 4096);
            let mut messages = Vec::new();
            for piece in bytes.chunks(step.max(1)) {
                inbound.receive(piece);
                loop {
                    match inbound.next() {
                        Ok(Some(message)) => messages.push(format!("{message:?}")),
                        Ok(None) => break,
                        Err(violation) => {
                            messages.push(violation.to_string());
                            return messages;
                        }
                    }
                }
            }
            messages
        };
        assert_eq!(read(usize::MAX), read(usize::from(step)));
    }
}

/// A compressed stream, from Discord.
pub fn inflate(bytes: &[u8]) {
    for transport in [Transport::Zlib, Transport::Zstd] {
        let mut out = Vec::new();
        let _ = Inflater::new(transport, 1 << 20).inflate(bytes, &mut out);
        assert!(out.len() <= 1 << 20);
    }
}

/// A term, from a client.
pub fn etf_term(bytes: &[u8]) {
    let mut text = Vec::new();
    if etf::to_json(bytes, &mut text).is_ok() {
        serde_json::from_slice::<serde::de::IgnoredAny>(&text).expect("JSON");
    }
}

/// A payload, from Discord.
pub fn envelope(bytes: &[u8]) {
    if let Ok(envelope) = Envelope::scan(bytes)
        && let Ok(parsed) = serde_json::from_slice::<serde_json::Value>(bytes)
    {
        assert_eq!(parsed["op"].as_u64(), Some(envelope.op));
    }
}

/// A payload, from a client. What goes to Discord is JSON with the same opcode.
pub fn command(bytes: &[u8]) {
    let Ok(command) = Command::parse(bytes) else { return };
    let _ = (command.heartbeat(), command.identify(), command.resume());
    if let Ok(Forwarded::Payload(payload)) = forward(&command, &[44]) {
        let parsed: serde_json::Value = serde_json::from_slice(&payload).expect("JSON");
        assert_eq!(parsed["op"].as_u64(), Some(command.op));
        assert!(parsed["d"].is_object() || command.op == 44);
    }
}

/// The records of a shard, from a state file whose seal is right.
pub fn state(bytes: &[u8]) {
    let settings = Settings {
        voice_grace: Duration::from_secs(120),
        voice_rejoin: false,
        public_url: "ws://proxy".into(),
        log: Limits { bytes: 1 << 20, entries: 100 },
        resume_window: Duration::from_secs(120),
        // As in the process that wrote the corpus.
        cache: Flags { channels: true, roles: true, current_member: true, ..Flags::default() },
        prefetch_members: false,
        honor_client_intents: true,
        intents: u64::MAX,
        denied: Default::default(),
        forward_opcodes: Vec::new(),
    };
    let identity = Identity { identify: Vec::new(), token: "t".into() };
    let id = ShardId { id: 0, count: 1 };
    let (url, now) = ("ws://discord".to_owned(), Duration::from_secs(1));
    let entropy = Box::new(|bytes: &mut [u8]| bytes.fill(7));
    if let Ok(mut shard) = Shard::restore(id, Rc::new(settings), identity, url, entropy, now, &mut &bytes[..]) {
        shard.tick(now);
        let _ = shard.report();
        shard.stop();
        let _ = shard.save(&mut Vec::new());
    }
}
