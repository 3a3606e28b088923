//! Mounting arbitrary bytes.
//!
//! Invariants: whatever is on the disk, looking at it and opening it end, with a store or an error, and
//! without a panic. A store that opens can be read from end to end, and either takes a commit that is
//! there after the next open, or says that it does not; unless its disk was tampered with, which no file system without a key can
//! tell from its own.
//!
//! The input is either the disk itself or, because random bytes rarely get past a checksum, a *script
//! of damage* to a disk in use: see [`Damage`]. Because checksums catch nearly all of that, a third kind of input makes all of them
//! right again after the damage.

use std::ops::Range;
use std::sync::OnceLock;

use kvstore::{CommitError, DatabaseIndex, OpenError, Store, Timestamp};
use lfs::sim::{Damage, Executor, SimDisk, forge};
use lfs::{BLOCK_SIZE, probe};

use crate::store::{formatted_disk, with_store};

/// Longest disk taken verbatim.
const VERBATIM_BYTES_MAX: usize = 4 << 20;
const KEYS: u32 = 24;
/// Commits the disk in use has seen; each sets one key.
pub const COMMITS: u32 = 120;
const DATABASE: DatabaseIndex = DatabaseIndex(0);
const NOW_MS: i64 = 1_700_000_000_000;

/// What a store that opened holds: of each key of the disk in use, the number of the commit whose value it has.
pub type Contents = Vec<Option<u32>>;

/// The body: see the module. The outcome is for tests that know what the damage may cost.
///
/// # Errors
/// When the disk does not open: fine for a fuzzer.
pub fn run(input: &[u8]) -> Result<Contents, OpenError> {
    let Some((&kind, rest)) = input.split_first() else {
        return check(&[], false);
    };
    if kind == 0 {
        let mut disk = rest.get(..VERBATIM_BYTES_MAX).unwrap_or(rest).to_vec();
        disk.resize(disk.len().next_multiple_of(BLOCK_SIZE), 0);
        return check(&disk, false);
    }
    let [earlier, used] = disk_in_use();
    let mut disk = used.clone();
    for step in rest.as_chunks().0 {
        Damage::parse(*step).apply(&mut disk, earlier);
    }
    if kind >= 2 {
        forge(&mut disk);
    }
    check(&disk, kind >= 2)
}

/// What the keys of the disk in use held after so many commits.
pub fn contents_after(commits: u32) -> Contents {
    (0..KEYS)
        .map(|key| (0..commits).rev().find(|commit| commit % KEYS == key))
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
            let timestamp = set(&store, commit).expect("a sound disk takes it");
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

fn check(bytes: &[u8], forged: bool) -> Result<Contents, OpenError> {
    let disk = SimDisk::from_bytes(bytes, 4);
    // Looking at it must end, whatever it says.
    let _ = Executor::new(5).run({
        let disk = disk.clone();
        async move { probe(&disk).await }
    });
    let (contents, kept) = with_store(&disk, async |store, _| {
        let contents = contents(&store);
        store.admit().await;
        let kept = match set(&store, COMMITS) {
            Ok(timestamp) => store.wait_durable(timestamp).await.is_ok(),
            Err(_) => false,
        };
        (contents, kept)
    })?;
    if kept {
        let again = with_store(&disk, async |store, _| read(&store, COMMITS % KEYS));
        assert!(
            forged || again.is_ok_and(|value| value == Some(COMMITS)),
            "a durable commit is gone"
        );
    }
    Ok(contents)
}

fn set(store: &Store<SimDisk>, commit: u32) -> Result<Timestamp, CommitError> {
    let mut transaction = store.transaction(NOW_MS);
    transaction.put(DATABASE, &key(commit % KEYS), value(commit), None);
    transaction.commit()
}

fn contents(store: &Store<SimDisk>) -> Contents {
    (0..KEYS).map(|key| read(store, key)).collect()
}

fn read(store: &Store<SimDisk>, number: u32) -> Option<u32> {
    let entry = store.transaction(NOW_MS).get(DATABASE, &key(number))?;
    Some(
        entry
            .value
            .first_chunk()
            .map_or(u32::MAX, |bytes| u32::from_le_bytes(*bytes)),
    )
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
