//! The command line.

use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::num::ParseIntError;
use std::path::PathBuf;

/// A model of Discord's Gateway, to run bots and proxies against
#[derive(Parser, Debug)]
#[command(
    name = "discord-sim",
    version,
    after_help = "Examples:
  discord-sim serve --shards 4 --guilds 200 --rate 100
  discord-sim bot --url ws://127.0.0.1:7979 --seconds 10
  curl -X POST 'http://127.0.0.1:7979/sim/emit?shard=0&count=1000'
  curl http://127.0.0.1:7979/sim/stats"
)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Be Discord: Gateway, REST routes of a login, and a control API under /sim/, on one port
    #[command(after_help = SERVE_HELP)]
    Serve(Box<Serve>),
    /// Be a bot: identify on every shard, check that nothing is lost or doubled, measure latency
    #[command(after_help = BOT_HELP)]
    Bot(Bot),
    /// Be a null relay: WebSocket messages in and out, nothing parsed; a yardstick for proxies
    Relay(Relay),
    /// Write the man pages and the completions of shells into a directory, for packages
    #[command(hide = true)]
    Generate {
        /// The directory, which exists
        directory: PathBuf,
    },
}

const SERVE_HELP: &str = "\
Prints `listening on ADDRESS` when it is ready. The control API takes shard=N or shard=all:
  GET  /sim/stats                              counters, violations, last IDENTIFY and presence
  GET  /sim/guilds?shard=S                     guilds of a shard
  GET  /sim/guild?id=ID                        the whole truth of a guild, as `d` of a GUILD_CREATE
  GET  /sim/message?shard=S&number=N           the guild of one of the newest 65,536 numbered messages
  POST /sim/emit?shard=S&count=N[&size=BYTES][&guild=ID]   numbered MESSAGE_CREATEs at once
  POST /sim/mutate?shard=S&count=N[&type=T]    random state events at once
  POST /sim/traffic?rate=R[&steady=1]          events per second, 0 stops; steady: no guild comes or goes
  POST /sim/dispatch?shard=S&type=T            the body as `d` of a dispatch
  POST /sim/raw?shard=S                        the body as one text message
  POST /sim/wire?shard=S                       the body as bytes between two frames
  POST /sim/drop?shard=S[&code=C][&freeze=1][&end_session=1]   close, else TCP reset, or freeze
  POST /sim/lose?shard=S[&changes=N][&leave=ID][&join=1]   the session ends; until the next IDENTIFY N changes of every
                                               kind happen, the bot leaves and joins guilds, and nobody is told
  POST /sim/refuse-resume?shard=S[&count=N][&code=C]   close the next N RESUMEs (1) with C (4000), keep the session
  POST /sim/mute?shard=S[&type=T][&until_resume=1]   no more events (of type T) until a new session or a RESUME, while
                                               heartbeats are acknowledged
  POST /sim/reconnect?shard=S                  op 7
  POST /sim/invalid?shard=S&resumable=BOOL     op 9
  POST /sim/heartbeat?shard=S                  op 1
  POST /sim/refuse?seconds=N                   close new TCP connections at once (these ones too)
  POST /sim/hang?seconds=N                     never answer new connections (other than /sim/)
  POST /sim/remaining?value=N                  IDENTIFYs that are left
  POST /sim/voice-move?guild=ID[&channel=ID]   a moderator moves the bot to a voice channel, or out of them
  POST /sim/voice-server?guild=ID              the voice server goes away, another one is given
  POST /sim/guild-leave?id=ID, guild-unavailable?id=ID, guild-available?id=ID, guild-join?shard=S

A voice server listens on the same port for ?v=4 to ?v=8 (libraries want TLS there: --tls-dir); no voice is passed on.

Messages that the simulator makes start with `n:<number>`, counting up on each shard without gaps. They also carry
`sim_number`, which is there without the MESSAGE_CONTENT intent too, and `sim_sent_ns`, CLOCK_MONOTONIC.

Examples:
  discord-sim serve
  discord-sim serve --listen 127.0.0.1:0 --shards 16 --max-concurrency 16 --identify-interval-ms 100 --rate 0
  discord-sim serve --guilds 2000 --members 200 --rate 10000 --tls-dir /tmp/sim-tls";

