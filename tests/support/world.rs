// discord-sim's world, for tests and benchmarks that need guilds and events like Discord's without a process:
// `include!` this at the root of a crate, because the modules name one another from there.

#[allow(dead_code, unused_imports)]
#[path = "../../src/bin/discord-sim/clock.rs"]
mod clock;
#[allow(dead_code, unused_imports)]
#[path = "../../src/bin/discord-sim/json.rs"]
mod json;
#[allow(dead_code, unused_imports)]
#[path = "../../src/bin/discord-sim/world/mod.rs"]
mod world;
