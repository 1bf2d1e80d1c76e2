//! Tests of IDENTIFY: the session waits for its permit, and asks for it until it comes.

use super::*;

#[test]
fn identify_needs_a_permit() {
    let mut session = session();
    connect(&mut session, SECOND);
    assert_eq!(actions(&mut session), [Action::RequestPermit]);
    for second in 2..30 {
        session.on_tick(SECOND * second);
    }
    assert!(actions(&mut session).iter().all(|action| *action == Action::Send(payload::heartbeat(None))));
    assert_eq!(session.counters().identifies, 0);
    session.on_permit(SECOND * 40);
    session.on_permit(SECOND * 40);
    assert_eq!(session.counters().identifies, 1);
}

#[test]
fn a_permit_is_asked_for_until_it_comes() {
    let mut session = session();
    connect(&mut session, SECOND);
    assert_eq!(actions(&mut session), [Action::RequestPermit]);
    let mut asked = 0;
    for second in 1..=180 {
        session.on_tick(SECOND * second);
        feed(&mut session, SECOND * second, r#"{"t":null,"s":null,"op":11,"d":null}"#);
        asked += actions(&mut session).iter().filter(|action| **action == Action::RequestPermit).count();
    }
    assert_eq!(asked, 2);
    session.on_permit(SECOND * 181);
    assert_eq!(session.counters().identifies, 1);
    session.on_tick(SECOND * 300);
    assert!(!actions(&mut session).contains(&Action::RequestPermit));
}
