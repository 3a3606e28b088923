//! A disk that fills up: a clear error to whoever wanted more, deletes go on, and space comes back.

use crate::common;

use std::rc::Rc;

use crate::common::full::{
    SEGMENTS, SNAPSHOT, Setting, UNITS_MAX, at, check, create, fill, full, unlink, write,
};
use crate::common::operation::Operation;
use crate::common::world::{Machine, Worker, random_bytes};
use crate::common::{formatted, mount, seed};
use lfs::sim::{Executor, Random, SimDisk};
use lfs::{
    CommitStop, FileError, FileKind, FormatOptions, Loaded, NewInode, ROOT, SetAttributes,
    XattrMode,
};

const MIB: u64 = 1 << 20;

#[test]
fn a_disk_filled_with_one_file_says_so_and_recovers() {
    let disk = SimDisk::new(16 * 256, 1);
    let mut executor = Executor::new(1);
    let target = disk.clone();
    let options = FormatOptions::for_device_bytes(16 * MIB);
    executor.run(async move {
        common::key::format(&target, options, common::ID)
            .await
            .unwrap();
    });
    let filesystem = common::mount(&mut executor, &disk).unwrap().filesystem;
    executor.run(async move {
        let new = NewInode::new(FileKind::File, 0o644);
        for round in 0..3 {
            let name = b"large";
            let create = filesystem.transact(0, |tx| tx.files().create(ROOT, name, &new));
            let (inode, _) = create.await.unwrap();
            let mut random = Random::new(round);
            let mut offset = 0;
            let error = loop {
                let mut piece = vec![0; 64 << 10];
                for chunk in piece.chunks_exact_mut(8) {
                    chunk.copy_from_slice(&random.next_u64().to_le_bytes());
                }
                let write = filesystem.transact(0, |tx| tx.files().write(inode, offset, &piece));
                match write.await {
                    Ok(_) => offset += piece.len() as u64,
                    Err(error) => break error,
                }
            };
            assert_eq!(error, FileError::NoSpace);
            assert!(offset > 8 * MIB, "round {round}: {offset} bytes fitted");
            let remove = filesystem.transact(0, |tx| tx.files().unlink(ROOT, name));
            remove.await.unwrap();
        }
    });
}

/// Items and names instead of data: what is overwritten and removed stays, as history, until the snapshot goes.
#[test]
fn a_disk_full_of_small_files_can_be_emptied_under_a_snapshot() {
    let seed = seed(8);
    let mut machine = Machine::new(formatted(SEGMENTS, seed), seed);
    for round in 0..3 {
        let what = format!("round {round}");
        let worker = machine.worker();
        machine.run(async move {
            let made = fill(&worker, "small", 0, 900).await;
            assert!(made > 300, "{made} files fitted");
            let mut gone = 0;
            while worker.filesystem.snapshot_count() == 0 {
                let name = format!("/small{gone}");
                worker.transact(&[unlink(&name)]).await.unwrap();
                gone += 1;
                worker.create_snapshot_named(SNAPSHOT.to_owned()).await;
            }
            assert!(gone < 100, "{gone} files for a snapshot");
            for number in gone..made {
                let change = SetAttributes {
                    mode: Some(0o600),
                    ..SetAttributes::default()
                };
                let target = at(&format!("/small{number}"));
                let change = [Operation::SetAttributes { target, change }];
                let changed = worker.transact(&change).await;
                assert!(matches!(changed, Ok(()) | Err(FileError::NoSpace)));
            }
            for number in gone..made {
                let name = format!("/small{number}");
                worker.transact(&[unlink(&name)]).await.unwrap();
            }
        });
        machine.compare(&what);
        let worker = machine.worker();
        machine.run(async move { worker.delete_snapshot_named(SNAPSHOT).await });
        machine.compare(&what);
        machine.world.borrow_mut().snapshots.clear();
        machine = machine.reboot(seed);
    }
    check(&mut machine, "emptied");
}

/// It was told that there is none, unless the walk through the history had come by: after a mount that was up to chance.
#[test]
fn who_needs_the_room_of_a_snapshot_that_is_gone_waits_for_it() {
    for seed in seed(9)..seed(9) + 10 {
        let mut machine = Machine::new(formatted(SEGMENTS, seed), seed);
        let worker = machine.worker();
        let made = machine.run(async move {
            let made = fill(&worker, "first", 0, 900).await;
            worker.transact(&[unlink("/first0")]).await.unwrap();
            worker.create_snapshot_named(SNAPSHOT.to_owned()).await;
            for number in 1..made {
                let name = format!("/first{number}");
                worker.transact(&[unlink(&name)]).await.unwrap();
            }
            made
        });
        let worker = machine.worker();
        machine.run(async move { worker.delete_snapshot_named(SNAPSHOT).await });
        machine.world.borrow_mut().snapshots.clear();
        machine = machine.reboot(seed);
        let worker = machine.worker();
        machine.run(async move {
            let again = fill(&worker, "again", 0, 900).await;
            assert!(again > made / 2, "{again} of {made} files fitted");
        });
    }
}

