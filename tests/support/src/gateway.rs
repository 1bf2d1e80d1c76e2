//! A Gateway client for tests: one thread, one blocking socket, and checks on every payload.

use std::{
    io::{self, Read},
    net::SocketAddr,
    time::Duration,
};

use async_tungstenite::tungstenite::{Message, protocol::CloseFrame};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    Encoding, TOKEN, Transport,
    encoding::Inflater,
    etf,
    websocket::{MAX_MESSAGE, WebSocket},
};

/// One payload from the server.
#[derive(Clone, Debug, PartialEq)]
pub struct Payload {
    /// The opcode.
    pub op: u64,
    /// The sequence of a dispatch.
    pub s: Option<u64>,
    /// The type of a dispatch.
    pub t: Option<String>,
    /// The JSON text of the data.
    pub d: String,
}

impl Payload {
    /// Parses the data.
    pub fn data(&self) -> Value {
        serde_json::from_str(&self.d).expect("data that is JSON")
    }

    /// The number at the start of the content of one of the simulator's messages.
    pub fn number(&self) -> Option<u64> {
        if self.t.as_deref() != Some("MESSAGE_CREATE") {
            return None;
        }
        let content = self.d.split_once("\"content\":\"n:")?.1;
        let digits: String = content.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    }
}

/// Why no payload came.
#[derive(Debug, PartialEq)]
pub enum Gone {
    /// The proxy sent a close frame with this code and reason.
    Closed(Option<u16>, String),
    /// The stream ended without a close frame.
    Ended,
    /// Nothing came in time.
    Silent,
}

/// What a client asks for in its URL and in its IDENTIFY.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// `compress` in the URL.
    pub transport: Transport,
    /// `encoding` in the URL.
    pub encoding: Encoding,
    /// `compress` in IDENTIFY.
    pub compress: bool,
}

impl From<Transport> for Options {
    fn from(transport: Transport) -> Self {
        Self { transport, ..Self::default() }
    }
}

/// The keys of a payload in JSON. The data stay as they are written.
#[derive(Deserialize)]
struct Json<'a> {
    t: Option<String>,
    s: Option<u64>,
    op: u64,
    #[serde(borrow)]
    d: &'a RawValue,
}

/// A connection to the proxy's gateway.
pub struct Gateway {
    socket: WebSocket,
    inflater: Inflater,
    options: Options,
    /// Number of payloads that came with payload compression.
    pub packed: u64,
}

impl Gateway {
    /// Connects and reads HELLO.
    ///
    /// # Panics When either fails.
    pub fn connect(address: SocketAddr, options: impl Into<Options>) -> Self {
        let mut gateway = Self::open(address, options).expect("a connection to the gateway");
        let hello = gateway.receive().expect("HELLO");
        assert_eq!(hello.op, 10);
        gateway
    }

    /// Connects and completes the upgrade.
    ///
    /// # Errors The error of the network or of the handshake.
    pub fn open(address: SocketAddr, options: impl Into<Options>) -> io::Result<Self> {
        let options @ Options { transport, encoding, .. } = options.into();
        let compress = transport.name().map(|name| format!("&compress={name}")).unwrap_or_default();
        Self::open_at(address, &format!("/?v=10&encoding={}{compress}", encoding.name()), options, &[])
    }

    /// Connects to `target`, whose query has to agree with `options`. The bytes of `early` are sent together with the
    /// request for the upgrade.
    ///
    /// # Errors The error of the network or of the handshake.
    pub fn open_at(address: SocketAddr, target: &str, options: Options, early: &[u8]) -> io::Result<Self> {
        let socket = WebSocket::open(address, target, early)?;
        Ok(Self { socket, inflater: Inflater::new(options.transport), options, packed: 0 })
    }

    /// Sets how long [`Gateway::receive`] waits instead of [`super::PATIENCE`].
    pub fn set_patience(&mut self, patience: Duration) {
        self.socket.set_patience(patience);
    }

    /// Receives the next payload. Every payload has to have all four keys, in Discord's order.
    ///
    /// # Errors The connection has ended, or nothing came in time.
    pub fn receive(&mut self) -> Result<Payload, Gone> {
        let text = self.receive_bytes()?;
        if self.options.encoding == Encoding::Etf {
            return Ok(Self::payload_of(etf::read(&text).expect("a term")));
        }
        assert!(has_keys_in_order(&text), "t, s, op, d: {}", String::from_utf8_lossy(&text));
        let Json { t, s, op, d } = serde_json::from_slice(&text).expect("a payload");
        Ok(Payload { op, s, t, d: d.get().to_owned() })
    }

