//! A client of a voice server, as libraries are: WebSocket, IP discovery over UDP, and the key for voice in the end.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use async_tungstenite::tungstenite::Message;
use serde_json::{Value, json};

use super::websocket::WebSocket;

/// What a library has to know to connect.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The guild.
    pub guild: String,
    /// The bot.
    pub user: String,
    /// From VOICE_STATE_UPDATE, or READY.
    pub session: String,
    /// From VOICE_SERVER_UPDATE.
    pub token: String,
    /// From VOICE_SERVER_UPDATE: host and port.
    pub endpoint: String,
}

/// A voice connection that is complete.
pub struct Voice(WebSocket);

impl Voice {
    /// Connects, up to SESSION DESCRIPTION. `Err`: the code by which the server closes instead.
    ///
    /// # Panics
    /// When the server does something else.
    pub fn connect(credentials: &Credentials) -> Result<Self, u16> {
        let address: SocketAddr = credentials.endpoint.parse().expect("an endpoint without TLS");
        let mut voice = Self(WebSocket::open(address, "/?v=8", b"").expect("a connection to the voice server"));
        assert_eq!(voice.receive()?["op"], 8);
        let Credentials { guild, user, session, token, .. } = credentials;
        voice.send(0, &json!({"server_id": guild, "user_id": user, "session_id": session, "token": token}));
        let ready = voice.receive()?;
        assert_eq!(ready["op"], 2, "{ready}");
        let (ip, port) = discover(&ready["d"]);
        let mode = "aead_xchacha20_poly1305_rtpsize";
        voice.send(1, &json!({"protocol": "udp", "data": {"address": ip, "port": port, "mode": mode}}));
        let description = voice.receive()?;
        assert_eq!((&description["op"], &description["d"]["mode"]), (&json!(4), &json!(mode)));
        assert_eq!(description["d"]["secret_key"].as_array().map(Vec::len), Some(32));
        Ok(voice)
    }

    fn send(&mut self, op: u64, data: &Value) {
        let payload = json!({"op": op, "d": data}).to_string();
        self.0.send(Message::text(payload)).expect("a connection to send on");
    }

    /// The next payload, or the code that the server closes the connection with.
    fn receive(&mut self) -> Result<Value, u16> {
        loop {
            match self.0.receive().expect("a connection to the voice server") {
                Message::Text(text) => return Ok(serde_json::from_str(&text).expect("JSON")),
                Message::Close(close) => return Err(close.expect("a code").code.into()),
                _ => {}
            }
        }
    }

    /// Sends a heartbeat and waits for its acknowledgement. `Err`: the code that the server closed the connection with.
    pub fn beat(&mut self) -> Result<(), u16> {
        self.send(3, &json!({"t": 17, "seq_ack": 0}));
        let answer = self.receive()?;
        assert_eq!(answer, json!({"op": 6, "d": {"t": 17}}));
        Ok(())
    }

    /// Waits until the server closes it; the code.
    pub fn closed(mut self) -> u16 {
        loop {
            if let Err(code) = self.receive() {
                return code;
            }
        }
    }
}

/// IP discovery with the server of a READY.
fn discover(ready: &Value) -> (String, u16) {
    let server = format!("{}:{}", ready["ip"].as_str().expect("an address"), ready["port"]);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    let mut packet = [0; 74];
    packet[..4].copy_from_slice(&[0, 1, 0, 70]);
    packet[4..8].copy_from_slice(&(ready["ssrc"].as_u64().expect("a number") as u32).to_be_bytes());
    socket.send_to(&packet, server).expect("sending");
    let mut answer = [0; 100];
    assert_eq!(socket.recv(&mut answer).expect("an answer"), packet.len());
    assert_eq!(answer[4..8], packet[4..8]);
    let end = answer[8..].iter().position(|byte| *byte == 0).expect("an end");
    let ip = String::from_utf8(answer[8..8 + end].to_vec()).expect("an address");
    let port = u16::from_be_bytes([answer[72], answer[73]]);
    assert_eq!(port, socket.local_addr().expect("an address").port());
    (ip, port)
}
