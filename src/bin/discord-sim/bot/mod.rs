//! `discord-sim bot`: a bot that receives events and checks them.
//!
//! Each shard has its own connection and [`check::Shard`]. All shards run in one thread and share the totals. The bot
//! counts every lost, repeated or reordered event that the sequence numbers or the simulator's message numbers reveal.

mod check;
mod connection;
mod decoder;
mod histogram;

use crate::cli::Bot;
use crate::client::Url;
use crate::tls;
use connection::Ending;
use glommio::timer::sleep;
use histogram::Histogram;
use rustls::ClientConfig;
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};
use world::json::Object;

/// Set by the signal handler: the bot has to end.
pub static END: AtomicBool = AtomicBool::new(false);

/// Interval at which the bot checks whether it has to end.
const TICK: Duration = Duration::from_millis(20);

/// Maximum time for closing the connections at the end.
const CLOSING: Duration = Duration::from_secs(2);

/// Time between two IDENTIFYs of one bucket. It is a little longer than the 5 s that Discord asks for.
const IDENTIFY_INTERVAL: Duration = Duration::from_millis(5_100);

/// Pause after a connection that failed.
const RETRY: Duration = Duration::from_millis(500);

/// State that all shards share.
struct Shared {
    options: Bot,
    tls: Option<Arc<ClientConfig>>,
    totals: RefCell<Totals>,
    ending: Cell<bool>,
    /// Wakers of the tasks that have to notice `ending`.
    wakers: RefCell<Vec<Waker>>,
    started: Instant,
}

/// Counters of all shards.
struct Totals {
    shards: Vec<check::Shard>,
    events: u64,
    bytes: u64,
    identifies: u64,
    resumes: u64,
    /// A close code after which a further try is useless.
    fatal: Option<u16>,
    identified: Option<Duration>,
    all_guilds: Option<Duration>,
    latency: Histogram,
    latency_of_second: Histogram,
    open: usize,
}

impl Totals {
    fn sum(&self, count: impl Fn(&check::Shard) -> u64) -> u64 {
        self.shards.iter().map(count).sum()
    }

    /// Notes the time since the start at which all shards have got READY, and the time at which all their guilds have
    /// come.
    fn milestones(&mut self, started: Instant) {
        if self.identified.is_none() && self.shards.iter().all(|shard| shard.was_ready) {
            self.identified = Some(started.elapsed());
        }
        if self.all_guilds.is_none() && self.shards.iter().all(|shard| shard.was_ready && shard.waiting.is_empty()) {
            self.all_guilds = Some(started.elapsed());
        }
    }

    fn good(&self) -> bool {
        let clean = self.sum(|shard| shard.gaps + shard.duplicates) == 0;
        clean && self.fatal.is_none() && self.identified.is_some()
    }
}

