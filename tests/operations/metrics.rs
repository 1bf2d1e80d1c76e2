//! `/metrics`: parsed strictly, checked by promtool, and compared with the dashboard, the alert rules and the
//! documentation.

use crate::{ask, client, dashboard, start};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::{Command, Stdio},
};
use support::{Gone, Proxy, Simulator, Transport, root, wait_until};

/// Names that an older gateway proxy uses. They break the conventions of Prometheus, and are kept for existing
/// dashboards.
const PRIOR_ART: [&str; 2] = ["gateway_shard_events", "gateway_shard_latency_histogram"];

/// The text of `/metrics` about one metric.
#[derive(Debug, Default)]
pub struct Family {
    kind: String,
    /// Each sample: name of the series, labels ordered by name, value.
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

fn is_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && text.starts_with(|first: char| first.is_ascii_lowercase())
}

/// Parses labels up to the closing brace. Also returns the text after it.
fn labels(mut text: &str) -> Result<(BTreeMap<String, String>, &str), String> {
    let mut labels = BTreeMap::new();
    loop {
        let (name, rest) = text.split_once("=\"").ok_or("a label without a value")?;
        if !is_name(name) && name != "le" {
            return Err(format!("{name:?} is no name of a label"));
        }
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next().ok_or("a value without an end")? {
                (at, '"') => break at,
                (_, '\\') => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, escaped @ ('\\' | '"'))) => value.push(escaped),
                    other => return Err(format!("a wrong escape: {other:?}")),
                },
                (_, plain) => value.push(plain),
            }
        };
        if labels.insert(name.to_owned(), value).is_some() {
            return Err(format!("{name} twice"));
        }
        match rest[end + 1..].chars().next() {
            Some(',') => text = &rest[end + 2..],
            Some('}') => return Ok((labels, &rest[end + 2..])),
            other => return Err(format!("{other:?} behind a value")),
        }
    }
}

/// Parses the text format (version 0.0.4), and checks all rules of the format and the conventions.
fn parse(text: &str) -> Result<BTreeMap<String, Family>, String> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    if !text.ends_with('\n') {
        return Err("the last line does not end".into());
    }
    for line in text.lines() {
        let wrong = |what: &str| format!("{what}: {line}");
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or_else(|| wrong("no help"))?;
            if !is_name(name) || help.trim().is_empty() {
                return Err(wrong("no name or no help"));
            }
            current = name.to_owned();
            if families.insert(current.clone(), Family::default()).is_some() {
                return Err(wrong("a family twice"));
            }
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or_else(|| wrong("no type"))?;
            let family = families.get_mut(name).filter(|family| name == current && family.kind.is_empty());
            family.ok_or_else(|| wrong("a type that does not follow its help"))?.kind = kind.to_owned();
        } else {
            let at = line.find(['{', ' ']).ok_or_else(|| wrong("no value"))?;
            let name = &line[..at];
            let (labels, value) = match line[at..].strip_prefix('{') {
                Some(rest) => labels(rest).map_err(|what| wrong(&what))?,
                None => (BTreeMap::new(), &line[at..]),
            };
            let value = value.strip_prefix(' ').ok_or_else(|| wrong("no space before the value"))?;
            let value: f64 = value.parse().map_err(|_| wrong("no number, or more than one"))?;
            let family = families.get_mut(&current).ok_or_else(|| wrong("a sample before its family"))?;
            if family.samples.iter().any(|(known, of, _)| known == name && *of == labels) {
                return Err(wrong("a series twice"));
            }
            family.samples.push((name.to_owned(), labels, value));
        }
    }
    families.iter().try_for_each(|(name, family)| check(name, family))?;
    Ok(families)
}

