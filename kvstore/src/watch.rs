//! WATCH: who wants to know that a key was written.
//!
//! A watching client has one [`WatchFlag`]; [`Watches`] maps keys to the flags of those who watch them, and a commit sets the flags of what it writes. A registration
//! serves once: a key that was written is watched by nobody any more, so each costs a commit at most once.
//! At most 65,536 registrations and 4 MiB.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::ops::Bound;

use crate::engine::types::{OutOfMemory, engine_key};
use crate::{DatabaseIndex, Key};

/// Registrations there can be at once.
const REGISTRATIONS_MAX: usize = 65_536;

/// Memory they may take.
const BYTES_MAX: usize = 4 << 20;

/// Memory of a registration beyond its key: its share of the map, a flag in a list, the key in the flag's set.
const REGISTRATION_BYTES: usize = 56;

/// Whether something that a client watches was written. Clones are the same flag.
#[derive(Clone, Default)]
pub struct WatchFlag(Rc<Flag>);

#[derive(Default)]
struct Flag {
    written: Cell<bool>,
    /// What it was registered for; some of it may have been written.
    keys: RefCell<BTreeSet<Key>>,
}

impl WatchFlag {
    /// Whether something was written since the first registration.
    pub fn is_set(&self) -> bool {
        self.0.written.get()
    }
}

/// Keys (engine keys) that are watched.
pub struct Watches {
    keys: BTreeMap<Key, Vec<WatchFlag>>,
    registrations: usize,
    bytes: usize,
    bytes_max: usize,
}

impl Default for Watches {
    fn default() -> Self {
        Self {
            keys: BTreeMap::new(),
            registrations: 0,
            bytes: 0,
            bytes_max: BYTES_MAX,
        }
    }
}

impl Watches {
    /// `flag` is to be set when `key` is written. Nothing to do when it is set or watches `key` already.
    ///
    /// Whoever registers a flag must [`remove`](Self::remove) it in the end.
    ///
    /// # Errors
    /// When there are too many registrations; nothing has changed then.
    pub fn add(&mut self, key: &[u8], flag: &WatchFlag) -> Result<(), OutOfMemory> {
        let bytes = REGISTRATION_BYTES + key.len();
        let mut known = flag.0.keys.borrow_mut();
        if flag.is_set() || known.contains(key) {
            return Ok(());
        }
        if self.registrations >= REGISTRATIONS_MAX || self.bytes + bytes > self.bytes_max {
            return Err(OutOfMemory);
        }
        let shared = self.keys.get_key_value(key).map(|(key, _)| Key::clone(key));
        let key = shared.unwrap_or_else(|| Key::from(key));
        let flags = self.keys.entry(Key::clone(&key)).or_default();
        flags.push(flag.clone());
        known.insert(key);
        self.registrations += 1;
        self.bytes += bytes;
        Ok(())
    }

    /// A commit writes `key`.
    pub fn written(&mut self, key: &[u8]) {
        if let Some((key, flags)) = self.keys.remove_entry(key) {
            self.set(&key, &flags);
        }
    }

    /// A commit deletes every key from `start` to `end`, not included.
    pub fn cleared(&mut self, start: &[u8], end: &[u8]) {
        while let Some(key) = self.first_in(start, end) {
            self.written(&key);
        }
    }

    fn first_in(&self, start: &[u8], end: &[u8]) -> Option<Key> {
        let behind = (Bound::Included(start), Bound::Unbounded);
        let (key, _) = self.keys.range::<[u8], _>(behind).next()?;
        (**key < *end).then(|| Key::clone(key))
    }

    fn set(&mut self, key: &[u8], flags: &[WatchFlag]) {
        self.registrations -= flags.len();
        self.bytes -= flags.len() * (REGISTRATION_BYTES + key.len());
        for flag in flags {
            flag.0.written.set(true);
        }
    }

    /// `flag` watches nothing any more, and is as new.
    pub fn remove(&mut self, flag: &WatchFlag) {
        for key in flag.0.keys.take() {
            let Some(flags) = self.keys.get_mut(&key) else {
                continue;
            };
            // Not there when the key was written, and is watched by somebody else since.
            if let Some(at) = flags.iter().position(|other| Rc::ptr_eq(&other.0, &flag.0)) {
                flags.swap_remove(at);
                self.registrations -= 1;
                self.bytes -= REGISTRATION_BYTES + key.len();
            }
            if flags.is_empty() {
                self.keys.remove(&key);
            }
        }
        flag.0.written.set(false);
    }

