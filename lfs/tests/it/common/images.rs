//! File systems with something of everything in them, made from a seed.
#![allow(
    clippy::too_many_lines,
    clippy::similar_names,
    reason = "a step is one long choice"
)]

use std::rc::Rc;

use lfs::sim::{Executor, Random, SimDisk};
use lfs::{
    BlockDevice, FileError, FileKind, FileSystem, InodeNumber, NewInode, ROOT, RenameFlags,
    SnapshotId, Transaction, XattrMode,
};

use super::{TestFileSystem, formatted, mount};

/// What the newest state holds: paths with kind and content.
pub type Contents = Vec<(Vec<u8>, FileKind, Vec<u8>)>;

const NOW_NS: i64 = 1_700_000_000_000_000_000;

/// How an image is made.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    pub segments: usize,
    pub steps: usize,
    /// Ends with a checkpoint; else with a power cut that leaves a log to replay.
    pub orderly: bool,
    pub seed: u64,
}

/// Makes an image; returns it with what its newest state holds.
pub fn image(recipe: Recipe) -> (SimDisk, Contents) {
    let disk = formatted(recipe.segments, recipe.seed);
    let mut executor = Executor::new(recipe.seed);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    let contents = executor.run(async move {
        let mut random = Random::new(recipe.seed);
        let mut directories = vec![ROOT];
        let mut files: Vec<InodeNumber> = Vec::new();
        for step in 0..recipe.steps {
            let result = one_step(&filesystem, &mut random, &mut directories, &mut files, step);
            match result.await {
                Ok(()) | Err(FileError::NoSpace | FileError::NotFound | FileError::Exists) => {}
                Err(error) => panic!("step {step}: {error}"),
            }
        }
        filesystem
            .wait_durable(filesystem.appended())
            .await
            .unwrap();
        let contents = contents(&filesystem).await;
        if recipe.orderly {
            filesystem.shutdown(&clock).await.unwrap();
        } else {
            filesystem.close();
            filesystem.stop();
        }
        contents
    });
    (disk.snapshot(recipe.seed), contents)
}

fn pick<T: Copy>(random: &mut Random, from: &[T]) -> T {
    from[random.below(from.len() as u64) as usize]
}

