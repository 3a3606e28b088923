//! Numbers of keys that nobody knows, and how they are found out anew.
//!
//! After a range delete nobody knows how many keys went. The number of the database is *uncertain* then, and a walk over its keys adds up their shares (`shares`), a
//! step at a time. It pins nothing: a [`Recount`] knows of parts of the database, one behind the other, which have been counted and which have not, and whatever
//! changes meanwhile changes the parts that have:
//!
//! - a commit changes the part that its key is in;
//! - a range delete takes everything out of parts that it covers; of those that it covers in part nobody knows any more what is in them;
//! - a merge or a flush that is installed corrects the parts that it found something out about ([`Corrections`]), and what straddles what has been counted and what has
//!   not has to be counted again.
//!
//! So a range delete makes two parts uncertain at most, and the walk is through however many of them come while it goes on, unless they do faster than it counts two parts.
//!
//! **In a manifest** the number of a database is uncertain unless it is known without what is only in the log: commits behind the horizon may be lost, and a range
//! delete among them was counted.

use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::RefCell;

use super::counts::{ByDatabase, add};
use super::manifest::Count;
use crate::{DATABASE_COUNT, DatabaseIndex, Key, Timestamp};

/// Above so many keys nobody waits until they are counted.
pub const ESTIMATED_FROM: u64 = 1_000_000;

/// Keys that a recount looks at before nobody waits for it any more: range deletes come faster than it gets on.
const LOOKED_MAX: u64 = 4 * ESTIMATED_FROM;

/// Parts that a database is counted in, and bytes of the keys where they begin.
const PARTS_MAX: usize = 32;
const PARTS_BYTES_MAX: usize = 512 << 10;

/// Keys that a part has before the next one begins.
const PART_KEYS: u64 = if cfg!(test) { 64 } else { 4096 };

/// What a job has found out is kept in so many pieces, and of keys in so many bytes.
const SPANS_MAX: usize = if cfg!(test) { 32 } else { 256 };
const SPANS_BYTES_MAX: usize = 512 << 10;

/// Keys from one on, up to where the next part begins.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    from: Key,
    /// How many there are; `None` when they have to be counted.
    count: Option<Count>,
}

/// A database whose keys are being counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recount {
    /// In order, without gaps, from the start of the database to its end. Two that follow each other have not both to be counted.
    parts: Vec<Part>,
    /// The first engine key behind the database.
    end: Key,
    /// Keys that were looked at.
    looked: u64,
}

impl Recount {
    /// Of `db`, of which nothing has been counted.
    pub fn new(db: DatabaseIndex) -> Self {
        let part = Part {
            from: Key::from(&[db.0][..]),
            count: None,
        };
        Self {
            parts: alloc::vec![part],
            end: Key::from(&[db.0.saturating_add(1)][..]),
            looked: 0,
        }
    }

    /// From where to where is to be counted next; nothing when all is.
    pub fn next(&self) -> Option<(&Key, &Key)> {
        let at = self.parts.iter().position(|part| part.count.is_none())?;
        Some((&self.parts.get(at)?.from, self.to(at)))
    }

    /// What is to be counted next has been, up to the key `to`, which is behind its start: there are `count` of them.
    pub fn counted(&mut self, to: &[u8], count: Count, looked: u64) {
        self.looked = self.looked.saturating_add(looked);
        let Some(at) = self.parts.iter().position(|part| part.count.is_none()) else {
            return;
        };
        let Some(part) = self.parts.get_mut(at) else {
            return;
        };
        let from = Key::clone(&part.from);
        part.count = Some(count);
        if *to < self.to(at)[..] {
            let rest = Part {
                from: Key::from(to),
                count: None,
            };
            self.parts.insert(at + 1, rest);
        }
        let is_small = |part: &Part| {
            let count = part.count.unwrap_or_default();
            count.keys.unsigned_abs() < PART_KEYS
        };
        let before = at.checked_sub(1);
        if before.is_some_and(|before| self.parts.get(before).is_some_and(is_small)) {
            self.join(at);
        }
        debug_assert!(from[..] < *to, "it gets on");
        self.limit();
    }

