//! From the superblock to all items of a checkpoint: "Superblock", "Checkpoints", "Segment table", "Trees" and "Objects of the
//! layer above" of `SPEC.md`.

use std::collections::BTreeMap;
use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use super::bytes::{BLOCK, Fallible, Taker, crc, u32_at, u64_at};
use super::files::{Data, EXTENT, Item, Items, Key, Piece, SNAPSHOT, State};
use super::keys::{self, Keys, Secret, unseal};

/// All that an image says.
pub struct Reader {
    pub(super) image: Vec<u8>,
    pub(super) superblock: Superblock,
    pub(super) keys: Option<Keys>,
    pub(super) segment_count: u32,
    /// The newest state.
    pub(super) live: Items,
    /// Keys with the commit at which the item died.
    pub(super) history: BTreeMap<(Key, u64), Item>,
    /// The newest commit.
    pub last_commit: u64,
    /// Groups that were replayed, for whoever is curious.
    pub groups: usize,
    /// Numbers and content of the objects of the layer above.
    pub objects: Vec<(u64, Vec<u8>)>,
    pub manifest: Vec<u8>,
    /// What the layer above recorded behind what its objects contain, by commit.
    pub layer: Vec<(u64, Vec<u8>)>,
    /// Bytes in the segment that trees name, as far as they are read.
    used: BTreeMap<u64, u64>,
}

pub(super) struct Superblock {
    pub(super) id: [u8; 16],
    pub(super) segment_blocks: u64,
    pub(super) first_segment_block: u64,
    slot_blocks: u64,
    pub(super) log_segments: usize,
    table_blocks: u64,
    suite: u8,
}

/// A checkpoint, opened, and what its body says.
pub(super) struct Checkpoint {
    bytes: Vec<u8>,
    pub(super) log: Vec<u32>,
    table_homes: Vec<u8>,
    /// Number, length and segments.
    objects: Vec<(u64, u64, Vec<u32>)>,
}

struct Root {
    block: u64,
    checksum: u32,
    level: u32,
}

impl Superblock {
    /// The one that counts.
    pub(super) fn find(image: &[u8]) -> Fallible<Self> {
        let mut formatting = None;
        for block in [0_usize, 15] {
            let Some(bytes) = image.get(block * BLOCK..block * BLOCK + 512) else {
                continue;
            };
            let valid = &bytes[..8] == b"SILTSTON"
                && u32_at(bytes, 8)? == crc(&bytes[12..])
                && u64_at(bytes, 32)? == block as u64;
            if !valid {
                continue;
            }
            let (version, read_only) = (u32_at(bytes, 12)?, u64_at(bytes, 96)?);
            let (incompatible, suite) = (u64_at(bytes, 104)?, bytes[112]);
            if version != 1 || read_only != 0 || incompatible > 1 {
                return Err("an unknown version or feature".into());
            }
            if (incompatible == 1) != (suite != 0) {
                return Err("a key without a cipher, or a cipher without a key".into());
            }
            let id = bytes[16..32].try_into()?;
            if u32_at(bytes, 52)? == 1 && formatting.is_none_or(|other| other == id) {
                return Ok(Self {
                    id,
                    segment_blocks: u32_at(bytes, 56)?.into(),
                    first_segment_block: u64_at(bytes, 64)?,
                    slot_blocks: u32_at(bytes, 72)?.into(),
                    log_segments: u32_at(bytes, 76)? as usize,
                    table_blocks: u32_at(bytes, 80)?.into(),
                    suite,
                });
            }
            formatting = Some(id);
        }
        Err("no valid superblock".into())
    }

    /// The segment that a block is in.
    fn segment(&self, block: u64) -> Fallible<u64> {
        let block = block.checked_sub(self.first_segment_block);
        Ok(block.ok_or("before the first segment")? / self.segment_blocks)
    }
}

