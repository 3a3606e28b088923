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
use lfs::{
    Clock, CommitNumber, FileError, FileKind, InodeNumber, Namespace, NewInode, ROOT, Transaction,
};

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

#[test]
fn what_only_a_deleted_snapshot_saw_is_freed() {
    let mut machine = Machine::boot(formatted(100, 1));
    let before = machine.filesystem.usage().live_bytes;
    for part in 0..10_u64 {
        machine.durably(move |transaction| {
            if part == 0 {
                transaction.files().create(ROOT, b"file", &FILE)?;
            }
            let bytes = common::world::random_bytes(&mut lfs::sim::Random::new(part), 30_000);
            let file = find(transaction, b"file")?;
            transaction.files().write(file, part * 30_000, &bytes)
        });
    }
    machine.run(|filesystem, _| async move {
        filesystem.create_snapshot("one", 1).await.unwrap();
        filesystem.create_snapshot("two", 1).await.unwrap();
    });
    machine.durably(|transaction| transaction.files().unlink(ROOT, b"file"));
    machine.run(|filesystem, clock| async move {
        clock.sleep_ms(5000).await;
        filesystem.delete_snapshot("two").await.unwrap();
        clock.sleep_ms(5000).await;
        assert!(filesystem.usage().live_bytes > 300_000, "still seen");
        filesystem.delete_snapshot("one").await.unwrap();
        clock.sleep_ms(5000).await;
        let made = filesystem.checkpoint(CommitNumber(0), &[], &[], &clock);
        made.await.unwrap();
    });
    let after = machine.filesystem.usage().live_bytes;
    assert!(after < before + 10_000, "{after} bytes, {before} before");
}

#[test]
fn reading_a_snapshot_that_is_deleted_meanwhile_fails_and_shows_nothing_else() {
    let mut machine = Machine::boot(formatted(100, 1));
    machine.durably(|transaction| {
        let file = transaction.files().create(ROOT, b"file", &FILE)?;
        transaction.files().write(file, 0, &[1; 9000])
    });
    machine.run(|filesystem, _| async move {
        let info = filesystem.create_snapshot("one", 1).await.unwrap();
        let read = filesystem.read_snapshot(info.id, |transaction| {
            if !filesystem.snapshots().is_empty() {
                // Something that is not in memory, for as long as it is there.
                let range = lfs::StoredRange {
                    address: 0,
                    len_bytes: 4096,
                };
                return Err(FileError::Fault(lfs::Fault::Data(vec![range])));
            }
            let file = find(transaction, b"file")?;
            transaction.files().read(file, 0, 9000)
        });
        let delete = filesystem.delete_snapshot("one");
        let (read, deleted) = embassy_futures::join::join(read, delete).await;
        deleted.unwrap();
        assert_eq!(read, Err(FileError::NotFound));
    });
}
