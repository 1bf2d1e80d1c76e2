//! Tells the service manager (systemd, sd_notify(3)) over `NOTIFY_SOCKET` how the proxy is: a line of status, that the
//! configuration is being read again, that the proxy stops, and that it is alive (the watchdog).
//!
//! Promises: without `NOTIFY_SOCKET` nothing is sent and no timer runs. With `WATCHDOG_USEC` the watchdog is fed only
//! while the loops of all data cores turn, so the service manager restarts a proxy of which one core hangs. A status is
//! sent when it has changed, once a second at most. Nothing is counted or sent per event: a core is asked by a message
//! in its mailbox, which wakes it when it sleeps. A service manager that does not read delays nothing: a thread of this
//! module sends, and at most [`MAX_UNSENT`] messages wait for it.

use super::Control;
use crate::{data_core::ToCore, protocol::Time, upstream::session::Status};
use crossbeam_channel::Sender;
use sd_notify::NotifyState;
use std::{
    collections::BTreeSet,
    io,
    rc::Rc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Most messages that wait for the service manager. A message that finds no room is dropped; a status is then sent
/// again a second later.
const MAX_UNSENT: usize = 16;
/// Longest wait at the end of the proxy for messages that are not sent yet.
const END_LIMIT: Duration = Duration::from_secs(1);

/// How often the status is looked at. The watchdog is fed in the same rhythm, or more often if it needs that.
const TICK: Duration = Duration::from_secs(1);
/// Part of `WATCHDOG_USEC` after which the watchdog is fed again. sd_watchdog_enabled(3) advises half of it. With a
/// quarter, a core may miss a round without harm.
const PART: u32 = 4;
/// How long a data core may take until its loop turns for the first time. It reads state files before that, which are
/// some gigabytes at most.
const START_LIMIT: Duration = Duration::from_secs(600);

/// Knows of each data core whether its loop turns, by questions that the loop answers. Pure.
#[derive(Default)]
pub(super) struct Pulse(Vec<CorePulse>);

struct CorePulse {
    /// When the core was asked for the first time.
    since: Time,
    /// A question is in the core's mailbox or on its way.
    is_asked: bool,
    /// The core has answered since the watchdog was fed.
    has_turned: bool,
    /// The core has answered at least once.
    has_started: bool,
}

impl Pulse {
    /// Begins a round at `now` with this many data cores. Returns whether all of them have turned since the last round
    /// of which this said so, and then a new round begins. A core that has never turned counts as turning for
    /// [`START_LIMIT`].
    pub fn all_turn(&mut self, cores: usize, now: Time) -> bool {
        while self.0.len() < cores {
            self.0.push(CorePulse { since: now, is_asked: false, has_turned: false, has_started: false });
        }
        let starts = |core: &CorePulse| !core.has_started && now.saturating_sub(core.since) < START_LIMIT;
        let all = self.0.iter().all(|core| core.has_turned || starts(core));
        if all {
            self.0.iter_mut().for_each(|core| core.has_turned = false);
        }
        all
    }

    /// The cores that have to be asked now: those without a question that waits for its answer.
    pub fn to_ask(&self) -> Vec<usize> {
        let waits = |core: &CorePulse| core.is_asked || core.has_turned;
        self.0.iter().enumerate().filter(|(_, core)| !waits(core)).map(|(index, _)| index).collect()
    }

    /// Notes that a question was put into the mailbox of a core.
    pub fn asked(&mut self, core: usize) {
        self.0[core].is_asked = true;
    }

    /// Notes that a core has answered.
    pub fn answered(&mut self, core: usize) {
        if let Some(core) = self.0.get_mut(core) {
            (core.is_asked, core.has_turned, core.has_started) = (false, true, true);
        }
    }
}

/// What the line of status is made from.
#[derive(Clone, Copy, Debug, Default)]
struct Facts<'a> {
    stopping: bool,
    /// Shards that are active, and all shards of this proxy; `None`: the shards have not been started.
    shards: Option<(usize, usize)>,
    /// Why the last GET `/gateway/bot` failed.
    rest_failure: Option<&'a str>,
    /// The last reload has found a wrong configuration.
    wrong_configuration: bool,
}

impl Facts<'_> {
    /// The line that `systemctl status` shows.
    fn line(self) -> String {
        if self.stopping {
            return "stopping: leaves Discord and the clients so that both can be resumed".into();
        }
        let mut line = match self.shards {
            Some((active, all)) => format!("{active} of {all} shards up"),
            None => "asks Discord for the gateway and the number of shards".into(),
        };
        if let Some(what) = self.rest_failure {
            // A line break would begin another variable of the protocol.
            let what = what.replace(['\n', '\r'], " ");
            line += &format!("; GET /gateway/bot has failed ({what}) and is repeated");
        }
        if self.wrong_configuration {
            line += "; the changed configuration is wrong and not in force, the log says why";
        }
        line
    }
}

