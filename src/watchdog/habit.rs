//! How regularly a shard gets one kind of event, and how long it has got none.
//!
//! A habit knows two things about the past: in what part of the slots the kind was heard, and the longest silence that
//! ended without the watchdog's or anybody else's reconnect. Counting slots and not events makes bursts harmless: ten
//! thousand reactions in one slot count as much as one.

/// Slots that the average of the past covers: an hour.
pub const MEMORY: u32 = 240;
/// A kind is usual when it was heard in this part of the slots. With random events that is nine events a minute.
pub const USUAL: f32 = 0.9;
/// Slots after which a silence is no longer called sick but usual: six hours. The habit is then learned anew.
pub const FORGET: u32 = 1440;
/// A silence of this many slots (half an hour) breaks [`Habit::unbroken`].
pub const BREAK: u32 = 120;
/// Slots after which the longest silence of the current period becomes that of the last period: three days.
pub const PERIOD: u32 = 17_280;

/// See the module's description.
#[derive(Clone, Copy, Debug, Default)]
pub struct Habit {
    /// The part of the slots in which the kind was heard, from 0 to 1. It does not change during a silence.
    share: f32,
    /// Slots since the kind was last heard.
    silent: u32,
    /// How many of these slots say how regular the kind is. The others are excused, for example by an outage.
    counted: u32,
    /// How many of these slots should have had the kind.
    missed: f32,
    /// The most missed slots of a silence that ended by itself, in the current period and in the last one.
    worst: [f32; 2],
    /// Slots since the last silence of [`BREAK`] slots; the current silence does not count.
    unbroken: u32,
    /// The shard has reconnected during the silence, so the silence does not end by itself.
    disturbed: bool,
    /// The silence was called sick. That lasts until the silence ends.
    sick: bool,
}

impl Habit {
    /// Says whether the kind is usual. `slots` is the number of slots that the shard was watched.
    pub fn is_usual(&self, slots: u32) -> bool {
        slots >= MEMORY && self.share >= USUAL
    }

    /// Slots since the kind was last heard.
    pub fn silent(&self) -> u32 {
        self.silent
    }

    /// How many of the silent slots should have had the kind.
    pub fn missed(&self) -> f32 {
        self.missed
    }

    /// Slots since the last long silence. The current silence does not count.
    pub fn unbroken(&self) -> u32 {
        self.unbroken
    }

    /// The most missed slots of a silence that ended by itself within three to six days.
    pub fn worst(&self) -> f32 {
        self.worst[0].max(self.worst[1])
    }

    /// Whether the current silence is called sick.
    pub fn is_sick(&self) -> bool {
        self.sick
    }

    /// Calls the current silence sick, until it ends.
    pub fn call_sick(&mut self) {
        self.sick = true;
    }

    /// The shard has reconnected.
    pub fn disturb(&mut self) {
        self.disturbed = self.silent > 0;
    }

    /// A period of [`PERIOD`] slots is over.
    pub fn turn_period(&mut self) {
        self.worst = [0.0, self.worst[0]];
    }

    /// The kind was heard in this slot, which is number `slots`.
    pub fn heard(&mut self, slots: u32) {
        let weight = 1.0 / slots.clamp(1, MEMORY) as f32;
        if self.silent > 0 {
            if !self.disturbed {
                self.worst[0] = self.worst[0].max(self.missed);
                self.unbroken = if self.silent >= BREAK { 0 } else { self.unbroken.saturating_add(self.silent) };
                self.share *= (1.0 - weight).powi(self.counted as i32);
            }
            (self.silent, self.counted, self.missed) = (0, 0, 0.0);
            (self.disturbed, self.sick) = (false, false);
        }
        self.share += weight * (1.0 - self.share);
        self.unbroken = self.unbroken.saturating_add(1);
    }

    /// The kind was not heard in this slot. `likely` is how likely it was that it would be, if the shard usually gets
    /// the kind in every slot: 1, or less if other shards get it less often than usual. `None`: the slot is excused, so
    /// nothing is learned from it.
    pub fn not_heard(&mut self, likely: Option<f32>) {
        self.silent += 1;
        self.counted += u32::from(likely.is_some());
        self.missed += self.share * likely.unwrap_or(0.0);
        if self.silent >= FORGET {
            *self = Self { worst: [self.worst[0].max(self.missed), self.worst[1]], ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_the_mean_of_the_last_hour() {
        let mut habit = Habit::default();
        for slot in 1..=1000 {
            if slot % 2 == 0 { habit.heard(slot) } else { habit.not_heard(Some(1.0)) }
        }
        assert!((habit.share - 0.5).abs() < 0.02, "{habit:?}");
        assert!(!habit.is_usual(1000) && habit.unbroken() == 1000);
        for slot in 1001..=1700 {
            habit.heard(slot);
        }
        assert!(habit.is_usual(1700) && !habit.is_usual(MEMORY - 1), "{habit:?}");
    }

    #[test]
    fn a_silence_counts_when_it_ends_and_not_when_a_reconnect_ended_it() {
        let mut habit = Habit::default();
        (1..=500).for_each(|slot| habit.heard(slot));
        let before = habit.share;
        (0..BREAK).for_each(|_| habit.not_heard(Some(1.0)));
        assert_eq!((habit.share, habit.silent(), habit.unbroken()), (before, BREAK, 500));
        assert!((habit.missed() - BREAK as f32 * before).abs() < 1.0);
        habit.call_sick();
        habit.heard(621);
        assert!(habit.share < before && !habit.is_sick() && habit.unbroken() == 1 && habit.worst() > 100.0);
        habit.turn_period();
        assert!(habit.worst() > 100.0, "it is remembered for a period more");
        habit.turn_period();
        assert_eq!(habit.worst(), 0.0);
        let (before, unbroken) = (habit.share, habit.unbroken());
        (0..BREAK).for_each(|_| habit.not_heard(Some(1.0)));
        habit.disturb();
        habit.heard(742);
        assert!(habit.share >= before && habit.worst() == 0.0 && habit.unbroken() == unbroken + 1, "{habit:?}");
    }

    #[test]
    fn nothing_is_learned_from_excused_slots() {
        let mut habit = Habit::default();
        (1..=500).for_each(|slot| habit.heard(slot));
        let before = habit.share;
        (0..BREAK).for_each(|_| habit.not_heard(None));
        assert_eq!((habit.missed(), habit.silent()), (0.0, BREAK));
        habit.heard(621);
        assert!(habit.share >= before && habit.unbroken() == 1, "{habit:?}");
    }

    #[test]
    fn a_silence_that_lasts_becomes_usual() {
        let mut habit = Habit::default();
        (1..=500).for_each(|slot| habit.heard(slot));
        habit.call_sick();
        (1..FORGET).for_each(|_| habit.not_heard(Some(1.0)));
        assert!(habit.is_sick() && habit.is_usual(2000));
        habit.not_heard(Some(1.0));
        assert!(!habit.is_sick() && !habit.is_usual(2000) && habit.silent() == 0, "{habit:?}");
        assert!(habit.worst() > 1000.0);
    }
}
