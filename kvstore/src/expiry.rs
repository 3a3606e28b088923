//! The keys that expire soonest.
//!
//! Commits note what they make expire; a walk over tables notes what it finds. There is room for 65,536 keys and 8 MiB: beyond, the latest are
//! left out, and [`ExpiryQueue::known_until`] says up to when nothing is missing. A key that is left out is invisible once its time has come, as
//! every expired one is; it is a walk's business to find it again, or a merge's to drop it.

use alloc::collections::BTreeSet;

use crate::Key;

/// Keys that are kept.
const KEYS_MAX: usize = 65_536;

/// Memory they may take.
const BYTES_MAX: usize = 8 << 20;

/// Memory of a key beyond its bytes: its share of the set, and its counts.
const KEY_BYTES: usize = 56;

/// Keys by the time at which they expire. A key that got another expiry is there under each that was not forgotten.
pub struct ExpiryQueue {
    keys: BTreeSet<(i64, Key)>,
    bytes: usize,
    /// Nothing that expires up to here is missing, but for what `left_out` says.
    complete_until_ms: i64,
    /// The earliest expiry that was left out for want of room since the last walk began.
    left_out_ms: i64,
}

impl ExpiryQueue {
    /// An empty queue, that knows everything up to `known_until`: nothing expires by then.
    pub fn new(known_until: i64) -> Self {
        Self {
            keys: BTreeSet::new(),
            bytes: 0,
            complete_until_ms: known_until,
            left_out_ms: i64::MAX,
        }
    }

    /// `key` (an engine key) expires at `at_ms`.
    pub fn note(&mut self, at_ms: i64, key: &[u8]) {
        if self.keys.insert((at_ms, Key::from(key))) {
            self.bytes += KEY_BYTES + key.len();
        }
        while self.keys.len() > KEYS_MAX || self.bytes > BYTES_MAX {
            let Some((at_ms, key)) = self.keys.pop_last() else {
                break;
            };
            self.bytes -= KEY_BYTES + key.len();
            self.left_out_ms = self.left_out_ms.min(at_ms);
        }
    }

    /// `key` no longer expires at `at_ms`.
    pub fn forget(&mut self, at_ms: i64, key: &[u8]) {
        if self.keys.remove(&(at_ms, Key::from(key))) {
            self.bytes -= KEY_BYTES + key.len();
        }
    }

    /// `key`, which expired at `at_ms`, is not due again before `until_ms`.
    pub fn postpone(&mut self, at_ms: i64, key: &[u8], until_ms: i64) {
        self.forget(at_ms, key);
        self.note(until_ms, key);
    }

    /// Keys that have expired at `now_ms`, and when, the earliest first. They stay until they are forgotten.
    pub fn due(&self, now_ms: i64) -> impl Iterator<Item = (i64, &[u8])> {
        let due = self.keys.iter().take_while(move |(at, _)| *at <= now_ms);
        due.map(|(at, key)| (*at, &**key))
    }

    /// When the earliest that is known expires.
    pub fn next(&self) -> Option<i64> {
        self.keys.first().map(|(at, _)| *at)
    }

    /// No key that expires at or before this is missing. Beyond, some are known and others are not.
    pub fn known_until(&self) -> i64 {
        self.complete_until_ms
            .min(self.left_out_ms.saturating_sub(1))
    }

    /// A walk over everything that is stored begins: it notes what it finds, commits go on to note what is new.
    pub fn begin_walk(&mut self) {
        self.complete_until_ms = self.known_until();
        self.left_out_ms = i64::MAX;
    }

    /// The walk has noted everything that expires up to `until_ms`.
    pub fn end_walk(&mut self, until_ms: i64) {
        self.complete_until_ms = self.complete_until_ms.max(until_ms);
    }

    /// Memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::testing::{random, short_key};

    fn due(queue: &ExpiryQueue, now_ms: i64) -> Vec<Vec<u8>> {
        queue.due(now_ms).map(|(_, key)| key.to_vec()).collect()
    }

    /// Against a plain set of all that expires: what is due up to `known_until` is all there, whatever was left out.
    #[test]
    fn what_is_known_is_complete() {
        let mut random = random(2);
        let mut queue = ExpiryQueue::new(i64::MAX);
        let mut model = BTreeSet::new();
        let mut walks = 0;
        for step in 0..400_000 {
            let at = 1000 + i64::try_from(random.below(1 << 20)).unwrap();
            let key = short_key(&mut random, 5);
            if random.one_in(4) {
                let Some((at, key)) = model.range((at, key)..).next().cloned() else {
                    continue;
                };
                queue.forget(at, &key);
                model.remove(&(at, key));
            } else {
                queue.note(at, &key);
                model.insert((at, key));
            }
            if step % 20_000 == 0 {
                let until = queue.known_until();
                let known = model.iter().take_while(|(at, _)| *at <= until);
                assert_eq!(
                    due(&queue, until),
                    known.map(|(_, key)| key.clone()).collect::<Vec<_>>()
                );
                assert!(queue.keys.len() <= KEYS_MAX && queue.memory_bytes() <= BYTES_MAX);
                assert!(
                    queue
                        .keys
                        .iter()
                        .all(|(at, key)| model.contains(&(*at, key.to_vec())))
                );
                if until < 1 << 18 {
                    walks += 1;
                    queue.begin_walk();
                    for (at, key) in model.iter().filter(|(at, _)| *at < 1 << 19) {
                        queue.note(*at, key);
                    }
                    queue.end_walk((1 << 19) - 1);
                    assert!(queue.known_until() >= until);
                }
                // Time goes on: what is due goes.
                let now = i64::from(step);
                for key in due(&queue, now) {
                    let at = queue.next().unwrap();
                    queue.forget(at, &key);
                    assert!(model.remove(&(at, key)));
                }
            }
        }
        assert!(model.len() > KEYS_MAX, "the bound was met");
        std::println!("{walks} walks, known until {}", queue.known_until());
    }

    #[test]
    fn long_keys_are_bounded_by_bytes() {
        let mut queue = ExpiryQueue::new(i64::MAX);
        let long = alloc::vec![1; 60_000];
        for at in 0..1000 {
            queue.note(1000 - at, &long);
        }
        assert!(queue.memory_bytes() <= BYTES_MAX);
        assert_eq!(queue.next(), Some(1));
        // 139 of them have room.
        assert_eq!(queue.known_until(), 139);
        assert_eq!(due(&queue, 139).len(), 139);
    }

    #[test]
    fn nothing_is_known_before_a_walk() {
        let mut queue = ExpiryQueue::new(i64::MIN);
        queue.note(5, b"a");
        assert_eq!(queue.known_until(), i64::MIN);
        assert_eq!(due(&queue, 5), [b"a"], "but what is there is due");
        queue.begin_walk();
        queue.end_walk(100);
        assert_eq!(queue.known_until(), 100);
    }

    extern crate std;
}
