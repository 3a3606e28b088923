//! A deterministic executor with virtual time.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};

use super::Random;
use crate::Clock;

/// Unix time at which every simulation starts, in microseconds.
const EPOCH_US: i64 = 1_700_000_000_000_000;

/// Polls without time moving on after which nobody is taken to be getting anywhere.
const POLLS_MAX: u64 = 2_000_000;

/// Polls tasks in an order that follows from its seed. When all wait, time moves on to the next timer.
pub struct Executor {
    random: Random,
    clock: SimClock,
    tasks: Vec<Task>,
}

struct Task {
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    ready: Arc<Ready>,
}

struct Ready(AtomicBool);

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Executor {
    /// An executor whose choices follow `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            clock: SimClock::default(),
            tasks: Vec::new(),
        }
    }

    /// Its clock.
    pub fn clock(&self) -> SimClock {
        self.clock.clone()
    }

    /// Adds a task.
    pub fn spawn(&mut self, future: impl Future<Output = ()> + 'static) {
        let ready = Arc::new(Ready(AtomicBool::new(true)));
        self.tasks.push(Task {
            future: Some(Box::pin(future)),
            ready,
        });
    }

    /// Runs all tasks until `main` is done and gives its result. Other tasks stay for the next call.
    ///
    /// # Panics
    /// When `main` can never finish: everybody waits and no timer is set, or everybody runs in circles.
    pub fn run<T: 'static>(&mut self, main: impl Future<Output = T> + 'static) -> T {
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        self.spawn(async move {
            let value = main.await;
            *slot.borrow_mut() = Some(value);
        });
        let mut polls = 0;
        loop {
            if let Some(value) = result.borrow_mut().take() {
                self.tasks.retain(|task| task.future.is_some());
                return value;
            }
            let is_ready =
                |task: &Task| task.future.is_some() && task.ready.0.load(Ordering::Relaxed);
            let tasks = self.tasks.iter().enumerate();
            let mut ready = tasks.filter(|(_, task)| is_ready(task));
            let choice = self.random.index(ready.clone().count());
            let chosen = ready.nth(choice).map(|(index, _)| index);
            if let Some(index) = chosen {
                polls += 1;
                assert!(polls < POLLS_MAX, "the simulation runs in circles");
                self.poll(index);
            } else {
                polls = 0;
                assert!(
                    self.clock.advance(),
                    "the simulation is stuck: everybody waits"
                );
            }
        }
    }

    fn poll(&mut self, index: usize) {
        let Some(task) = self.tasks.get_mut(index) else {
            return;
        };
        task.ready.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&task.ready));
        if let Some(future) = task.future.as_mut()
            && future
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_ready()
        {
            task.future = None;
        }
    }
}

/// Virtual time: stands still while anybody can run.
#[derive(Clone, Default)]
pub struct SimClock {
    timers: Rc<Timers>,
}

#[derive(Default)]
struct Timers {
    now_us: Cell<u64>,
    /// What is added to the wall clock on top of elapsed time.
    wall_offset_us: Cell<i64>,
    next_id: Cell<u64>,
    waiting: RefCell<BTreeMap<(u64, u64), Waker>>,
}

impl SimClock {
    /// Lets the wall clock jump.
    pub fn jump_ms(&self, by_ms: i64) {
        self.timers
            .wall_offset_us
            .set(self.timers.wall_offset_us.get() + by_ms * 1000);
    }

    /// Moves on to the next timer; false when there is none.
    fn advance(&self) -> bool {
        let Some(((at, _), waker)) = self.timers.waiting.borrow_mut().pop_first() else {
            return false;
        };
        self.timers.now_us.set(self.timers.now_us.get().max(at));
        waker.wake();
        true
    }
}

impl Clock for SimClock {
    fn monotonic_us(&self) -> u64 {
        self.timers.now_us.get()
    }

    fn unix_us(&self) -> i64 {
        let elapsed = i64::try_from(self.timers.now_us.get()).unwrap_or(i64::MAX);
        EPOCH_US + self.timers.wall_offset_us.get() + elapsed
    }

    async fn sleep_ms(&self, duration_ms: u64) {
        let at = self.timers.now_us.get() + duration_ms * 1000;
        let id = self.timers.next_id.get();
        self.timers.next_id.set(id + 1);
        let _timer = Timer {
            timers: &self.timers,
            key: (at, id),
        };
        poll_fn(|context| {
            if self.timers.now_us.get() >= at {
                return Poll::Ready(());
            }
            self.timers
                .waiting
                .borrow_mut()
                .insert((at, id), context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Takes a timer back when its sleep is dropped.
struct Timer<'t> {
    timers: &'t Timers,
    key: (u64, u64),
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        self.timers.waiting.borrow_mut().remove(&self.key);
    }
}
