//! Tests of RESUMEs that the gateway does not serve: when the session is given up, and when it is not.

use super::*;
use crate::upstream::reconnect::RESUME_PATIENCE;

/// How a gateway can fail to serve a RESUME.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Refusal {
    Close(Option<u16>),
    Payload(&'static str),
    /// The gateway only acknowledges heartbeats.
    Silence,
}

impl Refusal {
    const ALL: [Self; 7] = [
        Self::Close(Some(4006)),
        Self::Close(Some(1000)),
        Self::Close(Some(4000)),
        Self::Close(None),
        Self::Payload(r#"{"op":9,"d":true}"#),
        Self::Payload(r#"{"op":7,"d":null}"#),
        Self::Silence,
    ];

    /// The gateway answers in this way. Returns when the connection is gone.
    fn answers(self, session: &mut Session, mut now: Time) -> Time {
        match self {
            Self::Close(code) => session.on_closed(now, code),
            Self::Payload(payload) => drop(feed(session, now, payload)),
            Self::Silence => {
                while session.is_connected() {
                    now = session.deadline().expect("it does not wait for ever");
                    session.on_tick(now);
                    if session.is_connected() {
                        feed(session, now, r#"{"t":null,"s":null,"op":11,"d":null}"#);
                    }
                }
            }
        }
        actions(session);
        now
    }
}

#[test]
fn a_session_that_can_not_be_resumed_is_given_up() {
    for refusal in Refusal::ALL {
        let mut session = session();
        active(&mut session, SECOND);
        let lost_at = SECOND * 100;
        session.on_closed(lost_at, None);
        let (mut now, mut resumes) = (lost_at, 0);
        loop {
            (now, _) = reconnects(&mut session, now);
            match &actions(&mut session)[..] {
                [Action::Send(payload)] if *payload == payload::resume("token", "abc", 1) => resumes += 1,
                [Action::RequestPermit] => break,
                other => panic!("{refusal:?}: {other:?}"),
            }
            assert!(resumes <= 25, "{refusal:?}: {resumes} RESUMEs within {:?}", now - lost_at);
            now = refusal.answers(&mut session, now);
        }
        assert!(resumes >= 3, "{refusal:?}: {resumes} RESUMEs");
        let took = now - lost_at;
        assert!(took <= RESUME_PATIENCE + SECOND * 40, "{refusal:?}: {took:?}");
        // After codes about the session, the session is given up sooner.
        assert_eq!(took < SECOND * 10, refusal == Refusal::Close(Some(4006)), "{refusal:?}: {took:?}");
        assert_eq!((session.counters().identifies, session.counters().given_up), (1, 1), "it waits for its permit");
        assert_eq!(session.take_warning(), Some(Warning::GivenUp));
        session.on_permit(now);
        assert_eq!(actions(&mut session), [Action::Send(b"IDENTIFY".to_vec())]);
    }
}

#[test]
fn a_lone_refusal_costs_a_resume_only() {
    for refusal in Refusal::ALL {
        let mut session = session();
        active(&mut session, SECOND);
        let mut now = SECOND * 100;
        for _ in 0..10 {
            session.on_closed(now, None);
            now = resumes(&mut session, now, 1);
            now = refusal.answers(&mut session, now);
            let back = resumes(&mut session, now, 1);
            assert!(back - now <= SECOND * 5, "{refusal:?}: {:?}", back - now);
            assert_eq!(feed(&mut session, back, RESUMED), Received::Resumed);
            now = back + SECOND * 10;
        }
        assert_eq!((session.counters().identifies, session.counters().given_up), (1, 0));
    }
}

#[test]
fn a_replay_may_take_long_as_long_as_it_goes_on() {
    let mut session = session();
    active(&mut session, SECOND);
    session.on_closed(SECOND * 2, None);
    let mut now = resumes(&mut session, SECOND * 2, 1);
    for sequence in 2..100 {
        let next = now + RESUME_TIMEOUT - SECOND;
        while session.deadline().unwrap() <= next {
            now = session.deadline().unwrap();
            session.on_tick(now);
            feed(&mut session, now, r#"{"op":11,"d":null}"#);
        }
        now = next;
        assert_eq!(feed(&mut session, now, &dispatch(sequence)), Received::Dispatch(EventKind::TypingStart));
    }
    actions(&mut session);
    // Each RESUME names the last event that came, and the session is not given up while events come.
    for sequence in 99..110 {
        now = Refusal::Silence.answers(&mut session, now);
        now = resumes(&mut session, now, sequence);
        feed(&mut session, now, &dispatch(sequence + 1));
    }
    assert_eq!(session.counters().given_up, 0);
}
