//! The inode item: what is known of a file or directory besides its content, its entries and its
//! attributes.

use alloc::vec::Vec;

use super::Namespace;
use super::codec::{DAMAGED, Reader, put_signed, put_varint};
use super::cuts::Cuts;
use super::types::{
    ATTRIBUTE_NAMES_BYTES_MAX, FILE_BYTES_MAX, FileKind, InodeNumber, LINKS_MAX, NewInode, ROOT,
    SetAttributes, Stat,
};
use crate::disk::layout::VALUE_OBJECT;
use crate::tree::INLINE_BYTES_MAX;
use crate::{BLOCK_SIZE, FileError, ItemKey, ItemKind, View};

const VERSION: u8 = 1;
const MODE_BITS: u16 = 0o7777;

const HAS_DEVICE: u8 = 1;
const HAS_DATA_OBJECT: u8 = 2;
const HAS_ATTRIBUTES: u8 = 4;
const HAS_CUTS: u8 = 8;
const HAS_ALLOCATED: u8 = 16;

/// More than the data of any file take.
const ALLOCATED_MAX: u64 = 1 << 63;

/// An inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inode {
    pub(crate) kind: FileKind,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// As [`Stat::links`].
    pub(crate) links: u32,
    /// As [`Stat::size`].
    pub(crate) size: u64,
    pub(crate) atime_ns: i64,
    pub(crate) mtime_ns: i64,
    pub(crate) ctime_ns: i64,
    pub(crate) btime_ns: i64,
    /// The directory that a directory is in; 0 for other kinds.
    pub(crate) parent: u64,
    /// As [`Stat::device`].
    pub(crate) device: u64,
    /// The object that holds the content when it is not the inode's own, else 0.
    pub(crate) data_object: u64,
    /// Bytes of the names of its extended attributes, one more for each.
    pub(crate) attribute_names_bytes: u32,
    /// Ranges that read as zeros although there is data in them.
    pub(crate) cuts: Cuts,
    /// As [`Stat::allocated_bytes`].
    pub(crate) allocated: u64,
}

impl Inode {
    pub(crate) fn new(new: &NewInode, parent: InodeNumber, now_ns: i64) -> Self {
        let directory = new.kind == FileKind::Directory;
        let device = matches!(new.kind, FileKind::CharDevice | FileKind::BlockDevice);
        Self {
            kind: new.kind,
            mode: new.mode & MODE_BITS,
            uid: new.uid,
            gid: new.gid,
            links: if directory { 2 } else { 1 },
            size: 0,
            atime_ns: now_ns,
            mtime_ns: now_ns,
            ctime_ns: now_ns,
            btime_ns: now_ns,
            parent: if directory { parent.0 } else { 0 },
            device: if device { new.device } else { 0 },
            data_object: 0,
            attribute_names_bytes: 0,
            cuts: Cuts::default(),
            allocated: 0,
        }
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// The object that holds the content of inode `number`.
    pub(crate) fn data(&self, number: InodeNumber) -> u64 {
        if self.data_object == 0 {
            number.0
        } else {
            self.data_object
        }
    }

    /// The size of the data as the view knows it: behind the end of the file there can be data that is
    /// not free yet.
    pub(crate) fn data_size(&self) -> u64 {
        self.size.max(self.cuts.end())
    }

    /// Its data take so much room more. Should the count have been wrong it stays one that can be, for a check to
    /// put it right.
    pub(super) fn takes_more(&mut self, room: i64) {
        let allocated = self.allocated.saturating_add_signed(room);
        self.allocated = allocated.min(ALLOCATED_MAX);
    }

    /// Whether something that `before` tells of is gone: names, entries, content, attributes.
    pub(crate) fn tells_of_less_than(&self, before: &Self) -> bool {
        self.links < before.links
            || self.size < before.size
            || self.allocated < before.allocated
            || self.attribute_names_bytes < before.attribute_names_bytes
            || (!self.cuts.is_empty() && self.cuts != before.cuts)
    }

    fn has_data(&self) -> bool {
        matches!(self.kind, FileKind::File | FileKind::Symlink)
    }

    /// The room that content of this size takes which has no holes.
    fn allocated_usually(&self) -> u64 {
        match self.size {
            _ if !self.has_data() => 0,
            size if size <= INLINE_BYTES_MAX => size,
            size => size
                .checked_next_multiple_of(BLOCK_SIZE as u64)
                .unwrap_or(u64::MAX),
        }
    }

    /// Its item's value.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(48);
        let mut has = 0;
        let fields = [
            (self.device != 0, HAS_DEVICE),
            (self.data_object != 0, HAS_DATA_OBJECT),
            (self.attribute_names_bytes != 0, HAS_ATTRIBUTES),
            (!self.cuts.is_empty(), HAS_CUTS),
            (self.allocated != self.allocated_usually(), HAS_ALLOCATED),
        ];
        for (_, bit) in fields.into_iter().filter(|&(there, _)| there) {
            has |= bit;
        }
        out.extend([VERSION, self.kind as u8, has]);
        for value in [
            u64::from(self.mode),
            u64::from(self.uid),
            u64::from(self.gid),
            u64::from(self.links),
            self.size,
        ] {
            put_varint(&mut out, value);
        }
        out.extend(self.btime_ns.to_le_bytes());
        put_signed(&mut out, self.mtime_ns.wrapping_sub(self.btime_ns));
        put_signed(&mut out, self.ctime_ns.wrapping_sub(self.mtime_ns));
        put_signed(&mut out, self.atime_ns.wrapping_sub(self.btime_ns));
        if self.is_directory() {
            put_varint(&mut out, self.parent);
        }
        for value in [
            self.device,
            self.data_object,
            u64::from(self.attribute_names_bytes),
        ] {
            if value != 0 {
                put_varint(&mut out, value);
            }
        }
        if !self.cuts.is_empty() {
            self.cuts.encode(&mut out);
        }
        if has & HAS_ALLOCATED != 0 {
            put_varint(&mut out, self.allocated);
        }
        out
    }

