//! The versions of one key.

use alloc::vec::Vec;

use crate::snapshot::Pins;
use crate::{Entry, Timestamp, Value};

/// Stands for "never" where an expiry is kept as a number.
pub(crate) const NEVER: i64 = i64::MAX;

/// Memory of an older version beyond its value.
pub(crate) const OLDER_VERSION_BYTES: usize = 96;

/// What a key was from `timestamp` on: a value, or nothing (a tombstone).
#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub timestamp: Timestamp,
    pub value: Option<Value>,
    pub expires_at_ms: i64,
}

pub(crate) struct Versions {
    pub newest: Version,
    /// Older versions that snapshots see, oldest first. Nearly always empty.
    pub older: Vec<Version>,
    /// Whether the key is in `garbage`.
    pub queued: bool,
    /// When it was last changed.
    pub changed: Round,
}

/// Counts flushes: tells whether a key was changed since the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Round(pub u32);

impl Version {
    pub(crate) fn new(timestamp: Timestamp, value: Value, expires_at_ms: Option<i64>) -> Self {
        let expires_at_ms = expires_at_ms.unwrap_or(NEVER);
        Self {
            timestamp,
            value: Some(value),
            expires_at_ms,
        }
    }

    pub(crate) fn tombstone(timestamp: Timestamp) -> Self {
        Self {
            timestamp,
            value: None,
            expires_at_ms: NEVER,
        }
    }

    pub(crate) fn expires_at_ms(&self) -> Option<i64> {
        (self.expires_at_ms != NEVER).then_some(self.expires_at_ms)
    }

    /// The value, unless there is none or its time has come.
    pub(crate) fn live_at(&self, now_ms: i64) -> Option<Entry> {
        let value = self
            .value
            .as_ref()
            .filter(|_| self.expires_at_ms > now_ms)?;
        Some(Entry {
            value: value.clone(),
            expires_at_ms: self.expires_at_ms(),
        })
    }

    pub(crate) fn is_live_at(&self, now_ms: i64) -> bool {
        self.value.is_some() && self.expires_at_ms > now_ms
    }

    pub(crate) fn value_bytes(&self) -> usize {
        self.value.as_ref().map_or(0, |value| value.len())
    }
}

impl Versions {
    /// A key's first version.
    pub(crate) fn new(newest: Version, changed: Round) -> Self {
        Self {
            newest,
            older: Vec::new(),
            queued: false,
            changed,
        }
    }

    /// The version a snapshot at `timestamp` sees.
    pub(crate) fn at(&self, timestamp: Timestamp) -> Option<&Version> {
        let newest_first = core::iter::once(&self.newest).chain(self.older.iter().rev());
        newest_first
            .into_iter()
            .find(|version| version.timestamp <= timestamp)
    }

    /// Drops older versions that no snapshot sees; returns the bytes of their values.
    pub(crate) fn prune(&mut self, pins: &Pins) -> usize {
        let mut freed = 0;
        let mut successor = self.newest.timestamp;
        for index in (0..self.older.len()).rev() {
            let Some(version) = self.older.get(index) else {
                continue;
            };
            let from = version.timestamp;
            if !pins.any_in(from, successor) {
                freed += version.value_bytes() + OLDER_VERSION_BYTES;
                self.older.remove(index);
            }
            successor = from;
        }
        freed
    }

    /// Whether it is a tombstone that nobody needs.
    pub(crate) fn is_removable(&self, pins: &Pins) -> bool {
        self.newest.value.is_none()
            && self.older.is_empty()
            && !pins.any_before(self.newest.timestamp)
    }

    pub(crate) fn is_garbage(&self) -> bool {
        !self.older.is_empty() || self.newest.value.is_none()
    }
}
