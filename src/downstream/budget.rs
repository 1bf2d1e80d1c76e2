//! The memory that the connections of clients may take: those of all clients of the process together (config key
//! `client_memory`), and those of the clients of one source address (`client_memory_per_address`).
//!
//! Counted are compressors, bytes that wait to be sent, and a fixed amount for each client. Not counted are the events
//! that wait in the logs of the shards, which have their own bounds, and the buffers of the kernel.
//!
//! Promises: a client that would exceed the budget of the process or that of its source is refused. When the clients
//! that are connected grow beyond one of the two, those whom that budget is for, whose sockets are full and that have
//! more than [`STEP`] bytes waiting are dropped; their sessions stay and can be resumed. The count of a client is never
//! below its need and less than two [`STEP`]s above it. Only a change of the count touches memory that the cores share,
//! and only the arrival and the end of a client take a lock.

use super::source::Source;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

/// The count of a client in bytes is a multiple of this, so that most buffers come and go without a change of the
/// count.
pub const STEP: usize = 32 << 10;

/// Why a client is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The clients of the process take all that they may.
    #[error("the memory for clients (`client_memory`) is used up")]
    Process,
    /// The clients of the same source take all that they may.
    #[error("the memory for one address (`client_memory_per_address`) is used up")]
    Source,
}

/// What the clients of one source take.
#[derive(Debug)]
struct Account {
    source: Source,
    limit: usize,
    used: AtomicUsize,
}

/// An account, and the number of its clients that are connected or about to be.
#[derive(Debug)]
struct Entry {
    account: Arc<Account>,
    clients: usize,
}

/// The budget of the process. See the module's description.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: usize,
    /// The limit of one source that the operator has set; `None`: see [`MemoryBudget::new`].
    limit_of_sources: Option<usize>,
    used: AtomicUsize,
    /// The sources that have clients, at most as many as there are clients.
    accounts: Mutex<HashMap<Source, Entry>>,
    /// Clients that were refused, and clients that were dropped: for the budget of the process, for that of a source.
    refused: [AtomicU64; 2],
    dropped: [AtomicU64; 2],
}

/// What the sources with clients take, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Number of sources that have clients.
    pub count: usize,
    /// Bytes of the source that takes most.
    pub most: usize,
}

impl Default for MemoryBudget {
    /// Makes a budget without a limit.
    fn default() -> Self {
        Self::new(usize::MAX, Some(usize::MAX))
    }
}

impl MemoryBudget {
    /// Makes a budget of `limit` bytes. `limit_of_sources` is the limit of one source. By default it is three quarters
    /// of `limit`, so that the clients of one host leave room for others, and all of `limit` for the machine itself,
    /// where all clients may well be.
    pub fn new(limit: usize, limit_of_sources: Option<usize>) -> Self {
        let (used, accounts) = (AtomicUsize::new(0), Mutex::default());
        Self { limit, limit_of_sources, used, accounts, refused: Default::default(), dropped: Default::default() }
    }

    /// The most bytes that all clients may take together.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The most bytes that the clients of a source other than the machine itself may take together.
    pub fn limit_of_a_source(&self) -> usize {
        self.limit_of_sources.unwrap_or(self.limit / 4 * 3).min(self.limit)
    }

    /// Bytes that the clients are counted for now.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Number of clients that were refused so far for this reason.
    pub fn refused(&self, why: Refusal) -> u64 {
        self.refused[why as usize].load(Relaxed)
    }

    /// Number of clients that were dropped so far for this reason.
    pub fn dropped(&self, why: Refusal) -> u64 {
        self.dropped[why as usize].load(Relaxed)
    }

    /// Says whether the connected clients take more than the limit of the process.
    pub fn is_exceeded(&self) -> bool {
        self.used() > self.limit
    }

    /// What the sources take.
    pub fn sources(&self) -> Sources {
        let accounts = self.accounts();
        let most = accounts.values().map(|entry| entry.account.used.load(Relaxed)).max().unwrap_or(0);
        Sources { count: accounts.len(), most }
    }

    /// Counts a new client of `source` that needs `bytes` bytes. The error says which budget has no room for the
    /// client, which counts as refused.
    pub fn admit(self: &Arc<Self>, source: Source, bytes: usize) -> Result<Charge, Refusal> {
        let bytes = steps(bytes);
        let account = self.open(source);
        let before = self.used.fetch_add(bytes, Relaxed);
        let of_source = account.used.fetch_add(bytes, Relaxed);
        let source_limit = account.limit;
        let charge = Charge { budget: self.clone(), account, bytes };
        // Dropping the charge takes the bytes off again.
        let refusal = if before.saturating_add(bytes) > self.limit {
            Refusal::Process
        } else if of_source.saturating_add(bytes) > source_limit {
            Refusal::Source
        } else {
            return Ok(charge);
        };
        self.refused[refusal as usize].fetch_add(1, Relaxed);
        Err(refusal)
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Source, Entry>> {
        // The map is whole between any two statements that hold the lock, also after a panic.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, source: Source) -> Arc<Account> {
        let limit = match self.limit_of_sources {
            None if source.is_loopback() => self.limit,
            _ => self.limit_of_a_source(),
        };
        let mut accounts = self.accounts();
        let entry = accounts.entry(source).or_insert_with(|| Entry {
            account: Arc::new(Account { source, limit, used: AtomicUsize::new(0) }),
            clients: 0,
        });
        entry.clients += 1;
        entry.account.clone()
    }

    fn close(&self, source: Source) {
        let mut accounts = self.accounts();
        if let Some(entry) = accounts.get_mut(&source) {
            entry.clients -= 1;
            if entry.clients == 0 {
                accounts.remove(&source);
            }
        }
    }
}

fn steps(bytes: usize) -> usize {
    bytes.div_ceil(STEP) * STEP
}

/// The bytes that one client is counted for. Dropping the charge takes them off the budgets.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<MemoryBudget>,
    account: Arc<Account>,
    bytes: usize,
}