/// Options of `serve`
#[derive(Args, Debug)]
pub struct Serve {
    /// Where to listen; port 0 takes any free one
    #[arg(long, default_value = "127.0.0.1:7979")]
    pub listen: SocketAddr,
    /// Shards of the bot; an IDENTIFY with another count is refused
    #[arg(long, default_value_t = 4, value_parser = positive)]
    pub shards: usize,
    /// IDENTIFY buckets
    #[arg(long, default_value_t = 1, value_parser = positive)]
    pub max_concurrency: usize,
    /// Time between two IDENTIFYs of one bucket
    #[arg(long, default_value_t = 5_000)]
    pub identify_interval_ms: u64,
    /// Guilds in all, spread evenly over the shards
    #[arg(long, default_value_t = 200)]
    pub guilds: usize,
    /// Mean number of members of a guild; most have fewer, some have a hundred times as many
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    pub members: u64,
    /// Share of the members who are online
    #[arg(long, default_value_t = 0.3)]
    pub presences: f64,
    /// Mean number of channels of a guild
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(..=500))]
    pub channels: u64,
    /// Mean number of roles of a guild
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u64).range(..=250))]
    pub roles: u64,
    /// Mean number of emojis of a guild
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(..=500))]
    pub emojis: u64,
    /// The world follows from it
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Events per second on all shards together
    #[arg(long, default_value_t = 100.0)]
    pub rate: f64,
    /// The bot's token
    #[arg(long, default_value = "sim-token")]
    pub token: String,
    /// IDENTIFYs that are left today
    #[arg(long, default_value_t = 1_000)]
    pub remaining: u64,
    /// heartbeat_interval of HELLO
    #[arg(long, default_value_t = 41_250, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub heartbeat_interval_ms: u64,
    /// large_threshold of an IDENTIFY that names none (Discord: 50)
    #[arg(long, default_value_t = 250)]
    pub large_threshold: u64,
    /// Time between two requests for all members of one guild (op 8); more get RATE_LIMITED
    #[arg(long, default_value_t = 30_000)]
    pub member_request_interval_ms: u64,
    /// Bits of intents to refuse with 4014
    #[arg(long, default_value_t = 0)]
    pub disallowed_intents: u64,
    /// Replay buffer of a session, besides its limit of 100,000 events
    #[arg(long, default_value_t = 64, value_parser = positive)]
    pub replay_mib: usize,
    /// Path of resume_gateway_url, to see whether clients use it
    #[arg(long, default_value = "")]
    pub resume_path: String,
    /// URL to announce, if clients reach the simulator by another name
    #[arg(long)]
    pub public_url: Option<String>,
    /// Serve HTTPS and WSS with a certificate for localhost, under a CA that is written to DIR/ca.pem
    #[arg(long, value_name = "DIR")]
    pub tls_dir: Option<PathBuf>,
    /// Offer xsalsa20_poly1305 for voice, which Discord gave up in November 2024, and which eris 0.18 still needs
    #[arg(long)]
    pub old_voice_modes: bool,
    /// Run on this CPU only
    #[arg(long)]
    pub cpu: Option<usize>,
}

const BOT_HELP: &str = "\
Exits with 1 if an event was lost or doubled, or a shard did not become ready.

Examples:
  discord-sim bot --url ws://127.0.0.1:7878
  discord-sim bot --url wss://localhost:7979 --ca /tmp/sim-tls/ca.pem --compress zstd-stream
  discord-sim bot --seconds 30 --json";

/// Options of `bot`
#[derive(Args, Debug)]
pub struct Bot {
    /// Gateway to connect to
    #[arg(long, default_value = "ws://127.0.0.1:7878")]
    pub url: String,
    /// The bot's token
    #[arg(long, default_value = "sim-token")]
    pub token: String,
    /// Shards in all; asked from /api/v10/gateway/bot of the same host if not given
    #[arg(long, value_parser = positive)]
    pub shards: Option<usize>,
    /// zlib-stream or zstd-stream
    #[arg(long, value_parser = ["zlib-stream", "zstd-stream"])]
    pub compress: Option<String>,
    /// Intents, by default all of them
    #[arg(long, default_value_t = 53_608_447)]
    pub intents: u64,
    /// End after so many seconds
    #[arg(long)]
    pub seconds: Option<f64>,
    /// The summary as one line of JSON on stdout; the lines of each second go to stderr
    #[arg(long)]
    pub json: bool,
    /// End the sessions properly (close code 1000)
    #[arg(long)]
    pub close: bool,
    /// PEM file with the CA to trust for wss://
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Time between two IDENTIFYs; by default all shards start at once
    #[arg(long, default_value_t = 0)]
    pub identify_interval_ms: u64,
    /// Run on this CPU only
    #[arg(long)]
    pub cpu: Option<usize>,
}

/// Options of `relay`
#[derive(Args, Debug)]
pub struct Relay {
    /// Where to listen; port 0 takes any free one
    #[arg(long, default_value = "127.0.0.1:7878")]
    pub listen: SocketAddr,
    /// Gateway to relay to
    #[arg(long, default_value = "ws://127.0.0.1:7979")]
    pub upstream: String,
    /// Run on this CPU only
    #[arg(long)]
    pub cpu: Option<usize>,
}

/// Why a number of the command line is refused.
#[derive(Debug, thiserror::Error)]
enum CountError {
    #[error("has to be at least 1")]
    Zero,
    #[error("is too large")]
    TooLarge,
    #[error(transparent)]
    NoNumber(#[from] ParseIntError),
}

fn positive(text: &str) -> Result<usize, CountError> {
    match text.parse()? {
        0 => Err(CountError::Zero),
        number if number <= 1 << 20 => Ok(number),
        _ => Err(CountError::TooLarge),
    }
}
