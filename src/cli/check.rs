//! `gateway-proxy check`: checks the configuration against Discord and against this machine, before a start or while a
//! proxy runs. The check opens no port, writes no file and spends no IDENTIFY.

use super::{
    estimate::Guilds,
    status::{bytes, duration},
};
use gateway_proxy::{
    config::Config,
    control::{
        identify::INTERVAL,
        rest::{GatewayInfo, Rest, RestError, url},
    },
    net::hosts::Hosts,
    placement::Placement,
    preflight::{self, numa},
    websocket::Endpoint,
};
use std::{net::ToSocketAddrs, process::ExitCode};

/// Bits of the intents that the cache needs (docs: Gateway, List of Intents).
const GUILD_MEMBERS: u64 = 1 << 1;
const GUILD_PRESENCES: u64 = 1 << 8;
/// Most guilds of a shard (docs: Gateway, Sharding).
const GUILDS_PER_SHARD: u32 = 2500;

/// The results of the checks.
struct Findings {
    warnings: Vec<String>,
    errors: u32,
}

impl Findings {
    fn line(&self, what: &str, text: impl std::fmt::Display) {
        println!("{what:<17}{text}");
    }

    fn error(&mut self, what: &str, text: impl std::fmt::Display) {
        self.errors += 1;
        println!("{what:<17}ERROR: {text}");
    }

    fn warn(&mut self, text: String) {
        self.warnings.push(text);
    }
}

/// Runs the checks and prints their results. `warnings` are those of the configuration.
pub fn run(config: &Config, placement: &Placement, guilds: Guilds, warnings: Vec<String>) -> ExitCode {
    let mut findings = Findings { warnings, errors: 0 };
    findings.line("configuration", "right");
    machine(&mut findings, placement);
    if config.client_memory.is_none() {
        findings.warnings.extend(preflight::unknown_limit());
    }
    warn_of_combinations(&mut findings, config);
    if let Some(proxy) = &config.rest_proxy {
        resolve(&mut findings, "rest_proxy", proxy);
    }
    let address = config.twilight_http_proxy.clone().unwrap_or_else(|| "discord.com:443".into());
    if resolve(&mut findings, "REST", &address)
        && let Some((info, told)) = ask(&mut findings, config)
    {
        discord(&mut findings, config, placement, &info);
        memory(&mut findings, config, placement, (guilds, told), &info);
    }
    for warning in &findings.warnings {
        println!("{:<17}{warning}", "warning");
    }
    match findings.errors {
        0 => ExitCode::SUCCESS,
        errors => {
            eprintln!("gateway-proxy: {errors} of these checks have failed");
            ExitCode::FAILURE
        }
    }
}

fn machine(findings: &mut Findings, placement: &Placement) {
    match preflight::io_uring() {
        Ok(()) => findings.line("io_uring", "usable"),
        Err(error) => findings.error("io_uring", error),
    }
    match preflight::limits(placement.most() + 1) {
        Ok(warning) => findings.warnings.extend(warning),
        Err(error) => findings.error("limits", error),
    }
    let limit = |limit: u64| if limit == u64::MAX { "no limit".to_owned() } else { limit.to_string() };
    if let Ok(files) = preflight::open_files() {
        findings.line("open files", format!("{}, each client and each shard is one", limit(files)));
    }
    if let Ok(locked) = preflight::locked_memory() {
        let locked = if locked == u64::MAX { limit(locked) } else { bytes(locked as f64) };
        findings.line("locked memory", locked);
    }
    for node in numa::nodes() {
        findings.line(&format!("NUMA node {}", node.id), format!("CPUs {:?}", node.cpus));
    }
}

/// Resolves the name in `host:port`, and says whether that succeeded.
fn resolve(findings: &mut Findings, what: &str, address: &str) -> bool {
    match address.to_socket_addrs() {
        Ok(addresses) => {
            let mut addresses: Vec<String> = addresses.map(|address| address.ip().to_string()).collect();
            addresses.dedup();
            findings.line(what, format!("{address} is {}", addresses.join(", ")));
            true
        }
        Err(error) => {
            findings.error(what, format!("{address} can not be resolved: {error}"));
            false
        }
    }
}

/// Asks Discord for the gateway, and for the number of the bot's guilds, which it need not tell.
fn ask(findings: &mut Findings, config: &Config) -> Option<(GatewayInfo, Option<u64>)> {
    let proxy = config.twilight_http_proxy.as_deref();
    let rest = Rest::new(config.token.bare().into(), proxy, Hosts(config.gateway_hosts.clone()));
    match rest.gateway() {
        Ok(info) => Some((info, rest.guilds())),
        Err(RestError::Unauthorized) => {
            findings.error("token", "Discord refuses it (401): set a current one in TOKEN or `token`");
            None
        }
        Err(error) => {
            findings.error("/gateway/bot", format!("GET {}: {error}", url(proxy)));
            None
        }
    }
}

