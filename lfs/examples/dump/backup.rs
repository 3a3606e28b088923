//! "Backup streams" of `SPEC.md`: what they say, and what is there when they were applied one after the other.

use super::bytes::{BLOCK, Fallible, Taker, crc, lz4, u32_at, u64_at};
use super::files::{
    ATTRIBUTE, Data, ENTRY, EXTENT, INLINE, INODE, Item, Items, Key, ORPHAN, State,
};

const HEADER: u8 = 1;
const LAYER: u8 = 2;
const REMOVALS: u8 = 3;
const CONTENTS: u8 = 4;
const TRAILER: u8 = 5;

/// A full backup, or an incremental one.
pub struct Backup {
    pub lineage: [u64; 2],
    pub at: u64,
    pub since: u64,
    pub frames: usize,
    pub time_ns: i64,
    /// In use on the source.
    pub bytes_used: u64,
    /// Name of the snapshot.
    pub snapshot: Vec<u8>,
    /// Records of the layer above.
    pub layer: Vec<u8>,
    pub records: Vec<Record>,
}

pub enum Record {
    Put(Key, Vec<u8>),
    Remove(Key),
    /// Object, kind and name.
    RemoveName(u64, u8, Vec<u8>),
    /// Object and offset.
    Data(u64, u64, Vec<u8>),
    /// Object, from where and up to where.
    Free(u64, u64, u64),
}

/// What all frames of a backup have in common, and what each must say of those before it.
struct Expected {
    lineage: [u64; 2],
    at: u64,
    since: u64,
    number: u64,
    payload_before: u64,
    previous: u32,
    section: u8,
}

struct Frame {
    section: u8,
    payload: Vec<u8>,
}

impl Backup {
    /// Reads a whole stream.
    ///
    /// # Errors
    /// At the first thing that is not as `SPEC.md` says.
    pub fn read(stream: &[u8]) -> Fallible<Self> {
        let mut expected = Expected {
            lineage: [u64_at(stream, 8)?, u64_at(stream, 16)?],
            at: u64_at(stream, 24)?,
            since: u64_at(stream, 32)?,
            number: 0,
            payload_before: 0,
            previous: 0,
            section: 0,
        };
        let mut backup = Self {
            lineage: expected.lineage,
            at: expected.at,
            since: expected.since,
            frames: 0,
            time_ns: 0,
            bytes_used: 0,
            snapshot: Vec::new(),
            layer: Vec::new(),
            records: Vec::new(),
        };
        if backup.since >= backup.at {
            return Err("a backup since what is not before it".into());
        }
        let mut stream = Taker(stream);
        while !stream.0.is_empty() {
            let frame = expected.next(&mut stream)?;
            backup.frames += 1;
            let mut payload = Taker(&frame.payload);
            match frame.section {
                HEADER => {
                    backup.time_ns = payload.u64()?.cast_signed();
                    backup.bytes_used = payload.u64()?;
                    backup.snapshot = payload.0.to_vec();
                }
                LAYER => backup.layer.extend(payload.0),
                section @ (REMOVALS | CONTENTS) => {
                    while !payload.0.is_empty() {
                        backup.records.push(Record::take(&mut payload, section)?);
                    }
                }
                _ => {}
            }
        }
        if expected.section != TRAILER {
            return Err("a backup without an end".into());
        }
        Ok(backup)
    }
}

impl Expected {
    fn next(&mut self, stream: &mut Taker<'_>) -> Fallible<Frame> {
        let whole = stream.0;
        let header = stream.bytes(80)?;
        let (len, stored) = (u32_at(header, 64)? as usize, u32_at(header, 68)? as usize);
        let cursor = u32_at(header, 72)? as usize;
        if len > 2 << 20 || stored > len || cursor > 66_000 {
            return Err("a frame that is too large".into());
        }
        let cursor = stream.bytes(cursor)?;
        let payload = stream.bytes(stored)?;
        let frame = &whole[..80 + cursor.len() + stored];
        let (section, compression) = (header[62], header[63]);
        let valid = header[..4] == *b"SiBk" && u32_at(header, 4)? == crc(&frame[8..]);
        let goes_on = [u64_at(header, 8)?, u64_at(header, 16)?] == self.lineage
            && u64_at(header, 24)? == self.at
            && u64_at(header, 32)? == self.since
            && u64_at(header, 40)? == self.number
            && u64_at(header, 48)? == self.payload_before
            && u32_at(header, 56)? == self.previous
            && header[60..62] == [1, 0];
        // The header is one frame, the first, and nothing follows the trailer.
        let in_order = (section == HEADER) == (self.number == 0)
            && (self.section..=TRAILER).contains(&section)
            && self.section != TRAILER;
        if !valid || !goes_on || !in_order || !is_cursor(cursor, section)? {
            return Err(format!("no valid frame {} of a backup", self.number).into());
        }
        let payload = match compression {
            0 if stored == len => payload.to_vec(),
            1 => lz4(payload, len)?,
            _ => return Err("a frame compressed in an unknown way".into()),
        };
        self.number += 1;
        self.payload_before += len as u64;
        self.previous = u32_at(header, 4)?;
        self.section = section;
        Ok(Frame { section, payload })
    }
}

/// Whether this says where a stream goes on behind a frame.
fn is_cursor(cursor: &[u8], section: u8) -> Fallible<bool> {
    if section == TRAILER {
        return Ok(cursor.is_empty());
    }
    let mut taker = Taker(cursor);
    match taker.byte()? {
        0 => return Ok(section <= LAYER),
        1 | 2 => {
            let (_object, _kind) = (taker.varint()?, taker.byte()?);
            let (_position, _version) = (taker.varint()?, taker.varint()?);
        }
        3 => {}
        _ => return Ok(false),
    }
    Ok(taker.0.is_empty())
}

