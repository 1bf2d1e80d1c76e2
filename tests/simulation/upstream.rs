//! Discord's ends of the shard's connections: payloads of the model become WebSocket frames, compressed if the seed wants it,
//! and frames of the core become payloads again.

use crate::{
    discord::{Discord, Frame},
    net::{Net, Payload, Shared},
    trace::{Coverage, note},
    voice::Told,
};
use fastrand::Rng;
use gateway_proxy::{
    compression::{Deflater, Transport},
    data_core::Dialled,
    protocol::Time,
    websocket::{Inbound, Message, Opcode, Role, write_close, write_frame},
};

/// What a socket to Discord holds that nobody has read.
const SOCKET: usize = 16 << 10;
/// Largest payload in either direction.
const LARGEST: usize = 1 << 24;

/// One of them.
struct Way {
    socket: u64,
    /// The number by which Discord knows it.
    link: u64,
    inbound: Inbound,
    deflater: Option<Deflater>,
    /// Discord has ended it.
    over: bool,
}

impl Way {
    /// The frame of a text.
    fn frame(&mut self, text: &str) -> Vec<u8> {
        let mut frame = Vec::with_capacity(text.len() + 10);
        match &mut self.deflater {
            None => write_frame(&mut frame, Opcode::Text, text.as_bytes(), None),
            Some(deflater) => {
                let mut message = Vec::new();
                deflater.write(text.as_bytes(), &mut message);
                deflater.flush(&mut message);
                write_frame(&mut frame, Opcode::Binary, &message, None);
            }
        }
        frame
    }
}

/// See the module's description.
pub struct Ways {
    net: Shared,
    transport: Transport,
    ways: Vec<Way>,
}

impl Ways {
    pub fn new(net: Shared, transport: Transport) -> Self {
        Self { net, transport, ways: Vec::new() }
    }

    /// The process is gone, and its sockets with it.
    pub fn clear(&mut self) {
        for way in self.ways.drain(..) {
            self.net.borrow_mut().pipe(way.socket).gone = true;
        }
    }

    /// The core has connected.
    pub fn open(&mut self, now: Time, discord: &mut Discord, rng: &mut Rng) -> Dialled<crate::net::Socket> {
        let socket = Net::open(&self.net, SOCKET);
        let mut deflater = Deflater::new(self.transport);
        if let Some(deflater) = deflater.as_mut().filter(|_| rng.bool()) {
            deflater.start();
        }
        let link = discord.connect(now, rng);
        let inbound = Inbound::new(Role::Server, LARGEST);
        let mut way = Way { socket: socket.id, link, inbound, deflater, over: false };
        let mut received = Inbound::new(Role::Client, LARGEST);
        // HELLO can come with the response to the upgrade.
        if rng.u8(0..4) == 0
            && let Some(Frame::Text { text, .. }) = discord.arrived(Time::MAX)
        {
            received.receive(&way.frame(&text));
        }
        self.ways.push(way);
        Dialled { socket, tls: None, inbound: received }
    }

    /// Hands the core what has arrived by now.
    pub fn feed(&mut self, now: Time, discord: &mut Discord, rng: &mut Rng) {
        for way in self.ways.iter_mut().filter(|way| !way.over) {
            let mut net = self.net.borrow_mut();
            while discord.link().is_some_and(|(link, _)| link == way.link)
                && let Some(frame) = discord.arrived(now)
            {
                match frame {
                    Frame::Text { text, number, guild, left } => {
                        if !text.contains(r#""op":11,"#) {
                            note(|| format!("proxy: is sent {text:.110}"));
                        }
                        net.push(way.socket, &way.frame(&text));
                        let (dispatch, ready) = (text.starts_with(r#"{"t":""#), text.starts_with(r#"{"t":"READY""#));
                        let counted = dispatch && !text.starts_with(r#"{"t":"RESUMED""#);
                        let voice = Told::by(&text);
                        net.ends_payload(way.socket, Payload { counted, ready, guild, number, left, voice });
                    }
                    Frame::Close(code) => {
                        let mut frame = Vec::new();
                        write_close(&mut frame, Some(code), "", None);
                        net.push(way.socket, &frame);
                        net.end(way.socket);
                        way.over = true;
                        discord.disconnect(now);
                    }
                }
            }
            if !way.over && discord.link().is_none_or(|(link, _)| link != way.link) {
                way.over = true;
                match rng.bool() {
                    true => net.reset(way.socket),
                    false => net.end(way.socket),
                }
            }
        }
    }

    /// Hands Discord what the core has sent. Returns whether there was something.
    pub fn hear(&mut self, now: Time, discord: &mut Discord, rng: &mut Rng, coverage: &mut Coverage) -> bool {
        let mut something = false;
        for way in &mut self.ways {
            let (current, frozen) = discord
                .link()
                .filter(|(link, _)| *link == way.link)
                .map_or((false, false), |(_, frozen)| (true, frozen));
            if !frozen {
                loop {
                    let n = self.net.borrow_mut().read(way.socket, way.inbound.space());
                    way.inbound.filled(n);
                    if n == 0 {
                        break;
                    }
                    something = true;
                }
            }
            while let Some(message) = way.inbound.next().expect("the core sends good frames") {
                match message {
                    Message::Text(payload) => {
                        let text = String::from_utf8_lossy(payload);
                        if !text.starts_with(r#"{"op":1,"#) {
                            note(|| format!("discord: hears on {} {text:.110}", way.link));
                        }
                        discord.receive(now, way.link, payload, coverage);
                    }
                    Message::Close(_) | Message::Pong(_) => {}
                    other => panic!("the core sends {other:?}"),
                }
            }
            let mut net = self.net.borrow_mut();
            let pipe = net.pipe(way.socket);
            let closed = pipe.core_closed;
            if pipe.core_ended || closed {
                if current {
                    discord.disconnect(now);
                    // Discord may not answer at all.
                    way.over = rng.u8(0..8) == 0;
                    something = true;
                }
                if !way.over {
                    way.over = true;
                    net.end(way.socket);
                    something = true;
                }
            }
            net.pipe(way.socket).gone |= closed;
        }
        let mut net = self.net.borrow_mut();
        self.ways.retain(|way| !net.pipe(way.socket).gone || !net.pipe(way.socket).core_closed);
        something
    }

    /// The core does not sleep over what Discord has sent.
    pub fn check(&self) {
        let mut net = self.net.borrow_mut();
        for way in &self.ways {
            let pipe = net.pipe(way.socket);
            let unread = !pipe.to_core.is_empty() && !pipe.core_closed && !pipe.core_ended;
            assert!(!unread, "P1: the core sleeps, and does not receive what Discord has sent");
        }
    }
}
