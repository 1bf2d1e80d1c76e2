//! Fleets of shards with random traffic, days of them, and what the watchdog says.

use super::*;
use proptest::prelude::*;

const HOUR: u32 = 240;
const DAY: u32 = 24 * HOUR;
const MESSAGE: EventKind = EventKind::MessageCreate;
const TYPING: EventKind = EventKind::TypingStart;
const BAN: EventKind = EventKind::GuildBanAdd;

/// A shard of a fleet, and what it shows.
struct Member {
    watch: ShardWatch,
    events: [u64; KINDS],
    active: bool,
    connects: u64,
    guilds: usize,
    /// Mean number of events in a slot, by kind.
    rates: Vec<(EventKind, f64)>,
    /// Kinds that Discord does not send any more; `None` stands for all.
    muted: Option<Option<EventKind>>,
}

/// Shards of one proxy that are watched together.
struct Fleet {
    members: Vec<Member>,
    before: Pulse,
    random: fastrand::Rng,
    slot: u32,
    /// Factor of all rates in this slot.
    tide: f64,
    /// Each time a shard was found sick that was not sick before: slot, shard, what.
    found: Vec<(u32, usize, Ailment)>,
}

impl Fleet {
    fn new(shards: usize, guilds: usize, rates: &[(EventKind, f64)]) -> Self {
        let member = || Member {
            watch: ShardWatch::default(),
            events: [0; KINDS],
            active: true,
            connects: 1,
            guilds,
            rates: rates.to_vec(),
            muted: None,
        };
        Self {
            members: std::iter::repeat_with(member).take(shards).collect(),
            before: Pulse::default(),
            random: fastrand::Rng::with_seed(shards as u64),
            slot: 0,
            tide: 1.0,
            found: Vec::new(),
        }
    }

    /// A number of events with this mean.
    fn poisson(&mut self, mean: f64) -> u64 {
        let (limit, mut product, mut count) = ((-mean.min(30.0)).exp(), self.random.f64(), 0);
        while product > limit {
            product *= self.random.f64();
            count += 1;
        }
        count
    }

    fn step(&mut self) {
        self.slot += 1;
        let mut pulse = Pulse::default();
        for index in 0..self.members.len() {
            for (kind, rate) in self.members[index].rates.clone() {
                let count = self.poisson(rate * self.tide);
                let member = &mut self.members[index];
                let muted = member.muted.is_some_and(|only| only.is_none_or(|only| only == kind));
                if member.active && !muted {
                    member.events[kind as usize] += count;
                }
            }
            let Member { watch, events, active, connects, guilds, .. } = &mut self.members[index];
            let seen = Seen { events, active: *active, connects: *connects, guilds: *guilds };
            let sick = watch.finding().map(|finding| finding.ailment);
            watch.end_slot(seen, &self.before, &mut pulse);
            if let Some(now) = watch.finding().map(|finding| finding.ailment).filter(|now| sick != Some(*now)) {
                self.found.push((self.slot, index, now));
            }
        }
        self.before = pulse;
    }

    fn run(&mut self, slots: u32) {
        (0..slots).for_each(|_| self.step());
    }

    /// Slots until the shard is found sick, at most `most`.
    fn until_sick(&mut self, shard: usize, most: u32) -> Option<(u32, Ailment)> {
        (1..=most).find_map(|slot| {
            self.step();
            self.members[shard].watch.finding().map(|finding| (slot, finding.ailment))
        })
    }
}

#[test]
fn a_shard_that_gets_nothing_any_more_is_found_within_minutes_and_recovers() {
    let mut fleet = Fleet::new(10, 1000, &[(MESSAGE, 40.0), (TYPING, 10.0)]);
    fleet.run(2 * HOUR);
    assert_eq!(fleet.found, []);
    fleet.members[3].muted = Some(None);
    let (slots, ailment) = fleet.until_sick(3, HOUR).expect("it is found");
    assert_eq!(ailment, Ailment::NoEvents);
    assert!((20..=24).contains(&slots), "{slots}");
    assert_eq!(fleet.members[3].watch.finding().map(|finding| finding.silent), Some(SLOT * slots));
    fleet.members[3].muted = None;
    fleet.step();
    assert_eq!(fleet.members[3].watch.finding(), None);
    assert_eq!(fleet.found.len(), 1, "{:?}", fleet.found);
}

