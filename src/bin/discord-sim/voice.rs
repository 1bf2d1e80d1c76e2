//! A voice server: the voice gateway, versions 4 to 8 (docs: Voice Connections), and the answer to IP discovery.
//!
//! After HELLO a client identifies or resumes with the credentials from the main gateway, and gets READY or RESUMED.
//! SELECT PROTOCOL is answered with SESSION DESCRIPTION, and from then on the library counts as connected. Credentials
//! with the token of another session, of another guild, or of an earlier voice connection are refused with Discord's
//! close codes. Voice is never passed on: a UDP packet that is not an IP discovery request is dropped.

use crate::gateway::Gateway;
use crate::gateway::voice::{Credentials, VoiceClose};
use crate::link::Link;
use crate::server::Server;
use futures_lite::FutureExt;
use gateway_proxy::websocket::{FrameDecoder, Message, Opcode, write_close, write_frame};
use glommio::timer::sleep;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;
use std::time::Duration;
use world::json::{self, Object};

/// Versions of the voice gateway that the simulator speaks.
pub const VERSIONS: std::ops::RangeInclusive<u64> = 4..=8;
/// Largest message of a voice client, in bytes.
pub const MAX_MESSAGE: usize = 64 << 10;
/// `heartbeat_interval` of HELLO, in milliseconds.
const HEARTBEAT_INTERVAL: u64 = 13_750;
/// Interval at which a connection checks whether its voice token is still good.
const LOOK: Duration = Duration::from_millis(25);
/// Modes of transport encryption that are not deprecated. Discord requires support for the second one.
const MODES: [&str; 2] = ["aead_aes256_gcm_rtpsize", "aead_xchacha20_poly1305_rtpsize"];
/// A mode that Discord dropped in November 2024, and that older libraries still need.
const OLD_MODE: &str = "xsalsa20_poly1305";
/// Time after which an IP discovery request is answered. discord.py 2.7.1 begins to listen for the answer only after it
/// has sent the request (gateway.py:1104), and waits for ever if the answer was there before. No voice server across a
/// network answers that fast.
const ROUND_TRIP: Duration = Duration::from_millis(100);
/// Length in bytes of an IP discovery packet: type, length, ssrc, address, port.
const DISCOVERY: usize = 74;

#[derive(Deserialize)]
struct Payload<'a> {
    op: u64,
    #[serde(borrow, default)]
    d: Option<&'a RawValue>,
}

/// The data of op 0 (IDENTIFY) and op 7 (RESUME).
#[derive(Deserialize)]
struct Introduction {
    server_id: Id,
    #[serde(default)]
    user_id: Option<Id>,
    session_id: String,
    token: String,
}

/// The data of op 1 (SELECT PROTOCOL).
#[derive(Deserialize)]
struct SelectProtocol {
    protocol: String,
    data: Selected,
}

#[derive(Deserialize)]
struct Selected {
    mode: String,
}

/// A snowflake, which clients send as a string or as a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(u64),
}

impl Id {
    fn get(&self) -> u64 {
        match self {
            Self::Text(text) => text.parse().unwrap_or(0),
            Self::Number(number) => *number,
        }
    }
}

/// The protocol of one voice connection. Pure.
pub struct Voice {
    version: u64,
    udp: SocketAddr,
    modes: Vec<&'static str>,
    /// The guild of the connection, and the number of the grant that it identified with.
    granted: Option<(u64, u64)>,
}

impl Voice {
    /// A new connection that speaks this version. READY names `udp` as the address for voice packets. With `old`, READY
    /// also offers a mode that Discord no longer offers.
    pub fn new(version: u64, udp: SocketAddr, old: bool) -> Self {
        let modes = MODES.into_iter().chain(old.then_some(OLD_MODE)).collect();
        Self { version, udp, modes, granted: None }
    }

    /// HELLO, the first payload of a connection.
    pub fn hello(&self) -> String {
        let data = Object::new().int("v", self.version).int("heartbeat_interval", HEARTBEAT_INTERVAL).finish();
        payload(8, &data)
    }

