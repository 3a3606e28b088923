//! What a step of reading costs: however large a file or directory is, and in however many pieces, nobody computes for
//! longer than looking at so many items takes before others have their turn.
//!
//! Invariant: no run of a closure over the trees meets more than [`LOOKS_MAX`] nodes and items. All of it is
//! counted; nothing is timed.

use crate::common;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::common::{ID, TestFileSystem, mount, seed};
use lfs::sim::{Executor, Random, SimDisk};
use lfs::{
    FileError, FileKind, FormatOptions, InodeNumber, Isolation, Listing, NewInode, ROOT, Sought,
    Transaction,
};

/// Nodes and items that one run may meet.
const LOOKS_MAX: u64 = 8192;

const DISK_BYTES: u64 = 256 << 20;

/// Pieces of the file.
const PIECES: u64 = 20_000;

const BLOCK: u64 = 4096;

/// A file system on a disk large enough for a file in many pieces.
fn machine() -> (Executor, Rc<TestFileSystem>) {
    let disk = SimDisk::new(DISK_BYTES as usize / BLOCK as usize, 1);
    let mut executor = Executor::new(1);
    let (target, options) = (disk.clone(), FormatOptions::for_device_bytes(DISK_BYTES));
    executor.run(async move { common::key::format(&target, options, ID).await.unwrap() });
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    (executor, filesystem)
}

/// Counts what each run of a closure meets.
#[derive(Clone, Default)]
struct Cost {
    most: Rc<Cell<u64>>,
    runs: Rc<Cell<u64>>,
}

