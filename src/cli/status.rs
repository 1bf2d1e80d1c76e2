//! `gateway-proxy status`: prints `/status.json` as a table in a terminal.

use super::{CliError, running::Running};
use serde_json::Value;
use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
    thread,
    time::Duration,
};

/// Time between the two documents from which rates are calculated. The proxy makes a new document once a second.
const PERIOD: Duration = Duration::from_millis(1100);
/// Most shards that `--watch` shows. Those that are not active or are sick come first.
const WATCHED: usize = 40;
/// Exit code when the proxy runs but not all of its shards are active.
const NOT_ALL_ACTIVE: u8 = 3;

/// Prints the status once, as a table or with `json` as the document itself. With `watch` (never together with `json`)
/// the table is printed again and again, until the proxy does not answer or standard output can not be written. Without
/// `watch` the exit code is [`NOT_ALL_ACTIVE`] if not all shards are active.
pub fn run(running: &Running, watch: bool, json: bool) -> Result<ExitCode, CliError> {
    if json {
        let (text, document) = fetch(running)?;
        println!("{text}");
        return Ok(exit_code(&document));
    }
    let mut before = fetch(running)?.1;
    loop {
        thread::sleep(PERIOD);
        let document = fetch(running)?.1;
        let limit = if watch { WATCHED } else { usize::MAX };
        let table = render(&document, &before, limit);
        if !watch {
            print!("{table}");
            return Ok(exit_code(&document));
        }
        // Moves the cursor to the top left and clears the screen, with the table before.
        let mut out = io::stdout().lock();
        let shown = write!(out, "\x1b[H\x1b[2J{table}").and_then(|()| out.flush());
        if shown.is_err() {
            return Ok(ExitCode::SUCCESS);
        }
        before = document;
    }
}

fn fetch(running: &Running) -> Result<(String, Value), CliError> {
    let (status, text) = running.get("/status.json")?;
    match status {
        200 => {
            let document = serde_json::from_str(&text).map_err(CliError::Status)?;
            Ok((text, document))
        }
        401 => Err(running.refused().into()),
        _ => Err(running.unexpected(status, &text.trim().into()).into()),
    }
}

fn exit_code(document: &Value) -> ExitCode {
    let (active, all) = active(document);
    if all > 0 && active == all { ExitCode::SUCCESS } else { ExitCode::from(NOT_ALL_ACTIVE) }
}

/// The number of active shards, and of all shards.
fn active(document: &Value) -> (u64, u64) {
    let states = document["states"].as_object();
    let all = states.into_iter().flat_map(|states| states.values()).filter_map(Value::as_u64).sum();
    (document["states"]["active"].as_u64().unwrap_or(0), all)
}

/// Renders the table. `before` is an earlier document, from which rates are calculated. At most `limit` shards are
/// shown.
fn render(document: &Value, before: &Value, limit: usize) -> String {
    let seconds = (number(&document["now_ms"]) - number(&before["now_ms"])) / 1000.0;
    let same_process = number(&document["uptime_s"]) >= number(&before["uptime_s"]);
    let rate = |now: &Value, then: &Value| {
        if seconds <= 0.0 || !same_process { f64::NAN } else { (number(now) - number(then)) / seconds }
    };
    let total = |key: &str| rate(&document["totals"][key], &before["totals"][key]);
    let (active, all) = active(document);
    let mut out = String::new();
    let mut line = |text: String| out.push_str(&(text + "\n"));
    line(format!(
        "gateway-proxy {}, up {}: {active} of {all} shards active",
        document["version"].as_str().unwrap_or("?"),
        duration(number(&document["uptime_s"]))
    ));
    line(format!(
        "events/s {} in, {} to {} clients; bytes/s {} in, {} out; guilds {}",
        count(total("events")),
        count(total("events_sent")),
        document["totals"]["clients"],
        bytes(total("received_bytes")),
        bytes(total("sent_bytes")),
        document["totals"]["guilds"]
    ));
    let memory = &document["memory"];
    line(format!(
        "memory {}, of which cache {} and events kept {}",
        bytes(number(&memory["resident_bytes"])),
        bytes(number(&memory["cache_bytes"])),
        bytes(number(&memory["log_bytes"]))
    ));
    for (core, earlier) in list(&document["cores"]).iter().zip(list(&before["cores"])) {
        line(format!(
            "data core {} on CPU {}: {} shards, {} % busy, longest turn {:.1} ms",
            core["core"],
            core["cpu"],
            core["shards"],
            count(100.0 * rate(&core["cpu_seconds"], &earlier["cpu_seconds"])),
            1000.0 * number(&core["longest_turn_s"])
        ));
    }
    line(identify(&document["identify"]));
    if let Some(what) = document["rest_error"]["what"].as_str() {
        let again = duration(number(&document["rest_error"]["again_in_s"]));
        line(format!("GET /gateway/bot: {what}; trying again in {again}"));
    }
    line(String::new());
    shards(&mut out, document, before, &rate, limit);
    out
}

