//! "Groups" and "Records" of `SPEC.md`, and what "Recovery" says of reading them.

use std::mem;

use super::bytes::{BLOCK, Fallible, Taker, crc, lz4, u32_at, u64_at};
use super::files::{EXTENT, Key, Piece};
use super::image::{Checkpoint, Reader};
use super::keys;

/// A group of the log.
struct Group {
    header: Vec<u8>,
    records: Vec<u8>,
    blocks: u64,
}

/// Where replay is.
struct Expected {
    sequence: u64,
    commit: u64,
    /// The checksum of the group before.
    previous: u32,
}

enum Record {
    Put(Key, Vec<u8>),
    Remove(Key),
    /// Object and offset.
    Write(u64, u64, Piece),
    /// Object, from where and up to where.
    Free(u64, u64, u64),
    Layer(Vec<u8>),
}

impl Reader {
    /// Applies what the log has behind the checkpoint.
    pub(super) fn replay(&mut self, checkpoint: &Checkpoint) -> Fallible<()> {
        let mut segments = checkpoint.log.clone();
        let mut expected = Expected {
            sequence: checkpoint.u64(136)?,
            commit: checkpoint.u64(144)?,
            previous: checkpoint.u32(108)?,
        };
        let (horizon, tree_commit) = (checkpoint.u64(112)?, checkpoint.u64(120)?);
        let durable = checkpoint.u64(128)?;
        // Parts of a commit whose beginning was not seen are of no interest.
        let mut skipping = checkpoint.u32(104)? & 1 != 0;
        let mut parts: Vec<(Vec<u8>, u64)> = Vec::new();
        let mut at = 0;
        while at < segments.len() && at < self.superblock.log_segments {
            let start = self.superblock.first_segment_block
                + u64::from(segments[at]) * self.superblock.segment_blocks;
            let mut next = 0;
            while next < self.superblock.segment_blocks {
                let block = start + next;
                let room = self.superblock.segment_blocks - next;
                let Some(group) = self.group(block, room, &expected, durable)? else {
                    break;
                };
                let flags = u32_at(&group.header, 60)?;
                if flags & 1 == 0 {
                    parts.clear();
                    skipping = false;
                }
                let mut frames = Taker(&group.records);
                let mut address = block * BLOCK as u64 + 160;
                while !frames.0.is_empty() {
                    let (len, data_len) = (frames.varint()?, frames.varint()?);
                    parts.push((frames.bytes(len as usize)?.to_vec(), address));
                    let ends = !(frames.0.is_empty() && flags & 2 != 0);
                    if ends {
                        let commit = expected.commit;
                        let parts = mem::take(&mut parts);
                        if !mem::take(&mut skipping) {
                            self.apply(&parts, commit, commit > tree_commit, commit > horizon)?;
                            self.last_commit = self.last_commit.max(commit);
                        }
                        expected.commit += 1;
                    }
                    address += data_len;
                }
                for (ahead, field) in [88, 92].into_iter().enumerate() {
                    let segment = u32_at(&group.header, field)?;
                    if segment < self.segment_count && segments.len() == at + 1 + ahead {
                        segments.push(segment);
                    }
                }
                expected.sequence += 1;
                expected.previous = u32_at(&group.header, 4)?;
                next += group.blocks;
                self.groups += 1;
            }
            if next == 0 {
                break;
            }
            at += 1;
        }
        Ok(())
    }

    /// The group at a block, if it is the next one, with its records in plain.
    fn group(
        &self,
        block: u64,
        room: u64,
        expected: &Expected,
        durable: u64,
    ) -> Fallible<Option<Group>> {
        let bytes = self.block(block, room)?;
        let header = bytes[..160].to_vec();
        if !self.is_intact(b"SiGr", &header, block)
            || u64_at(&header, 32)? != expected.sequence
            || u64_at(&header, 40)? != expected.commit
            || u32_at(&header, 64)? != expected.previous
        {
            return Ok(None);
        }
        let (data, len) = (u32_at(&header, 68)? as usize, u32_at(&header, 76)? as usize);
        let mut taker = Taker(&bytes[160..]);
        let data = taker.bytes(data)?;
        let mut records = taker.bytes(len)?.to_vec();
        let of_data = u32_at(&header, 72)? == crc(data) || expected.sequence <= durable;
        if u32_at(&header, 84)? != crc(&records) || !of_data {
            return Ok(None);
        }
        let blocks = (160 + data.len() + len).div_ceil(BLOCK) as u64;
        let flags = u32_at(&header, 60)?;
        if (flags & 8 != 0) != self.keys.is_some() {
            return Err("a group of a file system with a key without one, or the other way".into());
        }
        if let Some(keys) = &self.keys {
            let mut context = header.clone();
            context[4..8].fill(0);
            context[84..88].fill(0);
            context[96..136].fill(0);
            let (nonce, tag) = (&header[96..120], &header[120..136]);
            keys.open(keys::GROUP, nonce, tag, &context, &mut records)?;
        }
        if flags & 4 != 0 {
            records = lz4(&records, u32_at(&header, 80)? as usize)?;
        }
        Ok(Some(Group {
            header,
            records,
            blocks,
        }))
    }

