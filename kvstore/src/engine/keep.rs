//! Which versions are needed, what a key's share of the count is, and whose pieces of large values are given up.
//!
//! Flushes and compactions give a [`Keeper`] the versions of a key one by one, newest first, and it gives back those
//! that are written, each when it has its final form: a version waits for the next older one that is kept, because what
//! is dropped in between may leave it its pieces. So it holds two versions, however many a key has.
//!
//! **Needed** is a version that nothing followed; or what followed it, a version or a range delete, is newer than the
//! floor; or a pin sees it. A value whose time has come is a tombstone. At the bottom, where nothing older is, the oldest
//! version is no tombstone.
//!
//! **Count.** A key's share in a source is whether its newest version there is a value, less whether a value was below
//! its oldest one; `below` says so of values expired or not, as long as nothing removed them. Sources that come together
//! have one share, and the difference is what the count was wrong by. Versions under a range delete have none: they were
//! counted off when it was written.
//!
//! **Pieces.** A version owns the pieces of a large value that it does not inherit. Dropped, it gives up those that it
//! owns, but for those that the next newer version in the merge names: these pass to it. It is never asked who else
//! names them. (Of `v1 [p]`, `v2 [p, q]`, `v3 "x"` a merge of `v2` and `v3` gives up `q` alone: a pin may see `v1`.) What
//! has an expiry goes by the clock, without an heir in sight, so nothing inherits from it.

use alloc::vec::Vec;

use super::types::{
    Content, LARGE_REF_BYTES_MAX, LargeRef, NEVER, OutOfMemory, PIECES_MAX, Piece, RangeDelete,
    VersionRef,
};
use crate::Timestamp;

/// What versions are needed for.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'p> {
    /// The commits that somebody sees, in order.
    pub pins: &'p [Timestamp],
    /// What was seen from here on is kept.
    pub floor: Timestamp,
    /// The time, in Unix milliseconds.
    pub now_ms: i64,
    /// The oldest source of all is among those that are merged.
    pub bottom: bool,
}

impl Rules<'_> {
    /// Whether what was from `from` on until just before `until` is still seen.
    fn is_seen(&self, from: Timestamp, until: Timestamp) -> bool {
        let behind = self.pins.partition_point(|pin| *pin < from);
        until > self.floor || self.pins.get(behind).is_some_and(|pin| *pin < until)
    }

    /// Whether a range delete that is met is written again. If not, everything that it covers was dropped.
    pub fn keeps_range(&self, range: &RangeDelete<'_>) -> bool {
        !self.bottom || self.is_seen(Timestamp(0), range.timestamp)
    }
}

/// A version that is met in a merge.
#[derive(Clone, Copy, Debug)]
pub struct Met<'v> {
    /// The version.
    pub version: VersionRef<'v>,
    /// The number of its source.
    pub source: usize,
    /// The oldest range delete in the merge that is newer and covers it.
    pub covered_by: Option<Timestamp>,
    /// A range delete in a source that is newer than all of the merge covers it. It does not end the version, since the
    /// heir of its pieces might be in between; but it was counted off.
    pub hidden: bool,
}

/// A version that is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept<'k> {
    /// What it says.
    pub version: VersionRef<'k>,
    /// What followed it, if anything did: then it is kept for history alone.
    pub ended: Option<Timestamp>,
}

/// What became of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyEnd<'k> {
    /// The last of its versions that are written.
    pub kept: Option<Kept<'k>>,
    /// By how much the number of keys changes.
    pub count: i64,
    /// Its newest value was there, and its time had come.
    pub expired: bool,
}

/// Decides for one key after the other.
pub struct Keeper<'p> {
    rules: Rules<'p>,
    key: KeyState,
    /// Kept, but what is dropped behind it may change it still; if there is one.
    pending: Pending,
    is_pending: bool,
    /// Final.
    ready: Pending,
    dropped: Vec<Piece>,
}

/// What is known of a key so far.
#[derive(Default)]
struct KeyState {
    /// The version before.
    newer: Option<Timestamp>,
    /// How many pieces of the next version, from the first, somebody newer names; `None` if there is nobody.
    named: Option<u8>,
    /// The newest version that counts, and the sources so far.
    share: Option<Share>,
}

#[derive(Clone, Copy)]
struct Share {
    /// What comes out: 1 if the newest version is a value when the merge is done.
    values: i64,
    expired: bool,
    /// The shares of the sources before this one.
    before: i64,
    source: usize,
    /// 1 if the newest version of the source is a value.
    source_values: i64,
    /// Of the oldest version so far.
    below: bool,
}

impl Share {
    fn went_in(&self) -> i64 {
        self.before + self.source_values - i64::from(self.below)
    }
}

/// A version that owns what it holds.
#[derive(Default)]
struct Pending {
    timestamp: Timestamp,
    expires_at_ms: i64,
    below: bool,
    kind: u8,
    bytes: Vec<u8>,
    inherited: u8,
    /// It has a part in the count.
    counts: bool,
    ended: Option<Timestamp>,
}

impl<'p> Keeper<'p> {
    /// Decides by these rules.
    pub fn new(rules: Rules<'p>) -> Self {
        Self {
            rules,
            key: KeyState::default(),
            pending: Pending::default(),
            is_pending: false,
            ready: Pending::default(),
            dropped: Vec::new(),
        }
    }

