//! One connection to Discord: received bytes go in, payloads come out, and frames to send become bytes for the socket.
//!
//! Owns the TLS state, the frame decoder, the decompressor and the bytes to send. Never: decides anything about the
//! session.
//!
//! Copies of a payload that comes in, without TLS: from the ring's buffer into the frame decoder, decompressed into
//! `payload`, from there into the log of the shard. Allocations: none once the buffers have grown.

use crate::{
    compression::{InflateError, Inflater, Transport},
    io::sockets::SocketId,
    net::{mask::mask, tls::Tls},
    protocol::close,
    websocket::{FrameDecoder, Message, Opcode, Outgoing, Violation, write_close, write_frame},
};
use std::io;

/// Largest payload after decompression, in bytes. A guild with 100,000 members comes to some 60 MB.
const MAX_PAYLOAD: usize = 256 << 20;
/// Largest capacity in bytes at which the buffer of payloads is kept. A larger one is freed when it is empty.
const KEEP_PAYLOAD: usize = 256 << 10;
/// When this many bytes wait for Discord, only its newest ping is answered, which RFC 6455 section 5.5.3 allows. At
/// [`MAX_OWED`] bytes the connection is given up. A connection whose peer reads does not reach that, because commands
/// and heartbeats are limited.
const HIGH_WATER: usize = 64 << 10;
/// Bytes waiting for Discord at which the connection is given up.
const MAX_OWED: usize = 1 << 20;
/// Largest capacity in bytes at which the buffers of frames and of TLS records are kept. Larger ones are freed when
/// they are empty.
const KEEP_FRAMES: usize = 16 << 10;

/// Why a connection to Discord is over. The texts are for the log line.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionLost {
    /// Discord has ended the stream without a close frame.
    #[error("end of stream")]
    EndOfStream,
    /// Discord has ended the TLS stream without a close frame.
    #[error("end of the TLS stream")]
    EndOfTls,
    /// The socket has failed, or bytes can not be decrypted or encrypted.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Discord has left this many bytes waiting, which is more than [`MAX_OWED`].
    #[error("Discord does not take {0} bytes that wait")]
    Stuck(usize),
    /// Discord has sent a close frame without a code.
    #[error("closed")]
    ClosedWithoutCode,
    /// Discord has sent a close frame.
    #[error("closed: {reason:?}")]
    Closed {
        /// The close code.
        code: u16,
        /// The text of the close frame.
        reason: String,
    },
    /// Discord's bytes are no WebSocket messages.
    #[error("WebSocket violation: {0}")]
    Violation(#[source] Violation),
    /// A compressed payload began and has no end.
    #[error("a text message in the middle of a compressed payload")]
    TextInPayload,
    /// Discord's messages can not be decompressed.
    #[error(transparent)]
    Inflate(#[from] InflateError),
}

impl ConnectionLost {
    /// Discord's close code, when it has sent one.
    pub fn code(&self) -> Option<u16> {
        if let Self::Closed { code, .. } = self { Some(*code) } else { None }
    }

    /// Says whether Discord's bytes violate a protocol or can not be decompressed.
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::Violation(_) | Self::TextInPayload | Self::Inflate(_))
    }
}

/// One connection to Discord. See the module's description.
pub struct Upstream {
    /// The socket, by its id in the core's [`Sockets`](crate::io::sockets::Sockets).
    pub socket: SocketId,
    tls: Option<Box<Tls>>,
    /// TLS records that were received and not decrypted yet.
    records: Vec<u8>,
    inbound: FrameDecoder,
    inflater: Inflater,
    /// The payload that is being decompressed, or the one that was returned last.
    payload: Vec<u8>,
    /// Whether `payload` was returned to the caller, so that the next call clears it.
    handed_out: bool,
    /// Frames to send that are not encrypted yet.
    frames: Vec<u8>,
    /// The payload of the newest ping, if its pong has to wait until fewer than [`HIGH_WATER`] bytes wait.
    ping: Option<Vec<u8>>,
    /// Bytes for the socket, encrypted where the connection uses TLS.
    pub outgoing: Outgoing,
    /// Whether the socket is full. The core gets [`Event::Writable`](crate::io::sockets::Event::Writable) when the
    /// socket takes bytes again.
    pub blocked: bool,
    /// Why the stream has ended, once it has. What was received before is still to be read.
    pub ended: Option<ConnectionLost>,
}

