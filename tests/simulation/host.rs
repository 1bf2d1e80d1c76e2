//! The proxy's shell around one shard, as the data core is: it carries out what the shard wants, hands it what arrives, and
//! moves bytes to clients. Connections are queues here, and a process can stop, be killed, and start again.

use crate::{
    discord::{Discord, Frame},
    trace::{Coverage, Event, note},
};
use fastrand::Rng;
use gateway_proxy::{
    cache::Flags,
    compression::Transport,
    control::identify::{Budget, IdentifyQueue},
    downstream::{
        outbox::Outbox,
        session::{Options, SessionId},
    },
    log::Limits,
    protocol::{Encoding, ShardId, Time, intents::Intents, payload},
    shard::{Close, Entropy, Progress, Settings, Shard},
    upstream::session::{Action, Identity},
};
use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::Duration,
};

/// What a socket holds that nobody has read.
const SOCKET: usize = 6 << 10;
/// As in the data core: a client that takes nothing for this long is dropped.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// As there: how long a goodbye may take.
const LINGER: Duration = Duration::from_secs(5);
/// Fills of the outbox in one turn.
const FILLS: usize = 2;
const TICK: Duration = Duration::from_millis(250);
const ID: ShardId = ShardId { id: 0, count: 1 };

/// What the shard was given, as far as clients have to see it.
#[derive(Clone, Copy, Debug)]
pub struct Fed {
    pub guild: u64,
    /// The number of a message; `None`: the guild was left, or is down.
    pub number: Option<u64>,
}

/// The way to Discord.
enum Link {
    None,
    /// Until then, and whether it will work.
    Connecting(Time, bool),
    Open(u64),
}

/// The proxy's end of a client's connection.
pub struct Connection {
    /// `None`: it is at the door, where the client may identify.
    session: Option<u32>,
    outbox: Outbox,
    /// On its way to the client.
    pub wire: VecDeque<u8>,
    /// Since when it ends: when the wire is empty, or after a while.
    closing: Option<Time>,
    stalled_since: Option<Time>,
    /// The first event that the client has to see, once READY has been made; and the first one after its guilds.
    pub begun_at: Option<usize>,
    pub synced_at: Option<usize>,
    /// Upstream sessions when READY was made.
    pub renewals: u64,
}

/// What the seed chose for a process.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    pub log: Limits,
    pub resume_window: Duration,
}

/// See the module's description.
pub struct Host {
    pub shard: Shard,
    choice: Choice,
    link: Link,
    queue: IdentifyQueue,
    pub connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    next_tick: Time,
    pub fed: Vec<Fed>,
    /// Upstream sessions so far: with a new one guilds are told anew.
    pub renewals: u64,
    /// Processes so far, and those that began with nothing.
    pub generation: u64,
    pub clean_start: u64,
    /// When the process began: sessions that it took over can be resumed for the whole window from then.
    pub started_at: Time,
    /// Chance of a connection to Discord that fails or hangs, of 256.
    pub unreachable: u8,
    /// None at all can be made.
    pub outage: bool,
    /// Connections that were tried.
    pub attempts: u64,
}

fn settings(choice: Choice) -> Rc<Settings> {
    Rc::new(Settings {
        public_url: "ws://proxy".into(),
        log: choice.log,
        resume_window: choice.resume_window,
        cache: Flags::ALL,
        honor_client_intents: true,
        intents: u64::MAX,
    })
}

