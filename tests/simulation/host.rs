//! Everything around a data core: the control core that paces IDENTIFYs, connects to Discord and accepts clients; the
//! far ends of all connections; the clock; and processes that stop, are killed, and start again. The core itself is
//! the real one.

mod restarts;

use crate::{
    connection::{Connection, Mark},
    discord::Discord,
    net::{Net, Payload, Shared, Socket},
    process::{Choice, Disk, Process, queue},
    trace::{Coverage, Event, note, set_time},
    upstream::{Endpoints, connect_error},
    voice::Tokens,
};
use fastrand::Rng;
use gateway_proxy::{
    compression::Transport,
    control::identify::IdentifyQueue,
    data_core::{ConnectionParts, NewClient, SessionRequest, ToControl, ToCore},
    downstream::{
        outbox::{HIGH_WATER, Outbox},
        session::{Claim, Options, SessionId, session_in},
    },
    protocol::{
        Encoding, Time,
        close::{self, Close},
        intents::Intents,
    },
    shard::report::Report,
    upstream::session::Status,
    websocket::{FrameDecoder, Message, Opcode, Role, write_close, write_frame},
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::Duration,
};

/// Capacity in bytes of a client's socket.
const SOCKET: usize = 6 << 10;
/// Most turns of the core: a base, and a number for each completion.
const TURNS: (u64, u64) = (64, 4);
/// Most times that the core and the host may react to each other at one moment.
const ROUNDS: u32 = 10_000;

/// An event that the shard has received and that clients have to be told of.
#[derive(Clone, Copy, Debug)]
pub struct Fed {
    pub guild: u64,
    /// The number of a message; `None`: the guild was deleted or is unavailable.
    pub number: Option<u64>,
}

/// A connection to Discord that is being opened.
struct Dial {
    at: Time,
    attempt: u64,
    works: bool,
}

/// Everything around a data core. See the module's description.
pub struct Host {
    choice: Choice,
    rng: Rng,
    net: Shared,
    disk: Rc<RefCell<Disk>>,
    process: Process,
    /// Whether the process has been told to stop, and whether it has stopped.
    stopping: bool,
    stopped: bool,
    endpoints: Endpoints,
    dials: Vec<Dial>,
    queue: IdentifyQueue,
    pub connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    /// The connection of a client whose RESUME was refused and that may identify on it.
    refused: Option<u64>,
    /// Offset up to which the core has read the commands of each connection.
    heard: BTreeMap<u64, u64>,
    pub fed: Vec<Fed>,
    /// Payloads that the shard has processed and the model of Discord has not been told of.
    taken: Vec<Payload>,
    /// Number of upstream sessions so far. Each one sends all guilds again.
    pub renewals: u64,
    /// Whether the shard's upstream session is active.
    pub active: bool,
    /// The number of the current process, and of the last one that started without saved state.
    pub generation: u64,
    pub clean_start: u64,
    /// When the process started. Sessions that it loaded can be resumed for the whole window from then on.
    pub started_at: Time,
    /// Chance, of 256, that a connection to Discord can not be opened.
    pub unreachable: u8,
    /// Closes of Discord with a code that is about a command, for which no client has been closed yet.
    blames: BTreeMap<u16, u32>,
    /// No connection to Discord can be opened.
    pub outage: bool,
    /// Number of attempts to connect to Discord.
    pub attempts: u64,
    /// What is known of voice.
    pub voice: Tokens,
    coverage: Coverage,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.net.borrow_mut().dying = true;
    }
}

impl Host {
    pub fn new(choice: Choice, now: Time, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let (net, disk) = (Net::new(now), Rc::default());
        let process = Process::start(choice, &net, &disk, &mut rng);
        Self {
            choice,
            rng,
            process,
            disk,
            stopping: false,
            stopped: false,
            endpoints: Endpoints::new(net.clone(), choice.transport),
            net,
            dials: Vec::new(),
            queue: queue(now),
            connections: BTreeMap::new(),
            next_connection: 0,
            refused: None,
            heard: BTreeMap::new(),
            fed: Vec::new(),
            taken: Vec::new(),
            renewals: 0,
            active: false,
            generation: 0,
            clean_start: 0,
            started_at: now,
            unreachable: 0,
            blames: BTreeMap::new(),
            outage: false,
            attempts: 0,
            voice: Tokens::default(),
            coverage: Coverage::default(),
        }
    }

