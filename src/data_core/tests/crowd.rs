//! Tests with many clients that arrive at once while another client is connected already. The test calls each turn of
//! the core itself, so it sees what each turn sends.

use super::*;
use crate::{
    data_core::{
        admission::NEWCOMER,
        serve::{SERVE_COST, TURN_BYTES},
    },
    net::{dial::Dialled, mailbox::Mailbox},
};
use std::os::{fd::OwnedFd, unix::net::UnixStream};

const SHARD: u32 = 0;

/// A core whose turns the test calls one by one, and Discord's end of the connection of its only shard.
struct Stepped {
    core: DataCore<Uring>,
    to_core: Postbox<ToCore>,
    discord: UnixStream,
    sequence: u64,
    _control: Mailbox<ToControl>,
}

/// Makes a pair of sockets: a near end for the core, and a far end that does not block.
fn pair() -> (OwnedFd, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    (near.into(), far)
}

impl Stepped {
    fn start() -> Self {
        let waker = Waker::new().unwrap();
        let io = Uring::new(waker.clone(), Instant::now()).unwrap();
        let (to_core, mailbox_of_core) = core_mailbox(waker);
        let (to_control, control) = mailbox();
        let dependencies = Dependencies {
            states: Box::new(NoStates),
            entropy: Box::new(|| Box::new(|bytes: &mut [u8]| bytes.fill(7))),
        };
        let config = Box::new(core_config(vec![SHARD], "ws://127.0.0.1:1".into()));
        let core = DataCore::start(config, io, mailbox_of_core, to_control, dependencies);
        let (near, discord) = pair();
        let mut stepped = Self { core, to_core, discord, sequence: 0, _control: control };
        stepped.turns(2);
        let inbound = FrameDecoder::new(Role::Client, 1 << 20);
        let dialled = Box::new(Dialled { socket: near, tls: None, inbound });
        stepped.send(ToCore::Dialled { shard: SHARD, attempt: 1, result: Ok(dialled) });
        stepped.say(r#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}}"#);
        stepped.turns(4);
        stepped.send(ToCore::Permit(SHARD));
        stepped.turns(4);
        stepped.dispatch("READY", r#"{"v":10,"user":{"id":"1"},"guilds":[],"session_id":"x","resume_gateway_url":"ws://127.0.0.1:1","application":{"id":"1","flags":0}}"#);
        stepped.turns(4);
        stepped
    }

    fn send(&self, message: ToCore) {
        assert!(self.to_core.send(message).is_ok());
    }

    /// Runs `count` turns. The core is woken for each of them, so none sleeps.
    fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.core.mail = true;
            assert!(self.core.turn());
        }
    }

    fn say(&mut self, payload: &str) {
        let mut frame = Vec::new();
        write_frame(&mut frame, Opcode::Text, payload.as_bytes(), None);
        self.discord.write_all(&frame).unwrap();
    }

    fn dispatch(&mut self, name: &str, data: &str) {
        self.sequence += 1;
        self.say(&format!(r#"{{"t":"{name}","s":{},"op":0,"d":{data}}}"#, self.sequence));
    }

    /// Sends the core a client that identifies. Returns the far end of its connection.
    fn client(&self) -> Far<UnixStream> {
        let (near, far) = pair();
        let outbox = Outbox::new(Transport::None, Encoding::Json);
        let parts = ConnectionParts { socket: near, inbound: FrameDecoder::new(Role::Server, 4096), outbox };
        let options = Options { intents: Intents::ALL, version: 10, compress: false, library: Default::default() };
        let request = SessionRequest::Identify(options);
        self.send(ToCore::Client(Box::new(NewClient { parts, shard: SHARD, request, visitor: Default::default() })));
        Far { stream: far, inbound: FrameDecoder::new(Role::Client, 1 << 20) }
    }
}

#[test]
fn clients_that_arrive_at_once_are_served_after_those_that_were_there() {
    const CROWD: usize = 200;
    let mut stepped = Stepped::start();
    let mut settled = stepped.client();
    stepped.turns(4);
    assert!(settled.hears("READY").is_some());
    thread::sleep(NEWCOMER);
    let mut crowd: Vec<_> = (0..CROWD).map(|_| stepped.client()).collect();
    stepped.turns(CROWD);
    for client in &mut crowd {
        assert!(client.hears("READY").is_some());
    }
    let most = TURN_BYTES / SERVE_COST;
    for round in 0..3 {
        let name = format!("EVENT_{round}");
        stepped.dispatch(&name, "{}");
        let mut turns = 0;
        while settled.hears(&name).is_none() {
            stepped.turns(1);
            turns += 1;
            assert!(turns < 10, "the client that was there waits for the others");
        }
        // The sends of a turn are given to the kernel at the beginning of the next turn.
        let served = crowd.iter_mut().filter_map(|client| client.hears(&name)).count();
        assert!(served <= 2 * most, "{served} clients of the crowd were served before it, at most {most} a turn");
        stepped.turns(CROWD / most + 2);
        let rest = crowd.iter_mut().filter_map(|client| client.hears(&name)).count();
        assert_eq!(served + rest, CROWD, "everyone gets it in the end");
    }
}
