//! A Gateway client for tests: one thread, one blocking socket, and checks on every payload.
//!
//! Its frames are async-tungstenite's, which shares no code with the proxy's own frame codec, so that the two check each
//! other.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use async_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        error::ProtocolError,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};
use futures_lite::{
    AsyncRead, AsyncWrite, StreamExt,
    future::{block_on, poll_once},
};
use gateway_proxy::{
    compression::{Inflater, Transport},
    protocol::{Encoding, envelope::Envelope},
    websocket::{client_request, parse_response},
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

/// A blocking socket in the form that async-tungstenite needs. A read is pending when it has timed out.
struct Blocking(TcpStream);

impl AsyncRead for Blocking {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self.0.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            result => Poll::Ready(result),
        }
    }
}

impl AsyncWrite for Blocking {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.0.write(bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.flush())
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.shutdown(Shutdown::Write))
    }
}

/// A connection to the proxy's gateway.
pub struct Gateway {
    socket: WebSocketStream<Blocking>,
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
        let (mut received, mut bytes) = (Vec::new(), [0; 4096]);
        let size = loop {
            if let Some(size) = parse_response(&received, &key).map_err(io::Error::other)? {
                break size;
            }
            match stream.read(&mut bytes)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => received.extend_from_slice(&bytes[..n]),
            }
        };
        let limits = WebSocketConfig::default().max_message_size(Some(MAX_PAYLOAD)).max_frame_size(Some(MAX_PAYLOAD));
        // What follows the response are frames already.
        let frames = received.split_off(size);
        let socket = WebSocketStream::from_partially_read(Blocking(stream), frames, Role::Client, Some(limits));
        let inflater = Inflater::new(options.transport, MAX_PAYLOAD);
        Ok(Self { socket: block_on(socket), inflater, options, packed: 0 })
    }

    /// Sets how long [`Gateway::receive`] waits.
    pub fn set_patience(&mut self, patience: Duration) {
        self.socket.get_ref().0.set_read_timeout(Some(patience)).expect("a timeout");
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
            match self.next_message()? {
                Message::Text(bytes) => {
                    let Options { transport, encoding, .. } = self.options;
                    assert_eq!((transport, encoding), (Transport::None, Encoding::Json), "a text message");
                    text.extend_from_slice(bytes.as_bytes());
                }
                Message::Binary(bytes)
                    if self.options.transport == Transport::None && self.options.encoding == Encoding::Json =>
                {
                    // A complete zlib stream: independent of earlier payloads and with no bytes after it.
                    let mut inflater = flate2::read::ZlibDecoder::new(&*bytes);
                    inflater.read_to_end(&mut text).expect("a zlib buffer");
                    assert_eq!(inflater.total_in() as usize, bytes.len());
                    assert!(bytes.len() < text.len(), "compression has made the payload larger");
                    self.packed += 1;
                }
                Message::Binary(bytes) => {
                    let whole = self.inflater.inflate(&bytes, &mut text).expect("a good stream");
                    assert!(whole, "each message has one whole payload");
                }
                Message::Close(frame) => {
                    let (code, reason) = frame.map_or((None, String::new()), |CloseFrame { code, reason }| {
                        (Some(code.into()), reason.as_str().to_owned())
                    });
                    return Err(Gone::Closed(code, reason));
                }
                _ => continue,
            }
            return Ok(text);
        }
    }

    /// Receives the next message or control frame.
    fn next_message(&mut self) -> Result<Message, Gone> {
        match block_on(poll_once(self.socket.next())) {
            None => Err(Gone::Silent),
            Some(Some(Ok(message))) => Ok(message),
            Some(
                None
                | Some(Err(
                    Error::Io(_)
                    | Error::ConnectionClosed
                    | Error::AlreadyClosed
                    | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake),
                )),
            ) => Err(Gone::Ended),
            Some(Some(Err(error))) => panic!("the proxy breaks RFC 6455: {error}"),
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
        self.send_message(Message::binary(bytes.to_vec()))
    }

    /// Sends a text message.
    ///
    /// # Errors
    /// The error of the network.
    pub fn send_text(&mut self, text: &str) -> io::Result<()> {
        self.send_message(Message::text(text))
    }

    fn send_message(&mut self, message: Message) -> io::Result<()> {
        block_on(self.socket.send(message)).map_err(|error| match error {
            Error::Io(error) => error,
            other => io::Error::other(other),
        })
    }

    /// Sends raw bytes, for frames that no library would send.
    ///
    /// # Errors The error of the network.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.get_mut().0.write_all(bytes)
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
        self.send_message(Message::Close(Some(CloseFrame { code: code.into(), reason: "".into() }))).ok()?;
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