    /// How many there are, when all has been counted.
    pub fn total(&self) -> Option<Count> {
        self.parts
            .iter()
            .try_fold(Count::default(), |mut sum, part| {
                add(&mut sum, &part.count?);
                Some(sum)
            })
    }

    /// A commit changes the number of keys at `key`.
    pub fn change(&mut self, key: &[u8], by: &Count) {
        let at = self.at(key);
        if let Some(count) = self.parts.get_mut(at).and_then(|part| part.count.as_mut()) {
            add(count, by);
        }
    }

    /// A commit deletes all from `start` on, up to `end`.
    pub fn delete_range(&mut self, start: &[u8], end: &[u8]) {
        for at in self.at(start)..self.parts.len() {
            let to = &self.to(at)[..];
            let covers_end = to <= end;
            let Some(part) = self.parts.get(at).filter(|part| part.from[..] < *end) else {
                break;
            };
            let left = (*start <= part.from[..] && covers_end).then(Count::default);
            if let Some(part) = self.parts.get_mut(at) {
                part.count = part.count.and(left);
            }
        }
        self.join_uncounted();
    }

    /// A job that found this out has been installed.
    fn correct(&mut self, span: &Span) {
        let (first, last) = (self.at(&span.first), self.at(&span.last));
        let parts = self.parts.get_mut(first..=last).unwrap_or_default();
        let is_counted = |part: &Part| part.count.is_some();
        if span.is_doubtful || !parts.iter().all(is_counted) {
            for part in parts {
                part.count = None;
            }
            self.join_uncounted();
            return;
        }
        // Nobody knows how much of it belongs to which.
        for at in (first + 1..=last).rev() {
            self.join(at);
        }
        if let Some(count) = self
            .parts
            .get_mut(first)
            .and_then(|part| part.count.as_mut())
        {
            add(count, &span.by);
        }
    }

    /// The part that `key` is in.
    fn at(&self, key: &[u8]) -> usize {
        let behind = self.parts.partition_point(|part| part.from[..] <= *key);
        behind.saturating_sub(1)
    }

    /// Where a part ends.
    fn to(&self, at: usize) -> &Key {
        self.parts.get(at + 1).map_or(&self.end, |next| &next.from)
    }

    /// Puts a part to the one before it.
    fn join(&mut self, at: usize) {
        if at == 0 || at >= self.parts.len() {
            return;
        }
        let part = self.parts.remove(at);
        if let Some(before) = self.parts.get_mut(at - 1) {
            before.count = before.count.zip(part.count).map(|(mut count, by)| {
                add(&mut count, &by);
                count
            });
        }
    }

    fn join_uncounted(&mut self) {
        self.parts
            .dedup_by(|part, before| part.count.is_none() && before.count.is_none());
    }

    /// Makes larger parts of small ones, so that there are not too many. What was counted last stays so.
    fn limit(&mut self) {
        let bytes = |parts: &[Part]| parts.iter().map(|part| part.from.len()).sum::<usize>();
        while self.parts.len() > PARTS_MAX
            || (bytes(&self.parts) > PARTS_BYTES_MAX && self.parts.len() > 4)
        {
            let pairs = self.parts.windows(2).enumerate().filter_map(|(at, pair)| {
                let [one, other] = pair else { return None };
                let (one, other) = one.count.zip(other.count)?;
                Some((one.keys.saturating_add(other.keys), at + 1))
            });
            if let Some((_, at)) = pairs.min() {
                self.join(at);
                continue;
            }
            // Each second one has been counted: what is farthest from where the walk is will be again.
            let last = self.parts.iter_mut().rfind(|part| part.count.is_some());
            if let Some(part) = last {
                part.count = None;
            }
            self.join_uncounted();
        }
    }
}

/// What a job has found out of some keys: by how much their number was wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    first: Key,
    last: Key,
    by: Count,
    /// Some of them may have been deleted since.
    is_doubtful: bool,
}

