//! The control core's part of the [watchdog](crate::watchdog): ends the slots, adds up what the data cores report,
//! says which shards are sick in log, feed, metrics and `/status.json`, and has them repaired if the configuration
//! wants that.
//!
//! A slot ends at the same time on all data cores, and each core answers with the pulse of its shards. All pulses
//! together go to the cores with the next end of a slot, so a core compares its shards with all others. Bounded by the
//! number of shards.

mod repairs;

use super::{Control, feed::Feed};
use crate::{
    config::Watchdog,
    data_core::{EndOfSlot, Repair, SlotReport, ToCore},
    protocol::Time,
    upstream::loss::Reason,
    watchdog::{Ailment, Finding, Pulse, SLOT},
};
use repairs::Repairs;
use std::{collections::BTreeMap, rc::Rc};

/// A sick shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sick {
    /// Index of its data core.
    core: usize,
    finding: Finding,
}

/// What the watchdog has found.
#[derive(Default)]
pub(super) struct Found {
    /// Number of the slot that has ended last.
    slot: u64,
    /// The pulses of that slot, as far as they have come.
    pulse: Pulse,
    sick: BTreeMap<u32, Sick>,
    repairs: Repairs,
    /// How often a shard was found sick.
    findings: u64,
}

/// Describes what is wrong with a shard.
pub(super) fn describe(ailment: Ailment) -> String {
    match ailment {
        Ailment::NoEvents => "no events".to_owned(),
        Ailment::None(kind) => format!("no {}", kind.name()),
    }
}

impl Found {
    /// What is wrong with a shard; `None`: nothing that is known.
    pub fn of(&self, shard: u32) -> Option<Ailment> {
        self.sick.get(&shard).map(|sick| sick.finding.ailment)
    }

    /// How often a shard was found sick, and how often one was repaired: by RESUME, by IDENTIFY.
    pub fn counts(&self) -> (u64, [u64; 2]) {
        (self.findings, self.repairs.made)
    }

    /// Begins the next slot. Returns the message for the data cores.
    fn end_slot(&mut self) -> EndOfSlot {
        self.slot += 1;
        EndOfSlot { slot: self.slot, before: std::mem::take(&mut self.pulse) }
    }

    /// The watchdog is off in this slot.
    fn rest(&mut self) {
        self.slot += 1;
        self.pulse = Pulse::default();
        self.sick.clear();
    }

    /// Takes the report of a data core. The sick shards of the report replace those that this core reported before.
    /// Writes to the log and the feed which shards have become sick or have another ailment than before, each of which
    /// counts as a finding, and which shards are well again. The pulse of a report for an earlier slot is ignored,
    /// because that slot has ended.
    fn take(&mut self, report: SlotReport, now: Time, feed: &mut Feed) {
        let SlotReport { core, slot, pulse, sick } = report;
        if slot == self.slot {
            self.pulse.add(&pulse);
        }
        self.sick.retain(|shard, known| {
            let still = known.core != core || sick.iter().any(|(sick, _)| sick == shard);
            if !still {
                let what = describe(known.finding.ailment);
                tracing::info!(shard, "the watchdog finds nothing wrong with the shard any more; it had {what}");
                feed.note(now, Some(*shard), "the watchdog finds nothing wrong any more");
            }
            still
        });
        for (shard, finding) in sick {
            let before = self.sick.insert(shard, Sick { core, finding });
            if before.is_some_and(|before| before.finding.ailment == finding.ailment) {
                continue;
            }
            self.findings += 1;
            let (what, minutes) = (describe(finding.ailment), finding.silent.as_secs() / 60);
            tracing::warn!(
                shard,
                minutes,
                "the shard is connected and Discord acknowledges its heartbeats, but sends it {what}, which is not usual \
                 (`watchdog`)"
            );
            feed.note(now, Some(shard), format!("the watchdog: {what} for {minutes} min, which is not usual"));
        }
    }
}

