//! A session that Discord keeps alive and sends no events.

use super::*;

#[test]
fn a_mute_session_gets_acknowledgements_and_no_events() {
    let mut sim = Sim::new(1);
    let (key, session) = sim.ready(0, ALL);
    sim.gateway.mute(0, Some("TYPING_START"), true);
    sim.gateway.dispatch(0, "TYPING_START", "{}");
    sim.emit(0, 1);
    assert_eq!(names(&sim.read(key)), ["MESSAGE_CREATE"]);
    sim.gateway.mute(0, None, false);
    sim.emit(0, 3);
    sim.send(key, 1, json!(null));
    let payloads = sim.read(key);
    assert_eq!(payloads.iter().map(|payload| &payload["op"]).collect::<Vec<_>>(), [11]);
    for (until_resume, expected) in [(false, &["RESUMED"][..]), (true, &["RESUMED", "MESSAGE_CREATE"])] {
        sim.gateway.mute(0, None, until_resume);
        let sequence = sim.gateway.sessions.values().next().unwrap().sequence();
        let key = sim.connect();
        sim.resume(key, &session, sequence);
        sim.emit(0, 1);
        assert_eq!(names(&sim.read(key)), expected);
    }
    sim.gateway.mute(0, None, false);
    let (key, _) = sim.ready(0, ALL);
    sim.emit(0, 1);
    assert_eq!(names(&sim.read(key)), ["MESSAGE_CREATE"], "a new session gets everything");
    assert!(sim.violations().is_empty());
}