    /// The bytes of the next payload, decompressed: JSON text or a term.
    ///
    /// # Errors
    /// The end of the connection, or silence.
    pub fn receive_bytes(&mut self) -> Result<Vec<u8>, Gone> {
        loop {
            match self.socket.receive()? {
                Message::Text(bytes) => {
                    let Options { transport, encoding, .. } = self.options;
                    assert_eq!((transport, encoding), (Transport::None, Encoding::Json), "a text message");
                    return Ok(bytes.as_bytes().to_vec());
                }
                Message::Binary(bytes)
                    if self.options.transport == Transport::None && self.options.encoding == Encoding::Json =>
                {
                    // A complete zlib stream: independent of earlier payloads and with no bytes after it.
                    let mut inflater = flate2::read::ZlibDecoder::new(&*bytes);
                    let mut text = Vec::new();
                    inflater.read_to_end(&mut text).expect("a zlib buffer");
                    assert_eq!(inflater.total_in() as usize, bytes.len());
                    assert!(bytes.len() < text.len(), "compression has made the payload larger");
                    self.packed += 1;
                    return Ok(text);
                }
                Message::Binary(bytes) => return Ok(self.inflater.inflate(&bytes, MAX_MESSAGE)),
                Message::Close(frame) => {
                    let (code, reason) = frame.map_or((None, String::new()), |CloseFrame { code, reason }| {
                        (Some(code.into()), reason.as_str().to_owned())
                    });
                    return Err(Gone::Closed(code, reason));
                }
                _ => {}
            }
        }
    }

    /// Turns a decoded term into a payload, and checks that all four keys are there.
    fn payload_of(payload: Value) -> Payload {
        let Value::Object(payload) = payload else { panic!("{payload} is no object") };
        let keys: Vec<&str> = payload.keys().map(String::as_str).collect();
        assert_eq!(keys, ["d", "op", "s", "t"]);
        Payload {
            op: payload["op"].as_u64().expect("an opcode"),
            s: payload["s"].as_u64(),
            t: payload["t"].as_str().map(str::to_owned),
            d: payload["d"].to_string(),
        }
    }

    /// Sends a binary message.
    ///
    /// # Errors The error of the network.
    pub fn send_binary(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.send(Message::binary(bytes.to_vec()))
    }

    /// Sends a text message.
    ///
    /// # Errors
    /// The error of the network.
    pub fn send_text(&mut self, text: &str) -> io::Result<()> {
        self.socket.send(Message::text(text))
    }

    /// Sends raw bytes, for frames that no library would send.
    ///
    /// # Errors The error of the network.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.send_raw(bytes)
    }

    /// Sends a command.
    ///
    /// # Panics When the connection has ended.
    pub fn send(&mut self, op: u64, data: &Value) {
        let command = json!({"op": op, "d": data});
        let sent = match self.options.encoding {
            Encoding::Json => self.send_text(&command.to_string()),
            // The opcode chooses one of the two styles, so that tests cover both.
            Encoding::Etf if op.is_multiple_of(2) => self.send_binary(&etf::write(&command, etf::Style::Erlpack)),
            Encoding::Etf => self.send_binary(&etf::write(&command, etf::Style::Elixir)),
        };
        sent.expect("a connection to send on");
    }

    /// IDENTIFY.
    pub fn identify(&mut self, shard: (u32, u32), intents: u64) {
        let mut data = json!({"token": TOKEN, "intents": intents, "shard": [shard.0, shard.1], "properties": {}});
        if self.options.compress {
            data["compress"] = true.into();
        }
        self.send(2, &data);
    }

    /// RESUME.
    pub fn resume(&mut self, session: &str, sequence: u64) {
        self.send(6, &json!({"token": TOKEN, "session_id": session, "seq": sequence}));
    }

    /// Heartbeat.
    pub fn heartbeat(&mut self, sequence: u64) {
        self.send(1, &json!(sequence));
    }

    /// Sends a close frame. Returns the code of the close frame in answer, for which it waits [`super::PATIENCE`]
    /// whatever [`Gateway::set_patience`] has set: on a busy machine the answer takes its time.
    pub fn close(mut self, code: u16) -> Option<u16> {
        self.set_patience(super::PATIENCE);
        self.socket.send(Message::Close(Some(CloseFrame { code: code.into(), reason: "".into() }))).ok()?;
        loop {
            match self.receive() {
                Ok(_) => {}
                Err(Gone::Closed(code, _)) => return code,
                Err(_) => return None,
            }
        }
    }
}

/// Checks that a JSON payload begins as Discord's payloads do. Some libraries search the text for the keys, and
/// others need each of the four keys, even if its value is null.
fn has_keys_in_order(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(&text[..text.len().min(200)]);
    let Some(rest) = text.strip_prefix("{\"t\":") else { return false };
    let mut parts = rest.splitn(2, ",\"s\":");
    let name = parts.next().unwrap_or("");
    let mut parts = parts.next().unwrap_or("").splitn(2, ",\"op\":");
    let sequence = parts.next().unwrap_or("");
    let mut parts = parts.next().unwrap_or("").splitn(2, ",\"d\":");
    let opcode = parts.next().unwrap_or("");
    let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let is_name = |name: &str| name.len() > 2 && name.trim_matches('"').bytes().all(plain);
    (name == "null" || is_name(name))
        && (sequence == "null" || sequence.parse::<u64>().is_ok())
        && opcode.parse::<u8>().is_ok()
        && parts.next().is_some_and(|data| !data.is_empty())
}
