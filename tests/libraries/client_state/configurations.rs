//! Every library can read what the proxy sends it with every configuration of the cache. Libraries parse with their own
//! types: a user object without a name makes discord.py fail at login, and makes hikari drop the guild.
//!
//! The bots have the default intents and the default caches of their libraries. Without `CLIENTS` only two
//! configurations are tested: the example configuration, and one without the key `cache`. With `CLIENTS` each flag is
//! tested alone, too.

use std::{
    collections::{BTreeMap, VecDeque},
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Mutex,
    thread,
};

use serde_json::{Value, json};

use support::{Bot, DEFAULT_INTENTS, Proxy, Settings, Simulator, chosen, install, libraries, root, scratch};

const SHARDS: u32 = 2;

/// Number of bots that run at the same time. Most of the time a bot waits for timers of its library.
const AT_ONCE: usize = 4;

/// Libraries that need a certain flag, and why. docs/clients.md names their sources. A library is not tested with
/// another flag alone.
const NEEDS: [(&str, &str, &str); 5] = [
    ("discord.js", "channels", "drops messages of channels that it does not know"),
    ("eris", "channels", "can not read an interaction of a channel that it does not know"),
    ("eris-etf", "channels", "is eris"),
    ("jda", "channels", "reports an interaction of a channel that it does not know as an error"),
    ("jda", "current_member", "reports a guild without the bot's own member as an error"),
];

/// Libraries that hand on events in another order than they came. discord.js keeps the events that arrive before all of
/// its shards are ready, and hands one of them on after each later packet (`packetQueue` in `WebSocketManager`).
const REORDER: [&str; 1] = ["discord.js"];

/// Keys of the example configuration that the test replaces, because they say where the proxy listens and keeps its
/// files.
const PLACES: [&str; 4] = ["host", "port", "externally_accessible_url", "state_dir"];

#[test]
fn every_library_reads_what_every_configuration_sends() {
    let libraries: Vec<String> = libraries().into_iter().filter(|library| chosen(library)).collect();
    for library in &libraries {
        install(library);
    }
    let directory = scratch("configurations");
    let world = "--shards 2 --max-concurrency 2 --identify-interval-ms 0 --guilds 12 --members 60 --seed 3 --rate 0";
    let simulator = Simulator::start(&directory, world);
    let configurations = configurations(env::var_os("CLIENTS").is_some());
    let proxies: Vec<(String, Proxy)> = configurations
        .into_iter()
        .map(|(name, changes)| {
            let directory = directory.join(&name);
            fs::create_dir_all(&directory).expect("a directory for the proxy");
            let proxy = Proxy::spawn(&directory, &simulator, &changes);
            (name, proxy)
        })
        .collect();
    let proxies: Vec<(String, Proxy)> =
        proxies.into_iter().map(|(name, proxy)| (name, proxy.wait_until_ready())).collect();
    // Events of all types, about entities that the bots know and entities that they do not know.
    simulator.steady_traffic(60);

    let jobs = proxies.iter().flat_map(|proxy| libraries.iter().map(move |library| (library.as_str(), proxy)));
    let jobs: VecDeque<_> = jobs.filter(|(library, (name, _))| has_what_it_needs(library, name)).collect();
    let count = jobs.len();
    let (jobs, results) = (Mutex::new(jobs), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = jobs.lock().expect("no panic with the lock").pop_front();
                    let Some((library, (name, proxy))) = next else { break };
                    let run = || logs_in_and_listens(library, name, proxy, &simulator, &directory);
                    let result = catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
                        let text = panic.downcast_ref::<String>().cloned();
                        text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
                    });
                    results.lock().expect("no panic with the lock").insert((name.as_str(), library), result);
                }
            });
        }
    });
    let results = results.into_inner().expect("no panic with the lock");
    assert_eq!(results.len(), count, "a result of each library with each configuration");
    let failed: Vec<String> = results
        .iter()
        .filter_map(|((name, library), result)| Some(format!("{name}: {library}: {}", result.as_ref().err()?)))
        .collect();
    assert!(failed.is_empty(), "{} of {count} failed:\n{}", failed.len(), failed.join("\n"));
}

