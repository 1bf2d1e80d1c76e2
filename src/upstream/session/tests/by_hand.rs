//! Tests of the losses by reason, and of an operator's reconnect and renewal.

use super::*;

fn lost(session: &Session) -> Vec<(&'static str, u64)> {
    let counts = Reason::ALL.iter().map(|reason| reason.name()).zip(session.counters().losses);
    counts.filter(|(_, count)| *count > 0).collect()
}

#[test]
fn each_loss_has_a_reason() {
    let mut session = session();
    session.on_tick(SECOND);
    session.on_closed(SECOND, None);
    let (now, _) = reconnects(&mut session, SECOND);
    session.on_permit(now);
    feed(&mut session, now, READY);
    session.on_closed(now, Some(4000));
    assert_eq!(session.last_loss(), Some((Reason::Closed, Some(4000))));
    let now = resumes(&mut session, now + SECOND * 10, 1);
    feed(&mut session, now, RESUMED);
    session.on_closed(now, None);
    let now = resumes(&mut session, now + SECOND * 10, 1);
    feed(&mut session, now, RESUMED);
    feed(&mut session, now, r#"{"t":null,"s":null,"op":7,"d":null}"#);
    let now = resumes(&mut session, now + SECOND * 10, 1);
    feed(&mut session, now, RESUMED);
    session.on_malformed(now);
    let now = resumes(&mut session, now + SECOND * 10, 1);
    feed(&mut session, now, r#"{"t":null,"s":null,"op":9,"d":false}"#);
    assert_eq!(
        lost(&session),
        [
            ("closed", 1),
            ("connection_lost", 1),
            ("unreachable", 1),
            ("op7_reconnect", 1),
            ("op9_invalid_session", 1),
            ("unreadable", 1)
        ]
    );
}

#[test]
fn an_operator_makes_it_resume_or_begin_anew() {
    let mut session = session();
    active(&mut session, SECOND);
    session.reconnect(SECOND * 10, Reason::ByHand);
    assert_eq!(actions(&mut session), [Action::Close(close::UNKNOWN_ERROR)], "a code that keeps the session");
    let now = resumes(&mut session, SECOND * 10, 1);
    feed(&mut session, now, RESUMED);
    session.begin_new_session(now + SECOND * 10, Reason::ByHand);
    assert_eq!(actions(&mut session), [Action::Close(close::NORMAL)], "a code that ends the session at Discord");
    let now = identifies(&mut session, now + SECOND * 10);
    session.set_identify(b"ANOTHER IDENTIFY".to_vec());
    session.on_permit(now);
    assert_eq!(actions(&mut session), [Action::Send(b"ANOTHER IDENTIFY".to_vec())]);
    assert_eq!(lost(&session), [("by_hand", 2)]);
    // A shard that is given up stays given up.
    session.on_closed(now, Some(4014));
    session.begin_new_session(now, Reason::ByHand);
    session.reconnect(now, Reason::ByHand);
    assert_eq!((session.status(), lost(&session)[0]), (Status::Fatal, ("closed", 1)));
}
