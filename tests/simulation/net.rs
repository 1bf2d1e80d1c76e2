//! Virtual stream sockets between the core and its peers: a byte queue in each direction. The queue from the core has
//! a limited capacity, as the buffer of a socket has.
//!
//! It knows which operations the core has in flight on a socket, and panics when the core breaks a rule of the seam.
//! It also records which payloads of Discord have reached the core: those whose frame the core has received up to the
//! last byte.

use crate::trace::{Coverage, Event};
use crate::voice::Told;
use gateway_proxy::{io::Token, protocol::Time};
use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

/// What the host needs to know about a payload of Discord.
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    /// The payload is an event that the shard counts.
    pub counted: bool,
    pub ready: bool,
    pub guild: Option<u64>,
    /// The number of a message.
    pub number: Option<u64>,
    /// The guild was deleted or is unavailable.
    pub left: bool,
    /// What it tells of voice.
    pub voice: Told,
}

/// A receive in flight.
pub struct Receive {
    pub token: Token,
    /// The receive goes on after its first bytes.
    pub many: bool,
    pub cancelled: bool,
}

/// A send in flight.
pub struct Send {
    pub token: Token,
    pub bytes: Vec<u8>,
    pub from: usize,
}

/// A poll in flight.
pub struct Poll {
    pub token: Token,
    pub cancelled: bool,
}

/// One connection.
pub struct Pipe {
    /// Bytes on the way to the core.
    pub to_core: VecDeque<u8>,
    /// Number of bytes that the other end has sent.
    pub pushed: u64,
    /// Number of these bytes that the core has received.
    pub received: u64,
    /// Bytes on the way from the core.
    pub from_core: VecDeque<u8>,
    /// Number of bytes that the socket has taken from the core.
    pub taken: u64,
    pub capacity: usize,
    /// The other end has ended its side of the stream.
    pub ended: bool,
    /// The other end is closed and reads nothing more.
    pub gone: bool,
    /// The connection is broken.
    pub reset: bool,
    /// The core has ended its side of the stream.
    pub core_ended: bool,
    /// The core has closed its socket.
    pub core_closed: bool,
    /// A poll has reported the full socket as writable, and the other end has read nothing since.
    pub fooled: bool,
    pub receive: Option<Receive>,
    pub send: Option<Send>,
    pub poll: Option<Poll>,
    /// Payloads on the way to the core, by the offset of their end in the stream.
    payloads: VecDeque<(u64, Payload)>,
}

impl Pipe {
    /// Number of bytes that the socket takes now.
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.from_core.len())
    }

    /// Number of bytes of the send in flight.
    pub fn in_flight(&self) -> usize {
        self.send.as_ref().map_or(0, |send| send.bytes.len() - send.from)
    }

    /// Says whether a send would take bytes or fail at once.
    pub fn is_writable(&self) -> bool {
        self.room() > 0 || self.reset || self.gone
    }
}

/// All virtual sockets. See the module's description.
pub struct Net {
    /// The virtual clock.
    pub clock: Time,
    pub pipes: BTreeMap<u64, Pipe>,
    next: u64,
    /// The process is being killed: sockets close although operations are in flight.
    pub dying: bool,
    /// Something has happened that the core may have to react to.
    pub touched: bool,
    /// Connections on which the core has cancelled a receive.
    pub cancelled: Vec<u64>,
    /// Payloads that have reached the core.
    pub arrived: Vec<Payload>,
    pub coverage: Coverage,
}

/// The network, shared by the core and the host.
pub type Shared = Rc<RefCell<Net>>;

/// The core's end of a connection.
#[derive(Debug)]
pub struct Socket {
    pub id: u64,
    net: NetOf,
}

/// Wraps the network, which has no `Debug`.
struct NetOf(Shared);

impl std::fmt::Debug for NetOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the network")
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut net = self.net.0.borrow_mut();
        net.touched = true;
        let dying = net.dying || std::thread::panicking();
        let pipe = net.pipes.get_mut(&self.id).expect("a pipe stays as long as its socket");
        let idle = pipe.receive.is_none() && pipe.send.is_none() && pipe.poll.is_none();
        assert!(idle || dying, "seam: socket {} is closed while an operation is under way on it", self.id);
        (pipe.receive, pipe.send, pipe.poll) = (None, None, None);
        pipe.core_closed = true;
    }
}

impl Net {
    pub fn new(clock: Time) -> Shared {
        Rc::new(RefCell::new(Self {
            clock,
            pipes: BTreeMap::new(),
            next: 0,
            dying: false,
            touched: false,
            cancelled: Vec::new(),
            arrived: Vec::new(),
            coverage: Coverage::default(),
        }))
    }

    /// Opens a connection. Returns the core's end.
    pub fn open(net: &Shared, capacity: usize) -> Socket {
        let mut this = net.borrow_mut();
        this.next += 1;
        let pipe = Pipe {
            to_core: VecDeque::new(),
            pushed: 0,
            received: 0,
            from_core: VecDeque::new(),
            taken: 0,
            capacity,
            ended: false,
            gone: false,
            reset: false,
            core_ended: false,
            core_closed: false,
            fooled: false,
            receive: None,
            send: None,
            poll: None,
            payloads: VecDeque::new(),
        };
        let id = this.next;
        this.pipes.insert(id, pipe);
        Socket { id, net: NetOf(net.clone()) }
    }

    pub fn pipe(&mut self, id: u64) -> &mut Pipe {
        self.pipes.get_mut(&id).expect("a connection that was opened")
    }

    /// Sends bytes to the core.
    pub fn push(&mut self, id: u64, bytes: &[u8]) {
        self.touched = true;
        let pipe = self.pipe(id);
        assert!(!pipe.ended, "nothing follows the end of a stream");
        pipe.to_core.extend(bytes);
        pipe.pushed += bytes.len() as u64;
    }

    /// Records that the bytes pushed last complete this payload.
    pub fn ends_payload(&mut self, id: u64, payload: Payload) {
        let pipe = self.pipe(id);
        pipe.payloads.push_back((pipe.pushed, payload));
    }

    /// Ends the other end's side of the stream.
    pub fn end(&mut self, id: u64) {
        self.touched = true;
        self.pipe(id).ended = true;
    }

    /// Breaks the connection.
    pub fn reset(&mut self, id: u64) {
        self.touched = true;
        self.coverage.count(Event::Resets);
        let pipe = self.pipe(id);
        (pipe.reset, pipe.ended, pipe.gone) = (true, true, true);
        pipe.to_core.clear();
        pipe.from_core.clear();
    }

    /// Reads bytes that the core has sent. Returns their number.
    pub fn read(&mut self, id: u64, into: &mut [u8]) -> usize {
        let pipe = self.pipe(id);
        let n = into.len().min(pipe.from_core.len());
        for (byte, from) in into.iter_mut().zip(pipe.from_core.drain(..n)) {
            *byte = from;
        }
        pipe.fooled &= n == 0;
        self.touched |= n > 0;
        n
    }

    /// Records that the core has received `n` more bytes.
    pub fn received(pipe: &mut Pipe, n: usize, arrived: &mut Vec<Payload>) {
        pipe.received += n as u64;
        while let Some((end, payload)) = pipe.payloads.front()
            && *end <= pipe.received
        {
            arrived.push(*payload);
            pipe.payloads.pop_front();
        }
    }

    /// Drops connections that both ends have closed.
    pub fn tidy(&mut self) {
        self.pipes.retain(|_, pipe| !(pipe.core_closed && pipe.gone));
    }
}
