//! One connection to Discord as the data core sees it: received bytes go in, payloads come out, frames are put on their way.
//!
//! Owns the TLS state, the frame decoder, the decompressor and the bytes to send. It decides nothing about the session.
//!
//! Copies of a payload on its way in, without TLS: from the kernel's buffer into the decoder, decompressed into `payload`, from
//! there into the shard's log. Allocations: none once the buffers have grown.

use crate::{
    compression::{InflateError, Inflater, Transport},
    io::sockets::ConnectionId,
    net::{mask::mask, tls::Tls},
    protocol::close,
    websocket::{FrameDecoder, Message, Opcode, Outgoing, write_close, write_frame},
};
use std::io;

/// Largest payload after decompression, in bytes. A guild with 100,000 members comes to some 60 MB.
const MAX_PAYLOAD: usize = 256 << 20;
/// The buffer of payloads is given back when it grew beyond this, in bytes.
const KEEP_PAYLOAD: usize = 256 << 10;
/// When so many bytes wait for Discord, of its pings only the newest one is answered (RFC 6455 section 5.5.3 allows that), and with
/// [`MAX_OWED`] the connection is given up. One that takes something never gets there: commands are limited, and so are
/// heartbeats.
const HIGH_WATER: usize = 64 << 10;
/// See [`HIGH_WATER`].
const MAX_OWED: usize = 1 << 20;
/// The buffers of frames and of TLS records are given back when they grew beyond this, in bytes.
const KEEP_FRAMES: usize = 16 << 10;

/// Why a connection can not be read on.
#[derive(Debug)]
pub struct Broken {
    /// Discord's close code, when it has sent one.
    pub code: Option<u16>,
    /// For the log.
    pub why: String,
}

impl Broken {
    fn new(why: impl Into<String>) -> Self {
        Self { code: None, why: why.into() }
    }
}

/// See the module's description.
pub struct Upstream {
    /// Its socket.
    pub connection: ConnectionId,
    tls: Option<Box<Tls>>,
    /// TLS records that were received and not decrypted yet.
    records: Vec<u8>,
    inbound: FrameDecoder,
    inflater: Inflater,
    /// The payload under assembly, or the one that was handed out last.
    payload: Vec<u8>,
    /// `payload` was handed out and can be cleared.
    handed_out: bool,
    /// Frames to send that are not encrypted yet.
    frames: Vec<u8>,
    /// The payload of the newest ping that is not answered yet because too much waits.
    ping: Option<Vec<u8>>,
    /// Bytes for the socket.
    pub outgoing: Outgoing,
    /// The socket takes no more bytes now; the core is told when that changes.
    pub blocked: bool,
    /// The peer has ended the stream, or the connection broke; what was received before is still to be read.
    pub ended: Option<String>,
}

impl Upstream {
    /// A connection after its upgrade.
    pub fn new(connection: ConnectionId, tls: Option<Box<Tls>>, inbound: FrameDecoder, transport: Transport) -> Self {
        Self {
            connection,
            tls,
            records: Vec::new(),
            inbound,
            inflater: Inflater::new(transport, MAX_PAYLOAD),
            payload: Vec::new(),
            handed_out: false,
            frames: Vec::new(),
            ping: None,
            outgoing: Outgoing::default(),
            blocked: false,
            ended: None,
        }
    }

    /// Takes bytes from the socket.
    pub fn received(&mut self, bytes: &[u8]) {
        match self.tls {
            None => self.inbound.receive(bytes),
            Some(_) => self.records.extend_from_slice(bytes),
        }
    }

    /// Decrypts what was received. To be called before [`Upstream::next`].
    pub fn decrypt(&mut self) {
        let Some(tls) = &mut self.tls else { return };
        if self.records.is_empty() {
            return;
        }
        let result = tls.decrypt(&self.records, &mut self.inbound);
        clear(&mut self.records, KEEP_FRAMES);
        let why = match result {
            Ok(Some(_)) => return,
            Ok(None) => "end of the TLS stream".into(),
            Err(error) => error.to_string(),
        };
        self.ended.get_or_insert(why);
    }

