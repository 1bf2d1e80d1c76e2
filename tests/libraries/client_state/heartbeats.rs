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
    let early = bot.wait(&format!("{HEARTBEATS} heartbeats"), |bot| {
        let (count, early) = bot.acknowledged();
        if count >= HEARTBEATS { Ok(early) } else { Err(format!("{count} so far")) }
    });
    bot.kill();
    eprintln!("{early} of {HEARTBEATS} heartbeats were acknowledged before discord.py had noted when it sent them");
    // Some may be early because the machine is busy: a thread of the library may not run for as long as the proxy
    // waits.
    assert!(early * 20 <= HEARTBEATS, "{early} of {HEARTBEATS} heartbeats were acknowledged too soon");
}