impl Checkpoint {
    fn decode(bytes: Vec<u8>, table_blocks: u64) -> Fallible<(Self, Vec<u8>)> {
        let log_segments = u32_at(&bytes, 88)?;
        let object_count = u32_at(&bytes, 96)?;
        let manifest = u32_at(&bytes, 100)?;
        let mut taker = Taker(&bytes[240..]);
        let log = (0..log_segments)
            .map(|_| taker.u32())
            .collect::<Fallible<_>>()?;
        let table_homes = taker.bytes(table_blocks as usize)?.to_vec();
        let mut objects = Vec::new();
        for _ in 0..object_count {
            let (number, len, runs) = (taker.u64()?, taker.u64()?, taker.u32()?);
            let mut segments = Vec::new();
            for _ in 0..runs {
                let (first, count) = (taker.u32()?, taker.u32()?);
                segments.extend(first..first.checked_add(count).ok_or("a run too long")?);
            }
            objects.push((number, len, segments));
        }
        let manifest = taker.bytes(manifest as usize)?.to_vec();
        if !taker.0.is_empty() {
            return Err("bytes behind the manifest".into());
        }
        let checkpoint = Self {
            bytes,
            log,
            table_homes,
            objects,
        };
        Ok((checkpoint, manifest))
    }

    pub(super) fn u32(&self, at: usize) -> Fallible<u32> {
        u32_at(&self.bytes, at)
    }

    pub(super) fn u64(&self, at: usize) -> Fallible<u64> {
        u64_at(&self.bytes, at)
    }
}

impl Reader {
    /// Reads an image; one with a key with one of its secrets.
    ///
    /// # Errors
    /// At the first thing that is not as `SPEC.md` says.
    pub fn open(image: Vec<u8>, secret: Option<Secret<'_>>) -> Fallible<Self> {
        let superblock = Superblock::find(&image)?;
        let (id, suite) = (superblock.id, superblock.suite);
        let keys = match (suite, secret) {
            (0, None) => None,
            (0, Some(_)) => return Err("there is no key".into()),
            (_, None) => return Err("there is a key".into()),
            (_, Some(secret)) => Some(Keys::find(&image, &id, suite, secret)?),
        };
        let mut reader = Self {
            image,
            superblock,
            keys,
            segment_count: 0,
            live: BTreeMap::new(),
            history: BTreeMap::new(),
            last_commit: 0,
            groups: 0,
            objects: Vec::new(),
            manifest: Vec::new(),
            layer: Vec::new(),
            used: BTreeMap::new(),
        };
        let newest = [0, 1].into_iter().filter_map(|slot| reader.slot(slot).ok());
        let newest = newest.max_by_key(|slot| u64_at(slot, 32).unwrap_or(0));
        let newest = newest.ok_or("no valid checkpoint")?;
        let (checkpoint, manifest) = Checkpoint::decode(newest, reader.superblock.table_blocks)?;
        reader.manifest = manifest;
        reader.segment_count = checkpoint.u32(44)?;
        reader.last_commit = checkpoint.u64(120)?;
        for (tree, at) in [(1, 176), (2, 192)] {
            let root = Root {
                block: checkpoint.u64(at)?,
                checksum: checkpoint.u32(at + 8)?,
                level: checkpoint.u32(at + 12)?,
            };
            if root.block != 0 {
                reader.tree(tree, &root)?;
            }
        }
        for (number, len, segments) in &checkpoint.objects {
            let content = reader.object(*number, *len, segments)?;
            reader.objects.push((*number, content));
        }
        reader.segment_table(&checkpoint)?;
        reader.replay(&checkpoint)?;
        Ok(reader)
    }

    /// What every backup of this file system begins with.
    pub fn lineage(&self) -> [u64; 2] {
        [b"siltstone backup 0", b"siltstone backup 1"].map(|message| {
            let mut hasher = SipHasher24::new_with_key(&self.superblock.id);
            hasher.write(message);
            hasher.finish()
        })
    }

    /// Commit and name of each snapshot, oldest first.
    pub fn snapshots(&self) -> Vec<(u64, Vec<u8>)> {
        let items = self.live.range((0, SNAPSHOT, 0)..=(0, SNAPSHOT, u64::MAX));
        let mut found = items
            .map(|(_, (birth, value))| (*birth, value.get(8..).unwrap_or_default().to_vec()))
            .collect::<Vec<_>>();
        found.sort();
        found
    }

