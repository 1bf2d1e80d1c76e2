//! When a shard comes back after it has lost its connection, and how long it goes on trying to resume.
//!
//! A connection has *worked* when it brought READY, RESUMED or an event of a replay. The loss of one that worked is no
//! failure, and the shard is back at once. Connections that did not work, in a row, are failures, and each makes the next
//! wait longer. One that worked and was lost for a client's command does not count in either way.
//!
//! Promises: waits grow with failures only, and are bounded; a session is tried to be resumed again after a single RESUME
//! that failed; it is given up within about a minute of RESUMEs that do reach Discord and bring nothing; time without a
//! connection does not count, however long it is. Pure.

use crate::protocol::Time;
use std::time::Duration;

/// First and longest wait after a connection that did not work.
pub const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Longest wait while a RESUME may still work, that is, within [`SESSION_LIFE`] of the loss or after a RESUME that failed.
pub const RESUME_BACKOFF: Duration = Duration::from_secs(10);
/// So long after its connection was lost a session may still be there. Discord does not document how long; it is minutes at
/// most. Only the waits follow from this: a RESUME is tried first, however late.
pub const SESSION_LIFE: Duration = Duration::from_secs(180);
/// After a connection that worked at least for this long the shard is back at once.
pub const SETTLED_AFTER: Duration = Duration::from_secs(5);
/// Longest wait after connections that worked, but were all lost before [`SETTLED_AFTER`]. The first one costs no wait, and
/// each further one a second more: a gateway that lets everybody in and throws everybody out is not asked in a loop.
pub const QUICK_LOSS_WAIT: Duration = Duration::from_secs(5);
/// A session is given up when RESUMEs have brought nothing for this long, and [`RESUME_ATTEMPTS`] of them in a row.
///
/// How long Discord keeps a session is not documented, but it is minutes at most, and when a node of the gateway goes away
/// another one has its sessions within seconds. After a minute of RESUMEs that reach Discord and fail, the session is
/// gone, or nobody there can find it; each minute more is one in which the bot is dead. An IDENTIFY costs one of some
/// thousand a day, and still waits for its permit.
pub const RESUME_PATIENCE: Duration = Duration::from_secs(60);
/// See [`RESUME_PATIENCE`]: the fewest RESUMEs in a row that have to fail.
pub const RESUME_ATTEMPTS: u32 = 3;
/// A session is given up at once when Discord has answered so many RESUMEs in a row with a close code of its own (4001 and
/// up): that is an answer about this session, and not the state of a node.
pub const RESUME_REFUSALS: u32 = 3;

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Discord gave a code of its own as the reason.
    Refused,
    /// Anything else: the network, silence, a code that says nothing about the session.
    Other,
}

/// RESUMEs in a row that brought nothing.
#[derive(Clone, Copy, Debug)]
struct Resumes {
    /// When the first of them was sent.
    since: Time,
    failed: u32,
    refused: u32,
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct Comeback {
    /// Connections in a row that did not work.
    failures: u32,
    /// Connections in a row that worked, and were lost before [`SETTLED_AFTER`].
    quick_losses: u32,
    /// Since when the connection that there is works.
    worked_since: Option<Time>,
    /// When the last one that worked was lost, or, in a new process, the first one that did not.
    lost_at: Option<Time>,
    resumes: Option<Resumes>,
    /// The next loss is the doing of a client.
    excused: bool,
}

impl Comeback {
    /// Connections in a row that did not work.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The connection has brought something: READY, RESUMED, or an event of a replay.
    pub fn works(&mut self, now: Time) {
        self.worked_since.get_or_insert(now);
        self.failures = 0;
        self.lost_at = None;
        self.resumes = None;
    }

    /// The loss that is told next is the doing of a client: if the connection worked, there is nothing to wait for.
    pub fn excuse(&mut self) {
        self.excused = true;
    }

    /// A RESUME is sent.
    pub fn resumes(&mut self, now: Time) {
        self.resumes.get_or_insert(Resumes { since: now, failed: 0, refused: 0 });
    }

    /// The connection on which a RESUME was sent is lost. True: if it has brought nothing, the session has to be given up.
    pub fn resume_lost(&mut self, now: Time, loss: Loss) -> bool {
        let Some(resumes) = self.resumes.as_mut().filter(|_| self.worked_since.is_none()) else { return false };
        resumes.failed += 1;
        resumes.refused = if loss == Loss::Refused { resumes.refused + 1 } else { 0 };
        let patience_is_over = now.saturating_sub(resumes.since) >= RESUME_PATIENCE;
        let give_up = resumes.refused >= RESUME_REFUSALS || (resumes.failed >= RESUME_ATTEMPTS && patience_is_over);
        if give_up {
            self.resumes = None;
        }
        give_up
    }

    /// The connection is lost, or could not be made: how long to wait before the next one. Half of the wait is by chance,
    /// so that shards that were lost together do not come back together. `session`: there is one to resume. `resuming`: a
    /// RESUME failed on this connection.
    pub fn wait(&mut self, now: Time, session: bool, resuming: bool, random: &mut fastrand::Rng) -> Duration {
        let lost_at = *self.lost_at.get_or_insert(now);
        let excused = std::mem::take(&mut self.excused);
        let wait = match self.worked_since.take() {
            Some(_) if excused => Duration::ZERO,
            Some(since) if now.saturating_sub(since) >= SETTLED_AFTER => {
                self.quick_losses = 0;
                Duration::ZERO
            }
            Some(_) => {
                self.quick_losses = self.quick_losses.saturating_add(1);
                (Duration::from_secs(1) * (self.quick_losses - 1)).min(QUICK_LOSS_WAIT)
            }
            None => {
                self.failures = self.failures.saturating_add(1);
                let alive = session && now.saturating_sub(lost_at) < SESSION_LIFE;
                let longest = if alive || resuming { RESUME_BACKOFF } else { BACKOFF.1 };
                (BACKOFF.0 * 2u32.saturating_pow(self.failures - 1).min(1 << 16)).min(longest)
            }
        };
        wait.mul_f64(0.5 + random.f64() / 2.0)
    }
}
