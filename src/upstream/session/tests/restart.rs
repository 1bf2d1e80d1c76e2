//! Tests of a restart of the proxy: the session at Discord outlives it, and is resumed.

use super::*;

#[test]
fn a_saved_session_is_resumed_without_an_identify() {
    let resumption = Resumption { session_id: "abc".into(), resume_url: RESUME_URL.into(), sequence: 55 };
    let identity = Identity { identify: vec![], token: "token".into() };
    let mut session = Session::new(identity, BASE.into(), Some(resumption), 1);
    resumes(&mut session, SECOND, 55);
}

#[test]
fn stop_keeps_the_session_at_discord() {
    let mut session = session();
    active(&mut session, SECOND);
    session.stop();
    assert_eq!(actions(&mut session), [Action::Close(4000)]);
    session.on_closed(SECOND * 5, None);
    session.on_tick(SECOND * 5000);
    assert_eq!(actions(&mut session), []);
    assert_eq!(session.resumption().unwrap().sequence, 1);
}
