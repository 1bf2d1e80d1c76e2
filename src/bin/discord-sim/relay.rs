//! `discord-sim relay`: a relay that only copies bytes. It is the yardstick for the cost of a proxy.
//!
//! It is as simple as a relay can be: one thread, epoll, one `recv` and one `send` for the bytes that have come, no
//! runtime, and no code of the proxy's I/O. Each client gets its own connection to the gateway. Bytes pass unchanged in
//! both directions, the handshake included: nothing is decoded, framed or compressed.

use crate::{cli::Relay, client::Url};
use rustix::event::epoll;
use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::AsFd,
    time::Duration,
};

/// Maximum number of bytes of one read.
const CHUNK: usize = 64 << 10;
/// Bytes of backlog of one side above which the other side is not read.
const FULL: usize = 1 << 20;
/// Maximum number of epoll events in one turn.
const EVENTS: usize = 256;
/// Pause after a failed accept; most likely the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Data of the listener's epoll events.
const LISTENER: u64 = u64::MAX;

/// One socket of a pair, and the bytes that wait to be written to it.
struct Side {
    stream: TcpStream,
    backlog: Vec<u8>,
    /// The events that epoll watches the socket for.
    watched: epoll::EventFlags,
    /// The other side's stream has ended. This side is shut down for writing after its backlog is written.
    ending: bool,
    /// The end of this side's stream has been read.
    ended: bool,
}

/// A client and its connection to the gateway.
type Pair = [Side; 2];

/// Relays until the process ends. Prints `listening on ADDRESS` when the listener is ready.
///
/// # Errors
/// When the port is taken, the upstream URL is bad or epoll fails.
pub fn run(options: &Relay) -> io::Result<()> {
    let gateway = Url::parse(&options.upstream)?.address;
    let listener = TcpListener::bind(options.listen)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", options.listen)))?;
    listener.set_nonblocking(true)?;
    let mut stdout = io::stdout();
    writeln!(stdout, "listening on {}", listener.local_addr()?)?;
    stdout.flush()?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    let mut pairs = slab::Slab::<Pair>::new();
    let mut scratch = vec![0; CHUNK];
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let data = event.data.u64();
            if data == LISTENER {
                accept(&epoll, &listener, gateway, &mut pairs)?;
                continue;
            }
            let (key, side) = ((data >> 1) as usize, (data & 1) as usize);
            // An earlier event of this turn may have removed the pair.
            let Some(pair) = pairs.get_mut(key) else { continue };
            if !matches!(serve(pair, side, event.flags, &mut scratch), Ok(true)) {
                // A failure of one pair does not affect the others. Closing its sockets removes them from epoll.
                pairs.remove(key);
                continue;
            }
            watch(&epoll, key, &mut pairs[key])?;
        }
    }
}

fn accept(
    epoll: impl AsFd,
    listener: &TcpListener,
    gateway: std::net::SocketAddr,
    pairs: &mut slab::Slab<Pair>,
) -> io::Result<()> {
    loop {
        let connected = listener.accept().and_then(|(near, _)| {
            let far = TcpStream::connect(gateway)?;
            for stream in [&near, &far] {
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
            }
            Ok([near, far])
        });
        let streams = match connected {
            Ok(streams) => streams,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => {
                eprintln!("a client is refused: {error}");
                std::thread::sleep(ACCEPT_PAUSE);
                return Ok(());
            }
        };
        let watched = epoll::EventFlags::IN;
        let side = |stream| Side { stream, backlog: Vec::new(), watched, ending: false, ended: false };
        let key = pairs.insert(streams.map(side));
        for (index, side) in pairs[key].iter().enumerate() {
            let data = epoll::EventData::new_u64((key as u64) << 1 | index as u64);
            epoll::add(&epoll, &side.stream, data, watched)?;
        }
    }
}

/// Handles epoll events of one side: writes its backlog, and copies bytes from it to the other side. `false` when both
/// sides have ended.
fn serve(pair: &mut Pair, side: usize, flags: epoll::EventFlags, scratch: &mut [u8]) -> io::Result<bool> {
    let [near, far] = pair;
    let (from, to) = if side == 0 { (near, far) } else { (far, near) };
    if flags.contains(epoll::EventFlags::OUT) {
        from.write()?;
    }
    if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) && !from.ended {
        match from.stream.read(scratch) {
            Ok(0) => {
                (from.ended, to.ending) = (true, true);
                to.write()?;
            }
            Ok(n) if to.backlog.is_empty() => {
                let written = match to.stream.write(&scratch[..n]) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                    written => written?,
                };
                to.backlog.extend_from_slice(&scratch[written..n]);
            }
            Ok(n) => to.backlog.extend_from_slice(&scratch[..n]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(!(near_and_far_ended(pair)))
}

fn near_and_far_ended(pair: &Pair) -> bool {
    pair.iter().all(|side| side.ended && side.backlog.is_empty())
}

impl Side {
    /// Writes as much of the backlog as the socket takes, then shuts the socket down if the other side has ended.
    fn write(&mut self) -> io::Result<()> {
        while !self.backlog.is_empty() {
            match self.stream.write(&self.backlog) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                written => drop(self.backlog.drain(..written?)),
            }
        }
        if self.ending {
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }
}

/// Updates the epoll events that each side is watched for, where they have changed.
fn watch(epoll: impl AsFd, key: usize, pair: &mut Pair) -> io::Result<()> {
    let full = [pair[1].backlog.len() >= FULL, pair[0].backlog.len() >= FULL];
    for (index, side) in pair.iter_mut().enumerate() {
        let mut wanted = epoll::EventFlags::empty();
        wanted.set(epoll::EventFlags::IN, !side.ended && !full[index]);
        wanted.set(epoll::EventFlags::OUT, !side.backlog.is_empty());
        if wanted != side.watched {
            side.watched = wanted;
            let data = epoll::EventData::new_u64((key as u64) << 1 | index as u64);
            epoll::modify(&epoll, &side.stream, data, wanted)?;
        }
    }
    Ok(())
}
