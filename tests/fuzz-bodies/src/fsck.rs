//! Checking, dumping, repairing and mounting arbitrary bytes with files in them.
//!
//! Invariants: whatever is on the disk, a check, a dump and a repair end, without a panic. A check says that it mounts exactly
//! when it does. When a check that reads everything finds nothing wrong, every file can be read, from its first to its last byte.
//!
//! The input is either the disk itself, or a script of [damage](lfs::sim::Damage) to a disk in use. Because checksums catch nearly all
//! of that, further kinds of input make all checksums right again after the damage, up to the checkpoint's: what only
//! sense can catch.

use std::rc::Rc;
use std::sync::OnceLock;

use lfs::sim::{Executor, SimDisk};
use lfs::{
    BLOCK_SIZE, BlockDevice, CheckOptions, CheckSummary, DumpOptions, FileError, FileKind,
    FileSystem, FileSystemId, FormatOptions, MountError, NewInode, ROOT, Recovery, XattrMode,
};

use crate::mount::damaged;

const DISK_BLOCKS: usize = 640;
const VERBATIM_BYTES_MAX: usize = 4 << 20;
/// Files that the disk in use has.
const FILES: u64 = 60;

/// The body: see the module. What the check came to is for tests that know what to expect.
pub fn run(input: &[u8]) -> CheckSummary {
    let Some((&kind, rest)) = input.split_first() else {
        return examine(&[]);
    };
    if kind == 0 {
        let mut disk = rest.get(..VERBATIM_BYTES_MAX).unwrap_or(rest).to_vec();
        disk.resize(disk.len().next_multiple_of(BLOCK_SIZE), 0);
        return examine(&disk);
    }
    let [earlier, used] = disk_in_use();
    examine(&damaged(kind, rest, earlier, used))
}

fn examine(bytes: &[u8]) -> CheckSummary {
    let disk = SimDisk::from_bytes(bytes, 4);
    let (device, mut executor) = (disk.clone(), Executor::new(5));
    let summary = executor.run(async move {
        lfs::dump(&device, DumpOptions::default(), &mut |event| {
            let _ = event.to_string();
        })
        .await;
        let options = CheckOptions {
            data: true,
            ..CheckOptions::default()
        };
        lfs::check(&device, options, &mut |_| ()).await
    });
    let device = disk.snapshot(4);
    let mounted = executor.run(async move { mount(device).await.map(Rc::new) });
    assert_eq!(
        summary.mounts,
        mounted.is_ok(),
        "{summary:?}, {:?}",
        mounted.err()
    );
    if let Ok(filesystem) = mounted
        && summary.is_clean()
    {
        let read = executor.run(async move { read_all(&filesystem).await });
        assert_eq!(read, Ok(()), "{summary:?}");
    }
    let (device, mut executor) = (disk.snapshot(4), Executor::new(6));
    let clock = executor.clock();
    executor.run(async move {
        let options = CheckOptions::default();
        let _ = lfs::repair(&device, &clock, options, &mut |_| ()).await;
    });
    summary
}

async fn mount(device: SimDisk) -> Result<FileSystem<SimDisk>, MountError> {
    let mut recovery = Recovery::open(device).await?;
    while recovery.next_commit().await?.is_some() {}
    Ok(recovery.finish_without_writing())
}

async fn read_all<D: BlockDevice>(filesystem: &FileSystem<D>) -> Result<(), FileError> {
    let mut waiting = vec![ROOT];
    while let Some(directory) = waiting.pop() {
        let mut after = Some(0);
        while let Some(cookie) = after {
            let some = filesystem
                .read(|tx| tx.files().read_dir(directory, cookie, 16))
                .await?;
            after = some.next;
            for entry in some.entries {
                match entry.kind {
                    FileKind::Directory => waiting.push(entry.inode),
                    FileKind::File => {
                        // A size may be forged: as much of it as is there.
                        filesystem
                            .read(|tx| tx.files().read(entry.inode, 0, 1 << 20))
                            .await?;
                    }
                    FileKind::Symlink => {
                        filesystem
                            .read(|tx| tx.files().read_link(entry.inode))
                            .await?;
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

/// The disk in use at two moments: early, and at its end.
fn disk_in_use() -> &'static [Vec<u8>; 2] {
    static DISK: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    DISK.get_or_init(|| {
        let disk = SimDisk::new(DISK_BLOCKS, 1);
        let device = disk.clone();
        Executor::new(1).run(async move {
            let options = FormatOptions {
                segment_bytes: 32 << 10,
                log_segments: 16,
                created_ns: 0,
            };
            let id = FileSystemId([7; 16]);
            lfs::format(&device, options, id).await.expect("it fits");
        });
        use_disk(&disk, 0, true);
        let earlier = disk.to_bytes();
        use_disk(&disk, FILES / 2, false);
        [earlier, disk.to_bytes()]
    })
}

/// Makes half of the files; then an orderly end, or a power cut.
fn use_disk(disk: &SimDisk, first: u64, orderly: bool) {
    let mut executor = Executor::new(2);
    let device = disk.clone();
    let filesystem = executor.run(async move {
        let mut recovery = Recovery::open(device).await.expect("a sound disk");
        while recovery
            .next_commit()
            .await
            .expect("a sound disk")
            .is_some()
        {}
        Rc::new(recovery.finish().await.expect("a sound disk"))
    });
    let (running, clock) = (Rc::clone(&filesystem), executor.clock());
    executor.spawn(async move { running.run(&clock).await });
    let clock = executor.clock();
    executor.run(async move {
        for at in first..first + FILES / 2 {
            let made = filesystem.transact(0, |tx| {
                let directory = if at % 8 == 0 {
                    let new = NewInode::new(FileKind::Directory, 0o755);
                    let name = format!("directory-{at}").into_bytes();
                    tx.files().create(ROOT, &name, &new)?
                } else {
                    ROOT
                };
                let new = NewInode::new(FileKind::File, 0o644);
                let name = format!("file-{at}").into_bytes();
                let file = tx.files().create(directory, &name, &new)?;
                let content = vec![at.to_le_bytes()[0]; 300 * usize::from(at.to_le_bytes()[0])];
                tx.files().write(file, 100 * at, &content)?;
                if at % 5 == 0 {
                    tx.files()
                        .link(file, ROOT, format!("link-{at}").as_bytes())?;
                    tx.files()
                        .set_xattr(file, b"user.name", &content, XattrMode::Any)?;
                }
                if at % 7 == 3 && (at - 1) % 8 != 0 {
                    let name = format!("file-{}", at - 1).into_bytes();
                    tx.files().unlink(ROOT, &name)?;
                }
                Ok(())
            });
            let ((), commit) = made.await.expect("a sound disk takes it");
            filesystem.wait_durable(commit).await.expect("it keeps it");
            if at % 20 == 11 {
                let name = format!("snapshot-{at}");
                let made = filesystem.create_snapshot(&name, 0).await;
                made.expect("a sound disk takes it");
            }
        }
        if orderly {
            filesystem.shutdown(&clock).await.expect("it keeps it");
        } else {
            filesystem.close();
            filesystem.stop();
        }
    });
}
