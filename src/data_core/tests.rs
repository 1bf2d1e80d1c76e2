//! A core's tasks: a panic in one shard, seen from Discord's side; a client that nothing wakes but its own socket.

use super::*;
use crate::{
    downstream::outbox::Outbox,
    net::{mailbox::mailbox, tls},
    protocol::{Encoding, intents::Intents},
    websocket::{Inbound, Message, Opcode, Role, server_response, upgrade_of, write_frame},
};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
};

/// Discord's end of one connection.
struct Peer {
    stream: TcpStream,
    inbound: Inbound,
}

impl Peer {
    fn accept(listener: &TcpListener) -> Self {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        assert!(request.parse(&head).unwrap().is_complete());
        let upgrade = upgrade_of(request.headers).unwrap().unwrap();
        stream.write_all(server_response(&upgrade).as_bytes()).unwrap();
        let mut peer = Self { stream, inbound: Inbound::new(Role::Server, 1 << 20) };
        peer.say(r#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}}"#);
        peer
    }

    fn say(&mut self, payload: &str) {
        let mut frame = Vec::new();
        write_frame(&mut frame, Opcode::Text, payload.as_bytes(), None);
        self.stream.write_all(&frame).unwrap();
    }

    /// The next payload with this opcode; `None` when the connection ends before.
    fn hears(&mut self, op: u64) -> Option<serde_json::Value> {
        loop {
            while let Some(message) = self.inbound.next().unwrap() {
                match message {
                    Message::Text(text) => {
                        let payload: serde_json::Value = serde_json::from_slice(text).unwrap();
                        if payload["op"] == op {
                            return Some(payload);
                        }
                    }
                    Message::Close(_) => return None,
                    _ => {}
                }
            }
            match self.stream.read(self.inbound.space()) {
                Ok(n) if n > 0 => self.inbound.filled(n),
                _ => return None,
            }
        }
    }

    /// IDENTIFY, answered with READY; returns the shard.
    fn identified(&mut self) -> u64 {
        let identify = self.hears(2).expect("IDENTIFY");
        self.say(
            r#"{"t":"READY","s":1,"op":0,"d":{"v":10,"user":{"id":"1"},"guilds":[],"session_id":"x","resume_gateway_url":"ws://127.0.0.1:1","application":{"id":"1","flags":0}}}"#,
        );
        identify["d"]["shard"][0].as_u64().unwrap()
    }
}

fn plan(shards: Vec<u32>, gateway_url: String) -> Plan {
    Plan {
        shard_count: shards.len() as u32,
        shards,
        presences: vec![],
        token: "t".into(),
        gateway_url,
        intents: 1,
        transport: crate::compression::Transport::None,
        public_url: "ws://proxy".into(),
        log: crate::log::Limits { bytes: 1 << 20, entries: 10 },
        resume_window: Duration::from_secs(1),
        cache: crate::cache::Flags::ALL,
        honor_client_intents: true,
        state_dir: None,
        tls: tls::client_config().unwrap(),
    }
}

/// Serves one client, whose outbox already has `waiting` in it, on a core without a clock and with a shard that is never
/// connected: nothing wakes the client's task but what belongs to it. `talk` has the client's end.
fn serve_alone(stopping: bool, waiting: &'static [u8], talk: impl FnOnce(&mut TcpStream, &mut Inbound)) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    far.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let near = listener.accept().unwrap().0;
    let executor = glommio::LocalExecutorBuilder::default().io_memory(65_536).spawn(move || async move {
        let plan = Box::new(plan(vec![0], "ws://127.0.0.1:1".into()));
        let place = Rc::new(Place {
            shard: RefCell::new(Core::new_shard(&plan, 0)),
            upstream: RefCell::new(None),
            clients: RefCell::new(HashMap::new()),
            broken: Cell::new(false),
        });
        let core = Rc::new(Core {
            plan,
            epoch: Instant::now(),
            control: mailbox().0,
            places: HashMap::new(),
            next_connection: Cell::new(0),
            stopping: Cell::new(stopping),
        });
        let mut outbox = Outbox::new(Transport::None, Encoding::Json);
        outbox.message(&[waiting]);
        let parcel = Parcel { socket: near.into(), inbound: Inbound::new(Role::Server, 4096), outbox };
        let options = Options { intents: Intents::ALL, version: 10, compress: false };
        client::serve(core, place, Arrival { parcel, shard: 0, entry: Entry::Identify(options), version: 10 }).await;
    });
    talk(&mut far, &mut Inbound::new(Role::Client, 1 << 20));
    drop(far);
    executor.unwrap().join().unwrap();
}

/// Reads up to a message that is wanted.
fn read_until(far: &mut TcpStream, inbound: &mut Inbound, wanted: impl Fn(&Message) -> bool) {
    loop {
        while let Some(message) = inbound.next().unwrap() {
            if wanted(&message) {
                return;
            }
        }
        let n = far.read(inbound.space()).expect("it is answered");
        assert_ne!(n, 0, "the connection has ended");
        inbound.filled(n);
    }
}

#[test]
fn a_client_that_could_not_be_listened_to_is_heard_afterwards() {
    serve_alone(false, &[b' '; 100_000], |far, inbound| {
        read_until(far, inbound, |message| matches!(message, Message::Text(text) if text.len() == 100_000));
        // Its task has nothing to send any more, and has to wait for this.
        thread::sleep(Duration::from_millis(200));
        let mut beat = Vec::new();
        write_frame(&mut beat, Opcode::Text, br#"{"op":1,"d":null}"#, Some([1, 2, 3, 4]));
        far.write_all(&beat).unwrap();
        read_until(far, inbound, |message| matches!(message, Message::Text(text) if text == &payload::HEARTBEAT_ACK));
    });
}

#[test]
fn a_client_that_comes_too_late_is_sent_away() {
    serve_alone(true, b"{}", |far, inbound| {
        read_until(far, inbound, |message| matches!(message, Message::Close(Some((4000, _)))));
    });
}

#[test]
fn a_panic_restarts_its_shard_and_no_other() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let (to_core, core_mailbox) = mailbox();
    let (to_control, mut from_core) = mailbox();
    let core = glommio::LocalExecutorBuilder::default()
        .name("data")
        .spawn(move || run(core_mailbox, to_control, Instant::now()))
        .unwrap();
    let to_core = std::sync::Arc::new(to_core);
    let ticked = std::sync::Arc::downgrade(&to_core);
    let metronome = thread::spawn(move || {
        while let Some(core) = ticked.upgrade() {
            let _ = core.send(ToCore::Tick);
            drop(core);
            thread::sleep(TICK);
        }
    });
    let (granting, ended) = (to_core.clone(), mpsc::channel::<()>());
    let (done, stop) = ended;
    // The control core: whoever wants to identify may.
    let control = glommio::LocalExecutorBuilder::default()
        .name("control")
        .spawn(move || async move {
            loop {
                match from_core.receive().await {
                    ToControl::WantPermit(shard) => drop(granting.send(ToCore::Permit(shard))),
                    ToControl::Stopped => return drop(done),
                    _ => {}
                }
            }
        })
        .unwrap();
    let plan = plan(vec![0, 1], url);
    assert!(to_core.send(ToCore::Start(Box::new(plan))).is_ok());

    let mut peers = [None, None];
    for _ in 0..2 {
        let mut peer = Peer::accept(&listener);
        let shard = peer.identified() as usize;
        peers[shard] = Some(peer);
    }
    let [Some(mut first), Some(mut second)] = peers else { panic!("both shards identify") };
    // In its own task, and in one that it shares with its neighbour.
    for event in ["PANIC_IN_A_TEST", "PANIC_AT_A_TICK_IN_A_TEST"] {
        first.say(&format!(r#"{{"t":"{event}","s":2,"op":0,"d":{{}}}}"#));
        assert_eq!(first.hears(99), None, "its connection is gone");
        first = Peer::accept(&listener);
        assert_eq!(first.identified(), 0, "it starts anew");
        // The neighbour is still there and answers.
        second.say(r#"{"t":null,"s":null,"op":1,"d":null}"#);
        assert!(second.hears(1).is_some());
    }

    assert!(to_core.send(ToCore::Stop).is_ok());
    let drain = thread::spawn(move || while first.hears(99).is_some() {});
    assert!(
        stop.recv_timeout(Duration::from_secs(30)).is_err_and(|error| error == mpsc::RecvTimeoutError::Disconnected)
    );
    drop(second);
    drain.join().unwrap();
    core.join().unwrap();
    control.join().unwrap();
    drop(to_core);
    metronome.join().unwrap();
}
