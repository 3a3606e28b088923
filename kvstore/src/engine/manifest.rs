//! The manifest: which tables there are, and what else the engine keeps in a checkpoint (`ENGINE.md`, section 2).
//!
//! A checkpoint has room for a small one; a larger one is an object of its own, which the checkpoint names. What is decoded is
//! consistent: tables of a run are in order and do not overlap, runs are newest first, no object is named twice.

use alloc::vec::Vec;

use lfs::ObjectId;

use super::table::{Dropped, TableRef, TableStats};
use super::timeline::Timeline;
use super::types::{BlockError, ChunkRef, Malformed, OutOfMemory, SLOT_COUNT};
use super::varint::{put_varint, take_array, take_bytes, take_len, take_varint, unzigzag, zigzag};
use crate::{DATABASE_COUNT, KEY_BYTES_MAX, Key, Timestamp};

/// What this layout is called.
const VERSION: u8 = 3;

/// The largest body that a checkpoint has in itself.
pub const INLINE_BYTES_MAX: usize = 2048;

/// Runs there can be. `pick` keeps them to a few dozen.
pub const RUNS_MAX: usize = 256;

/// The tier of the base: the oldest run.
pub const BASE: u8 = u8::MAX;

/// What the engine keeps in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// History behind this commit is kept.
    pub floor: Timestamp,
    /// The next slot of the value file: no smaller one is used again.
    pub next_slot: u64,
    /// When commits were.
    pub timeline: Timeline,
    /// Of each database, what its runs hold.
    pub counts: [Count; DATABASE_COUNT],
    /// Databases, by bit, whose count is to be found out anew.
    pub uncertain: u16,
    /// Newest first.
    pub runs: Vec<RunRef>,
}

/// How many keys there are. Below zero for as long as too much was assumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// All keys.
    pub keys: i64,
    /// Those of them that expire.
    pub expiring: i64,
}

/// A row of tables in key order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRef {
    /// How often it was merged; [`BASE`] of the base.
    pub tier: u8,
    /// The tier that a job moves it to, which has begun: it goes on with just these runs.
    pub job: Option<u8>,
    /// It holds commits from here.
    pub first: Timestamp,
    /// To here.
    pub last: Timestamp,
    /// At least one.
    pub tables: Vec<TableRef>,
}

/// Where a manifest's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'b> {
    /// In the checkpoint.
    Inline(&'b [u8]),
    /// In an object, of this many bytes.
    Object(ObjectId, u64),
}

impl Place<'_> {
    /// Appends what a checkpoint says: the body, or where it is.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), OutOfMemory> {
        match self {
            Self::Inline(body) => {
                out.try_reserve(2 + body.len())?;
                out.extend_from_slice(&[VERSION, 0]);
                out.extend_from_slice(body);
            }
            Self::Object(object, len) => {
                out.try_reserve(18)?;
                out.extend_from_slice(&[VERSION, 1]);
                out.extend_from_slice(&object.0.to_le_bytes());
                out.extend_from_slice(&len.to_le_bytes());
            }
        }
        Ok(())
    }

    /// What a checkpoint says.
    ///
    /// # Errors
    /// When it says something else.
    pub fn decode(bytes: &[u8]) -> Result<Place<'_>, Malformed> {
        match bytes {
            [VERSION, 0, body @ ..] if body.len() <= INLINE_BYTES_MAX => Ok(Place::Inline(body)),
            [VERSION, 1, place @ ..] if place.len() == 16 => {
                let (object, len) = (place.first_chunk(), place.last_chunk());
                let object = ObjectId(u64::from_le_bytes(*object.ok_or(Malformed)?));
                let len = u64::from_le_bytes(*len.ok_or(Malformed)?);
                Ok(Place::Object(object, len))
            }
            _ => Err(Malformed),
        }
    }
}

impl Default for Manifest {
    /// That of an empty store.
    fn default() -> Self {
        Self {
            floor: Timestamp(0),
            next_slot: 0,
            timeline: Timeline::default(),
            counts: [Count::default(); DATABASE_COUNT],
            uncertain: 0,
            runs: Vec::new(),
        }
    }
}

