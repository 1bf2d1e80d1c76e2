use super::*;
use crate::log::{Limits, Log};
use proptest::prelude::*;

fn session(intents: Intents) -> Session {
    let id = SessionId::new(7, [0xab; 12]);
    Session::new(
        SessionKey(1),
        id,
        Options { intents, version: 10, compress: false, library: Library::default() },
        Time::ZERO,
    )
}

fn log() -> Log {
    Log::new(Limits { bytes: 1 << 20, entries: 100 })
}

fn append(log: &mut Log, kind: EventKind, guild: u64, state: bool) -> u64 {
    let data = format!(r#"{{"guild_id":"{guild}"}}"#);
    log.append(
        kind.name().as_bytes(),
        data.as_bytes(),
        Meta { kind, changed_guild: state.then_some(guild), recipient: None },
    )
}

/// Passes every event that is in the log. Returns the sequence number and the position of each event that was sent.
fn deliver(session: &mut Session, log: &Log) -> Vec<(u64, u64)> {
    let mut got = Vec::new();
    for entry in log.read(session.cursor()).unwrap() {
        if let Some(number) = session.advance(entry.position, entry.meta, entry.data()) {
            got.push((number, entry.position));
        }
    }
    got
}

#[test]
fn ids_carry_their_shard_and_are_not_printed_whole() {
    let id = SessionId::new(0x01ff, [0xab; 12]);
    assert_eq!((id.shard(), id.as_str().len()), (0x01ff, ID_LENGTH));
    assert_eq!(SessionId::parse(id.as_str()), Some(id));
    for bad in ["", "zz", &id.as_str()[1..], &id.as_str().to_uppercase(), &"é".repeat(16)] {
        assert_eq!(SessionId::parse(bad), None);
    }
    assert!(!format!("{id:?}").contains(id.as_str()));
}

#[test]
fn a_snapshot_is_not_told_twice() {
    let mut log = log();
    let mut session = session(Intents::ALL);
    let ready = log.next();
    session.begin_sync(ready, Time::ZERO, None);
    assert_eq!(session.next_snapshot_sequence(), 1);
    append(&mut log, EventKind::GuildMemberAdd, 10, true); // in the snapshot of 10
    append(&mut log, EventKind::MessageCreate, 10, false); // not state: delivered
    session.set_snapshot_position(10, log.next(), Shown::Whole);
    session.next_snapshot_sequence();
    let after = append(&mut log, EventKind::GuildMemberAdd, 10, true); // after the snapshot of 10
    append(&mut log, EventKind::GuildMemberAdd, 20, true); // in the snapshot of 20
    append(&mut log, EventKind::MessageCreate, 30, false); // 30 was never shown
    let delete = append(&mut log, EventKind::GuildDelete, 30, true);
    session.set_snapshot_position(20, log.next(), Shown::Whole);
    session.set_snapshot_position(30, log.next(), Shown::Left);
    let rejoin = append(&mut log, EventKind::GuildCreate, 30, true);
    session.finish_sync();
    let got = deliver(&mut session, &log);
    assert_eq!(got, [(3, ready + 1), (4, after), (5, delete), (6, rejoin)]);
}

#[test]
fn a_session_that_is_not_complete_can_not_be_resumed() {
    let mut session = session(Intents::ALL);
    assert!(!session.rewind(0, 1, 1));
    session.begin_sync(1, Time::ZERO, None);
    session.next_snapshot_sequence();
    assert!(!session.rewind(1, 1, 1));
    session.next_snapshot_sequence();
    session.finish_sync();
    assert!(!session.rewind(1, 1, 1), "a part of the snapshot can not be sent again");
    assert!(!session.rewind(3, 1, 1), "the future");
    assert!(session.rewind(2, 1, 1));
}

#[test]
fn another_process_knows_what_was_asked_for() {
    for compress in [false, true] {
        let options = Options { intents: Intents(5), version: 9, compress, library: Library::from_name("eris") };
        let mut session = Session::new(SessionKey(1), SessionId::new(7, [1; 12]), options, Time::ZERO);
        session.begin_sync(1, Time::ZERO, None);
        session.finish_sync();
        let mut text = serde_json::to_value(session.save().unwrap()).unwrap();
        let restore = |text: &serde_json::Value| {
            let saved = serde_json::from_value(text.clone()).unwrap();
            Session::restore(saved, Time::ZERO).unwrap().options
        };
        let restored = restore(&text);
        let library = restored.library.name();
        assert_eq!((restored.intents.0, restored.version, restored.compress, library), (5, 9, compress, "eris"));
        // State files of earlier versions have no library and no payload compression.
        text.as_object_mut().unwrap().remove("library");
        assert_eq!(restore(&text).library, Library::UNKNOWN);
        text.as_object_mut().unwrap().remove("compress");
        assert!(!restore(&text).compress);
    }
}

#[test]
fn private_entries_reach_only_their_session() {
    let mut log = log();
    let mut session = session(Intents::ALL);
    session.begin_sync(1, Time::ZERO, None);
    session.finish_sync();
    for recipient in [Some(SessionKey(1)), Some(SessionKey(2)), None] {
        log.append(b"X", b"{}", Meta { kind: EventKind::Other, changed_guild: None, recipient });
    }
    assert_eq!(deliver(&mut session, &log), [(1, 1), (2, 3)]);
}

#[test]
fn a_bot_hears_of_itself_without_the_intent() {
    let mut log = log();
    let mut session = session(Intents::GUILDS);
    session.begin_sync(1, Time::ZERO, Some(5));
    session.finish_sync();
    for user in [4, 5] {
        let data = format!(r#"{{"guild_id":"1","user":{{"id":"{user}"}}}}"#);
        let meta = Meta { kind: EventKind::GuildMemberUpdate, changed_guild: None, recipient: None };
        log.append(b"GUILD_MEMBER_UPDATE", data.as_bytes(), meta);
    }
    assert_eq!(deliver(&mut session, &log), [(1, 2)]);
}

proptest! {
    /// Compares the session with a model that keeps every event it was sent. Any mix of deliveries,
    /// acknowledgements and resumes gives the wanted events, in order, with numbers that have no gap.
    #[test]
    fn exactly_once_in_order(steps in prop::collection::vec((0u8..12, 0u64..40), 1..200), intents in prop_oneof![Just(Intents::ALL), Just(Intents::GUILD_MESSAGES)]) {
        let mut log = Log::new(Limits { bytes: 0, entries: 30 });
        let mut session = session(intents);
        session.begin_sync(log.next(), Time::ZERO, None);
        session.next_snapshot_sequence();
        session.finish_sync();
        // The log positions of the dispatches that the client has received. The first one has number 2.
        let mut seen: Vec<u64> = Vec::new();
        let mut wanted: Vec<u64> = Vec::new();
        for (what, amount) in steps {
            match what {
                0..=5 => {
                    let kind = if amount % 2 == 0 { EventKind::MessageCreate } else { EventKind::TypingStart };
                    let position = append(&mut log, kind, 10, false);
                    if intents == Intents::ALL || amount % 2 == 0 { wanted.push(position); }
                }
                6..=8 => {
                    if session.cursor() < log.oldest() { return Ok(()); } // fell off: the session ends
                    for (number, position) in deliver(&mut session, &log) {
                        seen.push(position);
                        prop_assert_eq!(number, seen.len() as u64 + 1);
                    }
                }
                9 => {
                    let back = amount.min(seen.len() as u64);
                    session.acknowledge(seen.len() as u64 + 1 - back);
                    log.trim(session.oldest_needed());
                    session.forget_before(log.oldest());
                }
                _ => {
                    let back = amount.min(seen.len() as u64);
                    let number = seen.len() as u64 + 1 - back;
                    if session.rewind(number, log.oldest(), log.next()) {
                        seen.truncate(seen.len() - back as usize);
                        session.phase = Phase::Live;
                    }
                }
            }
            prop_assert_eq!(&seen[..], &wanted[..seen.len()]);
            prop_assert!(session.sent.len() <= seen.len());
        }
    }
}
