//! A queue of tasks of one thread: who came first is first, and the others wait for their turn.
//!
//! Whoever leaves it wakes the first of those who are left and nobody else. Bounds: an entry for each task that waits, and the logarithm of their number for each step; a
//! task that gives up in the middle moves those behind it.

use alloc::collections::VecDeque;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};

/// Tasks that wait for their turn.
#[derive(Default)]
pub struct Queue {
    /// By number; none has a waker before it was polled.
    waiting: RefCell<VecDeque<(u64, Option<Waker>)>>,
    next: Cell<u64>,
}

impl Queue {
    /// Whether nobody waits, and nobody is first.
    pub fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Waits at the end of the queue until all who were there before have left it. Who is first is so until what this returns is dropped.
    pub async fn first(&self) -> First<'_> {
        let number = self.next.get();
        self.next.set(number + 1);
        self.waiting.borrow_mut().push_back((number, None));
        let place = First {
            queue: self,
            number,
        };
        poll_fn(|context| place.poll(context.waker())).await;
        place
    }
}

/// The first place of a [`Queue`].
pub struct First<'q> {
    queue: &'q Queue,
    number: u64,
}

impl First<'_> {
    fn poll(&self, waker: &Waker) -> Poll<()> {
        let mut waiting = self.queue.waiting.borrow_mut();
        match waiting.binary_search_by_key(&self.number, |(number, _)| *number) {
            Ok(0) | Err(_) => Poll::Ready(()),
            Ok(place) => {
                if let Some((_, registered)) = waiting.get_mut(place) {
                    *registered = Some(waker.clone());
                }
                Poll::Pending
            }
        }
    }
}

impl Drop for First<'_> {
    fn drop(&mut self) {
        let next = {
            let mut waiting = self.queue.waiting.borrow_mut();
            let place = waiting.binary_search_by_key(&self.number, |(number, _)| *number);
            let Ok(place) = place else {
                return;
            };
            waiting.remove(place);
            match waiting.front_mut() {
                Some((_, waker)) if place == 0 => waker.take(),
                _ => None,
            }
        };
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::boxed::Box;
    use alloc::sync::Arc;
    use alloc::task::Wake;
    use core::future::Future;
    use core::pin::Pin;
    use core::sync::atomic::{AtomicU32, Ordering};
    use core::task::Context;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A task that waits to be first.
    struct Task<'q> {
        wait: Pin<Box<dyn Future<Output = First<'q>> + 'q>>,
        woken: Arc<Woken>,
    }

    impl<'q> Task<'q> {
        fn new(queue: &'q Queue) -> Self {
            Self {
                wait: Box::pin(queue.first()),
                woken: Arc::default(),
            }
        }

        fn poll(&mut self) -> Option<First<'q>> {
            let waker = Arc::clone(&self.woken).into();
            match self.wait.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(first) => Some(first),
                Poll::Pending => None,
            }
        }

        fn woken(&self) -> u32 {
            self.woken.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn who_comes_first_is_first_and_nobody_else_is_woken() {
        let queue = Queue::default();
        let mut tasks = [(); 3].map(|()| Task::new(&queue));
        assert!(queue.is_empty(), "none has begun to wait");
        let first = tasks[0].poll().expect("nobody was before it");
        assert!(tasks[1].poll().is_none() && tasks[2].poll().is_none());
        drop(first);
        assert_eq!((tasks[1].woken(), tasks[2].woken()), (1, 0));
        assert!(!queue.is_empty(), "who comes now comes later than those");
        let mut last = Task::new(&queue);
        assert!(last.poll().is_none() && tasks[2].poll().is_none());
        let first = tasks[1].poll().expect("it is its turn");
        drop(first);
        drop(tasks[2].poll().expect("it is its turn"));
        drop(last.poll().expect("it is its turn"));
        assert!(queue.is_empty());
    }

    #[test]
    fn who_gives_up_keeps_nobody_waiting() {
        let queue = Queue::default();
        let mut tasks = [(); 4].map(|()| Task::new(&queue));
        let first = tasks[0].poll().expect("nobody was before it");
        let [_, mut second, mut third, mut fourth] = tasks;
        assert!(second.poll().is_none() && third.poll().is_none() && fourth.poll().is_none());
        drop(third);
        assert_eq!(
            (second.woken(), fourth.woken()),
            (0, 0),
            "it is nobody's turn"
        );
        drop(first);
        assert_eq!(second.woken(), 1);
        // It was woken, and gives up before it has seen that.
        drop(second);
        assert_eq!(fourth.woken(), 1);
        assert!(fourth.poll().is_some());
    }
}
