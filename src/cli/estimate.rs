//! Estimates the memory of a proxy before its start, by the flags of `cache`, for `gateway-proxy check`.

use super::status::bytes;
use clap::Args;
use gateway_proxy::{
    cache::sizes::{Each, GUILD, Load, TABLES},
    config::Config,
};

/// Guilds of a shard when their number is not known: Discord recommends one shard for 1,000 guilds (docs: Gateway,
/// Sharding).
const GUILDS_OF_SHARD: f64 = 1_000.0;
/// Bytes of the process without any shard (docs/tuning.md, Capacity).
const PROCESS: u64 = 12 << 20;
/// Bytes of a shard besides its guilds: its connection to Discord, decompressor, buffers, and what the allocator keeps
/// after the guilds have come (docs/tuning.md, Capacity).
const SHARD: u64 = 700 << 10;

/// The guilds that an estimate is for.
#[derive(Args, Clone, Copy)]
pub struct Guilds {
    /// For the estimate of memory: guilds of the bot. Without this, as many as Discord says, or 1,000 for each shard.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    guilds: Option<u32>,
    /// For the estimate of memory: members of a guild, on average.
    #[arg(long, value_name = "NUMBER", default_value_t = 200)]
    members: u32,
    /// For the estimate of memory: how many of 100 members are not offline.
    #[arg(long, value_name = "PERCENT", default_value_t = 30, value_parser = clap::value_parser!(u32).range(..=100))]
    online: u32,
}

/// An estimate: the sum, and lines that say what it is made of.
pub struct Estimate {
    /// Bytes that are in use while all clients keep up.
    pub usual: u64,
    /// Each part: its name and its size.
    pub parts: Vec<(&'static str, String)>,
    /// The guilds that the estimate is for, in words.
    pub load: String,
}

impl Guilds {
    /// Estimates for a proxy that serves `own` of `count` shards on `cores` data cores. `told` is the number of the
    /// bot's guilds that Discord has told, if any.
    pub fn estimate(self, config: &Config, (own, count): (usize, u32), cores: usize, told: Option<u64>) -> Estimate {
        let (all, source) = match (self.guilds, told) {
            (Some(guilds), _) => (f64::from(guilds), "by --guilds"),
            (None, Some(guilds)) => (guilds as f64, "says Discord"),
            (None, None) => (f64::from(count) * GUILDS_OF_SHARD, "at 1,000 for each shard"),
        };
        let load = Load {
            guilds: all * own as f64 / f64::from(count.max(1)),
            members: f64::from(self.members),
            online: f64::from(self.online) / 100.0,
        };
        let fixed = PROCESS + SHARD * own as u64 + TABLES * cores as u64;
        let of_guilds = load.guilds * GUILD;
        let mut usual = fixed + of_guilds as u64;
        let mut parts =
            vec![("process", format!("{}, of it {} for each shard", bytes(fixed as f64), bytes(SHARD as f64)))];
        parts.push(("guilds", format!("{}, {GUILD:.0} bytes a guild besides what follows", bytes(of_guilds))));
        for (size, taken) in load.by_flag(config.cache) {
            let each = match size.each {
                Each::Guild => "guild",
                Each::Member => "member",
                Each::Presence => "member who is not offline",
            };
            usual += taken as u64;
            parts.push((size.flag, format!("{}, {:.0} bytes a {each}", bytes(taken), size.bytes)));
        }
        let log = config.resume_buffer as f64;
        parts.push((
            "events",
            format!(
                "0 to {}, as far as clients lag or are away (`resume_buffer` of {} for each shard)",
                bytes(log * own as f64),
                bytes(log)
            ),
        ));
        let load = format!(
            "{:.0} guilds of this proxy ({all:.0} of the bot, {source}) with {} members each, {} % of them not offline",
            load.guilds, self.members, self.online
        );
        Estimate { usual, parts, load }
    }
}