    /// Handles one message, and returns the answer, if there is one.
    pub fn receive(&mut self, gateway: &mut Gateway, message: &[u8]) -> Result<Option<String>, VoiceClose> {
        let Payload { op, d } = serde_json::from_slice(message).map_err(|_| VoiceClose::Malformed)?;
        let data = d.map_or("null", RawValue::get);
        match (op, self.granted) {
            (3, _) => Ok(Some(self.acknowledge(data))),
            (0 | 7, Some(_)) => Err(VoiceClose::AlreadyAuthenticated),
            (0 | 7, None) => self.introduce(gateway, op == 7, data).map(Some),
            (_, None) => Err(VoiceClose::NotAuthenticated),
            (1, Some((guild, _))) => self.select(gateway, guild, data).map(Some),
            // Op 5 (Speaking), and the ops for video and end-to-end encryption, get no answer.
            _ => Ok(None),
        }
    }

    fn introduce(&mut self, gateway: &mut Gateway, resumes: bool, data: &str) -> Result<String, VoiceClose> {
        let introduction: Introduction = serde_json::from_str(data).map_err(|_| VoiceClose::Malformed)?;
        let user = introduction.user_id.as_ref().map(Id::get);
        if !resumes && user.is_none() {
            return Err(VoiceClose::Malformed);
        }
        let server = introduction.server_id.get();
        let credentials = Credentials { server, user, session: &introduction.session_id, token: &introduction.token };
        let number = gateway.voice_credentials(&credentials, resumes)?;
        self.granted = Some((server, number));
        if resumes {
            gateway.voice.described(server);
            return Ok(payload(9, "null"));
        }
        let modes = json::array(self.modes.iter().map(|mode| json::string(mode)));
        let ready = Object::new()
            .int("ssrc", number)
            .str("ip", &self.udp.ip().to_string())
            .int("port", u64::from(self.udp.port()))
            .raw("modes", &modes)
            .raw("experiments", "[]")
            .finish();
        Ok(payload(2, &ready))
    }

    fn acknowledge(&self, data: &str) -> String {
        // Since version 8 the heartbeat's data is an object with the nonce and the number of the last message.
        let nonce = if self.version >= 8 { json::field(data, "t").unwrap_or("null") } else { data };
        match self.version {
            8.. => payload(6, &Object::new().raw("t", nonce).finish()),
            _ => payload(6, nonce),
        }
    }

    fn select(&self, gateway: &mut Gateway, guild: u64, data: &str) -> Result<String, VoiceClose> {
        let select: SelectProtocol = serde_json::from_str(data).map_err(|_| VoiceClose::Malformed)?;
        if select.protocol != "udp" {
            return Err(VoiceClose::UnknownProtocol);
        }
        if !self.modes.contains(&select.data.mode.as_str()) {
            return Err(VoiceClose::UnknownMode);
        }
        gateway.voice.described(guild);
        let key = json::array((0..32).map(|byte| byte.to_string()));
        let description = Object::new()
            .str("mode", &select.data.mode)
            .raw("secret_key", &key)
            .str("audio_codec", "opus")
            .str("media_session_id", "0")
            .int("dave_protocol_version", 0)
            .finish();
        Ok(payload(4, &description))
    }

    /// The close when the connection's grant is no longer good, otherwise `None`.
    pub fn is_over(&self, gateway: &Gateway) -> Option<VoiceClose> {
        let (guild, number) = self.granted?;
        (!gateway.voice.is_good(guild, number)).then_some(VoiceClose::Disconnected)
    }
}

