//! The test bot on twilight-gateway. What it is told, prints and reads is in tests/clients/README.md.

use std::{
    collections::{HashMap, HashSet},
    env,
    error::Error,
    io::{self, BufRead, Write},
    process,
    sync::Arc,
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};
use twilight_cache_inmemory::{DefaultInMemoryCache, ResourceType};
use twilight_gateway::{
    CloseFrame, Config, ConfigBuilder, Event, EventTypeFlags, Intents, MessageSender, Shard, ShardId, StreamExt,
    queue::InMemoryQueue,
};
use twilight_model::{
    gateway::{
        payload::{
            incoming::GuildCreate,
            outgoing::{RequestGuildMembers, UpdatePresence},
        },
        presence::{Activity, ActivityType, MinimalActivity, Status},
    },
    id::{Id, marker::GuildMarker},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

// recipe:start
/// A config for every shard: connects to the proxy, and starts all shards at once.
fn config(token: String, intents: Intents, gateway_url: String) -> Config<InMemoryQueue> {
    // max_concurrency, remaining, reset_after, total: no limits, because an IDENTIFY to the proxy costs none at Discord
    let queue = InMemoryQueue::new(1000, 1000, Duration::from_secs(86_400), 1000);
    ConfigBuilder::new(token, intents)
        .proxy_url(gateway_url) // without a slash at its end
        .queue(queue)
        .build()
}
// recipe:end

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_env_filter("twilight_gateway=debug").with_writer(io::stderr).init();
    let shards: u32 = variable("SHARDS")?.parse()?;
    let intents = Intents::from_bits_retain(match env::var("INTENTS") {
        Ok(bits) => bits.parse()?,
        Err(_) => 53_608_447,
    });
    let config = config(variable("TOKEN")?, intents, variable("GATEWAY_URL")?);

    let cache = Arc::new(DefaultInMemoryCache::builder().resource_types(ResourceType::all()).build());
    let mut senders = Vec::new();
    let mut running = JoinSet::new();
    for number in 0..shards {
        let shard = Shard::with_config(ShardId::new(number, shards), config.clone());
        senders.push(shard.sender());
        running.spawn(run(shard, Arc::clone(&cache)));
    }
    let mut commands = standard_input();
    loop {
        tokio::select! {
            Some(line) = commands.recv() => {
                if let Err(error) = obey(&line, &senders, &cache) {
                    emit(&json!({"event": "error", "message": error.to_string()}));
                }
            }
            ended = running.join_next() => match ended {
                Some(ended) => ended?,
                None => return Err("every shard has given up".into()),
            }
        }
    }
}

/// The lines of standard input. Its end means that the harness is gone: the bot ends too.
fn standard_input() -> mpsc::Receiver<String> {
    let (lines, commands) = mpsc::channel(16);
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(io::Result::ok) {
            if lines.blocking_send(line).is_err() {
                break;
            }
        }
        process::exit(0);
    });
    commands
}

/// Carries out one command of the harness.
fn obey(line: &str, senders: &[MessageSender], cache: &DefaultInMemoryCache) -> Result<()> {
    let command: Value = serde_json::from_str(line)?;
    let text = |key: &str| command[key].as_str().ok_or_else(|| format!("{line}: no {key}"));
    let sender = |number: u64| {
        let number = usize::try_from(number).ok();
        number.and_then(|number| senders.get(number)).ok_or("no such shard")
    };
    match text("cmd")? {
        "members" => {
            let guild = text("guild")?.parse::<u64>()?;
            let id = Id::new_checked(guild).ok_or("guild 0")?;
            let request = RequestGuildMembers::builder(id).query("", None);
            sender((guild >> 22) % senders.len() as u64)?.command(&request)?;
        }
        "cache" => {
            let guild = text("guild")?;
            let id = Id::new_checked(guild.parse::<u64>()?).ok_or("guild 0")?;
            emit(&json!({"event": "cache", "guild": guild, "view": view(cache, id)}));
        }
        "presence" => {
            let activity = Activity::from(MinimalActivity {
                kind: ActivityType::Playing,
                name: text("name")?.to_owned(),
                url: None,
            });
            let status: Status = serde_json::from_value(command["status"].clone())?;
            for sender in senders {
                sender.command(&UpdatePresence::new([activity.clone()], false, None, status)?)?;
            }
        }
        "reconnect" => {
            let number = command["shard"].as_u64().ok_or("no shard")?;
            sender(number)?.close(CloseFrame::RESUME)?;
        }
        "exit" => process::exit(0),
        unknown => return Err(format!("unknown command {unknown}").into()),
    }
    Ok(())
}

