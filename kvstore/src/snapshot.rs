//! Snapshots: timestamps that are pinned, so the versions they see are kept.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use crate::Timestamp;
use crate::engine::types::OutOfMemory;

/// Which timestamps are pinned, and how often.
#[derive(Default)]
pub(crate) struct Pins {
    counts: RefCell<BTreeMap<Timestamp, usize>>,
}

impl Pins {
    /// Whether a snapshot sees what was there from `from` until just before `until`.
    pub(crate) fn any_in(&self, from: Timestamp, until: Timestamp) -> bool {
        from < until && self.counts.borrow().range(from..until).next().is_some()
    }

    /// All of them, in order.
    pub(crate) fn timestamps(&self) -> Result<Vec<Timestamp>, OutOfMemory> {
        let counts = self.counts.borrow();
        let mut timestamps = Vec::new();
        timestamps.try_reserve_exact(counts.len())?;
        timestamps.extend(counts.keys());
        Ok(timestamps)
    }

    /// How many snapshots there are.
    pub(crate) fn count(&self) -> usize {
        self.counts.borrow().values().sum()
    }
}

/// One consistent view of the past. The versions it sees are kept while it lives.
pub struct Snapshot {
    pins: Rc<Pins>,
    timestamp: Timestamp,
}

impl Snapshot {
    pub(crate) fn new(pins: &Rc<Pins>, timestamp: Timestamp) -> Self {
        *pins.counts.borrow_mut().entry(timestamp).or_default() += 1;
        Self {
            pins: Rc::clone(pins),
            timestamp,
        }
    }

    /// The last commit it sees.
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let mut counts = self.pins.counts.borrow_mut();
        if let Some(count) = counts.get_mut(&self.timestamp) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.timestamp);
            }
        }
    }
}
