//! Drives one client's connection: hands its messages to the shard and writes what the shard has for it.

use super::{Arrival, Core, Entry, Handle, Place, ToControl, note_waker};
use crate::{
    net::{
        Pause,
        client::{ClientConnection, Ended, Payload},
        within,
    },
    protocol::{Encoding, Time, close, command::MAX_COMMAND, etf, payload},
    shard::{Close, Progress},
    websocket::Violation,
};
use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

/// A client that takes nothing for this long while bytes wait is dropped; it may resume.
pub const STALL_LIMIT: Duration = Duration::from_secs(60);
/// How long a client has to react to op 7 by itself before it is closed.
const RECONNECT_GRACE: Duration = Duration::from_secs(3);

/// How a connection ends.
enum End {
    /// The client closed, with this code.
    Closed(Option<u16>),
    /// The network did, or the client without a word.
    Lost,
    /// We close.
    Close { close: Close, reconnect: bool },
    /// The session has ended; the client may identify anew on the same connection.
    Return,
}

impl From<Ended> for End {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Lost => Self::Lost,
            Ended::Closed(code) => Self::Closed(code),
            Ended::Violated(violation) => Self::Close { close: close_for(violation), reconnect: false },
        }
    }
}

/// What follows a turn.
enum Turn {
    /// Somebody will wake it.
    Wait,
    /// There is more to do, after everyone else.
    Again,
    End(End),
}

/// Serves a client until its connection ends.
pub async fn serve(core: Rc<Core>, place: Rc<Place>, arrival: Arrival) {
    let version = arrival.version;
    let mut connection = ClientConnection::unpack(arrival.parcel);
    if core.stopping.get() {
        // It passed the door just before that was closed, and would only keep the others waiting.
        let close = (close::UNKNOWN_ERROR, "the proxy restarts");
        return finish(&mut connection, End::Close { close, reconnect: false }).await;
    }
    let number = core.next_connection.get() + 1;
    core.next_connection.set(number);
    let now = core.now();
    let session = match arrival.entry {
        Entry::Identify(options) => place.with(|shard| shard.identify(now, number, options)),
        Entry::Resume { id, sequence } => match place.with(|shard| shard.resume(now, number, &id, sequence)) {
            Some(session) => {
                tracing::debug!(shard = arrival.shard, ?id, sequence, "a client resumes");
                Ok(session)
            }
            None => {
                tracing::info!(shard = arrival.shard, ?id, sequence, "a RESUME can not be served");
                connection.outbox.message(&[payload::INVALID_SESSION]);
                if let Ok(parcel) = connection.pack() {
                    core.tell(ToControl::Return(Box::new(parcel), version));
                }
                return;
            }
        },
    };
    let session = match session {
        Ok(session) => session,
        Err(close) => return finish(&mut connection, End::Close { close, reconnect: false }).await,
    };
    connection.outbox.start_compressing(place.with(|shard| shard.packs_payloads(session)));
    let handle = Rc::new(Handle {
        number,
        session,
        connection: RefCell::new(Some(connection)),
        waker: RefCell::new(None),
        stalled_since: Cell::new(None),
        idle: Cell::new(false),
        panic: RefCell::new(None),
    });
    let _registration = Registration { core: core.clone(), place: place.clone(), handle: handle.clone() };
    place.clients.borrow_mut().insert(number, handle.clone());
    let mut pause = Pause::default();
    let (mut connection, end) = poll_fn(|cx| {
        note_waker(&handle.waker, cx);
        if let Some(panic) = handle.panic.take() {
            resume_unwind(panic);
        }
        if !pause.is_over(cx) {
            return Poll::Pending;
        }
        let mut slot = handle.connection.borrow_mut();
        let connection = slot.as_mut().expect("it is taken out at its end only");
        let next = turn(&core, &place, connection, &handle, cx);
        handle.idle.set(matches!(next, Turn::Wait));
        match next {
            Turn::End(end) => return Poll::Ready((slot.take().expect("it was there just now"), end)),
            Turn::Again => pause.begin(cx),
            Turn::Wait => {}
        }
        Poll::Pending
    })
    .await;
    match &end {
        End::Closed(code) => place.with(|shard| shard.detach(core.now(), session, number, close::ends_session(*code))),
        End::Return => {
            place.with(|shard| shard.detach(core.now(), session, number, true));
            if let Ok(parcel) = connection.pack() {
                core.tell(ToControl::Return(Box::new(parcel), version));
            }
            return;
        }
        _ => {}
    }
    finish(&mut connection, end).await;
}

/// Gives a client what there is for it, outside of its task. False: its task has to be woken.
pub(super) fn serve_now(place: &Place, handle: &Handle, now: Time) -> bool {
    if !handle.idle.get() || handle.stalled_since.get().is_some() {
        return false;
    }
    let (mut slot, waker) = (handle.connection.borrow_mut(), handle.waker.borrow());
    let (Some(connection), Some(waker)) = (&mut *slot, &*waker) else { return false };
    // Whoever calls does not fall for it, and the client's task comes to the same end as if it had done this itself.
    let given =
        catch_unwind(AssertUnwindSafe(|| give(place, connection, handle, now, &mut Context::from_waker(waker))));
    let done = matches!(given, Ok(Turn::Wait));
    if let Err(panic) = given {
        handle.panic.replace(Some(panic));
    }
    handle.idle.set(done);
    done
}

