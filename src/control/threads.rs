//! The threads beside the cores, which do what blocks: they wait for signals, for `GET /gateway/bot`, and for the external queue.
//! Each tells the control core what has come, and ends with the process.

use super::{Event, Failure, external_queue::ExternalQueue, hosts::Hosts, rest::Rest};
use crate::{config::Config, net::mailbox::Postbox};
use crossbeam_channel::Sender;
use signal_hook::iterator::Signals;
use std::time::Duration;

/// How the threads are asked for something.
pub struct Threads {
    /// Asks `/gateway/bot`, after this time.
    pub ask_rest: Sender<Duration>,
    /// The external queue, where the configuration has one.
    pub external_queue: Option<ExternalQueue>,
}

/// Starts them.
pub fn start(
    config: &Config,
    hosts: &Hosts,
    mut signals: Signals,
    events: &Postbox<Event>,
) -> Result<Threads, Failure> {
    let signal_events = events.clone();
    spawn("signals", move || {
        for signal in signals.forever() {
            if signal_events.send(Event::Signal(signal)).is_err() {
                std::process::exit(1);
            }
        }
    })?;
    let (ask_rest, asked) = crossbeam_channel::bounded::<Duration>(4);
    let rest = Rest::new(config.token.bare().into(), config.twilight_http_proxy.as_deref(), hosts.clone());
    let rest_events = events.clone();
    spawn("rest", move || {
        for wait in asked {
            std::thread::sleep(wait);
            if rest_events.send(Event::Gateway(rest.gateway())).is_err() {
                return;
            }
        }
    })?;
    let external_queue = config.identify_queue.as_deref().map(|url| ExternalQueue::start(url, events)).transpose()?;
    Ok(Threads { ask_rest, external_queue })
}

/// Starts a thread.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map(drop)
        .map_err(|error| Failure(format!("can not start thread {name}: {error}")))
}