fn check(name: &str, family: &Family) -> Result<(), String> {
    let Family { kind, samples, .. } = family;
    if samples.is_empty() {
        return Err(format!("{name} has no series"));
    }
    let suffixes: &[&str] = match kind.as_str() {
        "histogram" => &["_bucket", "_sum", "_count"],
        "gauge" | "counter" => &[""],
        _ => return Err(format!("{name} is a {kind}")),
    };
    for (series, labels, value) in samples {
        let suffix = series.strip_prefix(name).ok_or_else(|| format!("{series} in {name}"))?;
        if !suffixes.contains(&suffix) {
            return Err(format!("{series} in the {kind} {name}"));
        }
        if labels.contains_key("le") != (suffix == "_bucket") {
            return Err(format!("{series}: `le` belongs to buckets"));
        }
        if kind != "gauge" && !(value.is_finite() && *value >= 0.0) {
            return Err(format!("{series} is {value}"));
        }
    }
    let prior = PRIOR_ART.contains(&name);
    if (kind == "counter") != name.ends_with("_total") && !prior {
        return Err(format!("the {kind} {name}: counters end with _total, and nothing else does"));
    }
    if ["_count", "_sum", "_bucket", "_ms", "_milliseconds", "_kb"].iter().any(|suffix| name.ends_with(suffix)) {
        return Err(format!("{name} has a suffix that it must not have"));
    }
    if kind == "histogram" { check_histogram(name, samples) } else { Ok(()) }
}

fn check_histogram(name: &str, samples: &[(String, BTreeMap<String, String>, f64)]) -> Result<(), String> {
    /// The labels of one histogram without `le`, in order.
    type Key<'a> = Vec<(&'a String, &'a String)>;
    let mut buckets: BTreeMap<Key, Vec<(f64, f64)>> = BTreeMap::new();
    for (series, labels, value) in samples.iter().filter(|(series, ..)| series.ends_with("_bucket")) {
        let le = labels["le"].replace("+Inf", "inf").parse().map_err(|_| format!("{series}: le {}", labels["le"]))?;
        let key = labels.iter().filter(|(label, _)| *label != "le").collect();
        buckets.entry(key).or_default().push((le, *value));
    }
    for (key, buckets) in buckets {
        let grows = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        let last = buckets.last().expect("a bucket");
        let count = samples
            .iter()
            .find(|(series, labels, _)| series.ends_with("_count") && labels.iter().collect::<Vec<_>>() == key);
        if !grows || last.0 != f64::INFINITY || count.is_none_or(|(.., count)| *count != last.1) {
            return Err(format!("{name}: {buckets:?} with the count {count:?}"));
        }
    }
    Ok(())
}

/// The value of the first series with these labels, in the order of the text.
pub fn value(families: &BTreeMap<String, Family>, name: &str, wanted: &[(&str, &str)]) -> Option<f64> {
    let samples = &families.get(name)?.samples;
    let has = |labels: &BTreeMap<String, String>| {
        wanted.iter().all(|(label, value)| labels.get(*label).is_some_and(|given| given == value))
    };
    samples.iter().find(|(_, labels, _)| has(labels)).map(|(.., value)| *value)
}

/// Reads `/metrics`, as text and parsed.
pub fn scrape(proxy: &Proxy) -> (String, BTreeMap<String, Family>) {
    let answer = ask(proxy.address, "GET", "/metrics", None);
    assert!(answer.header.contains("Content-Type: text/plain; version=0.0.4"), "{}", answer.header);
    let families = parse(&answer.body).unwrap_or_else(|what| panic!("{what}\nin\n{}", answer.body));
    (answer.body, families)
}

