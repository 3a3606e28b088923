//! Keys do not stay in memory behind those who needed them.
//!
//! All memory of the program is searched but the stack of the test, where Rust cannot promise it (`DESIGN.md`, "Wiping"): what is in use, and
//! what was given back. While a file system is mounted its keys must be found, or this would find nothing ever. Not looked for is what Argon2
//! has filled, which the allocator mostly gives back to the system.

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use hkdf::Hkdf;
use sha2::Sha256;

use crate::common::{FORMAT, ID, SEGMENT_BLOCKS};
use lfs::sim::{Executor, Random, SimDisk};
use lfs::{
    BLOCK_SIZE, Encryption, FileSystem, KdfCost, KeyChange, KeyError, MountError, Recovery, Secret,
    Suite, Unlock,
};

const KEY_FILE: [u8; 48] = *b"a key file that no other test has, of 48 bytes..";
const PASSPHRASE: &[u8] = b"a passphrase that no other test has";
const WRONG: &[u8] = b"one that opens nothing";

const COST: KdfCost = KdfCost {
    memory_kib: 64,
    passes: 1,
    lanes: 1,
};

/// A secret of 32 bytes, in a form that is not found in the place of it. By its second half: who gets memory may write
/// to the first before anybody looks.
#[derive(Clone, Copy)]
struct Wanted {
    what: &'static str,
    inverted: u128,
}

impl Wanted {
    fn new(what: &'static str, secret: &[u8]) -> Self {
        let half = secret.last_chunk().unwrap();
        Self {
            what,
            inverted: !u128::from_le_bytes(*half),
        }
    }
}

thread_local! {
    /// What was made of the first bytes drawn, which are the data key.
    static KEYS: RefCell<Vec<Wanted>> = const { RefCell::new(Vec::new()) };
    static RANDOM: RefCell<Random> = RefCell::new(Random::new(0));
}

fn entropy(bytes: &mut [u8]) {
    RANDOM.with_borrow_mut(|random| {
        for byte in bytes.iter_mut() {
            *byte = random.next_u64() as u8;
        }
    });
    KEYS.with_borrow_mut(|keys| {
        if keys.is_empty() {
            keys.push(Wanted::new("data key", bytes));
            for suite in Suite::ALL {
                for purpose in 1..=8 {
                    let info: [&[u8]; 2] = [b"sub-key", &[suite.number(), purpose]];
                    keys.push(Wanted::new(
                        "sub-key",
                        &derived(b"siltstone lfs 1", bytes, &info),
                    ));
                }
            }
        }
    });
}

fn derived(salt: &[u8], material: &[u8], info: &[&[u8]]) -> [u8; 32] {
    let mut out = [0; 32];
    let hkdf = Hkdf::<Sha256>::new(Some(salt), material);
    hkdf.expand_multi_info(info, &mut out).unwrap();
    out
}

/// What the slots on `disk` are wrapped with.
fn wrapping(disk: &SimDisk) -> [Wanted; 2] {
    let salt = |slot: usize| {
        let at = BLOCK_SIZE + 96 + 128 * slot + 16;
        disk.to_bytes()[at..at + 32].to_vec()
    };
    let info: [&[u8]; 1] = [b"siltstone lfs 1 key file"];
    let of_file = derived(&salt(0), &KEY_FILE, &info);
    let params = Params::new(COST.memory_kib, COST.passes, COST.lanes, Some(32)).unwrap();
    let mut memory = [Block::new(); COST.memory_kib as usize];
    let mut of_passphrase = [0; 32];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(PASSPHRASE, &salt(1), &mut of_passphrase, &mut memory)
        .unwrap();
    [
        Wanted::new("wrapping key of a key file", &of_file),
        Wanted::new("wrapping key of a passphrase", &of_passphrase),
    ]
}