async fn one_step(
    filesystem: &Rc<TestFileSystem>,
    random: &mut Random,
    directories: &mut Vec<InodeNumber>,
    files: &mut Vec<InodeNumber>,
    step: usize,
) -> Result<(), FileError> {
    let directory = pick(random, directories);
    let name = format!("name-{step}").into_bytes();
    let bytes = |random: &mut Random, len: u64| {
        let noisy = random.one_in(2);
        (0..len)
            .map(|at| {
                if noisy {
                    random.below(256) as u8
                } else {
                    (at / 64) as u8
                }
            })
            .collect::<Vec<_>>()
    };
    match random.below(16) {
        0 | 1 => {
            let new = NewInode::new(FileKind::Directory, 0o755);
            let (made, _) = filesystem
                .transact(NOW_NS, |tx| tx.files().create(directory, &name, &new))
                .await?;
            directories.push(made);
        }
        2..=6 => {
            let len = [0, 10, 900, 5000, 30_000][random.below(5) as usize];
            let content = bytes(random, len);
            let new = NewInode::new(FileKind::File, 0o644);
            let (made, _) = filesystem
                .transact(NOW_NS, |tx| {
                    let made = tx.files().create(directory, &name, &new)?;
                    tx.files().write(made, 0, &content)?;
                    Ok(made)
                })
                .await?;
            files.push(made);
        }
        7 => {
            let new = NewInode {
                target: b"somewhere/else".to_vec(),
                ..NewInode::new(FileKind::Symlink, 0o777)
            };
            filesystem
                .transact(NOW_NS, |tx| tx.files().create(directory, &name, &new))
                .await?;
        }
        8..=10 if !files.is_empty() => {
            let file = pick(random, files);
            let offset = random.below(40_000);
            let len = 1 + random.below(12_000);
            let content = bytes(random, len);
            filesystem
                .transact(NOW_NS, |tx| tx.files().write(file, offset, &content))
                .await?;
        }
        11 if !files.is_empty() => {
            let file = pick(random, files);
            let size = random.below(50_000);
            filesystem
                .transact(NOW_NS, |tx| tx.files().truncate(file, size))
                .await?;
        }
        12 if !files.is_empty() => {
            let file = pick(random, files);
            filesystem
                .transact(NOW_NS, |tx| tx.files().link(file, directory, &name))
                .await?;
        }
        13 => {
            let listing = filesystem
                .read(|tx| tx.files().read_dir(directory, 0, 100))
                .await?;
            let entries = listing.entries;
            let Some(entry) = entries.get(random.below(4) as usize) else {
                return Ok(());
            };
            if entry.kind == FileKind::Directory {
                return Ok(());
            }
            filesystem
                .transact(NOW_NS, |tx| tx.files().unlink(directory, &entry.name))
                .await?;
            files.retain(|file| *file != entry.inode);
        }
        14 if !files.is_empty() => {
            let file = pick(random, files);
            let len = [5, 3000][random.below(2) as usize];
            let value = bytes(random, len);
            filesystem
                .transact(NOW_NS, |tx| {
                    tx.files()
                        .set_xattr(file, b"user.note", &value, XattrMode::Any)
                })
                .await?;
        }
        15 if random.one_in(3) => {
            let snapshot = format!("snapshot-{step}");
            filesystem.create_snapshot(&snapshot, NOW_NS).await?;
        }
        _ => {
            let listing = filesystem
                .read(|tx| tx.files().read_dir(directory, 0, 100))
                .await?;
            let entries = listing.entries;
            let Some(entry) = entries.first().filter(|e| e.kind == FileKind::File) else {
                return Ok(());
            };
            let to = pick(random, directories);
            let flags = RenameFlags::default();
            filesystem
                .transact(NOW_NS, |tx| {
                    tx.files().rename(directory, &entry.name, to, &name, flags)
                })
                .await?;
        }
    }
    Ok(())
}

/// All files and directories of the newest state.
pub async fn contents(filesystem: &Rc<TestFileSystem>) -> Contents {
    contents_at(filesystem, None).await
}

async fn read<D: BlockDevice, T>(
    filesystem: &FileSystem<D>,
    snapshot: Option<SnapshotId>,
    body: impl FnMut(&mut Transaction<'_>) -> Result<T, FileError>,
) -> T {
    let result = match snapshot {
        Some(snapshot) => filesystem.read_snapshot(snapshot, body).await,
        None => filesystem.read(body).await,
    };
    result.unwrap()
}

/// All files and directories, sorted by path.
pub async fn contents_at<D: BlockDevice>(
    filesystem: &FileSystem<D>,
    snapshot: Option<SnapshotId>,
) -> Contents {
    let mut found = Vec::new();
    let mut waiting = vec![(ROOT, Vec::new())];
    while let Some((directory, path)) = waiting.pop() {
        let mut after = Some(0);
        while let Some(cookie) = after {
            let list = |tx: &mut Transaction<'_>| tx.files().read_dir(directory, cookie, 16);
            let some = read(filesystem, snapshot, list).await;
            after = some.next;
            for entry in some.entries {
                let path = [&path[..], b"/", &entry.name].concat();
                let content = |tx: &mut Transaction<'_>| match entry.kind {
                    FileKind::File => {
                        let size = tx.files().stat(entry.inode)?.size;
                        tx.files().read(entry.inode, 0, size as usize)
                    }
                    FileKind::Symlink => tx.files().read_link(entry.inode),
                    _ => Ok(Vec::new()),
                };
                let content = read(filesystem, snapshot, content).await;
                if entry.kind == FileKind::Directory {
                    waiting.push((entry.inode, path.clone()));
                }
                found.push((path, entry.kind, content));
            }
        }
    }
    found.sort();
    found
}