fn identity() -> Identity {
    Identity { identify: br#"{"op":2,"d":{}}"#.to_vec(), token: "t".into() }
}

fn entropy(seed: u64) -> Entropy {
    let mut random = Rng::with_seed(seed);
    Box::new(move |bytes| random.fill(bytes))
}

fn queue(now: Time) -> IdentifyQueue {
    let reset_after = Duration::from_secs(86_400);
    IdentifyQueue::new(Budget { total: 1_000, remaining: 1_000, reset_after, max_concurrency: 1 }, now, [0])
}

impl Host {
    pub fn new(choice: Choice, now: Time, seed: u64) -> Self {
        let shard = Shard::new(ID, settings(choice), identity(), "ws://discord".into(), None, entropy(seed));
        Self {
            shard,
            choice,
            link: Link::None,
            queue: queue(now),
            connections: BTreeMap::new(),
            next_connection: 0,
            next_tick: now,
            fed: Vec::new(),
            renewals: 0,
            generation: 0,
            clean_start: 0,
            started_at: now,
            unreachable: 0,
            outage: false,
            attempts: 0,
        }
    }

    /// Everything that can be done at this moment.
    pub fn run(&mut self, now: Time, discord: &mut Discord, rng: &mut Rng, coverage: &mut Coverage) {
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.shard.tick(now);
            // Every client has its turn anyway.
            while self.shard.poll_due(now).is_some() {}
        }
        while self.queue.poll(now).is_some() {
            self.shard.upstream_permitted(now);
        }
        self.upstream(now, discord, rng, coverage);
        for number in self.connections.keys().copied().collect::<Vec<_>>() {
            self.turn(now, number, coverage);
        }
    }

    fn upstream(&mut self, now: Time, discord: &mut Discord, rng: &mut Rng, coverage: &mut Coverage) {
        loop {
            self.actions(now, discord, rng, coverage);
            match self.link {
                Link::Connecting(at, true) if now >= at => {
                    self.link = Link::Open(discord.connect(now, rng));
                    self.shard.upstream_connected(now);
                }
                Link::Connecting(at, false) if now >= at => {
                    self.link = Link::None;
                    self.shard.upstream_closed(now, None);
                    return;
                }
                Link::Open(_) if !discord.is_linked() => {
                    self.link = Link::None;
                    self.shard.upstream_closed(now, None);
                }
                Link::Open(_) => match discord.arrived(now) {
                    Some(Frame::Text { text, number, guild, left }) => {
                        if text.starts_with(r#"{"t":"READY""#) {
                            self.renewals += 1;
                        }
                        if let Some(guild) = guild.filter(|_| number.is_some() || left) {
                            self.fed.push(Fed { guild, number });
                        }
                        note(|| format!("proxy: is given {:.110}", text));
                        self.shard.upstream_payload(now, text.as_bytes()).expect("Discord sends payloads");
                    }
                    Some(Frame::Close(code)) => {
                        discord.disconnect(now);
                        self.link = Link::None;
                        self.shard.upstream_closed(now, Some(code));
                    }
                    None => return,
                },
                _ => return,
            }
        }
    }

    fn actions(&mut self, now: Time, discord: &mut Discord, rng: &mut Rng, coverage: &mut Coverage) {
        while let Some(action) = self.shard.poll_upstream(now) {
            match (&self.link, action) {
                (Link::None, Action::Connect(_)) => {
                    self.attempts += 1;
                    let works = rng.u8(..) >= self.unreachable && !self.outage;
                    let time = Duration::from_millis(rng.u64(1..if works { 300 } else { 30_000 }));
                    if !works {
                        coverage.count(Event::UpstreamUnreachable);
                    }
                    self.link = Link::Connecting(now + time, works);
                }
                (Link::None, _) => {}
                // It does not want to wait any longer.
                (Link::Connecting(..), _) => self.link = Link::None,
                (Link::Open(link), Action::Send(payload)) => discord.receive(now, *link, &payload, coverage),
                (Link::Open(_), Action::RequestPermit) => self.queue.request(0),
                (Link::Open(_), Action::Close(_) | Action::Connect(_)) => {
                    discord.disconnect(now);
                    self.link = Link::None;
                }
            }
        }
    }

    // ---- clients ----

    /// A client identifies on a new connection.
    pub fn identify(&mut self, now: Time, intents: Intents) -> Result<u64, Close> {
        let options = Options { intents, version: 10, compress: false };
        let number = self.next_connection + 1;
        let session = self.shard.identify(now, number, options)?;
        Ok(self.connect(session, None, None))
    }

    /// A client identifies on a connection on which it was told that its session is invalid.
    pub fn identify_again(&mut self, now: Time, number: u64, intents: Intents) -> bool {
        let open = self.connections.get_mut(&number).filter(|connection| connection.closing.is_none());
        let Some(connection) = open else { return false };
        assert_eq!(connection.session, None, "P3: told of the end of a session that goes on");
        let options = Options { intents, version: 10, compress: false };
        let Ok(session) = self.shard.identify(now, number, options) else { return false };
        connection.session = Some(session);
        (connection.begun_at, connection.synced_at) = (None, None);
        true
    }

    /// A client resumes on a new connection; `None`: it is told that its session is invalid.
    pub fn resume(&mut self, now: Time, session: &str, sequence: u64) -> Option<u64> {
        let id = SessionId::parse(session).expect("one of ours");
        let session = self.shard.resume(now, self.next_connection + 1, &id, sequence)?;
        Some(self.connect(session, Some(0), Some(0)))
    }

    fn connect(&mut self, session: u32, begun_at: Option<usize>, synced_at: Option<usize>) -> u64 {
        self.next_connection += 1;
        let connection = Connection {
            session: Some(session),
            outbox: Outbox::new(Transport::None, Encoding::Json),
            wire: VecDeque::new(),
            closing: None,
            stalled_since: None,
            begun_at,
            synced_at,
            renewals: self.renewals,
        };
        self.connections.insert(self.next_connection, connection);
        self.next_connection
    }

    /// A command of a client; false when nobody listens any more.
    pub fn command(&mut self, now: Time, number: u64, text: &str) -> bool {
        let open = self.connections.get_mut(&number).filter(|connection| connection.closing.is_none());
        let Some(connection) = open else { return false };
        let Some(session) = connection.session else { return false };
        let done = self.shard.command(now, session, number, text.as_bytes(), &mut connection.outbox);
        assert!(matches!(done, Ok(()) | Err((4000, _))), "a good command: {done:?}");
        done.is_ok()
    }

    /// The client's end is gone. `gives_up`: by a close that ends the session.
    pub fn hang_up(&mut self, now: Time, number: u64, gives_up: bool) {
        if let Some(Connection { session: Some(session), .. }) = self.connections.remove(&number) {
            self.shard.detach(now, session, number, gives_up);
        }
    }

    fn turn(&mut self, now: Time, number: u64, coverage: &mut Coverage) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        for _ in 0..FILLS {
            if connection.closing.is_none()
                && let Some(session) = connection.session
            {
                let progress = self.shard.produce(now, session, number, &mut connection.outbox);
                // There is nothing to produce before READY, and more to come after it.
                if connection.begun_at.is_none() && progress == Progress::More {
                    connection.begun_at = Some(self.fed.len());
                    connection.renewals = self.renewals;
                }
                match progress {
                    Progress::Idle if connection.begun_at.is_some() && connection.synced_at.is_none() => {
                        connection.synced_at = Some(self.fed.len());
                        coverage.count(Event::Snapshots);
                    }
                    Progress::Close { close: (code, reason), reconnect } => {
                        note(|| format!("proxy: closes {number} with {code}: {reason}"));
                        match reason {
                            _ if reason.starts_with("too slow") => coverage.count(Event::FellOff),
                            _ if reason.starts_with("no heartbeat") => coverage.count(Event::Silent),
                            _ => {}
                        }
                        if reconnect {
                            connection.outbox.message(&[payload::RECONNECT]);
                        }
                        connection.outbox.close(Some(code), reason);
                        connection.closing = Some(now);
                    }
                    Progress::Return => {
                        note(|| format!("proxy: tells {number} that its session is invalid"));
                        connection.session = None;
                        self.shard.detach(now, session, number, true);
                    }
                    _ => {}
                }
            }
            let pending = connection.outbox.pending();
            let n = pending.len().min(SOCKET.saturating_sub(connection.wire.len()));
            connection.wire.extend(&pending[..n]);
            connection.outbox.wrote(n);
            match connection.outbox.pending().is_empty() {
                true => connection.stalled_since = None,
                false if n > 0 => connection.stalled_since = Some(now),
                false => {}
            }
        }
        if connection.closing.is_some_and(|since| now.saturating_sub(since) >= LINGER) {
            return self.hang_up(now, number, false);
        }
        let since = *connection.stalled_since.get_or_insert(now);
        if connection.outbox.pending().is_empty() {
            connection.stalled_since = None;
        } else if now.saturating_sub(since) >= STALL_LIMIT {
            coverage.count(Event::Stalled);
            note(|| format!("proxy: drops {number}, which takes nothing"));
            self.hang_up(now, number, false);
        }
    }

    /// The client has read everything of a connection that ends.
    pub fn is_over(&self, number: u64) -> bool {
        self.connections.get(&number).is_none_or(|connection| {
            connection.closing.is_some() && connection.wire.is_empty() && connection.outbox.pending().is_empty()
        })
    }

    /// Everything that there is for a connection has been written and read.
    pub fn is_quiet(&self, number: u64) -> bool {
        self.connections.get(&number).is_some_and(|connection| {
            connection.closing.is_none() && connection.wire.is_empty() && connection.outbox.pending().is_empty()
        })
    }

    // ---- processes ----

    /// SIGTERM, and another process that goes on with the state.
    pub fn restart(&mut self, now: Time, discord: &mut Discord, rng: &mut Rng, coverage: &mut Coverage) {
        self.shard.stop();
        self.actions(now, discord, rng, coverage);
        // Clients get their goodbye as far as they take it.
        for number in self.connections.keys().copied().collect::<Vec<_>>() {
            self.turn(now, number, coverage);
            self.hang_up(now, number, false);
        }
        let mut state = Vec::new();
        let seed = rng.u64(..);
        let kept = self.shard.save(&mut state).expect("writing to memory");
        discord.disconnect(now);
        self.start_over(now, discord);
        if kept {
            let input = &mut state.as_slice();
            self.shard =
                Shard::restore(ID, settings(self.choice), identity(), "ws://discord".into(), entropy(seed), now, input)
                    .expect("its own state");
            self.queue.started(0);
            coverage.count(Event::Restarts);
            note(|| format!("proxy: restarts with {} bytes", state.len()));
        } else {
            discord.known = false;
            self.clean_start = self.generation;
            self.shard = Shard::new(ID, settings(self.choice), identity(), "ws://discord".into(), None, entropy(seed));
            note(|| "proxy: restarts with nothing to keep".into());
        }
    }

    /// kill -9, and another process.
    pub fn kill(&mut self, now: Time, discord: &mut Discord, rng: &mut Rng, coverage: &mut Coverage) {
        coverage.count(Event::Kills);
        note(|| "proxy: is killed".into());
        discord.disconnect(now);
        discord.known = false;
        self.connections.clear();
        self.start_over(now, discord);
        self.clean_start = self.generation;
        let seed = rng.u64(..);
        self.shard = Shard::new(ID, settings(self.choice), identity(), "ws://discord".into(), None, entropy(seed));
    }

    fn start_over(&mut self, now: Time, discord: &mut Discord) {
        self.generation += 1;
        self.started_at = now;
        self.link = Link::None;
        discord.fruitless = 0;
        // Discord counts the interval also when the process is another one. It takes a while to start.
        let mut next = queue(now);
        next.request(0);
        let _ = next.poll(now);
        self.queue = next;
        self.next_tick = now;
    }
}