fn discord(findings: &mut Findings, config: &Config, placement: &Placement, info: &GatewayInfo) {
    findings.line("token", "accepted by Discord");
    if let Ok(endpoint) = Endpoint::parse(&info.url) {
        let Endpoint { host, port, .. } = endpoint;
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        resolve(findings, "gateway", &address);
    }
    let count = config.shards.unwrap_or(info.shards);
    let range = match config.shard_range(info.shards) {
        Ok(range) => range,
        Err(error) => return findings.error("shards", error),
    };
    findings
        .line("shards", format!("{} to {} of {count}; Discord recommends {}", range.start, range.end - 1, info.shards));
    if count < info.shards {
        findings.warn(format!(
            "`shards` is {count} and Discord recommends {}: a shard can not have more than {GUILDS_PER_SHARD} guilds",
            info.shards
        ));
    }
    let data = placement.data(range.len());
    let nodes = numa::nodes();
    let place = |cpu: usize| match numa::node_of(&nodes, cpu) {
        Some(node) if nodes.len() > 1 => format!("CPU {cpu} of NUMA node {node}"),
        _ => format!("CPU {cpu}"),
    };
    findings.line("control core", place(placement.control));
    for (index, cpu) in data.iter().enumerate() {
        let shards = range.clone().filter(|shard| *shard as usize % data.len() == index).count();
        findings.line(&format!("data core {index}"), format!("{}, {shards} shards", place(*cpu)));
        if data[..index].contains(cpu) {
            findings
                .warn(format!("data core {index} shares CPU {cpu} with another one: `cores` is more than there are"));
        }
    }
    let budget = info.budget;
    findings.line(
        "IDENTIFY budget",
        format!(
            "{} of {} left, renewed in {}, {} at a time",
            budget.remaining,
            budget.total,
            duration(budget.reset_after.as_secs_f64()),
            budget.max_concurrency
        ),
    );
    let turns = turns(range.clone(), budget.max_concurrency);
    let start = INTERVAL * turns.saturating_sub(1);
    if (budget.remaining as usize) < range.len() {
        findings.warn(format!(
            "{} IDENTIFYs are left and {} shards would need one: the start would wait {}",
            budget.remaining,
            range.len(),
            duration(budget.reset_after.as_secs_f64())
        ));
    }
    findings.line(
        "start",
        format!(
            "{} for {} shards without state files, some seconds with them",
            if start.is_zero() { "some seconds".into() } else { duration(start.as_secs_f64()) },
            range.len()
        ),
    );
    match &config.state_dir {
        Some(directory) => findings.line("state files", directory.display()),
        None => findings.warn(format!(
            "`state_dir` is missing: each restart of the proxy costs {} of {} IDENTIFYs a day",
            range.len(),
            budget.total
        )),
    }
}

/// Prints what the proxy will take, by cache flag.
fn memory(
    findings: &mut Findings,
    config: &Config,
    placement: &Placement,
    (guilds, told): (Guilds, Option<u64>),
    info: &GatewayInfo,
) {
    let Ok(range) = config.shard_range(info.shards) else { return };
    let shards = (range.len(), config.shards.unwrap_or(info.shards));
    let estimate = guilds.estimate(config, shards, placement.data(range.len()).len(), told);
    findings.line("memory", format!("about {} for {}", bytes(estimate.usual as f64), estimate.load));
    for (name, size) in &estimate.parts {
        findings.line("", format!("{name:<17}{size}"));
    }
    let there = preflight::memory();
    let clients = config.client_memory.unwrap_or_else(|| preflight::default_client_memory(there));
    findings.line("", format!("{:<17}0 to {} (`client_memory`)", "clients", bytes(clients as f64)));
    if there < estimate.usual.saturating_add(clients) {
        findings.warn(format!(
            "the estimate of memory and `client_memory` are more than the {} that the process may use: switch flags of `cache` \
             off, or give it more memory",
            bytes(there as f64)
        ));
    }
}

/// Number of shards in the fullest bucket. The shards of a bucket identify one after the other.
fn turns(shards: std::ops::Range<u32>, max_concurrency: u32) -> u32 {
    (shards.end - shards.start).div_ceil(max_concurrency.max(1))
}

fn warn_of_combinations(findings: &mut Findings, config: &Config) {
    let flags = config.cache;
    if flags.members && config.intents & GUILD_MEMBERS == 0 {
        findings.warn("`cache.members` is true without the intent GUILD_MEMBERS (2): Discord sends few members".into());
    }
    if flags.presences && config.intents & GUILD_PRESENCES == 0 {
        findings.warn("`cache.presences` is true without the intent GUILD_PRESENCES (256): Discord sends none".into());
    }
    if !flags.channels {
        findings.warn(
            "`cache.channels` is false: discord.js drops messages of channels that it does not know, and JDA and eris fail \
             at interactions"
                .into(),
        );
    }
    if !flags.current_member {
        findings.warn("`cache.current_member` is false: JDA logs an error for each guild".into());
    }
    if config.resume_window.is_zero() {
        findings.warn("`resume_window` is 0: a client that loses its connection has to identify".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_takes_as_many_turns_as_the_fullest_bucket_has_shards() {
        assert_eq!([turns(0..16, 1), turns(0..16, 16), turns(3..20, 16), turns(0..1, 16)], [16, 1, 2, 1]);
    }
}
