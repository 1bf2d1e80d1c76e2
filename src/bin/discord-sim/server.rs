//! The state that the tasks of `discord-sim serve` share.

use crate::gateway::Gateway;
use rustls::ServerConfig;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use world::Wish;

/// Length of a pause for other tasks. A sleep also lets the executor collect completions from the kernel, which
/// yielding does not.
pub const BREATH: Duration = Duration::from_micros(20);

/// State that all tasks of the simulator share. They run in one thread, so there are no locks.
pub struct Server {
    /// The gateway with its sessions and the world.
    pub gateway: RefCell<Gateway>,
    /// Traffic in events per second.
    pub rate: Cell<f64>,
    /// The traffic neither adds nor removes guilds, and starts no outage.
    pub steady: Cell<bool>,
    /// Connections are closed right after accept until this time.
    pub refuse_until: Cell<Instant>,
    /// Connections that are accepted before this time get no answer, except from the control API.
    pub hang_until: Cell<Instant>,
    /// Address that voice clients send voice packets to.
    pub voice_udp: SocketAddr,
    /// Voice servers also offer a mode of encryption that Discord no longer offers.
    pub old_voice_modes: bool,
    /// TLS of the listener; `None`: the listener has none.
    pub tls: Option<Arc<ServerConfig>>,
    /// Random numbers of the tasks.
    pub rng: RefCell<fastrand::Rng>,
}

impl Server {
    /// Makes one change or message on a shard, and publishes its events. Returns the number of events.
    pub fn happen(&self, shard: usize, wish: Wish<'_>) -> u64 {
        let mut gateway = self.gateway.borrow_mut();
        let events = gateway.world.happen(shard, wish);
        for event in &events {
            gateway.publish(shard, event);
        }
        events.len() as u64
    }
}
