//! Transactions of a worker that stay open while the others commit.
//!
//! They are serializable. What each step finds is what the model had when the transaction began, with its own changes; and when it
//! commits, all of it must come out the same once more on the model as it is then: as if it had happened at that moment.

use std::rc::Rc;

use lfs::{Clock, CommitStop, FileError, Isolation, Namespace, OpenTransaction};

use super::disks::Disks;
use super::operation::{HANDLES, Operation, Outcome, Target, TreePath, apply};
use super::posix::Model;
use super::world::{Worker, World, is_fault};

/// What was done in a step, when, and what came of it.
#[derive(Clone)]
struct Done {
    operation: Operation,
    now: i64,
    result: Result<Outcome, FileError>,
}

/// An open transaction beside the model of what it sees.
struct Open {
    transaction: OpenTransaction,
    model: Model,
    done: Vec<Done>,
    /// What to go back to.
    savepoints: Vec<(Model, usize)>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Committed,
    Conflict,
    /// For want of space, or too large.
    Refused,
}

impl<D: Disks> Worker<D> {
    /// A transaction of some steps, between which others go on.
    pub async fn open_transaction(&self) {
        let now = self.now_ns();
        let mut open = Open {
            transaction: self.filesystem.begin(Isolation::Serializable, now).unwrap(),
            model: self.world.borrow().model.clone(),
            done: Vec::new(),
            savepoints: Vec::new(),
        };
        let steps = 1 + self.world.borrow_mut().random.below(5);
        for _ in 0..steps {
            if !self.open_step(&mut open).await {
                return;
            }
            let pause = self.world.borrow_mut().random.below(40);
            self.clock.sleep_ms(pause).await;
        }
        if self.world.borrow_mut().random.one_in(6) {
            return;
        }
        if self.world.borrow_mut().random.one_in(3) && !self.refused_for_now(&mut open).await {
            return;
        }
        let empty = open.transaction.is_empty();
        let Open {
            transaction, done, ..
        } = open;
        let result = self.filesystem.commit_open(transaction, &[]).await;
        // No await from here on: this is the moment of the commit.
        let world = &mut *self.world.borrow_mut();
        let end = match result {
            Ok(_) if empty => End::Committed,
            Ok(commit) => {
                world.happens(&done);
                world.states.insert(commit, Rc::new(world.model.clone()));
                End::Committed
            }
            Err(FileError::ConflictOn(_)) => End::Conflict,
            Err(
                FileError::TransactionEnded | FileError::NoSpace | FileError::TransactionTooLarge,
            ) => End::Refused,
            Err(error) if is_fault(&error) && world.faulty => End::Refused,
            Err(error) => panic!("{error}"),
        };
        let kind = format!("open transaction: {end:?}");
        world.kinds.entry(kind).or_default()[usize::from(end == End::Committed)] += 1;
    }

    /// Tries to commit more than the log takes. When there is no room, the transaction goes on as if nothing had been;
    /// false when it came to its end.
    async fn refused_for_now(&self, open: &mut Open) -> bool {
        let layer = vec![0; self.filesystem.commit_bytes_max() + (64 << 10)];
        match self
            .filesystem
            .try_commit_open(&mut open.transaction, &layer)
        {
            Ok(_) => panic!("more than a commit can hold was committed"),
            Err(CommitStop::Error(FileError::ConflictOn(_) | FileError::TransactionEnded)) => false,
            Err(_) => self.open_step(open).await,
        }
    }

    /// A step, or something with savepoints; false when the transaction came to its end.
    async fn open_step(&self, open: &mut Open) -> bool {
        let choice = self.world.borrow_mut().random.below(8);
        match choice {
            0 => {
                open.transaction.savepoint().unwrap();
                open.savepoints.push((open.model.clone(), open.done.len()));
                return true;
            }
            1 if !open.savepoints.is_empty() => {
                let place = self.world.borrow_mut().random.index(open.savepoints.len());
                open.transaction.roll_back_to(place).unwrap();
                open.savepoints.truncate(place + 1);
                let (model, done) = &open.savepoints[place];
                open.model = model.clone();
                open.done.truncate(*done);
                return true;
            }
            _ => {}
        }
        let (operation, small) = {
            let world = &mut *self.world.borrow_mut();
            world.generator.note(&open.model.observe());
            (world.operation_without_handles(), world.random.one_in(2))
        };
        let now = self.now_ns();
        let result = self
            .filesystem
            .step(&mut open.transaction, now, |transaction| {
                let mut files = if small {
                    Namespace::with_small_limits(transaction)
                } else {
                    Namespace::new(transaction)
                };
                apply(&mut files, &[None; HANDLES], &operation)
            });
        let result = result.await;
        let given_up = match &result {
            Err(FileError::TransactionEnded | FileError::TransactionTooLarge) => true,
            Err(error) if is_fault(error) => self.world.borrow().faulty,
            _ => false,
        };
        if given_up {
            return false;
        }
        let mut model = open.model.clone();
        model.now = now;
        let expected = model.apply(&operation);
        assert_same(&operation, &result, &expected);
        if expected.is_ok() {
            open.model = model;
        }
        open.done.push(Done {
            operation,
            now,
            result,
        });
        true
    }
}

impl World {
    /// What was done in a transaction happens now, with the same results.
    fn happens(&mut self, done: &[Done]) {
        for step in done {
            let mut model = self.model.clone();
            model.now = step.now;
            let again = model.apply(&step.operation);
            assert_same(&step.operation, &step.result, &again);
            if again.is_ok() {
                self.model = model;
            }
        }
    }

    fn operation_without_handles(&mut self) -> Operation {
        loop {
            let operation = match self.generator.next() {
                Operation::RemoveTree { path } => Operation::RemoveSome { path },
                operation => operation,
            };
            if !names_handle(&operation) {
                return operation;
            }
        }
    }
}

fn assert_same(
    operation: &Operation,
    found: &Result<Outcome, FileError>,
    expected: &Result<Outcome, FileError>,
) {
    let same = match (found, expected) {
        (Ok(found), Ok(expected)) => found.is_as(expected),
        (Err(found), Err(expected)) => found == expected,
        _ => false,
    };
    assert!(same, "{operation:?}\nfound {found:?}\nmodel {expected:?}");
}

/// Whether an operation is about something open.
fn names_handle(operation: &Operation) -> bool {
    let open = |path: &TreePath| path.base.is_some();
    let target = |target: &Target| match target {
        Target::Path(path) | Target::Link(path) => open(path),
        Target::Handle(_) => true,
    };
    match operation {
        Operation::Open { .. } | Operation::Close { .. } => true,
        Operation::Create { path, .. }
        | Operation::Unlink { path }
        | Operation::Rmdir { path }
        | Operation::RemoveTree { path }
        | Operation::RemoveSome { path }
        | Operation::ReadLink { path } => open(path),
        Operation::Link { from, to } => target(from) || open(to),
        Operation::Rename { from, to, .. } => open(from) || open(to),
        Operation::Read { target: of, .. }
        | Operation::Write { target: of, .. }
        | Operation::Truncate { target: of, .. }
        | Operation::Punch { target: of, .. }
        | Operation::Allocate { target: of, .. }
        | Operation::Seek { target: of, .. }
        | Operation::SetAttributes { target: of, .. }
        | Operation::GetXattr { target: of, .. }
        | Operation::SetXattr { target: of, .. }
        | Operation::RemoveXattr { target: of, .. } => target(of),
    }
}