impl Manifest {
    /// Appends the body.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), OutOfMemory> {
        // The greatest there can be of each part, before it is added.
        const HEAD_BYTES_MAX: usize = 64 + 20 * DATABASE_COUNT;
        const TABLE_BYTES_MAX: usize = 200;
        out.try_reserve(HEAD_BYTES_MAX + 20 * self.timeline.len())?;
        put_varint(out, self.floor.0);
        put_varint(out, self.next_slot);
        self.timeline.encode(out);
        for count in &self.counts {
            put_signed(out, count.keys);
            put_signed(out, count.expiring);
        }
        out.extend_from_slice(&self.uncertain.to_le_bytes());
        put_varint(out, self.runs.len() as u64);
        for run in &self.runs {
            out.try_reserve(40)?;
            // No job goes to tier 0.
            out.extend_from_slice(&[run.tier, run.job.unwrap_or(0)]);
            put_varint(out, run.first.0);
            put_varint(out, run.last.0);
            put_varint(out, run.tables.len() as u64);
            let mut before: Option<&Key> = None;
            for table in &run.tables {
                let keys = table.from.len() + table.to.as_ref().map_or(0, |to| to.len());
                out.try_reserve(TABLE_BYTES_MAX + keys)?;
                table.encode(before, out);
                before = table.to.as_ref();
            }
        }
        Ok(())
    }

    /// The manifest that `bytes` are the body of.
    ///
    /// # Errors
    /// When they are no such thing, or there is no memory for it; it takes at most some ten times the bytes.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, BlockError> {
        let bytes = &mut bytes;
        let mut manifest = Self {
            floor: Timestamp(take(bytes)?),
            next_slot: Some(take(bytes)?)
                .filter(|slot| *slot <= SLOT_COUNT)
                .ok_or(Malformed)?,
            timeline: Timeline::decode(bytes)?,
            ..Self::default()
        };
        for count in &mut manifest.counts {
            count.keys = take_signed(bytes)?;
            count.expiring = take_signed(bytes)?;
        }
        manifest.uncertain = u16::from_le_bytes(take_array(bytes).ok_or(Malformed)?);
        let runs = take_len(bytes).ok_or(Malformed)?;
        if runs > RUNS_MAX {
            return Err(Malformed.into());
        }
        for _ in 0..runs {
            let run = RunRef::decode(bytes)?;
            manifest.runs.try_reserve(1).map_err(OutOfMemory::from)?;
            manifest.runs.push(run);
        }
        if !bytes.is_empty() || !manifest.is_consistent()? {
            return Err(Malformed.into());
        }
        Ok(manifest)
    }

    fn is_consistent(&self) -> Result<bool, OutOfMemory> {
        let mut objects = Vec::new();
        for run in &self.runs {
            objects.try_reserve(run.tables.len())?;
            objects.extend(run.tables.iter().map(|table| table.object));
        }
        objects.sort_unstable();
        let named_once = objects.windows(2).all(|pair| pair.first() != pair.last());
        let in_order = self.runs.iter().enumerate().all(|(at, run)| {
            let mut older = self.runs.iter().skip(at + 1);
            older.all(|older| older.last < run.first || !run.may_share_keys(older))
        });
        Ok(named_once && in_order)
    }
}

impl RunRef {
    /// Whether a key could be in both. Where a job was stopped, runs of the same commits have different keys.
    fn may_share_keys(&self, other: &Self) -> bool {
        let begins_behind = |run: &Self, other: &Self| {
            let (first, last) = (run.tables.first(), other.tables.last());
            first
                .zip(last)
                .is_none_or(|(first, last)| last.to.as_ref().is_some_and(|end| *end <= first.from))
        };
        !begins_behind(self, other) && !begins_behind(other, self)
    }

    fn decode(bytes: &mut &[u8]) -> Result<Self, BlockError> {
        let [tier, job] = take_array(bytes).ok_or(Malformed)?;
        let mut run = Self {
            tier,
            job: (job != 0).then_some(job),
            first: Timestamp(take(bytes)?),
            last: Timestamp(take(bytes)?),
            tables: Vec::new(),
        };
        let tables = take_len(bytes).ok_or(Malformed)?;
        if run.first > run.last || tables == 0 {
            return Err(Malformed.into());
        }
        for _ in 0..tables {
            let before = run.tables.last();
            let table = TableRef::decode(before, bytes)?;
            run.tables.try_reserve(1).map_err(OutOfMemory::from)?;
            run.tables.push(table);
        }
        Ok(run)
    }
}