#[test]
fn a_missing_kind_is_named() {
    let mut fleet = Fleet::new(6, 1000, &[(MESSAGE, 40.0), (TYPING, 10.0)]);
    fleet.run(2 * HOUR);
    fleet.members[0].muted = Some(Some(TYPING));
    let (slots, ailment) = fleet.until_sick(0, HOUR).expect("it is found");
    assert_eq!(ailment, Ailment::None(TYPING));
    assert!((40..=44).contains(&slots), "{slots}");
}

#[test]
fn a_rare_kind_may_stay_away() {
    // A ban every ten minutes, and one shard that has none for a day.
    let mut fleet = Fleet::new(6, 1000, &[(MESSAGE, 40.0), (BAN, 0.025)]);
    fleet.run(DAY);
    fleet.members[0].muted = Some(Some(BAN));
    fleet.run(DAY);
    assert_eq!(fleet.found, []);
}

/// Traffic between a tenth and the whole, in the course of a day.
fn daylight(slot: u32) -> f64 {
    0.55 + 0.45 * (f64::from(slot % DAY) / f64::from(DAY) * std::f64::consts::TAU).cos()
}

#[test]
fn nights_make_nobody_sick_and_hide_nobody() {
    // At night 0.4 events in a slot: two of three slots are empty on every shard.
    let mut fleet = Fleet::new(8, 1000, &[(MESSAGE, 4.0), (TYPING, 3.0)]);
    for slot in 0..3 * DAY {
        fleet.tide = daylight(slot);
        fleet.step();
    }
    assert_eq!(fleet.found, []);
    fleet.tide = 1.0;
    fleet.run(HOUR);
    fleet.members[7].muted = Some(None);
    assert!(fleet.until_sick(7, HOUR).is_some_and(|(_, ailment)| ailment == Ailment::NoEvents));
}

#[test]
fn an_outage_of_discord_makes_nobody_sick() {
    let mut fleet = Fleet::new(20, 1000, &[(MESSAGE, 40.0), (TYPING, 10.0)]);
    fleet.run(2 * HOUR);
    for lost in [20, 11] {
        fleet.members.iter_mut().take(lost).for_each(|member| member.muted = Some(None));
        fleet.run(3 * HOUR);
        assert_eq!(fleet.found, [], "{lost} of 20 are quiet");
        fleet.members.iter_mut().for_each(|member| member.muted = None);
        fleet.run(2 * HOUR);
        assert_eq!(fleet.found, []);
    }
    // Shards without a connection count as quiet ones.
    fleet.members.iter_mut().take(11).for_each(|member| member.active = false);
    fleet.members[15].muted = Some(None);
    fleet.run(HOUR);
    assert_eq!(fleet.found, []);
}

#[test]
fn whatever_falls_silent_one_after_another_half_of_the_shards_stay_well() {
    let mut fleet = Fleet::new(9, 1000, &[(MESSAGE, 40.0)]);
    fleet.run(2 * HOUR);
    for shard in 0..9 {
        fleet.members[shard].muted = Some(None);
        fleet.run(30);
    }
    fleet.run(HOUR);
    let sick = fleet.members.iter().filter(|member| member.watch.finding().is_some()).count();
    assert!((1..=5).contains(&sick), "{sick} of 9");
}

/// Three guilds on a shard each, or on one shard: people talk in the evening, and sleep.
fn sleeps(fleet: &mut Fleet, days: u32) {
    for slot in 0..days * DAY {
        // The first evening is the busiest time, and everybody goes to bed at the same minute.
        let hour = slot / HOUR % 24;
        let talk = if hour < 14 { 1.0 } else { 0.0 };
        for (index, member) in fleet.members.iter_mut().enumerate() {
            // Each guild has hours of its own.
            let own = (hour + 5 * index as u32) % 24 < 14;
            member.rates = vec![(MESSAGE, if own { 6.0 * talk } else { 0.0 })];
        }
        fleet.step();
    }
}

#[test]
fn a_bot_with_three_guilds_is_not_called_sick() {
    for shards in [1, 3] {
        let mut fleet = Fleet::new(shards, 3 / shards, &[]);
        sleeps(&mut fleet, 8);
        assert_eq!(fleet.found, [], "{shards} shards");
    }
}

#[test]
fn a_single_large_shard_is_judged_after_two_days_and_only_for_a_full_silence() {
    let mut fleet = Fleet::new(1, 1000, &[(MESSAGE, 40.0), (TYPING, 10.0)]);
    for slot in 0..DAY {
        fleet.tide = daylight(slot);
        fleet.step();
    }
    fleet.members[0].muted = Some(None);
    fleet.run(HOUR);
    assert_eq!(fleet.found, [], "after a day");
    fleet.members[0].muted = None;
    fleet.run(3 * DAY);
    fleet.members[0].muted = Some(Some(TYPING));
    fleet.run(2 * HOUR);
    assert_eq!(fleet.found, [], "one kind");
    fleet.members[0].muted = Some(None);
    // The hour of silence three days ago was a silence that ended by itself, so this one has to be twice as long.
    let (slots, ailment) = fleet.until_sick(0, 3 * HOUR).expect("it is found");
    assert_eq!(ailment, Ailment::NoEvents);
    assert!((2 * HOUR - 20..=2 * HOUR + 20).contains(&slots), "{slots}");
}