    /// The next payload; `None`: there is no whole one. Pings are answered on the way.
    pub fn next(&mut self) -> Result<Option<&[u8]>, Broken> {
        if std::mem::take(&mut self.handed_out) {
            clear(&mut self.payload, KEEP_PAYLOAD);
        }
        loop {
            let complete = match self.inbound.next() {
                Ok(None) => return Ok(None),
                // Plain text is legal on a connection that asked for compression.
                Ok(Some(Message::Text(_))) if !self.payload.is_empty() => {
                    self.close(Some(close::UNKNOWN_ERROR));
                    return Err(Broken::new("a text message in the middle of a compressed payload"));
                }
                Ok(Some(Message::Text(text))) => {
                    self.payload.extend_from_slice(text);
                    Ok(true)
                }
                Ok(Some(Message::Binary(bytes))) => self.inflater.inflate(bytes, &mut self.payload),
                Ok(Some(Message::Ping(payload))) => {
                    if self.frames.len() + self.outgoing.len() < HIGH_WATER {
                        write_frame(&mut self.frames, Opcode::Pong, payload, Some(mask()));
                    } else {
                        self.ping = Some(payload.to_vec());
                    }
                    continue;
                }
                Ok(Some(Message::Pong(_))) => continue,
                Ok(Some(Message::Close(close))) => {
                    let code = close.map(|(code, _)| code);
                    let why = close.map_or_else(|| "closed".into(), |(_, reason)| format!("closed: {reason:?}"));
                    self.close(code);
                    return Err(Broken { code, why });
                }
                Err(violation) => {
                    self.close(Some(violation.close_code()));
                    return Err(Broken::new(format!("WebSocket violation: {violation}")));
                }
            };
            match complete {
                Ok(false) => {}
                Ok(true) => {
                    self.handed_out = true;
                    return Ok(Some(&self.payload));
                }
                Err(error @ (InflateError::Corrupt(_) | InflateError::TooLarge)) => {
                    self.close(Some(close::UNKNOWN_ERROR));
                    return Err(Broken::new(error.to_string()));
                }
            }
        }
    }

    /// Gives memory back that a burst needed. To be called when there is nothing more to read.
    pub fn shrink(&mut self) {
        match self.tls {
            None => self.inbound.shrink(KEEP_FRAMES),
            // rustls wants initialised memory to write to, which all connections of the core share.
            Some(_) => self.inbound.release(),
        }
    }

    /// Puts a payload on its way.
    pub fn send(&mut self, payload: &[u8]) {
        write_frame(&mut self.frames, Opcode::Text, payload, Some(mask()));
    }

    /// Puts a close frame on its way.
    pub fn close(&mut self, code: Option<u16>) {
        write_close(&mut self.frames, code, "", Some(mask()));
    }

    /// Makes bytes for the socket of everything that was put on its way. An error: nothing can be sent any more, or Discord has
    /// taken nothing for too long.
    pub fn encrypt(&mut self) -> io::Result<()> {
        let owed = self.frames.len() + self.outgoing.len();
        if owed >= MAX_OWED {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("Discord does not take {owed} bytes that wait"),
            ));
        }
        if let Some(payload) = self.ping.take_if(|_| owed < HIGH_WATER) {
            write_frame(&mut self.frames, Opcode::Pong, &payload, Some(mask()));
        }
        let buffer = self.outgoing.buffer();
        match &mut self.tls {
            None => buffer.extend_from_slice(&self.frames),
            Some(tls) => {
                if !self.frames.is_empty() {
                    tls.encrypt(&self.frames)?;
                }
                tls.take_wire(buffer)?;
            }
        }
        clear(&mut self.frames, KEEP_FRAMES);
        Ok(())
    }
}

/// Empties a buffer, and gives its memory back when that is more than `keep` bytes.
fn clear(buffer: &mut Vec<u8>, keep: usize) {
    if buffer.capacity() > keep {
        *buffer = Vec::new();
    } else {
        buffer.clear();
    }
}