/// The configurations to test: a name, and keys for the proxy's configuration. A key with null is left out.
fn configurations(all: bool) -> Vec<(String, Value)> {
    let example = fs::read_to_string(root().join("config/config.example.json")).expect("the example configuration");
    let mut example: Value = serde_json::from_str(&example).expect("the example configuration is JSON");
    let flags: Vec<String> = example["cache"].as_object().expect("flags").keys().cloned().collect();
    let keys = example.as_object_mut().expect("an object");
    keys.retain(|key, _| !PLACES.contains(&key.as_str()));
    let mut found = vec![("example".to_owned(), example), ("no-key".to_owned(), json!({ "cache": null }))];
    if all {
        found.push(("everything".to_owned(), json!({})));
        found.push(("nothing".to_owned(), json!({ "cache": {} })));
        found.extend(flags.into_iter().map(|flag| (format!("only-{flag}"), json!({ "cache": { flag: true } }))));
    }
    found
}

/// Whether a configuration has the flag that a library needs.
fn has_what_it_needs(library: &str, name: &str) -> bool {
    let few = name == "nothing" || name.starts_with("only-");
    let lacking =
        NEEDS.iter().find(|(who, flag, _)| few && *who == library && name.strip_prefix("only-") != Some(*flag));
    if let Some((_, flag, why)) = lacking {
        eprintln!("skipped: {name}: {library} needs `{flag}`: it {why}");
    }
    lacking.is_none()
}

/// Starts a bot and checks that its guilds are not new to it, that it receives messages in order, and that it reports
/// no error.
fn logs_in_and_listens(library: &str, name: &str, proxy: &Proxy, simulator: &Simulator, directory: &Path) {
    let (gateway, api) = (format!("ws://{}", proxy.address), format!("http://{}/api", simulator.address));
    let settings = Settings { gateway: &gateway, api: &api, intents: Some(DEFAULT_INTENTS), ..Settings::default() };
    let directory = directory.join(name);
    let mut bot = Bot::start(&directory, library, library, SHARDS, &settings);
    for shard in 0..SHARDS {
        bot.wait(&format!("shard {shard} to be ready"), |bot| {
            if bot.shard(shard).ready.is_empty() { Err("no ready".to_owned()) } else { Ok(()) }
        });
        let truth = simulator.guilds(shard);
        assert!(!truth.is_empty(), "guilds of shard {shard}");
        bot.wait(&format!("the guilds of shard {shard}"), |bot| {
            let guilds = &bot.shard(shard).guilds;
            match truth.keys().find(|id| guilds.get(*id).is_none_or(|guild| guild.unavailable)) {
                Some(id) => Err(format!("guild {id} has not come")),
                None => Ok(()),
            }
        });
        assert!(bot.shard(shard).ready[0].iter().eq(truth.keys()), "shard {shard}: the guilds of READY");
        assert_eq!(bot.shard(shard).joined, [""; 0], "shard {shard}: guilds that the bot was in before");
    }
    for shard in 0..SHARDS {
        let (_, last) = simulator.emit(shard, 20);
        let numbers = |bot: &Bot| {
            let mut numbers = bot.shard(shard).numbers.clone();
            if REORDER.contains(&library) {
                numbers.sort_unstable();
            }
            numbers
        };
        let gap = |numbers: &[u64]| numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]).map(<[u64]>::to_vec);
        let numbers = bot.wait(&format!("all messages up to {last} on shard {shard}"), |bot| {
            let numbers = numbers(bot);
            let newest = numbers.last().copied();
            match gap(&numbers) {
                // A message that the library still holds back fills the gap.
                Some(gap) if REORDER.contains(&library) => Err(format!("a gap: {gap:?}")),
                _ if newest >= Some(last) => Ok(numbers),
                _ => Err(format!("{newest:?}")),
            }
        });
        assert_eq!(gap(&numbers), None, "shard {shard}: messages that do not follow each other");
    }
    bot.catch_up();
    bot.kill();
}