    /// The events that this host and its network have counted.
    pub fn coverage(&self) -> Coverage {
        let mut coverage = self.coverage.clone();
        coverage.add(&self.net.borrow().coverage);
        coverage
    }

    /// Discord closes the connection with this code, which may be for a command of one client.
    pub fn blame(&mut self, code: u16) {
        if matches!(code, close::UNKNOWN_OPCODE | close::DECODE_ERROR) {
            *self.blames.entry(code).or_default() += 1;
        }
    }

    /// Says whether the proxy may close a client with this code: one client for each close of Discord.
    pub fn takes_blame(&mut self, code: u16) -> bool {
        let left = self.blames.get_mut(&code).filter(|left| **left > 0);
        left.map(|left| *left -= 1).is_some()
    }

    /// The shard's report.
    pub fn report(&mut self) -> Report {
        self.process.shard().report()
    }

    // ---- time ----

    /// Runs everything that happens up to a time, in order.
    pub fn run(&mut self, until: Time, discord: &mut Discord, coverage: &mut Coverage) {
        let mut rounds = 0;
        loop {
            let now = self.net.borrow().clock;
            set_time(now);
            rounds += 1;
            assert!(rounds < ROUNDS, "P6: the core and the host react to each other without an end");
            self.endpoints.feed(now, discord, &mut self.rng);
            self.drain();
            self.taken.drain(..).for_each(|payload| discord.taken(&payload));
            if self.stopped {
                self.go_on(discord);
                continue;
            }
            let something = self.control(now, discord) | self.endpoints.hear(now, discord, &mut self.rng, coverage);
            self.doors();
            if something || self.net.borrow().touched {
                continue;
            }
            let dial = self.dials.iter().map(|dial| dial.at).min();
            let core = self.process.core.io_mut().sleeps.expect("a core that was drained sleeps");
            let next = [core, dial, discord.next_arrival()].into_iter().flatten().min();
            match next.filter(|at| *at <= until) {
                Some(at) => {
                    rounds = if at > now { 0 } else { rounds };
                    self.net.borrow_mut().clock = at.max(now);
                }
                None => break,
            }
        }
        let mut net = self.net.borrow_mut();
        net.clock = until;
        net.tidy();
    }

    /// Runs turns of the core until it sleeps.
    fn drain(&mut self) {
        let (mut turns, before) = (0, self.process.core.io_mut().events);
        loop {
            let (clock, touched) = {
                let net = self.net.borrow();
                (net.clock, net.touched)
            };
            let sleeps = match self.process.core.io_mut().sleeps {
                Some(until) => until.is_none_or(|until| clock < until),
                None => false,
            };
            if sleeps && !touched || self.stopped {
                break;
            }
            self.stopped = !self.process.core.turn();
            self.look();
            self.interject();
            turns += 1;
            let events = self.process.core.io_mut().events - before;
            let most = (TURNS.0 + TURNS.1 * events).min(u64::from(ROUNDS));
            assert!(turns <= most, "P6: {turns} turns for {events} things that happened");
        }
        if turns > 0 && !self.stopped {
            self.endpoints.check();
            self.check();
        }
    }

    /// Sends a ping from a client at the moment when the core has cancelled its receive.
    fn interject(&mut self) {
        let mut net = self.net.borrow_mut();
        for socket in std::mem::take(&mut net.cancelled) {
            let known = self.connections.values().any(|connection| connection.socket == socket);
            if known && !net.pipe(socket).ended && self.rng.bool() {
                let mut ping = Vec::new();
                write_frame(&mut ping, Opcode::Ping, b"?", Some([9, 8, 7, 6]));
                net.push(socket, &ping);
            }
        }
    }

