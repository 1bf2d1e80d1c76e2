//! The ends and beginnings of processes: a stop with saved state, a kill, and what the next process takes over.

use super::Host;
use crate::{
    discord::Discord,
    process::{Disk, Process, queue},
    trace::{Event, note},
};
use gateway_proxy::data_core::ToCore;

impl Host {
    /// Sends the process a SIGTERM. When it has stopped, another process loads its state.
    pub fn restart(&mut self) {
        if !std::mem::replace(&mut self.stopping, true) {
            note(|| "proxy: is told to stop".into());
            self.post(ToCore::Stop);
        }
    }

    /// The process has stopped: starts another one with its state.
    pub(super) fn go_on(&mut self, discord: &mut Discord) {
        let kept = self.disk.borrow().kept;
        note(|| format!("proxy: restarts with {:?} bytes", self.disk.borrow().state.as_ref().map(Vec::len)));
        self.start_over(discord, kept);
        if kept {
            self.coverage.count(Event::Restarts);
        }
    }

    /// Kills the process and starts another one without state.
    pub fn kill(&mut self, discord: &mut Discord) {
        self.coverage.count(Event::Kills);
        note(|| "proxy: is killed".into());
        self.disk.replace(Disk::default());
        self.start_over(discord, false);
    }

    fn start_over(&mut self, discord: &mut Discord, kept: bool) {
        let now = self.net.borrow().clock;
        discord.disconnect(now);
        self.taken.drain(..).for_each(|payload| discord.taken(&payload));
        self.net.borrow_mut().dying = true;
        self.generation += 1;
        self.started_at = now;
        if !kept {
            discord.known = false;
            self.clean_start = self.generation;
        }
        discord.fruitless = 0;
        // The interval between two IDENTIFYs holds across processes. The start of a process takes a while.
        let mut next = queue(now);
        next.request(0);
        let _ = next.poll(now);
        self.queue = next;
        self.dials.clear();
        for connection in std::mem::take(&mut self.connections).into_values() {
            self.net.borrow_mut().pipe(connection.socket).gone = true;
        }
        self.refused = None;
        self.endpoints.clear();
        self.process = Process::start(self.choice, &self.net, &self.disk, &mut self.rng);
        let mut net = self.net.borrow_mut();
        (net.dying, net.touched) = (false, true);
        net.arrived.clear();
        net.tidy();
        (self.stopping, self.stopped) = (false, false);
    }
}
