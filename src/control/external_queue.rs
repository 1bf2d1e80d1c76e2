//! A queue for IDENTIFYs that several proxies of one bot share (`identify_queue`), because Discord counts the IDENTIFYs of all of
//! them. It speaks the protocol of twilight's HTTP queue: GET with `shard=<id>`, and the answer is the permit.
//!
//! The own queue comes first, so that a shard asks here only when this proxy would let it go. Threads of this module wait for
//! the answers, because each may take as long as the other proxies have shards to start.
//!
//! Promises: no permit without an answer of the queue with a status of 2xx; a queue that is away is asked again until it answers,
//! and the log and `/health` say so. Bounded: [`WORKERS`] requests at a time, and each shard waits here once at most.

use super::Event;
use crate::net::mailbox::Postbox;
use crossbeam_channel::{Receiver, Sender};
use std::{cell::RefCell, collections::BTreeSet, time::Duration};
use ureq::Agent;

/// Requests at a time; more shards wait for their turn. Discord lets that many shards of a large bot identify at once.
const WORKERS: usize = 16;
/// Longest wait for an answer. The permit may be hours away when the budget of the day is used up, so the shard asks again then.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// First and longest wait before a queue that is away is asked again.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// See the module's description.
pub struct ExternalQueue {
    ask: Sender<u32>,
    /// Shards that wait for an answer.
    asked: RefCell<BTreeSet<u32>>,
}

impl ExternalQueue {
    /// Starts the threads. Their answers come as [`Event::Permit`] and [`Event::QueueAway`].
    pub fn start(url: &str, events: &Postbox<Event>) -> Result<Self, super::Failure> {
        let (ask, shards) = crossbeam_channel::unbounded();
        for _ in 0..WORKERS {
            let worker = Worker { url: url.to_owned(), events: events.clone(), shards: shards.clone(), agent: agent() };
            super::threads::spawn("identify-queue", move || worker.run())?;
        }
        Ok(Self { ask, asked: RefCell::default() })
    }

    /// A shard wants a permit. Asking twice is asking once.
    pub fn ask(&self, shard: u32) {
        if self.asked.borrow_mut().insert(shard) {
            let _ = self.ask.send(shard);
        }
    }

    /// Does a shard wait for an answer?
    pub fn is_asking(&self, shard: u32) -> bool {
        self.asked.borrow().contains(&shard)
    }

    /// The queue has let a shard go.
    pub fn answered(&self, shard: u32) {
        self.asked.borrow_mut().remove(&shard);
    }

    /// How many shards wait for an answer.
    pub fn waiting(&self) -> usize {
        self.asked.borrow().len()
    }
}

fn agent() -> Agent {
    super::rest::agent_builder().timeout_global(Some(PATIENCE)).timeout_connect(Some(CONNECT_LIMIT)).build().new_agent()
}

/// One of the threads.
struct Worker {
    url: String,
    events: Postbox<Event>,
    shards: Receiver<u32>,
    agent: Agent,
}

impl Worker {
    fn run(self) {
        for shard in &self.shards {
            let mut wait = BACKOFF.0;
            loop {
                let event = match self.get(shard) {
                    Ok(()) => Event::Permit(shard),
                    Err(what) => Event::QueueAway(format!("{}: {what}", self.url)),
                };
                let is_permit = matches!(event, Event::Permit(_));
                let mut unsent = self.events.send(event);
                while let Err(event) = unsent {
                    // The control core is busy: a permit that the queue has given must not be lost.
                    std::thread::sleep(BACKOFF.0);
                    unsent = self.events.send(event);
                }
                if is_permit {
                    break;
                }
                std::thread::sleep(wait);
                wait = (wait * 2).min(BACKOFF.1);
            }
        }
    }

    fn get(&self, shard: u32) -> Result<(), String> {
        let answer =
            self.agent.get(format!("{}/?shard={shard}", self.url)).call().map_err(|error| error.to_string())?;
        let status = answer.status();
        if status.is_success() { Ok(()) } else { Err(format!("status {}", status.as_u16())) }
    }
}
