//! Discord's ends of the shard's connections. Payloads of the model become WebSocket frames, compressed if the seed
//! says so, and frames of the core become payloads again.

use crate::{
    discord::{Discord, Frame},
    net::{Net, Payload, Shared},
    trace::{Coverage, note},
    voice::Told,
};
use fastrand::Rng;
use gateway_proxy::{
    compression::{Deflater, Transport},
    net::dial::{ConnectError, DialError, Dialled},
    protocol::Time,
    websocket::{FrameDecoder, Message, Opcode, Role, write_close, write_frame},
};
use std::{io, time::Duration};

/// Capacity in bytes of a socket to Discord.
const SOCKET: usize = 16 << 10;
/// Largest payload in either direction, in bytes.
const LARGEST: usize = 1 << 24;

/// Why the control core could not connect to Discord: one of three reasons.
pub fn connect_error(which: usize) -> ConnectError {
    let url = "wss://gateway.discord.gg".to_owned();
    let failed = |code| DialError::Io(io::Error::from_raw_os_error(code));
    match which {
        // EMFILE and ECONNREFUSED.
        0 => ConnectError::Dial { url, source: failed(24) },
        1 => ConnectError::Dial { url, source: failed(111) },
        _ => ConnectError::Timeout { url, limit: Duration::from_secs(30) },
    }
}

/// Discord's end of one connection.
struct Endpoint {
    socket: u64,
    /// The number of the connection in the model of Discord.
    link: u64,
    inbound: FrameDecoder,
    deflater: Option<Deflater>,
    /// Discord has ended the connection.
    over: bool,
}

impl Endpoint {
    /// Writes a payload as a frame.
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

/// Discord's ends of all connections. See the module's description.
pub struct Endpoints {
    net: Shared,
    transport: Transport,
    endpoints: Vec<Endpoint>,
}

impl Endpoints {
    pub fn new(net: Shared, transport: Transport) -> Self {
        Self { net, transport, endpoints: Vec::new() }
    }

    /// Closes all connections, because the process is gone.
    pub fn clear(&mut self) {
        for endpoint in self.endpoints.drain(..) {
            self.net.borrow_mut().pipe(endpoint.socket).gone = true;
        }
    }

    /// Opens a connection for the core.
    pub fn open(&mut self, now: Time, discord: &mut Discord, rng: &mut Rng) -> Dialled<crate::net::Socket> {
        let socket = Net::open(&self.net, SOCKET);
        let mut deflater = Deflater::new(self.transport);
        if let Some(deflater) = deflater.as_mut().filter(|_| rng.bool()) {
            deflater.start();
        }
        let link = discord.connect(now, rng);
        let inbound = FrameDecoder::new(Role::Server, LARGEST);
        let mut endpoint = Endpoint { socket: socket.id, link, inbound, deflater, over: false };
        let mut received = FrameDecoder::new(Role::Client, LARGEST);
        // HELLO may arrive together with the response to the upgrade.
        if rng.u8(0..4) == 0
            && let Some(Frame::Text { text, .. }) = discord.arrived(Time::MAX)
        {
            received.receive(&endpoint.frame(&text));
        }
        self.endpoints.push(endpoint);
        Dialled { socket, tls: None, inbound: received }
    }

    /// Sends the core the frames that have arrived by now.
    pub fn feed(&mut self, now: Time, discord: &mut Discord, rng: &mut Rng) {
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| !endpoint.over) {
            let mut net = self.net.borrow_mut();
            while discord.link().is_some_and(|(link, _)| link == endpoint.link)
                && let Some(frame) = discord.arrived(now)
            {
                match frame {
                    Frame::Text { text, number, guild, left } => {
                        if !text.contains(r#""op":11,"#) {
                            note(|| format!("proxy: is sent {text:.110}"));
                        }
                        net.push(endpoint.socket, &endpoint.frame(&text));
                        let (dispatch, ready) = (text.starts_with(r#"{"t":""#), text.starts_with(r#"{"t":"READY""#));
                        let counted = dispatch && !text.starts_with(r#"{"t":"RESUMED""#);
                        let voice = Told::by(&text);
                        net.ends_payload(endpoint.socket, Payload { counted, ready, guild, number, left, voice });
                    }
                    Frame::Close(code) => {
                        let mut frame = Vec::new();
                        write_close(&mut frame, Some(code), "", None);
                        net.push(endpoint.socket, &frame);
                        net.end(endpoint.socket);
                        endpoint.over = true;
                        discord.disconnect(now);
                    }
                }
            }
            if !endpoint.over && discord.link().is_none_or(|(link, _)| link != endpoint.link) {
                endpoint.over = true;
                match rng.bool() {
                    true => net.reset(endpoint.socket),
                    false => net.end(endpoint.socket),
                }
            }
        }
    }

    /// Gives the model the payloads that the core has sent. Returns whether there were any.
    pub fn hear(&mut self, now: Time, discord: &mut Discord, rng: &mut Rng, coverage: &mut Coverage) -> bool {
        let mut something = false;
        for endpoint in &mut self.endpoints {
            let (current, frozen) = discord
                .link()
                .filter(|(link, _)| *link == endpoint.link)
                .map_or((false, false), |(_, frozen)| (true, frozen));
            if !frozen {
                loop {
                    let n = self.net.borrow_mut().read(endpoint.socket, endpoint.inbound.space());
                    endpoint.inbound.filled(n);
                    if n == 0 {
                        break;
                    }
                    something = true;
                }
            }
            while let Some(message) = endpoint.inbound.next().expect("the core sends good frames") {
                match message {
                    Message::Text(payload) => {
                        let text = String::from_utf8_lossy(payload);
                        if !text.starts_with(r#"{"op":1,"#) {
                            note(|| format!("discord: hears on {} {text:.110}", endpoint.link));
                        }
                        discord.receive(now, endpoint.link, payload, coverage);
                    }
                    Message::Close(_) | Message::Pong(_) => {}
                    other => panic!("the core sends {other:?}"),
                }
            }
            let mut net = self.net.borrow_mut();
            let pipe = net.pipe(endpoint.socket);
            let closed = pipe.core_closed;
            if pipe.core_ended || closed {
                if current {
                    discord.disconnect(now);
                    // Discord may not answer the close at all.
                    endpoint.over = rng.u8(0..8) == 0;
                    something = true;
                }
                if !endpoint.over {
                    endpoint.over = true;
                    net.end(endpoint.socket);
                    something = true;
                }
            }
            net.pipe(endpoint.socket).gone |= closed;
        }
        let mut net = self.net.borrow_mut();
        self.endpoints.retain(|endpoint| !net.pipe(endpoint.socket).gone || !net.pipe(endpoint.socket).core_closed);
        something
    }

    /// Checks that a sleeping core has received everything that Discord has sent.
    pub fn check(&self) {
        let mut net = self.net.borrow_mut();
        for endpoint in &self.endpoints {
            let pipe = net.pipe(endpoint.socket);
            let unread = !pipe.to_core.is_empty() && !pipe.core_closed && !pipe.core_ended;
            assert!(!unread, "P1: the core sleeps, and does not receive what Discord has sent");
        }
    }
}
