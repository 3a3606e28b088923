//! Several sources of versions as one, newest source first.
//!
//! Sources are disjoint in commits and in their order: all versions of a newer source are newer than those of an older
//! one, of any key. So all versions of a key are, newest first, those of one source behind those of another, and the
//! first source that has a version at or before a time has the one that is seen then.
//!
//! [`next_version`](Merge::next_version) gives all versions, for what goes through them all: flushes, compactions, a
//! key's history; [`next_visible`](Merge::next_visible) what a reader sees, in both directions, or how that differs from what
//! another one sees ([`changed`](Merge::changed)). After [`Missing`] either can be asked again.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cmp::Ordering;

use super::range_set::Covering;
use super::types::{Content, Cursor, Missing, VersionRef};
use crate::Timestamp;

/// Versions of one key that are stepped over one by one before they are jumped over.
const STEPS_BEFORE_SEEK: usize = 4;

/// A key counts as one more entry for each so many bytes of it.
const LOOK_BYTES: usize = 1024;

/// A source of versions and range deletes.
pub struct Source<'c> {
    /// Its versions.
    pub cursor: Box<dyn Cursor + 'c>,
    /// Its range deletes.
    pub ranges: Box<dyn Covering + 'c>,
    /// No version in it is newer.
    pub last: Timestamp,
}

/// What a step of a scan came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScanStep<'m> {
    /// The next key, which has a value, expired or not.
    Key(VersionRef<'m>),
    /// As much was looked at as was allowed. The scan goes on, or another one can: by `seek`, or `seek_back`, with the
    /// key that it came to.
    More,
    /// There are no more keys.
    End,
}

struct Member<'c> {
    source: Source<'c>,
    hides: Hides,
    /// It was sought while its key was looked at, and may stand behind it.
    strayed: bool,
    /// It has nothing more.
    ended: bool,
}

/// What a source's range deletes hide from some key on.
#[derive(Default)]
struct Hides {
    known: bool,
    newest: Option<Timestamp>,
    until: Vec<u8>,
    is_bounded: bool,
}

/// Some sources as one.
pub struct Merge<'c> {
    members: Vec<Member<'c>>,
    at: Timestamp,
    /// Shows only what is newer than this, and tombstones as well.
    since: Option<Timestamp>,
    backward: bool,
    phase: Phase,
    /// Something that was asked about has range deletes that hide something.
    hides: bool,
    /// The newest source with `key`, and whether it is the only one: of others nothing need be found out.
    nearest: Nearest,
    /// The key that it came to.
    key: Vec<u8>,
}

/// Which source has the next key, the newest of those that do.
#[derive(Clone, Copy, Default)]
struct Nearest {
    source: usize,
    is_alone: bool,
}

/// Where a scan is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Sources stand on the keys that are next.
    Between,
    /// It is being found out what is seen of `key`.
    Looking,
    /// `key` was dealt with, and sources may still stand on it.
    Leaving,
}

impl<'c> Merge<'c> {
    /// Of these sources, newest first, what is seen at `at`. It stands nowhere until something is sought.
    pub fn new(sources: Vec<Source<'c>>, at: Timestamp) -> Self {
        let member = |source| Member {
            source,
            hides: Hides::default(),
            strayed: false,
            ended: true,
        };
        Self {
            members: sources.into_iter().map(member).collect(),
            at,
            since: None,
            backward: false,
            phase: Phase::Between,
            hides: false,
            nearest: Nearest::default(),
            key: Vec::new(),
        }
    }

    /// The same, where [`next_visible`](Self::next_visible) gives only keys whose version was written after `since`, those that have
    /// no value by it among them. What a range delete hides is not given: [`deleted_from`](Self::deleted_from) tells.
    pub fn changed(sources: Vec<Source<'c>>, since: Timestamp, at: Timestamp) -> Self {
        Self {
            since: Some(since),
            ..Self::new(sources, at)
        }
    }

    /// Of a merge of [what changed](Self::changed): whether a range delete of that time covers `key`, and a key up to which (not
    /// included) that holds; `None`: to the end.
    ///
    /// # Errors
    /// Something is not in memory.
    pub fn deleted_from(&self, key: &[u8]) -> Result<(bool, Option<Vec<u8>>), Missing> {
        let mut bound: Option<Vec<u8>> = None;
        for member in &self.members {
            let mut until = Vec::new();
            let ranges = &member.source.ranges;
            let (newest, is_bounded) = ranges.covering_until(key, self.at, &mut until)?;
            let until = is_bounded.then_some(until);
            if newest > self.since {
                return Ok((true, until));
            }
            bound = match (bound, until) {
                (Some(bound), Some(until)) => Some(bound.min(until)),
                (bound, until) => bound.or(until),
            };
        }
        Ok((false, bound))
    }

