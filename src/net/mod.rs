//! The thin shell around sockets, threads and TLS that the pure parts are driven by.
//!
//! Owns the ways in which bytes and messages move: [`mailbox`] between cores, [`client`] for connections of bots,
//! [`dial`] for new connections to Discord. Knows framing, and nothing of sessions or shards.

pub mod client;
pub mod dial;
pub mod mailbox;
pub mod mask;
pub mod tls;

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};

/// Runs a future so that a panic in it ends only itself. `None`: it panicked. A panic that escaped a task would end the
/// executor and with it every shard on that core.
pub async fn contain<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Ready(value)) => Poll::Ready(Some(value)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(_) => Poll::Ready(None),
    })
    .await
}

/// Starts a task on this executor. A panic in it ends it, and nothing else.
pub fn spawn_contained(name: &'static str, task: impl Future<Output = ()> + 'static) {
    let task = async move {
        if contain(task).await.is_none() {
            tracing::error!("{name} panicked; its connection is dropped");
        }
    };
    glommio::spawn_local(task).detach();
}

/// The first of two futures to be ready; the other one is dropped.
pub async fn race<T>(first: impl Future<Output = T>, second: impl Future<Output = T>) -> T {
    futures_lite::future::or(first, second).await
}

/// Waits this long at most; `None`: it took longer.
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
    fn a_panic_ends_only_its_task() {
        let executor = glommio::LocalExecutorBuilder::default().io_memory(65_536).spawn(|| async {
            spawn_contained("a task of a test", async { panic!("expected by this test") });
            glommio::timer::sleep(std::time::Duration::from_millis(10)).await;
            "still here"
        });
        assert_eq!(executor.unwrap().join().unwrap(), "still here");
    }

    #[test]
    fn a_panic_ends_only_its_future() {
        futures_lite::future::block_on(async {
            assert_eq!(contain(async { 5 }).await, Some(5));
            assert_eq!(
                contain(async {
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

/// Long enough not to have passed when it is looked at, and short for everyone else.
const PAUSE: std::time::Duration = std::time::Duration::from_micros(5);

/// A task's way of letting everyone else have their turn. Waking itself is not enough: the executor looks at its sockets only
/// when no task is ready, or every 100 ms.
#[derive(Default)]
pub struct Pause(Option<glommio::timer::Timer>);

impl Pause {
    /// Begins one. The task is woken when it is over.
    pub fn begin(&mut self, cx: &mut std::task::Context<'_>) {
        self.0 = Some(glommio::timer::Timer::new(PAUSE));
        if self.is_over(cx) {
            cx.waker().wake_by_ref();
        }
    }

    /// Is there none any more?
    pub fn is_over(&mut self, cx: &mut std::task::Context<'_>) -> bool {
        let over = self.0.as_mut().is_none_or(|timer| std::pin::Pin::new(timer).poll(cx).is_ready());
        if over {
            self.0 = None;
        }
        over
    }
}

/// Reads in a row that a task may do.
const READS_IN_A_ROW: u32 = 16;

/// What a task may read before everyone else has their turn. A peer that sends faster than we read would otherwise keep its
/// task, and with it the core, to itself, and no time limit would ever be looked at.
#[derive(Default)]
pub struct Budget {
    used: u32,
    pause: Pause,
}

impl Budget {
    /// Asks before a read. `Pending`: it is used up, and the task is woken when there is a new one.
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

    /// There was nothing to read, so others have their turn.
    pub fn renew(&mut self) {
        self.used = 0;
    }
}
