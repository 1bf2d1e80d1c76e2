//! Test of what always holds, on random histories of a connection.

use super::*;
use proptest::prelude::*;

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
