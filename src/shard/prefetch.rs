//! Asks Discord for the members of guilds whose members it has not sent (`prefetch_members`), so that the cache can
//! answer the clients' requests for them (docs: Gateway Events, Request Guild Members).
//!
//! Discord sends all members of small guilds with GUILD_CREATE, and of large ones, or without the intent
//! GUILD_PRESENCES, only some. The proxy then asks for one guild after another, and the answers go into the cache and to
//! no client.
//!
//! Promises: at most one request is on its way, and at most one is sent in [`PACE`], so three of four commands that
//! Discord allows are left to clients; none is sent while a command of a client waits. A guild is asked for at most once
//! in [`AGAIN`], counting the requests of clients, and later when Discord says so (RATE_LIMITED). A client that asks for
//! all members while the proxy's own request is on its way gets the answer of the cache when the request is answered.
//! Bounded: one entry for each guild of the shard, and [`MOST_HELD`] requests of clients.

use super::{Shard, requests};
use crate::{
    cache::MemberRequest,
    protocol::{SessionKey, Time, intents::Intents, json},
};
use hashbrown::{HashMap, HashSet};
use std::{collections::VecDeque, time::Duration};

/// The least time between two requests of the proxy.
pub const PACE: Duration = Duration::from_secs(2);
/// The least time between two requests for all members of the same guild: Discord's 30 s, and one because a request may
/// take longer to Discord than the one before it.
pub const AGAIN: Duration = Duration::from_secs(31);
/// How long the proxy waits for the next chunk of an answer. Then it asks for the next guild, and later for this one
/// again.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// How often a guild is asked for without getting all of its members. Then it is left alone until Discord begins a new
/// session.
pub const TRIES: u8 = 3;
/// How often all guilds are looked at. An event about a member whom the cache does not know makes it doubt that it knows
/// all of them.
pub const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// The most requests of clients that wait for the proxy's own request. A further one goes to Discord.
pub const MOST_HELD: usize = 64;

/// A guild that is asked for.
#[derive(Clone, Copy)]
struct Wanted {
    /// Not before this time.
    at: Time,
    guild: u64,
    tries: u8,
}

/// See the module's description.
#[derive(Default)]
pub(super) struct Prefetch {
    waiting: VecDeque<Wanted>,
    /// The guilds in `waiting`, the one in `asked`, and those that were asked for [`TRIES`] times in vain.
    known: HashSet<u64>,
    /// When all guilds are looked at, because the cache may lack members of any.
    look: Time,
    /// The guild whose answer is awaited, and when its request was made or its last chunk came.
    asked: Option<Wanted>,
    /// When the next request may be sent.
    next: Time,
    /// Guilds that were asked for within [`AGAIN`], by the proxy or by clients.
    recent: HashMap<u64, Time>,
    /// Requests of clients for the guild that is asked for, and the session of each.
    held: Vec<(SessionKey, Vec<u8>)>,
    /// Number of guilds that have been fetched.
    fetched: u64,
}

impl Prefetch {
    /// The number of guilds that wait or are asked for.
    pub fn waiting(&self) -> usize {
        self.waiting.len() + usize::from(self.asked.is_some())
    }

    /// The number of times that all members of a guild have been fetched. A guild that is fetched again counts again.
    pub fn fetched(&self) -> u64 {
        self.fetched
    }

    /// The requests of clients that wait, with the session of each.
    pub fn held(&self) -> impl Iterator<Item = (SessionKey, &[u8])> {
        self.held.iter().map(|(key, data)| (*key, &data[..]))
    }

    /// The members of this guild are to be asked for.
    fn want(&mut self, now: Time, guild: u64) {
        if self.known.insert(guild) {
            self.waiting.push_back(Wanted { at: now, guild, tries: 0 });
        }
    }

    /// The session with Discord is over, and with it everything that was asked for.
    fn clear(&mut self) {
        self.waiting.clear();
        self.known.clear();
        self.asked = None;
    }

    /// A client's request for all members of this guild goes to Discord.
    fn asked_by_client(&mut self, now: Time, guild: u64) {
        self.recent.insert(guild, now);
    }

    /// When [`Prefetch::next`] has something to do.
    fn deadline(&self) -> Option<Time> {
        match &self.asked {
            Some(asked) => Some(asked.at + ANSWER_LIMIT),
            None => self.waiting.iter().map(|wanted| wanted.at).min().map(|at| at.max(self.next)),
        }
    }

