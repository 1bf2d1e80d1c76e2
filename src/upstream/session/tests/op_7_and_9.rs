//! Tests of Reconnect (op 7) and Invalid Session (op 9), and of the wait after them.

use super::*;
use crate::upstream::reconnect::BACKOFF;

#[test]
fn op_7_reconnects_at_once() {
    let mut session = session();
    active(&mut session, SECOND);
    feed(&mut session, SECOND * 9, r#"{"op":7,"d":null}"#);
    assert_eq!(actions(&mut session), [Action::Close(4000)]);
    assert_eq!(resumes(&mut session, SECOND * 9, 1), SECOND * 9);
}

#[test]
fn op_7_again_and_again_does_not_make_it_spin() {
    for identified in [true, false] {
        let mut session = session();
        if identified {
            active(&mut session, SECOND);
        } else {
            connect(&mut session, SECOND);
        }
        let (mut now, mut last) = (SECOND, Duration::ZERO);
        for _ in 0..25 {
            feed(&mut session, now, r#"{"op":7,"d":null}"#);
            let (at, _) = reconnects(&mut session, now);
            (last, now) = (at - now, at);
        }
        assert!(last >= BACKOFF.1 / 2, "{last:?}");
    }
}

#[test]
fn op_9_keeps_or_drops_the_session() {
    let mut session = session();
    active(&mut session, SECOND);
    feed(&mut session, SECOND * 9, r#"{"op":9,"d":true}"#);
    assert_eq!(actions(&mut session), [Action::Close(4000)]);
    let now = resumes(&mut session, SECOND * 9, 1);
    assert!(now >= SECOND * 10 && now <= SECOND * 14);
    feed(&mut session, now, r#"{"op":9,"d":false}"#);
    assert_eq!(actions(&mut session), [Action::Close(4000)]);
    identifies(&mut session, now);
}

#[test]
fn after_an_invalid_session_there_is_a_pause_and_no_more() {
    for failures in 0..6 {
        let mut session = session();
        active(&mut session, SECOND);
        let mut now = SECOND * 100;
        session.on_closed(now, None);
        // After these failures the wait would be long.
        for _ in 0..failures {
            now = session.deadline().unwrap();
            session.on_tick(now);
            session.on_closed(now, None);
        }
        (now, _) = reconnects(&mut session, now);
        feed(&mut session, now, r#"{"op":9,"d":false}"#);
        actions(&mut session);
        let back = identifies(&mut session, now);
        assert!(back >= now + SECOND && back <= now + SECOND * 5, "{:?}", back - now);
    }
}
