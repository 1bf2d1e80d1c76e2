//! Answers from the cache to Request Guild Members (docs: Gateway Events, Request Guild Members).
//!
//! An answer is made chunk by chunk, as fast as its client reads. Its chunks are never in the log, so that a large
//! answer can not push events out of it. An answer that the client has not acknowledged yet can be given again after a
//! RESUME. Answers survive a restart of the proxy. Never: decides whether the cache or Discord answers (see
//! [`requests`](super::requests)).

use super::{outgoing::write_synthetic, requests::PREFIX};
use crate::{
    cache::{Cache, MemberAnswer, Readiness, SavedAnswer},
    downstream::{outbox::Outbox, session::Session},
    protocol::{SessionKey, event::EventKind},
    upstream::limiter::Limiter,
};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The most answers from the cache that one client can have waiting or unacknowledged. For one more the client is
/// closed with 4008.
pub const MAX_ANSWERS: usize = 512;
/// An answer from the cache, and the sequences with which its chunks were sent.
pub(super) struct Answer {
    answer: MemberAnswer,
    sent: Vec<u64>,
}

/// An [`Answer`] in the state that one process hands to the next.
#[derive(Serialize, Deserialize)]
pub(super) struct SavedAnswerWithSequences {
    answer: SavedAnswer,
    sent: Vec<u64>,
}

/// The answers of one client, oldest first.
#[derive(Default)]
pub(super) struct Answers(VecDeque<Answer>);

impl Answers {
    /// Returns whether [`MAX_ANSWERS`] is reached.
    pub fn is_full(&self) -> bool {
        self.0.len() >= MAX_ANSWERS
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Drops all answers.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn push(&mut self, answer: MemberAnswer) {
        self.0.push_back(Answer { answer, sent: Vec::new() });
    }

    /// The answers, for the next process.
    pub fn save(&self) -> Vec<SavedAnswerWithSequences> {
        self.0
            .iter()
            .map(|one| SavedAnswerWithSequences { answer: one.answer.save(), sent: one.sent.clone() })
            .collect()
    }

    /// Adds an answer of a former process. Returns false if the answer contradicts itself, or [`MAX_ANSWERS`] wait
    /// already.
    pub fn restore(&mut self, saved: SavedAnswerWithSequences) -> bool {
        let Some(answer) = MemberAnswer::restore(saved.answer) else { return false };
        let fits = saved.sent.len() == answer.made() && saved.sent.is_sorted() && !self.is_full();
        if fits {
            self.0.push_back(Answer { answer, sent: saved.sent });
        }
        fits
    }

    /// The oldest answer that has a chunk to send now.
    fn next(&mut self, cache: &Cache) -> Option<&mut Answer> {
        self.0.iter_mut().find(|one| !one.answer.is_complete() && cache.readiness(&one.answer) == Readiness::Now)
    }

    /// Takes an answer out that the cache can not give any more.
    fn take_lost(&mut self, cache: &Cache) -> Option<MemberAnswer> {
        let lost = |one: &Answer| !one.answer.is_complete() && cache.readiness(&one.answer) == Readiness::Never;
        let index = self.0.iter().position(lost)?;
        self.0.remove(index).map(|one| one.answer)
    }

    /// The client has received everything up to `sequence`. Drops the complete answers among that.
    pub fn acknowledge(&mut self, sequence: u64) {
        self.0.retain(|one| !one.answer.is_complete() || one.sent.last().is_some_and(|last| *last > sequence));
    }

    /// The client has received nothing after `sequence`. The cache makes the chunks after it again.
    pub fn rewind(&mut self, sequence: u64) {
        for answer in &mut self.0 {
            let kept = answer.sent.partition_point(|sent| *sent <= sequence);
            answer.sent.truncate(kept);
            answer.answer.rewind(kept);
        }
    }
}

/// Makes the next chunk of the oldest answer that can be given now, and writes it into the outbox. A search by name may
/// need several calls, of which the first ones write nothing. Returns false if no answer can be given now.
pub(super) fn send_chunk(cache: &Cache, answers: &mut Answers, session: &mut Session, outbox: &mut Outbox) -> bool {
    let Some(one) = answers.next(cache) else { return false };
    let mut data = Vec::new();
    if cache.next_chunk(&mut one.answer, &mut data) {
        let sequence = session.next_sequence();
        one.sent.push(sequence);
        write_synthetic(outbox, EventKind::GuildMembersChunk, sequence, &data);
    }
    true
}

/// Sends the requests to Discord that the cache was to answer and can not any more. Returns whether there were any.
pub(super) fn resend_lost(cache: &Cache, answers: &mut Answers, client: SessionKey, limiter: &mut Limiter) -> bool {
    let mut any = false;
    while let Some(lost) = answers.take_lost(cache) {
        // If too many commands wait, the request is dropped; the client is not closed for it.
        any |= limiter.push(client, [PREFIX, &lost.request(), b"}"].concat()).is_ok();
    }
    any
}
