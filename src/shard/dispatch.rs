//! What happens to one event from Discord: it goes into the cache and into the log.
//!
//! Promises: an event is in the cache before a client can ask for what it changed; the log gets each event that a
//! client may have exactly once and in order, with the recipient if only one client may have it. Costs: the copy of the
//! event into the log; nothing while there are no clients and the cache does not want the event.

use super::{Shard, requests::Recipient};
use crate::protocol::{
    SessionKey, Time,
    envelope::Envelope,
    event::{EventKind, Meta},
};

impl Shard {
    /// Handles one event from Discord: the cache applies it, now or later, and the log gets it, unless no client may have it.
    pub(super) fn on_dispatch(&mut self, now: Time, kind: EventKind, envelope: &Envelope<'_>) {
        self.events[kind as usize] += 1;
        let name = envelope.t.unwrap_or_default();
        #[cfg(test)]
        match name {
            b"PANIC_IN_A_TEST" => panic!("a panic that a test wants"),
            b"PANIC_AT_A_TICK_IN_A_TEST" => (self.panics, self.maintenance_at) = (Some("tick"), Some(Time::ZERO)),
            b"PANIC_FOR_A_CLIENT_IN_A_TEST" => self.panics = Some("client"),
            _ => {}
        }
        self.cache.apply_before_append(name.len() + envelope.d.len(), &self.log);
        let denied = self.settings.denied.covers(kind, name);
        let mut changed_guild = None;
        if self.cache.wants(kind) {
            // An event can only wait if the log gets it: not if it is denied, and not while there are no clients.
            let logged = !self.clients.is_empty() && self.syncing == 0 && !denied;
            if !(logged && self.cache.defer(kind, &self.log)) {
                let outcome = self.cache.apply(kind, envelope.d, &self.log);
                if let Some(request) =
                    self.requests.all_members_request(kind, envelope.d).filter(|_| outcome.ignored.is_none())
                {
                    self.cache.up_to_date(&self.log).chunk_of_all_members(request, envelope.d);
                }
                changed_guild = outcome.guild.filter(|_| outcome.changed);
                if let (EventKind::GuildCreate, true, Some(guild)) =
                    (kind, self.settings.prefetch_members, changed_guild)
                {
                    self.prefetch_guild(now, guild);
                }
            }
        }
        if denied {
            self.tally.denied += 1;
            return;
        }
        match self.requests.resolve(kind, envelope.d) {
            Some(Recipient::Session(session, data)) => {
                self.append(name, &data, Meta { kind, changed_guild, recipient: Some(session) });
            }
            Some(Recipient::Proxy) if kind == EventKind::RateLimited => self.prefetch_rate_limited(now, envelope.d),
            Some(Recipient::Proxy) => self.prefetched_chunk(now, envelope.d),
            Some(Recipient::Nobody) => {
                self.append(name, envelope.d, Meta { kind, changed_guild, recipient: Some(SessionKey::NONE) });
            }
            None => {
                let recipient = self.voice_audience(now, kind, envelope.d);
                self.append(name, envelope.d, Meta { kind, changed_guild, recipient });
            }
        }
    }

    /// Appends an event to the log, or only counts it while there are no clients.
    pub(super) fn append(&mut self, name: &[u8], data: &[u8], meta: Meta) {
        if self.clients.is_empty() {
            self.cache.up_to_date(&self.log);
            self.log.skip();
        } else {
            self.log.append(name, data, meta);
            self.wake.clients = true;
        }
    }
}