    /// Whether nothing is watched.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Sets what registrations may take, 4 MiB at most.
    pub fn set_bytes_max(&mut self, bytes: usize) {
        self.bytes_max = bytes.min(BYTES_MAX);
    }

    /// Memory that registrations take.
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }
}

/// What a client watches, until this is dropped.
pub struct Watch {
    watches: Rc<RefCell<Watches>>,
    flag: WatchFlag,
}

impl Watch {
    pub(crate) fn new(watches: &Rc<RefCell<Watches>>) -> Self {
        Self {
            watches: Rc::clone(watches),
            flag: WatchFlag::default(),
        }
    }

    /// Watches `key` of `db` as well.
    ///
    /// # Errors
    /// All clients together watch too much; nothing has changed then.
    pub fn add(&self, db: DatabaseIndex, key: &[u8]) -> Result<(), OutOfMemory> {
        let mut watches = self.watches.borrow_mut();
        watches.add(&engine_key(db, key), &self.flag)
    }

    /// Whether something of it was written since.
    pub fn is_set(&self) -> bool {
        self.flag.is_set()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watches.borrow_mut().remove(&self.flag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{random, short_key};

    /// Against a set of keys for each flag.
    #[test]
    fn flags_are_set_by_what_they_watch() {
        let mut random = random(3);
        let mut watches = Watches::default();
        let flags: Vec<WatchFlag> = (0..12).map(|_| WatchFlag::default()).collect();
        let mut model = alloc::vec![(BTreeSet::<Vec<u8>>::new(), false); flags.len()];
        for _ in 0..60_000 {
            let at = random.index(flags.len());
            let key = short_key(&mut random, 3);
            match random.below(8) {
                0..=4 => {
                    watches.add(&key, &flags[at]).unwrap();
                    model[at].0.insert(key);
                }
                5 => {
                    watches.written(&key);
                    for (keys, set) in &mut model {
                        *set |= keys.contains(&key);
                    }
                }
                6 => {
                    watches.remove(&flags[at]);
                    model[at] = (BTreeSet::new(), false);
                }
                _ => {
                    let end = short_key(&mut random, 3);
                    watches.cleared(&key, &end);
                    for (keys, set) in &mut model {
                        *set |= keys.iter().any(|watched| *watched >= key && *watched < end);
                    }
                }
            }
            for (flag, (_, set)) in flags.iter().zip(&model) {
                assert_eq!(flag.is_set(), *set);
            }
            if model.iter().all(|(keys, _)| keys.is_empty()) {
                assert!(watches.is_empty());
            }
        }
        for flag in &flags {
            watches.remove(flag);
        }
        assert!(watches.is_empty());
        assert_eq!((watches.registrations, watches.memory_bytes()), (0, 0));
    }

    #[test]
    fn too_many_are_refused_and_room_comes_back() {
        let (mut watches, flag, late) = (
            Watches::default(),
            WatchFlag::default(),
            WatchFlag::default(),
        );
        let mut added = 0_u32;
        while watches
            .add(&added.to_be_bytes(), &WatchFlag::default())
            .is_ok()
        {
            added += 1;
        }
        assert_eq!(added as usize, REGISTRATIONS_MAX);
        assert_eq!(watches.add(b"late", &late), Err(OutOfMemory));
        watches.written(&[0; 4]);
        assert_eq!(watches.add(b"late", &late), Ok(()));
        watches.cleared(&[0], &[1]);
        watches.written(b"late");
        assert!(late.is_set() && watches.is_empty());

        assert_eq!(watches.memory_bytes(), 0);
        let long = alloc::vec![0; 60_000];
        let mut added = 0;
        for last in 0..=255_u8 {
            let mut long = long.clone();
            long.push(last);
            added += usize::from(watches.add(&long, &flag).is_ok());
        }
        assert!(added * long.len() <= BYTES_MAX && (added + 1) * 60_100 > BYTES_MAX);
    }
}
