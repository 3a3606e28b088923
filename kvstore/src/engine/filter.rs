//! Filters: binary fuse filters of 8 bits (Graf and Lemire, "Binary fuse filters", 2022).
//!
//! A filter is `kind u8 ‖ seed u64 ‖ log2 of the segment length u8 ‖ segments u32 ‖ fingerprints`. A key has one place in
//! each of three segments in a row; the fingerprints there, xored, are the key's if it is in the set, and of other keys
//! one in 256 times.
//!
//! Bytes are hostile: what is no filter says that anything may be in it, and a read finds out.

use alloc::vec::Vec;

use siphasher::sip::SipHasher13;

use super::types::OutOfMemory;
use super::varint::take_array;

/// Says that anything may be in it.
const ALWAYS: u8 = 0;
const FUSE_8: u8 = 1;

const HEADER_BYTES: usize = 1 + 8 + 1 + 4;

/// Seeds that are tried before a filter is given up.
const SEEDS_MAX: u64 = 64;

/// Seeds that are tried before there is one segment more.
const SEEDS_PER_SIZE: u64 = 4;

/// A key's hash, for tables whose filters have this seed. It is on disk: the function never changes.
pub fn key_hash(seed: u64, key: &[u8]) -> u64 {
    SipHasher13::new_with_keys(seed, 0).hash(key)
}

/// Appends a filter of the keys with these hashes to `out`; the hashes get sorted, and each is left once. A set for
/// which none is found is written as one that anything may be in.
///
/// # Errors
/// There is no memory for it. Then `out` is as it was.
pub fn build_filter(hashes: &mut Vec<u64>, out: &mut Vec<u8>) -> Result<(), OutOfMemory> {
    hashes.sort_unstable();
    hashes.dedup();
    let mut peeling = Peeling::default();
    for seed in 0..SEEDS_MAX {
        let Some(shape) = Shape::of(hashes.len(), seed / SEEDS_PER_SIZE) else {
            break;
        };
        if !peeling.peel(&shape, seed, hashes)? {
            continue;
        }
        out.try_reserve(HEADER_BYTES + shape.len())?;
        out.push(FUSE_8);
        out.extend_from_slice(&seed.to_le_bytes());
        out.push(shape.segment_log);
        out.extend_from_slice(&shape.segments.to_le_bytes());
        let fingerprints_at = out.len();
        out.resize(fingerprints_at + shape.len(), 0);
        if let Some(fingerprints) = out.get_mut(fingerprints_at..) {
            peeling.assign(&shape, fingerprints);
        }
        return Ok(());
    }
    out.try_reserve(1)?;
    out.push(ALWAYS);
    Ok(())
}

/// Whether a key with this hash may be in the set: always if it is, and if these bytes are no filter.
pub fn filter_may_contain(filter: &[u8], hash: u64) -> bool {
    check(filter, hash).unwrap_or(true)
}

fn check(filter: &[u8], hash: u64) -> Option<bool> {
    let mut fingerprints = filter;
    let [kind] = take_array(&mut fingerprints)?;
    let seed = u64::from_le_bytes(take_array(&mut fingerprints)?);
    let [segment_log] = take_array(&mut fingerprints)?;
    let segments = u32::from_le_bytes(take_array(&mut fingerprints)?);
    let shape = Shape {
        segment_log,
        segments,
    };
    if kind != FUSE_8 || segment_log > 31 || segments == 0 || shape.len() != fingerprints.len() {
        return None;
    }
    let mixed = mix(hash, seed);
    let mut found = fingerprint(mixed);
    for place in shape.places(mixed) {
        found ^= fingerprints.get(place)?;
    }
    Some(found == 0)
}

/// Segments of a power of two of fingerprints. Keys begin in any but the last two.
struct Shape {
    segment_log: u8,
    segments: u32,
}