/// What is overwritten under a snapshot stays, be it content, an attribute or what an inode says: so it needs room, and what
/// is set aside for others is left alone.
#[test]
fn overwriting_everything_under_a_snapshot_takes_no_more_than_there_is() {
    type Change = fn(&str) -> Operation;
    let content = |name: &str| write(name, 0, 900);
    let attribute = |name: &str| Operation::SetXattr {
        target: at(name),
        name: b"user.a".to_vec(),
        value: random_bytes(&mut Random::new(name.len() as u64), 900),
        mode: XattrMode::Any,
    };
    let permissions = |name: &str| Operation::SetAttributes {
        target: at(name),
        change: SetAttributes {
            mode: Some(0o600),
            ..SetAttributes::default()
        },
    };
    let blocks = |name: &str| write(name, 0, 8192);
    // What the disk is filled with, and what is done to each file then.
    let cases: [(&str, Change, Change); 4] = [
        ("content", content, content),
        ("attributes", attribute, attribute),
        ("inodes", content, permissions),
        ("blocks", blocks, blocks),
    ];
    let seed = seed(11);
    for (what, filling, change) in cases {
        let mut machine = Machine::new(formatted(SEGMENTS, seed), seed);
        machine.world.borrow_mut().keeps_states = false;
        let worker = machine.worker();
        let first = machine.run(async move {
            let made = fill_with(&worker, filling).await;
            let mut gone = 0;
            while worker.filesystem.snapshot_count() == 0 {
                let name = format!("/f{gone}");
                worker.transact(&[unlink(&name)]).await.unwrap();
                gone += 1;
                worker.create_snapshot_named(SNAPSHOT.to_owned()).await;
            }
            assert!(gone < made / 2, "{gone} of {made} files for a snapshot");
            let mut refused = 0;
            for number in gone..made {
                match worker.transact(&[change(&format!("/f{number}"))]).await {
                    Ok(()) => {}
                    Err(FileError::NoSpace) => refused += 1,
                    Err(error) => panic!("{what}: {error}"),
                }
                let mut usage = worker.filesystem.usage();
                if usage.live_bytes > usage.capacity_bytes {
                    // What has been moved is there twice until the next checkpoint.
                    worker.settle().await;
                    usage = worker.filesystem.usage();
                }
                assert!(
                    usage.live_bytes <= usage.capacity_bytes,
                    "{what}: {} bytes too many after {number} of {made}, {refused} refused",
                    usage.live_bytes - usage.capacity_bytes
                );
            }
            println!("{what}: {refused} of {made} refused");
            assert!(refused > 0, "{what}: {made} overwritten");
            for number in gone..made {
                worker
                    .transact(&[unlink(&format!("/f{number}"))])
                    .await
                    .unwrap();
            }
            made
        });
        machine.compare(what);
        let worker = machine.worker();
        machine.run(async move {
            worker.delete_snapshot_named(SNAPSHOT).await;
            worker.settle().await;
            // All of it came back.
            let again = fill_with(&worker, filling).await;
            assert!(again >= first * 9 / 10, "{what}: {again} after {first}");
        });
        machine.compare(what);
        check(&mut machine, what);
    }
}

/// Makes files, each with what `change` sets, until there is no space; how many there are then.
async fn fill_with(worker: &Worker, change: fn(&str) -> Operation) -> usize {
    for number in 0.. {
        let name = format!("/f{number}");
        let operations = [create(&name, FileKind::File), change(&name)];
        if let Err(error) = worker.transact(&operations).await {
            assert_eq!(error, FileError::NoSpace);
            return number;
        }
    }
    unreachable!("a disk has an end");
}

