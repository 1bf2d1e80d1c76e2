//! Compares the guilds that a client receives with the true state in the simulator.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Gateway, Proxy, Simulator, Transport, get, get_json, wait_until};

const INTENTS: u64 = 53_608_447;

/// Connects a new client and returns the guilds that it receives.
pub fn guilds_of(proxy: &Proxy, shard: u32, shards: u32) -> BTreeMap<String, Value> {
    let mut gateway = Gateway::connect(proxy.address, Transport::Zstd);
    gateway.identify((shard, shards), INTENTS);
    let ready = gateway.receive().expect("READY");
    let mut left = ready.data()["guilds"].as_array().expect("guilds").len();
    let mut guilds = BTreeMap::new();
    while left > 0 {
        let payload = gateway.receive().unwrap_or_else(|gone| panic!("{left} guilds of READY did not come: {gone:?}"));
        let data = payload.data();
        let id = data["id"].as_str().expect("an id").to_owned();
        match payload.t.as_deref() {
            Some("GUILD_CREATE") => assert!(guilds.insert(id, data).is_none()),
            Some("GUILD_DELETE") => assert_eq!(data["unavailable"], true),
            other => panic!("{other:?} before all guilds"),
        }
        left -= 1;
    }
    gateway.close(1000);
    guilds
}

fn id_of(entity: &Value) -> String {
    let ids = [&entity["user"]["id"], &entity["user_id"], &entity["sound_id"], &entity["id"]];
    ids.iter().find_map(|id| id.as_str()).unwrap_or_default().to_owned()
}

fn misses_members(shown: &serde_json::Map<String, Value>, truth: &serde_json::Map<String, Value>) -> bool {
    let count = |guild: &serde_json::Map<String, Value>| guild.get("members").and_then(Value::as_array).map(Vec::len);
    count(shown) < count(truth)
}

/// Compares a guild with its true state, except for allowed differences. A missing `unavailable` means false.
fn same(shown: &Value, truth: &Value, changed: bool) -> Result<(), String> {
    let (shown, truth) = (shown.as_object().expect("a guild"), truth.as_object().expect("a guild"));
    for key in shown.keys().chain(truth.keys()) {
        let (a, b) = (shown.get(key), truth.get(key));
        if a == b || key == "unavailable" {
            continue;
        }
        // A guild that Discord sent as large stays large while members are missing, so that clients request them.
        if key == "large" && a == Some(&true.into()) && misses_members(shown, truth) {
            continue;
        }
        if key == "members" && (truth["large"] == true || shown.get("large") == Some(&true.into())) {
            // Discord sends only the members of a large guild who are online. Those have to be right.
            let truth: Vec<&Value> = b.and_then(Value::as_array).into_iter().flatten().collect();
            let wrong = a.and_then(Value::as_array).into_iter().flatten().find(|member| !truth.contains(member));
            match wrong {
                None => continue,
                Some(member) => return Err(format!("a member that is wrong: {member}")),
            }
        }
        if let (Some(Value::Array(a)), Some(Value::Array(b))) = (a, b) {
            // The simulator sorts by id, and the proxy keeps the order of arrival. Only arrays that GUILD_CREATE
            // contained have an order to compare.
            let (mut a, mut b) = (a.clone(), b.clone());
            a.sort_by_key(id_of);
            b.sort_by_key(id_of);
            if a == b && changed {
                continue;
            }
            for (index, (a, b)) in a.iter().zip(&b).enumerate() {
                if a != b {
                    return Err(format!("{key}[{index}]: sent {a}, true state {b}"));
                }
            }
            return Err(format!("{key}: {} sent, {} in the true state", a.len(), b.len()));
        }
        return Err(format!("{key}: sent {a:?}, true state {b:?}"));
    }
    Ok(())
}

/// Waits until the proxy has counted as many events of a shard's upstream session as the simulator has sent. The
/// proxy must have been connected for the whole session.
pub fn wait_for_events(proxy: &Proxy, simulator: &Simulator, shard: u32) {
    wait_until("the proxy to have received everything", || {
        let sent = simulator.shard_stats(shard)["sequence"].as_u64().expect("a sequence");
        let metrics = get(proxy.address, "/metrics")?.body;
        let received: f64 = metrics
            .lines()
            .filter(|line| line.starts_with("gateway_shard_events{") && line.contains(&format!("shard=\"{shard}\"")))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        if received as u64 == sent { Ok(()) } else { Err(format!("{received} of {sent}")) }
    });
}

/// Waits until the newest sequence number that the proxy has received on a shard is the newest that the simulator has
/// sent. A client that connects afterwards gets none of the events before as a live event, and gets guilds in which
/// they are applied.
pub fn wait_for_sequence(proxy: &Proxy, simulator: &Simulator, shard: u32) {
    wait_until("the proxy to have received everything", || {
        let sent = simulator.shard_stats(shard)["sequence"].as_u64().expect("a sequence");
        let document = get_json(proxy.address, &format!("/status.json?shard={shard}"))?;
        let received = document["shard"]["sequence"].as_u64().expect("a sequence");
        if received == sent { Ok(()) } else { Err(format!("shard {shard}: {received} of {sent}")) }
    });
}

/// Compares every guild that a new client receives on a shard with its true state. Returns the number of guilds.
/// `changed`: arrays may be in another order than in the simulator.
///
/// # Panics At the first difference.
pub fn compare_guilds(proxy: &Proxy, simulator: &Simulator, shard: u32, shards: u32, changed: bool) -> usize {
    let shown = guilds_of(proxy, shard, shards);
    let mut compared = 0;
    for (id, guild) in simulator.guilds(shard) {
        if guild.unavailable {
            assert!(!shown.contains_key(&id), "an unavailable guild was sent");
            continue;
        }
        let truth = get_json(simulator.address, &format!("/sim/guild?id={id}")).expect("the truth");
        let shown = shown.get(&id).unwrap_or_else(|| panic!("guild {id} was not sent"));
        same(shown, &truth, changed).unwrap_or_else(|what| panic!("guild {id}: {what}"));
        compared += 1;
    }
    assert_eq!(compared, shown.len(), "guilds that the bot is not in");
    compared
}
