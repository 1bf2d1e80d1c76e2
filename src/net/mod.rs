//! Sockets, threads and TLS on glommio executors: the I/O that drives the pure parts on the control core.
//!
//! Owns the ways in which bytes and messages move: [`mailbox`] between threads, [`dial`] for new connections to
//! Discord, and [`hosts`] for the rule to which hosts these may go. Knows WebSocket frames. Never knows a session or a
//! shard.

pub mod dial;
pub mod hosts;
pub mod mailbox;
pub mod mask;
pub(crate) mod tls;

use std::{
    cell::Cell,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    rc::Rc,
    task::Poll,
};

/// Runs a future and catches a panic in it. `None`: the future panicked. An uncaught panic would end the executor and
/// everything that runs on it.
pub async fn catch_panic<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Ready(value)) => Poll::Ready(Some(value)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(_) => Poll::Ready(None),
    })
    .await
}

/// Starts tasks of which a panic ends only the task itself, and counts these panics. Clones share the count.
#[derive(Clone, Default)]
pub struct ContainedTasks {
    panics: Rc<Cell<u64>>,
}

impl ContainedTasks {
    /// Starts a task on this executor. A panic in the task is logged and counted, and drops what the task owns, such as
    /// a connection.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        let panics = self.panics.clone();
        let task = async move {
            if catch_panic(task).await.is_none() {
                panics.set(panics.get() + 1);
                tracing::error!("{name} panicked and is over");
            }
        };
        glommio::spawn_local(task).detach();
    }

    /// The number of tasks that have panicked.
    pub fn panics(&self) -> u64 {
        self.panics.get()
    }
}

/// Returns the result of the future that is ready first, and drops the other one.
pub async fn race<T>(first: impl Future<Output = T>, second: impl Future<Output = T>) -> T {
    futures_lite::future::or(first, second).await
}

/// Runs a future for at most `limit`. `None`: it was not ready in time.
pub async fn within<T>(limit: std::time::Duration, future: impl Future<Output = T>) -> Option<T> {
    race(async { Some(future.await) }, async {
        glommio::timer::sleep(limit).await;
        None
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_only_its_task_and_is_counted() {
        let executor = glommio::LocalExecutorBuilder::default().io_memory(65_536).spawn(|| async {
            let tasks = ContainedTasks::default();
            tasks.clone().spawn("a task of a test", async { panic!("expected by this test") });
            tasks.spawn("a task of a test", async {});
            glommio::timer::sleep(std::time::Duration::from_millis(10)).await;
            tasks.panics()
        });
        assert_eq!(executor.unwrap().join().unwrap(), 1);
    }

    #[test]
    fn a_panic_ends_only_its_future() {
        futures_lite::future::block_on(async {
            assert_eq!(catch_panic(async { 5 }).await, Some(5));
            assert_eq!(
                catch_panic(async {
                    if true {
                        panic!("expected by this test")
                    }
                })
                .await,
                None
            );
        });
    }
}

/// Length of a pause: long enough for the timer not to have fired before the executor polls its sockets, and too
/// short to delay anybody.
const PAUSE: std::time::Duration = std::time::Duration::from_micros(5);

/// A pause of a task that lets all other tasks and sockets of its executor run. A task that only wakes itself does
/// not: the executor polls its sockets only when no task is ready, or every 100 ms.
#[derive(Default)]
pub struct Pause(Option<glommio::timer::Timer>);

impl Pause {
    /// Starts a pause. The task is woken at its end.
    pub fn begin(&mut self, cx: &mut std::task::Context<'_>) {
        self.0 = Some(glommio::timer::Timer::new(PAUSE));
        if self.is_over(cx) {
            cx.waker().wake_by_ref();
        }
    }

    /// Returns true if no pause was begun or the pause has ended. If it returns false, the task is woken at the end.
    pub fn is_over(&mut self, cx: &mut std::task::Context<'_>) -> bool {
        let over = self.0.as_mut().is_none_or(|timer| std::pin::Pin::new(timer).poll(cx).is_ready());
        if over {
            self.0 = None;
        }
        over
    }
}

/// Most reads that a task may do in a row.
const READS_IN_A_ROW: u32 = 16;

/// Limits how many reads a task may do before other tasks run. Without it, a peer that sends faster than the task
/// reads would keep the task, and with it the whole executor, busy, and no timer would fire.
#[derive(Default)]
pub struct ReadBudget {
    used: u32,
    pause: Pause,
}

impl ReadBudget {
    /// Has to be called before each read. `Pending`: the budget is used up; the task is woken when it may read again.
    pub fn poll_take(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()> {
        if self.used == READS_IN_A_ROW {
            self.used = 0;
            self.pause.begin(cx);
            return Poll::Pending;
        }
        if !self.pause.is_over(cx) {
            return Poll::Pending;
        }
        self.used += 1;
        Poll::Ready(())
    }

    /// Refills the budget. To be called when a read had to wait, because then other tasks run anyway.
    pub fn renew(&mut self) {
        self.used = 0;
    }
}
