//! The proxy acknowledges a heartbeat late enough for discord.py. That library sends a heartbeat from its own thread
//! and notes the time after sending. If the acknowledgement arrives before that, the library measures from the
//! heartbeat before, and warns that it "can't keep up" by a whole interval.

use serde_json::json;

use support::{Bot, Proxy, Settings, Simulator, chosen, scratch};

/// Number of shards of the bot. Each shard has its own connection, because a client may send only 120 commands a
/// minute.
const SHARDS: u32 = 8;

/// Time between two heartbeats of a shard, in ms.
const INTERVAL: u64 = 600;

/// Number of heartbeats to check.
const HEARTBEATS: usize = 240;

/// The proxy acknowledges no heartbeat sooner than this, in ms. It waits 10 ms from the turn of its loop that reads the
/// heartbeat; the bot measures from before it sends the heartbeat.
const SOONEST: f64 = 9.0;

#[test]
fn discord_py_can_tell_how_long_a_heartbeat_takes() {
    if !chosen("discord.py") {
        return;
    }
    let directory = scratch("heartbeats");
    let world = "--shards 8 --max-concurrency 8 --identify-interval-ms 0 --guilds 8 --members 5 --rate 0";
    let simulator = Simulator::start(&directory, world);
    let proxy = Proxy::start(&directory, &simulator, &json!({ "shards": SHARDS }));
    let (gateway, api) = (format!("ws://{}", proxy.address), format!("http://{}/api", simulator.address));
    let settings = Settings { gateway: &gateway, api: &api, heartbeat_ms: INTERVAL, ..Settings::default() };
    let mut bot = Bot::start(&directory, "bot", "discord.py", SHARDS, &settings);
    bot.wait(&format!("{HEARTBEATS} heartbeats"), |bot| {
        let count = bot.acknowledged().len();
        if count >= HEARTBEATS { Ok(()) } else { Err(format!("{count} so far")) }
    });
    let acknowledged = bot.acknowledged().to_vec();
    bot.kill();
    // How many are early depends also on the load of the machine: a thread of the library may not run for as long as
    // the proxy waits. So this number is only shown.
    let early = acknowledged.iter().filter(|(early, _)| *early).count();
    let soonest = acknowledged.iter().map(|(_, ms)| *ms).fold(f64::INFINITY, f64::min);
    eprintln!(
        "{early} of {HEARTBEATS} heartbeats were acknowledged before discord.py had noted when it sent them; the soonest \
         took {soonest:.2} ms"
    );
    assert!(
        soonest >= SOONEST,
        "a heartbeat was acknowledged after {soonest:.2} ms, in the time that discord.py needs"
    );
}
