//! Decides when a sick shard is repaired, with `"watchdog": "reconnect"`: first by a RESUME, then by an IDENTIFY.
//!
//! Promises: a shard is resumed, gets [`VERIFY`] to show events, is then identified at most once, and is left alone for
//! [`REST`]. All shards together get at most one repair in twenty ([`PART`]), or one, within [`REST_OF_ALL`]. An
//! IDENTIFY is used only if as many are left afterwards as the proxy has shards, so that a start without state files
//! stays possible. Pure. Bounded by the number of shards.

use crate::{data_core::Repair, protocol::Time};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// How long a shard has after a RESUME to get events again before it is identified.
pub const VERIFY: Duration = Duration::from_secs(300);
/// How long a shard is left alone after its last repair.
pub const REST: Duration = Duration::from_secs(6 * 3600);
/// The time within which the repairs of all shards are counted.
pub const REST_OF_ALL: Duration = Duration::from_secs(3600);
/// One repair for each so many shards is allowed within [`REST_OF_ALL`], and at least one.
pub const PART: usize = 20;

/// The last repair of a shard.
#[derive(Clone, Copy)]
struct Last {
    at: Time,
    repair: Repair,
}

/// See the module's description.
#[derive(Default)]
pub struct Repairs {
    last: BTreeMap<u32, Last>,
    /// When the repairs of all shards within [`REST_OF_ALL`] were made, oldest first.
    recent: VecDeque<Time>,
    /// Number of repairs so far: RESUMEs and IDENTIFYs.
    pub made: [u64; 2],
}

impl Repairs {
    /// The repair to make now for a shard that is sick; `None`: none now. The caller makes it. `shards` is the number
    /// of shards of the proxy, `identifies` the number of IDENTIFYs that are left.
    pub fn next(&mut self, now: Time, shard: u32, shards: usize, identifies: u32) -> Option<Repair> {
        let since = |at: Time| now.saturating_sub(at);
        let repair = match self.last.get(&shard) {
            Some(last) if since(last.at) >= REST => Repair::Reconnect,
            Some(Last { at, repair: Repair::Reconnect }) if since(*at) >= VERIFY => Repair::Identify,
            Some(_) => return None,
            None => Repair::Reconnect,
        };
        while self.recent.front().is_some_and(|at| since(*at) >= REST_OF_ALL) {
            self.recent.pop_front();
        }
        let affordable = repair == Repair::Reconnect || identifies as usize > shards;
        // The IDENTIFY after a RESUME belongs to the same repair.
        let free = repair == Repair::Identify || self.recent.len() < (shards / PART).max(1);
        if !affordable || !free {
            return None;
        }
        if repair == Repair::Reconnect {
            self.recent.push_back(now);
        }
        self.made[usize::from(repair == Repair::Identify)] += 1;
        self.last.insert(shard, Last { at: now, repair });
        Some(repair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Repair::{Identify, Reconnect};

    const START: Time = Time::from_secs(100);

    #[test]
    fn a_shard_is_resumed_then_identified_then_left_alone() {
        let mut repairs = Repairs::default();
        let mut made = Vec::new();
        for minute in 0..24 * 60 {
            let now = START + Duration::from_secs(60) * minute;
            made.extend(repairs.next(now, 7, 100, 1000).map(|repair| (minute, repair)));
        }
        let day = [(0, Reconnect), (5, Identify), (365, Reconnect), (370, Identify), (730, Reconnect), (735, Identify)];
        assert_eq!(made[..6], day);
        assert_eq!((made.len(), repairs.made), (8, [4, 4]));
    }

    #[test]
    fn a_shard_that_falls_ill_again_after_a_resume_is_identified() {
        let mut repairs = Repairs::default();
        assert_eq!(repairs.next(START, 7, 100, 1000), Some(Reconnect));
        // The shard was well in between, so nobody asked.
        assert_eq!(repairs.next(START + 2 * REST_OF_ALL, 7, 100, 1000), Some(Identify));
    }

    #[test]
    fn few_shards_are_repaired_at_a_time() {
        for (shards, allowed) in [(1, 1), (19, 1), (100, 5), (1000, 50)] {
            let mut repairs = Repairs::default();
            let made = |repairs: &mut Repairs, now| {
                (0..shards as u32).filter(|shard| repairs.next(now, *shard, shards, 9999) == Some(Reconnect)).count()
            };
            assert_eq!(made(&mut repairs, START), allowed, "{shards} shards");
            assert_eq!(made(&mut repairs, START + VERIFY - Duration::from_secs(1)), 0, "{shards} shards");
            let again = made(&mut repairs, START + REST_OF_ALL);
            assert_eq!(again, allowed.min(shards - allowed), "{shards} shards");
        }
    }

    #[test]
    fn the_budget_keeps_one_identify_for_each_shard() {
        let mut repairs = Repairs::default();
        assert_eq!(repairs.next(START, 7, 100, 0), Some(Reconnect), "a RESUME costs none");
        let now = START + VERIFY;
        assert_eq!(repairs.next(now, 7, 100, 100), None);
        assert_eq!(repairs.next(now, 7, 100, 101), Some(Identify));
    }
}
