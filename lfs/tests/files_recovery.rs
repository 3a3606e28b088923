//! What files and snapshots must be after particular events, each a test of its own.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic, and its numbers are small"
)]

mod common;

use std::rc::Rc;

use common::{TestFileSystem, formatted, mount};
use lfs::sim::{Executor, SimClock, SimDisk};
use lfs::{FileError, FileKind, InodeNumber, Namespace, NewInode, ROOT, Transaction};

/// Something mounted.
struct Machine {
    executor: Executor,
    disk: SimDisk,
    filesystem: Rc<TestFileSystem>,
}

impl Machine {
    fn boot(disk: SimDisk) -> Self {
        let mut executor = Executor::new(1);
        let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
        Self {
            executor,
            disk,
            filesystem,
        }
    }

    /// Loses power when everything that was written has reached the disk, and boots again.
    fn lose_power(self) -> Self {
        Self::boot(self.disk.snapshot(1))
    }

    fn run<F: Future<Output = ()> + 'static>(
        &mut self,
        main: impl FnOnce(Rc<TestFileSystem>, SimClock) -> F,
    ) {
        let main = main(Rc::clone(&self.filesystem), self.executor.clock());
        self.executor.run(main);
    }

    /// Does something in a transaction and waits until it is durable.
    fn durably(
        &mut self,
        mut body: impl FnMut(&mut Transaction<'_>) -> Result<(), FileError> + 'static,
    ) {
        self.run(|filesystem, _| async move {
            let ((), commit) = filesystem.transact(1, &mut body).await.unwrap();
            filesystem.wait_durable(commit).await.unwrap();
        });
    }
}

const FILE: NewInode = NewInode {
    kind: FileKind::File,
    mode: 0o600,
    uid: 0,
    gid: 0,
    device: 0,
    target: Vec::new(),
};

fn find(transaction: &mut Transaction<'_>, name: &[u8]) -> Result<InodeNumber, FileError> {
    transaction.files().lookup(ROOT, name)
}

#[test]
fn a_snapshot_made_after_a_power_cut_does_not_take_the_place_of_one_made_before() {
    let mut machine = Machine::boot(formatted(100, 1));
    machine.run(|filesystem, _| async move {
        filesystem.create_snapshot("before", 1).await.unwrap();
    });
    let mut machine = machine.lose_power();
    machine.run(|filesystem, _| async move {
        filesystem.create_snapshot("after", 2).await.unwrap();
        let names = filesystem.snapshots().into_iter().map(|info| info.name);
        assert_eq!(names.collect::<Vec<_>>(), ["before", "after"]);
    });
}

#[test]
fn a_file_made_after_a_power_cut_does_not_share_its_data_with_one_that_was_truncated_before() {
    let mut machine = Machine::boot(formatted(100, 1));
    for part in 0..8 {
        machine.durably(move |transaction| {
            if part == 0 {
                transaction.files().create(ROOT, b"old", &FILE)?;
            }
            let old = find(transaction, b"old")?;
            transaction.files().write(old, part * 4096, &[1; 4096])
        });
    }
    // Its data become an orphan, and it gets a new object that has nothing yet.
    machine.durably(|transaction| {
        let old = find(transaction, b"old")?;
        Namespace::with_small_limits(transaction).truncate(old, 0)
    });
    let mut machine = machine.lose_power();
    machine.durably(|transaction| {
        for (name, byte) in [(b"new 1", 2), (b"new 2", 3), (b"new 3", 4)] {
            let new = transaction.files().create(ROOT, name, &FILE)?;
            transaction.files().write(new, 0, &[byte; 4096])?;
        }
        let old = find(transaction, b"old")?;
        transaction.files().write(old, 0, &[5; 4096])
    });
    machine.durably(|transaction| {
        for (name, byte) in [
            (&b"new 1"[..], 2),
            (b"new 2", 3),
            (b"new 3", 4),
            (b"old", 5),
        ] {
            let inode = find(transaction, name)?;
            let content = transaction.files().read(inode, 0, 5000)?;
            assert!(content == [byte; 4096], "{name:?}");
        }
        Ok(())
    });
}