/// What the cache holds of a guild, in the terms of the harness; null if it does not know the guild.
fn view(cache: &DefaultInMemoryCache, guild: Id<GuildMarker>) -> Value {
    let Some(found) = cache.guild(guild).filter(|guild| guild.unavailable() != Some(true)) else { return Value::Null };
    let (mut channels, mut threads) = (serde_json::Map::new(), serde_json::Map::new());
    let of_guild = cache.guild_channels(guild);
    for id in of_guild.iter().flat_map(|ids| ids.iter()) {
        if let Some(channel) = cache.channel(*id) {
            let place = if channel.kind.is_thread() { &mut threads } else { &mut channels };
            place.insert(id.to_string(), json!(channel.name));
        }
    }
    let of_guild = cache.guild_roles(guild);
    let roles = of_guild.iter().flat_map(|ids| ids.iter());
    let roles: HashMap<_, _> = roles.filter_map(|id| Some((*id, cache.role(*id)?.name.clone()))).collect();
    let of_guild = cache.guild_members(guild);
    let members = of_guild.iter().flat_map(|ids| ids.iter());
    let members: HashMap<_, _> =
        members.filter_map(|id| Some((*id, cache.member(guild, *id)?.nick().map(ToOwned::to_owned)))).collect();
    let voice: HashMap<_, _> = cache
        .guild_voice_states(guild)
        .iter()
        .flat_map(|ids| ids.iter())
        .filter_map(|id| Some((*id, cache.voice_state(*id, guild)?.channel_id())))
        .collect();
    json!({
        "name": found.name(), "channels": channels, "threads": threads, "roles": roles, "members": members, "voice": voice,
    })
}

/// Reports the events of one shard until it gives up.
async fn run(mut shard: Shard<InMemoryQueue>, cache: Arc<DefaultInMemoryCache>) {
    let number = shard.id().number();
    let mut announced = HashSet::new();
    let mut chunks: HashMap<_, usize> = HashMap::new();
    while let Some(event) = shard.next_event(EventTypeFlags::all()).await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                eprintln!("shard {number}: {error:?}");
                emit(&json!({"event": "error", "shard": number, "message": error.to_string()}));
                continue;
            }
        };
        cache.update(&event);
        match event {
            Event::Ready(ready) => {
                announced = ready.guilds.iter().map(|guild| guild.id).collect();
                emit(&json!({"event": "ready", "shard": number, "guilds": announced}));
            }
            Event::Resumed => emit(&json!({"event": "resumed", "shard": number})),
            Event::GatewayReconnect | Event::GatewayClose(_) => {
                emit(&json!({"event": "reconnecting", "shard": number}));
            }
            Event::GatewayInvalidateSession(resumable) => {
                eprintln!("shard {number}: invalid session, resumable: {resumable}");
            }
            Event::GuildCreate(create) => {
                // The library has no opinion; this is how the documentation tells a join from a guild coming up.
                let known = announced.contains(&create.id());
                let (members, unavailable) = match &*create {
                    GuildCreate::Available(guild) => (guild.member_count, guild.unavailable),
                    GuildCreate::Unavailable(guild) => (None, Some(guild.unavailable)),
                };
                emit(&json!({
                    "event": "guild",
                    "shard": number,
                    "id": create.id(),
                    "members": members,
                    "unavailable": unavailable.unwrap_or(false),
                    "join": !known || unavailable.is_none(),
                }));
            }
            Event::MessageCreate(message) => {
                let digits = message.content.strip_prefix("n:").map(|rest| {
                    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                    &rest[..end]
                });
                if let Some(n) = digits.and_then(|digits| digits.parse::<u64>().ok()) {
                    emit(&json!({"event": "message", "shard": number, "n": n}));
                }
            }
            Event::MemberChunk(chunk) => {
                let count = chunks.entry(chunk.guild_id).or_default();
                *count += chunk.members.len();
                if chunk.chunk_index + 1 == chunk.chunk_count {
                    let count = chunks.remove(&chunk.guild_id);
                    emit(&json!({"event": "members", "guild": chunk.guild_id, "count": count}));
                }
            }
            _ => {}
        }
    }
    emit(&json!({"event": "error", "shard": number, "message": "the shard gave up"}));
}

/// Prints one event as one line.
fn emit(event: &Value) {
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{event}").and_then(|()| stdout.flush());
    if written.is_err() {
        process::exit(0); // the harness is gone
    }
}

/// A variable of the environment that has to be there.
fn variable(name: &str) -> Result<String> {
    env::var(name).map_err(|_| {
        let all = "tests/clients/README.md lists all of them";
        format!("the environment variable {name} is not set; {all}").into()
    })
}
