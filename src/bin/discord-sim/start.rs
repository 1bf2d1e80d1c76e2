//! Starts a glommio executor so that it certainly runs.
//!
//! glommio arms a timer that limits how long tasks run, and then runs the tasks. If the thread is held up in between
//! until the timer fires, glommio runs no task, takes the expired timer out of its ring, and sleeps, although the first
//! task is ready. Later a socket or a timer of a task ends such a sleep; at the start there is none, and the program
//! would hang. So another thread sends the sleeping thread a signal now and then, until the first task runs.

use glommio::LocalExecutor;
use signal_hook::consts::SIGUSR2;
use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// Time between two signals. Most starts take far less.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs a future on an executor, in this thread.
///
/// # Errors
/// When the signal can not be handled or the other thread not be started.
pub fn run<T>(executor: &LocalExecutor, future: impl Future<Output = T>) -> io::Result<T> {
    // The handler does nothing that matters. Without a handler the signal would end the process.
    signal_hook::flag::register(SIGUSR2, Arc::new(AtomicBool::new(false)))?;
    // SAFETY: both calls only return numbers.
    let (process, sleeper) = unsafe { (libc::getpid(), libc::gettid()) };
    let runs = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&runs);
    thread::Builder::new().name("start".into()).spawn(move || {
        loop {
            thread::sleep(PAUSE);
            if seen.load(Ordering::Acquire) {
                return;
            }
            // SAFETY: the call has only numbers as arguments. If the thread has ended, the call fails.
            let _ = unsafe { libc::syscall(libc::SYS_tgkill, process, sleeper, SIGUSR2) };
        }
    })?;
    Ok(executor.run(async move {
        runs.store(true, Ordering::Release);
        future.await
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use glommio::LocalExecutorBuilder;

    /// The shorter the timer, the more starts need a signal. With 8 us nearly all do, and without signals none returns.
    #[test]
    fn an_executor_whose_timer_fires_early_runs() {
        for timer in [1_000, 100, 30].map(Duration::from_micros) {
            for number in 0..20 {
                let executor =
                    LocalExecutorBuilder::default().io_memory(65_536).preempt_timer(timer).make().expect("an executor");
                assert_eq!(run(&executor, async { number }).expect("a thread"), number);
            }
        }
    }
}