    /// Reads an item's value.
    ///
    /// # Errors
    /// [`FileError::Damaged`] when it is not what [`encode`](Self::encode) makes, or says what cannot be.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FileError> {
        Self::read(Reader::new(bytes)).ok_or(DAMAGED)
    }

    fn read(mut reader: Reader<'_>) -> Option<Self> {
        if reader.byte()? != VERSION {
            return None;
        }
        let kind = FileKind::from_number(reader.byte()?)?;
        let has = reader.byte()?;
        let known = HAS_DEVICE | HAS_DATA_OBJECT | HAS_ATTRIBUTES | HAS_CUTS | HAS_ALLOCATED;
        if has & !known != 0 {
            return None;
        }
        let mode = u16::try_from(reader.varint()?).ok()?;
        let uid = reader.varint_u32()?;
        let gid = reader.varint_u32()?;
        let links = reader.varint_u32()?;
        let size = reader.varint()?;
        let btime_ns = reader.i64()?;
        let mtime_ns = btime_ns.wrapping_add(reader.signed()?);
        let ctime_ns = mtime_ns.wrapping_add(reader.signed()?);
        let atime_ns = btime_ns.wrapping_add(reader.signed()?);
        let parent = if kind == FileKind::Directory {
            reader.object()?
        } else {
            0
        };
        let mut optional = |bit| {
            if has & bit == 0 {
                Some(0)
            } else {
                reader.varint().filter(|&value| value != 0)
            }
        };
        let device = optional(HAS_DEVICE)?;
        let data_object = optional(HAS_DATA_OBJECT).filter(|&object| object < VALUE_OBJECT)?;
        let attribute_names_bytes = u32::try_from(optional(HAS_ATTRIBUTES)?).ok()?;
        let cuts = if has & HAS_CUTS == 0 {
            Cuts::default()
        } else {
            Cuts::decode(&mut reader)?
        };
        let allocated = if has & HAS_ALLOCATED == 0 {
            None
        } else {
            Some(reader.varint()?)
        };
        reader.end()?;
        let mut inode = Self {
            kind,
            mode,
            uid,
            gid,
            links,
            size,
            atime_ns,
            mtime_ns,
            ctime_ns,
            btime_ns,
            parent,
            device,
            data_object,
            attribute_names_bytes,
            cuts,
            allocated: 0,
        };
        let usual = inode.allocated_usually();
        if allocated == Some(usual) {
            return None;
        }
        inode.allocated = allocated.unwrap_or(usual);
        inode.is_possible().then_some(inode)
    }

    fn is_possible(&self) -> bool {
        let has_data = self.has_data();
        let is_device = matches!(self.kind, FileKind::CharDevice | FileKind::BlockDevice);
        self.mode <= MODE_BITS
            && self.links <= LINKS_MAX
            && self.size <= FILE_BYTES_MAX
            && self.attribute_names_bytes as usize <= ATTRIBUTE_NAMES_BYTES_MAX
            && (self.device == 0 || is_device)
            && (has_data || (self.data_object == 0 && self.cuts.is_empty() && self.allocated == 0))
            && self.allocated <= ALLOCATED_MAX
            && (has_data || self.is_directory() || self.size == 0)
            && !(self.is_directory() && self.links == 1)
    }
}

