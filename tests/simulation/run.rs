//! Runs one seed: a world, clients and random faults, then a time without faults after which everybody has to know
//! the true state.

use crate::{
    client::{self, Client},
    discord::{Discord, LARGEST, Refusal},
    host::Host,
    io::Weather,
    process::Choice,
    trace::{Coverage, Event, note},
};
use fastrand::Rng;
use gateway_proxy::{compression::Transport, log::Limits, protocol::Time};
use std::{collections::BTreeSet, time::Duration};

/// Longest time that everybody may need without faults: until a dead upstream connection is detected, for a backoff,
/// and for an IDENTIFY.
const PEACE: Duration = Duration::from_secs(900);

/// Size of a segment of the log in bytes.
const SEGMENT: usize = 64 << 10;

/// How often each fault happens, of 1,000 steps. A seed leaves most of them out.
struct Faults {
    cut: u32,
    freeze: u32,
    stubborn: u32,
    code: u32,
    reconnect: u32,
    invalidate: u32,
    restart: u32,
    kill: u32,
    client_cut: u32,
    client_code: u32,
    client_over: u32,
    asks: u32,
    voice: u32,
    outage: u32,
    unreachable: u8,
}

impl Faults {
    fn choose(rng: &mut Rng) -> Self {
        let mut some = |most: u32| if rng.u8(0..3) == 0 { rng.u32(1..=most) } else { 0 };
        Self {
            cut: some(20),
            freeze: some(6),
            stubborn: some(4),
            code: some(12),
            reconnect: some(12),
            invalidate: some(6),
            restart: some(6),
            kill: some(3),
            client_cut: some(60),
            client_code: some(30),
            client_over: some(40),
            asks: some(60),
            voice: some(60),
            outage: some(1),
            unreachable: some(120) as u8,
        }
    }
}

struct World {
    rng: Rng,
    now: Time,
    discord: Discord,
    host: Host,
    clients: Vec<Client>,
    choice: Choice,
    coverage: Coverage,
}

/// Runs a seed. It panics when a promise is broken.
pub fn run(seed: u64) -> Coverage {
    let mut rng = Rng::with_seed(seed);
    gateway_proxy::net::mask::repeat_from(seed);
    fastrand::seed(seed);
    let roomy = rng.u8(0..3) > 0;
    let choice = Choice {
        log: if roomy {
            Limits { bytes: 64 << 20, entries: 100 }
        } else {
            Limits { bytes: rng.usize(1_000..60_000), entries: rng.usize(1..60) }
        },
        resume_window: Duration::from_secs(rng.u64(5..130)),
        voice_grace: Duration::from_secs(rng.u64(0..130)),
        voice_rejoin: rng.bool(),
        transport: [Transport::None, Transport::None, Transport::Zlib, Transport::Zstd][rng.usize(0..4)],
        weather: Weather::choose(&mut rng),
    };
    note(|| format!("{choice:?}"));
    let now = Duration::from_secs(1_000);
    let discord = Discord::new(&mut rng, !roomy);
    let host = Host::new(choice, now, rng.u64(..));
    let count = rng.usize(1..5);
    let clients = (0..count).map(|name| Client::new(name, &mut rng)).collect();
    let mut world = World { rng, now, discord, host, clients, choice, coverage: Coverage::default() };
    let faults = Faults::choose(&mut world.rng);
    world.host.unreachable = faults.unreachable;
    for _ in 0..world.rng.usize(100..900) {
        world.step(&faults, roomy);
    }
    world.make_peace(roomy);
    world.check();
    world.end();
    world.coverage.add(&world.host.coverage());
    world.coverage
}

impl World {
    /// Runs one step: time passes, the guilds change, and faults may happen.
    fn step(&mut self, faults: &Faults, roomy: bool) {
        let rng = &mut self.rng;
        let passed = match rng.u8(..) {
            0..=180 => rng.u64(1..40),
            181..=245 => rng.u64(40..600),
            246..=253 => rng.u64(600..8_000),
            _ => rng.u64(8_000..70_000),
        };
        self.pass(Duration::from_millis(passed), roomy);
        let happens = match self.rng.u8(0..16) {
            0 => self.rng.usize(0..30),
            1..=9 => 1,
            _ => 0,
        };
        for _ in 0..happens {
            self.discord.happen(self.now, &mut self.rng, &mut self.coverage);
        }
        self.disturb(faults, roomy);
        if self.rng.u32(0..1_000) < faults.outage {
            self.outage(roomy);
        }
    }

    /// Makes Discord unreachable for up to two hours.
    fn outage(&mut self, roomy: bool) {
        let time = Duration::from_secs(self.rng.u64(60..7_200));
        note(|| format!("fault: Discord is away for {time:?}"));
        self.coverage.count(Event::LongOutages);
        self.discord.disconnect(self.now);
        let before = self.host.attempts;
        self.host.outage = true;
        self.pass(time, roomy);
        self.host.outage = false;
        let attempts = self.host.attempts - before;
        assert!(attempts <= 10 + time.as_secs() / 30, "P2: {attempts} attempts to connect within {time:?}");
    }

    /// Lets time pass in steps that are short enough for all timers.
    fn pass(&mut self, time: Duration, roomy: bool) {
        let end = self.now + time;
        loop {
            self.now = (self.now + Duration::from_millis(250)).min(end);
            self.discord.pass(self.now);
            let Self { now, discord, host, clients, choice, coverage, .. } = self;
            host.run(*now, discord, coverage);
            for client in clients {
                client.run(*now, host, choice.resume_window, roomy, coverage);
            }
            self.bounds();
            if self.now == end {
                return;
            }
        }
    }

