//! The event log of one shard: the only copy of the events that are relayed to clients.
//!
//! The log is an append-only ring. Every event has a position, one higher than the event before it. A client's
//! session is a cursor: the position that the session reads next. An entry is the text of a dispatch without the
//! digits of its sequence, because every session has its own numbers. Sending an event to a client is two copies with
//! the digits in between.
//!
//! Promises: an entry never changes; events are dropped from the oldest end only; memory is at most [`Limits::bytes`]
//! plus one segment, except that the newest [`Limits::entries`] events are kept beyond that, up to [`MOST_BYTES`].
//!
//! Never: knows its readers, parses an event, or looks at a clock.

use crate::protocol::{event::Meta, payload};
use std::collections::VecDeque;

/// How many events are kept for sessions that lag.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most bytes of events (config key `resume_buffer`).
    pub bytes: usize,
    /// Number of newest events that are kept even beyond `bytes` (config key `backpressure`).
    pub entries: usize,
}

/// Most bytes of the log when the newest [`Limits::entries`] events exceed [`Limits::bytes`]: twice the largest
/// payload. The newest event is always kept.
pub const MOST_BYTES: usize = if cfg!(test) { 4 << 20 } else { 512 << 20 };
/// Size of a segment in bytes. Entries share segments; an entry that is larger has a segment of its own.
const SEGMENT_BYTES: usize = 64 << 10;

/// One event, borrowed from the log.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The position of the event.
    pub position: u64,
    /// What the log knows about the event besides its text.
    pub meta: Meta,
    /// The text before the digits of the sequence.
    pub prefix: &'a [u8],
    /// The text after the digits of the sequence.
    pub suffix: &'a [u8],
}

impl<'a> Entry<'a> {
    /// The event type as Discord wrote it.
    pub fn name(&self) -> &'a [u8] {
        payload::name_in_prefix(self.prefix)
    }

    /// The text of the event's data.
    pub fn data(&self) -> &'a [u8] {
        &self.suffix[payload::DISPATCH_MIDDLE.len()..self.suffix.len() - 1]
    }
}

#[derive(Clone, Copy)]
struct Slot {
    start: u32,
    middle: u32,
    end: u32,
    meta: Meta,
}

struct Segment {
    /// Position of the first entry.
    first: u64,
    slots: Vec<Slot>,
    bytes: Vec<u8>,
}

impl Segment {
    /// The entries of the segment without the first `skipped` ones.
    fn entries(&self, skipped: usize) -> impl Iterator<Item = Entry<'_>> {
        let slots = self.slots.get(skipped..).unwrap_or_default();
        slots.iter().zip(self.first + skipped as u64..).map(|(slot, position)| Entry {
            position,
            meta: slot.meta,
            prefix: &self.bytes[slot.start as usize..slot.middle as usize],
            suffix: &self.bytes[slot.middle as usize..slot.end as usize],
        })
    }
}

/// The event log of one shard. See the module's description.
pub struct Log {
    segments: VecDeque<Segment>,
    /// Position that the next event will get.
    next: u64,
    /// Bytes that all segments have allocated.
    bytes: usize,
    limits: Limits,
    /// The memory of a segment that was dropped, for the next segment. So a steady stream of events does not
    /// allocate.
    spare: Option<Segment>,
}

impl Log {
    /// Makes an empty log. Positions start at 1, so 0 is before every event.
    pub fn new(limits: Limits) -> Self {
        Self { segments: VecDeque::new(), next: 1, bytes: 0, limits, spare: None }
    }

    /// Sets other limits. Events that exceed them are dropped when later events are appended.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Position that the next event will get.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Position of the oldest event in the log; [`Log::next`] when the log is empty.
    pub fn oldest(&self) -> u64 {
        self.segments.front().map_or(self.next, |segment| segment.first)
    }

    /// Sets the position of the next event in an empty log.
    pub fn start_at(&mut self, position: u64) {
        assert!(self.is_empty(), "events keep their positions");
        self.next = position;
    }

    /// Bytes that the log has allocated, used or not.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of events in the log.
    pub fn len(&self) -> usize {
        (self.next - self.oldest()) as usize
    }

    /// Says whether the log has no event.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Counts an event without storing it, because no session could read it. All older events are dropped too.
    pub fn skip(&mut self) {
        self.next += 1;
        self.trim(self.next);
    }

    /// Returns whether the log still has its newest [`Limits::entries`] events after a dispatch is appended whose type and
    /// data have this many bytes together.
    pub fn keeps_newest(&self, bytes: usize) -> bool {
        self.bytes + bytes + SEGMENT_BYTES <= MOST_BYTES
    }