    /// The guild to ask for now. `lacks` says whether the cache does not know all members of an available guild.
    fn next(&mut self, now: Time, lacks: impl Fn(u64) -> bool) -> Option<u64> {
        self.recent.retain(|_, at| now.saturating_sub(*at) < AGAIN);
        if let Some(asked) = self.asked.take_if(|asked| now >= asked.at + ANSWER_LIMIT) {
            self.try_again(asked, now + AGAIN);
        }
        if self.asked.is_some() || now < self.next {
            return None;
        }
        let Self { waiting, known, recent, .. } = self;
        waiting.retain(|wanted| {
            let lacks = lacks(wanted.guild);
            if !lacks {
                known.remove(&wanted.guild);
            }
            lacks
        });
        for wanted in waiting {
            if let Some(at) = recent.get(&wanted.guild) {
                wanted.at = wanted.at.max(*at + AGAIN);
            }
        }
        let index = self.waiting.iter().position(|wanted| now >= wanted.at)?;
        let wanted = self.waiting.remove(index)?;
        self.asked = Some(Wanted { at: now, ..wanted });
        self.next = now + PACE;
        self.recent.insert(wanted.guild, now);
        Some(wanted.guild)
    }

    fn try_again(&mut self, wanted: Wanted, at: Time) {
        if wanted.tries + 1 < TRIES {
            self.waiting.push_back(Wanted { at, tries: wanted.tries + 1, ..wanted });
        }
    }

    /// A chunk of the answer for this guild has come. With `complete` the cache now knows all members of the guild, and
    /// the request is over. Otherwise [`ANSWER_LIMIT`] begins again. Ignores a guild whose answer is not awaited.
    fn chunk(&mut self, now: Time, guild: u64, complete: bool) {
        if let Some(asked) = self.asked.as_mut().filter(|asked| asked.guild == guild) {
            asked.at = now;
            if complete {
                self.asked = None;
                self.known.remove(&guild);
                self.fetched += 1;
            }
        }
    }

    /// Discord wants the request for this guild to be sent again after a time.
    fn rate_limited(&mut self, now: Time, guild: u64, retry_after: Duration) {
        if let Some(asked) = self.asked.take_if(|asked| asked.guild == guild) {
            // Discord has refused the request and may answer the next one, so this one does not count as a try.
            self.waiting.push_back(Wanted { at: now + retry_after.max(PACE), ..asked });
        }
    }
}

/// Longest wait in seconds that a RATE_LIMITED can ask for.
const LONGEST_WAIT: f64 = 3600.0;

/// How long to wait before the request may be sent again: the time in a RATE_LIMITED, at most an hour, and 1 s.
/// [`AGAIN`] when the time can not be read.
fn retry_after(data: &[u8]) -> Duration {
    let seconds = json::get(data, "retry_after").and_then(|text| std::str::from_utf8(text).ok()?.parse::<f64>().ok());
    let seconds = seconds.filter(|seconds| *seconds >= 0.0).map(|seconds| seconds.min(LONGEST_WAIT));
    seconds.map_or(AGAIN, |seconds| Duration::from_secs_f64(seconds) + Duration::from_secs(1))
}

impl Shard {
    /// A guild has come. Asks for its members if the cache lacks some.
    pub(super) fn prefetch_guild(&mut self, now: Time, guild: u64) {
        if self.cache.up_to_date(&self.log).lacks_members(guild) {
            self.prefetch.want(now, guild);
            self.schedule_maintenance(now);
        }
    }

    /// The cache may lack members of any guild: after a restart of the proxy, and after a gap in the events.
    pub(super) fn prefetch_all(&mut self, now: Time) {
        if self.settings.prefetch_members {
            self.prefetch.look = self.prefetch.look.min(now + PACE);
            self.schedule_maintenance(self.prefetch.look);
        }
    }

    /// Discord has begun a new session.
    pub(super) fn forget_prefetch(&mut self) {
        self.prefetch.clear();
        // The clients get Invalid Session, so nobody waits for these answers.
        self.prefetch.held.clear();
    }