/// What a flush or a step of a compaction finds out about numbers of keys, in order of keys. It holds when its tables are installed.
#[derive(Debug, Default)]
pub struct Corrections {
    spans: Vec<Span>,
    /// Bytes of keys in them.
    bytes: usize,
    /// Range deletes of each database since the job began.
    deletes: [u64; DATABASE_COUNT],
}

impl Corrections {
    /// Range deletes of the database of `key` so far.
    pub fn deletes(&self, key: &[u8]) -> u64 {
        self.deletes.get(db_of(key)).copied().unwrap_or(0)
    }

    /// The number is wrong by so much at `key`, which is behind those before. It was first met after so many range deletes.
    pub fn note(&mut self, key: &[u8], by: Count, deletes: u64) {
        if by == Count::default() {
            return;
        }
        let is_doubtful = deletes != self.deletes(key);
        let key = Key::from(key);
        self.bytes += 2 * key.len();
        self.spans.push(Span {
            first: Key::clone(&key),
            last: key,
            by,
            is_doubtful,
        });
        if self.spans.len() > SPANS_MAX || self.bytes > SPANS_BYTES_MAX {
            self.join();
        }
    }

    /// By how much the numbers change.
    pub fn by(&self) -> ByDatabase {
        let mut by = ByDatabase::default();
        for span in &self.spans {
            if let Some(count) = by.get_mut(span.db()) {
                add(count, &span.by);
            }
        }
        by
    }

    /// Databases, by bit, of which it is not known by how much.
    pub fn doubtful(&self) -> u16 {
        let doubtful = self.spans.iter().filter(|span| span.is_doubtful);
        doubtful.fold(0, |bits, span| bits | bit(span.db()))
    }

    /// All from `start` on, up to `end`, was deleted.
    fn delete_range(&mut self, start: &[u8], end: &[u8]) {
        if let Some(deletes) = self.deletes.get_mut(db_of(start)) {
            *deletes += 1;
        }
        self.spans.retain_mut(|span| {
            let is_covered = *start <= span.first[..] && span.last[..] < *end;
            span.is_doubtful |= *start <= span.last[..] && span.first[..] < *end;
            !is_covered
        });
        let keys = self
            .spans
            .iter()
            .map(|span| span.first.len() + span.last.len());
        self.bytes = keys.sum();
    }

    /// Each second one is put to the one before it.
    fn join(&mut self) {
        let mut may_join = true;
        self.spans.dedup_by(|span, before| {
            let joins = may_join && span.db() == before.db();
            if joins {
                before.last = Key::clone(&span.last);
                add(&mut before.by, &span.by);
                before.is_doubtful |= span.is_doubtful;
            }
            may_join = !joins;
            joins
        });
        let keys = self
            .spans
            .iter()
            .map(|span| span.first.len() + span.last.len());
        self.bytes = keys.sum();
    }
}

impl Span {
    fn db(&self) -> usize {
        db_of(&self.first)
    }
}

/// The database of an engine key.
fn db_of(key: &[u8]) -> usize {
    usize::from(key.first().copied().unwrap_or(u8::MAX))
}

/// The databases of these bits, of which there are none nearly always.
fn databases_of(bits: u16) -> impl Iterator<Item = DatabaseIndex> {
    let some = (bits != 0).then(super::apply::databases);
    let is_one = move |db: &DatabaseIndex| bits & bit(usize::from(db.0)) != 0;
    some.into_iter().flatten().filter(is_one)
}

fn bit(db: usize) -> u16 {
    u32::try_from(db)
        .ok()
        .and_then(|db| 1_u16.checked_shl(db))
        .unwrap_or(0)
}

/// Databases whose keys have to be counted, and who waits for it.
#[derive(Default)]
pub(crate) struct Recounts {
    by_database: [Option<Recount>; DATABASE_COUNT],
    /// The newest range delete that was counted, of each database.
    deleted: [Timestamp; DATABASE_COUNT],
    /// Databases, by bit, that cannot be counted for now.
    stuck: u16,
    /// How many wait for each database.
    waiting: [u32; DATABASE_COUNT],
    jobs: Vec<Weak<RefCell<Corrections>>>,
}

