//! One client's connection in a data core: the frame decoder, the outbox, and the [`Stage`] on the way to its end.
//!
//! ```text
//! Open ─▶ Grace (op 7 was sent) ─▶ Flushing (the close frame is being sent) ─▶ HalfClosed ─▶ gone
//!   ├─────────────────────────────▶│
//!   └─▶ Returning (the session is over; the client may identify again) ─▶ back to the door
//! ```
//!
//! Pure: a [`Client`] holds bytes and times. The core owns the socket, and the shard owns the session.

use crate::{
    downstream::{budget::Charge, outbox::Outbox, visitor::Visitor},
    io::sockets::SocketId,
    protocol::{ConnectionId, Encoding, SessionKey, Time, close::Close, command::MAX_COMMAND, etf},
    websocket::{FrameDecoder, Message, Violation},
};
use std::{borrow::Cow, time::Duration};

/// A client whose socket takes no bytes for this long while bytes wait for it is dropped. The client can resume.
pub const STALL_LIMIT: Duration = Duration::from_secs(60);
/// Interval at which the shard is asked whether to close a client whose socket takes no bytes.
pub const STALL_CHECK: Duration = Duration::from_secs(10);
/// How long a client has to close its connection after op 7. Then the proxy closes it.
pub const RECONNECT_GRACE: Duration = Duration::from_secs(3);
/// How long sending the last bytes of a connection and ending it may take. Then the connection is dropped.
pub const LINGER: Duration = Duration::from_secs(2);

/// The stages of a connection on the way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The client is served.
    Open,
    /// The client was told to reconnect by op 7. If it does not close the connection in time, it gets a close frame.
    Grace {
        /// The end of that time.
        until: Time,
        /// Code and reason of the close frame.
        close: Close,
    },
    /// The close frame is in the outbox. When the bytes have not been sent in time, the connection is dropped.
    Flushing {
        /// The end of that time, see [`LINGER`].
        until: Time,
    },
    /// The connection goes back to the door, where the client can identify again, as soon as no operation is in flight
    /// on its socket.
    Returning,
    /// The proxy has ended its side of the stream and waits for the client to end the other side.
    HalfClosed {
        /// When the connection is dropped, see [`LINGER`].
        until: Time,
    },
}

/// What a client has sent.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientMessage<'a> {
    /// A payload, as JSON text.
    Payload(Cow<'a, [u8]>),
    /// A close frame with this code.
    Closed(Option<u16>),
    /// Something that violates the protocol. The client has to be closed with this code and reason.
    Violated(Close),
}

/// One client's connection. See the module's description.
pub struct Client<S> {
    /// The id by which the shard knows the connection.
    pub connection: ConnectionId,
    /// The socket, by its id in the core's [`Sockets`](crate::io::sockets::Sockets).
    pub socket: SocketId,
    /// The key of the client's session on the shard; `None`: the client was refused, or its session is over.
    pub session: Option<SessionKey>,
    /// What the door knows of the client.
    pub visitor: Visitor,
    /// When the shard took the client over.
    pub since: Time,
    /// Bytes from the client that are not handled yet.
    pub inbound: FrameDecoder,
    /// Bytes for the client that are not sent yet.
    pub outbox: Outbox,
    /// The client's part of the memory budget; `None`: the budget was used up, and the client is being closed for that.
    pub charge: Option<Charge>,
    /// The stage of the connection.
    pub stage: Stage,
    /// Whether the socket is full. The core gets [`Event::Writable`](crate::io::sockets::Event::Writable) when the
    /// socket takes bytes again.
    pub blocked: bool,
    /// When the socket last took a part of a send, or was first found full; `None`: the last send took all bytes.
    pub stalled_since: Option<Time>,
    /// The earliest timer of the client that is not due yet.
    pub timer: Option<Time>,
    /// Whether the client has ended its side of the stream.
    pub ended: bool,
    /// Whether the connection is broken, so that nothing can be sent.
    pub broken: bool,
    /// The socket after its release, on its way back to the door.
    pub released: Option<S>,
    /// Whether the client is in the list of those on whose sockets something has happened.
    pub noted: bool,
    /// Whether the client is in the list of those that get new events: its socket takes bytes.
    pub awake: bool,
    /// Whether the client is in one of the two queues of clients that are served next.
    pub queued: bool,
    /// When the oldest event came from Discord that is in the outbox and was not given to the socket; `None`: there is no
    /// such event, or it came while the client's socket was full.
    pub oldest_waiting: Option<Time>,
    /// The same for the send that was started last.
    pub oldest_sent: Option<Time>,
    /// Until this time the client is a newcomer and is served as a bulk client; `None`: it is not a newcomer.
    pub newcomer_until: Option<Time>,
}

impl<S> Client<S> {
    /// Makes a client in the stage [`Stage::Open`].
    pub fn new(
        connection: ConnectionId,
        socket: SocketId,
        visitor: Visitor,
        inbound: FrameDecoder,
        outbox: Outbox,
    ) -> Self {
        Self {
            connection,
            socket,
            session: None,
            visitor,
            since: Time::ZERO,
            inbound,
            outbox,
            charge: None,
            stage: Stage::Open,
            blocked: false,
            stalled_since: None,
            timer: None,
            ended: false,
            broken: false,
            released: None,
            noted: false,
            awake: false,
            queued: false,
            oldest_waiting: None,
            oldest_sent: None,
            newcomer_until: None,
        }
    }