impl Upstream {
    /// Makes the state of a connection whose upgrade is done.
    pub fn new(socket: SocketId, tls: Option<Box<Tls>>, inbound: FrameDecoder, transport: Transport) -> Self {
        Self {
            socket,
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

    /// Takes bytes that the socket has received.
    pub fn received(&mut self, bytes: &[u8]) {
        match self.tls {
            None => self.inbound.receive(bytes),
            Some(_) => self.records.extend_from_slice(bytes),
        }
    }

    /// Decrypts what was received. The caller calls this before [`Upstream::next`].
    pub fn decrypt(&mut self) {
        let Some(tls) = &mut self.tls else { return };
        if self.records.is_empty() {
            return;
        }
        let result = tls.decrypt(&self.records, &mut self.inbound);
        clear(&mut self.records, KEEP_FRAMES);
        let lost = match result {
            Ok(false) => return,
            Ok(true) => ConnectionLost::EndOfTls,
            Err(error) => error.into(),
        };
        self.ended.get_or_insert(lost);
    }

    /// Returns the next payload; `None`: no payload is complete. Pings are answered with pongs. `Err`: Discord has
    /// closed the connection, or has violated a protocol; the close frame is then among the frames to send.
    pub fn next(&mut self) -> Result<Option<&[u8]>, ConnectionLost> {
        if std::mem::take(&mut self.handed_out) {
            clear(&mut self.payload, KEEP_PAYLOAD);
        }
        loop {
            let complete = match self.inbound.next() {
                Ok(None) => return Ok(None),
                // Discord may send text messages on a connection that asked for compression.
                Ok(Some(Message::Text(_))) if !self.payload.is_empty() => {
                    self.close(Some(close::UNKNOWN_ERROR));
                    return Err(ConnectionLost::TextInPayload);
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
                    let lost = close.map_or(ConnectionLost::ClosedWithoutCode, |(code, reason)| {
                        ConnectionLost::Closed { code, reason: reason.to_owned() }
                    });
                    self.close(lost.code());
                    return Err(lost);
                }
                Err(violation) => {
                    self.close(Some(violation.close_code()));
                    return Err(ConnectionLost::Violation(violation));
                }
            };
            match complete {
                Ok(false) => {}
                Ok(true) => {
                    self.handed_out = true;
                    return Ok(Some(&self.payload));
                }
                Err(error) => {
                    self.close(Some(close::UNKNOWN_ERROR));
                    return Err(error.into());
                }
            }
        }
    }

    /// Frees memory that a burst needed. The caller calls this when there is nothing more to read.
    pub fn shrink(&mut self) {
        match self.tls {
            None => self.inbound.shrink(KEEP_FRAMES),
            // rustls needs initialised memory to write to. The connections of the core share one such buffer, which an
            // empty decoder gives back to the thread.
            Some(_) => self.inbound.release(),
        }
    }

    /// Adds a payload to the frames to send.
    pub fn send(&mut self, payload: &[u8]) {
        write_frame(&mut self.frames, Opcode::Text, payload, Some(mask()));
    }

    /// Adds a close frame to the frames to send.
    pub fn close(&mut self, code: Option<u16>) {
        write_close(&mut self.frames, code, "", Some(mask()));
    }

    /// Turns the frames to send into bytes for the socket. `Err`: nothing can be sent any more, or Discord has left
    /// [`MAX_OWED`] bytes waiting.
    pub fn encrypt(&mut self) -> Result<(), ConnectionLost> {
        let owed = self.frames.len() + self.outgoing.len();
        if owed >= MAX_OWED {
            return Err(ConnectionLost::Stuck(owed));
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

/// Empties a buffer. Frees its memory when the capacity is more than `keep` bytes.
fn clear(buffer: &mut Vec<u8>, keep: usize) {
    if buffer.capacity() > keep {
        *buffer = Vec::new();
    } else {
        buffer.clear();
    }
}
