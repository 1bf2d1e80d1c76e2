// The world of discord-sim (guilds, members and events like Discord's), for tests and benchmarks that need no
// process. `include!` this file at the root of a crate, because its modules refer to one another from there.

#[allow(dead_code, unused_imports)]
#[path = "../../src/bin/discord-sim/clock.rs"]
mod clock;
#[allow(dead_code, unused_imports)]
#[path = "../../src/bin/discord-sim/json.rs"]
mod json;
#[allow(dead_code, unused_imports)]
#[path = "../../src/bin/discord-sim/world/mod.rs"]
mod world;
