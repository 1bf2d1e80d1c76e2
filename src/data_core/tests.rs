//! Tests of a data core on its own thread: a panic affects one shard or one client only, and a client is served that
//! nothing but its own socket wakes.

mod crowd;

use super::*;
use crate::{
    compression::Transport,
    downstream::outbox::Outbox,
    downstream::session::Options,
    io::wake::Waker,
    net::{
        dial::{ConnectError, dial},
        mailbox::{core_mailbox, mailbox},
        tls,
    },
    protocol::{Encoding, intents::Intents},
    websocket::{Endpoint, FrameDecoder, Message, Opcode, Role, server_response, upgrade_of, write_frame},
};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, mpsc},
    thread,
};

/// Discord's end of one connection.
struct Peer {
    stream: TcpStream,
    inbound: FrameDecoder,
    sequence: u64,
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
        let mut peer = Self { stream, inbound: FrameDecoder::new(Role::Server, 1 << 20), sequence: 1 };
        peer.say(r#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}}"#);
        peer
    }

    fn say(&mut self, payload: &str) {
        let mut frame = Vec::new();
        write_frame(&mut frame, Opcode::Text, payload.as_bytes(), None);
        self.stream.write_all(&frame).unwrap();
    }

    fn dispatches(&mut self, name: &str) {
        self.sequence += 1;
        self.say(&format!(r#"{{"t":"{name}","s":{},"op":0,"d":{{}}}}"#, self.sequence));
    }

    /// Returns the next payload with this opcode; `None`: the connection ends before.
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

    /// Receives IDENTIFY and answers with READY. Returns the shard that identifies.
    fn identified(&mut self) -> u64 {
        let identify = self.hears(2).expect("IDENTIFY");
        self.say(
            r#"{"t":"READY","s":1,"op":0,"d":{"v":10,"user":{"id":"1"},"guilds":[],"session_id":"x","resume_gateway_url":"ws://127.0.0.1:1","application":{"id":"1","flags":0}}}"#,
        );
        identify["d"]["shard"][0].as_u64().unwrap()
    }
}

fn core_config(shards: Vec<u32>, gateway_url: String) -> CoreConfig {
    CoreConfig {
        index: 0,
        shard_count: shards.len() as u32,
        shards,
        presences: vec![],
        token: "t".into(),
        gateway_url,
        intents: 1,
        transport: Transport::None,
        public_url: "ws://proxy".into(),
        log: crate::log::Limits { bytes: 1 << 20, entries: 10 },
        resume_window: Duration::from_secs(60),
        cache: crate::cache::Flags::ALL,
        prefetch_members: false,
        honor_client_intents: true,
        denied: Default::default(),
        voice_grace: Duration::from_secs(60),
        voice_rejoin: false,
        state_dir: None,
        forward_opcodes: Vec::new(),
        memory: Arc::default(),
        credentials: Default::default(),
    }
}

/// Reads messages up to the first one that is wanted.
fn read_until(far: &mut TcpStream, inbound: &mut FrameDecoder, wanted: impl Fn(&Message) -> bool) {
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

/// A data core on a thread, and a control core that permits every IDENTIFY and makes the connections.
struct Rig {
    listener: TcpListener,
    core: Arc<Postbox<ToCore>>,
    /// One message for each panic that the core reports.
    panics: mpsc::Receiver<()>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Rig {
    fn start(shards: Vec<u32>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let waker = Waker::new().unwrap();
        let (to_core, mailbox_of_core) = core_mailbox(waker.clone());
        let (to_control, mut from_core) = mailbox();
        let run = thread::spawn(move || run(mailbox_of_core, waker, to_control, Instant::now()));
        let core = Arc::new(to_core);
        let answering = Arc::downgrade(&core);
        let (panicked, panics) = mpsc::channel();
        let tls = tls::client_config().unwrap();
        let control = glommio::LocalExecutorBuilder::default()
            .name("control")
            .spawn(move || async move {
                loop {
                    match (from_core.receive().await, answering.upgrade()) {
                        (ToControl::WantPermit(shard), Some(core)) => drop(core.send(ToCore::Permit(shard))),
                        (ToControl::Dial { shard, attempt, url }, Some(core)) => {
                            let tls = tls.clone();
                            let dialled = async move {
                                let dialled = dial(&Endpoint::parse(&url).unwrap(), "v=10", tls).await;
                                let result =
                                    dialled.map(Box::new).map_err(|source| ConnectError::Dial { url, source }.into());
                                drop(core.send(ToCore::Dialled { shard, attempt, result }));
                            };
                            glommio::spawn_local(dialled).detach();
                        }
                        (ToControl::Panicked, _) => drop(panicked.send(())),
                        (ToControl::Stopped, _) => return,
                        _ => {}
                    }
                }
            })
            .unwrap();
        assert!(core.send(ToCore::Start(Box::new(core_config(shards, url)))).is_ok());
        let threads = vec![run, thread::spawn(move || control.join().unwrap())];
        Self { listener, core, panics, threads }
    }

    /// Sends the core a client that identifies with this shard. Returns the far end of its connection.
    fn client(&self, shard: u32) -> Far {
        self.client_with(shard, Outbox::new(Transport::None, Encoding::Json))
    }

    /// Like [`Rig::client`], with the outbox of the client given.
    fn client_with(&self, shard: u32, outbox: Outbox) -> Far {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let parts = ConnectionParts {
            socket: listener.accept().unwrap().0.into(),
            inbound: FrameDecoder::new(Role::Server, 4096),
            outbox,
        };
        let options = Options { intents: Intents::ALL, version: 10, compress: false, library: Default::default() };
        let new_client =
            NewClient { parts, shard, request: SessionRequest::Identify(options), visitor: Default::default() };
        assert!(self.core.send(ToCore::Client(Box::new(new_client))).is_ok());
        Far { stream, inbound: FrameDecoder::new(Role::Client, 1 << 20) }
    }

    /// Stops the core and waits for its threads, while Discord's ends of the connections read on.
    fn stop(self, peers: impl IntoIterator<Item = Peer>) {
        // The test may have stopped the core already.
        let _ = self.core.send(ToCore::Stop);
        let drains = peers.into_iter().map(|mut peer| thread::spawn(move || while peer.hears(99).is_some() {}));
        let drains: Vec<_> = drains.collect();
        drop(self.core);
        for thread in drains.into_iter().chain(self.threads) {
            thread.join().unwrap();
        }
    }
}

/// The client's end of a connection.
struct Far<S = TcpStream> {
    stream: S,
    inbound: FrameDecoder,
}

impl<S: Read> Far<S> {
    /// Returns the next event with this name; `None`: the connection ends before, or its socket does not block and has
    /// no more bytes.
    fn hears(&mut self, name: &str) -> Option<serde_json::Value> {
        loop {
            while let Some(message) = self.inbound.next().unwrap() {
                if let Message::Text(text) = message {
                    let payload: serde_json::Value = serde_json::from_slice(text).unwrap();
                    if payload["t"] == name {
                        return Some(payload);
                    }
                }
            }
            match self.stream.read(self.inbound.space()) {
                Ok(n) if n > 0 => self.inbound.filled(n),
                _ => return None,
            }
        }
    }
}

#[test]
fn a_client_that_could_not_be_listened_to_is_heard_afterwards() {
    let rig = Rig::start(vec![0]);
    let mut outbox = Outbox::new(Transport::None, Encoding::Json);
    outbox.message(&[&[b' '; 100_000]]);
    let Far { stream: mut far, mut inbound } = rig.client_with(0, outbox);
    read_until(&mut far, &mut inbound, |message| matches!(message, Message::Text(text) if text.len() == 100_000));
    // Nothing is left to send to the client, so the core sleeps. The heartbeat has to wake it.
    thread::sleep(Duration::from_millis(200));
    let mut beat = Vec::new();
    write_frame(&mut beat, Opcode::Text, br#"{"op":1,"d":null}"#, Some([1, 2, 3, 4]));
    far.write_all(&beat).unwrap();
    read_until(
        &mut far,
        &mut inbound,
        |message| matches!(message, Message::Text(text) if text == &payload::HEARTBEAT_ACK),
    );
    drop(far);
    rig.stop([]);
}

/// After the close frame the core ends its side of the stream at once, also when nothing else wakes the core. A core
/// that sleeps instead drops the whole connection when its time is over, and then takes no more bytes.
#[test]
fn the_end_of_a_connection_follows_its_close_frame_on_an_idle_core() {
    let rig = Rig::start(vec![0]);
    let mut peer = Peer::accept(&rig.listener);
    peer.identified();
    let mut client = rig.client(0);
    assert!(client.hears("READY").is_some());
    let Far { stream: mut far, mut inbound } = client;
    // The core is idle before the client closes, and its next heartbeat is far away.
    thread::sleep(Duration::from_millis(200));
    let mut close = Vec::new();
    write_frame(&mut close, Opcode::Close, &1000u16.to_be_bytes(), Some([1, 2, 3, 4]));
    far.write_all(&close).unwrap();
    read_until(&mut far, &mut inbound, |message| matches!(message, Message::Close(Some((1000, _)))));
    assert_eq!(far.read(&mut [0]).unwrap(), 0, "the core ends its side");
    far.write_all(&[0]).unwrap();
    thread::sleep(Duration::from_millis(50));
    far.write_all(&[0]).expect("the core still takes bytes of the client");
    drop(far);
    rig.stop([peer]);
}

#[test]
fn a_client_that_comes_too_late_is_sent_away() {
    let rig = Rig::start(vec![0]);
    // This client does not close its connection, so the stopping core waits for it.
    let silent = rig.client(0);
    assert!(rig.core.send(ToCore::Stop).is_ok());
    let Far { stream: mut far, mut inbound } = rig.client(0);
    read_until(&mut far, &mut inbound, |message| matches!(message, Message::Close(Some((4000, _)))));
    drop((far, silent));
    rig.stop([]);
}

#[test]
fn a_panic_restarts_its_shard_and_no_other() {
    let rig = Rig::start(vec![0, 1]);
    let mut peers = [None, None];
    for _ in 0..2 {
        let mut peer = Peer::accept(&rig.listener);
        let shard = peer.identified() as usize;
        peers[shard] = Some(peer);
    }
    let [Some(mut first), Some(mut second)] = peers else { panic!("both shards identify") };
    // The shard panics in two places.
    for name in ["PANIC_IN_A_TEST", "PANIC_AT_A_TICK_IN_A_TEST"] {
        first.dispatches(name);
        assert_eq!(first.hears(99), None, "its connection is gone");
        first = Peer::accept(&rig.listener);
        assert_eq!(first.identified(), 0, "it starts anew");
        // The other shard goes on and answers.
        second.say(r#"{"t":null,"s":null,"op":1,"d":null}"#);
        assert!(second.hears(1).is_some());
    }
    rig.stop([first, second]);
}

/// A panic while the only client of a shard is served ends the connection of that client. The session of the shard goes
/// on.
#[test]
fn a_panic_for_a_client_costs_that_client_its_connection_and_nobody_else_anything() {
    let rig = Rig::start(vec![0]);
    let mut peer = Peer::accept(&rig.listener);
    peer.identified();
    let mut client = rig.client(0);
    assert!(client.hears("READY").is_some());
    // Gives the core time to become idle.
    thread::sleep(Duration::from_millis(100));
    peer.dispatches("AN_EVENT");
    assert!(client.hears("AN_EVENT").is_some());
    peer.dispatches("PANIC_FOR_A_CLIENT_IN_A_TEST");
    assert_eq!(client.hears("PANIC_FOR_A_CLIENT_IN_A_TEST"), None, "its connection is dropped");
    assert!(rig.panics.recv_timeout(Duration::from_secs(30)).is_ok(), "it is counted");
    // The session of the shard goes on, and serves another client.
    let mut other = rig.client(0);
    assert!(other.hears("READY").is_some());
    peer.dispatches("ANOTHER_EVENT");
    assert!(other.hears("ANOTHER_EVENT").is_some());
    assert!(rig.panics.try_recv().is_err(), "nothing else has panicked");
    rig.stop([peer]);
}

/// Every client of a shard gets every event, also when clients come and go.
#[test]
fn one_client_or_several_get_every_event() {
    let rig = Rig::start(vec![0]);
    let mut peer = Peer::accept(&rig.listener);
    peer.identified();
    let mut clients: Vec<Far> = Vec::new();
    for number in 0..3 {
        let mut client = rig.client(0);
        assert!(client.hears("READY").is_some());
        clients.push(client);
        for round in 0..20 {
            let name = format!("EVENT_{number}_{round}");
            peer.dispatches(&name);
            for client in &mut clients {
                assert!(client.hears(&name).is_some(), "{name}");
            }
        }
    }
    // Clients that have left do not delay the one that stays.
    clients.truncate(1);
    for round in 0..20 {
        let name = format!("EVENT_{round}");
        peer.dispatches(&name);
        assert!(clients[0].hears(&name).is_some());
    }
    rig.stop([peer]);
}
