//! The watchdog of a data core: looks at all shards of the core at the end of each slot.
//!
//! The control core says when a slot ends, so there is no timer here, and without a watchdog there is no cost. What is
//! judged, and how, is in [`crate::watchdog`].

use super::{EndOfSlot, SlotReport, hosted::HostedShard};
use crate::{
    io::Io,
    watchdog::{Pulse, ShardWatch},
};

/// See the module's description.
#[derive(Default)]
pub struct Watch {
    /// One for each shard of the core, in the core's order. Empty until the first slot ends.
    shards: Vec<ShardWatch>,
    /// Number of the last slot that has ended.
    last: u64,
}

impl Watch {
    /// Handles the end of a slot. `core` is the index of the core, `shards` are all its shards.
    pub fn end_slot<I: Io>(&mut self, core: usize, end: &EndOfSlot, shards: &[HostedShard<I>]) -> SlotReport {
        self.shards.resize_with(shards.len(), ShardWatch::default);
        // The watchdog was off, or the core was too busy for a slot.
        let left_out = end.slot != self.last + 1;
        self.last = end.slot;
        let mut report = SlotReport { core, slot: end.slot, pulse: Pulse::default(), sick: Vec::new() };
        for (hosted, watch) in shards.iter().zip(&mut self.shards) {
            if left_out {
                watch.interrupt();
            }
            watch.end_slot(hosted.shard.seen(), &end.before, &mut report.pulse);
            if let Some(finding) = watch.finding() {
                report.sick.push((hosted.shard.id().id, finding));
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::Flags,
        io::uring::Uring,
        log::Limits,
        protocol::{ShardId, Time, event::EventKind},
        shard::{Settings, Shard},
        upstream::{
            loss::Reason,
            session::{Action, Identity, Status},
        },
        watchdog::{Ailment, Finding, SLOT},
    };
    use std::{rc::Rc, time::Duration};

    const GUILDS: u64 = 30;

    /// Discord's end of a shard.
    struct Discord {
        sequence: u64,
        /// Discord acknowledges everything and sends no events.
        mute: bool,
    }

    /// Two data cores with three shards each, what Discord sends them, and what the control core does in a slot.
    struct Proxy {
        cores: [(Watch, Vec<HostedShard<Uring>>); 2],
        discord: Vec<Discord>,
        now: Time,
        slot: u64,
        before: Pulse,
        sick: Vec<(u32, Finding)>,
    }

    fn feed(hosted: &mut HostedShard<Uring>, now: Time, discord: &mut Discord, name: &str, data: &str) {
        discord.sequence += 1;
        let payload = format!(r#"{{"t":"{name}","s":{},"op":0,"d":{data}}}"#, discord.sequence);
        hosted.shard.upstream_payload(now, payload.as_bytes()).expect("it can be read");
    }

    /// Makes the connection that the shard wants, and answers its IDENTIFY or RESUME. Returns the opcode.
    fn connect(hosted: &mut HostedShard<Uring>, now: Time, discord: &mut Discord) -> u8 {
        let shard = &mut hosted.shard;
        shard.tick(now);
        while shard.poll_upstream(now).is_some() {}
        shard.upstream_connected(now);
        shard.upstream_payload(now, br#"{"op":10,"d":{"heartbeat_interval":300000}}"#).expect("HELLO");
        shard.upstream_permitted(now);
        let sent = std::iter::from_fn(|| shard.poll_upstream(now));
        let resumes =
            sent.filter(|action| matches!(action, Action::Send(payload) if payload.starts_with(br#"{"op":6"#)));
        if resumes.count() > 0 {
            feed(hosted, now, discord, "RESUMED", "{}");
            return 6;
        }
        discord.sequence = 0;
        let guilds: Vec<String> = (1..=GUILDS).map(|id| format!(r#"{{"id":"{id}","unavailable":true}}"#)).collect();
        let ready = format!(
            r#"{{"v":10,"user":{{"id":"7"}},"guilds":[{}],"session_id":"x","resume_gateway_url":"ws://x","application":{{"id":"1","flags":0}}}}"#,
            guilds.join(",")
        );
        feed(hosted, now, discord, "READY", &ready);
        2
    }

    impl Proxy {
        fn start() -> Self {
            let settings = Rc::new(Settings {
                public_url: "ws://proxy".into(),
                log: Limits { bytes: 1 << 16, entries: 10 },
                resume_window: Duration::from_secs(60),
                cache: Flags::default(),
                prefetch_members: false,
                honor_client_intents: true,
                intents: 1,
                denied: Default::default(),
                voice_grace: Duration::from_secs(60),
                voice_rejoin: false,
                forward_opcodes: Vec::new(),
            });
            let now = Duration::from_secs(1);
            let mut discord: Vec<Discord> = (0..6).map(|_| Discord { sequence: 0, mute: false }).collect();
            let mut hosted = |id: u32| {
                let identity = Identity { identify: b"{}".to_vec(), token: "t".into() };
                let entropy = Box::new(|bytes: &mut [u8]| bytes.fill(1));
                let id = ShardId { id, count: 6 };
                let shard = Shard::new(id, settings.clone(), identity, "ws://discord".into(), None, entropy);
                let mut hosted = HostedShard::new(id.id / 2, shard);
                assert_eq!(connect(&mut hosted, now, &mut discord[id.id as usize]), 2);
                hosted
            };
            let cores = [[0, 2, 4], [1, 3, 5]].map(|ids| (Watch::default(), ids.map(&mut hosted).into()));
            Self { cores, discord, now, slot: 0, before: Pulse::default(), sick: Vec::new() }
        }

        fn shard(&mut self, id: u32) -> (&mut HostedShard<Uring>, &mut Discord) {
            (&mut self.cores[id as usize % 2].1[id as usize / 2], &mut self.discord[id as usize])
        }

        /// One slot: each shard that is not mute gets an event of two kinds, then the slot ends.
        fn step(&mut self) {
            self.now += SLOT;
            self.slot += 1;
            let now = self.now;
            for id in 0..6 {
                let (hosted, discord) = self.shard(id);
                if discord.mute {
                    continue;
                }
                feed(hosted, now, discord, "MESSAGE_CREATE", r#"{"id":"5","channel_id":"6"}"#);
                feed(hosted, now, discord, "TYPING_START", r#"{"user_id":"5","channel_id":"6"}"#);
            }
            let end = EndOfSlot { slot: self.slot, before: std::mem::take(&mut self.before) };
            self.sick.clear();
            for (index, (watch, shards)) in self.cores.iter_mut().enumerate() {
                let report = watch.end_slot(index, &end, shards);
                assert_eq!((report.core, report.slot), (index, self.slot));
                self.before.add(&report.pulse);
                self.sick.extend(report.sick);
            }
        }

        fn run(&mut self, slots: u32) {
            (0..slots).for_each(|_| self.step());
        }
    }

    #[test]
    fn a_shard_that_discord_forgets_is_found_until_a_new_session_helps() {
        let mut proxy = Proxy::start();
        proxy.run(300);
        assert_eq!(proxy.sick, []);
        proxy.discord[4].mute = true;
        proxy.run(30);
        let sick = [(4, Finding { ailment: Ailment::NoEvents, silent: SLOT * 30 })];
        assert_eq!(proxy.sick, sick);
        // A RESUME does not help.
        let now = proxy.now;
        let (hosted, discord) = proxy.shard(4);
        hosted.shard.reconnect(now, Reason::Watchdog);
        assert_eq!(connect(hosted, now, discord), 6);
        proxy.run(20);
        assert_eq!(proxy.sick.len(), 1);
        // The guilds of a new session are no sign that events come again, and the next event is.
        let now = proxy.now;
        let (hosted, discord) = proxy.shard(4);
        hosted.shard.identify_anew(now, Reason::Watchdog);
        assert_eq!(connect(hosted, now, discord), 2);
        for id in 1..=GUILDS {
            feed(hosted, now, discord, "GUILD_CREATE", &format!(r#"{{"id":"{id}"}}"#));
        }
        assert_eq!(hosted.shard.status(), Status::Active);
        proxy.run(20);
        assert_eq!(proxy.sick.len(), 1, "the new session is mute, too");
        proxy.discord[4].mute = false;
        proxy.run(1);
        assert_eq!(proxy.sick, []);
        // All shards at once are none.
        proxy.run(300);
        proxy.discord.iter_mut().for_each(|discord| discord.mute = true);
        proxy.run(300);
        assert_eq!(proxy.sick, []);
    }

    #[test]
    fn slots_that_were_left_out_do_not_count() {
        let mut proxy = Proxy::start();
        proxy.run(300);
        proxy.discord[0].mute = true;
        // The watchdog is off for a day, in every other slot.
        for _ in 0..200 {
            proxy.slot += 1;
            proxy.step();
        }
        assert_eq!(proxy.sick, []);
        proxy.run(30);
        assert_eq!(proxy.sick[0].1.ailment, Ailment::NoEvents);
        assert_eq!(EventKind::ALL.len(), crate::watchdog::KINDS);
    }
}
