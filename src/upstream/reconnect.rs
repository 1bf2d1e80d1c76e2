//! Decides when a shard connects again after a loss, and how long it tries to resume its session.
//!
//! A connection has *worked* if it brought READY, RESUMED or an event of a replay. The loss of a connection that worked
//! is no failure, and the shard connects again at once. Connections that did not work count as failures in a row, and
//! each makes the next wait longer. A connection that worked and was lost because of a client's command does not count
//! as a short one.
//!
//! Promises: waits grow with failures in a row and with short connections only, and are bounded. After a single RESUME
//! that failed, the shard tries to resume the session again. It gives the session up within about a minute of RESUMEs
//! that reach Discord and bring nothing. Time without a connection does not count, however long it is. Pure.

use crate::protocol::Time;
use std::time::Duration;

/// First and longest wait after a connection that did not work.
pub const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Longest wait while a RESUME may still work: within [`SESSION_LIFE`] of the loss, or after a RESUME that failed.
pub const RESUME_BACKOFF: Duration = Duration::from_secs(10);
/// How long after the loss of its connection Discord may still have a session. Discord does not document the time; it
/// is minutes at most. Only the waits depend on this: the shard tries a RESUME first, however late.
pub const SESSION_LIFE: Duration = Duration::from_secs(180);
/// After a connection that worked for at least this long the shard connects again at once.
pub const SETTLED_AFTER: Duration = Duration::from_secs(5);
/// Longest wait after connections that worked, but were lost before [`SETTLED_AFTER`]. The first such loss causes no
/// wait, and each further one in a row adds 1 s, so that the shard does not connect in a loop to a gateway that accepts
/// and drops everybody.
pub const QUICK_LOSS_WAIT: Duration = Duration::from_secs(5);
/// A session is given up when RESUMEs have brought nothing for this long, and at least [`RESUME_ATTEMPTS`] of them in a
/// row have failed.
///
/// Discord does not document how long it keeps a session, but it is minutes at most. When a node of the gateway fails,
/// another one has its sessions within seconds. So after a minute of RESUMEs that reach Discord and fail, the session
/// is lost, and the bot gets no events as long as the shard keeps trying. An IDENTIFY uses one of about a thousand a
/// day, and still waits for its permit.
pub const RESUME_PATIENCE: Duration = Duration::from_secs(60);
/// The fewest RESUMEs in a row that have to fail; see [`RESUME_PATIENCE`].
pub const RESUME_ATTEMPTS: u32 = 3;
/// A session is given up at once when Discord has answered this many RESUMEs in a row with a close code about the
/// session (4001 and up, except 4008): the cause is then not the state of a node.
pub const RESUME_REFUSALS: u32 = 3;

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Discord closed the connection with a code about this session.
    Refused,
    /// Any other reason: the network, silence, or a code that says nothing about the session.
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
pub struct ReconnectPolicy {
    /// Connections in a row that did not work.
    failures: u32,
    /// Connections in a row that worked, and were lost before [`SETTLED_AFTER`].
    quick_losses: u32,
    /// Since when the current connection works.
    worked_since: Option<Time>,
    /// When the last connection that worked was lost; in a new process, when the first one that did not work was.
    lost_at: Option<Time>,
    resumes: Option<Resumes>,
    /// A client caused the next loss.
    excused: bool,
}

impl ReconnectPolicy {
    /// Connections in a row that did not work.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The connection works: it has brought READY, RESUMED, or an event of a replay.
    pub fn connection_works(&mut self, now: Time) {
        self.worked_since.get_or_insert(now);
        self.failures = 0;
        self.lost_at = None;
        self.resumes = None;
    }

    /// A client caused the loss that is reported next. If the connection worked, the shard does not wait.
    pub fn excuse_next_loss(&mut self) {
        self.excused = true;
    }

    /// The shard sends a RESUME.
    pub fn resume_sent(&mut self, now: Time) {
        self.resumes.get_or_insert(Resumes { since: now, failed: 0, refused: 0 });
    }

    /// The connection on which a RESUME was sent is lost. If the connection has brought nothing, the RESUME has failed.
    /// Returns whether the session has to be given up.
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

    /// The connection is lost, or could not be made. Returns how long to wait before the next one. Up to half of the
    /// wait is random, so that shards that were lost together do not connect again together. `session`: there is a
    /// session to resume. `resuming`: a RESUME failed on this connection.
    pub fn next_wait(&mut self, now: Time, session: bool, resuming: bool, random: &mut fastrand::Rng) -> Duration {
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