impl Shape {
    /// For so many keys: a quarter more fingerprints than keys, and `more` segments more. Measured: of 2,000 keys 6 in
    /// 10 seeds find a filter with a quarter more; with longer segments fewer keys do.
    fn of(keys: usize, more: u64) -> Option<Self> {
        let log = keys.max(1).ilog2() / 2 + 2;
        let segments = (keys + keys / 4).div_ceil(1 << log).max(3) - 2;
        Some(Self {
            segment_log: u8::try_from(log).ok()?,
            segments: u32::try_from(segments as u64 + more).ok()?,
        })
    }

    /// Fingerprints there are.
    fn len(&self) -> usize {
        let len = (u64::from(self.segments) + 2) << self.segment_log;
        usize::try_from(len).unwrap_or(usize::MAX)
    }

    /// The places of a key: in three segments, so they are different ones.
    fn places(&self, mixed: u64) -> [usize; 3] {
        let segment = 1_u64 << self.segment_log;
        let starts = u128::from(u64::from(self.segments) << self.segment_log);
        // As evenly spread over all as the upper bits are.
        let first = u64::try_from((u128::from(mixed) * starts) >> 64).unwrap_or(0);
        let second = (first + segment) ^ ((mixed >> 18) & (segment - 1));
        let third = (first + 2 * segment) ^ (mixed & (segment - 1));
        [first, second, third].map(|place| usize::try_from(place).unwrap_or(usize::MAX))
    }
}