impl Recounts {
    /// Of these databases, by bit, nothing is known.
    pub(crate) fn new(uncertain: u16) -> Self {
        let mut recounts = Self::default();
        for db in super::apply::databases() {
            if uncertain & bit(usize::from(db.0)) != 0 {
                recounts.begin(db);
            }
        }
        recounts
    }

    /// Databases, by bit, whose number of keys is uncertain.
    pub(crate) fn uncertain(&self) -> u16 {
        let uncertain = self.by_database.iter().enumerate();
        let uncertain = uncertain.filter(|(_, recount)| recount.is_some());
        uncertain.fold(0, |bits, (db, _)| bits | bit(db))
    }

    /// Databases, by bit, whose number of keys would be uncertain if all commits behind `horizon` were lost.
    pub(crate) fn uncertain_at(&self, horizon: Timestamp) -> u16 {
        let deleted = self.deleted.iter().enumerate();
        let deleted = deleted.filter(|(_, deleted)| **deleted > horizon);
        deleted.fold(self.uncertain(), |bits, (db, _)| bits | bit(db))
    }

    /// Whether somebody who wants to know how many keys there are, which are about so many, is to wait until they are counted.
    pub(crate) fn is_worth_waiting_for(&self, db: DatabaseIndex, keys: u64) -> bool {
        let can_be = self.stuck & bit(usize::from(db.0)) == 0;
        let recount = self
            .by_database
            .get(usize::from(db.0))
            .and_then(Option::as_ref);
        let goes_on = recount.is_some_and(|recount| recount.looked <= LOOKED_MAX);
        can_be && goes_on && keys <= ESTIMATED_FROM
    }

    /// Somebody more waits for a database, or somebody less.
    pub(crate) fn wait(&mut self, db: DatabaseIndex, waits: bool) {
        if let Some(waiting) = self.waiting.get_mut(usize::from(db.0)) {
            *waiting = if waits {
                waiting.saturating_add(1)
            } else {
                waiting.saturating_sub(1)
            };
        }
    }

    /// Whether somebody waits for a database.
    pub(crate) fn is_waited_for(&self, db: DatabaseIndex) -> bool {
        let waiting = self.waiting.get(usize::from(db.0));
        waiting.is_some_and(|waiting| *waiting > 0)
    }

    /// The database to be counted next, of those that can be: one that somebody waits for, if there is one.
    pub(crate) fn next(&self) -> Option<DatabaseIndex> {
        let can_be = self.uncertain() & !self.stuck;
        let mut awaited = databases_of(can_be).filter(|db| self.is_waited_for(*db));
        awaited.next().or_else(|| databases_of(can_be).next())
    }

    /// A database can be counted, or cannot for now.
    pub(crate) fn set_stuck(&mut self, db: DatabaseIndex, is_stuck: bool) {
        let bit = bit(usize::from(db.0));
        self.stuck = if is_stuck {
            self.stuck | bit
        } else {
            self.stuck & !bit
        };
    }

    /// Databases that cannot be counted for now.
    pub(crate) fn stuck(&self) -> impl Iterator<Item = DatabaseIndex> + use<> {
        databases_of(self.stuck & self.uncertain())
    }

    /// What is known of a database, if its number is uncertain.
    pub(crate) fn of(&mut self, db: DatabaseIndex) -> Option<&mut Recount> {
        self.by_database.get_mut(usize::from(db.0))?.as_mut()
    }

    /// The number of a database is known.
    pub(crate) fn end(&mut self, db: DatabaseIndex) {
        if let Some(recount) = self.by_database.get_mut(usize::from(db.0)) {
            *recount = None;
        }
        self.set_stuck(db, false);
    }