/// Bits of a table's flags.
const SWEPT: u8 = 1;
const HAS_END: u8 = 2;
/// It begins where the table before it ends.
const JOINED: u8 = 4;

impl TableRef {
    fn encode(&self, before: Option<&Key>, out: &mut Vec<u8>) {
        let joined = before.is_some_and(|end| *end == self.from);
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        out.push(
            flag(self.dropped == Dropped::Swept, SWEPT)
                | flag(self.to.is_some(), HAS_END)
                | flag(joined, JOINED),
        );
        for number in [
            self.object.0,
            self.bytes,
            self.head.at().offset,
            u64::from(self.head.at().len),
        ] {
            put_varint(out, number);
        }
        self.stats.encode(out);
        let from = (!joined).then_some(&self.from);
        for key in from.into_iter().chain(&self.to) {
            put_varint(out, key.len() as u64);
            out.extend_from_slice(key);
        }
    }

    fn decode(before: Option<&Self>, bytes: &mut &[u8]) -> Result<Self, Malformed> {
        let [flags] = take_array(bytes).ok_or(Malformed)?;
        let (object, len) = (ObjectId(take(bytes)?), take(bytes)?);
        let head = ChunkRef {
            offset: take(bytes)?,
            len: take(bytes)?.try_into().map_err(|_| Malformed)?,
        };
        let stats = TableStats::decode(bytes).ok_or(Malformed)?;
        let end_before = before.map(|table| table.to.as_ref());
        let from = match end_before {
            // Behind one without an end there is nothing.
            Some(None) => return Err(Malformed),
            Some(Some(end)) if flags & JOINED != 0 => Key::clone(end),
            None if flags & JOINED != 0 => return Err(Malformed),
            Some(Some(end)) => take_key(bytes).filter(|from| from > end).ok_or(Malformed)?,
            None => take_key(bytes).ok_or(Malformed)?,
        };
        let to = if flags & HAS_END == 0 {
            None
        } else {
            let to = take_key(bytes).filter(|to| *to > from);
            Some(to.ok_or(Malformed)?)
        };
        let head_end = head.offset.checked_add(u64::from(head.len));
        // It may list slots that were dropped, and nothing else.
        let is_empty = stats.entries == 0 && stats.range_deletes == 0;
        let is_consistent = flags & !(SWEPT | HAS_END | JOINED) == 0
            && stats.tombstones <= stats.entries
            && stats.expiring <= stats.entries
            && stats.retained_bytes <= stats.history_bytes
            && (is_empty || stats.least_timestamp <= stats.greatest_timestamp)
            && head_end.is_some_and(|end| end <= len);
        if !is_consistent {
            return Err(Malformed);
        }
        let dropped = if flags & SWEPT == 0 {
            Dropped::Pending
        } else {
            Dropped::Swept
        };
        Ok(Self {
            object,
            bytes: len,
            head: head.into(),
            from,
            to,
            stats,
            dropped,
        })
    }
}

fn take(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    take_varint(bytes).ok_or(Malformed)
}

fn put_signed(out: &mut Vec<u8>, number: i64) {
    put_varint(out, zigzag(number));
}

fn take_signed(bytes: &mut &[u8]) -> Result<i64, Malformed> {
    take(bytes).map(unzigzag)
}

/// An engine key.
fn take_key(bytes: &mut &[u8]) -> Option<Key> {
    let len = take_len(bytes).filter(|len| *len <= KEY_BYTES_MAX + 1)?;
    take_bytes(bytes, len).map(Key::from)
}

#[cfg(test)]
mod tests {
    use lfs::sim::Random;

    use super::*;
    use crate::engine::table::STATISTIC_MAX;
    use crate::testing::{random, short_key};

    fn any(random: &mut Random) -> u64 {
        let bits = random.below(64);
        random.next_u64() >> bits
    }

    fn statistic(random: &mut Random) -> u64 {
        any(random) % (STATISTIC_MAX + 1)
    }