    /// Takes the next version of the key; gives one that was met before and is written now.
    ///
    /// # Errors
    /// There is no memory to hold on to it. The merge is to be given up.
    pub fn meet(&mut self, met: &Met<'_>) -> Result<Option<Kept<'_>>, OutOfMemory> {
        let version = &met.version;
        let content = version.content.bytes();
        self.dropped.try_reserve(PIECES_MAX)?;
        let ended = match (self.key.newer, met.covered_by) {
            (Some(newer), Some(covered)) => Some(newer.min(covered)),
            (newer, covered) => newer.or(covered),
        };
        self.key.newer = Some(version.timestamp);
        let is_kept = ended.is_none_or(|ended| self.rules.is_seen(version.timestamp, ended));
        let expired = version.is_value() && version.is_expired_at(self.rules.now_ms);
        let counts = met.covered_by.is_none() && !met.hidden;
        let below_so_far = self.key.share.map(|share| share.below);
        if counts {
            self.count(met, expired);
        }
        if !is_kept || expired {
            self.give_up(&version.content);
        }
        if !is_kept {
            return Ok(None);
        }
        let is_value = version.is_value() && !expired;
        let emitted = self.emit(Some((is_value, counts)), below_so_far)?;
        let pending = &mut self.pending;
        pending.bytes.clear();
        pending.bytes.try_reserve(content.len())?;
        self.is_pending = true;
        pending.timestamp = version.timestamp;
        pending.below = version.below;
        pending.counts = counts;
        pending.ended = ended;
        pending.inherited = 0;
        if expired {
            (pending.kind, pending.expires_at_ms) = (Content::Tombstone.kind(), NEVER);
        } else {
            pending.kind = version.content.kind();
            pending.expires_at_ms = version.expires_at_ms;
            pending.bytes.extend_from_slice(content);
            self.key.named = None;
            if let Content::Large(large) = version.content {
                pending.inherited = large.inherited();
                self.key.named = Some(pending.inherited);
            }
        }
        Ok(emitted.then(|| self.ready.kept()))
    }

    /// Ends the key; the next version is of another one.
    ///
    /// # Errors
    /// There is no memory. The merge is to be given up.
    pub fn end_key(&mut self) -> Result<KeyEnd<'_>, OutOfMemory> {
        let is_tombstone = self.pending.kind == Content::Tombstone.kind();
        if self.rules.bottom && is_tombstone {
            // There is nothing that it could hide.
            self.is_pending = false;
        }
        let below = self.key.share.map(|share| share.below);
        let emitted = self.emit(None, below)?;
        let share = core::mem::take(&mut self.key).share;
        let count = share.map_or(0, |share| {
            let below = share.below && !self.rules.bottom;
            share.values - i64::from(below) - share.went_in()
        });
        Ok(KeyEnd {
            kept: emitted.then(|| self.ready.kept()),
            count,
            expired: share.is_some_and(|share| share.expired),
        })
    }

    /// What [`meet`](Self::meet) or [`end_key`](Self::end_key) gave last.
    pub fn emitted(&self) -> Kept<'_> {
        self.ready.kept()
    }

    /// The pieces that were given up since this was asked last.
    pub fn take_dropped(&mut self) -> impl Iterator<Item = Piece> {
        self.dropped.drain(..)
    }

    fn count(&mut self, met: &Met<'_>, expired: bool) {
        let version = &met.version;
        let values = i64::from(version.is_value());
        let share = self.key.share.get_or_insert(Share {
            values: if expired { 0 } else { values },
            expired,
            before: 0,
            source: met.source,
            source_values: values,
            below: false,
        });
        if share.source != met.source {
            share.before = share.went_in();
            (share.source, share.source_values) = (met.source, values);
        }
        share.below = version.below;
    }

    /// The content is not written again: its pieces pass on, or go.
    fn give_up(&mut self, content: &Content<'_>) {
        let Content::Large(large) = content else {
            self.key.named = None;
            return;
        };
        let inherited = large.inherited();
        let kept = inherited.max(self.key.named.unwrap_or(0));
        self.dropped
            .extend(large.pieces().into_iter().skip(usize::from(kept)));
        if let Some(named) = &mut self.key.named {
            *named = inherited.min(*named);
            self.pending.inherited = self.pending.inherited.min(*named);
        }
    }

    /// Makes what is pending final and ready: `older` says whether the next one is a value and counts, `below` what the
    /// oldest version that counts says.
    fn emit(
        &mut self,
        older: Option<(bool, bool)>,
        below: Option<bool>,
    ) -> Result<bool, OutOfMemory> {
        if !self.is_pending {
            return Ok(false);
        }
        let pending = &mut self.pending;
        let is_oldest = older.is_none_or(|(_, counts)| counts != pending.counts);
        if self.rules.bottom {
            pending.below = !is_oldest && older.is_some_and(|(is_value, _)| is_value);
        } else if is_oldest && pending.counts {
            pending.below = below.unwrap_or(pending.below);
        }
        if let Content::Large(large) = Content::of_checked(pending.kind, &pending.bytes)
            && large.inherited() != pending.inherited
        {
            let mut coded = Vec::new();
            coded.try_reserve(LARGE_REF_BYTES_MAX)?;
            LargeRef::encode(&large.pieces(), pending.inherited, &mut coded);
            pending.bytes = coded;
        }
        core::mem::swap(&mut self.pending, &mut self.ready);
        self.is_pending = false;
        Ok(true)
    }
}

impl Pending {
    fn kept(&self) -> Kept<'_> {
        Kept {
            version: VersionRef {
                timestamp: self.timestamp,
                expires_at_ms: self.expires_at_ms,
                below: self.below,
                content: Content::of_checked(self.kind, &self.bytes),
            },
            ended: self.ended,
        }
    }
}

#[cfg(test)]
mod tests;
