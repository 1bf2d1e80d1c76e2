//! Tests of payloads that the session can not read.

use super::*;

#[test]
fn a_malformed_payload_is_asked_for_once_more() {
    let mut session = session();
    active(&mut session, SECOND);
    session.on_malformed(SECOND * 50);
    assert_eq!(actions(&mut session), [Action::Close(4000)]);
    let now = resumes(&mut session, SECOND * 50, 1);
    session.on_malformed(now);
    assert_eq!(actions(&mut session), []);
    assert_eq!(feed(&mut session, now, &dispatch(3)), Received::Dispatch(EventKind::TypingStart));
}

#[test]
fn a_ready_that_can_not_be_read_is_asked_for_again() {
    let mut session = session();
    connect(&mut session, SECOND);
    session.on_permit(SECOND);
    actions(&mut session);
    session.on_malformed(SECOND);
    assert_eq!(actions(&mut session), [Action::Close(4000)]);
    let now = identifies(&mut session, SECOND);
    session.on_permit(now);
    actions(&mut session);
    // A READY without a session id is handled in the same way.
    feed(&mut session, now, r#"{"t":"READY","s":1,"op":0,"d":{"guilds":[]}}"#);
    assert_eq!(actions(&mut session), [Action::Close(4000)]);
    assert!(identifies(&mut session, now) > now, "with a pause");
}