/// Undoes what serving has registered, whichever way it ends, a panic included.
struct Registration {
    core: Rc<Core>,
    place: Rc<Place>,
    handle: Rc<Handle>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.place.clients.borrow_mut().remove(&self.handle.number);
        // After a panic within the shard it is borrowed by nobody, because unwinding has ended the borrow; but it may be in
        // a state in which it panics again, and a second panic within a drop would end the process.
        let now = self.core.now();
        self.place.try_with(|shard| shard.detach(now, self.handle.session, self.handle.number, false));
    }
}

/// One turn: read what is there, fill the outbox, write.
fn turn(core: &Core, place: &Place, connection: &mut ClientConnection, handle: &Handle, cx: &mut Context<'_>) -> Turn {
    let now = core.now();
    // Will the socket wake us when there is something to read?
    let mut listening = false;
    loop {
        // Before the first read too: the door may have read more than the IDENTIFY.
        if let Some(end) = messages(place, connection, handle, now) {
            return Turn::End(end);
        }
        // A client that does not read gets no further answers, so it is not listened to either.
        if connection.outbox.is_full() {
            break;
        }
        match connection.poll_read(cx) {
            Poll::Ready(Ok(n)) if n > 0 => {}
            Poll::Ready(_) => return Turn::End(End::Lost),
            Poll::Pending => {
                connection.inbound.release();
                listening = true;
                break;
            }
        }
    }
    // Also when the outbox is full: there may be a reason to close.
    match give(place, connection, handle, now, cx) {
        // What was full when it was to listen is empty now.
        Turn::Wait if !listening && handle.stalled_since.get().is_none() => Turn::Again,
        next => next,
    }
}

/// Fills the outbox, once, so that everyone else is served, and writes.
fn give(place: &Place, connection: &mut ClientConnection, handle: &Handle, now: Time, cx: &mut Context<'_>) -> Turn {
    let outbox = &mut connection.outbox;
    let progress = place.with(|shard| shard.produce(now, handle.session, handle.number, outbox));
    match progress {
        Progress::Close { close, reconnect } => return Turn::End(End::Close { close, reconnect }),
        Progress::Return => return Turn::End(End::Return),
        Progress::Idle | Progress::More => {}
    }
    let (written, state) = connection.poll_write(cx);
    match state {
        Poll::Ready(Ok(())) => handle.stalled_since.set(None),
        Poll::Ready(Err(_)) => return Turn::End(End::Lost),
        Poll::Pending => {
            let since = handle.stalled_since.get().filter(|_| written == 0).unwrap_or(now);
            handle.stalled_since.set(Some(since));
            if now.saturating_sub(since) >= STALL_LIMIT {
                tracing::info!("a client takes nothing for {} s and is dropped", STALL_LIMIT.as_secs());
                return Turn::End(End::Lost);
            }
            return Turn::Wait;
        }
    }
    if progress == Progress::Idle {
        connection.outbox.release();
        return Turn::Wait;
    }
    Turn::Again
}

/// Handles every message that is complete.
fn messages(place: &Place, connection: &mut ClientConnection, handle: &Handle, now: Time) -> Option<End> {
    connection.messages(|payload, outbox| {
        let text = command_text(outbox.encoding(), payload);
        let done =
            text.and_then(|text| place.with(|shard| shard.command(now, handle.session, handle.number, &text, outbox)));
        done.err().map(|close| End::Close { close, reconnect: false })
    })
}

/// The JSON text of a command. Some libraries send JSON in binary messages.
pub fn command_text(encoding: Encoding, payload: Payload<'_>) -> Result<Cow<'_, [u8]>, Close> {
    match (payload, encoding) {
        (Payload::Text(bytes), _) | (Payload::Binary(bytes), Encoding::Json) => Ok(Cow::Borrowed(bytes)),
        (Payload::Binary(bytes), Encoding::Etf) => {
            let mut text = Vec::with_capacity(bytes.len());
            etf::to_json(bytes, &mut text).map_err(|unreadable| (close::DECODE_ERROR, unreadable.0))?;
            // A term can be shorter than its text, and it is the text that may go on to Discord.
            if text.len() > MAX_COMMAND { Err(close_for(Violation::TooLarge)) } else { Ok(Cow::Owned(text)) }
        }
    }
}

/// The close that a violation of the WebSocket protocol gets. A message that is too long is Discord's own 4002.
pub fn close_for(violation: Violation) -> Close {
    match violation {
        Violation::TooLarge => (close::DECODE_ERROR, "payload longer than 4096 bytes"),
        Violation::Utf8 => (violation.close_code(), "text is not UTF-8"),
        _ => (violation.close_code(), "WebSocket protocol violated"),
    }
}

/// Ends the connection.
async fn finish(connection: &mut ClientConnection, end: End) {
    let (code, reason) = match end {
        End::Lost | End::Return => return,
        // Some libraries decide by the code that comes back, so it is theirs.
        End::Closed(code) => (code, ""),
        End::Close { close: (code, reason), reconnect } => {
            // In the middle of a large guild that is compressed on the way the code alone has to do.
            if reconnect && connection.outbox.abandon() {
                connection.outbox.message(&[payload::RECONNECT]);
                let left = within(RECONNECT_GRACE, connection.converse(|_, _| None::<Ended>)).await;
                if let Some(left) = left {
                    let own = if let Ended::Closed(code) = left { code } else { None };
                    return connection.goodbye(own, "").await;
                }
            }
            (Some(code), reason)
        }
    };
    connection.goodbye(code, reason).await;
}