    /// Appends a dispatch of type `name` with the text `data`. Returns its position.
    pub fn append(&mut self, name: &[u8], data: &[u8], meta: Meta) -> u64 {
        // The keys and punctuation around the type and the data are 24 bytes.
        let size = name.len() + data.len() + 32;
        assert!(size <= u32::MAX as usize, "the message limit of the upstream connection is far below 4 GiB");
        let fits = self.segments.back().is_some_and(|last| last.bytes.capacity() - last.bytes.len() >= size);
        if !fits {
            let segment = self.new_segment(size);
            self.bytes += segment.bytes.capacity();
            self.segments.push_back(segment);
            self.enforce();
        }
        let segment = self.segments.back_mut().expect("there is one with room");
        let start = segment.bytes.len();
        payload::write_dispatch_prefix(&mut segment.bytes, name);
        let middle = segment.bytes.len();
        segment.bytes.extend_from_slice(payload::DISPATCH_MIDDLE);
        segment.bytes.extend_from_slice(data);
        segment.bytes.push(b'}');
        let end = segment.bytes.len();
        debug_assert!(end - start <= size);
        segment.slots.push(Slot { start: start as u32, middle: middle as u32, end: end as u32, meta });
        self.next += 1;
        self.next - 1
    }

    fn new_segment(&mut self, size: usize) -> Segment {
        match self.spare.take() {
            Some(mut spare) if size <= SEGMENT_BYTES => {
                spare.first = self.next;
                spare
            }
            spare => {
                self.spare = spare;
                Segment { first: self.next, slots: Vec::new(), bytes: Vec::with_capacity(size.max(SEGMENT_BYTES)) }
            }
        }
    }

