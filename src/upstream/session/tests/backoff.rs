//! Tests of the wait before a connection, and of the URL that the session connects to.

use super::*;
use crate::upstream::reconnect::{BACKOFF, QUICK_LOSS_WAIT, RESUME_BACKOFF, SESSION_LIFE};

#[test]
fn the_backoff_grows_and_falls_back_to_the_general_url() {
    let mut session = session();
    active(&mut session, SECOND);
    let lost_at = SECOND * 100;
    let mut now = lost_at;
    session.on_closed(now, None);
    let mut urls = Vec::new();
    // No connection can be made for hours.
    while now < SECOND * 7_200 {
        let at = session.deadline().unwrap();
        let wait = at - now;
        match urls.len() {
            0 => assert_eq!(wait, Duration::ZERO),
            _ if now - lost_at < SESSION_LIFE => assert!(wait >= BACKOFF.0 / 2 && wait <= RESUME_BACKOFF, "{wait:?}"),
            _ => assert!(wait >= BACKOFF.1 / 2 && wait <= BACKOFF.1, "{wait:?}"),
        }
        now = at;
        session.on_tick(now);
        if let [Action::Connect(url)] = &actions(&mut session)[..] {
            urls.push(url.clone());
        }
        session.on_closed(now, None);
    }
    assert_eq!(urls[..3], [RESUME_URL; 3]);
    assert!(urls[3..].iter().all(|url| url == BASE));
    // The session is resumed, however late: time without a connection is no reason to give it up.
    let (now, _) = reconnects(&mut session, now);
    assert_eq!(actions(&mut session), [Action::Send(payload::resume("token", "abc", 1))]);
    assert_eq!(feed(&mut session, now, RESUMED), Received::Resumed);
}

#[test]
fn a_session_that_worked_is_back_at_once() {
    let mut session = session();
    active(&mut session, SECOND);
    let mut now = SECOND;
    for _ in 0..3 {
        now += SECOND * 7;
        session.on_closed(now, None);
        assert_eq!(resumes(&mut session, now, 1), now);
        assert_eq!(feed(&mut session, now, RESUMED), Received::Resumed);
    }
    // Short connections make the session wait, but not for long.
    let mut waits = Vec::new();
    for _ in 0..10 {
        session.on_closed(now, None);
        let back = resumes(&mut session, now, 1);
        waits.push(back - now);
        now = back;
        assert_eq!(feed(&mut session, now, RESUMED), Received::Resumed);
    }
    assert_eq!(waits[0], Duration::ZERO);
    assert!(waits[6..].iter().all(|wait| *wait >= QUICK_LOSS_WAIT / 2 && *wait <= QUICK_LOSS_WAIT), "{waits:?}");
}
