//! What a client is shown of every guild, against the truth of the simulator.

use std::collections::BTreeMap;

use gateway_proxy::compression::Transport;
use serde_json::Value;

use super::{Gateway, Proxy, Simulator, get, get_json, wait_until};

const INTENTS: u64 = 53_608_447;

/// The guilds that a new client is shown.
pub fn guilds_of(proxy: &Proxy, shard: u32, shards: u32) -> BTreeMap<String, Value> {
    let mut gateway = Gateway::connect(proxy.address, Transport::Zstd);
    gateway.identify((shard, shards), INTENTS);
    let ready = gateway.receive().expect("READY");
    let mut left = ready.data()["guilds"].as_array().expect("guilds").len();
    let mut guilds = BTreeMap::new();
    while left > 0 {
        let payload = gateway.receive().expect("a guild");
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

/// Both without what is allowed to differ: where `unavailable` is absent it is false.
fn same(shown: &Value, truth: &Value, changed: bool) -> Result<(), String> {
    let (shown, truth) = (shown.as_object().expect("a guild"), truth.as_object().expect("a guild"));
    for key in shown.keys().chain(truth.keys()) {
        let (a, b) = (shown.get(key), truth.get(key));
        if a == b || key == "unavailable" {
            continue;
        }
        // A guild that came as large stays so while members are missing, so that clients ask for them.
        if key == "large" && a == Some(&true.into()) && misses_members(shown, truth) {
            continue;
        }
        if key == "members" && (truth["large"] == true || shown.get("large") == Some(&true.into())) {
            // Of a large guild Discord itself sends only those who are online; what it sent has to be right.
            let truth: Vec<&Value> = b.and_then(Value::as_array).into_iter().flatten().collect();
            let wrong = a.and_then(Value::as_array).into_iter().flatten().find(|member| !truth.contains(member));
            match wrong {
                None => continue,
                Some(member) => return Err(format!("a member that is not so: {member}")),
            }
        }
        if let (Some(Value::Array(a)), Some(Value::Array(b))) = (a, b) {
            // The simulator sorts by id, the proxy keeps the order of arrival: only what GUILD_CREATE brought has one.
            let (mut a, mut b) = (a.clone(), b.clone());
            a.sort_by_key(id_of);
            b.sort_by_key(id_of);
            if a == b && changed {
                continue;
            }
            for (index, (a, b)) in a.iter().zip(&b).enumerate() {
                if a != b {
                    return Err(format!("{key}[{index}]: shown {a} truth {b}"));
                }
            }
            return Err(format!("{key}: {} shown, {} true", a.len(), b.len()));
        }
        return Err(format!("{key}: shown {a:?} truth {b:?}"));
    }
    Ok(())
}

/// Returns when the proxy counts as many events of the upstream session of a shard as were sent. Only for proxies that
/// have seen the whole session.
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

/// Compares every guild that a new client is shown on a shard with what it is; how many there were. `changed`: arrays
/// may be in another order than the simulator's.
///
/// # Panics
/// At the first difference.
pub fn compare_guilds(proxy: &Proxy, simulator: &Simulator, shard: u32, shards: u32, changed: bool) -> usize {
    let shown = guilds_of(proxy, shard, shards);
    let mut compared = 0;
    for (id, guild) in simulator.guilds(shard) {
        if guild.unavailable {
            assert!(!shown.contains_key(&id), "a guild that is down was shown");
            continue;
        }
        let truth = get_json(simulator.address, &format!("/sim/guild?id={id}")).expect("the truth");
        let shown = shown.get(&id).unwrap_or_else(|| panic!("guild {id} was not shown"));
        same(shown, &truth, changed).unwrap_or_else(|what| panic!("guild {id}: {what}"));
        compared += 1;
    }
    assert_eq!(compared, shown.len(), "guilds that the bot is not in");
    compared
}
