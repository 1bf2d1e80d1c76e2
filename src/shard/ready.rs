//! Makes the READY of a client (docs: Gateway Events, Ready) from Discord's READY.
//!
//! Keys that the proxy does not replace pass through as Discord sent them, known or not.

use super::Shard;
use crate::{
    downstream::session::{RESUME_PATH, Session},
    protocol::json::{self, write_string},
};

/// Keys that a library needs, with the values that the proxy writes if Discord leaves them out.
const DEFAULTS: [(&str, &str); 2] = [("private_channels", "[]"), ("_trace", r#"["gateway-proxy"]"#)];

/// Writes a comma, the name and the colon of a further entry of an object.
fn key<'a>(out: &'a mut Vec<u8>, name: &str) -> &'a mut Vec<u8> {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    out
}

impl Shard {
    /// The `d` of the READY for `session`. It lists `guilds`, each one with `unavailable` set.
    pub(super) fn ready_for(&self, session: &Session, guilds: &[u64]) -> Vec<u8> {
        let original = self.ready.as_deref().unwrap_or(b"{}");
        let mut out = Vec::with_capacity(original.len() + guilds.len() * 48 + 512);
        out.extend_from_slice(format!(r#"{{"v":{}"#, session.options.version).as_bytes());
        let own = session.id.as_str();
        let (id, resume_at) = match self.upstream_id.as_deref().filter(|_| session.has_upstream_id) {
            Some(upstream) => (upstream, format!("{}{RESUME_PATH}{own}", self.settings.public_url)),
            None => (own, self.settings.public_url.clone()),
        };
        write_string(key(&mut out, "session_id"), id);
        write_string(key(&mut out, "resume_gateway_url"), &resume_at);
        key(&mut out, "shard").extend_from_slice(format!("[{},{}]", self.id.id, self.id.count).as_bytes());
        if let Some(user) = self.cache.user() {
            key(&mut out, "user").extend_from_slice(user);
        }
        let list = key(&mut out, "guilds");
        list.push(b'[');
        for (index, guild) in guilds.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            list.extend_from_slice(format!(r#"{comma}{{"id":"{guild}","unavailable":true}}"#).as_bytes());
        }
        list.push(b']');
        let mut present = [false; DEFAULTS.len()];
        // The shard has parsed this READY before, so it is an object.
        let _ = json::for_each_entry(original, |name, value| {
            let replaced = match name {
                b"v" | b"session_id" | b"resume_gateway_url" | b"shard" | b"guilds" => true,
                b"user" => self.cache.user().is_some(),
                _ => false,
            };
            if !replaced {
                for (index, (default, _)) in DEFAULTS.iter().enumerate() {
                    present[index] |= name == default.as_bytes();
                }
                out.extend_from_slice(b",\"");
                out.extend_from_slice(name);
                out.extend_from_slice(b"\":");
                out.extend_from_slice(value);
            }
            true
        });
        for ((name, value), present) in DEFAULTS.iter().zip(present) {
            if !present {
                out.extend_from_slice(format!(r#","{name}":{value}"#).as_bytes());
            }
        }
        out.push(b'}');
        out
    }
}
