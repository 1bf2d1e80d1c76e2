//! The test bot on serenity. What it is told, prints and reads is in tests/clients/README.md.

use std::{
    collections::HashMap,
    env,
    error::Error,
    io::{self, BufRead, Write},
    process,
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};
use serenity::{
    all::{
        ActivityData, ChannelId, ChunkGuildFilter, ClientBuilder, ConnectionStage, Context, EventHandler,
        GatewayIntents, Guild, GuildId, GuildMembersChunkEvent, Message, OnlineStatus, Ready, ResumedEvent, ShardId,
        ShardRunnerMessage, ShardStageUpdateEvent,
    },
    async_trait,
    gateway::ShardManager,
    http::HttpBuilder,
};
use songbird::{CoreEvent, Event, EventContext, SerenityInit, Songbird};
use tokio::sync::mpsc;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_env_filter("serenity=info").with_writer(io::stderr).init();
    let (token, gateway_url) = (variable("TOKEN")?, variable("GATEWAY_URL")?);
    let shards: u32 = variable("SHARDS")?.parse()?;
    let intents = GatewayIntents::from_bits_retain(match env::var("INTENTS") {
        Ok(bits) => bits.parse()?,
        Err(_) => 53_608_447,
    });
    let api = variable("API_URL")?;
    let http = HttpBuilder::new(&token).proxy(api.trim_end_matches("/api")).ratelimiter_disabled(true).build();
    let voice = Songbird::serenity();
    let builder = ClientBuilder::new_with_http(http, intents).register_songbird_with(Arc::clone(&voice));
    // recipe:start
    let mut client = builder.event_handler(Handler::default()).await?;
    *client.ws_url.lock().await = gateway_url;
    // recipe:end
    tokio::spawn(obey(standard_input(), Arc::clone(&client.shard_manager), voice, shards));
    // recipe:start
    client.start_shards(shards).await?;
    // recipe:end
    Err("every shard has given up".into())
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

/// Carries out the commands of the harness.
async fn obey(mut commands: mpsc::Receiver<String>, manager: Arc<ShardManager>, voice: Arc<Songbird>, shards: u32) {
    while let Some(line) = commands.recv().await {
        match parse(&line, shards) {
            Ok(Wish::Voice(guild, channel)) => {
                tokio::spawn(join_or_leave(Arc::clone(&voice), guild, channel));
            }
            Ok(Wish::Shards(messages)) => {
                let runners = manager.runners.lock().await;
                for (shard, message) in messages {
                    match runners.get(&ShardId(shard)) {
                        Some(runner) => runner.runner_tx.send_to_shard(message),
                        None => emit(&json!({"event": "error", "message": format!("shard {shard} does not run")})),
                    }
                }
            }
            Err(error) => emit(&json!({"event": "error", "message": format!("{line}: {error}")})),
        }
    }
}

/// What the harness wants.
enum Wish {
    /// These messages go to these shards.
    Shards(Vec<(u32, ShardRunnerMessage)>),
    /// Join a voice channel of a guild, or leave it.
    Voice(GuildId, Option<ChannelId>),
}

/// Joins a voice channel of a guild, or leaves if there is none.
async fn join_or_leave(voice: Arc<Songbird>, guild: GuildId, channel: Option<ChannelId>) {
    let done = match channel {
        None => voice.remove(guild).await,
        Some(channel) => match voice.join(guild, channel).await {
            Ok(call) => {
                let mut call = call.lock().await;
                for event in [CoreEvent::DriverConnect, CoreEvent::DriverReconnect, CoreEvent::DriverDisconnect] {
                    call.add_global_event(event.into(), Voice(guild));
                }
                emit(&json!({"event": "voice", "guild": guild, "state": "connected"}));
                Ok(())
            }
            Err(error) => Err(error),
        },
    };
    if let Err(error) = done {
        emit(&json!({"event": "error", "message": format!("voice in guild {guild}: {error}")}));
    }
}

/// Reports what songbird says of the voice connection of a guild.
struct Voice(GuildId);