/// Starts a proxy and causes events of all kinds, so that every series exists.
fn eventful() -> (Simulator, Proxy) {
    let (simulator, proxy) = start(
        "metrics",
        &json!({
            "events": {"deny": ["TYPING_START"]},
            "clients": [{"name": "dashboard", "secret": format!("sha256:{}", "0".repeat(64))}],
        }),
    );
    let mut gateway = client(&proxy, (0, 2), Transport::Zstd);
    simulator.emit(0, 4);
    for _ in 0..4 {
        gateway.receive().expect("a message");
    }
    simulator.dispatch(0, "TYPING_START", r#"{"channel_id":"1","user_id":"2","timestamp":3}"#);
    // A text that is not JSON: the proxy closes the client.
    gateway.send_text("garbage").expect("an open connection");
    while !matches!(gateway.receive(), Err(Gone::Closed(Some(4002), _))) {}
    simulator.reconnect(1);
    (simulator, proxy)
}

#[test]
fn figures_are_right_and_the_format_is_strict() {
    let (_simulator, proxy) = eventful();
    let _client = client(&proxy, (0, 2), Transport::Zlib);
    let shard = |name: &'static str, shard: &'static str| (name, vec![("shard", shard)]);
    let (text, families) = wait_until("metrics that have seen everything", || {
        let (text, families) = scrape(&proxy);
        let mut missing = Vec::new();
        for ((name, labels), least) in [
            (shard("gateway_shard_events_sent_total", "0"), 5.0 + 4.0 + 5.0),
            (shard("gateway_shard_events_denied_total", "0"), 1.0),
            (shard("gateway_shard_received_bytes_total", "1"), 100.0),
            (shard("gateway_shard_payload_bytes_total", "0"), 1000.0),
            (shard("gateway_shard_sent_bytes_total", "0"), 1000.0),
            (("gateway_shard_reconnects_total", vec![("shard", "1"), ("reason", "op7_reconnect")]), 1.0),
            (("gateway_shard_clients_closed_total", vec![("shard", "0"), ("reason", "misbehaved")]), 1.0),
            (("gateway_core_cpu_seconds_total", vec![("core", "0")]), 0.0001),
            (("gateway_core_cpu_seconds_total", vec![("core", "control")]), 0.0001),
            (("gateway_core_turns_total", vec![("core", "0")]), 1.0),
            (("gateway_core_ring_enters_total", vec![("core", "0")]), 1.0),
            (("gateway_core_longest_turn_seconds", vec![("core", "0")]), 0.000_000_1),
            (("gateway_core_added_latency_seconds", vec![("core", "0"), ("le", "+Inf")]), 1.0),
            (("gateway_core_compression_input_bytes_total", vec![("core", "0")]), 1000.0),
            (("gateway_core_compression_output_bytes_total", vec![("core", "0")]), 100.0),
            (("gateway_identify_wait_seconds", vec![]), 0.0),
            (("process_resident_memory_bytes", vec![]), 1e6),
            (("process_start_time_seconds", vec![]), 1.6e9),
            (("process_open_fds", vec![]), 3.0),
        ] {
            if value(&families, name, &labels).is_none_or(|value| value < least) {
                missing.push(format!("{name} {labels:?} at least {least}"));
            }
        }
        if missing.is_empty() { Ok((text, families)) } else { Err(missing.join("; ")) }
    });
    let dress = [("library", "discord.py"), ("encoding", "json"), ("compression", "zlib-stream")];
    assert_eq!(value(&families, "gateway_clients", &dress), Some(1.0));
    assert_eq!(value(&families, "gateway_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), Some(1.0));
    assert_eq!(value(&families, "gateway_shard_events_denied_total", &[("shard", "1")]), Some(0.0));
    assert_eq!(value(&families, "gateway_config_reloads_total", &[("result", "ok")]), Some(0.0));
    let compressed = value(&families, "gateway_core_compression_output_bytes_total", &[]).expect("a value");
    assert!(compressed < value(&families, "gateway_core_compression_input_bytes_total", &[]).expect("a value"));
    assert_eq!(value(&families, "gateway_shard_sick", &[("shard", "0")]), Some(0.0));
    assert_eq!(value(&families, "gateway_watchdog_repairs_total", &[("action", "reconnect")]), Some(0.0));
    let waits = families["gateway_identify_wait_seconds"].samples.iter().find(|(name, ..)| name.ends_with("_count"));
    assert_eq!(waits.expect("a count").2, 2.0);
    check_promtool(&text);
    check_references(&families);
}

/// promtool may only complain about the names in [`PRIOR_ART`].
fn check_promtool(text: &str) {
    let local = root().join("target/tools/promtool");
    let promtool = if local.exists() { local.into_os_string() } else { "promtool".into() };
    let mut command = Command::new(&promtool);
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        eprintln!("SKIPPED: promtool is not there; scripts/operations-setup gets it");
        return;
    };
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("promtool that reads");
    let output = child.wait_with_output().expect("promtool that ends");
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let unexpected: Vec<&str> = complaints
        .lines()
        .filter(|line| !PRIOR_ART.iter().any(|name| line.split_whitespace().next() == Some(name)))
        .collect();
    assert_eq!(unexpected, Vec::<&str>::new());
    // promtool exits with 3 for complaints, and with 1 for a text that it cannot parse.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{complaints}");
    let rules = Command::new(&promtool).args(["check", "rules"]).arg(root().join("config/alerts.yml")).output();
    let rules = rules.expect("promtool runs");
    assert!(rules.status.success(), "{}", String::from_utf8_lossy(&rules.stderr));
}

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let metric = |name: &&str| name.starts_with("gateway_") || name.starts_with("process_");
    text.split(word).filter(metric).map(ToOwned::to_owned).collect()
}

/// The dashboard and the alert rules name only existing metrics. The dashboard names all but those that it is to leave
/// out. The documentation names exactly the existing ones.
fn check_references(families: &BTreeMap<String, Family>) {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("a file of the repository");
    let base = |name: &String| {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        base.filter(|base| families.contains_key(*base)).unwrap_or(name).to_owned()
    };
    let mut used: BTreeSet<String> = dashboard::queries().iter().flat_map(|query| names(&query.text)).collect();
    let shown: BTreeSet<String> = used.iter().map(base).collect();
    for name in families.keys() {
        let left_out = dashboard::NOT_SHOWN.contains(&&**name);
        assert!(
            shown.contains(name) != left_out,
            "{name} has to be on the dashboard or in its list of those that are not"
        );
    }
    let alerts = read("config/alerts.yml");
    for line in alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: ")) {
        used.extend(names(line));
    }
    assert!(used.len() > 10, "{used:?}");
    for name in used {
        assert!(
            families.contains_key(&base(&name)),
            "the dashboard or the alert rules name {name}, which does not exist"
        );
    }
    for name in dashboard::NOT_SHOWN {
        assert!(families.contains_key(name), "{name} does not exist, so that it can not be left out");
    }
    let documented = documented(&read("docs/operations.md"));
    for name in families.keys() {
        assert!(documented.contains(name), "{name} is not in the table of docs/operations.md");
    }
    for name in &documented {
        assert!(families.contains_key(name), "docs/operations.md names {name}, which does not exist");
    }
}

