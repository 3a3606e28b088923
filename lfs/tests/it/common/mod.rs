//! A file system on a simulated disk.

pub mod check;
pub mod counting;
pub mod disks;
pub mod full;
pub mod generator;
pub mod images;
pub mod key;
pub mod open;
pub mod operation;
pub mod posix;
pub mod world;

use std::rc::Rc;

use lfs::sim::{Executor, SimDisk, seed_from};
use lfs::{
    BlockDevice, CHUNK_BYTES_MAX, ChunkRef, CommitNumber, FileSystem, FileSystemId, FormatOptions,
    MountError, ObjectId, ObjectReadError, ObjectWriteError, ObjectWriter,
};

pub type TestFileSystem<A = SimDisk> = FileSystem<A>;

/// Blocks of a segment: the fewest there can be.
pub const SEGMENT_BLOCKS: usize = 8;

pub const FORMAT: FormatOptions = FormatOptions {
    segment_bytes: 8 * 4096,
    log_segments: 16,
    created_ns: 0,
};

pub const ID: FileSystemId = FileSystemId([0xA5; 16]);

/// The seed, printed so that a failure can be replayed with `SILTSTONE_SEED`.
pub fn seed(default: u64) -> u64 {
    let seed = seed_from(std::env::var("SILTSTONE_SEED").ok().as_deref(), default);
    println!("SILTSTONE_SEED={seed}");
    seed
}

/// A formatted disk of `segments` segments, with no events yet.
pub fn formatted(segments: usize, seed: u64) -> SimDisk {
    let disk = SimDisk::new(segments * SEGMENT_BLOCKS, seed);
    let target = disk.clone();
    Executor::new(seed).run(async move { key::format(&target, FORMAT, ID).await.unwrap() });
    disk.snapshot(seed)
}

/// The same, which makes durable what is written for the log in one of the ways there are, as the seed says.
pub fn formatted_of_any_kind(segments: usize, seed: u64) -> SimDisk {
    let disk = formatted(segments, seed);
    disk.flush_by(seed);
    println!("seed {seed} flushes: {:?}", disk.flushing());
    disk
}

/// What a mount found.
pub struct Mounted<A: BlockDevice = SimDisk> {
    pub filesystem: Rc<TestFileSystem<A>>,
    pub commits: Vec<(CommitNumber, Vec<u8>)>,
    pub horizon: CommitNumber,
    pub manifest: Vec<u8>,
}

/// Mounts and lets the log writer run in the background of `executor`.
pub fn mount(executor: &mut Executor, disk: &SimDisk) -> Result<Mounted, MountError> {
    mount_device(executor, disk.clone())
}

/// As [`mount`], whatever the device is.
pub fn mount_device<A: BlockDevice + 'static>(
    executor: &mut Executor,
    device: A,
) -> Result<Mounted<A>, MountError> {
    let mounted = executor.run(async move {
        let mut recovery = key::open(device).await?;
        let (horizon, manifest) = (recovery.horizon(), recovery.manifest().to_vec());
        let mut commits = Vec::new();
        while let Some((number, payload)) = recovery.next_commit().await? {
            commits.push((number, payload.to_vec()));
        }
        let filesystem = Rc::new(recovery.finish().await?);
        Ok::<_, MountError>(Mounted {
            filesystem,
            commits,
            horizon,
            manifest,
        })
    })?;
    let running = Rc::clone(&mounted.filesystem);
    let clock = executor.clock();
    executor.spawn(async move { running.run(&clock).await });
    Ok(mounted)
}

/// Mounts only to see whether it can be done.
pub fn try_mount(disk: &SimDisk) -> Result<Mounted, MountError> {
    mount(&mut Executor::new(0), disk)
}

/// Puts `bytes` into chunks of many lengths, also of more than a segment of the smallest size holds.
pub async fn put_all<D: BlockDevice>(
    object: &mut ObjectWriter<'_, D>,
    mut bytes: &[u8],
) -> Result<Vec<ChunkRef>, ObjectWriteError> {
    let lens = [5000, 30_000, 1, CHUNK_BYTES_MAX, 4088, 12_345];
    let mut chunks = Vec::new();
    for len in lens.into_iter().cycle() {
        let (chunk, rest) = bytes.split_at(len.min(bytes.len()));
        if chunk.is_empty() {
            break;
        }
        chunks.push(object.put(chunk)?);
        object.write_full().await?;
        bytes = rest;
    }
    Ok(chunks)
}

/// What all chunks of an object hold, one behind the other; each was also read by itself.
pub async fn read_object<D: BlockDevice>(
    filesystem: &FileSystem<D>,
    object: ObjectId,
) -> Result<Vec<u8>, ObjectReadError> {
    let mut scan = filesystem.scan_object(object)?;
    let mut content = Vec::new();
    loop {
        let start = content.len();
        let Some(chunk) = scan.next(filesystem.device(), &mut content).await? else {
            return Ok(content);
        };
        let alone = filesystem.read_chunk(object, chunk).await?;
        assert!(alone == content[start..], "{chunk:?}");
    }
}
