//! The key that tests use when they are told to: `SILTSTONE_TEST_KEY=1` runs them on encrypted file systems, `=2` with the
//! second cipher. All that holds of a file system without a key must hold of one with a key.

use std::cell::Cell;

use lfs::{
    BlockDevice, Encryption, FileSystemId, FormatError, FormatOptions, KdfCost, MountError,
    Recovery, Secret, Suite, Unlock,
};

thread_local! {
    static DRAWN: Cell<u64> = const { Cell::new(1) };
}

/// Foretellable, so that a seed gives the same run again; never the same bytes twice in a test.
pub fn entropy(bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(8) {
        let mut word = DRAWN.get();
        DRAWN.set(word + 1);
        for _ in 0..3 {
            word = (word ^ (word >> 29)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
        for (to, from) in chunk.iter_mut().zip(word.to_le_bytes()) {
            *to = from;
        }
    }
}

/// From here on `entropy` gives what it gives from `word` on, on this thread: as two machines would whose entropy is the same.
pub fn entropy_from(word: u64) {
    DRAWN.set(word);
}

/// What opens what [`format`] has made.
pub const KEY_FILE: [u8; 32] = *b"a key file of 32 bytes for tests";

/// With this key file.
pub fn with_key_file(content: &'static [u8]) -> Unlock<'static> {
    Unlock::with_key_file(content, &entropy)
}

/// A new file system's key.
pub fn encryption(suite: Suite) -> Encryption<'static> {
    Encryption {
        suite,
        secret: Secret::KeyFile(&KEY_FILE),
        cost: KdfCost::DEFAULT,
        entropy: &entropy,
    }
}

/// What a test uses.
#[derive(Clone, Copy)]
enum Choice {
    AsTold,
    Plain,
    Keyed(Suite),
}

thread_local! {
    static CHOSEN: Cell<Choice> = const { Cell::new(Choice::AsTold) };
}

/// Whatever tests are told, those on this thread use this from here on.
pub fn choose(suite: Option<Suite>) {
    CHOSEN.set(suite.map_or(Choice::Plain, Choice::Keyed));
}

/// The cipher that tests are told to use.
pub fn suite() -> Option<Suite> {
    match CHOSEN.get() {
        Choice::AsTold => {}
        Choice::Plain => return None,
        Choice::Keyed(suite) => return Some(suite),
    }
    match std::env::var("SILTSTONE_TEST_KEY").as_deref() {
        Ok("1") => Some(Suite::XChaCha20Poly1305),
        Ok("2") => Some(Suite::Aes256GcmSiv),
        Ok(other) => panic!("SILTSTONE_TEST_KEY={other}: 1 or 2"),
        Err(_) => None,
    }
}

/// What opens file systems in this run.
pub fn key() -> Option<Unlock<'static>> {
    suite().map(|_| with_key_file(&KEY_FILE))
}

/// As `lfs::format`, with a key when tests are told so.
pub async fn format<D: BlockDevice>(
    device: &D,
    options: FormatOptions,
    id: FileSystemId,
) -> Result<(), FormatError> {
    match suite() {
        Some(suite) => lfs::format_encrypted(device, options, id, &encryption(suite)).await,
        None => lfs::format(device, options, id).await,
    }
}

/// As `Recovery::open`, with the key when tests are told so.
pub async fn open<D: BlockDevice>(device: D) -> Result<Recovery<D>, MountError> {
    Recovery::open_with(device, key().as_ref()).await
}