/// What the control core keeps for the service manager.
pub(super) struct ServiceManager {
    /// The thread that sends; `None`: there is no service manager.
    outbox: Option<Outbox>,
    pulse: Pulse,
    /// Shards whose session with Discord is active.
    active: BTreeSet<u32>,
    /// The line of status that was sent last.
    told: String,
}

impl ServiceManager {
    /// Starts the thread that sends, if the process has a service manager.
    pub fn start() -> Self {
        let outbox = std::env::var_os("NOTIFY_SOCKET").map(|_| Outbox::start());
        let outbox = outbox.and_then(|outbox| {
            outbox.map_err(|error| tracing::warn!("can not start thread service-manager: {error}")).ok()
        });
        Self { outbox, ..Self::none() }
    }

    fn none() -> Self {
        Self { outbox: None, pulse: Pulse::default(), active: BTreeSet::new(), told: String::new() }
    }

    /// Notes the new status of a shard.
    pub fn changed(&mut self, shard: u32, to: Status) {
        if to == Status::Active {
            self.active.insert(shard);
        } else {
            self.active.remove(&shard);
        }
    }

    /// Notes that a data core has answered.
    pub fn answered(&mut self, core: usize) {
        self.pulse.answered(core);
    }

    /// Sends a message, and says whether there was room for it. Does nothing without a service manager.
    fn tell(&self, message: &[NotifyState<'_>]) -> bool {
        let Some(outbox) = &self.outbox else { return false };
        let lines: Vec<String> = message.iter().map(ToString::to_string).collect();
        outbox.messages.try_send(lines.join("\n")).is_ok()
    }

    /// Sends the line of status if it is another one than the last.
    fn tell_status(&mut self, line: String) {
        if line != self.told && self.tell(&[NotifyState::Status(&line)]) {
            self.told = line;
        }
    }
}

/// The thread that sends messages, and the messages that wait for it.
struct Outbox {
    messages: Sender<String>,
    thread: JoinHandle<()>,
}

impl Outbox {
    /// Starts the thread. It logs the first failure.
    fn start() -> io::Result<Self> {
        let (messages, received) = crossbeam_channel::bounded::<String>(MAX_UNSENT);
        let thread = thread::Builder::new().name("service-manager".into()).spawn(move || {
            let mut has_failed = false;
            for message in received {
                if let Err(error) = sd_notify::notify(&[NotifyState::Custom(&message)])
                    && !std::mem::replace(&mut has_failed, true)
                {
                    tracing::warn!("the service manager (NOTIFY_SOCKET) can not be told how the proxy is: {error}");
                }
            }
        })?;
        Ok(Self { messages, thread })
    }
}

impl Control {
    /// Sends the status and feeds the watchdog, as long as the proxy runs. Ends at once without a service manager.
    pub(super) async fn tell_service_manager(self: Rc<Self>) {
        if self.service_manager.borrow().outbox.is_none() {
            return;
        }
        let watchdog = sd_notify::watchdog_enabled().map(|limit| limit / PART);
        let tick = watchdog.map_or(TICK, |every| every.min(TICK));
        let mut fed = None::<Instant>;
        loop {
            self.tell_status();
            if let Some(every) = watchdog
                && fed.is_none_or(|at| at.elapsed() >= every)
                && self.feed_watchdog()
            {
                fed = Some(Instant::now());
            }
            glommio::timer::sleep(tick).await;
        }
    }

    /// Feeds the watchdog if all data cores turn, and says whether it did. Asks the cores again. While the proxy stops,
    /// the watchdog is fed without asking: the cores write state files then, and the stop has a limit of its own.
    fn feed_watchdog(&self) -> bool {
        let mut manager = self.service_manager.borrow_mut();
        let alive = manager.pulse.all_turn(self.cores().len(), self.now()) || self.stopping.get();
        if alive {
            manager.tell(&[NotifyState::Watchdog]);
        }
        for core in manager.pulse.to_ask() {
            // The mailbox of a core that hangs may be full. Then the core is asked in the next round.
            if self.cores()[core].send(ToCore::Pulse).is_ok() {
                manager.pulse.asked(core);
            }
        }
        alive
    }

    /// Sends the line of status if it has changed.
    fn tell_status(&self) {
        let failure = self.rest_failure.borrow();
        let range = self.gateway.borrow().as_ref().map(|gateway| self.config.shard_range(gateway.shards));
        let mut manager = self.service_manager.borrow_mut();
        let facts = Facts {
            stopping: self.stopping.get(),
            shards: range.and_then(Result::ok).map(|range| (manager.active.len(), range.len())),
            rest_failure: failure.as_ref().map(|failure| &*failure.what),
            wrong_configuration: self.reloads.get().last_was_bad,
        };
        manager.tell_status(facts.line());
    }

