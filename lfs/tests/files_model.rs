//! The whole file system against the model of `namespace_model.rs`, with mounts in between.
//!
//! Invariants: every operation answers what the model answers, and the tree is the model's, from memory and
//! after a mount. Orphans are reclaimed in the background meanwhile, but what is open stays.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic, and its numbers are small"
)]

mod common;

use std::rc::Rc;

use common::generator::Generator;
use common::operation::{
    HANDLES, Handles, Observed, Operation, Outcome, apply, note_handles, observe,
};
use common::posix::Model;
use common::{TestFileSystem, formatted, mount, seed};
use lfs::FileError;
use lfs::sim::{Executor, SimDisk};

struct Run {
    disk: SimDisk,
    executor: Executor,
    filesystem: Rc<TestFileSystem>,
    model: Model,
    handles: Handles,
    seed: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let disk = formatted(1000, seed);
        let mut executor = Executor::new(seed);
        let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
        let mut run = Self {
            disk,
            executor,
            filesystem,
            model: Model::new(0, 0o755),
            handles: [None; HANDLES],
            seed,
        };
        let root = run.observe().remove(0);
        run.model = Model::new(root.times[3], root.mode);
        run.compare("at the start");
        run
    }

    fn observe(&mut self) -> Vec<Observed> {
        let (filesystem, handles) = (Rc::clone(&self.filesystem), self.handles);
        self.executor.run(async move {
            filesystem
                .read(|transaction| observe(&mut transaction.files(), &handles))
                .await
                .unwrap()
        })
    }

    fn compare(&mut self, what: &str) {
        let (found, expected) = (self.observe(), self.model.observe());
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                found == expected,
                "{what}\nfound {}\nmodel {}",
                found.brief(),
                expected.brief()
            );
        }
        assert_eq!(found.len(), expected.len(), "{what}");
    }

    fn act(&mut self, operation: &Operation) -> Result<Outcome, FileError> {
        let (filesystem, handles, now) =
            (Rc::clone(&self.filesystem), self.handles, self.model.now);
        let operation = operation.clone();
        self.executor.run(async move {
            let done = filesystem.transact(now, |transaction| {
                apply(&mut transaction.files(), &handles, &operation)
            });
            Ok(done.await?.0)
        })
    }

    fn step(&mut self, generator: &mut Generator, step: u64) {
        generator.note(&self.model.observe());
        let operation = generator.next();
        // Counts of links in a removed tree follow later than in the model.
        if matches!(operation, Operation::RemoveTree { .. }) {
            return;
        }
        self.model.now += 1;
        let expected = self.model.apply(&operation);
        let result = self.act(&operation);
        let right = match (&result, &expected) {
            (Ok(outcome), Ok(model)) => outcome.is_as(model),
            (result, expected) => result == expected,
        };
        let mut what = format!("step {step}: {operation:?}");
        what.truncate(300);
        assert!(right, "{what}\nfound {result:?}\nmodel {expected:?}");
        if let Ok(outcome) = &result {
            let before = self.handles;
            note_handles(&mut self.handles, &operation, outcome);
            for inode in self.handles.iter().flatten() {
                self.filesystem.hold(inode.0);
            }
            for inode in before.iter().flatten() {
                self.filesystem.unhold(inode.0);
            }
        }
        if step.is_multiple_of(10) {
            self.compare(&what);
        }
    }

    /// Mounts anew; nothing is open after that.
    fn mount_again(&mut self, what: &str) {
        let (filesystem, clock) = (Rc::clone(&self.filesystem), self.executor.clock());
        self.executor
            .run(async move { filesystem.shutdown(&clock).await })
            .unwrap();
        for handle in 0..HANDLES {
            self.model.apply(&Operation::Close { handle }).unwrap();
        }
        self.handles = [None; HANDLES];
        self.seed += 1;
        self.disk = self.disk.snapshot(self.seed);
        self.executor = Executor::new(self.seed);
        self.filesystem = mount(&mut self.executor, &self.disk).unwrap().filesystem;
        self.compare(what);
    }
}

#[test]
fn random_operations_do_what_the_model_does_across_mounts() {
    let seed = seed(1);
    for round in 0..4 {
        let mut run = Run::new(seed.wrapping_add(round * 100));
        let mut generator = Generator::new(seed.wrapping_add(round));
        for mount in 0..6 {
            for step in 0..100 {
                run.step(&mut generator, mount * 100 + step);
            }
            run.mount_again(&format!("round {round}, mount {mount}"));
        }
    }
}