    /// Whether the number of a database that has been counted is known without what is in the log behind `horizon`.
    pub(crate) fn is_known_at(&self, db: DatabaseIndex, horizon: Timestamp) -> bool {
        let deleted = self.deleted.get(usize::from(db.0));
        deleted.is_some_and(|deleted| *deleted <= horizon)
    }

    /// A commit changes the number of keys at `key`.
    pub(crate) fn change(&mut self, key: &[u8], by: &Count) {
        let db = key.first().copied().unwrap_or(u8::MAX);
        if let Some(recount) = self.of(DatabaseIndex(db)) {
            recount.change(key, by);
        }
    }

    /// A commit deletes a part of a database.
    pub(crate) fn delete_range(
        &mut self,
        db: DatabaseIndex,
        start: &[u8],
        end: &[u8],
        at: Timestamp,
    ) {
        self.begin(db).delete_range(start, end);
        self.note_deleted(db, start, end, at);
    }

    /// A commit empties a database: then it has no keys.
    pub(crate) fn clear(&mut self, db: DatabaseIndex, start: &[u8], end: &[u8], at: Timestamp) {
        if self.of(db).is_some() {
            self.end(db);
            self.note_deleted(db, start, end, at);
        } else {
            self.for_jobs(|found| found.delete_range(start, end));
        }
    }

    fn note_deleted(&mut self, db: DatabaseIndex, start: &[u8], end: &[u8], at: Timestamp) {
        if let Some(deleted) = self.deleted.get_mut(usize::from(db.0)) {
            *deleted = at;
        }
        self.for_jobs(|found| found.delete_range(start, end));
    }

    fn begin(&mut self, db: DatabaseIndex) -> &mut Recount {
        // There is one for each database.
        let at = usize::from(db.0) % DATABASE_COUNT;
        #[expect(clippy::indexing_slicing, reason = "it is below their count")]
        self.by_database[at].get_or_insert_with(|| Recount::new(db))
    }

    /// What a job that begins now will find out.
    pub(crate) fn begin_job(&mut self) -> Rc<RefCell<Corrections>> {
        self.jobs.retain(|job| job.strong_count() > 0);
        let found = Rc::default();
        self.jobs.push(Rc::downgrade(&found));
        found
    }

    fn for_jobs(&mut self, each: impl Fn(&mut Corrections)) {
        for job in self.jobs.iter().filter_map(Weak::upgrade) {
            each(&mut job.borrow_mut());
        }
    }