impl Record {
    fn take(taker: &mut Taker<'_>, section: u8) -> Fallible<Self> {
        let record = match (taker.byte()?, section) {
            (1, _) => {
                let kind = taker.byte()?;
                let key = (taker.varint()?, kind, taker.varint()?);
                let len = taker.varint()?;
                let known = [INODE, INLINE, ENTRY, ATTRIBUTE, ORPHAN].contains(&kind);
                let value = taker.bytes(len as usize)?.to_vec();
                known.then_some(Self::Put(key, value))
            }
            (2, _) => {
                let kind = taker.byte()?;
                let key = (taker.varint()?, kind, taker.varint()?);
                let known = [INODE, INLINE, ORPHAN].contains(&kind);
                known.then_some(Self::Remove(key))
            }
            (3, _) => {
                let (kind, object) = (taker.byte()?, taker.varint()?);
                let len = taker.varint()?;
                let name = taker.bytes(len as usize)?.to_vec();
                let known = [ENTRY, ATTRIBUTE].contains(&kind);
                known.then_some(Self::RemoveName(object, kind, name))
            }
            (4, _) => {
                let (object, offset) = (taker.varint()?, taker.varint()?);
                let len = taker.varint()?;
                let bytes = taker.bytes(len as usize)?.to_vec();
                let possible = offset % BLOCK as u64 == 0 && (1..=65_536).contains(&len);
                possible.then_some(Self::Data(object, offset, bytes))
            }
            (5, _) => {
                let (object, from, to) = (taker.varint()?, taker.varint()?, taker.varint()?);
                let possible = to % BLOCK as u64 == 0;
                possible.then_some(Self::Free(object, from, to))
            }
            _ => None,
        };
        record.ok_or_else(|| format!("no such record in section {section}").into())
    }
}

/// What a row of backups leaves. Extent items hold the bytes themselves, and names have positions of our own.
#[derive(Default)]
pub struct Restored {
    items: Items,
    lineage: Option<[u64; 2]>,
    /// The state it shows.
    at: u64,
}

impl Restored {
    /// Applies the next backup of the row.
    ///
    /// # Errors
    /// If it is not the next one.
    pub fn apply(&mut self, backup: &Backup) -> Fallible<()> {
        if *self.lineage.get_or_insert(backup.lineage) != backup.lineage || backup.since != self.at
        {
            return Err("a backup that does not follow the one before".into());
        }
        self.at = backup.at;
        for record in &backup.records {
            match record {
                Record::Put((object, kind @ (ENTRY | ATTRIBUTE), 0), value) => {
                    let name = Taker(value).name()?;
                    let position = self.position(*object, *kind, name);
                    self.put((*object, *kind, position), value);
                }
                Record::Put((_, ENTRY | ATTRIBUTE, _), _) => {
                    return Err("a name with a position".into());
                }
                Record::Put(key, value) => self.put(*key, value),
                Record::Remove(key) => {
                    self.items.remove(key).ok_or("removes what is not there")?;
                }
                Record::RemoveName(object, kind, name) => {
                    let position = self.position(*object, *kind, name);
                    let removed = self.items.remove(&(*object, *kind, position));
                    removed.ok_or("removes a name that is not there")?;
                }
                Record::Data(object, offset, bytes) => {
                    self.free(*object, *offset, offset + bytes.len() as u64);
                    self.put((*object, EXTENT, *offset), bytes);
                }
                Record::Free(object, from, to) => self.free(*object, *from, *to),
            }
        }
        Ok(())
    }

    pub fn state(&self) -> State<'_> {
        State {
            items: self.items.clone(),
            data: self,
        }
    }

    fn put(&mut self, key: Key, value: &[u8]) {
        self.items.insert(key, (self.at, value.to_vec()));
    }

    /// Where a name is, or may be put.
    fn position(&self, object: u64, kind: u8, name: &[u8]) -> u64 {
        let mut free = 0;
        for ((_, _, position), (_, value)) in self
            .items
            .range((object, kind, 0)..=(object, kind, u64::MAX))
        {
            if Taker(value).name().is_ok_and(|there| there == name) {
                return *position;
            }
            free = position + 1;
        }
        free
    }

    /// Takes a range out of an object's data.
    fn free(&mut self, object: u64, from: u64, to: u64) {
        let reach = from.saturating_sub(65_536);
        let near = self
            .items
            .range((object, EXTENT, reach)..(object, EXTENT, to));
        let near = near.map(|(key, _)| *key).collect::<Vec<_>>();
        for key in near {
            let start = key.2;
            let len = self.items[&key].1.len() as u64;
            if start + len <= from {
                continue;
            }
            let Some((_, bytes)) = self.items.remove(&key) else {
                continue;
            };
            if start < from {
                self.put(key, &bytes[..(from - start) as usize]);
            }
            if to < start + len {
                self.put((object, EXTENT, to), &bytes[(to - start) as usize..]);
            }
        }
    }
}

impl Data for Restored {
    fn len(&self, (_, bytes): &Item) -> Fallible<u64> {
        Ok(bytes.len() as u64)
    }

    fn bytes(&self, _key: &Key, (_, bytes): &Item) -> Fallible<Vec<u8>> {
        Ok(bytes.clone())
    }
}
