//! What the tests of the parts share: seeds, small random keys that collide, and versions that own what they hold.

extern crate std;

use alloc::vec::Vec;
use core::cmp::Reverse;
use std::collections::BTreeMap;
use std::println;

pub(crate) use lfs::sim::Random;

use super::types::{Content, Cursor, LargeRef, Missing, NEVER, Piece, VersionRef};
use crate::Timestamp;

/// The seed, printed so that a failure can be replayed with `SILTSTONE_SEED`.
pub(crate) fn seed(default: u64) -> u64 {
    let seed = lfs::sim::seed_from(std::env::var("SILTSTONE_SEED").ok().as_deref(), default);
    println!("SILTSTONE_SEED={seed}");
    seed
}

/// A short key over a tiny alphabet, or now and then a long one.
pub(crate) fn random_key(random: &mut Random) -> Vec<u8> {
    let long = if random.one_in(40) { 300 } else { 0 };
    let mut key = alloc::vec![b'a'; long];
    for _ in 0..=random.index(4) {
        key.push([0, b'a', b'b', 0xFF][random.index(4)]);
    }
    key
}

/// A version that owns what it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Owned {
    pub timestamp: Timestamp,
    pub expires_at_ms: i64,
    pub below: bool,
    pub kind: u8,
    pub bytes: Vec<u8>,
}

impl Owned {
    pub(crate) fn of(version: &VersionRef<'_>) -> Self {
        Self {
            timestamp: version.timestamp,
            expires_at_ms: version.expires_at_ms,
            below: version.below,
            kind: version.content.kind(),
            bytes: version.content.bytes().to_vec(),
        }
    }

    pub(crate) fn as_ref(&self) -> VersionRef<'_> {
        VersionRef {
            timestamp: self.timestamp,
            expires_at_ms: self.expires_at_ms,
            below: self.below,
            content: Content::parse(self.kind, &self.bytes).unwrap(),
        }
    }

    /// Any version of this commit.
    pub(crate) fn random(random: &mut Random, timestamp: u64) -> Self {
        let kind = u8::try_from(random.below(3)).unwrap();
        let mut bytes = Vec::new();
        match kind {
            1 => {
                let max = if random.one_in(30) { 4096 } else { 20 };
                let len = random.index(max);
                bytes.resize(len, random.next_u64().to_le_bytes()[0]);
            }
            2 => {
                let piece = Piece {
                    slot: random.below(1 << 40),
                    bytes: 1 + u32::try_from(random.below(1 << 20)).unwrap(),
                };
                LargeRef::encode(&[piece], u8::from(random.one_in(2)), &mut bytes);
            }
            _ => {}
        }
        let expires = kind > 0 && random.one_in(3);
        Self {
            timestamp: Timestamp(timestamp),
            expires_at_ms: if expires {
                random.next_u64().cast_signed().min(NEVER - 1)
            } else {
                NEVER
            },
            below: random.one_in(2),
            kind,
            bytes,
        }
    }
}

/// All versions, in their order.
pub(crate) type Model = BTreeMap<(Vec<u8>, Reverse<Timestamp>), Owned>;

/// What `read` gives a cursor over `model` at every turn of a random walk is what the model has there.
pub(crate) fn walks_as_the_model(
    random: &mut Random,
    model: &Model,
    cursor: &mut dyn Cursor,
    steps: usize,
    newest: u64,
) {
    let retried = |cursor: &mut dyn Cursor,
                   call: &dyn Fn(&mut dyn Cursor) -> Result<(), Missing>| {
        let mut left = 1000;
        while call(cursor).is_err() {
            left -= 1;
            assert!(left > 0, "a call never finds what it needs");
        }
    };
    // Where the model stands.
    let mut stands: Option<(Vec<u8>, Reverse<Timestamp>)> = None;
    let first_of = |key: &[u8]| {
        let newest = (key.to_vec(), Reverse(Timestamp(u64::MAX)));
        model.range(newest..).next().map(|(at, _)| at.clone())
    };
    let back_from = |key: Option<&[u8]>| {
        let last = match key {
            Some(key) => {
                let end = (key.to_vec(), Reverse(Timestamp(u64::MAX)));
                model.range(..end).next_back()
            }
            None => model.iter().next_back(),
        };
        last.and_then(|((key, _), _)| first_of(key))
    };
    for _ in 0..steps {
        match random.below(8) {
            0 => {
                let (key, at) = (random_key(random), Timestamp(random.below(newest + 2)));
                retried(cursor, &|cursor| cursor.seek(&key, at));
                let found = model.range((key, Reverse(at))..).next();
                stands = found.map(|(at, _)| at.clone());
            }
            1 => {
                let key = (!random.one_in(4)).then(|| random_key(random));
                retried(cursor, &|cursor| cursor.seek_back(key.as_deref()));
                stands = back_from(key.as_deref());
            }
            2 | 3 => {
                retried(cursor, &|cursor| cursor.previous_key());
                stands = back_from(stands.as_ref().map(|(key, _)| &key[..]));
            }
            _ => {
                retried(cursor, &|cursor| cursor.next());
                stands = stands.and_then(|at| {
                    let behind = (core::ops::Bound::Excluded(at), core::ops::Bound::Unbounded);
                    model.range(behind).next().map(|(at, _)| at.clone())
                });
            }
        }
        let found = cursor.current();
        let found = found.map(|(key, version)| (key.to_vec(), Owned::of(&version)));
        let expected = stands.clone().map(|at| (at.0.clone(), model[&at].clone()));
        assert_eq!(found, expected);
    }
}