    /// What a job has found out of databases, by bit, is so from now on.
    pub(crate) fn install(&mut self, found: &Corrections, databases: u16) {
        // They were counted meanwhile, or would be known.
        let doubtful = found.doubtful() & databases & !self.uncertain();
        for span in &found.spans {
            let db = span.db();
            let Some(index) = u8::try_from(db).ok().map(DatabaseIndex) else {
                continue;
            };
            if databases & bit(db) == 0 {
                continue;
            }
            if doubtful & bit(db) != 0 {
                self.begin(index);
            } else if let Some(recount) = self.of(index) {
                recount.correct(span);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::{BTreeMap, BTreeSet};

    use lfs::sim::Random;

    use super::*;
    use crate::testing::random;

    const DB: DatabaseIndex = DatabaseIndex(3);

    fn key(number: u64) -> Key {
        Key::from(alloc::format!("\x03{number:04}").into_bytes())
    }

    fn keys(keys: i64) -> Count {
        Count { keys, expiring: 0 }
    }

    /// A flush or a step of a compaction.
    struct Job {
        found: Rc<RefCell<Corrections>>,
        /// How many range deletes it saw when it met the key it is at.
        met: Option<(Key, i64, u64)>,
        next: u64,
        /// By how much what it found out changes things: what was deleted since is not there.
        true_ones: BTreeMap<Key, i64>,
    }

    /// Shares of keys, and what is told of them.
    #[derive(Default)]
    struct World {
        recounts: Recounts,
        shares: BTreeMap<Key, i64>,
        /// What a job would find out.
        wrong: BTreeSet<Key>,
        number: i64,
        commits: u64,
        jobs: Vec<Job>,
    }

    const KEYS: u64 = 3000;

    impl World {
        fn sum(&self) -> i64 {
            self.shares.values().sum()
        }

        fn commit(&mut self, random: &mut Random) {
            self.commits += 1;
            let key = key(random.below(KEYS));
            let share = self.shares.entry(Key::clone(&key)).or_default();
            let by = if *share > 0 { -1 } else { 1 };
            *share += by;
            self.number += by;
            self.recounts.change(&key, &keys(by));
            if random.one_in(3) {
                self.wrong.insert(key);
            }
        }

        fn delete_range(&mut self, random: &mut Random) {
            self.commits += 1;
            let from = random.below(KEYS);
            let most = if random.one_in(4) { KEYS } else { 20 };
            let (from, to) = (key(from), key(from + random.below(most)));
            if from >= to {
                return;
            }
            let at = Timestamp(self.commits);
            self.recounts.delete_range(DB, &from, &to, at);
            self.forget(&from, &to);
        }

        fn clear(&mut self) {
            self.commits += 1;
            let (from, to) = (Key::from(&[3][..]), Key::from(&[4][..]));
            let at = Timestamp(self.commits);
            self.recounts.clear(DB, &from, &to, at);
            self.forget(&from, &to);
            // As `CountsBy` sees to it.
            self.jobs.clear();
            self.number = 0;
            assert_eq!(self.recounts.uncertain(), 0);
        }

        fn forget(&mut self, from: &Key, to: &Key) {
            self.shares.retain(|key, _| key < from || key >= to);
            self.wrong.retain(|key| key < from || key >= to);
            for job in &mut self.jobs {
                job.true_ones.retain(|key, _| key < from || key >= to);
            }
        }

        fn turn(&mut self, random: &mut Random) {
            let Some(recount) = self.recounts.of(DB) else {
                return;
            };
            if let Some((from, to)) = recount.next() {
                let (from, to) = (Key::clone(from), Key::clone(to));
                let behind = self.shares.range(Key::clone(&from)..to.clone());
                let stop = behind.clone().map(|(key, _)| key).nth(1 + random.index(40));
                let to = stop.cloned().unwrap_or(to);
                let count = behind.take_while(|(key, _)| **key < to);
                let count = count.map(|(_, share)| *share).sum();
                recount.counted(&to, keys(count), 1);
            }
            assert!(recount.parts.len() <= PARTS_MAX);
            if let Some(total) = recount.total() {
                self.recounts.end(DB);
                self.number = total.keys;
            }
        }

        fn work(&mut self, random: &mut Random) {
            let at = random.index(self.jobs.len());
            let job = &mut self.jobs[at];
            if let Some((key, by, deletes)) = job.met.take() {
                job.found.borrow_mut().note(&key, keys(by), deletes);
                return;
            }
            if job.next < KEYS {
                let met = key(job.next);
                job.next += 1;
                let deletes = job.found.borrow().deletes(&met);
                let by = i64::from(self.wrong.remove(&met)) * (1 - 2 * i64::from(random.one_in(2)));
                if by != 0 {
                    job.true_ones.insert(Key::clone(&met), by);
                }
                job.met = Some((met, by, deletes));
                return;
            }
            let job = self.jobs.swap_remove(at);
            for (key, by) in job.true_ones {
                *self.shares.entry(key).or_default() += by;
            }
            let found = job.found.borrow();
            assert!(found.spans.len() <= SPANS_MAX);
            self.recounts.install(&found, u16::MAX);
            self.number += found.by()[3].keys;
        }
    }

    #[test]
    fn numbers_that_are_certain_are_right() {
        let mut random = random(90);
        let (mut ended, mut corrected) = (0, 0);
        let mut world = World::default();
        for _ in 0..400_000 {
            match random.below(600) {
                0 => world.delete_range(&mut random),
                1 if random.one_in(40) => world.clear(),
                2..=3 if world.jobs.len() < 2 => {
                    let next = random.below(KEYS);
                    world.jobs.push(Job {
                        found: world.recounts.begin_job(),
                        met: None,
                        next,
                        true_ones: BTreeMap::new(),
                    });
                }
                4..=99 => world.commit(&mut random),
                100..=110 => world.turn(&mut random),
                _ if !world.jobs.is_empty() => {
                    let jobs = world.jobs.len();
                    world.work(&mut random);
                    let is_counting = world.recounts.uncertain() != 0;
                    corrected += usize::from(is_counting) * (jobs - world.jobs.len());
                }
                _ => {}
            }
            if world.recounts.uncertain() == 0 {
                ended += 1;
                assert_eq!(world.number, world.sum());
            }
        }
        assert!(ended > 1000 && corrected > 30, "{ended}, {corrected}");
    }

    #[test]
    fn what_long_keys_take_is_bounded_and_it_gets_on_all_the_same() {
        let mut random = random(91);
        let long = |number: u64| {
            let mut key = key(number).to_vec();
            key.resize(60_000, b'x');
            Key::from(key)
        };
        let mut recount = Recount::new(DB);
        let (mut at, mut turns) = (0, 0);
        while let Some((from, to)) = recount.next() {
            assert!(turns < 10_000, "it runs in circles");
            turns += 1;
            let (first, end) = (Key::clone(from), Key::clone(to));
            let next = (0..1000).map(long).find(|key| *key > first);
            let to = next.filter(|next| *next < end).unwrap_or(end);
            recount.counted(&to, keys(100_000), 1);
            let bytes: usize = recount.parts.iter().map(|part| part.from.len()).sum();
            assert!(bytes <= PARTS_BYTES_MAX);
            at += 1;
            if at < 200 {
                let from = random.below(1000);
                recount.delete_range(&long(from), &long(from + random.below(3)));
            }
        }
    }

    #[test]
    fn nobody_waits_for_a_large_database_or_for_ever() {
        let mut recounts = Recounts::default();
        assert!(!recounts.is_worth_waiting_for(DB, 5));
        recounts.delete_range(DB, b"\x03a", b"\x03b", Timestamp(9));
        assert!(recounts.is_worth_waiting_for(DB, ESTIMATED_FROM));
        assert!(!recounts.is_worth_waiting_for(DB, ESTIMATED_FROM + 1));
        recounts.set_stuck(DB, true);
        assert!(!recounts.is_worth_waiting_for(DB, 5));
        assert_eq!(recounts.next(), None);
        recounts.set_stuck(DB, false);
        assert_eq!(recounts.next(), Some(DB));
        for _ in 0..LOOKED_MAX / 256 {
            assert!(recounts.is_worth_waiting_for(DB, 5));
            recounts.of(DB).unwrap().counted(b"\x03b", keys(1), 256);
            recounts.delete_range(DB, b"\x03a", b"\x03b", Timestamp(9));
            recounts.delete_range(DB, b"\x03", b"\x03a", Timestamp(9));
        }
        recounts.of(DB).unwrap().counted(b"\x03b", keys(1), 256);
        assert!(!recounts.is_worth_waiting_for(DB, 5));
    }

    #[test]
    fn who_is_waited_for_comes_first() {
        let mut recounts = Recounts::new(0b1010);
        assert_eq!(recounts.next(), Some(DatabaseIndex(1)));
        recounts.wait(DatabaseIndex(3), true);
        assert_eq!(recounts.next(), Some(DatabaseIndex(3)));
        recounts.wait(DatabaseIndex(3), false);
        assert_eq!(recounts.next(), Some(DatabaseIndex(1)));
        assert_eq!(recounts.uncertain_at(Timestamp(0)), 0b1010);
        recounts.delete_range(DatabaseIndex(1), b"\x01", b"\x01a", Timestamp(7));
        recounts.end(DatabaseIndex(1));
        assert_eq!(recounts.uncertain_at(Timestamp(6)), 0b1010);
        assert_eq!(recounts.uncertain_at(Timestamp(7)), 0b1000);
    }
}