    /// Sends the next request if its time has come.
    pub(super) fn tick_prefetch(&mut self, now: Time) {
        if !self.settings.prefetch_members {
            return;
        }
        if now >= self.prefetch.look {
            self.prefetch.look = now + LOOK_AGAIN;
            let guilds: Vec<u64> = self.cache.up_to_date(&self.log).guilds().map(|(guild, _)| guild).collect();
            guilds.into_iter().for_each(|guild| self.prefetch_guild(now, guild));
        }
        let was_asked = self.prefetch.asked.is_some();
        if self.upstream.accepts_commands() && self.limiter.queued() == 0 && self.requests.has_room() {
            let cache = self.cache.up_to_date(&self.log);
            if let Some(guild) = self.prefetch.next(now, |guild| cache.lacks_members(guild)) {
                let presences = self.settings.cache.presences && self.may_see_presences();
                let data = format!(r#"{{"guild_id":"{guild}","query":"","limit":0,"presences":{presences}}}"#);
                // There is room, because no command waits.
                let _ = self.limiter.push(SessionKey::NONE, [requests::PREFIX, data.as_bytes(), b"}"].concat());
                self.wake.upstream = true;
            }
        }
        if was_asked && self.prefetch.asked.is_none() {
            self.release_held(now);
        }
        let next = self.prefetch.deadline().map_or(Time::MAX, |at| at.max(now + PACE));
        self.schedule_maintenance(next.min(self.prefetch.look));
    }

    fn may_see_presences(&self) -> bool {
        Intents(self.settings.intents).intersects(Intents::GUILD_PRESENCES)
    }

    /// A chunk of an answer to the proxy itself has come.
    pub(super) fn prefetched_chunk(&mut self, now: Time, data: &[u8]) {
        let Some(guild) = json::get(data, "guild_id").and_then(json::parse_id) else { return };
        let complete = !self.cache.up_to_date(&self.log).lacks_members(guild);
        self.prefetch.chunk(now, guild, complete);
        if complete {
            self.release_held(now);
            self.schedule_maintenance(now);
        }
    }

    /// Discord has refused a request of the proxy itself, because it came too early.
    pub(super) fn prefetch_rate_limited(&mut self, now: Time, data: &[u8]) {
        let meta = json::get(data, "meta").unwrap_or_default();
        if let Some(guild) = json::get(meta, "guild_id").and_then(json::parse_id) {
            self.prefetch.rate_limited(now, guild, retry_after(data));
            self.release_held(now);
            self.schedule_maintenance(now + PACE);
        }
    }

    /// A client's request goes to Discord. Returns whether it waits instead for the answer to the proxy's own request.
    pub(super) fn holds(&mut self, now: Time, key: SessionKey, data: &[u8]) -> bool {
        if !self.settings.prefetch_members {
            return false;
        }
        let Some(request) = MemberRequest::parse(data).filter(MemberRequest::is_for_all) else { return false };
        let asked = self.prefetch.asked.is_some_and(|asked| asked.guild == request.guild);
        if asked && self.prefetch.held.len() < MOST_HELD {
            self.prefetch.held.push((key, data.to_vec()));
            return true;
        }
        self.prefetch.asked_by_client(now, request.guild);
        false
    }

    /// Restores a client's request that waited in the former process for the answer to the proxy's own request. It waits
    /// for that answer in this process, at most [`ANSWER_LIMIT`].
    pub(super) fn hold_again(&mut self, now: Time, key: SessionKey, data: &[u8]) {
        let Some(request) = MemberRequest::parse(data) else { return };
        self.prefetch.known.insert(request.guild);
        self.prefetch.asked.get_or_insert(Wanted { at: now, guild: request.guild, tries: 0 });
        if self.prefetch.held.len() < MOST_HELD {
            self.prefetch.held.push((key, data.to_vec()));
        }
    }

    /// Handles the requests of the former process that have waited, if this process asks for no members by itself.
    pub(super) fn release_held_without_prefetch(&mut self, now: Time) {
        if !self.settings.prefetch_members {
            self.prefetch.clear();
            self.release_held(now);
        }
    }

    /// Handles the requests that have waited, as if they came now.
    fn release_held(&mut self, now: Time) {
        for (key, data) in std::mem::take(&mut self.prefetch.held) {
            // A client that has gone, or has too many requests that are not answered, gets no answer.
            if let Ok(Some(command)) = self.request_members(now, key, &data)
                && self.clients.contains_key(&key)
                && self.limiter.push(key, command).is_ok()
            {
                self.wake.upstream = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_that_discord_asks_for_is_bounded() {
        let wait = |value: &str| retry_after(format!(r#"{{"retry_after":{value}}}"#).as_bytes());
        assert_eq!(wait("45.5"), Duration::from_millis(46_500));
        assert_eq!(wait("0"), Duration::from_secs(1));
        assert_eq!(wait("7200"), Duration::from_secs(3_601));
        assert_eq!(wait("1e400"), Duration::from_secs(3_601));
        for unreadable in ["-1", "\"soon\"", "null"] {
            assert_eq!(wait(unreadable), AGAIN, "{unreadable}");
        }
        assert_eq!(retry_after(b"{}"), AGAIN);
    }
}