    /// Applies a commit whose records are in these parts, with where the data of each begin.
    fn apply(
        &mut self,
        parts: &[(Vec<u8>, u64)],
        commit: u64,
        to_trees: bool,
        to_layer: bool,
    ) -> Fallible<()> {
        let newest = self.snapshots().last().map_or(0, |snapshot| snapshot.0);
        let (mut puts, mut layer) = (Vec::new(), Vec::new());
        for record in decode(parts)? {
            match record {
                Record::Layer(bytes) => layer.extend(bytes),
                _ if !to_trees => {}
                Record::Put(key, value) => {
                    self.remove(key, commit, newest);
                    puts.push((key, value));
                }
                Record::Remove(key) => self.remove(key, commit, newest),
                Record::Write(object, offset, piece) => {
                    self.free(object, offset, offset + piece.len, commit, newest)?;
                    puts.push(((object, EXTENT, offset), piece.encode()));
                }
                Record::Free(object, from, to) => self.free(object, from, to, commit, newest)?,
            }
        }
        for (key, value) in puts {
            self.live.insert(key, (commit, value));
        }
        if to_layer && !layer.is_empty() {
            self.layer.push((commit, layer));
        }
        Ok(())
    }

    fn remove(&mut self, key: Key, commit: u64, newest: u64) {
        if let Some(old) = self.live.remove(&key)
            && old.0 <= newest
        {
            self.history.insert((key, commit), old);
        }
    }

    /// Takes a range out of an object's extents.
    fn free(&mut self, object: u64, from: u64, to: u64, commit: u64, newest: u64) -> Fallible<()> {
        let reach = from.saturating_sub(65_536);
        let keys = self
            .live
            .range((object, EXTENT, reach)..(object, EXTENT, to));
        let keys = keys.map(|(key, _)| *key).collect::<Vec<_>>();
        for key in keys {
            let (birth, value) = self.live[&key].clone();
            let piece = Piece::decode(&value)?;
            let (start, end) = (key.2, key.2 + piece.len);
            if end <= from {
                continue;
            }
            self.live.remove(&key);
            let mut keep = |low: u64, high: u64| {
                if low < high {
                    let part = piece.part(low - start, high - low);
                    let item = (birth, part.encode());
                    self.live.insert((object, EXTENT, low), item);
                }
            };
            keep(start, from.max(start));
            keep(to.min(end), end);
            if birth <= newest {
                let (low, high) = (from.max(start), to.min(end));
                let part = piece.part(low - start, high - low);
                let dead = ((object, EXTENT, low), commit);
                self.history.insert(dead, (birth, part.encode()));
            }
        }
        Ok(())
    }
}

/// The records in the parts of a commit.
fn decode(parts: &[(Vec<u8>, u64)]) -> Fallible<Vec<Record>> {
    let mut records = Vec::new();
    for (bytes, address) in parts {
        let mut address = *address;
        let mut taker = Taker(bytes);
        while !taker.0.is_empty() {
            records.push(match taker.byte()? {
                which @ (1 | 2) => {
                    let kind = taker.byte()?;
                    let key = (taker.varint()?, kind, taker.varint()?);
                    if which == 1 {
                        let len = taker.varint()?;
                        Record::Put(key, taker.bytes(len as usize)?.to_vec())
                    } else {
                        Record::Remove(key)
                    }
                }
                3 => {
                    let (object, offset) = (taker.varint()?, taker.varint()?);
                    let len = taker.varint()?;
                    let encoding = taker.byte()?;
                    let stored_len = taker.varint()?;
                    let piece = Piece {
                        address,
                        extent_len: len,
                        stored_len,
                        encoding,
                        first_unit: 0,
                        skip: 0,
                        len,
                    };
                    address += stored_len;
                    Record::Write(object, offset, piece)
                }
                4 => {
                    let (object, from) = (taker.varint()?, taker.varint()?);
                    let to = taker.varint()?;
                    Record::Free(object, from, if to == 0 { u64::MAX } else { to })
                }
                5 => {
                    let len = taker.varint()?;
                    Record::Layer(taker.bytes(len as usize)?.to_vec())
                }
                other => return Err(format!("no record {other} in a commit").into()),
            });
        }
    }
    Ok(records)
}
