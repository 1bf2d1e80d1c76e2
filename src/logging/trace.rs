//! The trace of one shard: the payloads between the proxy and Discord as lines of the log, which an operator switches
//! on for a while.
//!
//! Promises: no token and no session id gets into a line, and of each text at most [`LONGEST_TEXT`] bytes; a payload
//! takes at most [`LONGEST_LINE`] bytes, a shard at most [`LINES_PER_SECOND`] lines a second; the trace ends by itself
//! after [`LIMIT`]. Pure. A shard without a trace has no [`Trace`], so it pays nothing for it.

use crate::protocol::{Time, json::string};
use std::{fmt::Write as _, time::Duration};

/// The target of the lines. They are of the level INFO.
pub const TARGET: &str = "gateway_proxy::trace";
/// How long a trace lasts when nobody switches it off.
pub const LIMIT: Duration = Duration::from_secs(600);
/// The most lines of a shard in a second. Further payloads are counted.
pub const LINES_PER_SECOND: u32 = 50;
/// The most bytes of a payload in a line.
pub const LONGEST_LINE: usize = 1500;
/// The most bytes of one string of a payload in a line. Names and ids are shorter, what users write may be longer.
pub const LONGEST_TEXT: usize = 40;

/// The most bytes of a payload that are looked at.
const LOOKED_AT: usize = 64 << 10;
/// Keys whose values are left out, because they open sessions, voice connections or interactions.
const SECRET: [&str; 2] = ["token", "session_id"];

/// The trace of one shard. See the module's description.
pub struct Trace {
    until: Time,
    /// The bot's token, which is blanked wherever it is.
    token: Box<str>,
    /// The second of the last line, and the number of payloads in it.
    second: u64,
    count: u32,
    left_out: u64,
}

/// What a traced payload becomes.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// The payload, without secrets and shortened.
    pub text: String,
    /// Payloads since the last line that were left out, because there were too many.
    pub left_out: u64,
}

impl Trace {
    /// Begins a trace at `now`. `token` is the bot's token.
    pub fn new(now: Time, token: &str) -> Self {
        Self { until: now + LIMIT, token: token.into(), second: 0, count: 0, left_out: 0 }
    }

    /// Whether the trace has lasted for [`LIMIT`].
    pub fn is_over(&self, now: Time) -> bool {
        now >= self.until
    }

    /// The line for a payload; `None`: the payload is left out, because there were [`LINES_PER_SECOND`] already.
    pub fn line(&mut self, now: Time, payload: &[u8]) -> Option<Line> {
        if now.as_secs() != self.second {
            (self.second, self.count) = (now.as_secs(), 0);
        }
        self.count += 1;
        if self.count > LINES_PER_SECOND {
            self.left_out += 1;
            return None;
        }
        Some(Line { text: shown(payload, &self.token), left_out: std::mem::take(&mut self.left_out) })
    }
}

/// A payload as a line may show it.
fn shown(payload: &[u8], token: &str) -> String {
    let text = String::from_utf8_lossy(&payload[..payload.len().min(LOOKED_AT)]);
    let mut out = String::with_capacity(LONGEST_LINE.min(text.len()));
    let mut rest = &*text;
    // Whether the value that comes next belongs to a secret key.
    let mut secret = false;
    while let Some(first) = rest.chars().next() {
        if out.len() >= LONGEST_LINE {
            let _ = write!(out, "… {} bytes in all", payload.len());
            break;
        }
        if first != '"' {
            // Numbers and punctuation are shown, control characters would break the line.
            out.push(if first.is_control() { ' ' } else { first });
            secret &= matches!(first, ':' | ' ' | '\t' | '\n' | '\r');
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let Some((literal, after)) = take_string(rest) else {
            // The string has no end, or is cut off where nothing more is looked at.
            let _ = write!(out, "\"… {} bytes in all", payload.len());
            break;
        };
        let is_key = after.trim_start().starts_with(':');
        out.push('"');
        if secret {
            out.push('…');
        } else {
            push_text(&mut out, literal, token);
        }
        out.push('"');
        // A key with escapes may spell a secret one.
        secret = is_key && (SECRET.contains(&literal) || literal.contains('\\'));
        rest = after;
    }
    // A payload that is no JSON may have the token outside of strings.
    if !token.is_empty() && out.contains(token) { out.replace(token, "…") } else { out }
}

/// Splits the text of a string literal without its quotes from what follows it. `text` begins with a quote. `None`: the
/// string has no end.
fn take_string(text: &str) -> Option<(&str, &str)> {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return Some((&text[1..at], &text[at + 1..])),
            _ => at += 1,
        }
    }
    None
}

