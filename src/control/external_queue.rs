//! Asks for IDENTIFY permits at a queue that several proxies of one bot share (`identify_queue`), because Discord
//! counts the IDENTIFYs of all of them together. The queue speaks the protocol of twilight's HTTP queue: a GET with
//! `shard=<id>`, whose answer is the permit.
//!
//! A shard gets a permit of the proxy's own queue first and asks here with it. Each answer may take as long as the
//! other proxies have shards to start, so threads of this module wait for the answers.
//!
//! Promises: a shard gets no permit without an answer of the queue with a status of 2xx. A request that fails is
//! repeated until the queue answers, and the log and `/health` report the failure. Bounded: [`WORKERS`] requests at a
//! time, and one waiting request for each shard.

use super::{
    Event,
    queue_connection::{CONNECT_LIMIT, QueueConnector},
};
use crate::net::mailbox::Postbox;
use crossbeam_channel::{Receiver, Sender};
use std::{cell::RefCell, collections::BTreeSet, time::Duration};
use ureq::{
    Agent,
    unversioned::{
        resolver::DefaultResolver,
        transport::{Connector, RustlsConnector},
    },
};

/// Requests at a time; further shards wait until a thread is free. Discord lets this many shards of a large bot
/// identify at once.
const WORKERS: usize = 16;
/// Longest wait for an answer. When the budget of the day is used up, the permit may be hours away. A request that
/// times out is repeated. When the queue's machine does not answer any more, the connection ends much sooner
/// ([`super::queue_connection`]).
const PATIENCE: Duration = Duration::from_secs(3600);
/// First and longest wait before a failed request is repeated. The wait doubles with each failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// The external queue: the threads that ask it, and the shards that wait for its permits.
pub struct ExternalQueue {
    ask: Sender<u32>,
    /// Shards that wait for an answer.
    asked: RefCell<BTreeSet<u32>>,
}

impl ExternalQueue {
    /// Starts the threads. They report their results as [`Event::Permit`] and [`Event::QueueFailed`].
    pub fn start(url: &str, events: &Postbox<Event>) -> Result<Self, super::Failure> {
        let (ask, shards) = crossbeam_channel::unbounded();
        for _ in 0..WORKERS {
            let worker = Worker { url: url.to_owned(), events: events.clone(), shards: shards.clone(), agent: agent() };
            super::spawn::spawn("identify-queue", move || worker.run())?;
        }
        Ok(Self { ask, asked: RefCell::default() })
    }

    /// Asks for a permit for a shard, unless the shard waits for one already.
    pub fn ask(&self, shard: u32) {
        if self.asked.borrow_mut().insert(shard) {
            let _ = self.ask.send(shard);
        }
    }

    /// Says whether a shard waits for an answer of the queue.
    pub fn is_asking(&self, shard: u32) -> bool {
        self.asked.borrow().contains(&shard)
    }

    /// Notes that the queue has granted a permit to a shard.
    pub fn answered(&self, shard: u32) {
        self.asked.borrow_mut().remove(&shard);
    }

    /// How many shards wait for an answer.
    pub fn waiting(&self) -> usize {
        self.asked.borrow().len()
    }
}

fn agent() -> Agent {
    let config =
        super::rest::agent_builder().timeout_global(Some(PATIENCE)).timeout_connect(Some(CONNECT_LIMIT)).build();
    Agent::with_parts(config, QueueConnector.chain(RustlsConnector::default()), DefaultResolver::default())
}

/// A request to the queue at `url` has failed.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {source}")]
pub struct QueueError {
    url: String,
    source: RequestError,
}

/// Why a request to the queue has failed.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error(transparent)]
    Http(#[from] ureq::Error),
    #[error("status {0}")]
    Status(u16),
}

/// A thread that sends requests, one at a time.
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
                    Err(source) => Event::QueueFailed(QueueError { url: self.url.clone(), source }),
                };
                let is_permit = matches!(event, Event::Permit(_));
                let mut unsent = self.events.send(event);
                while let Err(event) = unsent {
                    // The mailbox of the control core is full. A permit that the queue has granted must not be lost, so
                    // it is sent again.
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

    fn get(&self, shard: u32) -> Result<(), RequestError> {
        let status = self.agent.get(format!("{}/?shard={shard}", self.url)).call()?.status();
        if status.is_success() { Ok(()) } else { Err(RequestError::Status(status.as_u16())) }
    }
}
