//! Queues the commands of all clients of a shard for Discord, and limits their rate (docs: Gateway, Rate Limiting: 120
//! events per 60 seconds, and of these 5 presence updates per 20 seconds).
//!
//! Promises:
//! * The limiter passes at most [`COMMANDS_PER_WINDOW`] commands in any 60 s, so that heartbeats always have room. The
//!   second half of the last command ([`Limiter::push_second_half`]) may be one more.
//! * It passes at most [`PRESENCES_PER_WINDOW`] presence updates in any [`PRESENCE_WINDOW`]. Discord drops further ones
//!   and sends no error.
//! * It passes the newest presence update in the end, and no other command waits for one.
//! * Clients take turns, so that one client can not make the others wait. While commands of clients wait, at most every
//!   other command is a presence update.
//! * The queue is bounded by [`MAX_QUEUED`].

use crate::protocol::{SessionKey, Time};
use std::{collections::VecDeque, time::Duration};

/// The time window of Discord's rate limit.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Commands per [`WINDOW`]. Ten of Discord's 120 are kept for heartbeats, IDENTIFY and RESUME.
pub const COMMANDS_PER_WINDOW: usize = 110;
/// The time window for presence updates: Discord's 20 s, and 1 s because one update may take longer to Discord than the
/// update before it.
pub const PRESENCE_WINDOW: Duration = Duration::from_secs(21);
/// Presence updates per [`PRESENCE_WINDOW`].
pub const PRESENCES_PER_WINDOW: usize = 5;
/// The most commands of one client that can wait.
pub const MAX_QUEUED_PER_CLIENT: usize = 512;
/// The most commands of all clients that can wait. Commands to be sent again do not count.
pub const MAX_QUEUED: usize = 4096;

/// The queue has no room for another command of this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many commands are waiting for Discord")]
pub struct Full;

/// A command that may be sent now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedCommand {
    /// The key of the client's session; `None` for a presence update, which is the whole shard's.
    pub client: Option<SessionKey>,
    /// The payload.
    pub command: Vec<u8>,
    /// The command was sent before, on a connection that broke.
    pub is_resend: bool,
    /// The command is the second half of the one before.
    pub is_second_half: bool,
}

struct Queue {
    client: SessionKey,
    commands: VecDeque<Vec<u8>>,
}

/// See the module's description.
#[derive(Default)]
pub struct Limiter {
    /// The queues of clients that have commands waiting, in the order of their turns.
    turns: VecDeque<Queue>,
    /// Commands to be sent again. They go before all others, because they were first in the order. At most as many as
    /// had been sent.
    resends: VecDeque<(SessionKey, Vec<u8>)>,
    /// The second half of the command that was sent last. [`Limiter::pop`] returns it next, whatever else waits.
    second: Option<(SessionKey, Vec<u8>)>,
    /// The newest presence update that was not sent yet.
    presence: Option<Vec<u8>>,
    /// The last command was a presence update.
    presence_was_last: bool,
    queued: usize,
    /// When the commands of the last window were sent, oldest first.
    sent: VecDeque<Time>,
    /// When the presence updates of the last window were sent, oldest first. A new connection does not begin a new
    /// window, because Discord does not document that it does.
    presences: VecDeque<Time>,
}

impl Limiter {
    /// Queues a command. Fails with [`Full`] when [`MAX_QUEUED_PER_CLIENT`] or [`MAX_QUEUED`] is reached.
    pub fn push(&mut self, client: SessionKey, command: Vec<u8>) -> Result<(), Full> {
        if self.queued >= MAX_QUEUED {
            return Err(Full);
        }
        let queue = match self.turns.iter_mut().find(|queue| queue.client == client) {
            Some(queue) => queue,
            None => {
                self.turns.push_back(Queue { client, commands: VecDeque::new() });
                self.turns.back_mut().expect("just pushed")
            }
        };
        if queue.commands.len() >= MAX_QUEUED_PER_CLIENT {
            return Err(Full);
        }
        queue.commands.push_back(command);
        self.queued += 1;
        Ok(())
    }