    /// Waits until all messages are sent, for [`END_LIMIT`] at most. Blocks, so nothing else may be left to do.
    pub(super) fn end_service_manager(&self) {
        let Some(Outbox { messages, thread }) = self.service_manager.borrow_mut().outbox.take() else { return };
        drop(messages);
        let begun = Instant::now();
        while !thread.is_finished() && begun.elapsed() < END_LIMIT {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Tells the service manager that the configuration is being read again. `Type=notify-reload` waits for the end.
    pub(super) fn tell_reloading(&self) {
        let Ok(now) = NotifyState::monotonic_usec_now() else { return };
        self.service_manager.borrow().tell(&[NotifyState::Reloading, now]);
    }

    /// Tells the service manager that the configuration has been read, or refused, and the proxy serves.
    pub(super) fn tell_reloaded(&self) {
        self.service_manager.borrow().tell(&[NotifyState::Ready]);
    }

    /// Tells the service manager that the proxy stops.
    pub(super) fn tell_stopping(&self) {
        self.service_manager.borrow().tell(&[NotifyState::Stopping]);
        self.tell_status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Time = Time::from_secs(1);

    /// Asks all cores that have to be asked, and returns them.
    fn ask(pulse: &mut Pulse) -> Vec<usize> {
        let cores = pulse.to_ask();
        cores.iter().for_each(|core| pulse.asked(*core));
        cores
    }

    #[test]
    fn one_core_that_does_not_turn_starves_the_watchdog() {
        let mut pulse = Pulse::default();
        // The cores are new, and have not read their state files.
        assert!(pulse.all_turn(2, SECOND));
        assert_eq!(ask(&mut pulse), [0, 1]);
        (0..2).for_each(|core| pulse.answered(core));
        for round in 2..5 {
            assert!(pulse.all_turn(2, SECOND * round), "round {round}");
            assert_eq!(ask(&mut pulse), [0, 1]);
            pulse.answered(1);
            // Core 0 answers late, and the round waits for it.
            assert!(!pulse.all_turn(2, SECOND * round));
            assert_eq!(ask(&mut pulse), Vec::<usize>::new(), "core 0 has a question already, core 1 has turned");
            pulse.answered(0);
        }
        assert!(pulse.all_turn(2, SECOND * 5));
        ask(&mut pulse);
        // Core 1 hangs, for however long.
        pulse.answered(0);
        for round in 6..2_000 {
            assert!(!pulse.all_turn(2, SECOND * round), "round {round}");
            ask(&mut pulse);
        }
        pulse.answered(1);
        assert!(pulse.all_turn(2, SECOND * 2_000));
    }

    #[test]
    fn a_core_whose_mailbox_is_full_is_asked_again() {
        let mut pulse = Pulse::default();
        pulse.all_turn(1, SECOND);
        ask(&mut pulse);
        pulse.answered(0);
        assert!(pulse.all_turn(1, SECOND * 2));
        // The question could not be sent, so `asked` is not called.
        assert_eq!(pulse.to_ask(), [0]);
        assert!(!pulse.all_turn(1, SECOND * 3));
        assert_eq!(ask(&mut pulse), [0]);
        pulse.answered(0);
        assert!(pulse.all_turn(1, SECOND * 4));
    }

    #[test]
    fn a_core_has_time_to_start_but_not_for_ever() {
        let mut pulse = Pulse::default();
        assert!(pulse.all_turn(1, SECOND));
        ask(&mut pulse);
        assert!(pulse.all_turn(1, START_LIMIT));
        assert!(!pulse.all_turn(1, START_LIMIT + SECOND));
        // Before the shards are started there is no core to wait for.
        assert!(Pulse::default().all_turn(0, SECOND));
    }

    #[test]
    fn the_status_is_one_line() {
        let facts = Facts { shards: Some((47, 48)), ..Facts::default() };
        assert_eq!(facts.line(), "47 of 48 shards up");
        assert_eq!(Facts::default().line(), "asks Discord for the gateway and the number of shards");
        let failed = Facts { rest_failure: Some("status 500:\nX=1"), wrong_configuration: true, ..facts };
        assert_eq!(
            failed.line(),
            "47 of 48 shards up; GET /gateway/bot has failed (status 500: X=1) and is repeated; the changed \
             configuration is wrong and not in force, the log says why"
        );
        assert!(Facts { stopping: true, ..failed }.line().starts_with("stopping: "));
    }

    #[test]
    fn shards_are_counted_by_their_last_status() {
        let mut manager = ServiceManager::none();
        manager.changed(3, Status::Active);
        manager.changed(4, Status::Active);
        manager.changed(3, Status::Active);
        manager.changed(4, Status::Resuming);
        manager.changed(5, Status::Disconnected);
        assert_eq!(manager.active, BTreeSet::from([3]));
    }
}
