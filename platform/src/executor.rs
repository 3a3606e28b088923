//! The executor: tasks run to completion or to their next wait, on one core, and the core sleeps when
//! there is nothing to do.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll};

use embassy_executor::Spawner;
use embassy_executor::raw::{AvailableTask, Executor, TaskStorage};
use spin::Once;

use crate::interrupt::{self, OneCore};
use crate::{clock, console};

/// Whether a task was woken since the last poll began.
static WOKEN: AtomicBool = AtomicBool::new(false);
static SPAWNER: OneCore<Option<Spawner>> = OneCore::new(None);

/// What the executor calls when a task is woken.
#[unsafe(export_name = "__pender")]
fn pender(_context: *mut ()) {
    WOKEN.store(true, Ordering::Release);
}

/// Runs `main`'s future and everything it spawns, for ever.
pub(crate) fn run<F: Future<Output = ()> + 'static>(main: fn() -> F) -> ! {
    static STARTED: Once<()> = Once::new();
    assert!(!STARTED.is_completed(), "the executor runs once");
    STARTED.call_once(|| ());

    let executor: &'static Executor = Box::leak(Box::new(Executor::new(core::ptr::null_mut())));
    SPAWNER.with(|spawner| *spawner = Some(executor.spawner()));
    spawn(main());
    loop {
        WOKEN.store(false, Ordering::Relaxed);
        let fired = interrupt::deliver();
        if fired.console {
            console::wake_waiter();
        }
        clock::wake_due(fired.timer);
        // SAFETY: polled here only, and never from within a poll.
        unsafe { executor.poll() };
        clock::arm();

        // Between the check and `wfi` nothing may slip through: with interrupts masked an interrupt that
        // arrives stays pending, and a pending one ends `wfi` at once.
        axhal::asm::disable_irqs();
        if !WOKEN.load(Ordering::Acquire) && !interrupt::pending() {
            axhal::asm::wait_for_irqs();
        }
        axhal::asm::enable_irqs();
    }
}

/// Starts a task that is started once and whose memory is never given back.
///
/// # Panics
/// Outside [`entry!`](crate::entry)'s task and its descendants.
pub fn spawn<F: Future<Output = ()> + 'static>(future: F) {
    let storage: &'static TaskStorage<F> = Box::leak(Box::new(TaskStorage::new()));
    // A fresh storage is free.
    if let Ok(token) = storage.spawn(|| future) {
        with_spawner(|spawner| spawner.spawn(token));
    }
}

fn with_spawner(f: impl FnOnce(Spawner)) {
    match SPAWNER.with(|spawner| *spawner) {
        Some(spawner) => f(spawner),
        None => panic!("the executor is not running"),
    }
}

/// There was not enough memory for another task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpawnError;

/// Tasks of one kind that come and go: the memory of one that ended serves the next, so the pool is as
/// large as the most tasks that ever ran at once.
pub struct TaskPool<F: Future<Output = ()> + 'static> {
    storages: RefCell<Vec<&'static TaskStorage<Pooled<F>>>>,
    free: FreeList,
}

/// Indices of storages whose task has ended.
type FreeList = Rc<RefCell<Vec<usize>>>;

impl<F: Future<Output = ()> + 'static> Default for TaskPool<F> {
    fn default() -> Self {
        Self {
            storages: RefCell::default(),
            free: FreeList::default(),
        }
    }
}

impl<F: Future<Output = ()> + 'static> TaskPool<F> {
    /// Starts a task.
    ///
    /// # Errors
    /// When there is no memory for it; `future` is dropped.
    pub fn spawn(&self, future: F) -> Result<(), SpawnError> {
        let mut future = Some(future);
        // A task that was woken as it ended blocks its storage until the executor passes it once more.
        let ended = self.free.borrow().len();
        for _ in 0..ended {
            let Some(index) = self.free.borrow_mut().pop() else {
                break;
            };
            if self.start(index, &mut future) {
                return Ok(());
            }
            self.free.borrow_mut().insert(0, index);
        }
        let index = self.grow()?;
        if self.start(index, &mut future) {
            Ok(())
        } else {
            Err(SpawnError)
        }
    }

    /// Makes one more storage and returns its index.
    fn grow(&self) -> Result<usize, SpawnError> {
        let mut storages = self.storages.borrow_mut();
        storages.try_reserve(1).map_err(|_| SpawnError)?;
        // So that a task that ends never has to ask for memory.
        let mut free = self.free.borrow_mut();
        let missing = storages.len() + 1 - free.len();
        free.try_reserve(missing).map_err(|_| SpawnError)?;
        let mut memory = Vec::new();
        memory.try_reserve_exact(1).map_err(|_| SpawnError)?;
        memory.push(TaskStorage::new());
        let [storage] = memory.leak() else {
            return Err(SpawnError);
        };
        storages.push(storage);
        Ok(storages.len() - 1)
    }

    /// Starts `future` in a storage, or leaves it where it is when that is taken.
    fn start(&self, index: usize, future: &mut Option<F>) -> bool {
        let Some(&storage) = self.storages.borrow().get(index) else {
            return false;
        };
        let Some(available) = AvailableTask::claim(storage) else {
            return false;
        };
        let Some(future) = future.take() else {
            return false;
        };
        let free = Rc::clone(&self.free);
        let token = available.initialize(|| Pooled {
            future,
            index,
            free,
        });
        with_spawner(|spawner| spawner.spawn(token));
        true
    }
}

/// A task's future that hands its storage back when it is dropped, which is when it has ended.
struct Pooled<F> {
    future: F,
    index: usize,
    free: FreeList,
}

impl<F: Future<Output = ()>> Future for Pooled<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // SAFETY: `future` is pinned whenever `self` is: nothing moves it out, and `Drop` does not touch it.
        unsafe { self.map_unchecked_mut(|task| &mut task.future) }.poll(context)
    }
}

impl<F> Drop for Pooled<F> {
    fn drop(&mut self) {
        self.free.borrow_mut().push(self.index);
    }
}