    /// Queues a presence update, and drops the one that still waits.
    pub fn push_presence(&mut self, command: Vec<u8>) {
        self.presence = Some(command);
    }

    /// Sets the second half of the command that was popped last. The second half goes out right after it.
    pub fn push_second_half(&mut self, client: SessionKey, command: Vec<u8>) {
        self.second = Some((client, command));
    }

    /// Queues a command that was sent before, on a connection that broke.
    pub fn push_resend(&mut self, client: SessionKey, command: Vec<u8>) {
        self.resends.push_back((client, command));
    }

    /// Drops the commands that are to be sent again.
    pub fn clear_resends(&mut self) {
        self.resends.clear();
    }

    /// Drops the waiting commands of a client.
    pub fn remove_session(&mut self, client: SessionKey) {
        self.resends.retain(|(of, _)| *of != client);
        self.second.take_if(|(of, _)| *of == client);
        self.turns.retain(|queue| {
            let keep = queue.client != client;
            if !keep {
                self.queued -= queue.commands.len();
            }
            keep
        });
    }

    /// The commands that wait to be sent for the first time, each with its client. Those of one client are in order.
    pub fn waiting(&self) -> impl Iterator<Item = (SessionKey, &[u8])> {
        self.turns.iter().flat_map(|queue| queue.commands.iter().map(|command| (queue.client, &**command)))
    }

    /// Returns whether a presence update waits.
    pub fn presence_waits(&self) -> bool {
        self.presence.is_some()
    }

    /// The number of commands that wait, for metrics.
    pub fn queued(&self) -> usize {
        self.queued + self.resends.len() + usize::from(self.presence.is_some())
    }

    /// Takes the next command out that may be sent now; `None` when no command waits or the limit is reached.
    pub fn pop(&mut self, now: Time) -> Option<QueuedCommand> {
        if let Some((client, command)) = self.second.take() {
            self.sent.push_back(now);
            return Some(QueuedCommand { client: Some(client), command, is_resend: false, is_second_half: true });
        }
        while self.sent.front().is_some_and(|&sent| now.saturating_sub(sent) > WINDOW) {
            self.sent.pop_front();
        }
        if self.sent.len() >= COMMANDS_PER_WINDOW {
            return None;
        }
        if let Some((client, command)) = self.resends.pop_front() {
            self.sent.push_back(now);
            return Some(QueuedCommand { client: Some(client), command, is_resend: true, is_second_half: false });
        }
        while self.presences.front().is_some_and(|&sent| now.saturating_sub(sent) > PRESENCE_WINDOW) {
            self.presences.pop_front();
        }
        let has_turn = self.turns.is_empty() || !self.presence_was_last;
        let may_be_presence = has_turn && self.presences.len() < PRESENCES_PER_WINDOW;
        let presence = if may_be_presence { self.presence.take() } else { None };
        self.presence_was_last = presence.is_some();
        if self.presence_was_last {
            self.presences.push_back(now);
        }
        let command = match presence {
            Some(command) => QueuedCommand { client: None, command, is_resend: false, is_second_half: false },
            None => {
                let mut queue = self.turns.pop_front()?;
                let command = queue.commands.pop_front().expect("a queue with a turn is not empty");
                self.queued -= 1;
                let client = queue.client;
                if !queue.commands.is_empty() {
                    self.turns.push_back(queue);
                }
                QueuedCommand { client: Some(client), command, is_resend: false, is_second_half: false }
            }
        };
        self.sent.push_back(now);
        Some(command)
    }