/// Runs until the time is over, a signal arrives, or all shards have ended for good.
///
/// # Errors
/// When the URL is bad, a file is unreadable, or the request for the number of shards fails.
pub async fn run(options: Bot) -> io::Result<ExitCode> {
    let url = Url::parse(&options.url)?;
    let tls = options.ca.as_deref().map(tls::client_config).transpose()?;
    let token = options.token.strip_prefix("Bot ").unwrap_or(&options.token).to_owned();
    let (count, concurrency) = match options.shards {
        Some(count) => (count, count),
        None => ask(&url, &token, tls.as_ref()).await?,
    };
    let interval = match options.identify_interval_ms {
        0 => IDENTIFY_INTERVAL,
        ms => Duration::from_millis(ms),
    };
    let concurrency = if options.identify_interval_ms > 0 { 1 } else { concurrency };
    let seconds = options.seconds;
    let shared = Rc::new(Shared {
        options: Bot { token, ..options },
        tls,
        totals: RefCell::new(Totals {
            shards: (0..count).map(|_| check::Shard::default()).collect(),
            events: 0,
            bytes: 0,
            identifies: 0,
            resumes: 0,
            fatal: None,
            identified: None,
            all_guilds: None,
            latency: Histogram::new(),
            latency_of_second: Histogram::new(),
            open: count,
        }),
        ending: Cell::new(false),
        wakers: RefCell::new(Vec::new()),
        started: Instant::now(),
    });
    for shard in 0..count {
        let delay = interval * u32::try_from(shard / concurrency.max(1)).unwrap_or(u32::MAX);
        glommio::spawn_local(live(Rc::clone(&shared), url.clone(), shard, delay)).detach();
    }
    report(&shared, seconds).await;
    if shared.options.close {
        shared.ending.set(true);
        shared.wakers.borrow_mut().drain(..).for_each(Waker::wake);
        let until = Instant::now() + CLOSING;
        while shared.totals.borrow().open > 0 && Instant::now() < until {
            sleep(TICK).await;
        }
    }
    let totals = shared.totals.borrow();
    println!("{}", summary(&shared, &totals));
    Ok(if totals.good() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Asks the server for the number of shards and max_concurrency, as libraries do.
async fn ask(url: &Url, token: &str, tls: Option<&Arc<ClientConfig>>) -> io::Result<(usize, usize)> {
    let body = url.get("/api/v10/gateway/bot", token, tls).await?;
    let value: Value = serde_json::from_str(&body)?;
    let number = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok()).filter(|n| *n > 0);
    let shards = number(&value["shards"]).ok_or_else(|| io::Error::other("GET /gateway/bot says no shards"))?;
    Ok((shards, number(&value["session_start_limit"]["max_concurrency"]).unwrap_or(1)))
}

/// Runs one shard: connects again after each end of a connection, until the shard is done.
async fn live(shared: Rc<Shared>, url: Url, shard: usize, delay: Duration) {
    sleep(delay).await;
    let mut next = url.clone();
    while !shared.ending.get() {
        let ending = match connection::run(&shared, &next, shard).await {
            Ok(ending) => ending,
            Err(error) => {
                eprintln!("shard {shard}: {error}");
                sleep(RETRY).await;
                Ending::Resume
            }
        };
        let mut totals = shared.totals.borrow_mut();
        let state = &mut totals.shards[shard];
        state.ready = false;
        match ending {
            Ending::Resume => {}
            Ending::Identify => state.session = None,
            Ending::Fatal(code) => {
                eprintln!("shard {shard}: closed with {code}");
                totals.fatal = Some(code);
                break;
            }
            Ending::Done => break,
        }
        let resume_url = state.session.as_ref().map(|session| session.resume_url.clone());
        drop(totals);
        next = match resume_url {
            Some(text) => Url::parse(&text).unwrap_or_else(|_| url.clone()),
            None => url.clone(),
        };
    }
    shared.totals.borrow_mut().open -= 1;
}

/// Prints one line each second until the bot has to end.
async fn report(shared: &Shared, seconds: Option<f64>) {
    let mut before = 0;
    let mut next = shared.started + Duration::from_secs(1);
    loop {
        sleep(TICK).await;
        let over = seconds.is_some_and(|seconds| shared.started.elapsed().as_secs_f64() >= seconds);
        if over || END.load(Ordering::Relaxed) || shared.totals.borrow().open == 0 {
            return;
        }
        if Instant::now() < next {
            continue;
        }
        next += Duration::from_secs(1);
        let mut totals = shared.totals.borrow_mut();
        let ready = totals.shards.iter().filter(|shard| shard.ready).count();
        let line = format!(
            "{:4} s  shards {ready}/{}  guilds {}  events/s {}  latency p50 {} us p99 {} us  gaps {}  duplicates {}",
            shared.started.elapsed().as_secs(),
            totals.shards.len(),
            totals.sum(|shard| shard.guilds.len() as u64),
            totals.events - before,
            totals.latency_of_second.quantile(0.5) / 1_000,
            totals.latency_of_second.quantile(0.99) / 1_000,
            totals.sum(|shard| shard.gaps),
            totals.sum(|shard| shard.duplicates),
        );
        before = totals.events;
        totals.latency_of_second.clear();
        if shared.options.json {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    }
}

fn summary(shared: &Shared, totals: &Totals) -> String {
    let ms = |moment: Option<Duration>| moment.map_or("null".to_owned(), |moment| moment.as_millis().to_string());
    let latency = &totals.latency;
    let us = |share| latency.quantile(share) / 1_000;
    let sum = |count: fn(&check::Shard) -> u64| totals.sum(count);
    let ready = totals.shards.iter().filter(|shard| shard.ready).count() as u64;
    if shared.options.json {
        let latency = Object::new()
            .int("count", latency.total())
            .int("p50", us(0.5))
            .int("p90", us(0.9))
            .int("p99", us(0.99))
            .int("p999", us(0.999))
            .int("max", latency.most() / 1_000)
            .finish();
        return Object::new()
            .int("shards", totals.shards.len() as u64)
            .int("ready", ready)
            .raw("identified_ms", &ms(totals.identified))
            .raw("all_guilds_ms", &ms(totals.all_guilds))
            .int("guilds", sum(|shard| shard.guilds.len() as u64))
            .int("events", totals.events)
            .int("messages", sum(|shard| shard.messages))
            .int("bytes", totals.bytes)
            .int("gaps", sum(|shard| shard.gaps))
            .int("duplicates", sum(|shard| shard.duplicates))
            .int("identifies", totals.identifies)
            .int("resumes", totals.resumes)
            .raw("seconds", &format!("{:.3}", shared.started.elapsed().as_secs_f64()))
            .raw("latency_us", &latency)
            .bool("ok", totals.good())
            .finish();
    }
    format!(
        "{}: shards {ready}/{}  identified after {} ms  all {} guilds after {} ms  events {} ({} numbered)  gaps {}  \
         duplicates {}  identifies {}  resumes {}  latency us p50 {} p90 {} p99 {} p99.9 {} max {}",
        if totals.good() { "ok" } else { "FAILED" },
        totals.shards.len(),
        ms(totals.identified),
        sum(|shard| shard.guilds.len() as u64),
        ms(totals.all_guilds),
        totals.events,
        sum(|shard| shard.messages),
        sum(|shard| shard.gaps),
        sum(|shard| shard.duplicates),
        totals.identifies,
        totals.resumes,
        us(0.5),
        us(0.9),
        us(0.99),
        us(0.999),
        latency.most() / 1_000,
    )
}
