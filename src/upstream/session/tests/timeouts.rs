//! Tests of heartbeats, and of the times after which the session gives up a silent server.

use super::*;

#[test]
fn heartbeats_and_zombies() {
    let mut session = session();
    active(&mut session, SECOND);
    let first = session.deadline().unwrap();
    assert!(first <= SECOND + Duration::from_millis(40_000));
    session.on_tick(first);
    assert_eq!(actions(&mut session), [Action::Send(payload::heartbeat(Some(1)))]);
    feed(&mut session, first + SECOND / 2, r#"{"op":11}"#);
    assert_eq!(session.latency(), Some(SECOND / 2));
    assert_eq!((session.take_new_latency(), session.take_new_latency()), (Some(SECOND / 2), None));
    // Discord asks for a heartbeat. The session sends it at once, and the next one a whole interval later.
    feed(&mut session, first + SECOND, r#"{"op":1,"d":null}"#);
    assert_eq!(actions(&mut session), [Action::Send(payload::heartbeat(Some(1)))]);
    let second = session.deadline().unwrap();
    assert_eq!(second, first + SECOND + SECOND * 40);
    session.on_tick(second);
    assert_eq!(actions(&mut session), [Action::Close(4000)]);
    assert_eq!(session.counters().zombies, 1);
    resumes(&mut session, second, 1);
}

#[test]
fn a_silent_server_is_given_up() {
    let mut session = session();
    session.on_tick(SECOND);
    actions(&mut session);
    session.on_tick(SECOND + CONNECT_TIMEOUT);
    assert_eq!(actions(&mut session), [Action::Close(4000)]);
    let mut now = session.deadline().unwrap();
    session.on_tick(now);
    assert_eq!(actions(&mut session), [Action::Connect(BASE.into())]);
    session.on_connected(now);
    now += HELLO_TIMEOUT;
    session.on_tick(now);
    assert_eq!(actions(&mut session), [Action::Close(4000)]);
}

#[test]
fn a_server_that_only_acknowledges_is_given_up() {
    let ack = r#"{"t":null,"s":null,"op":11,"d":null}"#;
    // Acknowledges heartbeats for ten minutes. Returns when the session closes the connection, and the code.
    let closes = |session: &mut Session, from: Time, event_at: Option<Duration>| {
        for second in 0..600 {
            let now = from + SECOND * second;
            session.on_tick(now);
            for action in actions(session) {
                match action {
                    Action::Close(code) => return Some((now - from, code)),
                    Action::Connect(_) => panic!("without a close"),
                    _ => drop(feed(session, now, ack)),
                }
            }
            if event_at == Some(SECOND * second) {
                feed(session, now, &dispatch(2));
            }
        }
        None
    };
    let mut silent = session();
    connect(&mut silent, SECOND);
    silent.on_permit(SECOND);
    assert_eq!(closes(&mut silent, SECOND, None), Some((READY_TIMEOUT, close::UNKNOWN_ERROR)));
    for (event_at, closed_at) in [(None, RESUME_TIMEOUT), (Some(SECOND * 15), SECOND * 15 + RESUME_TIMEOUT)] {
        let mut session = session();
        active(&mut session, SECOND);
        session.on_closed(SECOND * 2, None);
        let (now, _) = reconnects(&mut session, SECOND * 2);
        assert_eq!(session.status(), Status::Resuming);
        assert_eq!(closes(&mut session, now, event_at).map(|(after, _)| after), Some(closed_at));
        assert!(session.resumption().is_some(), "the session may still be there");
    }
    let mut live = session();
    active(&mut live, SECOND);
    assert_eq!(closes(&mut live, SECOND, None), None, "silence is no fault of a live session");
}
