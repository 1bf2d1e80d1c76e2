//! A bounded number of places for connections and requests that have not shown a token, shared fairly between source
//! addresses.
//!
//! A new one is never refused: when all places are taken, the source with the most places loses its oldest one.
//! Connections and requests that do what a place is for leave it within milliseconds. A source that only occupies
//! places loses its own ones first. [`Places`] decides and is pure; [`Pool`] tells the holders.

use crate::{downstream::source::Source, protocol::Time};
use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
};

/// Id of a place.
type PlaceId = u64;

/// The places that are taken, by source.
struct Places {
    limit: usize,
    next: PlaceId,
    /// The places of each source, oldest first.
    by_source: HashMap<Source, BTreeSet<PlaceId>>,
    /// The number of places of each source. Among equal numbers, the source with the oldest place comes last.
    sizes: BTreeSet<(usize, Reverse<PlaceId>, Source)>,
    taken: usize,
}

impl Places {
    fn new(limit: usize) -> Self {
        Self { limit, next: 0, by_source: HashMap::new(), sizes: BTreeSet::new(), taken: 0 }
    }

    /// Takes a place. The second id is that of the place that was revoked for it.
    fn enter(&mut self, source: Source) -> (PlaceId, Option<PlaceId>) {
        let revoked = if self.taken >= self.limit { self.revoke() } else { None };
        let id = self.next;
        self.next += 1;
        self.change(source, |places| places.insert(id));
        self.taken += 1;
        (id, revoked)
    }

    /// Frees the oldest place of the source with the most places.
    fn revoke(&mut self) -> Option<PlaceId> {
        let &(_, Reverse(oldest), source) = self.sizes.last()?;
        self.leave(source, oldest);
        Some(oldest)
    }

    /// Frees a place; does nothing when the place is free already.
    fn leave(&mut self, source: Source, id: PlaceId) {
        if self.change(source, |places| places.remove(&id)) {
            self.taken -= 1;
        }
    }

    fn change(&mut self, source: Source, change: impl FnOnce(&mut BTreeSet<PlaceId>) -> bool) -> bool {
        let places = self.by_source.entry(source).or_default();
        let size = |places: &BTreeSet<PlaceId>| places.first().map(|oldest| (places.len(), Reverse(*oldest), source));
        if let Some(size) = size(places) {
            self.sizes.remove(&size);
        }
        let changed = change(places);
        match size(places) {
            Some(size) => drop(self.sizes.insert(size)),
            None => drop(self.by_source.remove(&source)),
        }
        changed
    }
}

/// Whether a place was revoked, and the task to wake when it is.
#[derive(Default)]
struct Holder {
    revoked: bool,
    waker: Option<Waker>,
}

/// Places, and the tasks that hold them.
pub struct Pool {
    places: RefCell<Places>,
    holders: RefCell<HashMap<PlaceId, Holder>>,
    revoked: RefCell<u64>,
}

impl Pool {
    /// A pool of this many places.
    pub fn new(limit: usize) -> Rc<Self> {
        let places = RefCell::new(Places::new(limit));
        Rc::new(Self { places, holders: RefCell::default(), revoked: RefCell::default() })
    }

    /// Takes a place for a task, and runs the task until it ends. When the place is revoked before, the task is dropped.
    /// A task that has dropped its [`Place`] itself runs to its end.
    pub fn run_unless_revoked<F: Future<Output = ()>>(
        self: Rc<Self>,
        source: Source,
        task: impl FnOnce(Place) -> F,
    ) -> impl Future<Output = ()> {
        let place = self.enter(source);
        let id = place.id;
        self.drop_when_revoked(id, task(place))
    }

    /// Takes a place. If all are taken, another place is revoked and its task is woken.
    fn enter(self: &Rc<Self>, source: Source) -> Place {
        let (id, revoked) = self.places.borrow_mut().enter(source);
        let mut holders = self.holders.borrow_mut();
        holders.insert(id, Holder::default());
        if let Some(holder) = revoked.and_then(|id| holders.get_mut(&id)) {
            *self.revoked.borrow_mut() += 1;
            holder.revoked = true;
            if let Some(waker) = holder.waker.take() {
                waker.wake();
            }
        }
        Place { pool: self.clone(), source, id }
    }

    /// Runs a task until it ends or this place is revoked.
    async fn drop_when_revoked(self: Rc<Self>, id: PlaceId, task: impl Future<Output = ()>) {
        let revoked = poll_fn(|cx| match self.holders.borrow_mut().get_mut(&id) {
            Some(Holder { revoked: true, .. }) => Poll::Ready(()),
            Some(holder) => {
                holder.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            None => Poll::Pending,
        });
        crate::net::race(task, revoked).await;
    }

    /// How many places are taken.
    pub fn taken(&self) -> usize {
        self.places.borrow().taken
    }

    /// How many places have been revoked since the start.
    pub fn revoked(&self) -> u64 {
        *self.revoked.borrow()
    }
}

/// A place that is taken. Dropping it frees the place.
pub struct Place {
    pool: Rc<Pool>,
    source: Source,
    id: PlaceId,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.places.borrow_mut().leave(self.source, self.id);
        self.pool.holders.borrow_mut().remove(&self.id);
    }
}

/// Limits how many times in a second each source may do something. Bounded: it remembers only the sources of the
/// current second.
pub struct Rate {
    limit: u32,
    second: u64,
    /// How many times each source has tried in this second.
    counts: HashMap<Source, u32>,
}

impl Rate {
    /// With this limit for each source and second.
    pub fn new(limit: u32) -> Self {
        Self { limit, second: 0, counts: HashMap::new() }
    }