    /// From now on forward, from `key` on.
    ///
    /// # Errors
    /// Something is not in memory. As with all of these.
    pub fn seek(&mut self, key: &[u8]) -> Result<(), Missing> {
        self.turn(false);
        let seek = |member: &mut Member<'_>| {
            let cursor = &mut member.source.cursor;
            cursor.seek(key, Timestamp(u64::MAX))
        };
        all(self.members.iter_mut().map(seek))
    }

    /// From now on backward, from the last key before `key` on.
    ///
    /// # Errors
    /// Something is not in memory.
    pub fn seek_back(&mut self, key: Option<&[u8]>) -> Result<(), Missing> {
        self.turn(true);
        let seek = |member: &mut Member<'_>| member.source.cursor.seek_back(key);
        all(self.members.iter_mut().map(seek))
    }

    fn turn(&mut self, backward: bool) {
        (self.backward, self.hides) = (backward, false);
        self.phase = Phase::Between;
        for member in &mut self.members {
            (member.strayed, member.ended, member.hides.known) = (false, false, false);
        }
    }

    /// The version that it stands on when it gives all of them, its key, and the number of its source.
    pub fn version(&self) -> Option<(usize, &[u8], VersionRef<'_>)> {
        let Nearest { source, .. } = self.nearest()?;
        let (key, version) = self.members.get(source)?.current()?;
        Some((source, key, version))
    }

    /// To the next version, when it gives all of them.
    ///
    /// # Errors
    /// Something is not in memory. Then it stands where it stood.
    pub fn next_version(&mut self) -> Result<(), Missing> {
        let nearest = self.nearest();
        let member = nearest.and_then(|nearest| self.members.get_mut(nearest.source));
        member.map_or(Ok(()), |member| member.source.cursor.next())
    }

    /// The next key that has a value, which goes into `out`, as it is seen. At most `look` entries are looked at, which goes down
    /// ([`looks_for`]; the first one is looked at unless it is 0); if it comes to nothing, the key to go on from is in `out`.
    ///
    /// # Errors
    /// Something is not in memory.
    pub fn next_visible(
        &mut self,
        look: &mut usize,
        out: &mut Vec<u8>,
    ) -> Result<ScanStep<'_>, Missing> {
        let found = loop {
            if self.phase == Phase::Leaving {
                self.leave()?;
                self.phase = Phase::Between;
            }
            if self.phase == Phase::Between {
                let Some(nearest) = self.nearest() else {
                    return Ok(ScanStep::End);
                };
                self.nearest = nearest;
                let here = self.members.get(nearest.source).and_then(Member::key);
                self.key.clear();
                self.key.extend_from_slice(here.unwrap_or_default());
                if *look == 0 {
                    out.clear();
                    out.extend_from_slice(&self.key);
                    if self.backward {
                        // The last key before this is the one.
                        out.push(0);
                    }
                    return Ok(ScanStep::More);
                }
                self.phase = Phase::Looking;
            }
            let found = self.resolve(look)?;
            self.phase = Phase::Leaving;
            if let Some(source) = found {
                break source;
            }
        };
        out.clear();
        out.extend_from_slice(&self.key);
        let version = self.members.get(found).and_then(Member::current);
        Ok(version.map_or(ScanStep::End, |(_, version)| ScanStep::Key(version)))
    }

    /// The source that shows a value of the key at the time; it stands on it.
    fn resolve(&mut self, look: &mut usize) -> Result<Option<usize>, Missing> {
        let (key, at) = (&self.key[..], self.at);
        let Nearest { source, is_alone } = self.nearest;
        // All that stand on it are gone through, though one alone is shown.
        let last = if is_alone {
            source + 1
        } else {
            self.members.len()
        };
        let may_stand = self.members.get(source..last).unwrap_or_default();
        let standing = may_stand.iter().filter_map(Member::current);
        for (_, version) in standing.filter(|(here, _)| *here == key) {
            *look = look.saturating_sub(looks_for_version(key, &version));
        }
        let mut hidden_below = None;
        for (number, member) in self.members.iter_mut().enumerate().take(last) {
            // Nothing from here on is newer than what hides it.
            if hidden_below > Some(member.source.last) {
                return Ok(None);
            }
            hidden_below = hidden_below.max(member.hides_below(key, at, self.backward)?);
            self.hides |= hidden_below.is_some();
            if number < source || !member.stands_on(key) {
                continue;
            }
            if member
                .current()
                .is_some_and(|(_, version)| version.timestamp > at)
            {
                member.source.cursor.seek(key, at)?;
                member.strayed = true;
            }
            if let Some((found, version)) = member.current()
                && found == key
            {
                let hidden = hidden_below.is_some_and(|below| version.timestamp < below);
                let is_shown = match self.since {
                    None => version.is_value(),
                    Some(since) => version.timestamp > since,
                };
                return Ok((!hidden && is_shown).then_some(number));
            }
        }
        Ok(None)
    }

    /// Moves all sources off the key that was dealt with.
    fn leave(&mut self) -> Result<(), Missing> {
        let key = &self.key[..];
        let Nearest { source, is_alone } = self.nearest;
        if is_alone
            && !self.hides
            && !self.backward
            && let Some(member) = self.members.get_mut(source)
        {
            return member.leave_forward(key);
        }
        // What hides sources from here on, and up to where: the newest, with the key that ends it.
        let mut hides: Option<(Timestamp, Option<Vec<u8>>)> = None;
        for (number, member) in self.members.iter_mut().enumerate() {
            let has_key = !is_alone || number == source;
            if self.backward {
                if has_key {
                    member.leave_backward(key)?;
                }
                continue;
            }
            let hidden = hides
                .as_ref()
                .filter(|(below, _)| *below > member.source.last);
            match hidden {
                Some((_, None)) => member.ended = true,
                Some((_, Some(until))) => member.leave_to(key, until)?,
                None if has_key => member.leave_forward(key)?,
                None => {}
            }
            if let Some((below, until)) = member.hides.hidden_from(key)
                && hides.as_ref().is_none_or(|(newest, _)| *newest < below)
            {
                hides = Some((below, until.map(<[u8]>::to_vec)));
            }
        }
        Ok(())
    }

    fn nearest(&self) -> Option<Nearest> {
        let mut found: Option<(Nearest, &[u8])> = None;
        for (source, member) in self.members.iter().enumerate() {
            let Some(key) = member.key() else {
                continue;
            };
            let order = found.as_ref().map(|(_, nearest)| {
                let order = key.cmp(nearest);
                if self.backward {
                    order.reverse()
                } else {
                    order
                }
            });
            match (order, &mut found) {
                (Some(Ordering::Greater), _) => {}
                (Some(Ordering::Equal), Some((nearest, _))) => nearest.is_alone = false,
                _ => {
                    let is_alone = true;
                    found = Some((Nearest { source, is_alone }, key));
                }
            }
        }
        found.map(|(nearest, _)| nearest)
    }
}

