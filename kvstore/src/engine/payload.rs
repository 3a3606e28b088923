//! What a commit says in the log (`ENGINE.md`, section 10): its range deletes and versions, one behind the other.
//!
//! The commit's number is their timestamp. Large values are extents of the same commit; only where they are is said here. Whatever a log holds, decoding it
//! fails or gives what could have been encoded.

use alloc::vec::Vec;

use super::types::{
    Content, ENGINE_KEY_BYTES_MAX, INLINE_BYTES_MAX, LARGE_REF_BYTES_MAX, Malformed, NEVER,
    OutOfMemory,
};
use super::varint::{put_varint, take_array, take_bytes, take_len, take_varint, unzigzag, zigzag};
use crate::DATABASE_COUNT;

/// What an entry's first byte says beside the kind of its content, in the two lowest bits.
const EXPIRES: u8 = 4;
const BELOW: u8 = 8;
const RANGE_DELETE: u8 = 16;

/// Bytes of an entry beyond its keys and content, at most: flags, two lengths, an expiry.
pub const ENTRY_BYTES_MAX: usize = 1 + 5 + 5 + 10;

/// The database of what the store keeps for itself.
pub const SYSTEM_DATABASE: u8 = u8::MAX;

/// One thing that a commit says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry<'b> {
    /// A key has this from now on.
    Version {
        /// The engine key.
        key: &'b [u8],
        /// Unix milliseconds, or [`NEVER`].
        expires_at_ms: i64,
        /// A value of it was there before.
        below: bool,
        /// What it has.
        content: Content<'b>,
    },
    /// Every key in `start ≤ key < end` has nothing any more.
    RangeDelete {
        /// The first engine key.
        start: &'b [u8],
        /// The first one behind.
        end: &'b [u8],
    },
}

