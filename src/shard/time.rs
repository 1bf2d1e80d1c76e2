//! Does what is due at a shard because time has passed.
//!
//! [`Shard::deadline`] returns the next time, [`Shard::tick`] does what is due, and [`Shard::poll_due`] returns the
//! connections of the clients to serve. Calls at other times than the deadline are harmless; a late call does things
//! late.

use super::{HEARTBEAT_TIMEOUT, Shard, due::Reason};
use crate::protocol::{ConnectionId, Time, close::Close};
use std::time::Duration;

/// While the log has events, the shard drops those that no client needs this often, and the cache applies the events
/// that wait.
pub const MAINTENANCE_INTERVAL: Duration = Duration::from_millis(250);

impl Shard {
    /// When [`Shard::tick`] and [`Shard::poll_due`] next have something to do; `None` if no time is set.
    pub fn deadline(&self) -> Option<Time> {
        let clients = self.due.next().into_iter().chain(self.maintenance_at);
        self.upstream_deadline().into_iter().chain(clients).min()
    }

    /// When the upstream session or the command limiter next has something to do.
    fn upstream_deadline(&self) -> Option<Time> {
        let command = if self.upstream.accepts_commands() { self.limiter.deadline() } else { None };
        self.upstream.deadline().into_iter().chain(command).min()
    }

    /// Schedules the next maintenance of clients, requests and log for this time, if none is scheduled earlier.
    pub(super) fn schedule_maintenance(&mut self, at: Time) {
        self.maintenance_at = Some(self.maintenance_at.map_or(at, |maintenance_at| maintenance_at.min(at)));
    }

    /// Does what is due at the time `now`.
    pub fn tick(&mut self, now: Time) {
        #[cfg(test)]
        assert_ne!(self.panics, Some("tick"), "a panic that a test wants");
        if self.upstream_deadline().is_some_and(|at| now >= at) {
            self.upstream.on_tick(now);
            self.log_warning();
            self.wake.upstream = true;
        }
        if self.maintenance_at.is_some_and(|at| now >= at) {
            self.maintenance_at = None;
            self.requests.expire(now);
            self.expire_sessions(now);
            self.departed.expire(now);
            self.tick_voice(now);
            self.tick_prefetch(now);
            self.trim();
            self.marks.note(now, self.log.oldest(), self.log.next());
            for at in self.requests.deadline().into_iter().chain(self.departed.deadline()) {
                self.schedule_maintenance(at);
            }
            if !self.log.is_empty() {
                self.schedule_maintenance(now + MAINTENANCE_INTERVAL);
            }
        }
    }

    /// Returns the connection of a client that has to be served now, because an acknowledgement is due or its session
    /// ends. The caller calls this after [`Shard::tick`], until it returns `None`.
    pub fn poll_due(&mut self, now: Time) -> Option<ConnectionId> {
        while let Some((key, reason)) = self.due.pop(now) {
            let Some(client) = self.clients.get_mut(&key) else { continue };
            let due = match reason {
                Reason::Acks => self.due.is_due(&mut client.acks, key, now),
                Reason::End => true,
            };
            if let Some(connection) = client.session.connection.filter(|_| due) {
                return Some(connection);
            }
        }
        None
    }

    /// Ends the sessions that were not resumed in time, and closes the connections on which no heartbeat has come in
    /// time.
    fn expire_sessions(&mut self, now: Time) {
        let window = self.settings.resume_window;
        let (mut expired, mut next) = (Vec::new(), None::<Time>);
        for client in self.clients.values_mut() {
            let session = &client.session;
            // Before READY some libraries send no heartbeats at all.
            let beats = session.is_resumable() && client.pending_close.is_none();
            let end = match session.detached_at {
                Some(at) => at + window,
                None if beats => session.last_heartbeat + HEARTBEAT_TIMEOUT,
                None => continue,
            };
            if now < end {
                next = Some(next.map_or(end, |next| next.min(end)));
            } else if session.detached_at.is_some() {
                expired.push(session.key);
            } else {
                client.pending_close = Some(Close::Silent);
                self.wake.clients = true;
            }
        }
        for key in expired {
            self.remove(now, key, false);
        }
        if let Some(at) = next {
            self.schedule_maintenance(at);
        }
    }
}
