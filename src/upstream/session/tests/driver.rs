//! Drives a session machine as its connection and Discord do. Shared by the tests of this folder.

use super::*;

/// The general gateway URL.
pub(super) const BASE: &str = "wss://gateway.example";
/// The `resume_gateway_url` of [`READY`].
pub(super) const RESUME_URL: &str = "wss://resume.example";
pub(super) const HELLO: &str = r#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":40000}}"#;
pub(super) const READY: &str =
    r#"{"t":"READY","s":1,"op":0,"d":{"session_id":"abc","resume_gateway_url":"wss://resume.example","guilds":[]}}"#;
pub(super) const RESUMED: &str = r#"{"t":"RESUMED","s":null,"op":0,"d":{}}"#;

/// A session that has no connection yet.
pub(super) fn session() -> Session {
    let identity = Identity { identify: b"IDENTIFY".to_vec(), token: "token".into() };
    Session::new(identity, BASE.into(), None, 7)
}

/// The actions that the session wants now.
pub(super) fn actions(session: &mut Session) -> Vec<Action> {
    std::iter::from_fn(|| session.poll_action()).collect()
}

/// Discord sends this payload.
pub(super) fn feed(session: &mut Session, now: Time, payload: &str) -> Received {
    session.on_payload(now, &Envelope::scan(payload.as_bytes()).unwrap())
}

/// An event with this sequence.
pub(super) fn dispatch(sequence: u64) -> String {
    format!(r#"{{"t":"TYPING_START","s":{sequence},"op":0,"d":{{}}}}"#)
}

/// Opens a connection. Returns the URL that the session asked for.
pub(super) fn connect(session: &mut Session, now: Time) -> String {
    session.on_tick(now);
    let [Action::Connect(url)] = &actions(session)[..] else { panic!("no connect") };
    session.on_connected(now);
    feed(session, now, HELLO);
    url.clone()
}

/// Opens the first connection, and identifies.
pub(super) fn active(session: &mut Session, now: Time) {
    assert_eq!(connect(session, now), BASE);
    assert_eq!(actions(session), [Action::RequestPermit]);
    session.on_permit(now);
    assert_eq!(actions(session), [Action::Send(b"IDENTIFY".to_vec())]);
    assert_eq!(feed(session, now, READY), Received::Ready);
    assert_eq!(session.status(), Status::Active);
}

/// Ticks until the session reconnects. Returns the time and the URL.
pub(super) fn reconnects(session: &mut Session, mut now: Time) -> (Time, String) {
    loop {
        now = now.max(session.deadline().expect("it has given up"));
        session.on_tick(now);
        for action in actions(session) {
            if let Action::Connect(url) = action {
                session.on_connected(now);
                feed(session, now, HELLO);
                return (now, url);
            }
        }
    }
}

/// Ticks until the session sends its RESUME with this sequence on another connection. Returns the time.
pub(super) fn resumes(session: &mut Session, now: Time, sequence: u64) -> Time {
    let (now, url) = reconnects(session, now);
    assert_eq!(url, RESUME_URL);
    assert_eq!(actions(session), [Action::Send(payload::resume("token", "abc", sequence))]);
    assert_eq!(session.status(), Status::Resuming);
    now
}

/// Ticks until the session asks for a permit on another connection. Returns the time.
pub(super) fn identifies(session: &mut Session, now: Time) -> Time {
    let (now, url) = reconnects(session, now);
    assert_eq!(url, BASE);
    assert_eq!(actions(session), [Action::RequestPermit]);
    now
}