fn identify(identify: &Value) -> String {
    if identify.is_null() {
        return "IDENTIFY: the budget is not known yet".into();
    }
    let mut text = format!(
        "IDENTIFY: {} of {} left, {} at a time, {} waiting",
        identify["remaining"], identify["total"], identify["max_concurrency"], identify["waiting"]
    );
    if let Some(left) = identify["last_shard_in_s"].as_f64() {
        let _ = write!(text, "; the last shard in {}", duration(left));
    }
    if identify["asking"].as_u64() > Some(0) {
        let _ = write!(text, "; {} waiting for identify_queue", identify["asking"]);
    }
    if let Some(error) = identify["queue_error"].as_str() {
        let _ = write!(text, ", which fails: {error}");
    }
    text
}

fn shards(out: &mut String, document: &Value, before: &Value, rate: &dyn Fn(&Value, &Value) -> f64, limit: usize) {
    let mut rows: Vec<&Value> = list(&document["shards"]).iter().collect();
    // The sort is stable, so the active shards and the others each stay in the order of their ids.
    rows.sort_by_key(|row| row["state"] == "active" && row["sick"].is_null());
    let _ = writeln!(
        out,
        "{:>6}  {:<12} {:>10} {:>8} {:>9} {:>8} {:>8} {:>10} {:>10}",
        "shard", "state", "latency", "guilds", "events/s", "clients", "lag", "silent", "reconnects"
    );
    let earlier = list(&before["shards"]);
    for row in rows.iter().take(limit) {
        let id = row["id"].as_u64();
        let then = earlier.iter().find(|then| then["id"].as_u64() == id);
        let latency = row["latency_ms"].as_f64().map_or("-".to_owned(), |latency| format!("{latency:.0} ms"));
        let silent = row["silent_s"].as_f64().map_or("-".to_owned(), duration);
        let sick = row["sick"].as_str().map_or_else(String::new, |what| format!("  sick: {what}"));
        let _ = writeln!(
            out,
            "{:>6}  {:<12} {:>10} {:>8} {:>9} {:>8} {:>8} {:>10} {:>10}{sick}",
            row["id"].to_string(),
            row["state"].as_str().unwrap_or("?"),
            latency,
            row["guilds"].to_string(),
            count(then.map_or(f64::NAN, |then| rate(&row["events"], &then["events"]))),
            row["clients"].to_string(),
            row["lag"].to_string(),
            silent,
            row["reconnects"].to_string(),
        );
    }
    if rows.len() > limit {
        let _ = writeln!(out, "… and {} more", rows.len() - limit);
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn count(value: f64) -> String {
    if value.is_nan() { "-".into() } else { format!("{value:.0}") }
}

pub fn bytes(value: f64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    if value.is_nan() {
        return "-".into();
    }
    let mut value = value;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    if unit == 0 { format!("{value:.0} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Formats a time in its two largest units.
pub fn duration(seconds: f64) -> String {
    if seconds.is_nan() {
        return "-".into();
    }
    let seconds = seconds.max(0.0).round() as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn figures_are_short() {
        assert_eq!([bytes(12.0), bytes(2048.0), bytes(5.5e9), bytes(f64::NAN)], ["12 B", "2.0 KiB", "5.1 GiB", "-"]);
        let durations = [0.4, 59.0, 61.0, 3660.0, 90_000.0].map(duration);
        assert_eq!(durations, ["0 s", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
    }

    #[test]
    fn rates_follow_from_two_documents_and_sick_shards_come_first() {
        let document = |ms: u64, events: u64, state: &str| {
            json!({
                "version": "1.2.3", "now_ms": ms, "uptime_s": ms / 1000, "states": {"active": 1, state: 1},
                "totals": {"events": events, "clients": 3, "guilds": 7},
                "shards": [
                    {"id": 0, "state": "active", "latency_ms": 41.2, "events": events, "guilds": 7, "clients": 3, "lag": 0,
                     "silent_s": 0.2, "reconnects": 1},
                    {"id": 1, "state": state, "latency_ms": null, "events": 0, "guilds": 0, "clients": 0, "lag": 0,
                     "silent_s": null, "reconnects": 0},
                ],
                "identify": {"remaining": 9, "total": 10, "max_concurrency": 1, "waiting": 1, "last_shard_in_s": 5.2,
                    "asking": 2, "queue_error": "http://queue: connection refused"},
            })
        };
        let table = render(&document(3000, 150, "resuming"), &document(1000, 50, "resuming"), 40);
        assert!(table.starts_with("gateway-proxy 1.2.3, up 3 s: 1 of 2 shards active\nevents/s 50 in"), "{table}");
        assert!(table.contains("9 of 10 left, 1 at a time, 1 waiting; the last shard in 5 s"), "{table}");
        assert!(
            table.contains("; 2 waiting for identify_queue, which fails: http://queue: connection refused\n"),
            "{table}"
        );
        let rows: Vec<&str> =
            table.lines().filter(|line| line.contains("resuming") || line.contains("41 ms")).collect();
        assert!(rows[0].contains("resuming") && rows[1].contains("41 ms"), "{table}");
        assert!(render(&document(2, 0, "fatal"), &document(1, 0, "fatal"), 1).ends_with("… and 1 more\n"));
    }
}
