//! The data: keys and values that can be told apart and checked, what is known of them while many write, and which one is
//! next.
//!
//! Value n of a key follows from the key's index and n, and says both, so that whatever an engine returns can be checked without a
//! second copy of everything. No value can be compressed.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use fastrand::Rng;

/// Bytes of a key.
pub const KEY_BYTES: usize = 16;

pub type Key = [u8; KEY_BYTES];

/// What a value begins with: index and version.
const HEAD_BYTES: usize = 16;

/// How closely what an engine returns is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// Whether it is a value of the key that somebody wrote: cheap, for what is measured.
    Glance,
    /// All its bytes, too.
    Bytes,
    /// And that it is the newest version: nobody else writes the key.
    Exact,
}

/// How keys follow each other when they are taken by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Ascending,
    Random,
}

/// The key space, and what has become of each key.
pub struct Data {
    order: Order,
    value_bytes: usize,
    loaded: u64,
    /// Indexes that were given away so far; those behind `loaded` are inserts.
    given: AtomicU64,
    keys: Vec<KeyState>,
    zipf: Zipf,
}

/// Of a key. A version is a count of its changes; deleting is one.
#[derive(Default)]
struct KeyState {
    /// The last version that somebody has begun to write.
    issued: AtomicU32,
    /// The newest one that was acknowledged, times two, and 1 if it is a value.
    acknowledged: AtomicU32,
}

impl Data {
    /// `loaded` keys to begin with, and room for `inserts` more.
    pub fn new(order: Order, value_bytes: usize, loaded: u64, inserts: u64) -> Self {
        assert!(value_bytes >= HEAD_BYTES, "a value says what it is");
        let keys = (0..loaded + inserts).map(|_| KeyState::default());
        Self {
            order,
            value_bytes,
            loaded,
            given: AtomicU64::new(loaded),
            keys: keys.collect(),
            zipf: Zipf::new(loaded),
        }
    }

    pub fn loaded(&self) -> u64 {
        self.loaded
    }

    /// Keys that may be there by now: all indexes are below.
    pub fn given(&self) -> u64 {
        self.given
            .load(Ordering::Relaxed)
            .min(self.keys.len() as u64)
    }

    /// The index of a new key, while there is room for one.
    pub fn give(&self) -> Option<u64> {
        let index = self.given.fetch_add(1, Ordering::Relaxed);
        (index < self.keys.len() as u64).then_some(index)
    }

    pub fn key(&self, index: u64) -> Key {
        let number = match self.order {
            Order::Ascending => index,
            Order::Random => mix(index),
        };
        let mut key = [0; KEY_BYTES];
        for (at, digit) in key.iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(number >> (60 - 4 * at) & 15) as usize];
        }
        key
    }

    /// Bytes of a key and its value.
    pub fn entry_bytes(&self) -> u64 {
        (KEY_BYTES + self.value_bytes) as u64
    }

    /// Bytes of all keys that are there, and their values. Nobody may be writing.
    pub fn live_bytes(&self) -> u64 {
        let live = (0..self.given()).filter(|&index| self.known(index).live);
        live.count() as u64 * self.entry_bytes()
    }

    /// The next version of a key as a value to write.
    pub fn issue(&self, index: u64, value: &mut Vec<u8>) -> u32 {
        let version = self.issue_delete(index);
        fill(index, version, self.value_bytes, value);
        version
    }

    /// The next version of a key, which deletes it.
    pub fn issue_delete(&self, index: u64) -> u32 {
        self.state(index).issued.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// An engine has promised to keep this.
    pub fn acknowledge(&self, index: u64, version: u32, live: bool) {
        let known = version << 1 | u32::from(live);
        let state = self.state(index);
        state.acknowledged.fetch_max(known, Ordering::Relaxed);
    }

    /// What was promised of a key.
    pub fn known(&self, index: u64) -> Known {
        let state = self.state(index);
        let acknowledged = state.acknowledged.load(Ordering::Relaxed);
        Known {
            version: acknowledged >> 1,
            live: acknowledged & 1 == 1,
            issued: state.issued.load(Ordering::Relaxed),
        }
    }

    /// Checks what an engine found under a key when it was asked while `before` was known.
    pub fn check(&self, index: u64, before: Known, found: Option<&[u8]>, care: Care) {
        let issued = self.known(index).issued;
        let overtaken = issued > before.version;
        let Some(value) = found else {
            let may_be_gone = !before.live || (overtaken && care != Care::Exact);
            assert!(
                may_be_gone,
                "key {index}, version {}, is gone",
                before.version
            );
            return;
        };
        let version = self.check_value(index, value, care);
        if care == Care::Exact {
            assert!(before.live, "key {index} is there, but was deleted");
            assert_eq!(version, before.version, "of key {index}");
        }
        assert!(
            version <= issued,
            "key {index} has a version {version} that nobody wrote"
        );
    }

    /// Checks a pair that a scan found; its index.
    pub fn check_pair(&self, key: &[u8], value: &[u8], care: Care) -> u64 {
        let index = value.first_chunk::<8>().expect("values have a head");
        let index = u64::from_le_bytes(*index);
        assert!(index < self.given(), "a value of no key");
        assert_eq!(key, self.key(index), "a value of another key");
        self.check_value(index, value, care);
        index
    }

    /// Checks that it is a value of this key; its version.
    fn check_value(&self, index: u64, value: &[u8], care: Care) -> u32 {
        assert_eq!(value.len(), self.value_bytes, "of key {index}");
        let word = |at: usize| {
            let bytes = value[at..at + 8].try_into().expect("8 bytes");
            u64::from_le_bytes(bytes)
        };
        assert_eq!(word(0), index, "a value of another key");
        let version = u32::try_from(word(8)).expect("a version");
        if care != Care::Glance {
            let mut expected = Vec::new();
            fill(index, version, self.value_bytes, &mut expected);
            assert!(
                expected == value,
                "key {index}, version {version}, is damaged"
            );
        }
        version
    }

    /// A key as YCSB draws it: few are most wanted, and they are anywhere.
    pub fn zipf(&self, rng: &mut Rng) -> u64 {
        mix(self.zipf.draw(rng)) % self.loaded
    }

    /// A key as YCSB draws it: what was inserted last is wanted most.
    pub fn latest(&self, rng: &mut Rng) -> u64 {
        let newest = self.given() - 1;
        newest.saturating_sub(self.zipf.draw(rng))
    }

    pub fn uniform(&self, rng: &mut Rng) -> u64 {
        rng.u64(..self.loaded)
    }

    fn state(&self, index: u64) -> &KeyState {
        &self.keys[index as usize]
    }
}