/// The metrics in the tables of the documentation. The first column may have `gateway_{a,b}_total` for two names, and
/// `_c_total` after `gateway_shard_b_total` for `gateway_shard_c_total`.
fn documented(text: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with("| `gateway_") || line.starts_with("| `process_")) {
        let column = line.split('|').nth(1).expect("a first column");
        for name in column.split('`').skip(1).step_by(2) {
            let name = if name.starts_with('_') { format!("gateway_shard{name}") } else { name.to_owned() };
            match name.split_once('{') {
                None => drop(all.insert(name)),
                Some((before, rest)) => {
                    let (middle, after) = rest.split_once('}').expect("a closing brace");
                    all.extend(middle.split(',').map(|middle| format!("{before}{middle}{after}")));
                }
            }
        }
    }
    all
}

#[test]
fn the_parser_is_strict() {
    let good = "# HELP a_total x\n# TYPE a_total counter\na_total{b=\"c\"} 1\n";
    assert!(parse(good).is_ok());
    for (bad, why) in [
        ("a_total 1\n", "before its family"),
        ("# HELP a x\n# TYPE a counter\na 1\n", "counters end with _total"),
        ("# HELP a_total x\n# TYPE a_total gauge\na_total 1\n", "counters end with _total"),
        ("# HELP a x\na 1\n", "is a"),
        ("# HELP a x\n# TYPE a gauge\n", "no series"),
        ("# HELP a x\n# TYPE a gauge\na 1 2\n", "more than one"),
        ("# HELP a x\n# TYPE a gauge\na 1\na 1\n", "twice"),
        ("# HELP a x\n# TYPE a gauge\na{b=\"c} 1\n", "without an end"),
        ("# HELP a x\n# TYPE a gauge\nb 1\n", "b in a"),
        ("# HELP a x\n# TYPE a histogram\na_bucket{le=\"1\"} 1\na_sum 1\na_count 1\n", "with the count"),
        (
            "# HELP a x\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 1\n",
            "with the count",
        ),
        ("# HELP a x\n# TYPE a gauge\na 1", "does not end"),
    ] {
        let error = parse(bad).expect_err(bad);
        assert!(error.contains(why), "{bad:?}: {error}");
    }
}