/// Which of `wanted` are in memory.
fn found(wanted: &[Wanted]) -> Vec<&'static str> {
    const STEP: usize = 64 << 10;
    // What is read of memory would be found in it, anywhere but on this stack.
    let mut piece = [0_u8; STEP + 15];
    let own_stack = &raw const piece as usize;
    let mut begins_one = [false; 256];
    for wanted in wanted {
        begins_one[usize::from(!wanted.inverted as u8)] = true;
    }
    let memory = File::open("/proc/self/mem").unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let (mut hits, mut searched) = (Vec::new(), 0);
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|address| usize::from_str_radix(address, 16).unwrap());
        if !rest.starts_with("rw") || (from..to).contains(&own_stack) {
            continue;
        }
        for at in (from..to).step_by(STEP) {
            let piece = &mut piece[..(to - at).min(STEP + 15)];
            // Another thread's may be gone by now.
            let Ok(()) = memory.read_exact_at(piece, at as u64) else {
                break;
            };
            searched += piece.len();
            for window in piece.windows(16) {
                if begins_one[usize::from(window[0])] {
                    let inverted = !u128::from_le_bytes(*window.first_chunk().unwrap());
                    let here = wanted.iter().filter(|wanted| wanted.inverted == inverted);
                    hits.extend(here.map(|wanted| wanted.what));
                }
            }
        }
    }
    println!("{searched} bytes searched: {hits:?}");
    hits
}

fn assert_gone(when: &str, disk: &SimDisk) {
    let mut wanted = KEYS.with_borrow(Vec::clone);
    wanted.extend(wrapping(disk));
    assert_eq!(found(&wanted), [""; 0], "{when}");
}

fn unlock(secret: Secret<'static>) -> Unlock<'static> {
    Unlock {
        secret,
        memory_kib_max: KdfCost::MEMORY_KIB_MAX,
        entropy: &entropy,
    }
}

async fn opened(disk: SimDisk, secret: Secret<'static>) -> Result<FileSystem<SimDisk>, MountError> {
    let mut recovery = Recovery::open_with(disk, Some(&unlock(secret))).await?;
    while recovery.next_commit().await?.is_some() {}
    recovery.finish().await
}

fn keys_are_wiped(suite: Suite) {
    let disk = SimDisk::new(72 * SEGMENT_BLOCKS, 1);
    let target = disk.clone();
    Executor::new(1).run(async move {
        let key = Encryption {
            suite,
            secret: Secret::KeyFile(&KEY_FILE),
            cost: COST,
            entropy: &entropy,
        };
        let made = lfs::format_encrypted(&target, FORMAT, ID, &key).await;
        made.unwrap();
        let key = unlock(Secret::KeyFile(&KEY_FILE));
        let other = KeyChange::Add(Secret::Passphrase(PASSPHRASE), COST);
        lfs::change_keys(&target, &key, other).await.unwrap();
    });
    assert_gone("made", &disk);

    let target = disk.clone();
    Executor::new(1).run(async move {
        let wrong = opened(target, Secret::Passphrase(WRONG)).await;
        assert_eq!(wrong.err(), Some(MountError::Key(KeyError::WrongKey)));
    });
    assert_gone("refused", &disk);

    for secret in [Secret::KeyFile(&KEY_FILE), Secret::Passphrase(PASSPHRASE)] {
        let target = disk.clone();
        let filesystem = Executor::new(1).run(async move { opened(target, secret).await });
        let filesystem = filesystem.unwrap();
        let mut while_mounted = found(&KEYS.with_borrow(Vec::clone));
        while_mounted.dedup();
        assert_eq!(while_mounted, ["sub-key"]);
        drop(filesystem);
        assert_gone("unmounted", &disk);
    }
}

#[test]
fn keys_are_wiped_with_xchacha20_poly1305() {
    keys_are_wiped(Suite::XChaCha20Poly1305);
}

#[test]
fn keys_are_wiped_with_aes_256_gcm_siv() {
    RANDOM.set(Random::new(2));
    keys_are_wiped(Suite::Aes256GcmSiv);
}