    /// Reads the state of the core after a turn.
    fn look(&mut self) {
        let arrived = std::mem::take(&mut self.net.borrow_mut().arrived);
        if !arrived.is_empty() {
            let events = self.process.shard().events();
            // Payloads that arrive after the core has given the connection up are ignored, and Discord replays them
            // after a RESUME.
            let taken = (events - std::mem::replace(&mut self.process.events, events)) as usize;
            let before = self.taken.len();
            for payload in arrived.into_iter().filter(|payload| payload.counted).take(taken) {
                self.renewals += u64::from(payload.ready);
                self.voice.told(payload.voice, payload.ready);
                if let Some(guild) = payload.guild.filter(|_| payload.number.is_some() || payload.left) {
                    self.fed.push(Fed { guild, number: payload.number });
                }
                self.taken.push(payload);
            }
            assert_eq!(self.taken.len() - before, taken, "P1: the shard counts events that nobody has sent");
        }
        let synced = self.process.shard().syncing() == 0;
        self.active = self.process.shard().status() == Status::Active;
        for (number, connection) in &mut self.connections {
            if connection.marks.is_none() && connection.commands.is_empty() || connection.door.is_some() {
                continue;
            }
            let Some(served) = self.process.core.client(|socket| socket.id == connection.socket) else { continue };
            let mut net = self.net.borrow_mut();
            let pipe = net.pipe(connection.socket);
            let made = pipe.taken + (pipe.in_flight() + served.waiting) as u64;
            let mark = Mark { made, fed: self.fed.len(), renewals: self.renewals, synced };
            connection.mark(mark);
            let heard = pipe.received - served.unread as u64;
            while served.open && connection.commands.front().is_some_and(|end| *end <= heard) {
                connection.commands.pop_front();
                self.heard.insert(*number, heard);
            }
        }
    }

    /// Checks that a sleeping core has nothing left to do for its clients.
    fn check(&mut self) {
        for (number, connection) in &self.connections {
            let Some(served) = self.process.core.client(|socket| socket.id == connection.socket) else { continue };
            let mut net = self.net.borrow_mut();
            let pipe = net.pipe(connection.socket);
            if served.open && !pipe.reset {
                let waiting = pipe.in_flight() + served.waiting;
                let unread = !pipe.to_core.is_empty() && waiting < HIGH_WATER;
                assert!(!unread, "P3: the core sleeps, and does not receive what client {number} has sent");
                let unsent = waiting > 0 && pipe.room() > 0;
                assert!(!unsent, "P3: the core sleeps, and does not send client {number} what there is");
            }
        }
    }

    // ---- the control core ----

    fn post(&mut self, message: ToCore<Socket>) {
        self.net.borrow_mut().touched = true;
        assert!(self.process.to_core.send(message).is_ok(), "P4: the mailbox of the core is full");
    }

    /// Plays the control core. Returns whether it did anything.
    fn control(&mut self, now: Time, discord: &mut Discord) -> bool {
        let mut something = self.answer(now);
        if self.queue.poll(now).is_some() {
            note(|| "control: permit".into());
            self.post(ToCore::Permit(0));
            something = true;
        }
        while let Some(index) = self.dials.iter().position(|dial| now >= dial.at) {
            let Dial { attempt, works, .. } = self.dials.swap_remove(index);
            something = true;
            note(|| format!("control: connection {attempt} to Discord, {works}"));
            let result = match works {
                true => Ok(Box::new(self.endpoints.open(now, discord, &mut self.rng))),
                false => Err(Box::new(connect_error(self.rng.usize(0..3)))),
            };
            self.post(ToCore::Dialled { shard: 0, attempt, result });
        }
        something
    }

    /// Processes the core's messages to the control core. Returns whether there were any.
    fn answer(&mut self, now: Time) -> bool {
        let mut something = false;
        while let Some(message) = self.process.from_core.try_receive() {
            something = true;
            match message {
                ToControl::Restored(_) => self.queue.started(0),
                ToControl::WantPermit(_) => {
                    note(|| "control: the shard wants a permit".into());
                    self.queue.request(0);
                }
                ToControl::Dial { attempt, .. } => {
                    self.attempts += 1;
                    let works = self.rng.u8(..) >= self.unreachable && !self.outage;
                    let time = Duration::from_millis(self.rng.u64(1..if works { 300 } else { 30_000 }));
                    if !works {
                        self.coverage.count(Event::UpstreamUnreachable);
                    }
                    self.dials.push(Dial { at: now + time, attempt, works });
                }
                ToControl::Return(parts, _) => {
                    let socket = parts.socket.id;
                    let own = self.connections.values_mut().find(|connection| connection.socket == socket);
                    if let Some(connection) = own {
                        note(|| "proxy: a connection goes back to the door".into());
                        connection.door = Some(parts);
                    }
                }
                ToControl::Panicked => panic!("the core has panicked; the last panic in the story says where"),
                ToControl::Failed(why) => panic!("the core has failed: {why}"),
                ToControl::Reports(..)
                | ToControl::Pulse(_)
                | ToControl::StatusChanged(_)
                | ToControl::SlotEnded(_)
                | ToControl::Stopped
                | ToControl::UpstreamId(..) => {}
            }
        }
        something
    }