/// With records of a layer above, which are there if the change of files is.
#[test]
fn records_of_the_layer_above_are_refused_with_the_files_they_belong_to() {
    let full = full(true, seed(9));
    let setting = Setting {
        scattered: false,
        cleaner: true,
    };
    let mut taken = 0;
    for units in 0..UNITS_MAX {
        let mut machine = full.boot(setting, units);
        let filesystem = Rc::clone(&machine.filesystem);
        let before = filesystem.appended();
        let result = machine.run(async move {
            let mut loaded = Loaded::default();
            let body = |transaction: &mut lfs::Transaction<'_>| {
                let mut files = transaction.files();
                let new = NewInode::new(FileKind::File, 0o644);
                let inode = files.create(ROOT, b"new", &new)?;
                files.write(inode, 0, &random_bytes(&mut Random::new(1), 20_000))
            };
            loop {
                let mut changes = filesystem.begin_changes(0, &mut loaded);
                let outcome = filesystem.change_files(&mut changes, &loaded, body);
                let result = match outcome {
                    Ok(()) => filesystem.commit(changes, &[7; 3000]),
                    Err(FileError::Fault(fault)) => Err(CommitStop::Fault(fault)),
                    Err(error) => Err(CommitStop::Error(error)),
                };
                match result {
                    Ok(number) => {
                        filesystem.wait_durable(number).await.unwrap();
                        return Ok(number);
                    }
                    Err(CommitStop::Fault(fault)) => {
                        filesystem.load(fault, &mut loaded).await.unwrap();
                    }
                    Err(CommitStop::NoRoom) => filesystem.admit(|| false).await,
                    Err(stop) => return Err(stop),
                }
            }
        });
        let mut executor = Executor::new(0);
        let after = mount(&mut executor, &machine.disk.snapshot(1)).unwrap();
        let records = after
            .commits
            .iter()
            .filter(|(_, payload)| !payload.is_empty());
        let found = after.filesystem.appended();
        match result {
            Ok(number) => {
                assert_eq!(
                    records.map(|(found, _)| *found).collect::<Vec<_>>(),
                    [number]
                );
                taken += 1;
            }
            Err(stop) => {
                assert_eq!(stop, CommitStop::Error(FileError::NoSpace));
                assert_eq!(records.count(), 0);
                assert!(units > 0 || found == before);
            }
        }
    }
    assert!((1..UNITS_MAX).contains(&taken), "{taken}");
}

/// A snapshot is made or refused, and can always be deleted.
#[test]
fn snapshots_on_a_full_disk() {
    let full = full(true, seed(10));
    let setting = Setting {
        scattered: true,
        cleaner: true,
    };
    for units in 0..4 {
        let mut machine = full.boot(setting, units);
        let worker = machine.worker();
        machine.run(async move {
            let mut made = 0;
            for number in 0..50 {
                worker.create_snapshot_named(format!("{number:0200}")).await;
                made = worker.filesystem.snapshot_count();
                if made < number + 2 {
                    break;
                }
                // What was there at each of them is kept.
                let _ = worker
                    .transact(&[write("/d/blocks", 0, 100 + number)])
                    .await;
            }
            for info in worker.filesystem.snapshots() {
                worker.delete_snapshot_named(&info.name).await;
            }
            assert_eq!(worker.filesystem.snapshot_count(), 0, "of {made}");
        });
        machine.compare(&format!("{units} units"));
        check(&mut machine, "no snapshots any more");
    }
}

/// Each file is in a leaf with a few others, and a checkpoint has to have room for all leaves that have changed.
#[test]
fn a_transaction_that_touches_too_much_is_refused_and_smaller_ones_go_on() {
    let seed = seed(11);
    let mut machine = Machine::new(formatted(SEGMENTS, seed), seed);
    let worker = machine.worker();
    machine.run(async move {
        let made = fill(&worker, "small", 0, 900).await;
        assert!(made > 300, "{made} files fitted");
        let filesystem = &worker.filesystem;
        let before = filesystem.appended();
        let change = SetAttributes {
            mode: Some(0o600),
            ..SetAttributes::default()
        };
        let all = filesystem.transact(1, |transaction| {
            for number in 0..made {
                let name = format!("small{number}");
                let mut files = transaction.files();
                let file = files.lookup(ROOT, name.as_bytes())?;
                files.set_attributes(file, &change)?;
            }
            Ok(())
        });
        assert_eq!(all.await.err(), Some(FileError::TransactionTooLarge));
        assert_eq!(filesystem.appended(), before, "something happened");
        // At once, so that checkpoints have to make room for each of them.
        let lots = (0..made).step_by(made / 20).map(|first| {
            let changes = (first..made).step_by(97).map(|number| {
                let target = at(&format!("/small{number}"));
                Operation::SetAttributes { target, change }
            });
            changes.take(10).collect::<Vec<_>>()
        });
        for lot in lots {
            worker.transact(&lot).await.unwrap();
        }
        for number in 0..made {
            let name = format!("/small{number}");
            worker.transact(&[unlink(&name)]).await.unwrap();
        }
    });
    machine.compare("emptied");
    check(&mut machine, "emptied");
}
