//! The queue between execution and sending: batches of replies, and what each reply depends on.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::Poll;

use kvstore::Timestamp;

use crate::command::failure::IO_ERROR;
use crate::resp::Reply;
use crate::resp::reply::Sink;
use lfs::Notify;

/// Memory of a batch that is kept for the next one.
const KEPT_BYTES: usize = 16 * 1024;
const KEPT_MARKS: usize = 64;
/// Batches beyond this many are joined, so that many small ones take no more memory than one large one.
const BATCHES_MAX: usize = 8;

/// A reply at `start..end` that may leave only once `timestamp` is durable.
#[derive(Debug, Clone, Copy)]
struct Mark {
    start: u32,
    end: u32,
    timestamp: Timestamp,
}

/// Replies in order.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) sink: Sink,
    marks: Vec<Mark>,
    /// The newest commit that any of them depends on.
    newest: Timestamp,
}

impl Batch {
    /// Says that the reply from `start` to the end depends on `timestamp`.
    pub(crate) fn depend(&mut self, start: usize, timestamp: Timestamp) {
        let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let (start, end) = (narrow(start), narrow(self.sink.len()));
        if start < end {
            self.marks.push(Mark {
                start,
                end,
                timestamp,
            });
            self.newest = self.newest.max(timestamp);
        }
    }

    /// Takes the replies from `start` on back. What they depend on stays, which does no harm.
    pub(super) fn take_back(&mut self, start: usize) {
        self.sink.truncate(start);
        while self
            .marks
            .last()
            .is_some_and(|mark| mark.start as usize >= start)
        {
            self.marks.pop();
        }
    }

    /// The newest commit that any of the replies depends on.
    pub(super) fn newest(&self) -> Timestamp {
        self.newest
    }

    /// Whether nothing was replied.
    pub(super) fn is_empty(&self) -> bool {
        self.sink.len() == 0
    }

    /// Memory taken.
    pub(super) fn memory_bytes(&self) -> usize {
        self.sink.capacity() + self.marks.capacity() * size_of::<Mark>()
    }

    /// Durability is lost: replies that depend on more than `durable` become errors, the others stay.
    pub(super) fn withdraw(&mut self, durable: Timestamp) {
        let mut sink = Sink::new(usize::MAX);
        let mut reply = Reply::new(&mut sink, false);
        let mut at = 0;
        for mark in self.marks.iter().filter(|mark| mark.timestamp > durable) {
            let (start, end) = (mark.start as usize, mark.end as usize);
            reply.raw(self.sink.bytes().get(at..start).unwrap_or_default());
            reply.error(IO_ERROR.as_bytes());
            at = end;
        }
        reply.raw(self.sink.bytes().get(at..).unwrap_or_default());
        self.sink = sink;
        self.marks.clear();
        self.newest = Timestamp(0);
    }

    /// Takes the replies of `other` behind its own.
    fn join(&mut self, other: &Self) {
        let offset = u32::try_from(self.sink.len()).unwrap_or(u32::MAX);
        self.sink.set_limit(usize::MAX);
        Reply::new(&mut self.sink, false).raw(other.sink.bytes());
        self.marks.extend(other.marks.iter().map(|mark| Mark {
            start: mark.start.saturating_add(offset),
            end: mark.end.saturating_add(offset),
            timestamp: mark.timestamp,
        }));
        self.newest = self.newest.max(other.newest);
    }

    fn reset(&mut self) {
        self.sink.reset(KEPT_BYTES);
        self.marks.clear();
        self.marks.shrink_to(KEPT_MARKS);
        self.newest = Timestamp(0);
    }
}

/// Batches on their way out.
#[derive(Default)]
pub(super) struct Output {
    queue: RefCell<VecDeque<Batch>>,
    /// Queued or being sent.
    bytes: Cell<usize>,
    memory_bytes: Cell<usize>,
    ended: Cell<bool>,
    sent: Notify,
    spare: RefCell<Option<Batch>>,
}

