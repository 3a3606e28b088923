//! Transactions that stay open while others commit.
//!
//! Invariants: a transaction sees one state and its own changes, whatever others commit meanwhile, the cleaner moves or
//! checkpoints write. Of two that change the same, the first to commit wins and the other is told what it was; two that
//! change different names of a directory do not disturb each other. A serializable one commits only as if it had happened at
//! once at its commit. What was kept for transactions that are over is let go of, to the byte, and a power cut leaves nothing
//! of those that were open. Nobody who leaves one open fills the disk.

use crate::common;

use std::rc::Rc;

use crate::common::{TestFileSystem, formatted, mount};
use lfs::sim::{Executor, SimClock, SimDisk};
use lfs::{
    Clock, CommitNumber, CommitStop, Conflict, ConflictKind, FileError, FileKind, InodeNumber,
    Isolation, ItemKind, NewInode, OPEN_TRANSACTIONS_MAX, OpenTransaction, ROOT, RenameFlags,
    Transaction,
};

const NOW: i64 = 1_700_000_000_000_000_000;

/// Runs `main` on a new file system of so many segments; gives the disk as it is then.
fn on_new<F: Future<Output = ()> + 'static>(
    segments: usize,
    main: impl FnOnce(Rc<TestFileSystem>, SimClock) -> F,
) -> SimDisk {
    let disk = formatted(segments, 5);
    let mut executor = Executor::new(5);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    executor.run(main(filesystem, clock));
    disk
}

/// Bytes that do not compress, others for each length.
fn noise(len: usize) -> Vec<u8> {
    common::world::random_bytes(&mut lfs::sim::Random::new(len as u64), len)
}

fn create(transaction: &mut Transaction<'_>, path: &str) -> Result<InodeNumber, FileError> {
    let mut files = transaction.files();
    let (directory, name) = files.resolve_parent(path.as_bytes())?;
    files.create(directory, name, &NewInode::new(FileKind::File, 0o644))
}

fn make_directory(transaction: &mut Transaction<'_>, path: &str) -> Result<InodeNumber, FileError> {
    let mut files = transaction.files();
    let (directory, name) = files.resolve_parent(path.as_bytes())?;
    files.create(directory, name, &NewInode::new(FileKind::Directory, 0o755))
}

fn write(transaction: &mut Transaction<'_>, path: &str, text: &[u8]) -> Result<(), FileError> {
    let mut files = transaction.files();
    let inode = match files.resolve(path.as_bytes(), true) {
        Err(FileError::NotFound) => create(transaction, path)?,
        found => found?,
    };
    let mut files = transaction.files();
    files.truncate(inode, 0)?;
    files.write(inode, 0, text)
}

fn read(transaction: &mut Transaction<'_>, path: &str) -> Result<Vec<u8>, FileError> {
    let mut files = transaction.files();
    let inode = files.resolve(path.as_bytes(), true)?;
    files.read(inode, 0, usize::MAX)
}

fn remove(transaction: &mut Transaction<'_>, path: &str) -> Result<(), FileError> {
    let mut files = transaction.files();
    let (directory, name) = files.resolve_parent(path.as_bytes())?;
    files.unlink(directory, name)
}

fn rename(transaction: &mut Transaction<'_>, from: &str, to: &str) -> Result<(), FileError> {
    let mut files = transaction.files();
    let (old, old_name) = files.resolve_parent(from.as_bytes())?;
    let (new, new_name) = files.resolve_parent(to.as_bytes())?;
    files.rename(old, old_name, new, new_name, RenameFlags::default())
}

fn names(transaction: &mut Transaction<'_>, path: &str) -> Result<Vec<String>, FileError> {
    let mut files = transaction.files();
    let directory = files.resolve(path.as_bytes(), true)?;
    let entries = files.read_dir(directory, 0, usize::MAX)?.entries;
    let mut names = entries
        .into_iter()
        .map(|entry| String::from_utf8(entry.name).unwrap())
        .collect::<Vec<_>>();
    names.sort_unstable();
    Ok(names)
}

