//! The life of the control core: it starts its tasks, handles what comes from other threads, and stops in order.
//!
//! Promises: the listening sockets close before the data cores stop, so that a client that reconnects reaches the next
//! process. The stop takes [`STOP_LIMIT`] at most, and a second signal ends it at once.

use super::{
    Control, DOOR_LIMIT, Event, Failure, Listeners, REST_BACKOFF, STOP_LIMIT,
    door::{self, RouteSet},
    rest::RestError,
    saved_gateway::SavedGateway,
    signals,
};
use crate::{
    data_core::{ToControl, ToCore},
    net::mailbox::{Mailbox, Postbox},
};
use glommio::net::TcpListener;
use std::{
    cell::Cell,
    os::fd::{FromRawFd, IntoRawFd},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

impl Control {
    pub(super) async fn main(
        self: Rc<Self>,
        listeners: Listeners,
        from_cores: Mailbox<ToControl>,
        mut inbox: Mailbox<Event>,
        events: Postbox<Event>,
        tls: Arc<rustls::ClientConfig>,
    ) -> Result<(), Failure> {
        let mut doors = Vec::new();
        let own = if listeners.admin.is_some() { RouteSet::Bots } else { RouteSet::All };
        let admin = listeners.admin.map(|listener| (listener, RouteSet::Operators));
        for (listener, routes) in [Some((listeners.bots, own)), admin].into_iter().flatten() {
            let (listener, stopper) = listener.split().map_err(Failure::Listener)?;
            // SAFETY: the descriptor is a listening stream socket whose ownership `into_raw_fd` has given up.
            let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
            doors.push((glommio::spawn_local(door::accept(self.clone(), listener, routes)), stopper));
        }
        let stopped = Rc::new(Cell::new(0));
        glommio::spawn_local(self.clone().receive_from_cores(from_cores, events, tls, stopped.clone())).detach();
        glommio::spawn_local(self.clone().pace_identifies()).detach();
        glommio::spawn_local(self.clone().tell_service_manager()).detach();
        glommio::spawn_local(self.clone().watch_shards()).detach();
        glommio::spawn_local(self.clone().every_second()).detach();
        let _ = self.ask_rest.try_send(Duration::ZERO);
        let end = self.serve(&mut inbox).await;
        if let Err(failure) = &end {
            tracing::error!("{failure}: the proxy stops; the sessions with Discord and with clients can be resumed");
        }
        self.stopping.set(true);
        self.tell_stopping();
        // The listening sockets close before the clients are disconnected, so that a client that reconnects reaches the
        // next process and not this one.
        for (door, stopper) in doors {
            stopper.stop();
            let _ = crate::net::within(DOOR_LIMIT, door).await;
        }
        for core in self.cores() {
            let _ = core.send(ToCore::Stop);
        }
        let all_stopped = async {
            while stopped.get() < self.cores().len() {
                glommio::timer::sleep(Duration::from_millis(10)).await;
            }
            true
        };
        let second_signal = async {
            while !matches!(inbox.receive().await, Event::Signal(signal) if signal != signals::RELOAD) {}
            false
        };
        let result = match crate::net::within(STOP_LIMIT, crate::net::race(all_stopped, second_signal)).await {
            Some(true) => {
                self.save_gateway();
                end
            }
            Some(false) => Err(Failure::SecondSignal),
            None => Err(Failure::StopTimeout),
        };
        self.end_service_manager();
        result
    }

    /// Handles answers of `/gateway/bot`, permits of the external queue, and signals, until the proxy has to end.
    /// Returns `Ok` when a signal asked for the end, and `Err` when the proxy can not go on. In both cases the caller
    /// leaves Discord's sessions and the clients' sessions in a state in which they can be resumed.
    async fn serve(&self, inbox: &mut Mailbox<Event>) -> Result<(), Failure> {
        let mut backoff = REST_BACKOFF.0;
        let mut saved = self.saved_gateway();
        loop {
            match inbox.receive().await {
                Event::Gateway(Ok(info)) => {
                    backoff = REST_BACKOFF.0;
                    saved = None;
                    *self.rest_failure.borrow_mut() = None;
                    self.apply_gateway_info(info)?;
                }
                Event::Gateway(Err(RestError::Unauthorized)) => {
                    return Err(Failure::Unauthorized);
                }
                Event::Gateway(Err(error)) => {
                    self.retry_rest(&error, backoff);
                    backoff = (backoff * 2).min(REST_BACKOFF.1);
                    if let Some(SavedGateway { url, shards }) = saved.take() {
                        tracing::warn!(
                            "starting without an answer of GET /gateway/bot: shards with a state file resume, the others wait for that answer"
                        );
                        self.start(url, shards, None)?;
                    }
                }
                Event::Failed(failure) => return Err(Failure::DataCoreFailed(failure)),
                Event::Permit(shard) => self.permitted(shard),
                Event::QueueFailed(error) => self.queue_failed(&error),
                Event::Signal(signals::RELOAD) => drop(self.reload("SIGHUP")),
                Event::Signal(signal) => {
                    tracing::info!(
                        "signal {signal}: the proxy stops; the sessions with Discord and with clients can be resumed"
                    );
                    return Ok(());
                }
            }
        }
    }
}
