//! Drives one client's WebSocket: reads messages, hands them to the gateway, and writes the gateway's payloads in as
//! few writes as possible. Each connection is one task; its socket or the gateway wakes it.

use super::{Encoder, Ending, Output, State};
use crate::link::Link;
use crate::server::Server;
use gateway_proxy::websocket::{FrameDecoder, Message, Opcode, write_close, write_frame};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

/// Largest message in bytes that the decoder accepts. A message above [`super::commands::MAX_BYTES`] is closed with
/// 4002.
pub const MAX_MESSAGE: usize = 1 << 20;

/// Bytes in the send buffer above which no further payload is encoded.
const FULL: usize = 256 << 10;

/// Number of rounds of reading and writing before the task yields to other tasks.
const ROUNDS: usize = 16;

/// How a connection ended.
enum End {
    /// The stream ended, or the socket failed.
    Lost,
    /// Close frames were exchanged. Holds the client's close code if the client closed first.
    Closed(Option<u16>),
    /// The gateway asks for a TCP reset.
    Reset,
    /// The gateway has removed the connection.
    Gone,
}

/// One client's connection.
pub struct Driver {
    server: Rc<Server>,
    key: u64,
    link: Link,
    inbound: FrameDecoder,
    encoder: Encoder,
    scratch: Vec<u8>,
    close_sent: bool,
}

impl Driver {
    /// A connection after its handshake. `inbound` may hold bytes that came together with the handshake.
    pub fn new(server: Rc<Server>, key: u64, link: Link, inbound: FrameDecoder, encoder: Encoder) -> Self {
        Self { server, key, link, inbound, encoder, scratch: Vec::new(), close_sent: false }
    }

    /// Serves the connection until it ends.
    pub async fn run(mut self) {
        let end = match self.receive() {
            Some(end) => end,
            None => poll_fn(|cx| self.poll(cx)).await,
        };
        let code = if let End::Closed(code) = end { code } else { None };
        self.server.gateway.borrow_mut().disconnect(self.key, code, Instant::now());
        match end {
            End::Closed(_) => self.link.finish().await,
            End::Reset => self.link.reset(),
            End::Lost | End::Gone => {}
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..ROUNDS {
            let state = self.server.gateway.borrow().state(self.key);
            match state {
                State::Gone => return Poll::Ready(End::Gone),
                State::Ending(Ending::Reset) => return Poll::Ready(End::Reset),
                State::Frozen => {
                    self.park(cx);
                    return Poll::Pending;
                }
                State::Open | State::Ending(_) => {}
            }
            let read = match self.link.poll_read(cx, self.inbound.space()) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(End::Lost),
                Poll::Ready(Ok(n)) => {
                    self.inbound.filled(n);
                    if let Some(end) = self.receive() {
                        return Poll::Ready(end);
                    }
                    true
                }
                Poll::Pending => false,
            };
            if self.produce().is_err() {
                return Poll::Ready(End::Lost);
            }
            let full = self.link.backlog() >= FULL;
            match self.link.poll_flush(cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(End::Lost),
                // The send buffer was full and has been sent completely: there may be more to encode.
                Poll::Ready(Ok(())) if full => {}
                _ if read => {}
                _ => {
                    self.park(cx);
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn park(&mut self, cx: &Context<'_>) {
        self.server.gateway.borrow_mut().park(self.key, cx.waker());
    }

    /// Handles all complete messages.
    fn receive(&mut self) -> Option<End> {
        let now = Instant::now();
        loop {
            let message = match self.inbound.next() {
                Ok(Some(message)) => message,
                Ok(None) => return None,
                Err(violation) => {
                    let mut gateway = self.server.gateway.borrow_mut();
                    gateway.protocol_error(self.key, violation.close_code(), &format!("{violation:?}"), now);
                    // The decoder has failed, so the rest of the stream cannot be decoded.
                    drop(gateway);
                    let _ = self.produce();
                    return Some(End::Closed(None));
                }
            };
            match message {
                Message::Text(payload) | Message::Binary(payload) => {
                    self.server.gateway.borrow_mut().receive(self.key, payload, now);
                }
                Message::Ping(payload) => write_frame(&mut self.link.out, Opcode::Pong, payload, None),
                Message::Pong(_) => {}
                Message::Close(reason) => {
                    let code = reason.map(|(code, _)| code);
                    let first = !self.close_sent;
                    if first {
                        write_close(&mut self.link.out, code, "", None);
                    }
                    return Some(End::Closed(if first { code } else { None }));
                }
            }
        }
    }

    /// Encodes the gateway's payloads for this connection until the send buffer is full.
    fn produce(&mut self) -> io::Result<()> {
        if self.close_sent || self.link.backlog() >= FULL {
            return Ok(());
        }
        let mut result = Ok(());
        let mut gateway = self.server.gateway.borrow_mut();
        gateway.produce(
            self.key,
            |output| {
                match output {
                    Output::Payload(payload, compress_payloads) => {
                        if compress_payloads {
                            self.encoder.compress_payloads();
                        }
                        result = self.encoder.encode(payload, &mut self.scratch, &mut self.link.out);
                    }
                    Output::Wire(bytes) => self.link.out.extend_from_slice(bytes),
                }
                result.is_ok() && self.link.backlog() < FULL
            },
            Instant::now(),
        );
        if let State::Ending(Ending::Close(code, reason)) = gateway.state(self.key)
            && self.link.backlog() < FULL
        {
            write_close(&mut self.link.out, Some(code), reason, None);
            self.close_sent = true;
        }
        if self.scratch.capacity() > 1 << 20 {
            self.scratch = Vec::new();
        }
        result
    }
}
