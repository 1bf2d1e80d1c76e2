//! Something that is expensive to make and that many ask for: made once for all who wait, and good for a while.

use crate::protocol::Time;
use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    task::{Poll, Waker},
};

/// See the module's description.
pub struct Kept<T> {
    lasts: Time,
    state: RefCell<State<T>>,
}

struct State<T> {
    /// The newest one, and when it was begun.
    made: Option<(Time, T)>,
    /// Somebody makes one just now.
    making: bool,
    waiting: Vec<Waker>,
}

impl<T: Clone> Kept<T> {
    /// Of things that are good for so long.
    pub fn new(lasts: Time) -> Self {
        Self { lasts, state: RefCell::new(State { made: None, making: false, waiting: Vec::new() }) }
    }

    /// The newest one if it is good enough at `now`, else the one that is being made, else a new one.
    pub async fn get(&self, now: Time, make: impl Future<Output = T>) -> T {
        let found = poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if let Some((begun, made)) = &state.made
                && now < *begun + self.lasts
            {
                return Poll::Ready(Some(made.clone()));
            }
            if state.making {
                state.waiting.push(cx.waker().clone());
                return Poll::Pending;
            }
            state.making = true;
            Poll::Ready(None)
        });
        if let Some(made) = found.await {
            return made;
        }
        // Also when this task is dropped meanwhile: then one of those who wait has to make it.
        let _making = Making(self);
        let made = make.await;
        self.state.borrow_mut().made = Some((now, made.clone()));
        made
    }
}

struct Making<'a, T>(&'a Kept<T>);

impl<T> Drop for Making<'_, T> {
    fn drop(&mut self) {
        let mut state = self.0.state.borrow_mut();
        state.making = false;
        for waker in state.waiting.drain(..) {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, pin::pin, task::Context};

    #[test]
    fn it_is_made_once_for_all_who_wait_and_again_when_it_is_old() {
        let kept = Kept::new(Time::from_secs(1));
        let (open, made) = (Cell::new(false), Cell::new(0));
        let make = || async {
            poll_fn(|_| if open.get() { Poll::Ready(()) } else { Poll::Pending }).await;
            made.set(made.get() + 1);
            made.get()
        };
        let mut cx = Context::from_waker(Waker::noop());
        let at = Time::from_millis;
        let mut first = pin!(kept.get(at(0), make()));
        let mut second = pin!(kept.get(at(10), make()));
        assert!(first.as_mut().poll(&mut cx).is_pending() && second.as_mut().poll(&mut cx).is_pending());
        open.set(true);
        assert_eq!(first.as_mut().poll(&mut cx), Poll::Ready(1));
        assert_eq!(second.as_mut().poll(&mut cx), Poll::Ready(1));
        assert_eq!(pin!(kept.get(at(999), make())).poll(&mut cx), Poll::Ready(1));
        assert_eq!(pin!(kept.get(at(1000), make())).poll(&mut cx), Poll::Ready(2));
    }

    #[test]
    fn who_is_dropped_while_making_leaves_it_to_another() {
        let kept = Kept::new(Time::from_secs(1));
        let mut cx = Context::from_waker(Waker::noop());
        let mut second = pin!(kept.get(Time::ZERO, async { 2 }));
        {
            let mut first = pin!(kept.get(Time::ZERO, std::future::pending()));
            assert!(first.as_mut().poll(&mut cx).is_pending());
            assert!(second.as_mut().poll(&mut cx).is_pending());
        }
        assert_eq!(second.as_mut().poll(&mut cx), Poll::Ready(2));
    }
}
