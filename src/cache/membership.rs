//! Whether the cache knows all members of a guild. Only then can it answer a request for all of them.
//!
//! Comparing numbers is not enough: `member_count` can be off by a few, and guests are among the members without being
//! counted (docs: Guild, Guild Member Object: their `joined_at` is null). So all members are known only after Discord
//! has sent a complete list, which is one of these:
//!
//! * a GUILD_CREATE that says that the guild is not large, and that lists exactly as many members as it counts;
//! * the answer to an unfiltered request for all members, with every chunk from the first to the last.
//!
//! From then on the events about joins and leaves keep the list complete.
//!
//! Promise: an event that contradicts the list, and a gap in the events, ends the completeness. In doubt the answer is
//! that not all members are known. This file does not hold the members.

/// Maximum number of answers for one guild that are followed at a time. Beyond it the oldest one is dropped, and cannot
/// complete the list.
const MAX_ANSWERS: usize = 8;

/// An answer to a request for all members of which some chunks have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PartialAnswer {
    /// The request that it answers.
    request: u64,
    /// Index of the chunk that has to come next.
    next: u64,
    /// How many chunks the answer has.
    count: u64,
}

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Membership {
    complete: bool,
    answers: Vec<PartialAnswer>,
}

impl Membership {
    /// The state after a GUILD_CREATE, or from a state file.
    pub fn new(complete: bool) -> Self {
        Self { complete, answers: Vec::new() }
    }

    /// Whether all members are known.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Ends the completeness, and forgets all answers under way. Called when members, or chunks of an answer, may be
    /// missing.
    pub fn doubt(&mut self) {
        *self = Self::default();
    }

    /// Notes that the members of chunk `index` of `count` have been stored. The chunk answers `request`, which was
    /// unfiltered.
    pub fn chunk(&mut self, request: u64, index: u64, count: u64) {
        let at = self.answers.iter().position(|answer| answer.request == request);
        let answer = match at.map(|at| self.answers.remove(at)) {
            // The first chunk starts the answer. It can come a second time, when the request was sent again.
            _ if index == 0 => PartialAnswer { request, next: 0, count },
            Some(answer) if answer.next == index && answer.count == count => answer,
            // A chunk is missing, or the guild has come again since the first chunk.
            _ => return,
        };
        if index + 1 == count {
            self.complete = true;
        } else if index < count {
            if self.answers.len() == MAX_ANSWERS {
                self.answers.remove(0);
            }
            self.answers.push(PartialAnswer { next: index + 1, ..answer });
        }
    }

    /// Bytes on the heap.
    pub fn heap(&self) -> usize {
        self.answers.capacity() * size_of::<PartialAnswer>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(chunks: &[(u64, u64, u64)]) -> bool {
        let mut membership = Membership::default();
        chunks.iter().for_each(|(request, index, count)| membership.chunk(*request, *index, *count));
        membership.is_complete()
    }

    #[test]
    fn only_a_whole_answer_completes_the_list() {
        for (chunks, complete) in [
            (&[(1, 0, 1)][..], true),
            (&[(1, 0, 2)], false),
            (&[(1, 0, 2), (1, 1, 2)], true),
            (&[(1, 1, 2)], false),
            (&[(1, 0, 3), (1, 2, 3)], false),
            (&[(1, 0, 3), (1, 2, 3), (1, 1, 3), (1, 2, 3)], false),
            (&[(1, 0, 2), (2, 1, 2)], false),
            (&[(1, 0, 2), (2, 0, 2), (1, 1, 2)], true),
            (&[(1, 0, 3), (1, 1, 2)], false),
            (&[(1, 0, 3), (1, 1, 3), (1, 0, 3), (1, 2, 3)], false),
            (&[(1, 5, 3), (1, 0, 0)], false),
        ] {
            assert_eq!(after(chunks), complete, "{chunks:?}");
        }
    }

    #[test]
    fn doubt_ends_completeness_and_answers_under_way() {
        let mut membership = Membership::new(true);
        membership.chunk(1, 0, 2);
        membership.doubt();
        membership.chunk(1, 1, 2);
        assert!(!membership.is_complete());
    }

    #[test]
    fn answers_under_way_are_bounded() {
        let mut membership = Membership::default();
        (0..1_000).for_each(|request| membership.chunk(request, 0, 2));
        assert_eq!(membership.answers.len(), MAX_ANSWERS);
        membership.chunk(999, 1, 2);
        assert!(membership.is_complete());
    }
}