    /// Counts an attempt of `source` at `now`, and says whether it is within the limit.
    pub fn allows(&mut self, source: Source, now: Time) -> bool {
        if self.second != now.as_secs() {
            self.second = now.as_secs();
            self.counts.clear();
        }
        let count = self.counts.entry(source).or_default();
        *count = count.saturating_add(1);
        *count <= self.limit
    }
}

/// Limits a log line to one a minute, for events that clients can cause as often as they like.
#[derive(Default)]
pub struct LogThrottle {
    next: Time,
    /// How many lines have been held back since the last one.
    held_back: u64,
}

impl LogThrottle {
    /// `Some`: the line may be written, with the number of lines held back before it. `None`: the line is held back.
    pub fn poll(&mut self, now: Time) -> Option<u64> {
        if now < self.next {
            self.held_back += 1;
            return None;
        }
        self.next = now + Time::from_secs(60);
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{future::pending, net::IpAddr, pin::pin, task::Context};

    fn source(address: &str) -> Source {
        address.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn who_has_most_gives_up_his_oldest() {
        let mut places = Places::new(3);
        let (greedy, modest) = (source("192.0.2.1"), source("192.0.2.2"));
        let first = places.enter(modest).0;
        let second = places.enter(greedy).0;
        let third = places.enter(greedy).0;
        assert_eq!(places.enter(greedy).1, Some(second));
        assert_eq!(places.enter(modest).1, Some(third));
        // Among sources with equal numbers of places, the oldest place is revoked.
        let stranger = places.enter(source("192.0.2.0"));
        assert_eq!(stranger.1, Some(first), "of {first} and those after it");
        places.leave(source("192.0.2.0"), stranger.0);
        places.leave(source("192.0.2.0"), stranger.0);
        assert_eq!((places.taken, places.enter(greedy).1), (2, None));
    }

    #[test]
    fn a_task_is_dropped_with_its_place_unless_it_has_left_the_place() {
        let pool = Pool::new(1);
        let mut context = Context::from_waker(Waker::noop());
        let is_alive = Rc::new(());
        let held = is_alive.clone();
        let mut holder = pin!(pool.clone().run_unless_revoked(source("192.0.2.1"), |place| async move {
            let _both = (place, held);
            pending::<()>().await;
        }));
        assert!(holder.as_mut().poll(&mut context).is_pending());
        // The next task takes the only place and leaves it, so its place is not revoked for the third task.
        let mut leaver = pin!(pool.clone().run_unless_revoked(source("192.0.2.2"), |place| async move {
            drop(place);
            pending::<()>().await;
        }));
        assert!(leaver.as_mut().poll(&mut context).is_pending());
        assert!(holder.as_mut().poll(&mut context).is_ready());
        assert_eq!((Rc::strong_count(&is_alive), pool.revoked(), pool.taken()), (1, 1, 0));
        let mut last = pin!(pool.clone().run_unless_revoked(source("192.0.2.3"), |place| async move { drop(place) }));
        assert!(last.as_mut().poll(&mut context).is_ready());
        assert!(leaver.as_mut().poll(&mut context).is_pending());
        assert_eq!((pool.revoked(), pool.taken()), (1, 0));
    }

    #[test]
    fn a_rate_is_for_each_source_and_second() {
        let mut rate = Rate::new(2);
        let (one, other) = (source("192.0.2.1"), source("192.0.2.2"));
        let at = Time::from_millis;
        assert!(rate.allows(one, at(5)) && rate.allows(one, at(900)) && !rate.allows(one, at(999)));
        assert!(rate.allows(other, at(999)));
        assert!(rate.allows(one, at(1000)));
    }

    #[test]
    fn one_line_a_minute() {
        let mut line = LogThrottle::default();
        let at = Time::from_secs;
        assert_eq!(line.poll(at(5)), Some(0));
        assert_eq!((line.poll(at(6)), line.poll(at(64))), (None, None));
        assert_eq!(line.poll(at(65)), Some(2));
        assert_eq!(line.poll(at(125)), Some(0));
    }

    proptest! {
        /// However places are taken and freed, there are never more than the limit, and the counts of `Places` agree
        /// with the places that the test holds. A place is revoked only when all places are taken. The source that
        /// loses a place had at least as many places as every other source, and at least its share, which is the limit
        /// divided by the number of sources.
        #[test]
        fn shares_are_fair(steps in prop::collection::vec((0u32..5, any::<bool>()), 1..200)) {
            const LIMIT: usize = 20;
            let mut places = Places::new(LIMIT);
            let mut held: Vec<(Source, PlaceId)> = Vec::new();
            for (address, enters) in steps {
                let source = Source::from(IpAddr::from(address.to_be_bytes()));
                if enters {
                    let (id, revoked) = places.enter(source);
                    prop_assert_eq!(revoked.is_some(), held.len() == LIMIT);
                    if let Some(revoked) = revoked {
                        let at = held.iter().position(|(_, id)| *id == revoked).expect("a place that is held");
                        let (loser, _) = held[at];
                        let count = |of: Source| held.iter().filter(|(source, _)| *source == of).count();
                        prop_assert!(count(loser) >= LIMIT / 5);
                        prop_assert!(held.iter().all(|(source, _)| count(*source) <= count(loser)));
                        held.remove(at);
                    }
                    held.push((source, id));
                } else if let Some(at) = held.iter().position(|(held, _)| *held == source) {
                    let (source, id) = held.remove(at);
                    places.leave(source, id);
                }
                prop_assert!(places.taken <= LIMIT);
                prop_assert_eq!(places.taken, held.len());
                prop_assert_eq!(places.sizes.iter().map(|(size, _, _)| size).sum::<usize>(), held.len());
            }
        }
    }
}