    /// All items as they were after `commit`, which a snapshot shows; or the newest.
    pub fn state(&self, commit: Option<u64>) -> State<'_> {
        let commit = commit.unwrap_or(u64::MAX);
        let live = self.live.iter().map(|(key, item)| (*key, item));
        let live = live.filter(|(_, item)| item.0 <= commit);
        let dead = self.history.iter();
        let dead = dead.filter(|((_, version), item)| item.0 <= commit && commit < *version);
        let dead = dead.map(|((key, _), item)| (*key, item));
        let items = live.chain(dead).map(|(key, item)| (key, item.clone()));
        State {
            items: items.collect(),
            data: self,
        }
    }

    pub(super) fn block(&self, block: u64, blocks: u64) -> Fallible<&[u8]> {
        let range = block as usize * BLOCK..(block + blocks) as usize * BLOCK;
        Ok(self.image.get(range).ok_or("beyond the device")?)
    }

    /// Whether a structure of `bytes` that begins with magic and checksum is intact at `block`.
    pub(super) fn is_intact(&self, magic: &[u8; 4], bytes: &[u8], block: u64) -> bool {
        bytes.len() >= 32
            && bytes[..4] == magic[..]
            && bytes[8..24] == self.superblock.id
            && u64_at(bytes, 24).ok() == Some(block)
            && u32_at(bytes, 4).ok() == Some(crc(&bytes[8..]))
    }

    /// The first bytes from `block` on as a structure with a seal, opened.
    fn structure(
        &self,
        (magic, purpose, seal): (&[u8; 4], u8, usize),
        block: u64,
        len: usize,
    ) -> Fallible<Vec<u8>> {
        let bytes = self.block(block, len.div_ceil(BLOCK) as u64)?;
        let mut bytes = bytes[..len].to_vec();
        if !self.is_intact(magic, &bytes, block) {
            let magic = magic.escape_ascii();
            return Err(format!("no valid {magic} at block {block}").into());
        }
        unseal(self.keys.as_ref(), purpose, &mut bytes, seal)?;
        Ok(bytes)
    }

    fn slot(&self, slot: u64) -> Fallible<Vec<u8>> {
        let blocks = self.superblock.slot_blocks;
        let block = 16 + slot * blocks;
        let len = 240 + u32_at(self.block(block, 1)?, 40)? as usize;
        if len > blocks as usize * BLOCK {
            return Err("a body that is too long".into());
        }
        self.structure((b"SiCp", keys::CHECKPOINT, 48), block, len)
    }

    /// What the chunks of an object hold, one behind the other.
    fn object(&self, number: u64, len: u64, segments: &[u32]) -> Fallible<Vec<u8>> {
        let Superblock {
            segment_blocks,
            first_segment_block,
            ..
        } = self.superblock;
        let segment_bytes = segment_blocks as usize * BLOCK;
        let len = usize::try_from(len)?;
        if segments.len() != len.div_ceil(segment_bytes) {
            return Err("more or fewer segments than an object's length needs".into());
        }
        let mut bytes = Vec::new();
        for segment in segments {
            let block = first_segment_block + u64::from(*segment) * segment_blocks;
            bytes.extend_from_slice(self.block(block, segment_blocks)?);
        }
        bytes.truncate(len);
        let head = if self.keys.is_some() { 48 } else { 8 };
        let mut content = Vec::new();
        let mut at = 0;
        while at < len {
            let room = segment_bytes - at % segment_bytes;
            if room < head {
                at += room;
                continue;
            }
            let payload = u32_at(&bytes[at..], 0)? as usize;
            let end = at + head + payload;
            let larger = head + payload > segment_bytes;
            if payload > 131_072 || end > len || (head + payload > room && !larger) {
                return Err(format!("a chunk that cannot be, at {at} of object {number}").into());
            }
            content.extend(self.chunk(number, at as u64, &bytes[at..end], head)?);
            at = if payload == 0 { at + room } else { end };
        }
        if at != len {
            return Err("an object that does not end with a chunk".into());
        }
        Ok(content)
    }

    fn chunk(&self, object: u64, at: u64, chunk: &[u8], head: usize) -> Fallible<Vec<u8>> {
        let mut context = self.superblock.id.to_vec();
        context.extend(object.to_le_bytes());
        context.extend(at.to_le_bytes());
        context.extend(&chunk[..4]);
        if u32_at(chunk, 4)? != crc(&[&context[..], &chunk[8..]].concat()) {
            return Err(format!("no valid chunk at {at} of object {object}").into());
        }
        let mut payload = chunk[head..].to_vec();
        if let Some(keys) = &self.keys {
            let (nonce, tag) = (&chunk[8..32], &chunk[32..48]);
            keys.open(keys::OBJECT_CHUNK, nonce, tag, &context, &mut payload)?;
        }
        Ok(payload)
    }

    /// Holds the segment table against what is in use.
    fn segment_table(&mut self, checkpoint: &Checkpoint) -> Fallible<()> {
        let dead = self.history.iter().map(|((key, _), item)| (key, item));
        for (key, (_, value)) in self.live.iter().chain(dead) {
            if key.1 == EXTENT {
                let piece = Piece::decode(value)?;
                let segment = self.superblock.segment(piece.address / BLOCK as u64)?;
                *self.used.entry(segment).or_default() += piece.share();
            }
        }
        let segment_bytes = self.superblock.segment_blocks * BLOCK as u64;
        let mut objects: Vec<u64> = Vec::new();
        for (_, _, segments) in &checkpoint.objects {
            objects.extend(segments.iter().map(|segment| u64::from(*segment)));
        }
        let table = 16 + 2 * self.superblock.slot_blocks;
        let count = u64::from(self.segment_count);
        for index in 0..count.div_ceil(250) {
            let home = checkpoint.table_homes[index as usize];
            let block = table + 2 * index + u64::from(home);
            let bytes = self.structure((b"SiTb", keys::TABLE, 32), block, BLOCK)?;
            if u64::from(u32_at(&bytes, 72)?) != index {
                return Err(format!("another block of the segment table at {block}").into());
            }
            for (segment, entry) in (250 * index..count).zip(bytes[96..].chunks(16)) {
                let counted = if objects.contains(&segment) {
                    segment_bytes
                } else {
                    self.used.get(&segment).copied().unwrap_or(0)
                };
                let (kind, said) = (entry[0], u64::from(u32_at(entry, 4)?));
                // Of kind object without an object that names it: free.
                let free = kind == 4 && !objects.contains(&segment);
                if !free && said != counted || objects.contains(&segment) && kind != 4 {
                    return Err(format!(
                        "segment {segment} of kind {kind}: {said} bytes in use, but {counted} are"
                    )
                    .into());
                }
            }
        }
        Ok(())
    }

    fn tree(&mut self, tree: u8, root: &Root) -> Fallible<()> {
        let node = self.structure((b"SiTn", keys::NODE, 32), root.block, BLOCK)?;
        if u32_at(&node, 4)? != root.checksum
            || node[72] != tree
            || u32::from(node[73]) != root.level
        {
            return Err(format!("another node at block {}", root.block).into());
        }
        let segment = self.superblock.segment(root.block)?;
        *self.used.entry(segment).or_default() += BLOCK as u64;
        let count = u16::from_le_bytes([node[74], node[75]]);
        let used = usize::from(u16::from_le_bytes([node[76], node[77]]));
        let base = u64_at(&node, 88)?;
        let mut taker = Taker(node.get(96..96 + used).ok_or("too many bytes of entries")?);
        let (mut object, mut kind, mut position, mut version) = (0_u64, 0_u8, 0_u64, 0_u64);
        let (mut birth, mut len) = (base, 0);
        for _ in 0..count {
            let flags = taker.byte()?;
            let before = (object, kind);
            if flags & 1 != 0 {
                object = object.wrapping_add(taker.varint()?);
            }
            if flags & 2 != 0 {
                kind = taker.byte()?;
            }
            let mut p = if flags & 8 != 0 {
                taker.u64()?
            } else {
                taker.varint()?
            };
            if flags & 16 != 0 {
                p = p.wrapping_mul(4096);
            }
            position = if before == (object, kind) {
                position.wrapping_add(p)
            } else {
                p
            };
            if flags & 4 != 0 {
                version = version.wrapping_add(taker.signed()?.cast_unsigned());
            }
            if flags & 32 != 0 {
                birth = base.wrapping_add(taker.varint()?);
            }
            if flags & 64 != 0 {
                len = taker.varint()?;
            }
            if root.level > 0 {
                let child = Root {
                    block: taker.u64()?,
                    checksum: taker.u32()?,
                    level: root.level - 1,
                };
                self.tree(tree, &child)?;
                continue;
            }
            let value = taker.bytes(len as usize)?.to_vec();
            let key = (object, kind, position);
            if tree == 1 {
                self.live.insert(key, (birth, value));
            } else {
                self.history.insert((key, version), (birth, value));
            }
        }
        Ok(())
    }
}

impl Data for Reader {
    fn len(&self, (_, value): &Item) -> Fallible<u64> {
        Ok(Piece::decode(value)?.len)
    }

    fn bytes(&self, key: &Key, (birth, value): &Item) -> Fallible<Vec<u8>> {
        Piece::decode(value)?.read(&self.image, self.keys.as_ref(), key, *birth)
    }
}