/// Appends the beginning of a string literal, without the token of the bot.
fn push_text(out: &mut String, literal: &str, token: &str) {
    // A text may contain the token with escaped characters.
    let has_token = |text: &str| !token.is_empty() && text.contains(token);
    if has_token(literal)
        || literal.contains('\\') && string::unescape(literal.as_bytes()).is_some_and(|text| has_token(&text))
    {
        out.push('…');
        return;
    }
    if literal.len() <= LONGEST_TEXT {
        out.extend(literal.chars().map(|c| if c.is_control() { ' ' } else { c }));
        return;
    }
    let end = (0..=LONGEST_TEXT).rev().find(|end| literal.is_char_boundary(*end)).unwrap_or(0);
    out.extend(literal[..end].chars().map(|c| if c.is_control() { ' ' } else { c }));
    let _ = write!(out, "… ({} bytes)", literal.len());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOKEN: &str = "MTAw.simula.tor";

    #[test]
    fn secrets_are_blanked_and_texts_are_short() {
        let long = "x".repeat(5000);
        for (payload, expected) in [
            (
                r#"{"op":2,"d":{"token":"MTAw.simula.tor","intents":513}}"#,
                r#"{"op":2,"d":{"token":"…","intents":513}}"#,
            ),
            (r#"{"op":6,"d":{"session_id" : "abc","seq":5}}"#, r#"{"op":6,"d":{"session_id" : "…","seq":5}}"#),
            (r#"{"tok\u0065n":"abc","a":"b"}"#, r#"{"tok\u0065n":"…","a":"b"}"#),
            (r#"{"content":"it is MTAw.simula.tor, keep it"}"#, r#"{"content":"…"}"#),
            (r#"{"content":"it is MTAw.simul\u0061.tor"}"#, r#"{"content":"…"}"#),
            (r#"{"a":"token","b":"c"}"#, r#"{"a":"token","b":"c"}"#),
            (r#"{"token":null,"b":"c"}"#, r#"{"token":null,"b":"c"}"#),
            (r#"{"token":["abc"]}"#, r#"{"token":["abc"]}"#),
            ("{\"a\":\n\"b\\\"c\"}", "{\"a\": \"b\\\"c\"}"),
            ("{\"a\":\"MTAw.sim", "{\"a\":\"… 14 bytes in all"),
            ("no JSON, MTAw.simula.tor", "no JSON, …"),
            ("", ""),
        ] {
            assert_eq!(shown(payload.as_bytes(), TOKEN), expected, "{payload}");
        }
        let text = shown(format!(r#"{{"content":"{long}"}}"#).as_bytes(), TOKEN);
        assert_eq!(text, format!(r#"{{"content":"{}… (5000 bytes)"}}"#, "x".repeat(LONGEST_TEXT)));
        let text = shown(format!("[{}]", "1,".repeat(5000)).as_bytes(), TOKEN);
        assert!(text.len() < LONGEST_LINE + 50 && text.ends_with("… 10002 bytes in all"), "{text}");
    }

    #[test]
    fn lines_are_limited_and_the_trace_ends() {
        let start = Duration::from_secs(7);
        let mut trace = Trace::new(start, TOKEN);
        let lines = (0..200).filter_map(|_| trace.line(start, b"{}")).count();
        assert_eq!(lines, LINES_PER_SECOND as usize);
        let next = trace.line(start + Duration::from_secs(1), b"{}");
        assert_eq!(next, Some(Line { text: "{}".into(), left_out: 150 }));
        assert_eq!(trace.line(start + Duration::from_secs(1), b"{}").map(|line| line.left_out), Some(0));
        assert!(!trace.is_over(start + LIMIT - Duration::from_secs(1)) && trace.is_over(start + LIMIT));
    }

    proptest! {
        /// Whatever bytes come: no panic, no line break, a bounded line, and no token.
        #[test]
        fn any_payload_is_shown_safely(parts in prop::collection::vec(prop_oneof![
            Just(TOKEN.to_owned()), Just("\"".to_owned()), Just("\\".to_owned()), Just("\"token\":".to_owned()),
            Just("\n".to_owned()), Just("é".repeat(50)), "[ -~]{0,30}",
        ], 0..60), cut in 0usize..40) {
            let text = parts.concat();
            let bytes = &text.as_bytes()[cut.min(text.len())..];
            let quoted = [b"\"", bytes, b"\""].concat();
            for payload in [bytes, &quoted] {
                let line = shown(payload, TOKEN);
                prop_assert!(!line.contains(TOKEN) && !line.contains('\n') && line.len() < LONGEST_LINE + 4 * LONGEST_TEXT + 60, "{line}");
            }
        }
    }
}
