//! Tests of the sequence of events: gaps, events out of order, and events that a replay brings twice.

use super::*;

#[test]
fn an_event_out_of_sequence_is_passed_on() {
    let mut session = session();
    active(&mut session, SECOND);
    for sequence in ["3", "1", "2", "null"] {
        let event = format!(r#"{{"t":"GUILD_CREATE","s":{sequence},"op":0,"d":{{}}}}"#);
        assert_eq!(feed(&mut session, SECOND, &event), Received::Dispatch(EventKind::GuildCreate), "{sequence}");
    }
    assert_eq!((session.counters().out_of_sequence, session.counters().gaps), (3, 1));
    assert_eq!(session.take_warning(), Some(Warning::OutOfSequence { sequence: 1, last: 3 }));
    assert_eq!(session.take_warning(), None, "once is enough");
    // The next RESUME names the highest sequence.
    session.on_closed(SECOND * 50, None);
    resumes(&mut session, SECOND * 50, 3);
}

#[test]
fn a_replay_brings_nothing_twice() {
    let mut session = session();
    active(&mut session, SECOND);
    feed(&mut session, SECOND, &dispatch(2));
    session.on_closed(SECOND * 50, None);
    let now = resumes(&mut session, SECOND * 50, 2);
    let passed: Vec<bool> = [1, 2, 5, 3, 4]
        .map(|sequence| feed(&mut session, now, &dispatch(sequence)) == Received::Dispatch(EventKind::TypingStart))
        .into();
    assert_eq!(passed, [false, false, true, true, true]);
    assert_eq!((session.counters().duplicates, session.counters().out_of_sequence), (2, 2));
}

#[test]
fn the_end_of_a_replay_needs_no_number_of_its_own() {
    for number in ["null", "1", "2"] {
        let mut session = session();
        active(&mut session, SECOND);
        session.on_closed(SECOND, None);
        let now = resumes(&mut session, SECOND, 1);
        let resumed = format!(r#"{{"t":"RESUMED","s":{number},"op":0,"d":{{}}}}"#);
        assert_eq!(feed(&mut session, now, &resumed), Received::Resumed);
        assert_eq!(session.status(), Status::Active);
        assert_eq!(feed(&mut session, now, &dispatch(3)), Received::Dispatch(EventKind::TypingStart));
    }
}