#[async_trait]
impl songbird::EventHandler for Voice {
    async fn act(&self, context: &EventContext<'_>) -> Option<Event> {
        let state = match context {
            EventContext::DriverConnect(_) | EventContext::DriverReconnect(_) => "connected",
            EventContext::DriverDisconnect(_) => "disconnected",
            _ => return None,
        };
        emit(&json!({"event": "voice", "guild": self.0, "state": state}));
        None
    }
}

/// Reads a command of the harness.
fn parse(line: &str, shards: u32) -> Result<Wish> {
    let command: Value = serde_json::from_str(line)?;
    let text = |key: &str| command[key].as_str().ok_or("a part of the command is missing");
    match text("cmd")? {
        "members" => {
            let guild = text("guild")?.parse::<u64>()?;
            let shard = u32::try_from((guild >> 22) % u64::from(shards))?;
            let message = ShardRunnerMessage::ChunkGuild {
                guild_id: GuildId::new(guild),
                limit: None,
                presences: false,
                filter: ChunkGuildFilter::None,
                nonce: None,
            };
            Ok(Wish::Shards(vec![(shard, message)]))
        }
        "presence" => {
            let name = text("name")?;
            let status: OnlineStatus = serde_json::from_value(command["status"].clone())?;
            let message = || ShardRunnerMessage::SetPresence(Some(ActivityData::playing(name)), status);
            Ok(Wish::Shards((0..shards).map(|shard| (shard, message())).collect()))
        }
        "reconnect" => {
            let shard = u32::try_from(command["shard"].as_u64().ok_or("no shard")?)?;
            Ok(Wish::Shards(vec![(shard, ShardRunnerMessage::Close(4000, None))]))
        }
        "voice" => {
            let guild = GuildId::new(text("guild")?.parse()?);
            let channel = command["channel"].as_str().map(str::parse).transpose()?.map(ChannelId::new);
            Ok(Wish::Voice(guild, channel))
        }
        "exit" => process::exit(0),
        unknown => Err(format!("unknown command {unknown}").into()),
    }
}

/// Reports events. It has nothing to wait for, so they are reported in the order in which they are handed over.
#[derive(Default)]
struct Handler {
    /// Members so far in the answer for each guild whose members were asked for.
    chunks: Mutex<HashMap<GuildId, usize>>,
}

#[async_trait]
impl EventHandler for Handler {
    async fn ready(&self, context: Context, ready: Ready) {
        let guilds: Vec<_> = ready.guilds.iter().map(|guild| guild.id).collect();
        emit(&json!({"event": "ready", "shard": context.shard_id.0, "guilds": guilds}));
    }

    async fn guild_create(&self, context: Context, guild: Guild, is_new: Option<bool>) {
        emit(&json!({
            "event": "guild",
            "shard": context.shard_id.0,
            "id": guild.id,
            "members": guild.member_count,
            "unavailable": guild.unavailable,
            "join": is_new,
        }));
    }

    async fn message(&self, context: Context, message: Message) {
        let digits = message.content.strip_prefix("n:").map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            &rest[..end]
        });
        if let Some(n) = digits.and_then(|digits| digits.parse::<u64>().ok()) {
            emit(&json!({"event": "message", "shard": context.shard_id.0, "n": n}));
        }
    }

    async fn guild_members_chunk(&self, _context: Context, chunk: GuildMembersChunkEvent) {
        let mut chunks = self.chunks.lock().expect("nobody panics with it");
        let count = chunks.entry(chunk.guild_id).or_default();
        *count += chunk.members.len();
        if chunk.chunk_index + 1 == chunk.chunk_count {
            let count = chunks.remove(&chunk.guild_id);
            emit(&json!({"event": "members", "guild": chunk.guild_id, "count": count}));
        }
    }

    async fn resume(&self, context: Context, _event: ResumedEvent) {
        emit(&json!({"event": "resumed", "shard": context.shard_id.0}));
    }

    async fn shard_stage_update(&self, _context: Context, update: ShardStageUpdateEvent) {
        if matches!(update.new, ConnectionStage::Resuming | ConnectionStage::Disconnected) {
            emit(&json!({"event": "reconnecting", "shard": update.shard_id.0}));
        }
    }
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