    /// Plays the door: sends what the clients at the door have to receive, and drops the connections that the core
    /// has closed.
    fn doors(&mut self) {
        let mut over = Vec::new();
        for (number, connection) in &mut self.connections {
            let mut net = self.net.borrow_mut();
            let pipe = net.pipe(connection.socket);
            if pipe.core_closed {
                over.push((*number, pipe.core_ended));
            }
            if let Some(parts) = &mut connection.door {
                let pending = parts.outbox.pending();
                let n = pending.len().min(pipe.room());
                pipe.from_core.extend(&pending[..n]);
                pipe.taken += n as u64;
                parts.outbox.wrote(n);
                // The door ignores commands before an IDENTIFY.
                parts.inbound.receive(pipe.to_core.make_contiguous());
                pipe.received += pipe.to_core.len() as u64;
                pipe.to_core.clear();
                while parts.inbound.next().expect("good frames").is_some() {}
            }
        }
        for (number, said_goodbye) in over {
            if !said_goodbye {
                self.coverage.count(Event::Stalled);
                note(|| format!("proxy: drops {number}, which does not read"));
            }
            let connection = self.connections.remove(&number).expect("one of them");
            self.net.borrow_mut().pipe(connection.socket).gone = true;
        }
    }

    // ---- clients ----

    /// Opens a client's connection, which waits at the door.
    fn connect(&mut self, synced_at: Option<usize>) -> u64 {
        self.next_connection += 1;
        let socket = Net::open(&self.net, SOCKET);
        let connection = Connection {
            socket: socket.id,
            door: Some(Box::new(ConnectionParts {
                socket,
                inbound: FrameDecoder::new(Role::Server, 4_096),
                outbox: Outbox::new(Transport::None, Encoding::Json),
            })),
            marks: None,
            synced_at,
            commands: VecDeque::new(),
        };
        self.connections.insert(self.next_connection, connection);
        self.next_connection
    }

