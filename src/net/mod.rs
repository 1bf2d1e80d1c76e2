//! The thin shell around sockets, threads and TLS that the pure parts are driven by.
//!
//! Owns the ways in which bytes and messages move: [`mailbox`] between cores, [`client`] for connections of bots,
//! [`upstream`] for connections to Discord. Knows framing, and nothing of sessions or shards.

pub mod client;
pub mod mailbox;
pub mod tls;
pub mod upstream;

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
