//! `discord-sim relay`: a relay that does nothing but relay, as a yardstick for what a proxy costs.
//!
//! It is what a careful engineer writes in an afternoon instead of a proxy: one thread, epoll, one `recv` and one `send` for what
//! has come, no runtime, nothing shared with the proxy's own I/O. Each client gets a connection of its own to the gateway, and
//! bytes pass in both directions as they are, the handshake included, so nothing is decoded, framed or compressed anew.

use crate::{cli::Relay, client::Url};
use rustix::event::epoll;
use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::AsFd,
    time::Duration,
};

/// Bytes of one read.
const CHUNK: usize = 64 << 10;
/// Above this many bytes waiting for one side, nothing more is read from the other.
const FULL: usize = 1 << 20;
/// Events of one turn.
const EVENTS: usize = 256;
/// Pause after a failed accept, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What events of the listener carry.
const LISTENER: u64 = u64::MAX;

/// One end of a pair, with what waits to be written to it.
struct Side {
    stream: TcpStream,
    backlog: Vec<u8>,
    /// What epoll watches it for.
    watched: epoll::EventFlags,
    /// The other end has ended: so does this one, when the backlog is written.
    ending: bool,
    /// Its own end was read.
    ended: bool,
}

/// A client and its connection to the gateway.
type Pair = [Side; 2];

/// Runs until the process ends. Prints `listening on ADDRESS` when clients may come.
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
            // It may have ended within this turn.
            let Some(pair) = pairs.get_mut(key) else { continue };
            if !matches!(serve(pair, side, event.flags, &mut scratch), Ok(true)) {
                // The end of one client concerns nobody else; closing takes it out of epoll.
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

/// Moves bytes from one side of a pair to the other, and what waits for this side. `false`: both have ended.
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
    /// Writes what waits, then the end if there is one.
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

/// Tells epoll what each side waits for now, where that has changed.
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