    /// Tables with the keys from `low` to `high`.
    fn tables(random: &mut Random, objects: &mut u64, low: &[u8], high: &[u8]) -> Vec<TableRef> {
        let mut bounds = alloc::vec![low.to_vec(), high.to_vec()];
        for _ in 0..random.index(8) {
            bounds.push([low, &short_key(random, 4)].concat());
        }
        bounds.sort();
        bounds.dedup();
        let mut tables = Vec::<TableRef>::new();
        for pair in bounds.windows(2) {
            if random.one_in(4) && !tables.is_empty() {
                continue;
            }
            *objects += 1 + random.below(3);
            let (least, entries) = (random.below(1000), statistic(random).max(1));
            let history_bytes = statistic(random);
            let len = any(random).max(20);
            tables.push(TableRef {
                object: ObjectId(*objects),
                bytes: len,
                head: ChunkRef {
                    offset: random.below(len - 10),
                    len: u32::try_from(random.below(10)).unwrap(),
                }
                .into(),
                from: Key::from(&pair[0][..]),
                to: Some(Key::from(&pair[1][..])),
                stats: TableStats {
                    entries,
                    tombstones: random.below(entries),
                    expiring: random.below(entries),
                    key_bytes: statistic(random),
                    history_bytes,
                    retained_bytes: random.below(history_bytes + 1),
                    floor: Timestamp(any(random)),
                    large_bytes: statistic(random),
                    least_timestamp: Timestamp(least),
                    greatest_timestamp: Timestamp(least + random.below(1000)),
                    least_expiry_ms: any(random).cast_signed(),
                    ..TableStats::default()
                },
                dropped: if random.one_in(2) {
                    Dropped::Pending
                } else {
                    Dropped::Swept
                },
            });
        }
        tables
    }

    fn manifest(random: &mut Random) -> Manifest {
        let mut manifest = Manifest {
            floor: Timestamp(any(random)),
            next_slot: any(random) % (SLOT_COUNT + 1),
            uncertain: u16::try_from(random.below(1 << 16)).unwrap(),
            ..Manifest::default()
        };
        for count in &mut manifest.counts {
            count.keys = random.next_u64().cast_signed();
            count.expiring = any(random).cast_signed();
        }
        for second in 0..i64::try_from(random.below(100)).unwrap() {
            let commit = Timestamp(second.cast_unsigned() * 5 + 1);
            manifest.timeline.note(second * 1000, commit).unwrap();
        }
        let (mut commit, mut objects) = (1 << 40, 0);
        for tier in 0..u8::try_from(random.below(6)).unwrap() {
            let last = Timestamp(commit);
            commit -= 1 + random.below(100);
            let mut run = |random: &mut Random, low: &[u8], high: &[u8]| RunRef {
                tier,
                job: Some(tier + 1).filter(|_| random.one_in(2)),
                first: Timestamp(commit),
                last,
                tables: tables(random, &mut objects, low, high),
            };
            if random.one_in(3) {
                // A job that was stopped.
                let runs = [run(random, b"m", b"z"), run(random, b"a", b"m")];
                manifest.runs.extend(runs);
            } else {
                let mut run = run(random, b"", b"z");
                if random.one_in(2) {
                    run.tables.last_mut().unwrap().to = None;
                }
                manifest.runs.push(run);
            }
            commit -= 1;
        }
        manifest
    }

