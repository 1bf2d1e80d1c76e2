//! One client's connection as the data core sees it: its decoder, its outbox, and how far it is on its way to its end.
//!
//! ```text
//! Open ─▶ Grace (op 7 was sent; the client may close by itself) ─▶ Flushing (the close frame leaves) ─▶ HalfClosed ─▶ gone
//!   ├──────────────────────────────────────────────────────────────▶ │
//!   └─▶ Returning (its session is invalid; it may identify anew) ─▶ back to the door
//! ```
//!
//! Pure: it holds bytes and times. The socket is the core's, the session is the shard's.

use crate::{
    downstream::{budget::Charge, outbox::Outbox},
    io::sockets::ConnectionId,
    protocol::{Encoding, Time, close, command::MAX_COMMAND, etf},
    shard::Close,
    websocket::{FrameDecoder, Message, Violation},
};
use std::{borrow::Cow, time::Duration};

/// A client that takes nothing for this long while bytes wait is dropped; it may resume.
pub const STALL_LIMIT: Duration = Duration::from_secs(60);
/// A client that takes nothing is looked at this often, in case there is a reason to close it.
pub const STALL_CHECK: Duration = Duration::from_secs(10);
/// How long a client has to react to op 7 by itself before it is closed.
pub const RECONNECT_GRACE: Duration = Duration::from_secs(3);
/// How long the last bytes and the end of a connection may take.
pub const LINGER: Duration = Duration::from_secs(2);

/// How far a connection is on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is served.
    Open,
    /// It was told to reconnect; if it does not by then, it gets this close frame.
    Grace {
        /// Until when.
        until: Time,
        /// Code and reason of the close.
        close: Close,
    },
    /// The close frame is in the outbox; whatever has not left by then does not.
    Flushing {
        /// Until when.
        until: Time,
    },
    /// It goes back to the door as soon as no operation is under way on its socket: it may identify anew.
    Returning,
    /// Our side of the stream has ended; so should the client's.
    HalfClosed {
        /// Until when.
        until: Time,
    },
}

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// A payload, as JSON text.
    Payload(Cow<'a, [u8]>),
    /// It closes, with this code.
    Closed(Option<u16>),
    /// It broke the protocol, and has to be closed with this.
    Violated(Close),
}

/// See the module's description.
pub struct Client<S> {
    /// The number by which the shard knows the connection, unique for as long as the core lives.
    pub number: u64,
    /// Its socket.
    pub connection: ConnectionId,
    /// Its session on the shard, if it got one.
    pub session: Option<u32>,
    /// Its API version.
    pub version: u8,
    /// Since when it is connected to its shard.
    pub since: Time,
    /// What it sent.
    pub inbound: FrameDecoder,
    /// What goes to it.
    pub outbox: Outbox,
    /// What of the memory for all clients it takes; `None`: there was none left, and it is being closed for that.
    pub charge: Option<Charge>,
    /// How far it is on its way to its end.
    pub stage: Stage,
    /// The socket takes no more bytes now; the core is told when that changes.
    pub blocked: bool,
    /// Since when bytes wait of which it has taken none.
    pub stalled_since: Option<Time>,
    /// When the core looks at it next without anything having happened.
    pub timer: Option<Time>,
    /// It has ended its side of the stream.
    pub ended: bool,
    /// Its connection is broken: nothing can be sent any more.
    pub broken: bool,
    /// Its socket, which goes back to the door.
    pub released: Option<S>,
    /// Something has happened on its socket that the next turn has to look at.
    pub noted: bool,
    /// It is in the list of those that get what there is: its socket takes bytes.
    pub awake: bool,
    /// The client is in one of the two queues of clients that are served next.
    pub queued: bool,
    /// Until when the client is one of those that came a short time ago; `None`: it is not one of them any more.
    pub newcomer_until: Option<Time>,
}

impl<S> Client<S> {
    /// A client that is served from now on.
    pub fn new(number: u64, connection: ConnectionId, version: u8, inbound: FrameDecoder, outbox: Outbox) -> Self {
        Self {
            number,
            connection,
            session: None,
            version,
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
            newcomer_until: None,
        }
    }