/// What is known of a key.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    pub version: u32,
    pub live: bool,
    issued: u32,
}

fn fill(index: u64, version: u32, bytes: usize, value: &mut Vec<u8>) {
    value.clear();
    value.extend(index.to_le_bytes());
    value.extend(u64::from(version).to_le_bytes());
    let mut state = index << 32 ^ u64::from(version);
    while value.len() < bytes {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        value.extend(mix(state).to_le_bytes());
    }
    value.truncate(bytes);
}

/// Another number for each number, all over the place (the finaliser of `SplitMix64`).
fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// Ranks by Zipf's law, exponent 0.99, as YCSB draws them (Gray et al., "Quickly generating billion-record synthetic
/// databases", 1994).
struct Zipf {
    count: f64,
    zeta: f64,
    eta: f64,
}

const THETA: f64 = 0.99;

impl Zipf {
    fn new(count: u64) -> Self {
        let zeta = |count: u64| -> f64 {
            let weights = (1..=count).map(|rank| (rank as f64).powf(-THETA));
            weights.sum()
        };
        let all = zeta(count);
        let eta = (1.0 - (2.0 / count as f64).powf(1.0 - THETA)) / (1.0 - zeta(2) / all);
        Self {
            count: count as f64,
            zeta: all,
            eta,
        }
    }

    fn draw(&self, rng: &mut Rng) -> u64 {
        let random = rng.f64();
        let scaled = random * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(THETA) {
            return 1;
        }
        let rank = (self.eta * random - self.eta + 1.0).powf(1.0 / (1.0 - THETA));
        (rank * self.count) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_follow_the_law() {
        let zipf = Zipf::new(1000);
        let mut rng = Rng::with_seed(1);
        let mut counts = vec![0_u64; 1000];
        for _ in 0..1_000_000 {
            counts[zipf.draw(&mut rng) as usize] += 1;
        }
        // Exact for the first two, by construction; an approximation behind them.
        for (rank, tolerance) in [(0, 0.01), (1, 0.02), (9, 0.15), (99, 0.15)] {
            let expected = 1e6 * ((rank + 1) as f64).powf(-THETA) / zipf.zeta;
            let found = counts[rank] as f64;
            assert!(
                (found / expected - 1.0).abs() < tolerance,
                "{rank}: {found}"
            );
        }
    }

    #[test]
    fn keys_are_in_order_or_all_over_the_place() {
        let ascending = Data::new(Order::Ascending, 100, 1000, 0);
        assert!((1..1000).all(|index| ascending.key(index - 1) < ascending.key(index)));
        let random = Data::new(Order::Random, 100, 1000, 0);
        let up = (1..1000).filter(|&index| random.key(index - 1) < random.key(index));
        assert!((400..600).contains(&up.count()));
    }

    fn refused(check: impl Fn() + std::panic::RefUnwindSafe) -> bool {
        std::panic::catch_unwind(&check).is_err()
    }

    #[test]
    fn what_an_engine_must_not_return_is_noticed() {
        let data = Data::new(Order::Random, 100, 2, 0);
        let mut value = Vec::new();
        let version = data.issue(0, &mut value);
        data.check(0, data.known(0), None, Care::Exact);
        data.acknowledge(0, version, true);
        let data = std::panic::AssertUnwindSafe(data);
        let known = data.known(0);
        data.check(0, known, Some(&value), Care::Exact);
        assert!(refused(|| data.check(0, known, None, Care::Exact)), "lost");
        assert!(
            refused(|| data.check(1, data.known(1), Some(&value), Care::Bytes)),
            "another key's"
        );
        let mut damaged = value.clone();
        damaged[99] ^= 1;
        assert!(
            refused(|| data.check(0, known, Some(&damaged), Care::Exact)),
            "damaged"
        );
        let mut newer = Vec::new();
        fill(0, version + 1, 100, &mut newer);
        assert!(
            refused(|| data.check(0, known, Some(&newer), Care::Bytes)),
            "never written"
        );
        let version = data.issue(0, &mut newer);
        data.acknowledge(0, version, true);
        assert!(
            refused(|| data.check(0, data.known(0), Some(&value), Care::Exact)),
            "old"
        );
        let version = data.issue_delete(0);
        data.check(0, data.known(0), None, Care::Bytes);
        data.acknowledge(0, version, false);
        data.check(0, data.known(0), None, Care::Exact);
        assert!(
            refused(|| data.check(0, data.known(0), Some(&newer), Care::Exact)),
            "deleted"
        );
    }
}