impl Cost {
    /// `body`, counted.
    fn counted<T>(
        &self,
        mut body: impl FnMut(&mut Transaction<'_>) -> Result<T, FileError>,
    ) -> impl FnMut(&mut Transaction<'_>) -> Result<T, FileError> {
        let cost = self.clone();
        move |transaction| {
            let before = transaction.looks();
            let result = body(transaction);
            let looks = transaction.looks() - before;
            cost.most.set(cost.most.get().max(looks));
            cost.runs.set(cost.runs.get() + 1);
            result
        }
    }

    fn check(&self, what: &str, most: u64) {
        let (found, runs) = (self.most.get(), self.runs.get());
        println!("{what}: at most {found} looks in each of {runs} runs");
        assert!(found <= most, "{what}: {found} looks in one of {runs} runs");
        self.most.set(0);
        self.runs.set(0);
    }
}

/// A file of `PIECES` blocks, each a piece of its own, with a hole behind each or without.
async fn in_pieces(filesystem: &TestFileSystem, name: &[u8], compact: bool) -> InodeNumber {
    let new = NewInode::new(FileKind::File, 0o644);
    let made = filesystem.transact(0, |tx| tx.files().create(ROOT, name, &new));
    let (inode, _) = made.await.unwrap();
    write_pieces(filesystem, inode, if compact { 1 } else { 2 }).await;
    inode
}

async fn write_pieces(filesystem: &TestFileSystem, inode: InodeNumber, stride: u64) {
    // Blocks of one commit that follow one another would be one piece.
    for phase in 0..2 {
        let numbers = (0..PIECES).filter(|number| number % 2 == phase);
        for some in numbers.collect::<Vec<_>>().chunks(16) {
            let write = filesystem.transact(0, |tx| {
                some.iter().try_for_each(|number| {
                    let bytes = number.to_le_bytes().repeat(512);
                    tx.files().write(inode, number * stride * BLOCK, &bytes)
                })
            });
            write.await.unwrap();
        }
    }
}

#[test]
fn stat_of_a_file_in_many_pieces_looks_at_its_inode_alone() {
    let (mut executor, filesystem) = machine();
    let cost = Cost::default();
    let fs = Rc::clone(&filesystem);
    let stat = executor.run(async move {
        let inode = in_pieces(&fs, b"file", false).await;
        let stat = fs.read(cost.counted(|tx| tx.files().stat(inode))).await;
        cost.check("stat", 32);
        stat.unwrap()
    });
    assert_eq!(stat.allocated_bytes, PIECES * BLOCK);
}

/// Where the first data or the first hole is, in as many steps as that takes.
async fn seek(
    filesystem: &TestFileSystem,
    cost: &Cost,
    inode: InodeNumber,
    data: bool,
) -> Option<u64> {
    let mut from = 0;
    loop {
        let step = cost.counted(|tx| tx.files().seek(inode, from, data));
        match filesystem.read(step).await.unwrap() {
            Sought::At(place) => return Some(place),
            Sought::Nowhere => return None,
            Sought::Further(place) => {
                assert!(place > from, "it goes on");
                from = place;
            }
        }
    }
}

#[test]
fn finding_the_end_of_a_file_without_holes_goes_in_steps() {
    let (mut executor, filesystem) = machine();
    let cost = Cost::default();
    let fs = Rc::clone(&filesystem);
    executor.run(async move {
        let inode = in_pieces(&fs, b"file", true).await;
        assert_eq!(seek(&fs, &cost, inode, true).await, Some(0));
        cost.check("data", 64);
        let hole = seek(&fs, &cost, inode, false).await;
        assert_eq!(hole, Some(PIECES * BLOCK));
        cost.check("a hole", 2048);
    });
}

#[test]
fn data_behind_what_was_written_since_a_snapshot_are_found_in_steps() {
    let (mut executor, filesystem) = machine();
    let cost = Cost::default();
    let fs = Rc::clone(&filesystem);
    executor.run(async move {
        let new = NewInode::new(FileKind::File, 0o644);
        let made = fs.transact(0, |tx| {
            let inode = tx.files().create(ROOT, b"file", &new)?;
            // One block, behind all that comes later.
            tx.files().write(inode, PIECES * BLOCK, &[7; 4096])?;
            Ok(inode)
        });
        let (inode, _) = made.await.unwrap();
        let snapshot = fs.create_snapshot("before", 0).await.unwrap();
        write_pieces(&fs, inode, 1).await;
        let mut from = 0;
        loop {
            let step = cost.counted(|tx| tx.files().seek(inode, from, true));
            match fs.read_snapshot(snapshot.id, step).await.unwrap() {
                Sought::Further(place) if place > from => from = place,
                found => break assert_eq!(found, Sought::At(PIECES * BLOCK)),
            }
        }
        cost.check("data", 4096);
        // Nor does a page cost more, however often it was written.
        for round in 0..300_u64 {
            let bytes = round.to_le_bytes().repeat(512);
            let write = fs.transact(0, |tx| tx.files().write(inode, 5 * BLOCK, &bytes));
            write.await.unwrap();
            fs.create_snapshot(&format!("{round}"), 0).await.unwrap();
        }
        let read = cost.counted(|tx| tx.files().read(inode, 5 * BLOCK, 4096));
        let bytes = fs.read_snapshot(snapshot.id, read).await.unwrap();
        assert_eq!(bytes, [0; 4096]);
        cost.check("a page", 256);
    });
}

#[test]
fn freeing_a_file_in_many_pieces_goes_in_steps() {
    let (mut executor, filesystem) = machine();
    let cost = Cost::default();
    let fs = Rc::clone(&filesystem);
    executor.run(async move {
        let inode = in_pieces(&fs, b"file", false).await;
        let size = 2 * PIECES * BLOCK;
        let cut = fs.transact(0, cost.counted(|tx| tx.files().truncate(inode, size / 2)));
        cut.await.unwrap();
        cost.check("truncation", LOOKS_MAX);
        let mut steps = 0;
        loop {
            let step = cost.counted(|tx| tx.files().free_cuts(inode, 1 << 20));
            if fs.transact(0, step).await.unwrap().0 {
                break;
            }
            steps += 1;
        }
        assert!(steps > 20, "{steps}");
        cost.check("freeing", LOOKS_MAX);
        let stat = fs.read(|tx| tx.files().stat(inode)).await.unwrap();
        assert_eq!(stat.allocated_bytes, PIECES / 2 * BLOCK);
    });
}

/// Names created in a directory since.
const NAMES: usize = 20_000;

/// Creates empty files in the root directory, or removes them.
async fn change_names(filesystem: &TestFileSystem, prefix: &str, create: bool) {
    let new = NewInode::new(FileKind::Fifo, 0o644);
    for first in (0..NAMES).step_by(500) {
        let change = filesystem.transact(0, |tx| {
            (first..first + 500).try_for_each(|number| {
                let name = format!("{prefix}{number}").into_bytes();
                if create {
                    tx.files().create(ROOT, &name, &new).map(drop)
                } else {
                    tx.files().unlink(ROOT, &name)
                }
            })
        });
        change.await.unwrap();
    }
}

fn names(listing: Listing) -> Vec<Vec<u8>> {
    let entries = listing.entries.into_iter();
    entries.map(|entry| entry.name).collect()
}

#[test]
fn a_snapshot_of_a_directory_that_has_much_else_by_now_is_listed_in_steps() {
    let (mut executor, filesystem) = machine();
    let cost = Cost::default();
    let fs = Rc::clone(&filesystem);
    executor.run(async move {
        let new = NewInode::new(FileKind::File, 0o644);
        let made = fs.transact(0, |tx| tx.files().create(ROOT, b"old", &new));
        made.await.unwrap();
        let old = fs.create_snapshot("old", 0).await.unwrap();
        // Names that are in the history, and others that are there.
        change_names(&fs, "gone", true).await;
        fs.create_snapshot("between", 0).await.unwrap();
        change_names(&fs, "gone", false).await;
        change_names(&fs, "new", true).await;
        let list = cost.counted(|tx| tx.files().read_dir(ROOT, 0, 100));
        let listing = fs.read_snapshot(old.id, list).await.unwrap();
        assert_eq!(names(listing.clone()), [b"old"]);
        cost.check("a snapshot", LOOKS_MAX);
        // What comes behind the last name is gone through as well, until it is known that there is no more.
        let mut after = listing.next;
        while let Some(cookie) = after {
            let list = cost.counted(|tx| tx.files().read_dir(ROOT, cookie, 100));
            let listing = fs.read_snapshot(old.id, list).await.unwrap();
            assert_eq!(names(listing.clone()), Vec::<Vec<u8>>::new());
            after = listing.next;
        }
        cost.check("its end", LOOKS_MAX);
    });
}

#[test]
fn an_open_transaction_lists_what_it_saw_in_steps() {
    let (mut executor, filesystem) = machine();
    let cost = Cost::default();
    executor.run(async move {
        let fs = filesystem;
        let new = NewInode::new(FileKind::File, 0o644);
        let made = fs.transact(0, |tx| tx.files().create(ROOT, b"old", &new));
        made.await.unwrap();
        let mut open = fs.begin(Isolation::Serializable, 0).unwrap();
        change_names(&fs, "new", true).await;
        let list = cost.counted(|tx| {
            let mut found = Vec::new();
            let mut after = Some(0);
            while let Some(cookie) = after {
                let listing = tx.files().read_dir(ROOT, cookie, 100)?;
                after = listing.next;
                found.extend(names(listing));
            }
            Ok(found)
        });
        assert_eq!(fs.step(&mut open, 0, list).await.unwrap(), [b"old"]);
        cost.check("an open transaction", LOOKS_MAX);
    });
}

/// Extents of 64 KiB, read, written over, cut and freed anywhere in them; and as snapshots show them.
#[test]
fn any_part_of_a_large_extent_is_read_as_it_was_written() {
    let seed = seed(14);
    let (mut executor, filesystem) = machine();
    executor.run(async move {
        let fs = filesystem;
        let mut random = Random::new(seed);
        let new = NewInode::new(FileKind::File, 0o644);
        let made = fs.transact(0, |tx| tx.files().create(ROOT, b"file", &new));
        let (inode, _) = made.await.unwrap();
        let mut model = Vec::new();
        let mut shown = Vec::new();
        for round in 0..40 {
            let offset = random.below(600_000);
            let len = 1 + random.below(200_000);
            match random.below(4) {
                0 => {
                    let cut = fs.transact(0, |tx| tx.files().truncate(inode, offset));
                    cut.await.unwrap();
                    model.resize(offset as usize, 0);
                }
                1 if !model.is_empty() => {
                    let punch = fs.transact(0, |tx| tx.files().punch(inode, offset, len));
                    punch.await.unwrap();
                    let range = (offset as usize).min(model.len())
                        ..((offset + len) as usize).min(model.len());
                    model[range].fill(0);
                }
                _ => {
                    let bytes = common::world::random_bytes(&mut random, len as usize);
                    let write = fs.transact(0, |tx| tx.files().write(inode, offset, &bytes));
                    write.await.unwrap();
                    let end = (offset + len) as usize;
                    model.resize(model.len().max(end), 0);
                    model[offset as usize..end].copy_from_slice(&bytes);
                }
            }
            if round % 4 == 0 {
                let snapshot = fs.create_snapshot(&round.to_string(), 0).await.unwrap();
                shown.push((Some(snapshot.id), model.clone()));
            }
        }
        shown.push((None, model));
        for (snapshot, model) in shown {
            for _ in 0..100 {
                let from = random.below(700_000);
                let len = 1 + random.index(20_000);
                let read = |tx: &mut Transaction<'_>| tx.files().read(inode, from, len);
                let found = match snapshot {
                    Some(snapshot) => fs.read_snapshot(snapshot, read).await,
                    None => fs.read(read).await,
                };
                let from = (from as usize).min(model.len());
                let to = (from + len).min(model.len());
                assert!(
                    found.unwrap() == model[from..to],
                    "{snapshot:?}, {from}..{to}"
                );
            }
        }
    });
}

#[test]
fn a_transaction_that_removes_one_name_after_the_other_does_not_go_through_the_removed_ones_again()
{
    let (mut executor, filesystem) = machine();
    let cost = Cost::default();
    let fs = Rc::clone(&filesystem);
    executor.run(async move {
        change_names(&fs, "new", true).await;
        let remove = cost.counted(|tx| tx.files().remove_some(ROOT, b"new7", 1));
        fs.transact(0, remove).await.unwrap();
        cost.check("one", 512);
        let inner = NewInode::new(FileKind::Directory, 0o755);
        let fifo = NewInode::new(FileKind::Fifo, 0o644);
        let made = fs.transact(0, |tx| {
            let inner = tx.files().create(ROOT, b"inner", &inner)?;
            (0..1000).try_for_each(|number| {
                let name = format!("{number}").into_bytes();
                tx.files().create(inner, &name, &fifo).map(drop)
            })
        });
        made.await.unwrap();
        let remove = cost.counted(|tx| tx.files().remove_some(ROOT, b"inner", 500));
        assert!(!fs.transact(0, remove).await.unwrap().0);
        cost.check("five hundred", 500 * 40);
        let remove = cost.counted(|tx| tx.files().remove_tree(ROOT, b"inner"));
        fs.transact(0, remove).await.unwrap();
        cost.check("all", 512);
    });
}

/// Each of them alone is small enough to be freed at once.
#[test]
fn many_truncations_in_one_transaction_free_no_more_at_once_than_one() {
    let (mut executor, filesystem) = machine();
    let fs = Rc::clone(&filesystem);
    executor.run(async move {
        let inode = in_pieces(&fs, b"file", true).await;
        let looks = || fs.read(|tx| Ok(tx.looks()));
        let before = looks().await.unwrap();
        let cut = fs.transact(0, |tx| {
            // 8 MiB each time.
            (1..10).try_for_each(|times| {
                let size = (PIECES - times * 2048) * BLOCK;
                tx.files().truncate(inode, size)
            })
        });
        cut.await.unwrap();
        let cost = looks().await.unwrap() - before;
        println!("{cost} looks");
        // About sixteen for each of the pieces of 16 MiB; those of all would be 18,432.
        assert!(cost < 4096 * 16, "{cost}");
        while !fs
            .transact(0, |tx| tx.files().free_cuts(inode, 16 << 20))
            .await
            .unwrap()
            .0
        {}
        let stat = fs.read(|tx| tx.files().stat(inode)).await.unwrap();
        let left = (PIECES - 9 * 2048) * BLOCK;
        assert_eq!((stat.size, stat.allocated_bytes), (left, left));
    });
}

/// More versions of everything than are looked at one after the other.
#[test]
fn a_snapshot_shows_what_it_showed_however_many_versions_of_everything_there_are() {
    let seed = seed(13);
    let (mut executor, filesystem) = machine();
    executor.run(async move {
        let fs = filesystem;
        let mut random = Random::new(seed);
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut shown = Vec::new();
        let new = NewInode::new(FileKind::File, 0o644);
        for round in 0..60_u8 {
            for _ in 0..random.below(6) {
                let name = format!("{}", random.below(6)).into_bytes();
                let offset = random.below(5) * 4096;
                // In an item or in extents, of which a part is written over.
                let len = [10, 700, 4096, 9000][random.index(4)];
                let remove = random.one_in(4);
                let change = fs.transact(0, |tx| {
                    let mut files = tx.files();
                    let found = files.lookup(ROOT, &name);
                    if remove {
                        return match found {
                            Ok(_) => files.unlink(ROOT, &name),
                            Err(_) => Ok(()),
                        };
                    }
                    let inode = match found {
                        Ok(inode) => inode,
                        Err(FileError::NotFound) => files.create(ROOT, &name, &new)?,
                        Err(error) => return Err(error),
                    };
                    files.write(inode, offset, &vec![round; len])
                });
                change.await.unwrap();
                if remove {
                    model.remove(&name);
                } else {
                    let content = model.entry(name).or_default();
                    let (from, to) = (offset as usize, offset as usize + len);
                    content.resize(content.len().max(to), 0);
                    content[from..to].fill(round);
                }
            }
            let snapshot = fs.create_snapshot(&round.to_string(), 0).await.unwrap();
            shown.push((snapshot, model.clone()));
        }
        for (snapshot, model) in shown {
            let mut found = BTreeMap::new();
            let mut after = Some(0);
            while let Some(cookie) = after {
                let list = fs.read_snapshot(snapshot.id, |tx| {
                    let mut files = tx.files();
                    let listing = files.read_dir(ROOT, cookie, 2)?;
                    let contents = listing.entries.into_iter().map(|entry| {
                        assert_eq!(files.lookup(ROOT, &entry.name)?, entry.inode);
                        Ok((entry.name, files.read(entry.inode, 0, usize::MAX)?))
                    });
                    let contents = contents.collect::<Result<Vec<_>, FileError>>()?;
                    Ok((contents, listing.next))
                });
                let (contents, next) = list.await.unwrap();
                found.extend(contents);
                after = next;
            }
            assert!(found == model, "snapshot {}", snapshot.name);
        }
    });
}