/// The key of an inode's item.
pub(crate) fn inode_key(number: InodeNumber) -> ItemKey {
    ItemKey::new(number.0, ItemKind::Inode, 0)
}

impl<V: View> Namespace<'_, V> {
    /// Creates the root directory, once, in an empty file system.
    ///
    /// # Errors
    /// [`FileError::Exists`] when there is one.
    pub fn create_root(&mut self, mode: u16, uid: u32, gid: u32) -> Result<(), FileError> {
        if self.view.get(inode_key(ROOT))?.is_some() {
            return Err(FileError::Exists);
        }
        let new = NewInode {
            uid,
            gid,
            ..NewInode::new(FileKind::Directory, mode)
        };
        let root = Inode::new(&new, ROOT, self.view.now_ns());
        self.store(ROOT, &root);
        Ok(())
    }

    /// What an inode is.
    ///
    /// # Errors
    /// [`FileError::NotFound`].
    pub fn kind(&mut self, inode: InodeNumber) -> Result<FileKind, FileError> {
        Ok(self.glance(inode)?.kind)
    }

    /// What is known of an inode, with or without a name.
    ///
    /// # Errors
    /// [`FileError::NotFound`] when there is no such inode.
    pub fn stat(&mut self, inode: InodeNumber) -> Result<Stat, FileError> {
        let found = self.load(inode)?;
        Ok(Stat {
            inode,
            kind: found.kind,
            mode: found.mode,
            uid: found.uid,
            gid: found.gid,
            links: found.links,
            size: found.size,
            device: found.device,
            atime_ns: found.atime_ns,
            mtime_ns: found.mtime_ns,
            ctime_ns: found.ctime_ns,
            btime_ns: found.btime_ns,
            allocated_bytes: found.allocated,
        })
    }

    /// Changes mode, owner, size or times. Whether the caller may, and that a change of owner or
    /// content clears the set-user-id and set-group-id bits, is up to the caller.
    ///
    /// # Errors
    /// [`FileError::NotFound`]; with a size what [`truncate`](Self::truncate) says.
    pub fn set_attributes(
        &mut self,
        inode: InodeNumber,
        change: &SetAttributes,
    ) -> Result<(), FileError> {
        if let Some(size) = change.size {
            self.truncate(inode, size)?;
        }
        let mut found = self.glance(inode)?;
        if *change != SetAttributes::default() {
            found.ctime_ns = self.view.now_ns();
        }
        found.mode = change.mode.map_or(found.mode, |mode| mode & MODE_BITS);
        found.uid = change.uid.unwrap_or(found.uid);
        found.gid = change.gid.unwrap_or(found.gid);
        found.atime_ns = change.atime_ns.unwrap_or(found.atime_ns);
        found.mtime_ns = change.mtime_ns.unwrap_or(found.mtime_ns);
        self.store(inode, &found);
        Ok(())
    }

    /// A new inode, with a number of its own and no name yet.
    pub(super) fn new_inode(
        &mut self,
        parent: InodeNumber,
        new: &NewInode,
    ) -> (InodeNumber, Inode) {
        let number = InodeNumber(self.view.new_object());
        (number, Inode::new(new, parent, self.view.now_ns()))
    }

    /// An inode that somebody names from outside: it may not be there.
    pub(super) fn load(&mut self, number: InodeNumber) -> Result<Inode, FileError> {
        let bytes = self.view.get(inode_key(number))?;
        Inode::decode(&bytes.ok_or(FileError::NotFound)?)
    }

    /// The same, of which only what [`View::glance`] allows is used.
    pub(super) fn glance(&mut self, number: InodeNumber) -> Result<Inode, FileError> {
        let bytes = self.view.glance(inode_key(number))?;
        Inode::decode(&bytes.ok_or(FileError::NotFound)?)
    }

    /// As [`glance`](Self::glance), of an inode that an item names.
    pub(super) fn glance_named(&mut self, number: InodeNumber) -> Result<Inode, FileError> {
        match self.glance(number) {
            Err(FileError::NotFound) => Err(DAMAGED),
            other => other,
        }
    }

    /// An inode that an item names: it has to be there.
    pub(super) fn load_named(&mut self, number: InodeNumber) -> Result<Inode, FileError> {
        match self.load(number) {
            Err(FileError::NotFound) => Err(DAMAGED),
            other => other,
        }
    }

    /// A directory that somebody names from outside; perhaps removed. As [`glance`](Self::glance).
    pub(super) fn load_directory(&mut self, number: InodeNumber) -> Result<Inode, FileError> {
        let found = self.glance(number)?;
        if found.is_directory() {
            Ok(found)
        } else {
            Err(FileError::NotADirectory)
        }
    }

    pub(super) fn store(&mut self, number: InodeNumber, inode: &Inode) {
        self.view.put(inode_key(number), inode.encode());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode() -> Inode {
        let mut cuts = Cuts::default();
        cuts.add(4096, 1 << 40);
        Inode {
            mode: 0o644,
            uid: 1000,
            gid: 100,
            size: 5_000_000,
            mtime_ns: i64::MIN,
            data_object: 77,
            attribute_names_bytes: 12,
            cuts,
            allocated: 3 * 4096,
            ..Inode::new(
                &NewInode::new(FileKind::File, 0),
                ROOT,
                1_700_000_000_000_000_000,
            )
        }
    }

    #[test]
    fn an_inode_comes_back_from_its_bytes() {
        let directory = Inode::new(&NewInode::new(FileKind::Directory, 0o755), ROOT, -5);
        let device = NewInode {
            device: 0x0801,
            ..NewInode::new(FileKind::BlockDevice, 0o660)
        };
        for inode in [inode(), directory, Inode::new(&device, ROOT, i64::MAX)] {
            assert_eq!(Inode::decode(&inode.encode()), Ok(inode));
        }
    }

    #[test]
    fn a_new_file_takes_few_bytes() {
        let file = Inode::new(&NewInode::new(FileKind::File, 0o644), ROOT, 1 << 60);
        assert_eq!(file.encode().len(), 20);
    }

    #[test]
    fn only_room_that_does_not_follow_from_the_size_takes_bytes() {
        let file = |size, allocated| Inode {
            size,
            allocated,
            ..Inode::new(&NewInode::new(FileKind::File, 0o644), ROOT, 0)
        };
        for (size, usual) in [(0, 0), (1, 1), (1024, 1024), (1025, 4096), (8193, 12_288)] {
            let bytes = file(size, usual).encode();
            let other = file(size, 16_384).encode();
            assert_eq!(bytes.len() + 3, other.len(), "{size}");
            for (inode, bytes) in [(file(size, usual), bytes), (file(size, 16_384), other)] {
                assert_eq!(Inode::decode(&bytes), Ok(inode));
            }
        }
        let largest = file(FILE_BYTES_MAX, 1 << 63);
        assert_eq!(Inode::decode(&largest.encode()), Ok(largest));
        let mut said_needlessly = file(8193, 12_288).encode();
        said_needlessly[2] |= HAS_ALLOCATED;
        put_varint(&mut said_needlessly, 12_288);
        assert_eq!(Inode::decode(&said_needlessly), Err(DAMAGED));
    }

    #[test]
    fn a_count_of_room_that_is_wrong_stays_one_that_decodes() {
        let mut file = inode();
        for (more, expected) in [(i64::MIN, 0), (4096, 4096), (i64::MAX, 1 << 63)] {
            file.takes_more(more);
            assert_eq!(file.allocated, expected);
            assert_eq!(Inode::decode(&file.encode()), Ok(file.clone()));
        }
    }

    #[test]
    fn no_change_of_a_byte_makes_decoding_panic_and_what_decodes_encodes_to_the_same() {
        let bytes = inode().encode();
        for place in 0..bytes.len() {
            for value in 0..=255 {
                let mut changed = bytes.clone();
                changed[place] = value;
                if let Ok(inode) = Inode::decode(&changed) {
                    assert_eq!(inode.encode(), changed);
                }
            }
            assert_eq!(Inode::decode(&bytes[..place]), Err(DAMAGED), "cut short");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Inode::decode(&longer), Err(DAMAGED));
    }

    #[test]
    fn an_inode_that_cannot_be_is_damaged() {
        let device_number_on_a_file = Inode {
            device: 1,
            ..inode()
        };
        let links = Inode {
            links: LINKS_MAX + 1,
            ..inode()
        };
        let size = Inode {
            size: FILE_BYTES_MAX + 1,
            ..inode()
        };
        let mode = Inode {
            mode: 0o10000,
            ..inode()
        };
        let fifo_with_content = Inode {
            kind: FileKind::Fifo,
            ..inode()
        };
        let too_much_room = Inode {
            allocated: u64::MAX,
            ..inode()
        };
        for bad in [
            device_number_on_a_file,
            links,
            size,
            mode,
            fifo_with_content,
            too_much_room,
        ] {
            assert_eq!(Inode::decode(&bad.encode()), Err(DAMAGED));
        }
    }
}
