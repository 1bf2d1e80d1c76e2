//! Shares a value that is expensive to make between all tasks that ask for it, and uses it again for some time.
//!
//! A task of its own makes the value. So the value is completed even if the task that asked first is dropped, and the
//! other tasks that wait do not start over.

use crate::{net::ContainedTasks, protocol::Time};
use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    rc::Rc,
    task::{Poll, Waker},
};

/// A value that is shared between the tasks that ask for it; see the module's description.
pub struct SingleFlight<T> {
    lasts: Time,
    tasks: ContainedTasks,
    state: RefCell<State<T>>,
}

struct State<T> {
    /// The newest value, and when its making began.
    made: Option<(Time, T)>,
    /// How many values have been made.
    count: u64,
    /// A task is making the next value.
    making: bool,
    waiting: Vec<Waker>,
}

impl<T: Clone + 'static> SingleFlight<T> {
    /// Shares values that may be used for `lasts` from the moment when their making began. They are made by `tasks`.
    pub fn new(lasts: Time, tasks: &ContainedTasks) -> Rc<Self> {
        let state = State { made: None, count: 0, making: false, waiting: Vec::new() };
        Rc::new(Self { lasts, tasks: tasks.clone(), state: RefCell::new(state) })
    }

    /// The newest value, if it may still be used at `now`, otherwise the next one, which `make` makes if no task is
    /// making it already. Has to be called on an executor.
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
                // The new task runs at once, up to its first wait. It borrows the state, so this borrow has to end
                // before.
                drop(state);
                self.tasks.spawn("the task that gathers reports", self.clone().make(now, make()));
            }
            Poll::Pending
        })
        .await
    }

    async fn make(self: Rc<Self>, now: Time, making: impl Future<Output = T>) {
        // Dropped also when `making` panics. Then one of the tasks that wait starts over.
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

    /// A closed gate, and a count that is 0, for `next`. The future of `next` waits until the test opens the gate (sets
    /// it to true), then adds 1 to the count and returns the count.
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
            let shared = SingleFlight::new(Time::from_secs(1), &ContainedTasks::default());
            let (gate, made) = numbers();
            let at = Time::from_millis;
            let ask = |now| {
                let (shared, gate, made) = (shared.clone(), gate.clone(), made.clone());
                glommio::spawn_local(async move { shared.get(now, || next(&gate, &made)).await })
            };
            // At 3 s the value is too old to be used again, but it was being made when the third task asked.
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
            let shared = SingleFlight::new(Time::from_secs(1), &ContainedTasks::default());
            let (gate, made) = numbers();
            for _ in 0..10 {
                let gone = shared.get(Time::ZERO, || next(&gate, &made));
                assert_eq!(futures_lite::future::poll_once(gone).await, None);
            }
            gate.set(true);
            assert_eq!(shared.get(Time::ZERO, || next(&gate, &made)).await, 1);
        });
    }
}