impl Control {
    /// Ends the slots of the watchdog, as long as the proxy runs.
    pub(super) async fn watch_shards(self: Rc<Self>) {
        loop {
            glommio::timer::sleep(SLOT).await;
            let mode = self.live().watchdog;
            if mode == Watchdog::Off || self.stopping.get() {
                self.found.borrow_mut().rest();
                continue;
            }
            if mode == Watchdog::Reconnect {
                self.repair_the_sick();
            }
            let end = self.found.borrow_mut().end_slot();
            for core in self.cores() {
                // A core that is too busy misses the slot, and its shards are not judged in it.
                let _ = core.send(ToCore::EndSlot(Box::new(end.clone())));
            }
        }
    }

    /// Handles what the shards of a data core showed in a slot.
    pub(super) fn slot_ended(&self, report: SlotReport) {
        if self.live().watchdog != Watchdog::Off {
            self.found.borrow_mut().take(report, self.now(), &mut self.feed.borrow_mut());
        }
    }

    fn repair_the_sick(&self) {
        let now = self.now();
        let Some(recommended) = self.gateway.borrow().as_ref().map(|info| info.shards) else { return };
        let shards = self.config.shard_range(recommended).map_or(0, |range| range.len());
        let left = self.queue.borrow().as_ref().map_or(0, super::IdentifyQueue::remaining);
        let Found { sick, repairs, .. } = &mut *self.found.borrow_mut();
        for shard in sick.keys() {
            let Some(repair) = repairs.next(now, *shard, shards, left) else { continue };
            let Some(core) = self.core_of(*shard) else { continue };
            let text = match repair {
                Repair::Reconnect => "the watchdog makes it reconnect and resume",
                Repair::Identify => "the watchdog makes it begin a new session, because a RESUME has not helped",
            };
            tracing::warn!(shard, "{text}");
            self.feed.borrow_mut().note(now, Some(*shard), text);
            if core.send(ToCore::Repair(*shard, repair, Reason::Watchdog)).is_err() {
                tracing::warn!(shard, "the shard's core is too busy to repair it");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{control::feed::FeedEvent, protocol::event::EventKind};

    fn report(core: usize, slot: u64, sick: &[(u32, Ailment)]) -> SlotReport {
        let finding = |ailment| Finding { ailment, silent: SLOT * 24 };
        let sick = sick.iter().map(|(shard, ailment)| (*shard, finding(*ailment))).collect();
        SlotReport { core, slot, pulse: Pulse::default(), sick }
    }

    #[test]
    fn a_finding_is_told_once_and_its_end_too() {
        let (mut found, mut feed) = (Found::default(), Feed::default());
        let lacks = Ailment::None(EventKind::MessageCreate);
        for (core, sick) in [
            (1, &[(7, Ailment::NoEvents)][..]),
            (1, &[(7, Ailment::NoEvents)]),
            (0, &[(2, lacks)]),
            (1, &[(7, lacks)]),
            (1, &[]),
        ] {
            let slot = found.end_slot().slot;
            found.take(report(core, slot, sick), Time::ZERO, &mut feed);
        }
        let notes = feed.entries().map(|entry| match &entry.event {
            FeedEvent::Note { shard, text } => format!("{}: {text}", shard.expect("a shard")),
            other => panic!("{other:?}"),
        });
        assert_eq!(
            notes.collect::<Vec<_>>(),
            [
                "7: the watchdog: no events for 6 min, which is not usual",
                "2: the watchdog: no MESSAGE_CREATE for 6 min, which is not usual",
                "7: the watchdog: no MESSAGE_CREATE for 6 min, which is not usual",
                "7: the watchdog finds nothing wrong any more",
            ]
        );
        assert_eq!((found.of(2), found.of(7), found.counts()), (Some(lacks), None, (3, [0, 0])));
        found.rest();
        assert_eq!(found.of(2), None);
    }
}
