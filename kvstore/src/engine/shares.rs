//! How many keys there are, by going through them.
//!
//! What is added up are the **shares** of each key that merges go by (`keep`): for each source whether its newest version there is a value, less whether a value was below
//! its oldest one; versions under a range delete have none. Where all that was said of what is below is right that is how many keys have a value, expired or not; where
//! something was assumed, the sum is as wrong as the number that commits were told, and the merge that meets it sets both right.

use alloc::vec::Vec;

use super::manifest::Count;
use super::merge::Source;
use super::types::{Missing, NEVER, VersionRef};
use crate::Timestamp;

/// Versions of a key in one source that are stepped over one by one before they are jumped over.
const STEPS_BEFORE_SEEK: usize = 4;

/// What versions that are jumped over count as, of those that are looked at.
const JUMP_LOOKS: usize = 16;

/// What was added up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shares {
    /// Of all keys.
    pub count: Count,
    /// Up to here, not included.
    pub to: Vec<u8>,
}

struct Member<'c> {
    source: Source<'c>,
    /// What its range deletes hide, and up to which key that is so, if not to the end.
    hides: Option<Timestamp>,
    until: Vec<u8>,
    is_bounded: bool,
    is_known: bool,
}

/// Adds up the shares of the keys of `sources`, newest first, from `from` on, up to `to`: of one key at least, if there is one, and of no more when `looks` versions
/// were looked at.
///
/// # Errors
/// Something is not in memory.
pub fn shares(
    sources: Vec<Source<'_>>,
    from: &[u8],
    to: &[u8],
    looks: &mut usize,
) -> Result<Shares, Missing> {
    let member = |source| Member {
        source,
        hides: None,
        until: Vec::new(),
        is_bounded: false,
        is_known: false,
    };
    let mut members: Vec<_> = sources.into_iter().map(member).collect();
    let newest = Timestamp(u64::MAX);
    let mut found = Ok(());
    for member in &mut members {
        // What is missing is noted at once.
        found = found.and(member.source.cursor.seek(from, newest));
    }
    found?;
    let (mut count, mut key, mut is_first) = (Count::default(), Vec::new(), true);
    loop {
        let keys = members
            .iter()
            .filter_map(|member| member.source.cursor.current());
        let nearest = keys.map(|(key, _)| key).min().filter(|key| *key < to);
        let Some(nearest) = nearest else {
            let to = to.to_vec();
            return Ok(Shares { count, to });
        };
        key.clear();
        key.extend_from_slice(nearest);
        if *looks == 0 && !is_first {
            return Ok(Shares { count, to: key });
        }
        is_first = false;
        add_key(&mut members, &key, &mut count, looks)?;
        leave(&mut members, &key, to)?;
    }
}

/// Adds the share of a key.
fn add_key(
    members: &mut [Member<'_>],
    key: &[u8],
    count: &mut Count,
    looks: &mut usize,
) -> Result<(), Missing> {
    let mut hidden_below = None;
    let mut found = Ok(());
    for member in &mut *members {
        match member.hides_below(key) {
            Ok(below) => hidden_below = hidden_below.max(below),
            Err(missing) => found = Err(missing),
        }
    }
    found?;
    let counts = |version: &VersionRef<'_>| Some(version.timestamp) >= hidden_below;
    let mut is_newest = true;
    for member in members {
        let newest = member.on(key).filter(counts);
        let Some((is_value, expires)) =
            newest.map(|newest| (newest.is_value(), newest.expires_at_ms != NEVER))
        else {
            *looks = looks.saturating_sub(1);
            continue;
        };
        let below = member.oldest_below(key, hidden_below, looks)?;
        count.keys += i64::from(is_value) - i64::from(below);
        if is_newest {
            count.expiring += i64::from(is_value && expires);
            is_newest = false;
        }
    }
    Ok(())
}

/// Moves all behind a key; where something newer hides all that is in a source, behind that, up to `to`.
fn leave(members: &mut [Member<'_>], key: &[u8], to: &[u8]) -> Result<(), Missing> {
    let mut hides: Option<(Timestamp, Option<Vec<u8>>)> = None;
    for member in members {
        let hidden = hides
            .as_ref()
            .filter(|(below, _)| *below > member.source.last);
        match hidden {
            Some((_, until)) => member.leave_to(key, until.as_deref().unwrap_or(to))?,
            None => member.leave_key(key)?,
        }
        if let Some(below) = member.hides
            && hides.as_ref().is_none_or(|(newest, _)| *newest < below)
        {
            let until = member.is_bounded.then(|| member.until.clone());
            hides = Some((below, until));
        }
    }
    Ok(())
}

impl Member<'_> {
    fn on(&self, key: &[u8]) -> Option<VersionRef<'_>> {
        let (here, version) = self.source.cursor.current()?;
        (here == key).then_some(version)
    }

    /// The newest of its range deletes that covers `key`; keys only go up.
    fn hides_below(&mut self, key: &[u8]) -> Result<Option<Timestamp>, Missing> {
        let holds = self.is_known && (!self.is_bounded || *key < self.until[..]);
        if !holds {
            self.is_known = false;
            let newest = Timestamp(u64::MAX);
            let ranges = &self.source.ranges;
            (self.hides, self.is_bounded) = ranges.covering_until(key, newest, &mut self.until)?;
            self.is_known = true;
        }
        Ok(self.hides)
    }

    /// Whether a value was below the oldest version that nothing hides of those behind the one on which it stands.
    fn oldest_below(
        &mut self,
        key: &[u8],
        hidden_below: Option<Timestamp>,
        looks: &mut usize,
    ) -> Result<bool, Missing> {
        let counts = |version: &VersionRef<'_>| Some(version.timestamp) >= hidden_below;
        let Some(newest) = self.on(key) else {
            return Ok(false);
        };
        let (mut oldest, mut below) = (newest.timestamp, newest.below);
        for _ in 0..STEPS_BEFORE_SEEK {
            *looks = looks.saturating_sub(1);
            self.source.cursor.next()?;
            let Some(version) = self.on(key).filter(counts) else {
                return Ok(below);
            };
            (oldest, below) = (version.timestamp, version.below);
        }
        // There may be very many.
        *looks = looks.saturating_sub(JUMP_LOOKS);
        let mut least = hidden_below.unwrap_or(Timestamp(0));
        while least < oldest {
            let middle = Timestamp(least.0 + (oldest.0 - least.0) / 2);
            self.source.cursor.seek(key, middle)?;
            match self.on(key).filter(counts) {
                Some(version) => (oldest, below) = (version.timestamp, version.below),
                None => least = Timestamp(middle.0 + 1),
            }
        }
        Ok(below)
    }

    fn leave_key(&mut self, key: &[u8]) -> Result<(), Missing> {
        let is_before = |member: &Self| {
            let current = member.source.cursor.current();
            current.is_some_and(|(here, _)| here <= key)
        };
        for _ in 0..STEPS_BEFORE_SEEK {
            if !is_before(self) {
                return Ok(());
            }
            self.source.cursor.next()?;
        }
        if is_before(self) {
            let behind = [key, &[0]].concat();
            self.source.cursor.seek(&behind, Timestamp(u64::MAX))?;
        }
        Ok(())
    }

    fn leave_to(&mut self, key: &[u8], until: &[u8]) -> Result<(), Missing> {
        let current = self.source.cursor.current();
        if current.is_some_and(|(here, _)| here < until) {
            return self.source.cursor.seek(until, Timestamp(u64::MAX));
        }
        self.leave_key(key)
    }
}