    /// Hands a connection from the door to the core.
    fn enter(&mut self, number: u64, request: SessionRequest) {
        let connection = self.connections.get_mut(&number).expect("a connection");
        connection.marks = matches!(request, SessionRequest::Identify(_)).then(Vec::new);
        let mut parts = connection.door.take().expect("a client at the door");
        // The door may have read bytes beyond the IDENTIFY or RESUME.
        if self.rng.u8(0..8) == 0 {
            let mut beat = Vec::new();
            write_frame(&mut beat, Opcode::Text, br#"{"op":1,"d":null}"#, Some([1, 2, 3, 4]));
            parts.inbound.receive(&beat);
            let mut net = self.net.borrow_mut();
            let pipe = net.pipe(connection.socket);
            (pipe.pushed, pipe.received) = (pipe.pushed + beat.len() as u64, pipe.received + beat.len() as u64);
        }
        self.post(ToCore::Client(Box::new(NewClient {
            parts: *parts,
            shard: 0,
            request,
            visitor: Default::default(),
        })));
    }

    /// Says whether the proxy accepts connections.
    pub fn is_listening(&self) -> bool {
        !self.stopping
    }

    /// A client identifies, on a new connection or on the one on which its RESUME was refused.
    pub fn identify(&mut self, intents: Intents) -> Result<u64, Close> {
        let number = self.refused.take().unwrap_or_else(|| self.connect(None));
        self.enter(
            number,
            SessionRequest::Identify(Options { intents, version: 10, compress: false, library: Default::default() }),
        );
        Ok(number)
    }

    /// A client identifies on the connection on which it received Invalid Session.
    pub fn identify_again(&mut self, number: u64, intents: Intents) -> bool {
        if self.stopping {
            return false;
        }
        let connection = self.connections.get_mut(&number).expect("a connection");
        assert!(connection.door.is_some(), "P3: told of the end of a session that goes on");
        connection.synced_at = None;
        self.enter(
            number,
            SessionRequest::Identify(Options { intents, version: 10, compress: false, library: Default::default() }),
        );
        true
    }

    /// A client resumes on a new connection to this URL; `None`: it is told that its session is invalid.
    pub fn resume(&mut self, now: Time, session: &str, url: &str, sequence: u64) -> Option<u64> {
        let claim = match SessionId::parse(session) {
            Some(id) => Claim::Own(id),
            None => Claim::Upstream { id: session.to_owned(), resume_key: session_in(url) },
        };
        let number = self.connect(Some(0));
        self.enter(number, SessionRequest::Resume { claim, sequence });
        self.drain();
        self.answer(now);
        let connection = self.connections.get_mut(&number).expect("a connection");
        let Some(parts) = &mut connection.door else { return Some(number) };
        // The client reads the answer.
        let mut told = FrameDecoder::new(Role::Client, 4_096);
        told.receive(parts.outbox.pending());
        let told = told.next().expect("a frame");
        assert!(matches!(told, Some(Message::Text(br#"{"t":null,"s":null,"op":9,"d":false}"#))), "P3: {told:?}");
        parts.outbox.wrote(parts.outbox.len());
        connection.synced_at = None;
        match self.rng.bool() {
            true => self.refused = Some(number),
            false => self.hang_up(number, None),
        }
        None
    }

    /// Sends a command of a client. Returns the offset of its end in the stream; `None`: the core no longer reads the
    /// connection.
    pub fn command(&mut self, number: u64, text: &str) -> Option<u64> {
        let connection = self.connections.get_mut(&number)?;
        let served = self.process.core.client(|socket| socket.id == connection.socket)?;
        if !served.open || connection.door.is_some() {
            return None;
        }
        let mut frame = Vec::new();
        write_frame(&mut frame, Opcode::Text, text.as_bytes(), Some(self.rng.u32(..).to_ne_bytes()));
        let mut net = self.net.borrow_mut();
        net.push(connection.socket, &frame);
        let end = net.pipe(connection.socket).pushed;
        connection.commands.push_back(end);
        Some(end)
    }

    /// Says whether the core has read the command that ends at this offset.
    pub fn has_heard(&self, number: u64, end: u64) -> bool {
        self.heard.get(&number).is_some_and(|heard| *heard >= end)
    }

    /// Reads what a client has received. Returns the number of bytes.
    pub fn read(&mut self, number: u64, into: &mut [u8]) -> usize {
        let Some(connection) = self.connections.get(&number) else { return 0 };
        self.net.borrow_mut().read(connection.socket, into)
    }

    /// A client has read READY, which ends at this offset of its stream. Returns the length of `fed` and the number
    /// of upstream sessions when READY was written.
    pub fn began(&mut self, number: u64, offset: u64) -> (usize, u64) {
        self.connections.get_mut(&number).expect("a connection").began(offset)
    }

    /// Index in `fed` from which on a client has to receive everything, once that is known. Has to be called after
    /// [`Host::began`].
    pub fn synced_at(&mut self, number: u64) -> Option<usize> {
        let connection = self.connections.get_mut(&number)?;
        if connection.is_complete() {
            self.coverage.count(Event::Snapshots);
        }
        connection.synced_at
    }

    /// The client closes its end, after a close frame if there is a `code`.
    pub fn hang_up(&mut self, number: u64, code: Option<u16>) {
        let Some(connection) = self.connections.remove(&number) else { return };
        let mut net = self.net.borrow_mut();
        let socket = connection.socket;
        if let Some(code) = code {
            let mut frame = Vec::new();
            write_close(&mut frame, Some(code), "", Some([5, 6, 7, 8]));
            net.push(socket, &frame);
        }
        let unread = !net.pipe(socket).from_core.is_empty();
        if code.is_none() && (unread || self.rng.bool()) {
            net.reset(socket);
        } else {
            net.end(socket);
        }
        let pipe = net.pipe(socket);
        pipe.gone = true;
        pipe.from_core.clear();
    }

    /// Says whether the proxy has ended the connection and the client has read everything.
    pub fn is_over(&self, number: u64) -> bool {
        self.connections.get(&number).is_none_or(|connection| {
            let mut net = self.net.borrow_mut();
            let pipe = net.pipe(connection.socket);
            (pipe.core_ended || pipe.core_closed) && pipe.from_core.is_empty()
        })
    }

    /// Says whether the core has nothing left to write on a connection and the client has read everything.
    pub fn is_quiet(&self, number: u64) -> bool {
        self.connections.get(&number).is_some_and(|connection| {
            let served = self.process.core.client(|socket| socket.id == connection.socket);
            let read = self.net.borrow_mut().pipe(connection.socket).from_core.is_empty();
            read && served.is_some_and(|served| served.open && served.waiting == 0)
        })
    }
}
