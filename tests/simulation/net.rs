//! Virtual stream sockets between the core and whoever is at the other end: byte queues in both directions, of which the one
//! from the core has a capacity as a socket's buffer has.
//!
//! It knows which operations the core has under way on a socket, and panics when the core breaks a rule of the seam. It also
//! notes which payloads of Discord have reached the core: a payload has when the last byte of its frame was received.

use crate::trace::{Coverage, Event};
use crate::voice::Told;
use gateway_proxy::{io::Token, protocol::Time};
use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

/// What a payload of Discord is about.
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    /// It is an event that the shard counts.
    pub counted: bool,
    pub ready: bool,
    pub guild: Option<u64>,
    /// The number of a message.
    pub number: Option<u64>,
    /// The guild was left, or is down.
    pub left: bool,
    /// What it tells of voice.
    pub voice: Told,
}

/// A receive that is under way.
pub struct Receive {
    pub token: Token,
    /// It goes on after it has brought something.
    pub many: bool,
    pub cancelled: bool,
}

/// A send that is not decided.
pub struct Send {
    pub token: Token,
    pub bytes: Vec<u8>,
    pub from: usize,
}

/// A wait for room that is under way.
pub struct Poll {
    pub token: Token,
    pub cancelled: bool,
}

/// One connection.
pub struct Pipe {
    /// On its way to the core.
    pub to_core: VecDeque<u8>,
    /// Bytes that were put on their way to the core, and those that it has received.
    pub pushed: u64,
    pub received: u64,
    /// On its way from the core.
    pub from_core: VecDeque<u8>,
    /// Bytes that the socket has taken from the core.
    pub taken: u64,
    pub capacity: usize,
    /// The other end has ended its side of the stream.
    pub ended: bool,
    /// The other end is closed: it reads nothing more.
    pub gone: bool,
    /// The connection is broken.
    pub reset: bool,
    /// The core has ended its side of the stream.
    pub core_ended: bool,
    /// The core has closed its socket.
    pub core_closed: bool,
    /// The core was told that it is writable while it was full, and nothing was read since.
    pub fooled: bool,
    pub receive: Option<Receive>,
    pub send: Option<Send>,
    pub poll: Option<Poll>,
    /// Payloads on their way to the core, by where they end in what was pushed.
    payloads: VecDeque<(u64, Payload)>,
}

impl Pipe {
    /// Bytes that the socket takes now.
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.from_core.len())
    }

    /// Bytes of a send that is not decided.
    pub fn in_flight(&self) -> usize {
        self.send.as_ref().map_or(0, |send| send.bytes.len() - send.from)
    }

    /// A send would not have to wait.
    pub fn is_writable(&self) -> bool {
        self.room() > 0 || self.reset || self.gone
    }
}

/// See the module's description.
pub struct Net {
    /// The time.
    pub clock: Time,
    pub pipes: BTreeMap<u64, Pipe>,
    next: u64,
    /// The process is being killed: sockets close whatever is under way on them.
    pub dying: bool,
    /// Something has happened that the core may have to see.
    pub touched: bool,
    /// Connections on which the core has cancelled a receive.
    pub cancelled: Vec<u64>,
    /// Payloads that have reached the core.
    pub arrived: Vec<Payload>,
    pub coverage: Coverage,
}

/// A network that belongs to both sides.
pub type Shared = Rc<RefCell<Net>>;

/// The core's end of a connection.
#[derive(Debug)]
pub struct Socket {
    pub id: u64,
    net: NetOf,
}

/// For `Debug`, which the network itself does not have.
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

    /// Makes a connection; returns the core's end.
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

    /// Bytes for the core.
    pub fn push(&mut self, id: u64, bytes: &[u8]) {
        self.touched = true;
        let pipe = self.pipe(id);
        assert!(!pipe.ended, "nothing follows the end of a stream");
        pipe.to_core.extend(bytes);
        pipe.pushed += bytes.len() as u64;
    }

    /// What was pushed last ends this payload.
    pub fn ends_payload(&mut self, id: u64, payload: Payload) {
        let pipe = self.pipe(id);
        pipe.payloads.push_back((pipe.pushed, payload));
    }

    /// The other end ends its side of the stream.
    pub fn end(&mut self, id: u64) {
        self.touched = true;
        self.pipe(id).ended = true;
    }

    /// The connection breaks.
    pub fn reset(&mut self, id: u64) {
        self.touched = true;
        self.coverage.count(Event::Resets);
        let pipe = self.pipe(id);
        (pipe.reset, pipe.ended, pipe.gone) = (true, true, true);
        pipe.to_core.clear();
        pipe.from_core.clear();
    }

    /// Takes what the core has sent, as much as fits.
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

    /// The core has received so many bytes more.
    pub fn received(pipe: &mut Pipe, n: usize, arrived: &mut Vec<Payload>) {
        pipe.received += n as u64;
        while let Some((end, payload)) = pipe.payloads.front()
            && *end <= pipe.received
        {
            arrived.push(*payload);
            pipe.payloads.pop_front();
        }
    }

    /// Forgets connections that both ends have closed.
    pub fn tidy(&mut self) {
        self.pipes.retain(|_, pipe| !(pipe.core_closed && pipe.gone));
    }
}