#[cfg(test)]
mod tests {
    use alloc::boxed::Box;

    use super::*;
    use crate::engine::memtable::Memtable;
    use crate::engine::pool::ChunkPool;
    use crate::engine::types::Content;
    use crate::testing::{random, short_key};

    /// A version: its key, its commit, whether it is a value, whether one was below.
    type Told = (Vec<u8>, u64, bool, bool);

    /// What the definition says of the sources.
    fn plain(sources: &[Memtable], told: &[Vec<Told>], key: &[u8]) -> i64 {
        let newest = Timestamp(u64::MAX);
        let hidden = sources
            .iter()
            .filter_map(|source| source.ranges().newest_covering(key, newest));
        let hidden = hidden.max().unwrap_or_default();
        let share = |told: &Vec<Told>| {
            let of_key = told.iter().filter(|told| told.0 == key);
            let counts: Vec<_> = of_key.filter(|told| told.1 >= hidden.0).collect();
            let (newest, oldest) = (counts.last(), counts.first());
            i64::from(newest.is_some_and(|told| told.2))
                - i64::from(oldest.is_some_and(|told| told.3))
        };
        told.iter().map(share).sum()
    }

    #[test]
    fn shares_are_what_their_definition_says_however_many_versions_there_are() {
        let mut random = random(92);
        for _ in 0..60 {
            let (mut sources, mut told, mut commit) = (Vec::new(), Vec::new(), 0);
            let often = short_key(&mut random, 3);
            for _ in 0..3 {
                let mut memtable = Memtable::new(ChunkPool::new(4), 7, Timestamp(commit));
                let mut versions = Vec::<Told>::new();
                for _ in 0..random.index(400) {
                    commit += 1 + random.below(5);
                    if random.one_in(60) {
                        let (start, end) = (short_key(&mut random, 3), short_key(&mut random, 3));
                        if start < end {
                            let range = [(&start[..], &end[..])].into_iter();
                            memtable.reserve([].into_iter(), range).unwrap();
                            memtable.delete_range(&start, &end, Timestamp(commit));
                        }
                        continue;
                    }
                    let is_often = random.one_in(2);
                    let key = if is_often {
                        often.clone()
                    } else {
                        short_key(&mut random, 3)
                    };
                    let (is_value, below) = (random.one_in(2), random.one_in(2));
                    let content = if is_value {
                        Content::Inline(b"x")
                    } else {
                        Content::Tombstone
                    };
                    memtable
                        .reserve([(&key[..], 1)].into_iter(), [].into_iter())
                        .unwrap();
                    let version = VersionRef {
                        timestamp: Timestamp(commit),
                        expires_at_ms: NEVER,
                        below,
                        content,
                    };
                    memtable.insert(&key, &version, false);
                    versions.push((key, commit, is_value, below));
                }
                sources.insert(0, memtable);
                told.insert(0, versions);
            }
            let mut keys: Vec<_> = told.iter().flatten().map(|told| &told.0[..]).collect();
            keys.sort_unstable();
            keys.dedup();
            let (mut from, mut counted) = (Vec::new(), 0);
            let to = [u8::MAX];
            while from[..] < to[..] {
                let all = sources.iter().map(|memtable| Source {
                    cursor: Box::new(memtable.cursor()),
                    ranges: Box::new(memtable.ranges()),
                    last: memtable.last(),
                });
                let mut looks = random.index(20);
                let added = shares(all.collect(), &from, &to, &mut looks).unwrap();
                assert!(added.to > from);
                let here = keys
                    .iter()
                    .filter(|key| **key >= &from[..] && **key < &added.to[..]);
                let expected = here.map(|key| plain(&sources, &told, key)).sum::<i64>();
                assert_eq!(added.count.keys, expected);
                counted += 1;
                from = added.to;
            }
            assert!(counted > 1 || keys.len() < 4);
        }
    }
}