/// Something done in a transaction.
type Body = fn(&mut Transaction<'_>) -> Result<(), FileError>;

/// One step of a transaction.
async fn step<T>(
    filesystem: &TestFileSystem,
    transaction: &mut OpenTransaction,
    body: impl FnMut(&mut Transaction<'_>) -> Result<T, FileError>,
) -> Result<T, FileError> {
    filesystem.step(transaction, NOW, body).await
}

/// A commit of somebody else's.
async fn other<T>(
    filesystem: &TestFileSystem,
    body: impl FnMut(&mut Transaction<'_>) -> Result<T, FileError>,
) -> T {
    filesystem.transact(NOW, body).await.unwrap().0
}

fn begin(filesystem: &TestFileSystem, isolation: Isolation) -> OpenTransaction {
    filesystem.begin(isolation, NOW).unwrap()
}

fn conflict(result: Result<impl Sized, FileError>) -> Conflict {
    match result.err() {
        Some(FileError::ConflictOn(conflict)) => *conflict,
        other => panic!("no conflict: {other:?}"),
    }
}

/// Waits until nothing is kept for transactions that are over, and recounts.
async fn assert_all_let_go(filesystem: &TestFileSystem, clock: &SimClock) {
    for _ in 0..1000 {
        if filesystem.transaction_usage().kept_items == 0 {
            break;
        }
        clock.sleep_ms(10).await;
    }
    let usage = filesystem.transaction_usage();
    assert_eq!((usage.kept_items, usage.kept_bytes), (0, 0));
    assert_eq!((usage.count, usage.memory_bytes), (0, 0));
    assert_eq!(usage.remembered_changes, 0);
    let audit = filesystem.audit().await.unwrap();
    assert_eq!(audit.contradictions, []);
    assert_eq!(audit.unseen, []);
}

#[test]
fn one_state_is_seen_while_others_commit_and_the_cleaner_and_checkpoints_work() {
    on_new(96, |fs, clock| async move {
        let old = vec![7; 50_000];
        other(&fs, |t| {
            make_directory(t, "/d")?;
            write(t, "/d/small", b"old")?;
            write(t, "/d/large", &old)
        })
        .await;
        for number in 0..150 {
            other(&fs, |t| write(t, &format!("/churn{number}"), &noise(4_000))).await;
        }
        let mut open = begin(&fs, Isolation::Snapshot);
        // Much is written, so that there are checkpoints, and what is seen has to be moved.
        for round in 0..250_u8 {
            let bytes = noise(4_000 + usize::from(round));
            for some in 0..4 {
                let number = (usize::from(round) * 61 + some * 97) % 150;
                other(&fs, |t| write(t, &format!("/churn{number}"), &bytes)).await;
            }
            if round == 3 {
                other(&fs, |t| {
                    write(t, "/d/small", b"new")?;
                    remove(t, "/d/large")?;
                    rename(t, "/d/small", "/moved")
                })
                .await;
            }
            let seen = step(&fs, &mut open, |t| {
                Ok((read(t, "/d/small")?, read(t, "/d/large")?, names(t, "/d")?))
            });
            let expected = (
                b"old".to_vec(),
                old.clone(),
                vec!["large".into(), "small".into()],
            );
            assert!(seen.await.unwrap() == expected, "round {round}");
        }
        let counters = fs.counters();
        assert!(
            counters.checkpoints > 2 && counters.segments_cleaned > 2,
            "{counters:?}"
        );
        let usage = fs.transaction_usage();
        assert!(usage.kept_bytes > 50_000, "{usage:?}");
        assert_eq!(fs.open_transactions()[0].kept_bytes, usage.kept_bytes);
        drop(open);
        assert_all_let_go(&fs, &clock).await;
    });
}

#[test]
fn the_first_to_commit_wins_and_the_other_is_told_what_it_was() {
    on_new(72, |fs, clock| async move {
        other(&fs, |t| write(t, "/f", b"0")).await;
        for isolation in [Isolation::Snapshot, Isolation::Serializable] {
            let (mut a, mut b) = (begin(&fs, isolation), begin(&fs, isolation));
            step(&fs, &mut a, |t| write(t, "/f", b"a")).await.unwrap();
            step(&fs, &mut b, |t| write(t, "/f", b"b")).await.unwrap();
            let winner = fs.commit_open(b, &[]).await.unwrap();
            let inode = other(&fs, |t| t.files().resolve(b"/f", true)).await;
            let lost = conflict(fs.commit_open(a, &[]).await);
            assert_eq!((lost.key.object, lost.by), (inode.0, winner));
            assert_eq!(other(&fs, |t| read(t, "/f")).await, b"b");

            let (mut a, mut b) = (begin(&fs, isolation), begin(&fs, isolation));
            step(&fs, &mut a, |t| create(t, "/same")).await.unwrap();
            step(&fs, &mut b, |t| create(t, "/same")).await.unwrap();
            fs.commit_open(a, &[]).await.unwrap();
            let lost = conflict(fs.commit_open(b, &[]).await);
            assert_eq!((lost.key.object, lost.key.kind), (ROOT.0, ItemKind::Entry));
            assert_eq!(lost.name.as_deref(), Some(&b"same"[..]));
            assert!(lost.to_string().contains("name \"same\" in directory 1"));
            other(&fs, |t| remove(t, "/same")).await;
        }
        assert_all_let_go(&fs, &clock).await;
    });
}

#[test]
fn different_names_in_one_directory_do_not_conflict_and_are_counted_together() {
    on_new(72, |fs, clock| async move {
        other(&fs, |t| {
            make_directory(t, "/d")?;
            make_directory(t, "/d/gone")?;
            create(t, "/d/old")
        })
        .await;
        let mut open = Vec::new();
        for number in 0..12 {
            let isolation = [Isolation::Snapshot, Isolation::Serializable][number % 2];
            let mut one = begin(&fs, isolation);
            step(&fs, &mut one, |t| {
                make_directory(t, &format!("/d/dir{number}"))?;
                create(t, &format!("/d/file{number}"))
            })
            .await
            .unwrap();
            open.push(one);
        }
        let mut last = begin(&fs, Isolation::Serializable);
        step(&fs, &mut last, |t| {
            let mut files = t.files();
            let (directory, name) = files.resolve_parent(b"/d/gone")?;
            files.rmdir(directory, name)?;
            rename(t, "/d/old", "/elsewhere")
        })
        .await
        .unwrap();
        open.push(last);
        for one in open {
            fs.commit_open(one, &[]).await.unwrap();
        }
        let stat = other(&fs, |t| {
            let directory = t.files().resolve(b"/d", true)?;
            t.files().stat(directory)
        });
        let stat = stat.await;
        assert_eq!((stat.size, stat.links), (24, 14));
        assert_eq!(other(&fs, |t| names(t, "/d")).await.len(), 24);
        assert_all_let_go(&fs, &clock).await;
    });
}

#[test]
fn write_skew_is_allowed_to_snapshots_and_refused_to_the_serializable() {
    on_new(72, |fs, clock| async move {
        for isolation in [Isolation::Snapshot, Isolation::Serializable] {
            other(&fs, |t| {
                write(t, "/x", b"1")?;
                write(t, "/y", b"1")
            })
            .await;
            let (mut a, mut b) = (begin(&fs, isolation), begin(&fs, isolation));
            step(&fs, &mut a, |t| {
                assert_eq!(read(t, "/y")?, b"1");
                write(t, "/x", b"0")
            })
            .await
            .unwrap();
            step(&fs, &mut b, |t| {
                assert_eq!(read(t, "/x")?, b"1");
                write(t, "/y", b"0")
            })
            .await
            .unwrap();
            fs.commit_open(a, &[]).await.unwrap();
            let second = fs.commit_open(b, &[]).await;
            match isolation {
                Isolation::Snapshot => drop(second.unwrap()),
                Isolation::Serializable => assert_eq!(conflict(second).kind, ConflictKind::Read),
            }
        }
        assert_all_let_go(&fs, &clock).await;
    });
}

#[test]
fn names_that_appear_or_vanish_in_what_was_listed_or_looked_for_are_phantoms() {
    on_new(72, |fs, clock| async move {
        other(&fs, |t| {
            make_directory(t, "/d")?;
            create(t, "/d/a")?;
            create(t, "/d/b")
        })
        .await;
        let list: Body = |t| names(t, "/d").map(drop);
        let miss: Body = |t| match read(t, "/d/new") {
            Err(FileError::NotFound) => Ok(()),
            found => panic!("{found:?}"),
        };
        let stat: Body = |t| {
            let directory = t.files().resolve(b"/d", true)?;
            t.files().stat(directory).map(drop)
        };
        let way: Body = |t| t.files().resolve(b"/d/a", true).map(drop);
        let appear: Body = |t| create(t, "/d/new").map(drop);
        let vanish: Body = |t| remove(t, "/d/b");
        let unrelated: Body = |t| create(t, "/elsewhere").map(drop);
        let cases = [
            (list, appear, true),
            (list, vanish, true),
            (miss, appear, true),
            (stat, appear, true),
            (stat, vanish, true),
            (way, appear, false),
            (way, vanish, false),
            (miss, vanish, false),
            (list, unrelated, false),
        ];
        for (case, (look, change, phantom)) in cases.into_iter().enumerate() {
            let before = fs.begin(Isolation::Snapshot, NOW).unwrap();
            for isolation in [Isolation::Snapshot, Isolation::Serializable] {
                let mut open = begin(&fs, isolation);
                step(&fs, &mut open, |t| {
                    look(t)?;
                    write(t, "/result", b"done")
                })
                .await
                .unwrap();
                other(&fs, change).await;
                let committed = fs.commit_open(open, &[]).await;
                let refused = phantom && isolation == Isolation::Serializable;
                assert_eq!(committed.is_err(), refused, "case {case}: {committed:?}");
                if refused {
                    let kind = conflict(committed).kind;
                    assert_eq!(kind, ConflictKind::Read, "case {case}");
                }
                other(&fs, |t| {
                    for made in ["/d/new", "/elsewhere", "/result"] {
                        match remove(t, made) {
                            Err(FileError::NotFound) | Ok(()) => {}
                            failed => failed?,
                        }
                    }
                    match create(t, "/d/b") {
                        Err(FileError::Exists) => Ok(()),
                        made => made.map(drop),
                    }
                })
                .await;
            }
            drop(before);
        }
        assert_all_let_go(&fs, &clock).await;
    });
}

#[test]
fn directories_that_are_moved_into_each_other_at_once_never_get_lost() {
    on_new(72, |fs, clock| async move {
        for isolation in [Isolation::Snapshot, Isolation::Serializable] {
            other(&fs, |t| {
                for path in ["/a", "/a/in", "/b", "/b/in"] {
                    make_directory(t, path)?;
                }
                Ok(())
            })
            .await;
            let (mut one, mut two) = (begin(&fs, isolation), begin(&fs, isolation));
            step(&fs, &mut one, |t| rename(t, "/a", "/b/in/a"))
                .await
                .unwrap();
            step(&fs, &mut two, |t| rename(t, "/b", "/a/in/b"))
                .await
                .unwrap();
            fs.commit_open(one, &[]).await.unwrap();
            let lost = conflict(fs.commit_open(two, &[]).await);
            assert_ne!(lost.kind, ConflictKind::Write);
            assert_eq!(other(&fs, |t| names(t, "/b/in/a")).await, ["in"]);
            other(&fs, |t| {
                let (directory, name) = t.files().resolve_parent(b"/b")?;
                t.files().remove_tree(directory, name)
            })
            .await;
        }
        assert_all_let_go(&fs, &clock).await;
    });
}

#[test]
fn a_directory_is_not_removed_under_those_who_work_in_it() {
    on_new(72, |fs, clock| async move {
        let rmdir = |t: &mut Transaction<'_>| {
            let (directory, name) = t.files().resolve_parent(b"/d")?;
            t.files().rmdir(directory, name)
        };
        other(&fs, |t| make_directory(t, "/d")).await;
        for first_removes in [true, false] {
            let mut removes = begin(&fs, Isolation::Snapshot);
            let mut creates = begin(&fs, Isolation::Snapshot);
            step(&fs, &mut removes, rmdir).await.unwrap();
            step(&fs, &mut creates, |t| create(t, "/d/x"))
                .await
                .unwrap();
            let (first, second) = if first_removes {
                (removes, creates)
            } else {
                (creates, removes)
            };
            fs.commit_open(first, &[]).await.unwrap();
            conflict(fs.commit_open(second, &[]).await);
            if first_removes {
                other(&fs, |t| make_directory(t, "/d")).await;
            }
        }
        assert_eq!(other(&fs, |t| names(t, "/d")).await, ["x"]);
        assert_all_let_go(&fs, &clock).await;
    });
}

#[test]
fn a_step_that_fails_leaves_nothing_and_savepoints_take_back_what_came_after() {
    on_new(72, |fs, clock| async move {
        let mut open = begin(&fs, Isolation::Serializable);
        step(&fs, &mut open, |t| write(t, "/one", b"1"))
            .await
            .unwrap();
        let failed = step(&fs, &mut open, |t| {
            write(t, "/two", b"2")?;
            remove(t, "/absent")
        });
        assert_eq!(failed.await, Err(FileError::NotFound));
        assert_eq!(
            step(&fs, &mut open, |t| names(t, "/")).await.unwrap(),
            ["one"]
        );

        assert_eq!(open.savepoint(), Ok(0));
        step(&fs, &mut open, |t| create(t, "/three")).await.unwrap();
        assert_eq!(open.savepoint(), Ok(1));
        step(&fs, &mut open, |t| rename(t, "/one", "/four"))
            .await
            .unwrap();
        // Somebody else changes the same directory, and that is seen from now on.
        other(&fs, |t| create(t, "/other")).await;
        drop(open.roll_back_to(7).unwrap_err());
        fs.advance(&mut open).await.unwrap_err();
        let mut open2 = begin(&fs, Isolation::Snapshot);
        step(&fs, &mut open2, |t| write(t, "/one", b"1"))
            .await
            .unwrap();
        assert_eq!(open2.savepoint(), Ok(0));
        step(&fs, &mut open2, |t| create(t, "/three"))
            .await
            .unwrap();
        assert_eq!(open2.savepoint(), Ok(1));
        step(&fs, &mut open2, |t| rename(t, "/one", "/four"))
            .await
            .unwrap();
        other(&fs, |t| create(t, "/more")).await;
        fs.advance(&mut open2).await.unwrap();
        let seen = step(&fs, &mut open2, |t| names(t, "/")).await.unwrap();
        assert_eq!(seen, ["four", "more", "other", "three"]);
        open2.roll_back_to(1).unwrap();
        let seen = step(&fs, &mut open2, |t| names(t, "/")).await.unwrap();
        assert_eq!(seen, ["more", "one", "other", "three"]);
        step(&fs, &mut open2, |t| create(t, "/five")).await.unwrap();
        open2.roll_back_to(0).unwrap();
        assert_eq!(open2.savepoints(), 1);
        assert_eq!(open2.roll_back_to(1), Err(FileError::Invalid));
        open2.release_savepoint(0).unwrap();
        fs.commit_open(open2, &[]).await.unwrap();
        let stat = other(&fs, |t| t.files().stat(ROOT)).await;
        assert_eq!((stat.size, stat.links), (3, 2));
        assert_eq!(
            other(&fs, |t| names(t, "/")).await,
            ["more", "one", "other"]
        );
        drop(open);
        assert_all_let_go(&fs, &clock).await;
    });
}

#[test]
fn bounds_are_refused_and_what_was_before_can_still_be_committed() {
    on_new(72, |fs, clock| async move {
        let mut open = begin(&fs, Isolation::Serializable);
        step(&fs, &mut open, |t| write(t, "/kept", b"1"))
            .await
            .unwrap();
        // Two segments of 32 KiB are the bound here.
        let random = noise(70_000);
        let too_large = step(&fs, &mut open, |t| write(t, "/large", &random)).await;
        assert_eq!(too_large, Err(FileError::TransactionTooLarge));
        // Overwriting again and again does not add up.
        for _ in 0..20 {
            step(&fs, &mut open, |t| write(t, "/again", &random[..20_000]))
                .await
                .unwrap();
        }
        let mut many = 0;
        let refused = loop {
            match step(&fs, &mut open, |t| create(t, &format!("/{many}"))).await {
                Ok(_) => many += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(refused, FileError::TransactionTooLarge);
        assert!((10..1000).contains(&many), "{many}");
        fs.set_transaction_memory(10_000);
        let memory = step(&fs, &mut open, |t| {
            names(t, "/")?;
            t.files()
                .set_xattr(ROOT, b"user.x", &[1; 900], lfs::XattrMode::Any)
        });
        let memory = memory.await;
        assert!(
            matches!(
                memory,
                Err(FileError::OutOfMemory | FileError::TransactionTooLarge)
            ),
            "{memory:?}"
        );
        fs.commit_open(open, &[]).await.unwrap();
        assert_eq!(other(&fs, |t| names(t, "/")).await.len(), many + 2);

        let open = (0..OPEN_TRANSACTIONS_MAX).map(|_| begin(&fs, Isolation::Snapshot));
        let open = open.collect::<Vec<_>>();
        let more = fs.begin(Isolation::Snapshot, NOW).err();
        assert_eq!(more, Some(FileError::TooManyTransactions));
        drop(open);
        assert_all_let_go(&fs, &clock).await;
    });
}

#[test]
fn a_transaction_that_was_ended_says_so_and_keeps_nothing() {
    on_new(72, |fs, clock| async move {
        other(&fs, |t| write(t, "/f", &vec![3; 20_000])).await;
        let mut open = begin(&fs, Isolation::Snapshot);
        step(&fs, &mut open, |t| write(t, "/g", b"1"))
            .await
            .unwrap();
        other(&fs, |t| write(t, "/f", b"short")).await;
        let listed = fs.open_transactions();
        assert_eq!((listed.len(), listed[0].id), (1, open.id()));
        assert!(listed[0].kept_bytes > 0 && listed[0].memory_bytes > 0);
        assert!(fs.end_transaction(open.id()));
        assert!(!fs.end_transaction(open.id()));
        assert_eq!(open.sees(), None);
        let ended = Some(FileError::TransactionEnded);
        assert_eq!(step(&fs, &mut open, |t| read(t, "/f")).await.err(), ended);
        assert_eq!(fs.advance(&mut open).await.err(), ended);
        assert_eq!(fs.commit_open(open, &[]).await.err(), ended);
        assert_eq!(other(&fs, |t| names(t, "/")).await, ["f"]);
        assert_all_let_go(&fs, &clock).await;
    });
}

#[test]
fn nobody_fills_the_disk_by_leaving_a_transaction_open() {
    on_new(72, |fs, clock| async move {
        let random = noise(60_000);
        other(&fs, |t| write(t, "/f", &random[..30_000])).await;
        let mut oldest = begin(&fs, Isolation::Snapshot);
        // Each keeps a version of its own.
        let mut open = Vec::new();
        for round in 0..200_usize {
            let from = round * 97 % 30_000;
            other(&fs, |t| write(t, "/f", &random[from..from + 30_000])).await;
            open.push(begin(&fs, Isolation::Snapshot));
        }
        let usage = fs.transaction_usage();
        assert!(usage.ended > 10 && usage.kept_bytes > 0, "{usage:?}");
        let ended = step(&fs, &mut oldest, |t| read(t, "/f")).await.err();
        assert_eq!(ended, Some(FileError::TransactionEnded));
        let newest = open.last_mut().unwrap();
        let seen = step(&fs, newest, |t| read(t, "/f")).await.unwrap();
        let from = 199 * 97;
        assert!(seen == random[from..from + 30_000]);
        drop((oldest, open));
        assert_all_let_go(&fs, &clock).await;
    });
}

/// What a transaction sees of what others change in these tests.
async fn seen(fs: &TestFileSystem, open: &mut OpenTransaction) -> (Vec<u8>, Vec<String>, u64) {
    let seen = step(fs, open, |t| {
        let stat = t.files().stat(ROOT)?;
        Ok((read(t, "/f")?, names(t, "/")?, stat.size))
    });
    seen.await.unwrap()
}

/// Fills the disk with files until so many bytes are left, without anybody having been refused.
async fn fill_but(fs: &TestFileSystem, clock: &SimClock, left: u64) {
    for number in 0.. {
        // What the trees take is known when they are written.
        fs.checkpoint(CommitNumber(0), &[], &[], clock)
            .await
            .unwrap();
        let usage = fs.usage();
        if usage.live_bytes + left + 8192 > usage.capacity_bytes {
            return;
        }
        other(fs, |t| write(t, &format!("/fill{number}"), &noise(6_000))).await;
    }
}

#[test]
fn a_commit_for_which_there_is_no_room_leaves_the_transaction_as_it_was() {
    for isolation in [Isolation::Snapshot, Isolation::Serializable] {
        on_new(72, move |fs, clock| async move {
            other(&fs, |t| write(t, "/f", b"old")).await;
            let mut open = begin(&fs, isolation);
            step(&fs, &mut open, |t| create(t, "/zero")).await.unwrap();
            assert_eq!(open.savepoint(), Ok(0));
            step(&fs, &mut open, |t| create(t, "/one")).await.unwrap();
            let at = open.sees();
            let before = (
                b"old".to_vec(),
                vec!["f".into(), "one".into(), "zero".into()],
                3,
            );
            assert!(seen(&fs, &mut open).await == before);
            if isolation == Isolation::Serializable {
                // What it has read stays: only in a directory that it has not looked at.
                other(&fs, |t| make_directory(t, "/elsewhere")).await;
            }
            other(&fs, |t| write(t, "/f", b"new")).await;
            other(&fs, |t| create(t, "/other")).await;
            // The log takes no more before something of it is written.
            let layer = [7; 20_000];
            while fs.append(&layer).is_ok() {}
            for _ in 0..2 {
                let refused = fs.try_commit_open(&mut open, &layer);
                if isolation == Isolation::Serializable {
                    let Err(CommitStop::Error(FileError::ConflictOn(_))) = refused else {
                        panic!("{refused:?}");
                    };
                    break;
                }
                assert_eq!(refused, Err(CommitStop::NoRoom));
                assert_eq!(open.sees(), at);
                assert!(seen(&fs, &mut open).await == before);
            }
            // The layer above lets go of the log.
            let written = fs.appended();
            fs.wait_durable(written).await.unwrap();
            fs.checkpoint(written, &[], &[], &clock).await.unwrap();
            let end = match isolation {
                Isolation::Serializable => {
                    // A conflict is its end.
                    assert_eq!(open.sees(), None);
                    let ended = Some(FileError::TransactionEnded);
                    assert_eq!(step(&fs, &mut open, |t| read(t, "/f")).await.err(), ended);
                    drop(open);
                    vec!["elsewhere", "f", "other"]
                }
                Isolation::Snapshot => {
                    // It can go on, back, and be committed when there is room.
                    open.roll_back_to(0).unwrap();
                    step(&fs, &mut open, |t| create(t, "/two")).await.unwrap();
                    fs.admit(|| false).await;
                    fs.commit_open(open, &[]).await.unwrap();
                    vec!["f", "other", "two", "zero"]
                }
            };
            assert_eq!(other(&fs, |t| names(t, "/")).await, end);
            let stat = other(&fs, |t| t.files().stat(ROOT)).await;
            assert_eq!(stat.size, end.len() as u64);
            assert_eq!(other(&fs, |t| read(t, "/f")).await, b"new");
            assert_all_let_go(&fs, &clock).await;
        });
    }
}

#[test]
fn a_commit_that_finds_the_disk_full_leaves_the_transaction_as_it_was() {
    on_new(72, |fs, clock| async move {
        other(&fs, |t| write(t, "/f", b"old")).await;
        let mut open = begin(&fs, Isolation::Snapshot);
        assert_eq!(open.savepoint(), Ok(0));
        step(&fs, &mut open, |t| write(t, "/large", &noise(40_000)))
            .await
            .unwrap();
        other(&fs, |t| write(t, "/f", b"new")).await;
        fill_but(&fs, &clock, 30_000).await;
        let before = (b"old".to_vec(), vec!["f".into(), "large".into()], 2);
        for _ in 0..2 {
            let refused = fs.try_commit_open(&mut open, &[]);
            assert_eq!(refused, Err(CommitStop::Error(FileError::NoSpace)));
            assert!(seen(&fs, &mut open).await == before);
        }
        open.roll_back_to(0).unwrap();
        step(&fs, &mut open, |t| write(t, "/small", b"fits"))
            .await
            .unwrap();
        fs.commit_open(open, &[]).await.unwrap();
        assert_eq!(other(&fs, |t| read(t, "/small")).await, b"fits");
        assert_all_let_go(&fs, &clock).await;
    });
}

/// What it sees and what it writes together would not fit.
#[test]
fn what_is_kept_for_a_transaction_makes_room_for_its_own_commit() {
    on_new(72, |fs, clock| async move {
        other(&fs, |t| write(t, "/f", &noise(60_000))).await;
        let mut open = begin(&fs, Isolation::Snapshot);
        other(&fs, |t| remove(t, "/f")).await;
        step(&fs, &mut open, |t| write(t, "/large", &noise(50_000)))
            .await
            .unwrap();
        fill_but(&fs, &clock, 20_000).await;
        let refused = fs.try_commit_open(&mut open, &[]);
        assert_eq!(refused, Err(CommitStop::Error(FileError::NoSpace)));
        assert_eq!(
            step(&fs, &mut open, |t| read(t, "/f")).await.unwrap(),
            noise(60_000)
        );
        fs.commit_open(open, &[]).await.unwrap();
        assert_eq!(other(&fs, |t| read(t, "/large")).await, noise(50_000));
        assert_all_let_go(&fs, &clock).await;
    });
}

#[test]
fn history_that_was_kept_for_lost_transactions_is_gone_after_the_next_mount() {
    for checkpointed in [false, true] {
        let disk = on_new(72, |fs, clock| async move {
            other(&fs, |t| write(t, "/f", &vec![3; 30_000])).await;
            let mut open = begin(&fs, Isolation::Serializable);
            step(&fs, &mut open, |t| write(t, "/mine", b"never"))
                .await
                .unwrap();
            for round in 0..10 {
                other(&fs, |t| write(t, "/f", &vec![round; 30_000])).await;
            }
            if checkpointed {
                // The last checkpoint is made with the transaction still open.
                fs.shutdown(&clock).await.unwrap();
            } else {
                fs.wait_durable(fs.appended()).await.unwrap();
            }
            core::mem::forget(open);
        });
        let mut executor = Executor::new(1);
        let disk = disk.snapshot(1);
        let fs = mount(&mut executor, &disk).unwrap().filesystem;
        let clock = executor.clock();
        executor.run(async move {
            let audit = fs.audit().await.unwrap();
            assert_eq!(audit.contradictions, []);
            assert_eq!(
                audit.unseen.is_empty(),
                !checkpointed,
                "what was kept is on the disk"
            );
            clock.sleep_ms(1000).await;
            assert_eq!(other(&fs, |t| names(t, "/")).await, ["f"]);
            assert_eq!(other(&fs, |t| read(t, "/f")).await, vec![9; 30_000]);
            assert_all_let_go(&fs, &clock).await;
        });
    }
}

#[test]
fn what_both_a_snapshot_and_a_transaction_see_stays_until_both_are_gone() {
    on_new(72, |fs, clock| async move {
        other(&fs, |t| write(t, "/f", b"both")).await;
        fs.create_snapshot("s", NOW).await.unwrap();
        let mut open = begin(&fs, Isolation::Snapshot);
        other(&fs, |t| write(t, "/f", b"new")).await;
        fs.delete_snapshot("s").await.unwrap();
        clock.sleep_ms(1000).await;
        assert_eq!(
            step(&fs, &mut open, |t| read(t, "/f")).await.unwrap(),
            b"both"
        );
        drop(open);
        clock.sleep_ms(1000).await;
        assert_all_let_go(&fs, &clock).await;
    });
}

#[test]
fn numbers_of_objects_are_nobody_elses() {
    on_new(72, |fs, clock| async move {
        let (mut a, mut b) = (
            begin(&fs, Isolation::Snapshot),
            begin(&fs, Isolation::Snapshot),
        );
        let one = step(&fs, &mut a, |t| create(t, "/a")).await.unwrap();
        let two = step(&fs, &mut b, |t| create(t, "/b")).await.unwrap();
        let three = other(&fs, |t| create(t, "/c")).await;
        assert!(one != two && two != three && one != three);
        for open in [a, b] {
            fs.commit_open(open, b"with what the layer above says")
                .await
                .unwrap();
        }
        assert_eq!(other(&fs, |t| names(t, "/")).await, ["a", "b", "c"]);
        assert_all_let_go(&fs, &clock).await;
    });
}
