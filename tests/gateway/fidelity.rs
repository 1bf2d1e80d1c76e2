//! A client of a whole proxy identifies, and its guilds are compared with the simulator's state. The comparison is made
//! several times, with many changes of state in between.

use serde_json::json;
use support::{Proxy, Simulator, compare_guilds, scratch, wait_for_events};

#[test]
fn clients_see_every_guild_as_the_simulator_has_it() {
    const SHARDS: u32 = 2;
    let directory = scratch("fidelity");
    let options = format!("--shards {SHARDS} --max-concurrency 2 --guilds 40 --members 60 --seed 11 --rate 0");
    let simulator = Simulator::start(&directory, &options);
    let proxy = Proxy::start(&directory, &simulator, &json!({"cores": 2, "log_level": "info"}));
    for round in 0..4 {
        for shard in 0..SHARDS {
            if round > 0 {
                for _ in 0..10 {
                    simulator.mutate(shard, 200);
                    simulator.emit(shard, 5);
                }
            }
            wait_for_events(&proxy, &simulator, shard);
            let compared = compare_guilds(&proxy, &simulator, shard, SHARDS, round > 0);
            assert!(compared > 10, "{compared} guilds in round {round}");
        }
    }
    assert_eq!(simulator.stats()["violations"], json!([]));
}