fn payload(op: u64, data: &str) -> String {
    format!(r#"{{"op":{op},"d":{data}}}"#)
}

/// Serves one voice connection after its WebSocket handshake.
pub async fn serve(server: Rc<Server>, mut link: Link, mut inbound: FrameDecoder, version: u64) -> io::Result<()> {
    let mut voice = Voice::new(version, server.voice_udp, server.old_voice_modes);
    write_frame(&mut link.out, Opcode::Text, voice.hello().as_bytes(), None);
    let close = converse(&server, &mut voice, &mut link, &mut inbound).await;
    if let Some((guild, number)) = voice.granted {
        server.gateway.borrow_mut().voice.ended(guild, number);
    }
    if let Some((code, reason)) = close? {
        write_close(&mut link.out, code, &reason, None);
    }
    link.finish().await;
    Ok(())
}

/// Serves a connection until it ends, and returns the close code to send, if there is one.
async fn converse(
    server: &Server,
    voice: &mut Voice,
    link: &mut Link,
    inbound: &mut FrameDecoder,
) -> io::Result<Option<(Option<u16>, String)>> {
    loop {
        loop {
            let mut gateway = server.gateway.borrow_mut();
            let answer = match inbound.next() {
                Ok(None) => break,
                Ok(Some(Message::Text(text))) => voice.receive(&mut gateway, text),
                Ok(Some(Message::Ping(bytes))) => {
                    write_frame(&mut link.out, Opcode::Pong, bytes, None);
                    continue;
                }
                Ok(Some(Message::Close(close))) => return Ok(Some((close.map(|(code, _)| code), String::new()))),
                Ok(Some(Message::Binary(_) | Message::Pong(_))) => continue,
                Err(violation) => return Ok(Some((Some(violation.close_code()), String::new()))),
            };
            match answer {
                Ok(Some(answer)) => write_frame(&mut link.out, Opcode::Text, answer.as_bytes(), None),
                Ok(None) => {}
                Err(close) => return Ok(Some((Some(close.code()), close.to_string()))),
            }
        }
        link.flush().await?;
        if let Some(close) = voice.is_over(&server.gateway.borrow()) {
            return Ok(Some((Some(close.code()), close.to_string())));
        }
        let mut bytes = Vec::new();
        let silence = async {
            sleep(LOOK).await;
            Ok(None)
        };
        match (async { link.read_more(&mut bytes).await.map(Some) }).or(silence).await? {
            Some(0) => return Ok(None),
            Some(_) => inbound.receive(&bytes),
            None => {}
        }
    }
}

/// Starts a thread that answers IP discovery on a free UDP port of this IP address. Returns the socket's address.
///
/// # Errors
/// When no socket can be bound or the thread cannot be started.
pub fn answer_discovery(ip: std::net::IpAddr) -> io::Result<SocketAddr> {
    let socket = UdpSocket::bind((ip, 0))?;
    let address = socket.local_addr()?;
    std::thread::Builder::new().name("discovery".into()).spawn(move || {
        let mut packet = [0; 2_048];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut packet) else { continue };
            if let Some(answer) = discovery(&packet[..length], from) {
                std::thread::sleep(ROUND_TRIP);
                // An answer that cannot be sent counts as lost: the client repeats its request.
                let _ = socket.send_to(&answer, from);
            }
        }
    })?;
    Ok(address)
}

/// The answer to an IP discovery request. `None` for any other packet (docs: Voice Connections, IP Discovery).
fn discovery(packet: &[u8], from: SocketAddr) -> Option<[u8; DISCOVERY]> {
    if packet.len() != DISCOVERY || packet[..4] != [0, 1, 0, 70] {
        return None;
    }
    let mut answer = [0; DISCOVERY];
    answer[..4].copy_from_slice(&[0, 2, 0, 70]);
    answer[4..8].copy_from_slice(&packet[4..8]);
    let ip = from.ip().to_string();
    answer[8..8 + ip.len()].copy_from_slice(ip.as_bytes());
    answer[72..].copy_from_slice(&from.port().to_be_bytes());
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discovery_tells_the_address_that_the_packet_came_from() {
        let mut packet = [0; DISCOVERY];
        packet[..8].copy_from_slice(&[0, 1, 0, 70, 1, 2, 3, 4]);
        let answer = discovery(&packet, "127.0.0.1:4660".parse().unwrap()).unwrap();
        assert_eq!(answer[..8], [0, 2, 0, 70, 1, 2, 3, 4]);
        assert_eq!(&answer[8..18], b"127.0.0.1\0");
        assert_eq!(answer[72..], [0x12, 0x34]);
        assert_eq!(discovery(&packet[..70], "127.0.0.1:1".parse().unwrap()), None);
        assert_eq!(discovery(&[0x80; DISCOVERY], "127.0.0.1:1".parse().unwrap()), None);
    }

    #[test]
    fn heartbeats_are_acknowledged_as_their_version_wants() {
        let udp = "127.0.0.1:1".parse().unwrap();
        assert_eq!(Voice::new(8, udp, false).acknowledge(r#"{"t":15,"seq_ack":3}"#), r#"{"op":6,"d":{"t":15}}"#);
        assert_eq!(Voice::new(4, udp, true).acknowledge("15"), r#"{"op":6,"d":15}"#);
    }
}
