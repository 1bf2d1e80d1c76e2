//! Whether all members of a guild are in the cache, which is what it takes to answer a request for all of them from here.
//!
//! Numbers do not tell: `member_count` can be off by some, and guests stand among the members without being counted (docs:
//! Guild, Guild Member Object: `joined_at` is null). So the list has to be one that Discord has given as a whole: that of a
//! GUILD_CREATE which says that the guild is not large and in which exactly as many members as are counted stand, or the
//! chunks of an answer to an unfiltered request for all members, from the first one to the last. From then on events tell of
//! everyone who comes and goes.
//!
//! Promises: what contradicts the list, and a gap in the events, ends it; in doubt the answer is no. Never: knows who the
//! members are.

/// Answers of one guild that can be under way at a time; beyond that the oldest one does not count.
const MAX_RUNS: usize = 8;

/// The chunks of one answer, as far as they have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// Which request they answer.
    request: u64,
    /// The number of the next chunk.
    next: u64,
    /// How many there will be.
    count: u64,
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct Membership {
    complete: bool,
    runs: Vec<Run>,
}

impl Membership {
    /// As a GUILD_CREATE or a state file says.
    pub fn new(complete: bool) -> Self {
        Self { complete, runs: Vec::new() }
    }

    /// Are all members known?
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Something has happened that does not go with what is known: members may be missing, and so may chunks.
    pub fn doubt(&mut self) {
        *self = Self::default();
    }

    /// Chunk `index` of `count` in answer to `request`, which was for all members, has been taken in.
    pub fn chunk(&mut self, request: u64, index: u64, count: u64) {
        let at = self.runs.iter().position(|run| run.request == request);
        let run = match at.map(|at| self.runs.remove(at)) {
            // A request that is sent again is answered from the first chunk on.
            _ if index == 0 => Run { request, next: 0, count },
            Some(run) if run.next == index && run.count == count => run,
            // One is missing, or the guild has come anew since the first one.
            _ => return,
        };
        if index + 1 == count {
            self.complete = true;
        } else if index < count {
            if self.runs.len() == MAX_RUNS {
                self.runs.remove(0);
            }
            self.runs.push(Run { next: index + 1, ..run });
        }
    }

    /// Bytes on the heap.
    pub fn heap(&self) -> usize {
        self.runs.capacity() * size_of::<Run>()
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
    fn only_a_whole_run_counts() {
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
    fn doubt_ends_what_is_known_and_what_is_under_way() {
        let mut membership = Membership::new(true);
        membership.chunk(1, 0, 2);
        membership.doubt();
        membership.chunk(1, 1, 2);
        assert!(!membership.is_complete());
    }

    #[test]
    fn runs_are_bounded() {
        let mut membership = Membership::default();
        (0..1_000).for_each(|request| membership.chunk(request, 0, 2));
        assert_eq!(membership.runs.len(), MAX_RUNS);
        membership.chunk(999, 1, 2);
        assert!(membership.is_complete());
    }
}
