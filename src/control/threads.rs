//! The threads for blocking work: one waits for signals, one sends GET `/gateway/bot`, and some wait for the external
//! queue. Each sends its results to the control core, and runs until the process ends.

use super::{Event, Failure, external_queue::ExternalQueue, rest::Rest, spawn::spawn};
use crate::{
    config::Config,
    net::{hosts::Hosts, mailbox::Postbox},
};
use crossbeam_channel::Sender;
use signal_hook::iterator::Signals;
use std::time::Duration;

/// The means to give the threads work.
pub struct Threads {
    /// Orders a GET `/gateway/bot` after this time.
    pub ask_rest: Sender<Duration>,
    /// The external queue; `None`: the configuration has none.
    pub external_queue: Option<ExternalQueue>,
}

/// Starts the threads. The error names the one that can not be started.
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
