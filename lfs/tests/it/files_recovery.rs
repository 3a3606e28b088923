//! What files and snapshots must be after particular events, each a test of its own.

use crate::common;

use std::rc::Rc;

use crate::common::world::random_bytes;
use crate::common::{TestFileSystem, formatted, mount, try_mount};
use lfs::sim::{Executor, Random, SimClock, SimDisk};
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
fn a_commit_that_was_dropped_is_not_made_whole_by_the_next_one() {
    // What both commits write is the same but for its beginning.
    let page = random_bytes(&mut Random::new(1), 4096);
    let with = |beginning: &[u8]| [beginning, &page[beginning.len()..]].concat();
    let content = |machine: &mut Machine| {
        let filesystem = Rc::clone(&machine.filesystem);
        let read = async move {
            let read = |transaction: &mut Transaction<'_>| {
                let file = find(transaction, b"f")?;
                transaction.files().read(file, 0, 4096)
            };
            filesystem.read(read).await.unwrap()
        };
        machine.executor.run(read)
    };
    let overwrite = |machine: &mut Machine, beginning: &'static [u8]| {
        machine.durably(move |transaction| {
            let file = find(transaction, b"f")?;
            transaction.files().write(file, 0, beginning)
        });
    };
    let mut machine = Machine::boot(formatted(100, 1));
    let whole = page.clone();
    machine.durably(move |transaction| {
        let mut files = transaction.files();
        let file = files.create(ROOT, b"f", &FILE)?;
        files.write(file, 0, &whole)
    });
    let events = machine.disk.event_count();
    overwrite(&mut machine, b"one");
    // Its write, of which one sector is lost.
    let crash = machine.disk.crash_at(events + 1);
    let mut machine = Machine::boot(crash.disk(|sector| sector != 4, 1));
    assert!(content(&mut machine) == page);
    let events = machine.disk.event_count();
    overwrite(&mut machine, b"two");
    // Of this one only that sector is not.
    let crash = machine.disk.crash_at(events + 1);
    let mut machine = Machine::boot(crash.disk(|sector| sector == 4, 1));
    let found = content(&mut machine);
    assert!(found != with(b"one"), "it was dropped");
    assert!(found == page);
}

#[test]
fn a_checkpoint_that_was_dropped_is_not_made_whole_by_the_next_one() {
    // Longer than a sector, so that slots with one differ in the sector in the middle from those without.
    const OLD: [u8; 1400] = [1; 1400];
    const NEW: [u8; 1400] = [2; 1400];
    /// Its sector in a slot's write that holds nothing but manifest.
    const INSIDE: usize = 1;
    let checkpoint = |machine: &mut Machine, manifest: &'static [u8]| {
        machine.run(move |filesystem, clock| async move {
            let made = filesystem.checkpoint(CommitNumber(0), &[], manifest, &clock);
            made.await.unwrap();
        });
    };
    // Another file each time, so that each checkpoint writes nodes.
    let create = |machine: &mut Machine, name: &'static [u8]| {
        machine
            .durably(move |transaction| transaction.files().create(ROOT, name, &FILE).map(|_| ()));
    };
    // The first moment from `events` on at which all that was written has `NEW` in force, the slot not flushed yet.
    let slot_written = |disk: &SimDisk, events| {
        let at = |&events: &usize| {
            let disk = disk.crash_at(events).disk(|_| true, 1);
            try_mount(&disk).unwrap().manifest == NEW
        };
        let found = (events..=disk.event_count()).find(at).unwrap();
        let crash = disk.crash_at(found);
        assert_eq!(crash.open_sectors(), 8, "a slot of one block");
        crash
    };
    let mut machine = Machine::boot(formatted(100, 1));
    // Both slots are of the one kind.
    for name in [b"a", b"b"] {
        create(&mut machine, name);
        checkpoint(&mut machine, &OLD);
    }
    create(&mut machine, b"c");
    let events = machine.disk.event_count();
    checkpoint(&mut machine, &NEW);
    // The slot's write, of which one sector is lost.
    let crash = slot_written(&machine.disk, events);
    let mut machine = Machine::boot(crash.disk(|sector| sector != INSIDE, 1));
    for name in [b"d", b"e", b"f"] {
        create(&mut machine, name);
    }
    let events = machine.disk.event_count();
    checkpoint(&mut machine, &NEW);
    // Of this one only that sector is not.
    let crash = slot_written(&machine.disk, events);
    let disk = crash.disk(|sector| sector == INSIDE, 1);
    assert!(try_mount(&disk).unwrap().manifest == OLD, "it was dropped");
    let mut machine = Machine::boot(disk);
    machine.run(|filesystem, _| async move {
        assert_eq!(filesystem.audit().await.unwrap().contradictions, []);
        for name in [b"a", b"b", b"c", b"d", b"e", b"f"] {
            filesystem.read(|t| find(t, name)).await.unwrap();
        }
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