    /// Handles the end of a send: `bytes` is its buffer, and `result` says how many bytes the socket took. The socket is
    /// full if it did not take all of them. After an error the client is broken.
    pub fn sent(&mut self, now: Time, bytes: Vec<u8>, result: std::io::Result<usize>) {
        let sent = result.as_ref().copied().unwrap_or(0);
        let took_all = self.outbox.returned(bytes, sent);
        self.broken |= result.is_err();
        self.blocked = !took_all && !self.broken;
        if self.blocked {
            self.oldest_waiting = self.oldest_sent.take().or(self.oldest_waiting);
        }
        match self.blocked {
            true if sent == 0 => drop(self.stalled_since.get_or_insert(now)),
            true => self.stalled_since = Some(now),
            false => self.stalled_since = None,
        }
    }

    /// Calls `handle` for each complete message of the client until `handle` returns something or no complete message
    /// is left. Pings are answered with pongs. While the outbox is full no message is handled, so a client that does
    /// not read its answers gets no more of them.
    pub fn messages<T>(&mut self, mut handle: impl FnMut(ClientMessage<'_>, &mut Outbox) -> Option<T>) -> Option<T> {
        let Self { inbound, outbox, .. } = self;
        while !outbox.is_full() {
            let message = match inbound.next() {
                Ok(None) => return None,
                Ok(Some(Message::Text(bytes))) => payload(outbox.encoding(), bytes, false),
                Ok(Some(Message::Binary(bytes))) => payload(outbox.encoding(), bytes, true),
                Ok(Some(Message::Ping(payload))) => {
                    outbox.pong(payload);
                    continue;
                }
                Ok(Some(Message::Pong(_))) => continue,
                Ok(Some(Message::Close(close))) => ClientMessage::Closed(close.map(|(code, _)| code)),
                Err(violation) => ClientMessage::Violated(close_for(violation)),
            };
            if let Some(done) = handle(message, outbox) {
                return Some(done);
            }
        }
        None
    }

    /// When the core has to look at the client although nothing happens; `None`: never.
    pub fn deadline(&self, now: Time) -> Option<Time> {
        deadline(self.stage, self.stalled_since, now)
    }
}

/// See [`Client::deadline`]. Only a client that is open is dropped because its socket takes no bytes. The other stages
/// have deadlines of their own.
fn deadline(stage: Stage, stalled_since: Option<Time>, now: Time) -> Option<Time> {
    match stage {
        Stage::Open => stalled_since.map(|since| (since + STALL_LIMIT).min(now + STALL_CHECK)),
        Stage::Grace { until, .. } | Stage::Flushing { until } | Stage::HalfClosed { until } => Some(until),
        Stage::Returning => None,
    }
}

fn payload(encoding: Encoding, bytes: &[u8], binary: bool) -> ClientMessage<'_> {
    match command_text(encoding, bytes, binary) {
        Ok(text) => ClientMessage::Payload(text),
        Err(close) => ClientMessage::Violated(close),
    }
}

/// Returns a client's command as JSON text. ETF is converted. On a JSON connection a binary message is JSON too,
/// because some libraries send that. `Err`: the close for a term that can not be read, or whose JSON text is longer
/// than [`MAX_COMMAND`].
pub fn command_text(encoding: Encoding, bytes: &[u8], binary: bool) -> Result<Cow<'_, [u8]>, Close> {
    if !binary || encoding == Encoding::Json {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut text = Vec::with_capacity(bytes.len());
    etf::to_json(bytes, &mut text).map_err(Close::NotTerm)?;
    // A term can be shorter than its JSON text, and the text may be sent to Discord.
    if text.len() > MAX_COMMAND { Err(Close::TooLong) } else { Ok(Cow::Owned(text)) }
}

/// Returns the close for a violation of the WebSocket protocol. A message that is too long gets 4002, as at Discord.
pub fn close_for(violation: Violation) -> Close {
    match violation {
        Violation::TooLarge => Close::TooLong,
        Violation::Utf8 => Close::NotUtf8,
        _ => Close::Violation(violation.close_code()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{compression::Transport, websocket::Role};

    /// Bytes that were added while the kernel sent others say nothing about the socket.
    #[test]
    fn a_socket_is_full_only_if_it_did_not_take_everything() {
        let inbound = FrameDecoder::new(Role::Server, MAX_COMMAND);
        let outbox = Outbox::new(Transport::None, Encoding::Json);
        let mut client = Client::<()>::new(ConnectionId(1), SocketId::FIRST, Visitor::default(), inbound, outbox);
        let now = Time::from_secs(1);
        for (left, full) in [(0, false), (1, true), (0, false)] {
            client.outbox.message(&[b"an event"]);
            let (bytes, from) = client.outbox.take().expect("an event waits");
            client.outbox.message(&[b"another event"]);
            let length = bytes.len() - from;
            client.sent(now, bytes, Ok(length - left));
            assert!(!client.outbox.pending().is_empty());
            assert_eq!((client.blocked, client.stalled_since.is_some()), (full, full));
        }
    }

    /// A timer that is due when it is set would be due again and again.
    #[test]
    fn a_client_that_has_taken_nothing_for_long_still_has_its_time_to_react() {
        let (now, since) = (Duration::from_secs(100), Some(Duration::from_secs(39)));
        let until = now + RECONNECT_GRACE;
        for stage in
            [Stage::Grace { until, close: Close::Restarting }, Stage::Flushing { until }, Stage::HalfClosed { until }]
        {
            assert_eq!(deadline(stage, since, now), Some(until));
        }
        assert_eq!(deadline(Stage::Open, Some(now), now), Some(now + STALL_CHECK));
    }
}
