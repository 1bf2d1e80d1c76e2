//! Tests of close codes: after which the session is resumed, after which it is identified anew, and which are fatal.

use super::*;

#[test]
fn a_lost_connection_is_resumed_with_the_last_sequence() {
    for code in [None, Some(1000), Some(1001), Some(1006), Some(4000), Some(4001), Some(4002), Some(4005), Some(4008)] {
        let mut session = session();
        active(&mut session, SECOND);
        assert_eq!(feed(&mut session, SECOND, &dispatch(2)), Received::Dispatch(EventKind::TypingStart));
        session.on_closed(SECOND * 2, code);
        assert_eq!(session.status(), Status::Disconnected);
        let now = resumes(&mut session, SECOND * 2, 2);
        // The events of the replay come before RESUMED, and clients get them at once.
        assert_eq!(feed(&mut session, now, &dispatch(3)), Received::Dispatch(EventKind::TypingStart));
        assert_eq!(feed(&mut session, now, r#"{"t":"RESUMED","s":4,"op":0,"d":{}}"#), Received::Resumed);
        assert_eq!(session.status(), Status::Active);
        assert_eq!(session.counters().identifies, 1);
    }
}

#[test]
fn a_lost_session_is_identified_anew() {
    for code in [4003, 4007, 4009] {
        let mut session = session();
        active(&mut session, SECOND);
        session.on_closed(SECOND * 2, Some(code));
        let now = identifies(&mut session, SECOND * 2);
        assert!(now >= SECOND * 3);
    }
}

#[test]
fn fatal_codes_end_it() {
    for code in [4004, 4010, 4011, 4012, 4013, 4014] {
        let mut session = session();
        connect(&mut session, SECOND);
        session.on_closed(SECOND, Some(code));
        assert_eq!((session.status(), session.fatal().unwrap().code), (Status::Fatal, code));
        assert_eq!(session.deadline(), None);
        for hour in 1..100 {
            session.on_tick(SECOND * 3600 * hour);
        }
        session.on_permit(SECOND);
        assert_eq!(actions(&mut session), []);
    }
}
