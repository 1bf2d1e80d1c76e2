use super::*;
use crate::upstream::reconnect::{BACKOFF, QUICK_LOSS_WAIT, RESUME_BACKOFF, RESUME_PATIENCE, SESSION_LIFE};
use proptest::prelude::*;

mod by_hand;

const SECOND: Duration = Duration::from_secs(1);
const BASE: &str = "wss://gateway.example";
const RESUME_URL: &str = "wss://resume.example";

fn session() -> Session {
    let identity = Identity { identify: b"IDENTIFY".to_vec(), token: "token".into() };
    Session::new(identity, BASE.into(), None, 7)
}

fn actions(session: &mut Session) -> Vec<Action> {
    std::iter::from_fn(|| session.poll_action()).collect()
}

fn feed(session: &mut Session, now: Time, payload: &str) -> Received {
    session.on_payload(now, &Envelope::scan(payload.as_bytes()).unwrap())
}

const HELLO: &str = r#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":40000}}"#;
const READY: &str =
    r#"{"t":"READY","s":1,"op":0,"d":{"session_id":"abc","resume_gateway_url":"wss://resume.example","guilds":[]}}"#;

const RESUMED: &str = r#"{"t":"RESUMED","s":null,"op":0,"d":{}}"#;

fn dispatch(sequence: u64) -> String {
    format!(r#"{{"t":"TYPING_START","s":{sequence},"op":0,"d":{{}}}}"#)
}

/// Opens a connection. Returns the URL that the session asked for.
fn connect(session: &mut Session, now: Time) -> String {
    session.on_tick(now);
    let [Action::Connect(url)] = &actions(session)[..] else { panic!("no connect") };
    session.on_connected(now);
    feed(session, now, HELLO);
    url.clone()
}

fn active(session: &mut Session, now: Time) {
    assert_eq!(connect(session, now), BASE);
    assert_eq!(actions(session), [Action::RequestPermit]);
    session.on_permit(now);
    assert_eq!(actions(session), [Action::Send(b"IDENTIFY".to_vec())]);
    assert_eq!(feed(session, now, READY), Received::Ready);
    assert_eq!(session.status(), Status::Active);
}

/// Ticks until the session reconnects. Returns the time and the URL.
fn reconnects(session: &mut Session, mut now: Time) -> (Time, String) {
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

fn resumes(session: &mut Session, now: Time, sequence: u64) -> Time {
    let (now, url) = reconnects(session, now);
    assert_eq!(url, RESUME_URL);
    assert_eq!(actions(session), [Action::Send(payload::resume("token", "abc", sequence))]);
    assert_eq!(session.status(), Status::Resuming);
    now
}

fn identifies(session: &mut Session, now: Time) -> Time {
    let (now, url) = reconnects(session, now);
    assert_eq!(url, BASE);
    assert_eq!(actions(session), [Action::RequestPermit]);
    now
}

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

#[test]
fn an_event_out_of_sequence_is_passed_on() {
    let mut session = session();
    active(&mut session, SECOND);
    for sequence in ["3", "1", "2", "null"] {
        let event = format!(r#"{{"t":"GUILD_CREATE","s":{sequence},"op":0,"d":{{}}}}"#);
        assert_eq!(feed(&mut session, SECOND, &event), Received::Dispatch(EventKind::GuildCreate), "{sequence}");
    }
    assert_eq!((session.counters().out_of_sequence, session.counters().gaps), (3, 1));
    assert_eq!(session.take_warning(), Some(Warning::OutOfSequence { sequence: 1, last: 3 }));
    assert_eq!(session.take_warning(), None, "once is enough");
    // The next RESUME names the highest sequence.
    session.on_closed(SECOND * 50, None);
    resumes(&mut session, SECOND * 50, 3);
}

#[test]
fn a_replay_brings_nothing_twice() {
    let mut session = session();
    active(&mut session, SECOND);
    feed(&mut session, SECOND, &dispatch(2));
    session.on_closed(SECOND * 50, None);
    let now = resumes(&mut session, SECOND * 50, 2);
    let passed: Vec<bool> = [1, 2, 5, 3, 4]
        .map(|sequence| feed(&mut session, now, &dispatch(sequence)) == Received::Dispatch(EventKind::TypingStart))
        .into();
    assert_eq!(passed, [false, false, true, true, true]);
    assert_eq!((session.counters().duplicates, session.counters().out_of_sequence), (2, 2));
}

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

#[test]
fn the_end_of_a_replay_needs_no_number_of_its_own() {
    for number in ["null", "1", "2"] {
        let mut session = session();
        active(&mut session, SECOND);
        session.on_closed(SECOND, None);
        let now = resumes(&mut session, SECOND, 1);
        let resumed = format!(r#"{{"t":"RESUMED","s":{number},"op":0,"d":{{}}}}"#);
        assert_eq!(feed(&mut session, now, &resumed), Received::Resumed);
        assert_eq!(session.status(), Status::Active);
        assert_eq!(feed(&mut session, now, &dispatch(3)), Received::Dispatch(EventKind::TypingStart));
    }
}

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

proptest! {
    /// In any order of events, an IDENTIFY goes out only for a permit that was requested and given, the sequence never
    /// falls within a session, and nothing is sent in the fatal state.
    #[test]
    fn invariants_hold(seed in any::<u64>(), steps in prop::collection::vec((0u8..14, 0u64..50_000), 1..300)) {
        let identity = Identity { identify: b"IDENTIFY".to_vec(), token: "token".into() };
        let mut session = Session::new(identity, BASE.into(), None, seed);
        let (mut now, mut asked, mut given, mut identified) = (SECOND, 0u64, 0u64, 0u64);
        let mut sequence = 1;
        for (what, amount) in steps {
            now += Duration::from_millis(amount);
            let before = session.resumption().map(|r| (r.session_id.clone(), r.sequence));
            match what {
                0 => session.on_connected(now),
                1 => session.on_closed(now, None),
                2 => session.on_closed(now, Some(4000 + (amount % 15) as u16)),
                3 if given < asked => { given += 1; session.on_permit(now); }
                4 => { feed(&mut session, now, HELLO); }
                5 => { sequence = 1; feed(&mut session, now, READY); }
                6 => { feed(&mut session, now, r#"{"op":7,"d":null}"#); }
                7 => { feed(&mut session, now, r#"{"op":9,"d":false}"#); }
                8 => { feed(&mut session, now, r#"{"op":9,"d":true}"#); }
                9 => { feed(&mut session, now, r#"{"op":11,"d":null}"#); }
                10 => session.on_malformed(now),
                11 => { sequence += 1 + amount % 2; feed(&mut session, now, &dispatch(sequence)); }
                _ => session.on_tick(now),
            }
            for action in actions(&mut session) {
                match action {
                    Action::RequestPermit => asked += 1,
                    Action::Send(payload) if payload == b"IDENTIFY" => identified += 1,
                    Action::Send(_) | Action::Connect(_) => prop_assert!(session.fatal().is_none()),
                    Action::Close(code) => prop_assert!(code != 1000 && code != 1001),
                }
            }
            prop_assert!(identified <= given && given <= asked);
            if let (Some((id, old)), Some(new)) = (before, session.resumption())
                && id == new.session_id && what != 5
            {
                prop_assert!(new.sequence >= old);
            }
        }
    }
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
