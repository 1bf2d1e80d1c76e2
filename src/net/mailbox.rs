//! Bounded mailboxes: messages from any thread to a task on a glommio executor, or to a data core that waits in its
//! ring.
//!
//! Promises: messages arrive once and in order; sending never waits; a message wakes its receiver.

use crate::io::wake;
use atomic_waker::AtomicWaker;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::{future::poll_fn, sync::Arc, task::Poll};

/// Most messages that one mailbox holds.
pub const CAPACITY: usize = 8192;

/// Makes a mailbox whose receiver is a task.
pub fn mailbox<T>() -> (Postbox<T>, Mailbox<T>) {
    let (sender, receiver) = bounded(CAPACITY);
    let waker = Arc::new(AtomicWaker::new());
    (Postbox { sender, owner: Owner::Task(waker.clone()) }, Mailbox { receiver, waker })
}

/// Makes a mailbox whose receiver is a data core. `waker` wakes the core.
pub fn core_mailbox<T>(waker: wake::Waker) -> (Postbox<T>, Receiver<T>) {
    let (sender, receiver) = bounded(CAPACITY);
    (Postbox { sender, owner: Owner::Core(waker) }, receiver)
}

/// The receiver that a new message wakes.
#[derive(Clone)]
enum Owner {
    Task(Arc<AtomicWaker>),
    Core(wake::Waker),
}

/// The sending end of a mailbox. It can be cloned and moved to any thread.
pub struct Postbox<T> {
    sender: Sender<T>,
    owner: Owner,
}

impl<T> Clone for Postbox<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), owner: self.owner.clone() }
    }
}

impl<T> Postbox<T> {
    /// Sends a message without waiting. Returns the message when the mailbox is full or its receiver is gone.
    pub fn send(&self, message: T) -> Result<(), T> {
        match self.sender.try_send(message) {
            Ok(()) => {
                match &self.owner {
                    Owner::Task(waker) => waker.wake(),
                    Owner::Core(waker) => waker.wake(),
                }
                Ok(())
            }
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => Err(message),
        }
    }
}

/// The receiving end of a mailbox.
pub struct Mailbox<T> {
    receiver: Receiver<T>,
    waker: Arc<AtomicWaker>,
}

impl<T> Mailbox<T> {
    /// Returns the next message if one has arrived.
    pub fn try_receive(&mut self) -> Option<T> {
        self.receiver.try_recv().ok()
    }

    /// Waits for the next message.
    pub async fn receive(&mut self) -> T {
        poll_fn(|cx| {
            if let Ok(message) = self.receiver.try_recv() {
                return Poll::Ready(message);
            }
            self.waker.register(cx.waker());
            // A message may have arrived before the waker was registered.
            self.receiver.try_recv().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_arrives_in_order_across_threads() {
        let (postbox, mut mailbox) = mailbox();
        let sender = std::thread::spawn(move || {
            for number in 0..100_000u32 {
                while postbox.send(number).is_err() {
                    std::thread::yield_now();
                }
            }
        });
        glommio::LocalExecutorBuilder::default()
            .io_memory(65_536)
            .spawn(move || async move {
                for expected in 0..100_000 {
                    assert_eq!(mailbox.receive().await, expected);
                }
            })
            .unwrap()
            .join()
            .unwrap();
        sender.join().unwrap();
    }

    #[test]
    fn a_full_mailbox_says_so() {
        let (postbox, mailbox) = mailbox();
        for number in 0..CAPACITY {
            postbox.send(number).unwrap();
        }
        assert_eq!(postbox.send(7), Err(7));
        drop(mailbox);
        assert_eq!(postbox.send(8), Err(8));
    }
}
