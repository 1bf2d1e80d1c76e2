//! Something that is expensive to make and that many ask for: made once for all who wait, and good for a while.
//!
//! It is made by a task of its own. Who asks may go away meanwhile: neither is it made in vain, nor do the others wait longer.

use crate::{net::spawn_contained, protocol::Time};
use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    rc::Rc,
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
    /// How many have been made.
    count: u64,
    /// One is being made.
    making: bool,
    waiting: Vec<Waker>,
}

impl<T: Clone + 'static> Kept<T> {
    /// Of things that are good for so long.
    pub fn new(lasts: Time) -> Rc<Self> {
        let state = State { made: None, count: 0, making: false, waiting: Vec::new() };
        Rc::new(Self { lasts, state: RefCell::new(state) })
    }

    /// The newest one if it is good enough at `now`, else the next one. Has to be called on an executor.
    pub async fn get<F: Future<Output = T> + 'static>(self: &Rc<Self>, now: Time, make: impl Fn() -> F) -> T {
        let known = self.state.borrow().count;
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            let count = state.count;
            if let Some((begun, made)) = &state.made
                && (count > known || now < *begun + self.lasts)
            {
                return Poll::Ready(made.clone());
            }
            state.waiting.push(cx.waker().clone());
            if !std::mem::replace(&mut state.making, true) {
                // The new task runs at once and up to its first wait, so it has to find the state free.
                drop(state);
                spawn_contained("the task that gathers reports", self.clone().make(now, make()));
            }
            Poll::Pending
        })
        .await
    }

    async fn make(self: Rc<Self>, now: Time, making: impl Future<Output = T>) {
        // Also after a panic: then one of those who wait begins anew.
        let end = End(&self.state);
        let made = making.await;
        let mut state = self.state.borrow_mut();
        state.made = Some((now, made));
        state.count += 1;
        drop(state);
        drop(end);
    }
}

struct End<'a, T>(&'a RefCell<State<T>>);

impl<T> Drop for End<'_, T> {
    fn drop(&mut self) {
        let mut state = self.0.borrow_mut();
        state.making = false;
        for waker in state.waiting.drain(..) {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn on_an_executor<F: Future<Output = ()> + 'static>(test: impl FnOnce() -> F + Send + 'static) {
        let executor = glommio::LocalExecutorBuilder::default().io_memory(65_536).spawn(test);
        executor.unwrap().join().unwrap();
    }

    /// Makes numbers, each when the gate is open.
    fn numbers() -> (Rc<Cell<bool>>, Rc<Cell<u32>>) {
        (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)))
    }

    fn next(gate: &Rc<Cell<bool>>, made: &Rc<Cell<u32>>) -> impl Future<Output = u32> + 'static {
        let (gate, made) = (gate.clone(), made.clone());
        async move {
            while !gate.get() {
                futures_lite::future::yield_now().await;
            }
            made.set(made.get() + 1);
            made.get()
        }
    }

    #[test]
    fn it_is_made_once_for_all_who_wait_and_again_when_it_is_old() {
        on_an_executor(|| async {
            let kept = Kept::new(Time::from_secs(1));
            let (gate, made) = numbers();
            let at = Time::from_millis;
            let ask = |now| {
                let (kept, gate, made) = (kept.clone(), gate.clone(), made.clone());
                glommio::spawn_local(async move { kept.get(now, || next(&gate, &made)).await })
            };
            // The last of them came when it was old already, and has waited for it nevertheless.
            let asked = [ask(at(0)), ask(at(10)), ask(at(3000))];
            futures_lite::future::yield_now().await;
            gate.set(true);
            for task in asked {
                assert_eq!(task.await, 1);
            }
            assert_eq!(ask(at(999)).await, 1);
            assert_eq!(ask(at(1000)).await, 2);
        });
    }

    #[test]
    fn who_goes_away_takes_nothing_from_the_others() {
        on_an_executor(|| async {
            let kept = Kept::new(Time::from_secs(1));
            let (gate, made) = numbers();
            for _ in 0..10 {
                let gone = kept.get(Time::ZERO, || next(&gate, &made));
                assert_eq!(futures_lite::future::poll_once(gone).await, None);
            }
            gate.set(true);
            assert_eq!(kept.get(Time::ZERO, || next(&gate, &made)).await, 1);
        });
    }
}