    /// Drops the oldest segments while the log is too large, but none that has one of the newest `entries` events, as
    /// long as the whole log is within [`MOST_BYTES`].
    fn enforce(&mut self) {
        while self.bytes > self.limits.bytes && self.segments.len() > 1 {
            let is_wanted = self.next - self.segments[1].first < self.limits.entries as u64;
            if is_wanted && self.bytes <= MOST_BYTES {
                break;
            }
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some(mut segment) = self.segments.pop_front() else { return };
        self.bytes -= segment.bytes.capacity();
        if self.spare.is_none() && segment.bytes.capacity() == SEGMENT_BYTES {
            segment.bytes.clear();
            segment.slots.clear();
            self.spare = Some(segment);
        }
    }

    /// Drops the segments that have only events older than `position`, which no session needs any more.
    pub fn trim(&mut self, position: u64) {
        while let Some(first) = self.segments.front() {
            if first.first + first.slots.len() as u64 > position {
                break;
            }
            self.drop_oldest();
        }
    }

    /// Frees the spare segment, for a log without traffic.
    pub fn release(&mut self) {
        self.spare = None;
    }

    /// Returns the events from `position` on, in order. `None`: the event at `position` has been dropped, or
    /// `position` is beyond the next event.
    pub fn read(&self, position: u64) -> Option<impl Iterator<Item = Entry<'_>>> {
        if position < self.oldest() || position > self.next {
            return None;
        }
        let index = self.segments.partition_point(|segment| segment.first <= position).saturating_sub(1);
        let mut segments = self.segments.range(index.min(self.segments.len())..);
        let first = segments.next().map(|segment| segment.entries((position - segment.first) as usize));
        Some(first.into_iter().flatten().chain(segments.flat_map(|segment| segment.entries(0))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::event::EventKind;
    use proptest::prelude::*;

    const META: Meta = Meta { kind: EventKind::Other, changed_guild: None, recipient: None };

    fn log(bytes: usize, entries: usize) -> Log {
        Log::new(Limits { bytes, entries })
    }

    #[test]
    fn other_limits_hold_for_what_comes() {
        let mut log = log(1 << 20, 1);
        let data = vec![b'x'; 10_000];
        (0..50).for_each(|_| assert!(log.append(b"X", &data, META) > 0));
        assert_eq!(log.len(), 50);
        log.set_limits(Limits { bytes: 128 << 10, entries: 1 });
        (0..10).for_each(|_| assert!(log.append(b"X", &data, META) > 0));
        assert!(log.bytes() <= 192 << 10 && log.len() < 20, "{} bytes, {} events", log.bytes(), log.len());
        log.set_limits(Limits { bytes: 128 << 10, entries: 40 });
        (0..50).for_each(|_| assert!(log.append(b"X", &data, META) > 0));
        assert!(log.len() >= 40, "{} events", log.len());
    }

    fn positions(log: &Log, from: u64) -> Option<Vec<u64>> {
        log.read(from).map(|entries| entries.map(|entry| entry.position).collect())
    }

    #[test]
    fn an_entry_is_the_dispatch_without_its_sequence() {
        let mut log = log(1 << 20, 10);
        let position = log.append(b"MESSAGE_CREATE", br#"{"id":"1"}"#, META);
        let entry = log.read(position).unwrap().next().unwrap();
        let text = [entry.prefix, b"77", entry.suffix].concat();
        assert_eq!(text, br#"{"t":"MESSAGE_CREATE","s":77,"op":0,"d":{"id":"1"}}"#);
        assert_eq!((entry.name(), entry.data()), (&b"MESSAGE_CREATE"[..], &br#"{"id":"1"}"#[..]));
    }

    #[test]
    fn the_newest_entries_stay_however_large() {
        let mut log = log(100 << 10, 5);
        let big = vec![b'1'; 200 << 10];
        for _ in 0..20 {
            log.append(b"X", &big, META);
        }
        assert_eq!(positions(&log, 16).unwrap(), (16..=20).collect::<Vec<_>>());
        assert!(log.len() <= 6, "{}", log.len());
    }

    #[test]
    fn large_events_are_bounded_however_many_are_wanted() {
        let mut log = log(100 << 10, 1 << 16);
        let big = vec![b'1'; 300 << 10];
        for _ in 0..100 {
            log.append(b"X", &big, META);
            assert!(log.bytes() <= MOST_BYTES, "{}", log.bytes());
        }
        assert!(log.len() > 10, "{}", log.len());
        // An event that is larger than the limit is kept until the next event.
        let position = log.append(b"X", &vec![b'1'; MOST_BYTES + 1], META);
        assert_eq!(positions(&log, position), Some(vec![position]));
    }

    #[test]
    fn bytes_are_bounded_for_small_entries() {
        let mut log = log(1 << 20, 5);
        for _ in 0..100_000 {
            log.append(b"X", &[b'1'; 300], META);
            assert!(log.bytes() <= (1 << 20) + SEGMENT_BYTES);
        }
        assert!(log.len() > 2_000);
        assert_eq!(positions(&log, log.oldest() - 1), None);
    }

    #[test]
    fn skipped_events_count_and_cost_nothing() {
        let mut log = log(1 << 20, 5);
        log.append(b"X", b"1", META);
        log.skip();
        assert_eq!((log.next(), log.len(), log.bytes()), (3, 0, 0));
        assert_eq!(positions(&log, 2), None);
        assert_eq!(positions(&log, 3), Some(vec![]));
        assert_eq!(positions(&log, 4), None);
        assert_eq!(log.append(b"X", b"1", META), 3);
        assert_eq!(positions(&log, 3), Some(vec![3]));
    }

    proptest! {
        /// The log is the tail of the list of all events, whatever is appended, skipped and trimmed.
        #[test]
        fn it_is_a_tail(steps in prop::collection::vec((0u8..10, 1usize..90_000), 1..200), bytes in 0usize..400_000, keep in 0usize..20) {
            let mut log = log(bytes, keep);
            let mut model: Vec<(u64, usize)> = Vec::new();
            let mut skipped = 0;
            for (what, size) in steps {
                match what {
                    0 => { log.skip(); skipped = log.next(); }
                    1 => {
                        let before = log.oldest();
                        let target = before + size as u64 % 30;
                        log.trim(target);
                        prop_assert!(log.oldest() <= target.max(before));
                    }
                    _ => {
                        let size = if what < 8 { size % 2_000 } else { size };
                        let position = log.append(b"T", &vec![b'x'; size], META);
                        model.push((position, size));
                        prop_assert!(log.len() >= keep.min(1));
                    }
                }
                let oldest = log.oldest();
                prop_assert!(oldest >= skipped);
                let tail: Vec<(u64, usize)> = model.iter().copied().filter(|entry| entry.0 >= oldest).collect();
                let read: Vec<(u64, usize)> = log.read(oldest).unwrap().map(|entry| (entry.position, entry.data().len())).collect();
                prop_assert_eq!(&read, &tail);
                if let Some(&(middle, _)) = tail.get(tail.len() / 2) {
                    let read: Vec<u64> = log.read(middle).unwrap().map(|entry| entry.position).collect();
                    prop_assert_eq!(read.len() as u64, log.next() - middle);
                }
            }
        }
    }
}