    fn encoded(manifest: &Manifest) -> Vec<u8> {
        let mut bytes = Vec::new();
        manifest.encode(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn says_what_it_was_made_of() {
        let mut random = random(14);
        for _ in 0..500 {
            let manifest = manifest(&mut random);
            let bytes = encoded(&manifest);
            let decoded = Manifest::decode(&bytes);
            assert_eq!(decoded.as_ref(), Ok(&manifest));
            assert_eq!(encoded(&decoded.unwrap()), bytes, "it has one form");
        }
        let empty = Manifest::default();
        assert_eq!(Manifest::decode(&encoded(&empty)), Ok(empty));
    }

    #[test]
    fn hostile_bytes_are_refused_or_mean_something_consistent() {
        let mut random = random(15);
        for _ in 0..20 {
            let bytes = encoded(&manifest(&mut random));
            for len in 0..bytes.len() {
                assert!(Manifest::decode(&bytes[..len]).is_err());
            }
            for at in 0..bytes.len() {
                let mut bent = bytes.clone();
                bent[at] ^= 1 << random.below(8);
                if let Ok(decoded) = Manifest::decode(&bent) {
                    assert!(decoded.is_consistent().unwrap());
                    assert_eq!(encoded(&decoded), bent);
                }
            }
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let mut random = random(16);
        let good = loop {
            let manifest = manifest(&mut random);
            if manifest.runs.len() >= 2 && manifest.runs[0].tables.len() >= 2 {
                break manifest;
            }
        };
        let refused = |bend: &dyn Fn(&mut Manifest)| {
            let mut bent = good.clone();
            bend(&mut bent);
            assert_eq!(
                Manifest::decode(&encoded(&bent)),
                Err(BlockError::Malformed(Malformed))
            );
        };
        refused(&|bent| bent.runs[0].tables.swap(0, 1));
        refused(&|bent| bent.runs[1].tables[0].object = bent.runs[0].tables[0].object);
        refused(&|bent| {
            for run in &mut bent.runs {
                (run.first, run.last) = (Timestamp(1), Timestamp(9));
                run.tables.last_mut().unwrap().to = None;
            }
        });
        refused(&|bent| bent.runs[0].first = Timestamp(u64::MAX));
        refused(&|bent| bent.runs[0].tables[0].to = None);
        refused(&|bent| bent.runs[0].tables.clear());
        refused(&|bent| bent.runs[0].tables[0].stats.tombstones = u64::MAX);
        refused(&|bent| {
            let head = &mut bent.runs[0].tables[0].head;
            let ChunkRef { len, .. } = head.at();
            *head = ChunkRef {
                offset: u64::MAX,
                len,
            }
            .into();
        });
        refused(&|bent| bent.next_slot = SLOT_COUNT + 1);
        let long = Key::from(alloc::vec![0; KEY_BYTES_MAX + 2]);
        refused(&|bent| bent.runs[0].tables[0].from = Key::clone(&long));
        refused(&|bent| bent.runs = alloc::vec![bent.runs[0].clone(); RUNS_MAX + 1]);
    }

    #[test]
    fn a_table_of_which_all_was_dropped_made_a_manifest_that_was_never_read_again() {
        let table = TableRef {
            object: ObjectId(7),
            bytes: 100,
            head: ChunkRef { offset: 0, len: 90 }.into(),
            from: Key::from(&b""[..]),
            to: None,
            stats: TableStats {
                dropped_slots: 3,
                ..TableStats::default()
            },
            dropped: Dropped::Pending,
        };
        let manifest = Manifest {
            runs: alloc::vec![RunRef {
                tier: BASE,
                job: None,
                first: Timestamp(1),
                last: Timestamp(9),
                tables: alloc::vec![table],
            }],
            ..Manifest::default()
        };
        assert_eq!(Manifest::decode(&encoded(&manifest)), Ok(manifest));
    }

    #[test]
    fn statistics_of_tables_that_could_not_be_added_up_are_refused() {
        let stats = TableStats {
            entries: STATISTIC_MAX + 1,
            ..TableStats::default()
        };
        let mut bytes = Vec::new();
        stats.encode(&mut bytes);
        let most = TableStats {
            entries: STATISTIC_MAX,
            ..stats
        };
        assert_eq!(
            TableStats::decode(&mut &bytes[..]),
            Some(most),
            "who has more says this"
        );
        let mut bent = Vec::new();
        put_varint(&mut bent, STATISTIC_MAX + 1);
        bent.extend_from_slice(&bytes[bent.len()..]);
        assert_eq!(TableStats::decode(&mut &bent[..]), None);
    }

    #[test]
    fn a_checkpoint_says_where_it_is() {
        let places = [
            Place::Inline(b"body"),
            Place::Inline(&[]),
            Place::Object(ObjectId(7), 1 << 40),
        ];
        for place in places {
            let mut bytes = Vec::new();
            place.encode(&mut bytes).unwrap();
            assert_eq!(Place::decode(&bytes), Ok(place));
        }
        let large = [&[VERSION, 0][..], &[0; INLINE_BYTES_MAX + 1]].concat();
        for bytes in [
            &[][..],
            &[2],
            &[1, 0],
            &[2, 2],
            &[2, 1, 0],
            &[2; 18],
            &large,
        ] {
            assert_eq!(Place::decode(bytes), Err(Malformed));
        }
    }
}