/// As how many entries `key` counts where it is bounded how many are looked at: so that is bounded, too, what long keys take.
pub fn looks_for(key: &[u8]) -> usize {
    1 + key.len() / LOOK_BYTES
}

/// The same with what a table has of its value beside the key.
fn looks_for_version(key: &[u8], version: &VersionRef<'_>) -> usize {
    let inline_bytes = match version.content {
        Content::Inline(value) => value.len(),
        Content::Tombstone | Content::Large(_) => 0,
    };
    looks_for(key) + inline_bytes / LOOK_BYTES
}

/// Does all of it, so that all that is missing is noted.
fn all(mut steps: impl Iterator<Item = Result<(), Missing>>) -> Result<(), Missing> {
    let mut result = Ok(());
    steps.by_ref().for_each(|step| result = result.and(step));
    result
}

impl Member<'_> {
    fn current(&self) -> Option<(&[u8], VersionRef<'_>)> {
        if self.ended {
            return None;
        }
        self.source.cursor.current()
    }

    fn key(&self) -> Option<&[u8]> {
        if self.ended {
            return None;
        }
        self.source.cursor.key()
    }

    fn stands_on(&self, key: &[u8]) -> bool {
        self.key() == Some(key)
    }

    /// The newest of its range deletes that cover `key` at that time.
    fn hides_below(
        &mut self,
        key: &[u8],
        at: Timestamp,
        backward: bool,
    ) -> Result<Option<Timestamp>, Missing> {
        let hides = &mut self.hides;
        // Keys only go up; what was found for one holds up to a later one.
        if backward || !hides.known || hides.is_bounded && *key >= *hides.until {
            hides.known = false;
            (hides.newest, hides.is_bounded) =
                self.source
                    .ranges
                    .covering_until(key, at, &mut hides.until)?;
            hides.known = true;
        }
        Ok(hides.newest)
    }

    fn leave_forward(&mut self, key: &[u8]) -> Result<(), Missing> {
        self.strayed = false;
        for _ in 0..STEPS_BEFORE_SEEK {
            if !self.stands_on(key) {
                return Ok(());
            }
            self.source.cursor.next()?;
        }
        if self.stands_on(key) {
            let behind = [key, &[0]].concat();
            self.source.cursor.seek(&behind, Timestamp(u64::MAX))?;
        }
        Ok(())
    }

    /// To `until`, what is before it being hidden, if it stands before it.
    fn leave_to(&mut self, key: &[u8], until: &[u8]) -> Result<(), Missing> {
        self.strayed = false;
        if *until > *key && self.key().is_some_and(|here| here < until) {
            self.source.cursor.seek(until, Timestamp(u64::MAX))?;
        }
        Ok(())
    }

    fn leave_backward(&mut self, key: &[u8]) -> Result<(), Missing> {
        if self.strayed {
            self.source.cursor.seek_back(Some(key))?;
            self.strayed = false;
            Ok(())
        } else if self.stands_on(key) {
            self.source.cursor.previous_key()
        } else {
            Ok(())
        }
    }
}

impl Hides {
    /// Below which commit it hides all from `key` on, and up to where.
    fn hidden_from(&self, key: &[u8]) -> Option<(Timestamp, Option<&[u8]>)> {
        let until = self.is_bounded.then_some(&self.until[..]);
        let holds = self.known && until.is_none_or(|until| key < until);
        self.newest.filter(|_| holds).map(|newest| (newest, until))
    }
}

#[cfg(test)]
mod tests;
