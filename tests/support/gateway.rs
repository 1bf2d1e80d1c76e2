//! A Gateway client for tests: one thread, one blocking socket, and checks on every frame.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use gateway_proxy::{
    compression::{Inflater, Transport},
    protocol::{Encoding, envelope::Envelope},
    websocket::{FrameDecoder, Message, Opcode, Role, client_request, parse_response, write_close, write_frame},
};
use serde_json::{Value, json};

use super::{TOKEN, etf};

/// Largest payload that a test accepts, in bytes.
const MAX_PAYLOAD: usize = 64 << 20;

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

/// A connection to the proxy's gateway.
pub struct Gateway {
    stream: TcpStream,
    inbound: FrameDecoder,
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
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let (request, key) = client_request(&address.to_string(), target);
        stream.write_all(&[request.as_bytes(), early].concat())?;
        let mut inbound = FrameDecoder::new(Role::Client, MAX_PAYLOAD);
        loop {
            let parsed = parse_response(inbound.unconsumed(), &key).map_err(io::Error::other)?;
            if let Some(size) = parsed {
                inbound.consume(size);
                let inflater = Inflater::new(options.transport, MAX_PAYLOAD);
                return Ok(Self { stream, inbound, inflater, options, packed: 0 });
            }
            let n = stream.read(inbound.space())?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            inbound.filled(n);
        }
    }

    /// Sets how long [`Gateway::receive`] waits.
    pub fn set_patience(&mut self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).expect("a timeout");
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
        let envelope = Envelope::scan(&text).expect("a payload");
        let utf8 = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        Ok(Payload { op: envelope.op, s: envelope.s, t: envelope.t.map(utf8), d: utf8(envelope.d) })
    }

    /// The bytes of the next payload, decompressed: JSON text or a term.
    ///
    /// # Errors
    /// The end of the connection, or silence.
    pub fn receive_bytes(&mut self) -> Result<Vec<u8>, Gone> {
        let mut text = Vec::new();
        loop {
            match self.inbound.next().expect("frames by the RFC") {
                Some(Message::Text(bytes)) => {
                    let Options { transport, encoding, .. } = self.options;
                    assert_eq!((transport, encoding), (Transport::None, Encoding::Json), "a text message");
                    text.extend_from_slice(bytes);
                }
                Some(Message::Binary(bytes))
                    if self.options.transport == Transport::None && self.options.encoding == Encoding::Json =>
                {
                    // A complete zlib stream: independent of earlier payloads and with no bytes after it.
                    let mut inflater = flate2::read::ZlibDecoder::new(bytes);
                    inflater.read_to_end(&mut text).expect("a zlib buffer");
                    assert_eq!(inflater.total_in() as usize, bytes.len());
                    assert!(bytes.len() < text.len(), "compression has made the payload larger");
                    self.packed += 1;
                }
                Some(Message::Binary(bytes)) => {
                    assert!(
                        self.inflater.inflate(bytes, &mut text).expect("a good stream"),
                        "each message has one whole payload"
                    );
                }
                Some(Message::Close(close)) => {
                    let (code, reason) = close.map_or((None, ""), |(code, reason)| (Some(code), reason));
                    return Err(Gone::Closed(code, reason.to_owned()));
                }
                Some(_) => continue,
                None => {
                    match self.stream.read(self.inbound.space()) {
                        Ok(0) => return Err(Gone::Ended),
                        Ok(n) => self.inbound.filled(n),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(Gone::Silent),
                        Err(_) => return Err(Gone::Ended),
                    }
                    continue;
                }
            }
            return Ok(text);
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
        let mut frame = Vec::new();
        write_frame(&mut frame, Opcode::Binary, bytes, Some([1, 6, 1, 8]));
        self.stream.write_all(&frame)
    }

    /// Sends a text message.
    ///
    /// # Errors The error of the network.
    pub fn send_text(&mut self, text: &str) -> io::Result<()> {
        let mut frame = Vec::new();
        write_frame(&mut frame, Opcode::Text, text.as_bytes(), Some([3, 1, 4, 1]));
        self.stream.write_all(&frame)
    }

    /// Sends raw bytes, for frames that no library would send.
    ///
    /// # Errors The error of the network.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
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

    /// Sends a close frame. Returns the code of the close frame in answer.
    pub fn close(mut self, code: u16) -> Option<u16> {
        let mut frame = Vec::new();
        write_close(&mut frame, Some(code), "", Some([2, 7, 1, 8]));
        self.stream.write_all(&frame).ok()?;
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