#[test]
fn a_reconnect_of_another_cause_is_no_silence_that_ended_by_itself() {
    let mut fleet = Fleet::new(5, 1000, &[(MESSAGE, 40.0)]);
    fleet.run(2 * HOUR);
    for _ in 0..3 {
        fleet.members[1].muted = Some(None);
        let (slots, _) = fleet.until_sick(1, HOUR).expect("it is found");
        assert!(slots < 25, "{slots}: repairs must not make the watchdog patient");
        fleet.members[1].connects += 1;
        fleet.members[1].muted = None;
        fleet.run(10);
        assert_eq!(fleet.members[1].watch.finding(), None);
        fleet.run(HOUR);
    }
    // Without a reconnect the watchdog waits longer the next time.
    for least in [20, 39] {
        fleet.members[1].muted = Some(None);
        let (slots, _) = fleet.until_sick(1, HOUR).expect("it is found");
        assert!(slots >= least, "{slots} of {least}");
        fleet.members[1].muted = None;
        fleet.run(HOUR);
    }
}

#[test]
fn a_new_session_does_not_hide_that_nothing_else_comes() {
    let mut fleet = Fleet::new(5, 1000, &[(MESSAGE, 40.0)]);
    fleet.run(2 * HOUR);
    fleet.members[2].muted = Some(None);
    assert!(fleet.until_sick(2, HOUR).is_some());
    fleet.members[2].connects += 1;
    fleet.members[2].events[EventKind::Ready as usize] += 1;
    fleet.run(2);
    fleet.members[2].events[EventKind::GuildCreate as usize] += 1000;
    fleet.run(20);
    assert_eq!(fleet.members[2].watch.finding().map(|finding| finding.ailment), Some(Ailment::NoEvents));
}

#[test]
fn guilds_that_are_down_excuse_the_silence() {
    let mut fleet = Fleet::new(5, 1000, &[(MESSAGE, 40.0)]);
    fleet.run(2 * HOUR);
    fleet.members[2].muted = Some(None);
    fleet.members[2].events[EventKind::GuildDelete as usize] += 900;
    fleet.run(HOUR);
    assert_eq!(fleet.found, []);
    fleet.members[2].events[EventKind::GuildCreate as usize] += 900;
    assert!(fleet.until_sick(2, HOUR).is_some(), "the guilds are back, and nothing comes");
}

#[test]
fn a_start_is_no_silence_and_slots_that_were_left_out_do_not_count() {
    let mut fleet = Fleet::new(4, 1000, &[(MESSAGE, 40.0)]);
    fleet.members[0].muted = Some(None);
    fleet.run(HOUR);
    assert_eq!(fleet.found, [], "nothing is usual on a shard that never got anything");
    fleet.members[0].muted = None;
    fleet.run(3 * HOUR);
    let slots = fleet.members[0].watch.slots;
    fleet.members[0].watch.interrupt();
    fleet.step();
    assert_eq!(fleet.members[0].watch.slots, slots);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Shards with whatever regular traffic, which no fault touches, are never called sick, and the pulse of a fleet
    /// does not depend on how the shards are spread over cores.
    #[test]
    fn regular_traffic_is_never_sick(
        shards in 1usize..7, guilds in 1usize..60, rates in prop::collection::vec(0.0f64..30.0, 1..4), seed in any::<u64>(),
    ) {
        let kinds = [MESSAGE, TYPING, BAN, EventKind::PresenceUpdate];
        let rates: Vec<_> = kinds.into_iter().zip(rates).collect();
        let mut fleet = Fleet::new(shards, guilds, &rates);
        fleet.random = fastrand::Rng::with_seed(seed);
        fleet.run(4 * HOUR);
        prop_assert_eq!(&fleet.found, &[]);
        let mut parts = [Pulse::default(), Pulse::default()];
        for (index, member) in fleet.members.iter().enumerate() {
            parts[index % 2].add_shard(member.watch.part);
        }
        let [mut one, other] = parts;
        one.add(&other);
        prop_assert_eq!(one, fleet.before);
    }
}
