//! Mounting arbitrary bytes.
//!
//! Invariants: whatever is on the disk, looking at it and opening it end, with a store or an error, and
//! without a panic. A store that opens can be read from end to end, or says of a key that it cannot be read; and it either
//! takes a commit that is there after the next open, or says that it does not.
//!
//! The input is either the disk itself or, because random bytes rarely get past a checksum, a *script
//! of damage* to a disk in use: see [`Damage`]. With checksums that were made right again a disk can open and be another
//! one: then what it holds may be gone with the next commit, but it is never another value.

use std::ops::Range;
use std::sync::OnceLock;

use kvstore::{DatabaseIndex, OpenError, Store, Timestamp, TransactError};
use lfs::sim::{Damage, Executor, SimDisk, forge};
use lfs::{BLOCK_SIZE, Clock, probe};

use crate::store::{formatted_disk, with_store};

/// Longest disk taken verbatim.
const VERBATIM_BYTES_MAX: usize = 4 << 20;
const KEYS: u32 = 24;
/// Commits the disk in use has seen; each sets one key.
pub const COMMITS: u32 = 120;
/// How often it is asked whether there is room for a commit.
const PATIENCE_STEPS: u32 = 300;
const DATABASE: DatabaseIndex = DatabaseIndex(0);
const NOW_MS: i64 = 1_700_000_000_000;

/// What a store that opened holds: of each key of the disk in use, the number of the commit whose value it has, or that what the
/// disk has of it is damaged.
pub type Contents = Vec<Result<Option<u32>, Unreadable>>;

/// The store says that it cannot read a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

/// The body: see the module. The outcome is for tests that know what the damage may cost.
///
/// # Errors
/// When the disk does not open: fine for a fuzzer.
pub fn run(input: &[u8]) -> Result<Contents, OpenError> {
    let Some((&kind, rest)) = input.split_first() else {
        return check(&[]);
    };
    if kind == 0 {
        let mut disk = rest.get(..VERBATIM_BYTES_MAX).unwrap_or(rest).to_vec();
        disk.resize(disk.len().next_multiple_of(BLOCK_SIZE), 0);
        return check(&disk);
    }
    let [earlier, used] = disk_in_use();
    let disk = damaged(kind, rest, earlier, used);
    if kind >= FORGED {
        // What the tables say may be bent such that it holds until something is written.
        return check_with(&disk, |again| {
            again.is_none_or(|value| value == Ok(Some(COMMITS)))
        });
    }
    check(&disk)
}

/// The kind of input from which on checksums are made right after the damage.
const FORGED: u8 = 2;
/// The same, with steps that write numbers at the ends of their range.
const NUMBERS: u8 = 3;

/// A disk in use after a script of damage, [`Damage::BYTES`] bytes for each step; a shorter rest is ignored. `kind`: 1, and checksums say so; 2, and all checksums are right again; 3, and the steps that
/// overwrite bytes write a number of eight bytes which hardly anything can be.
pub(crate) fn damaged(kind: u8, script: &[u8], earlier: &[u8], used: &[u8]) -> Vec<u8> {
    let mut disk = used.to_vec();
    for step in script.as_chunks().0 {
        match Damage::parse(*step) {
            Damage::Bytes(sector, offset, [which, ..]) if kind == NUMBERS => {
                write_number(&mut disk, sector, offset, which);
            }
            damage => damage.apply(&mut disk, earlier),
        }
    }
    if kind >= FORGED {
        forge(&mut disk);
    }
    disk
}

/// Writes a number to where numbers are: a multiple of four bytes from the start of a sector.
fn write_number(disk: &mut [u8], sector: usize, offset: usize, which: u8) {
    let power = 1_u64 << (which % 64);
    let number = match which / 64 {
        0 => power,
        1 => power - 1,
        2 => u64::MAX - power,
        _ => u64::MAX,
    };
    let sectors = (disk.len() / Damage::SECTOR).max(1);
    let at = sector % sectors * Damage::SECTOR + offset % (Damage::SECTOR - 8) / 4 * 4;
    if let Some(target) = disk.get_mut(at..at + 8) {
        target.copy_from_slice(&number.to_le_bytes());
    }
}