impl Charge {
    /// Reports that the client needs `bytes` bytes now.
    pub fn set(&mut self, bytes: usize) {
        let bytes = steps(bytes);
        for used in [&self.budget.used, &self.account.used] {
            if bytes > self.bytes {
                used.fetch_add(bytes - self.bytes, Relaxed);
            } else if bytes + STEP < self.bytes {
                used.fetch_sub(self.bytes - bytes, Relaxed);
            } else {
                return;
            }
        }
        self.bytes = bytes;
    }

    /// Says whether a client whose socket is full has to be dropped, which is then counted: more than [`STEP`] bytes
    /// are `waiting` for the client, and one of its budgets is exceeded, which is returned.
    pub fn must_go(&self, waiting: usize) -> Option<Refusal> {
        if waiting <= STEP {
            return None;
        }
        let why = if self.budget.is_exceeded() {
            Refusal::Process
        } else if self.account.used.load(Relaxed) > self.account.limit {
            Refusal::Source
        } else {
            return None;
        };
        self.budget.dropped[why as usize].fetch_add(1, Relaxed);
        Some(why)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
        self.account.used.fetch_sub(self.bytes, Relaxed);
        self.budget.close(self.account.source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn source(address: &str) -> Source {
        address.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn who_would_lead_beyond_it_is_not_let_in() {
        let own = source("127.0.0.1");
        let budget = Arc::new(MemoryBudget::new(10 * STEP, None));
        let mut first = budget.admit(own, 6 * STEP - 1).unwrap();
        let second = budget.admit(own, 4 * STEP).unwrap();
        assert_eq!(budget.admit(own, 1).unwrap_err(), Refusal::Process);
        assert!(!budget.is_exceeded());
        assert_eq!((budget.used(), budget.refused(Refusal::Process)), (10 * STEP, 1));
        drop(second);
        let third = budget.admit(own, 2 * STEP).unwrap();
        first.set(9 * STEP);
        assert!(budget.is_exceeded());
        assert_eq!((third.must_go(STEP + 1), third.must_go(STEP)), (Some(Refusal::Process), None));
        assert_eq!((budget.dropped(Refusal::Process), budget.dropped(Refusal::Source)), (1, 0));
        // The count does not fall for a difference of one step.
        first.set(8 * STEP);
        assert_eq!(budget.used(), 11 * STEP);
        first.set(STEP);
        assert_eq!(budget.used(), 3 * STEP);
        drop((first, third));
        assert_eq!((budget.used(), budget.sources()), (0, Sources::default()));
    }

    #[test]
    fn one_source_leaves_room_for_others() {
        let (greedy, modest) = (source("192.0.2.1"), source("192.0.2.2"));
        let budget = Arc::new(MemoryBudget::new(8 * STEP, None));
        assert_eq!(budget.limit_of_a_source(), 6 * STEP);
        let mut first = budget.admit(greedy, 4 * STEP).unwrap();
        assert_eq!(budget.admit(greedy, 3 * STEP).unwrap_err(), Refusal::Source);
        assert_eq!((budget.refused(Refusal::Source), budget.refused(Refusal::Process)), (1, 0));
        assert_eq!(budget.sources(), Sources { count: 1, most: 4 * STEP });
        let second = budget.admit(modest, STEP).unwrap();
        assert_eq!(budget.sources().count, 2);
        first.set(7 * STEP);
        assert_eq!((first.must_go(2 * STEP), second.must_go(2 * STEP)), (Some(Refusal::Source), None));
        drop(first);
        assert_eq!(budget.sources(), Sources { count: 1, most: STEP });
        // The machine itself may have everything, unless the operator has set a limit for all.
        assert!(budget.admit(source("::1"), 7 * STEP).is_ok());
        let budget = Arc::new(MemoryBudget::new(8 * STEP, Some(2 * STEP)));
        assert_eq!(budget.admit(source("127.0.0.1"), 3 * STEP).unwrap_err(), Refusal::Source);
        assert_eq!((budget.used(), budget.sources().count), (0, 0));
    }
}