/// Both spread over all bits (the finalizer of `MurmurHash3`).
fn mix(hash: u64, seed: u64) -> u64 {
    let mut mixed = hash.wrapping_add(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    mixed ^ (mixed >> 33)
}

fn fingerprint(mixed: u64) -> u8 {
    let [byte, ..] = (mixed ^ (mixed >> 32)).to_le_bytes();
    byte
}

/// Finds an order in which each key has a place that no later key has.
#[derive(Default)]
struct Peeling {
    /// How many of the keys that are left have this place, and all of them xored.
    counts: Vec<u32>,
    xored: Vec<u64>,
    alone: Vec<usize>,
    /// Keys (mixed) and their places, first peeled first.
    order: Vec<(u64, usize)>,
}

impl Peeling {
    /// Whether there is one.
    fn peel(&mut self, shape: &Shape, seed: u64, hashes: &[u64]) -> Result<bool, OutOfMemory> {
        let len = shape.len();
        self.counts.clear();
        self.counts.try_reserve(len)?;
        self.counts.resize(len, 0);
        self.xored.clear();
        self.xored.try_reserve(len)?;
        self.xored.resize(len, 0);
        self.order.clear();
        self.order.try_reserve(hashes.len())?;
        self.alone.clear();
        // Counts only go down, so a place is alone at most once.
        self.alone.try_reserve(len)?;
        for hash in hashes {
            let mixed = mix(*hash, seed);
            self.count(shape, mixed, |count| *count += 1);
        }
        let counts = self.counts.iter().enumerate();
        self.alone.extend(
            counts
                .filter(|(_, count)| **count == 1)
                .map(|(place, _)| place),
        );
        while let Some(place) = self.alone.pop() {
            // Another place of its last key may have been first.
            if self.counts.get(place) != Some(&1) {
                continue;
            }
            let mixed = self.xored.get(place).copied().unwrap_or(0);
            self.order.push((mixed, place));
            self.count(shape, mixed, |count| *count -= 1);
            for place in shape.places(mixed) {
                if self.counts.get(place) == Some(&1) {
                    self.alone.push(place);
                }
            }
        }
        Ok(self.order.len() == hashes.len())
    }

    fn count(&mut self, shape: &Shape, mixed: u64, change: impl Fn(&mut u32)) {
        for place in shape.places(mixed) {
            if let (Some(count), Some(xored)) =
                (self.counts.get_mut(place), self.xored.get_mut(place))
            {
                change(count);
                *xored ^= mixed;
            }
        }
    }

    /// Sets the fingerprints, last peeled first: so each key's own place is set when the others are final.
    fn assign(&self, shape: &Shape, fingerprints: &mut [u8]) {
        for &(mixed, own) in self.order.iter().rev() {
            let mut value = fingerprint(mixed);
            for place in shape.places(mixed) {
                if place != own {
                    value ^= fingerprints.get(place).copied().unwrap_or(0);
                }
            }
            if let Some(place) = fingerprints.get_mut(own) {
                *place = value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::println;

    use xorf::{BinaryFuse8, Filter};

    use super::*;
    use crate::engine::testing::{Random, seed};

    fn built(hashes: &[u64]) -> Vec<u8> {
        let mut filter = alloc::vec![7];
        build_filter(&mut hashes.to_vec(), &mut filter).unwrap();
        filter.split_off(1)
    }

    fn random_hashes(random: &mut Random, count: usize) -> Vec<u64> {
        (0..count).map(|_| random.next_u64()).collect()
    }

    #[test]
    fn all_that_is_in_it_may_be_in_it() {
        let mut random = Random::new(seed(30));
        let mut always = 0;
        for count in (0..300).chain([500, 1000, 2000, 5000, 45_000]) {
            let mut hashes = random_hashes(&mut random, count);
            // Some come twice, some are neighbours.
            hashes.extend_from_within(..count / 3);
            let neighbours = hashes
                .iter()
                .take(count / 4)
                .map(|hash| hash.wrapping_add(1));
            let neighbours = neighbours.collect::<Vec<_>>();
            hashes.extend(neighbours);
            let filter = built(&hashes);
            assert!(hashes.iter().all(|hash| filter_may_contain(&filter, *hash)));
            always += usize::from(filter[0] == ALWAYS);
            for cut in 0..filter.len().min(40) {
                let cut = &filter[..cut];
                assert!(hashes.iter().all(|hash| filter_may_contain(cut, *hash)));
            }
        }
        assert_eq!(always, 0, "every set has a filter");
    }

    #[test]
    fn little_else_may_be_and_it_is_as_small_as_others_are() {
        let mut random = Random::new(seed(31));
        for count in [100, 700, 2000, 10_000, 100_000] {
            let hashes = random_hashes(&mut random, count);
            let filter = built(&hashes);
            let other = BinaryFuse8::try_from(&hashes[..]).unwrap();
            let (mut false_ones, mut false_others) = (0_u32, 0_u32);
            for _ in 0..100_000 {
                let probe = random.next_u64();
                false_ones += u32::from(filter_may_contain(&filter, probe));
                false_others += u32::from(other.contains(&probe));
            }
            println!(
                "{count} keys: {} bytes, {false_ones} false positives in 10⁵; others: {} bytes, {false_others}",
                filter.len(),
                other.len()
            );
            assert!(false_ones < 600);
            assert!(hashes.iter().all(|hash| other.contains(hash)));
            assert!(filter.len() <= other.len() + other.len() / 10);
        }
    }

    #[test]
    fn any_bytes_answer_and_none_panic() {
        let mut random = Random::new(seed(32));
        let hashes = random_hashes(&mut random, 60);
        let good = built(&hashes);
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bent = good.clone();
                bent[at] ^= 1 << bit;
                for hash in &hashes[..5] {
                    filter_may_contain(&bent, *hash);
                }
            }
        }
        for _ in 0..100_000 {
            let len = random.index(64);
            let mut bytes = alloc::vec![FUSE_8];
            bytes.resize_with(len + 1, || random.next_u64().to_le_bytes()[0] & 3);
            filter_may_contain(&bytes, random.next_u64());
        }
        assert!(filter_may_contain(&[], 1) && filter_may_contain(&[ALWAYS], 1));
    }

    #[test]
    fn what_is_on_disks_stays() {
        assert_eq!(key_hash(7, b"\x00key"), 7_953_901_572_331_297_309);
        let hashes = [1, 2, 3, 4].map(|key: u64| key_hash(1, &key.to_le_bytes()));
        let mut expected = alloc::vec![0; HEADER_BYTES + 24];
        expected[0] = FUSE_8;
        (expected[9], expected[10]) = (3, 1);
        for (at, fingerprint) in [(2, 250), (10, 240), (19, 43), (21, 195)] {
            expected[HEADER_BYTES + at] = fingerprint;
        }
        assert_eq!(built(&hashes), expected);
    }
}