impl<'b> Entry<'b> {
    /// Appends it.
    ///
    /// # Errors
    /// There is no memory for it; nothing was appended.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), OutOfMemory> {
        match self {
            Self::Version {
                key,
                expires_at_ms,
                below,
                content,
            } => {
                let bytes = content.bytes();
                out.try_reserve(ENTRY_BYTES_MAX + key.len() + bytes.len())?;
                let expires = *expires_at_ms != NEVER;
                let flag = |is: bool, flag| if is { flag } else { 0 };
                out.push(content.kind() | flag(expires, EXPIRES) | flag(*below, BELOW));
                put_bytes(out, key);
                if expires {
                    put_varint(out, zigzag(*expires_at_ms));
                }
                if *content != Content::Tombstone {
                    put_bytes(out, bytes);
                }
            }
            Self::RangeDelete { start, end } => {
                out.try_reserve(ENTRY_BYTES_MAX + start.len() + end.len())?;
                out.push(RANGE_DELETE);
                put_bytes(out, start);
                put_bytes(out, end);
            }
        }
        Ok(())
    }

    /// Takes one off the front; `None` at the end.
    ///
    /// # Errors
    /// It is no such thing. Nothing behind it can be taken either.
    pub fn take(bytes: &mut &'b [u8]) -> Result<Option<Self>, Malformed> {
        if bytes.is_empty() {
            return Ok(None);
        }
        Self::decode(bytes).map(Some).ok_or(Malformed)
    }

    fn decode(bytes: &mut &'b [u8]) -> Option<Self> {
        let [flags] = take_array(bytes)?;
        if flags == RANGE_DELETE {
            let start = take_key(bytes)?;
            let len = take_len(bytes).filter(|len| *len <= ENGINE_KEY_BYTES_MAX)?;
            let end = take_bytes(bytes, len).filter(|end| start < *end)?;
            return Some(Self::RangeDelete { start, end });
        }
        let (kind, expires) = (flags & 3, flags & EXPIRES != 0);
        let key = take_key(bytes).filter(|_| flags & !(3 | EXPIRES | BELOW) == 0)?;
        let expires_at_ms = if expires {
            Some(unzigzag(take_varint(bytes)?)).filter(|at| *at != NEVER)?
        } else {
            NEVER
        };
        let len = if kind == Content::Tombstone.kind() {
            0
        } else {
            take_len(bytes)?
        };
        let content = Content::parse(kind, take_bytes(bytes, len)?).ok()?;
        let is_possible = match content {
            Content::Tombstone => !expires,
            Content::Inline(bytes) => bytes.len() <= INLINE_BYTES_MAX,
            Content::Large(_) => len <= LARGE_REF_BYTES_MAX,
        };
        is_possible.then_some(Self::Version {
            key,
            expires_at_ms,
            below: flags & BELOW != 0,
            content,
        })
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// An engine key: of a database that there is.
fn take_key<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
    let len = take_len(bytes).filter(|len| *len <= ENGINE_KEY_BYTES_MAX)?;
    let key = take_bytes(bytes, len)?;
    let db = *key.first()?;
    (usize::from(db) < DATABASE_COUNT || db == SYSTEM_DATABASE).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{Owned, Random, random_key, seed};

    /// What owns an entry: its kind of content, and keys.
    type Made = (Vec<u8>, Vec<u8>, Owned);

    fn random_entry(random: &mut Random) -> Made {
        let db = [0, 7, 15, SYSTEM_DATABASE][random.index(4)];
        let mut key = alloc::vec![db];
        key.extend(random_key(random));
        let mut end = Vec::new();
        if random.one_in(4) {
            end.clone_from(&key);
            end.push(0);
        }
        let mut version = Owned::random(random, 0);
        if version.kind == 0 {
            version.expires_at_ms = NEVER;
        }
        (key, end, version)
    }

    fn entry_of(made: &Made) -> Entry<'_> {
        let (key, end, version) = made;
        if end.is_empty() {
            let version = version.as_ref();
            Entry::Version {
                key,
                expires_at_ms: version.expires_at_ms,
                below: version.below,
                content: version.content,
            }
        } else {
            Entry::RangeDelete { start: key, end }
        }
    }

    fn all_of(mut bytes: &[u8]) -> (Vec<Entry<'_>>, bool) {
        let mut entries = Vec::new();
        loop {
            match Entry::take(&mut bytes) {
                Ok(Some(entry)) => entries.push(entry),
                Ok(None) => return (entries, true),
                Err(Malformed) => return (entries, false),
            }
        }
    }

    #[test]
    fn says_what_was_said_and_anything_else_is_refused_or_could_have_been() {
        let mut random = Random::new(seed(100));
        for _ in 0..300 {
            let made: Vec<_> = (0..random.index(6))
                .map(|_| random_entry(&mut random))
                .collect();
            let (mut bytes, mut ends) = (Vec::new(), alloc::vec![0]);
            for made in &made {
                let before = bytes.len();
                entry_of(made).encode(&mut bytes).unwrap();
                let beyond = bytes.len() - before - made.0.len();
                assert!(beyond <= ENTRY_BYTES_MAX + made.1.len().max(made.2.bytes.len()));
                ends.push(bytes.len());
            }
            let entries: Vec<_> = made.iter().map(entry_of).collect();
            assert_eq!(all_of(&bytes), (entries.clone(), true));
            for cut in 0..bytes.len() {
                let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
                let (found, is_whole) = all_of(&bytes[..cut]);
                assert_eq!(
                    (&found[..], is_whole),
                    (&entries[..whole], ends.contains(&cut))
                );
            }
            for _ in 0..bytes.len().min(200) {
                let mut bent = bytes.clone();
                let at = random.index(bent.len());
                bent[at] ^= 1 << random.index(8);
                let (found, is_whole) = all_of(&bent);
                // What is taken has just this form.
                let mut again = Vec::new();
                for entry in &found {
                    entry.encode(&mut again).unwrap();
                }
                assert!(bent.starts_with(&again) && (!is_whole || again == bent));
            }
        }
    }

    #[test]
    fn what_no_commit_says_is_refused() {
        let value = [1, 2, 0, b'k', 1, b'v'];
        assert!(all_of(&value).1);
        for (what, bytes) in [
            ("an unknown flag", &[33, 2, 0, b'k', 1, b'v'][..]),
            ("a kind that is none", &[3, 2, 0, b'k', 0]),
            ("a key without a database", &[1, 0, 1, b'v']),
            ("a database that is none", &[1, 2, 16, b'k', 1, b'v']),
            ("a tombstone that expires", &[4, 2, 0, b'k', 2]),
            (
                "an expiry that is never",
                &[5, 1, 0, 254, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0],
            ),
            ("an empty range", &[16, 2, 0, b'k', 2, 0, b'k']),
            ("a range that goes back", &[16, 2, 0, b'k', 2, 0, b'a']),
            (
                "a large value without a piece",
                &[2, 2, 0, b'k', 3, 0, 0, 0],
            ),
        ] {
            assert!(!all_of(bytes).1, "{what}");
        }
        let mut long = Vec::new();
        let entry = Entry::Version {
            key: &[0],
            expires_at_ms: NEVER,
            below: false,
            content: Content::Inline(&[0; INLINE_BYTES_MAX + 1]),
        };
        entry.encode(&mut long).unwrap();
        assert!(!all_of(&long).1, "a value that is not inline");
    }
}