    /// The earliest time at which [`Limiter::pop`] can return a waiting command; `None` when no command waits. If
    /// [`Limiter::pop`] would return a command now, this time is not in the future. Does not look at the second half of
    /// a command, which [`Limiter::pop`] returns at any time.
    pub fn deadline(&self) -> Option<Time> {
        let free = |sent: &VecDeque<Time>, most: usize, window: Duration| match sent.len().checked_sub(most) {
            Some(oldest) => sent[oldest] + window + Duration::from_millis(1),
            None => Time::ZERO,
        };
        let any = free(&self.sent, COMMANDS_PER_WINDOW, WINDOW);
        let presence = free(&self.presences, PRESENCES_PER_WINDOW, PRESENCE_WINDOW).max(any);
        let command = (!self.turns.is_empty() || !self.resends.is_empty()).then_some(any);
        let presence = self.presence.is_some().then_some(presence);
        command.into_iter().chain(presence).min()
    }

    /// Discord counts the commands of a new connection from 0, so the limiter does, too. Waiting commands keep waiting.
    pub fn reset_window(&mut self) {
        self.sent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn drain(limiter: &mut Limiter, now: Time) -> Vec<u8> {
        std::iter::from_fn(|| limiter.pop(now)).map(|next| next.command[0]).collect()
    }

    #[test]
    fn clients_take_turns() {
        let mut limiter = Limiter::default();
        for _ in 0..3 {
            limiter.push(SessionKey(1), vec![1]).unwrap();
        }
        limiter.push(SessionKey(2), vec![2]).unwrap();
        limiter.push(SessionKey(3), vec![3]).unwrap();
        assert_eq!(limiter.waiting().map(|(client, _)| client.0).collect::<Vec<_>>(), [1, 1, 1, 2, 3]);
        assert_eq!(drain(&mut limiter, SECOND), [1, 2, 3, 1, 1]);
        assert_eq!(limiter.queued(), 0);
    }

    #[test]
    fn what_is_sent_again_goes_first_and_counts() {
        let mut limiter = Limiter::default();
        for number in 0..COMMANDS_PER_WINDOW as u32 {
            limiter.push(SessionKey(number), vec![1]).unwrap();
        }
        limiter.push_resend(SessionKey(7), vec![2]);
        limiter.push_resend(SessionKey(500), vec![3]);
        limiter.remove_session(SessionKey(500));
        let next = limiter.pop(SECOND).unwrap();
        assert_eq!(
            next,
            QueuedCommand { client: Some(SessionKey(7)), command: vec![2], is_resend: true, is_second_half: false }
        );
        assert_eq!(drain(&mut limiter, SECOND), [1; COMMANDS_PER_WINDOW - 1]);
        assert_eq!(limiter.queued(), 1);
    }

    #[test]
    fn the_second_half_of_a_command_goes_out_with_the_first() {
        let mut limiter = Limiter::default();
        for number in 0..=COMMANDS_PER_WINDOW as u32 {
            limiter.push(SessionKey(number), vec![1]).unwrap();
        }
        limiter.push_presence(vec![9]);
        for sent in 1..=COMMANDS_PER_WINDOW {
            assert!(!limiter.pop(SECOND).unwrap().is_second_half);
            if sent == COMMANDS_PER_WINDOW {
                limiter.push_second_half(SessionKey(5), vec![2]);
            }
        }
        let second =
            QueuedCommand { client: Some(SessionKey(5)), command: vec![2], is_resend: false, is_second_half: true };
        assert_eq!((limiter.pop(SECOND), limiter.pop(SECOND)), (Some(second), None));
        // The second half counts in the window, too.
        let at = limiter.deadline().unwrap();
        assert_eq!(limiter.pop(at - Duration::from_millis(1)), None);
        assert!(limiter.pop(at).is_some());
    }

    #[test]
    fn presences_collapse_to_the_newest() {
        let mut limiter = Limiter::default();
        limiter.push(SessionKey(1), vec![1]).unwrap();
        limiter.push_presence(vec![8]);
        limiter.push_presence(vec![9]);
        assert!(limiter.presence_waits());
        assert_eq!(drain(&mut limiter, SECOND), [9, 1]);
    }

    #[test]
    fn presences_do_not_keep_commands_waiting() {
        let mut limiter = Limiter::default();
        for step in 0..10 * 600u32 {
            limiter.push_presence(vec![9]);
            let now = Duration::from_millis(u64::from(step) * 100);
            if step % 20 == 0 {
                limiter.push(SessionKey(1), vec![1]).unwrap();
                assert!(drain(&mut limiter, now).contains(&1), "{now:?}");
            } else {
                drain(&mut limiter, now);
            }
        }
    }

    #[test]
    fn no_window_sees_more_presences_than_allowed_and_the_newest_arrives() {
        let mut limiter = Limiter::default();
        let mut sent = Vec::new();
        // Six updates a second for a minute, over three connections.
        for step in 0..360u32 {
            let now = SECOND / 6 * step;
            if step % 120 == 0 {
                limiter.reset_window();
            }
            limiter.push_presence(step.to_be_bytes().to_vec());
            sent.extend(std::iter::from_fn(|| limiter.pop(now)).map(|next| (now, next.command)));
        }
        let newest = 359u32.to_be_bytes().to_vec();
        assert_ne!(sent.last().unwrap().1, newest, "it has to wait");
        let at = limiter.deadline().expect("a time at which it goes out");
        assert_eq!(limiter.pop(at - Duration::from_millis(1)), None);
        sent.push((at, limiter.pop(at).expect("now").command));
        assert_eq!(sent.last().unwrap().1, newest);
        assert_eq!(limiter.deadline(), None);
        for (index, (start, _)) in sent.iter().enumerate() {
            let within = sent[index..].iter().take_while(|(at, _)| *at - *start <= SECOND * 20).count();
            assert!(within <= 5, "{within} presence updates within 20 s");
        }
        assert_eq!(sent.len(), 16);
    }

    #[test]
    fn the_deadline_is_when_the_next_command_goes_out() {
        let mut limiter = Limiter::default();
        assert_eq!(limiter.deadline(), None);
        for number in 0..=COMMANDS_PER_WINDOW as u32 {
            limiter.push(SessionKey(number), vec![1]).unwrap();
        }
        assert!(limiter.deadline().unwrap() <= SECOND);
        assert_eq!(drain(&mut limiter, SECOND).len(), COMMANDS_PER_WINDOW);
        let at = limiter.deadline().unwrap();
        assert_eq!(limiter.pop(at - Duration::from_millis(1)), None);
        assert_eq!(drain(&mut limiter, at), [1]);
        assert_eq!(limiter.deadline(), None);
    }

    #[test]
    fn no_window_sees_more_than_allowed() {
        let mut limiter = Limiter::default();
        let mut sent = Vec::new();
        for step in 0..3_000u32 {
            let now = Duration::from_millis(u64::from(step) * 100);
            let _ = limiter.push(SessionKey(step % 7), vec![0]);
            sent.extend(drain(&mut limiter, now).iter().map(|_| now));
        }
        for (index, start) in sent.iter().enumerate() {
            let within = sent[index..].iter().take_while(|&&at| at - *start <= WINDOW).count();
            assert!(within <= COMMANDS_PER_WINDOW, "{within} commands within a window");
        }
        assert!(sent.len() > 4 * COMMANDS_PER_WINDOW);
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut limiter = Limiter::default();
        for _ in 0..MAX_QUEUED_PER_CLIENT {
            limiter.push(SessionKey(1), vec![]).unwrap();
        }
        assert_eq!(limiter.push(SessionKey(1), vec![]), Err(Full));
        let mut client = 2;
        while limiter.push(SessionKey(client), vec![]).is_ok() {
            client += u32::from(limiter.queued() % MAX_QUEUED_PER_CLIENT == 0);
        }
        assert_eq!(limiter.queued(), MAX_QUEUED);
        limiter.remove_session(SessionKey(1));
        assert_eq!(limiter.queued(), MAX_QUEUED - MAX_QUEUED_PER_CLIENT);
        limiter.push(SessionKey(client), vec![]).unwrap();
    }
}