/// What the keys of the disk in use held after so many commits.
pub fn contents_after(commits: u32) -> Contents {
    (0..KEYS)
        .map(|key| Ok((0..commits).rev().find(|commit| commit % KEYS == key)))
        .collect()
}

/// The disk in use at two moments: early, and at its end.
fn disk_in_use() -> &'static [Vec<u8>; 2] {
    static DISK: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    DISK.get_or_init(|| {
        let disk = formatted_disk();
        // The first half ends in an orderly shutdown with a checkpoint, the second in a power cut.
        use_disk(&disk, 0..COMMITS / 2, true);
        let earlier = disk.to_bytes();
        use_disk(&disk, COMMITS / 2..COMMITS, false);
        [earlier, disk.to_bytes()]
    })
}

fn use_disk(disk: &SimDisk, commits: Range<u32>, shutdown: bool) {
    let session = with_store(disk, async move |store, _| {
        for commit in commits {
            store.admit().await;
            let timestamp = set(&store, commit).await.expect("a sound disk takes it");
            store
                .wait_durable(timestamp)
                .await
                .expect("a sound disk keeps it");
        }
        if shutdown {
            store.shutdown().await.expect("a sound disk keeps it");
        }
    });
    session.expect("a sound disk opens");
}

fn check(bytes: &[u8]) -> Result<Contents, OpenError> {
    check_with(bytes, |again| again == Some(Ok(Some(COMMITS))))
}

/// `right`: whether what was committed and became durable may be this at the next open; `None` when that is refused.
fn check_with(
    bytes: &[u8],
    right: impl Fn(Option<Result<Option<u32>, Unreadable>>) -> bool,
) -> Result<Contents, OpenError> {
    let disk = SimDisk::from_bytes(bytes, 4);
    // Looking at it must end, whatever it says.
    let _ = Executor::new(5).run({
        let disk = disk.clone();
        async move { probe(&disk).await }
    });
    let (contents, kept) = with_store(&disk, async |store, clock| {
        let contents = contents(&store).await;
        // A disk that lies about itself may never have room.
        for _ in 0..PATIENCE_STEPS {
            if store.has_room() {
                break;
            }
            clock.sleep_ms(100).await;
        }
        let kept = match set(&store, COMMITS).await {
            Ok(timestamp) => store.wait_durable(timestamp).await.is_ok(),
            Err(_) => false,
        };
        (contents, kept)
    })?;
    if kept {
        let again = with_store(&disk, async |store, _| read(&store, COMMITS % KEYS).await);
        let again = again.ok();
        assert!(right(again), "a durable commit is gone: {again:?}");
    }
    Ok(contents)
}

async fn set(store: &Store<SimDisk>, commit: u32) -> Result<Timestamp, TransactError> {
    let put = store.transact(NOW_MS, 0, |transaction| {
        transaction.put(DATABASE, &key(commit % KEYS), value(commit), None);
        Ok(())
    });
    put.await.map(|((), timestamp)| timestamp)
}

async fn contents(store: &Store<SimDisk>) -> Contents {
    let mut contents = Contents::new();
    for key in 0..KEYS {
        contents.push(read(store, key).await);
    }
    contents
}

async fn read(store: &Store<SimDisk>, number: u32) -> Result<Option<u32>, Unreadable> {
    let get = store.transact(NOW_MS, 0, |transaction| {
        transaction.get(DATABASE, &key(number))
    });
    let (entry, _) = get.await.map_err(|_| Unreadable)?;
    let number = |value: &[u8]| value.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    Ok(entry.map(|entry| number(&entry.value).unwrap_or(u32::MAX)))
}

fn key(number: u32) -> [u8; 4] {
    number.to_le_bytes()
}

/// Its commit's number and a filling; now and then so long that a commit spans groups.
fn value(commit: u32) -> Vec<u8> {
    let filling = if commit.is_multiple_of(16) {
        9_000
    } else {
        40 * commit as usize % 700
    };
    let mut value = commit.to_le_bytes().to_vec();
    value.resize(4 + filling, b'.');
    value
}