    /// What was to be sent is back: `result` says how much of it the socket took.
    pub fn sent(&mut self, now: Time, bytes: Vec<u8>, result: std::io::Result<usize>) {
        let sent = result.as_ref().copied().unwrap_or(0);
        self.outbox.returned(bytes, sent);
        self.broken |= result.is_err();
        self.blocked = !self.outbox.pending().is_empty() && !self.broken;
        match self.blocked {
            true if sent == 0 => drop(self.stalled_since.get_or_insert(now)),
            true => self.stalled_since = Some(now),
            false => self.stalled_since = None,
        }
    }

    /// Gives what the client says to `handle`, one thing after the other, until that returns something or there is nothing
    /// whole left. Pings are answered on the way. While the outbox is full nothing is read: a client that does not take answers
    /// gets no further ones.
    pub fn messages<T>(&mut self, mut handle: impl FnMut(Said<'_>, &mut Outbox) -> Option<T>) -> Option<T> {
        let Self { inbound, outbox, .. } = self;
        while !outbox.is_full() {
            let said = match inbound.next() {
                Ok(None) => return None,
                Ok(Some(Message::Text(bytes))) => payload(outbox.encoding(), bytes, false),
                Ok(Some(Message::Binary(bytes))) => payload(outbox.encoding(), bytes, true),
                Ok(Some(Message::Ping(payload))) => {
                    outbox.pong(payload);
                    continue;
                }
                Ok(Some(Message::Pong(_))) => continue,
                Ok(Some(Message::Close(close))) => Said::Closed(close.map(|(code, _)| code)),
                Err(violation) => Said::Violated(close_for(violation)),
            };
            if let Some(done) = handle(said, outbox) {
                return Some(done);
            }
        }
        None
    }

    /// When the core has to look at it although nothing happens.
    pub fn deadline(&self, now: Time) -> Option<Time> {
        deadline(self.stage, self.stalled_since, now)
    }
}

/// See [`Client::deadline`]. Only a client that is served is dropped for taking nothing; the other stages have ends of their own.
fn deadline(stage: Stage, stalled_since: Option<Time>, now: Time) -> Option<Time> {
    match stage {
        Stage::Open => stalled_since.map(|since| (since + STALL_LIMIT).min(now + STALL_CHECK)),
        Stage::Grace { until, .. } | Stage::Flushing { until } | Stage::HalfClosed { until } => Some(until),
        Stage::Returning => None,
    }
}

fn payload(encoding: Encoding, bytes: &[u8], binary: bool) -> Said<'_> {
    match command_text(encoding, bytes, binary) {
        Ok(text) => Said::Payload(text),
        Err(close) => Said::Violated(close),
    }
}

/// The JSON text of a command. Some libraries send JSON in binary messages.
pub fn command_text(encoding: Encoding, bytes: &[u8], binary: bool) -> Result<Cow<'_, [u8]>, Close> {
    if !binary || encoding == Encoding::Json {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut text = Vec::with_capacity(bytes.len());
    etf::to_json(bytes, &mut text).map_err(|unreadable| (close::DECODE_ERROR, unreadable.0))?;
    // A term can be shorter than its text, and it is the text that may go on to Discord.
    if text.len() > MAX_COMMAND { Err(close_for(Violation::TooLarge)) } else { Ok(Cow::Owned(text)) }
}

/// The close that a violation of the WebSocket protocol gets. A message that is too long is Discord's own 4002.
pub fn close_for(violation: Violation) -> Close {
    match violation {
        Violation::TooLarge => (close::DECODE_ERROR, "payload longer than 4096 bytes"),
        Violation::Utf8 => (violation.close_code(), "text is not UTF-8"),
        _ => (violation.close_code(), "WebSocket protocol violated"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A timer that is due when it is set would be due for ever.
    #[test]
    fn a_client_that_has_taken_nothing_for_long_still_has_its_time_to_react() {
        let (now, since) = (Duration::from_secs(100), Some(Duration::from_secs(39)));
        let until = now + RECONNECT_GRACE;
        for stage in [
            Stage::Grace { until, close: (4000, "restarting") },
            Stage::Flushing { until },
            Stage::HalfClosed { until },
        ] {
            assert_eq!(deadline(stage, since, now), Some(until));
        }
        assert_eq!(deadline(Stage::Open, Some(now), now), Some(now + STALL_CHECK));
    }
}