impl Output {
    /// An empty batch, with memory of an earlier one if possible.
    pub(super) fn fresh(&self) -> Batch {
        self.spare.borrow_mut().take().unwrap_or_default()
    }

    /// Queues `batch`.
    pub(super) fn push(&self, mut batch: Batch) {
        self.bytes.set(self.bytes.get() + batch.sink.len());
        let mut queue = self.queue.borrow_mut();
        if queue.len() >= BATCHES_MAX
            && let Some(last) = queue.back_mut()
        {
            let before = last.memory_bytes();
            last.join(&batch);
            self.memory_bytes
                .set(self.memory_bytes.get() + last.memory_bytes() - before);
            drop(queue);
            batch.reset();
            self.spare.replace(Some(batch));
            return;
        }
        self.memory_bytes
            .set(self.memory_bytes.get() + batch.memory_bytes());
        queue.push_back(batch);
    }

    /// No more will be queued.
    pub(super) fn end(&self) {
        self.ended.set(true);
    }

    /// The next batch to send; `None` when there will be none.
    ///
    /// Registers no waker: reader and writer are one task, and the reader is polled first.
    pub(super) async fn next(&self) -> Option<Batch> {
        poll_fn(|_| match self.queue.borrow_mut().pop_front() {
            Some(batch) => Poll::Ready(Some(batch)),
            None if self.ended.get() => Poll::Ready(None),
            None => Poll::Pending,
        })
        .await
    }

    /// Whether nothing is queued or being sent.
    pub(super) fn is_idle(&self) -> bool {
        self.bytes.get() == 0
    }

    /// A batch that was queued with `len` bytes and `memory_bytes` is sent.
    pub(super) fn sent(&self, mut batch: Batch, len: usize, memory_bytes: usize) {
        self.bytes.set(self.bytes.get().saturating_sub(len));
        self.memory_bytes
            .set(self.memory_bytes.get().saturating_sub(memory_bytes));
        batch.reset();
        self.spare.replace(Some(batch));
        self.sent.notify();
    }

    /// Bytes queued or being sent.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Memory of what is queued or being sent.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes.get()
    }

    /// Waits until what is queued or being sent takes no more than `limit` bytes of memory.
    pub(super) async fn until_at_most(&self, limit: usize) {
        self.sent
            .until(|| (self.memory_bytes.get() <= limit).then_some(()))
            .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(replies: &[(&str, u64)]) -> Batch {
        let mut batch = Batch {
            sink: Sink::new(1000),
            ..Batch::default()
        };
        for (text, timestamp) in replies {
            let start = batch.sink.len();
            Reply::new(&mut batch.sink, false).simple(text);
            if *timestamp > 0 {
                batch.depend(start, Timestamp(*timestamp));
            }
        }
        batch
    }

    #[test]
    fn only_what_is_not_durable_is_withdrawn() {
        let mut batch = batch(&[("a", 0), ("b", 5), ("c", 7), ("d", 0), ("e", 8), ("f", 0)]);
        assert_eq!(batch.newest(), Timestamp(8));
        batch.withdraw(Timestamp(5));
        let expected = alloc::format!("+a\r\n+b\r\n-{IO_ERROR}\r\n+d\r\n-{IO_ERROR}\r\n+f\r\n");
        assert_eq!(batch.sink.bytes(), expected.as_bytes());
    }

    #[test]
    fn many_small_batches_are_joined() {
        let output = Output::default();
        for index in 0..100 {
            output.push(batch(&[("x", index + 1)]));
        }
        assert_eq!(output.queue.borrow().len(), BATCHES_MAX);
        let mut last = output.queue.borrow_mut().pop_back().unwrap();
        assert_eq!(last.newest(), Timestamp(100));
        last.withdraw(Timestamp(99));
        let withdrawn = alloc::format!("-{IO_ERROR}\r\n");
        assert!(last.sink.bytes().ends_with(withdrawn.as_bytes()));
        assert!(last.sink.bytes().starts_with(b"+x\r\n+x\r\n"));
    }
}