    fn disturb(&mut self, faults: &Faults, roomy: bool) {
        let Self { rng, now, discord, host, clients, choice, coverage } = self;
        let now = *now;
        let chance = |rng: &mut Rng, of: u32| rng.u32(0..1_000) < of;
        if chance(rng, faults.cut) && discord.is_linked() {
            note(|| "fault: the connection to Discord is cut".into());
            coverage.count(Event::UpstreamCuts);
            discord.disconnect(now);
        }
        if chance(rng, faults.freeze) && discord.freeze() {
            note(|| "fault: Discord falls silent".into());
            coverage.count(Event::UpstreamFrozen);
        }
        if chance(rng, faults.stubborn) {
            let how = [Refusal::Code, Refusal::End, Refusal::Invalid, Refusal::Silence][rng.usize(0..4)];
            let time = Duration::from_secs(if rng.bool() { rng.u64(1..20) } else { rng.u64(20..300) });
            note(|| format!("fault: for {time:?} Discord serves no RESUME, {how:?}"));
            discord.be_stubborn(how, now + time);
            discord.disconnect(now);
        }
        if chance(rng, faults.code) && discord.is_linked() {
            let code = [1000, 1001, 1006, 4000, 4001, 4002, 4003, 4005, 4007, 4008, 4009][rng.usize(0..11)];
            note(|| format!("fault: Discord closes with {code}"));
            coverage.count(Event::UpstreamCodes);
            discord.close(now, code);
            host.blame(code);
        }
        if chance(rng, faults.reconnect) && discord.is_linked() {
            note(|| "fault: op 7".into());
            coverage.count(Event::Reconnects);
            discord.ask_to_reconnect(now);
        }
        if chance(rng, faults.invalidate) && discord.is_linked() {
            let resumable = rng.bool();
            note(|| format!("fault: op 9 {resumable}"));
            coverage.count(Event::Invalidated);
            discord.invalidate(now, resumable);
        }
        if chance(rng, 5) {
            discord.ask_for_heartbeat(now);
        }
        if chance(rng, faults.restart) {
            host.restart();
        }
        if chance(rng, faults.kill) {
            host.kill(discord);
        }
        for client in clients {
            if chance(rng, faults.client_cut) {
                let away =
                    Duration::from_millis(if rng.u8(0..10) == 0 { rng.u64(0..200_000) } else { rng.u64(0..2_000) });
                client.leave(now, host, None, away, coverage);
            }
            if chance(rng, faults.client_code) {
                let code = [1000, 1001, 3000, 4000, 4900][rng.usize(0..5)];
                client.leave(now, host, Some(code), Duration::from_millis(rng.u64(0..3_000)), coverage);
            }
            if chance(rng, faults.client_over) && client.is_connected() {
                client.reconnect(now, host, choice.resume_window, roomy, coverage);
            }
            if chance(rng, faults.asks) {
                client.ask(now, host, rng, coverage);
            }
            if chance(rng, faults.voice) {
                client.ask_voice(host, rng, coverage);
            }
            if chance(rng, 2) {
                client.manner = client::manner(rng);
            }
        }
    }

    /// Checks P4: nothing grows beyond its bound.
    fn bounds(&mut self) {
        let report = self.host.report();
        // The newest events are kept however large they are, and none is larger than `LARGEST`. Of the segments, the
        // first and the last one may be partly used.
        let most = self.choice.log.bytes + (self.choice.log.entries + 1) * LARGEST + 2 * SEGMENT;
        assert!(report.log_bytes <= most, "P4: {} bytes in the log, {most} at most", report.log_bytes);
        let sessions = report.clients + report.detached;
        assert!(sessions <= 4_096, "P4: {sessions} sessions");
    }

    /// Runs without faults and without new events until everybody must have received everything.
    fn make_peace(&mut self, roomy: bool) {
        note(|| "peace".into());
        self.host.unreachable = 0;
        let end = self.now + PEACE;
        // A connection that is already frozen has to be noticed first.
        for _ in 0..3 {
            for client in &mut self.clients {
                client.manner = client::Manner { appetite: 1 << 20, heartbeats: true };
            }
            self.pass(Duration::from_secs(200), roomy);
        }
        while self.discord.guilds.values().any(|guild| !guild.available) {
            self.discord.happen(self.now, &mut self.rng, &mut self.coverage);
        }
        while self.now < end {
            self.pass(Duration::from_secs(5), roomy);
        }
    }

    /// Checks that everybody knows the true state.
    fn check(&mut self) {
        assert!(self.discord.is_linked(), "P2: no connection to Discord in peace");
        let numbers: BTreeSet<u64> = self.host.fed.iter().filter_map(|fed| fed.number).collect();
        let missing = (1..=self.discord.number).find(|n| !numbers.contains(n) && !self.discord.lost.contains(n));
        assert_eq!(missing, None, "P1: a message that the proxy has not been given");
        for client in &mut self.clients {
            client.check(&mut self.host, &self.discord);
        }
    }

    /// Disconnects all clients for good, and checks that nothing is left of them.
    fn end(&mut self) {
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index];
            let far = Duration::from_secs(1_000_000);
            client.leave(self.now, &mut self.host, Some(1000), far, &mut self.coverage);
        }
        self.pass(self.choice.resume_window.max(self.choice.voice_grace) + Duration::from_secs(10), true);
        let report = self.host.report();
        assert_eq!((report.clients, report.detached, report.log_events), (0, 0, 0), "P4: what is left");
        assert!(self.discord.voice.guilds.is_empty(), "P4: the bot is in a voice channel whose client is gone");
    }
}
