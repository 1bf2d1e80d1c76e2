//! Event types that the operator does not want to reach clients (config key `events.deny`).
//!
//! A look-up costs a shift and a comparison for types that the proxy knows. Types that it does not know are compared by name.

use super::event::EventKind;

/// A set of event types.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denied {
    /// One bit for each [`EventKind`].
    kinds: u128,
    /// Types that are not in the table of [`EventKind`].
    names: Vec<String>,
}

const _: () = assert!(EventKind::ALL.len() <= 128, "`Denied::kinds` has a bit for every kind");

/// Types that clients can not do without: READY and RESUMED begin a session, the guilds that READY names come with
/// GUILD_CREATE and go with GUILD_DELETE, and who asks for members (op 8) waits for GUILD_MEMBERS_CHUNK.
pub const NEEDED: [EventKind; 5] = [
    EventKind::Ready,
    EventKind::Resumed,
    EventKind::GuildCreate,
    EventKind::GuildDelete,
    EventKind::GuildMembersChunk,
];

impl Denied {
    /// Adds a type by its name. False: clients can not do without it, and it was not added.
    pub fn add(&mut self, name: &str) -> bool {
        match EventKind::from_name(name.as_bytes()) {
            kind if NEEDED.contains(&kind) => return false,
            EventKind::Other => self.names.push(name.to_owned()),
            kind => self.kinds |= 1 << kind as u32,
        }
        true
    }

    /// Is an event of this kind, whose type Discord wrote as `name`, in the set?
    pub fn covers(&self, kind: EventKind, name: &[u8]) -> bool {
        self.kinds >> kind as u32 & 1 == 1
            || kind == EventKind::Other && self.names.iter().any(|denied| denied.as_bytes() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_and_unknown_types_are_covered_and_needed_ones_are_refused() {
        let mut denied = Denied::default();
        assert!(denied.add("TYPING_START") && denied.add("WEBHOOKS_UPDATE") && denied.add("BRAND_NEW_EVENT"));
        for kind in NEEDED {
            assert!(!denied.add(kind.name()));
        }
        for &kind in EventKind::ALL {
            let expected = matches!(kind, EventKind::TypingStart | EventKind::WebhooksUpdate);
            assert_eq!(denied.covers(kind, kind.name().as_bytes()), expected, "{kind:?}");
        }
        assert!(denied.covers(EventKind::Other, b"BRAND_NEW_EVENT"));
        assert!(!denied.covers(EventKind::Other, b"ANOTHER_NEW_EVENT"));
    }
}
