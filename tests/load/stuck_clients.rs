//! Clients that identify and then read nothing: how much kernel memory they take, and that other clients lose no
//! events.

use serde_json::json;
use support::{Gateway, Options, Proxy, Simulator, Transport, memory_of_connections, scratch, wait_until};

const WORLD: &str =
    "--shards 1 --max-concurrency 1 --identify-interval-ms 100 --guilds 6 --members 20 --seed 3 --rate 0";
const INTENTS: u64 = 53_608_447;
const SHARD: (u32, u32) = (0, 1);
/// Maximum kernel memory of one client that reads nothing, in bytes.
const MOST: u64 = 256 << 10;

/// 150 clients connect at once and read nothing, while their shard has 1,500 events per second. Until the log drops
/// their next event, the proxy has three times as many bytes for each client as a send buffer of Linux grows to.
#[test]
fn a_crowd_that_reads_nothing_takes_little_kernel_memory() {
    const CROWD: usize = 150;
    const LARGE: usize = 400_000;
    let _alone = crate::alone();
    let directory = scratch("crowd_in_the_kernel");
    let simulator = Simulator::start(&directory, WORLD);
    let proxy = Proxy::start(&directory, &simulator, &json!({"shards": 1, "log_level": "info"}));
    simulator.steady_traffic(1_500);
    // The WebSocket upgrades are done first, so that the IDENTIFYs come together.
    let open = |_| Gateway::open_at(proxy.address, "/?v=10", Options::default(), &[]).expect("an upgrade");
    let mut crowd: Vec<Gateway> = (0..CROWD).map(open).collect();
    for gateway in &mut crowd {
        gateway.identify(SHARD, INTENTS);
    }
    let mut good = Gateway::connect(proxy.address, Transport::None);
    good.identify(SHARD, INTENTS);
    assert_eq!(good.receive().expect("READY").t.as_deref(), Some("READY"));
    let (mut worst, mut full) = (0, 0);
    let padding = json!({"guild_id": "1", "text": "x".repeat(LARGE)}).to_string();
    for _ in 0..30 {
        simulator.dispatch(0, "SOMETHING_LARGE", &padding);
        // When the healthy client gets the event, the proxy has sent it to all clients whose send buffer had room.
        while good.receive().expect("an event").t.as_deref() != Some("SOMETHING_LARGE") {}
        let memory = memory_of_connections(proxy.address);
        worst = worst.max(memory.iter().copied().max().unwrap_or(0));
        full = full.max(memory.iter().filter(|bytes| **bytes > 16 << 10).count());
    }
    simulator.traffic(0);
    eprintln!("{full} of {CROWD} connections were full at once, the largest had {} KiB", worst >> 10);
    assert!(full >= CROWD, "only {full} of {CROWD} had anything to be sent");
    assert!(worst <= MOST, "one connection has {} KiB of kernel memory", worst >> 10);
    drop(crowd);
    wait_until("the kernel to have its memory back", || {
        let total: u64 = memory_of_connections(proxy.address).iter().sum();
        if total <= MOST { Ok(()) } else { Err(format!("{} KiB", total >> 10)) }
    });
    assert_eq!(simulator.stats()["violations"], json!([]));
}
