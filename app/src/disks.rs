//! From disks to an open store, as every server starts: one disk, or two that mirror each other. Blank ones get a file
//! system; what holds something else is left alone.
//!
//! Where disks come from, and what a secret is kept in, is the binary's business.

use alloc::vec::Vec;
use core::fmt;

use kvstore::{OpenError, Options, Store};
use lfs::{
    BLOCK_SIZE, BlockDevice, CommonPart, Content, DeviceError, Encryption, Entropy, FileSystemId,
    FormatError, FormatOptions, Mirror, MirrorError, Unlock,
};

/// The key file of a disk.
#[derive(Clone, Copy)]
pub struct DiskKey<'k> {
    /// Its bytes.
    pub content: &'k [u8],
    /// For keys and nonces.
    pub entropy: &'k Entropy<'k>,
}

/// Ids, random each, of what is made when disks are blank.
#[derive(Debug, Clone, Copy)]
pub struct NewIds {
    /// Of the file system.
    pub file_system: FileSystemId,
    /// Of the disk that becomes a member of a mirror.
    pub member: [u8; 16],
}

/// Why there is no store on these disks.
#[derive(Debug)]
#[non_exhaustive]
pub enum DisksError {
    /// There is no disk.
    Missing,
    /// The disk holds something else.
    Foreign,
    /// The disk failed before it was known what it holds.
    Device(DeviceError),
    /// The file system could not be made.
    Format(FormatError),
    /// The disks are no mirror.
    Mirror(MirrorError),
    /// What they hold cannot be opened, with this key.
    Open(OpenError),
}

impl fmt::Display for DisksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is no disk"),
            Self::Foreign => f.write_str("the disk holds something this system does not know"),
            Self::Device(error) => error.fmt(f),
            Self::Format(error) => error.fmt(f),
            Self::Mirror(error) => error.fmt(f),
            Self::Open(error) => write!(f, "the disk cannot be opened: {error}"),
        }
    }
}

impl core::error::Error for DisksError {}

/// Opens the store on `disks`, whose requests have to be served already, and the disks as one. `say` hears of it when they
/// are blank and get a file system.
///
/// # Errors
/// See [`DisksError`]. A key that is wrong, missing, or given for disks that have none changes nothing on them.
pub async fn open_store<D: BlockDevice + Clone>(
    disks: Vec<D>,
    options: Options,
    ids: NewIds,
    key: Option<DiskKey<'_>>,
    say: impl Fn(&str),
) -> Result<(Store<Mirror<D>>, Mirror<D>), DisksError> {
    let mirror = open_disks(disks, ids, key, say).await?;
    let unlock = key.map(|key| Unlock::with_key_file(key.content, key.entropy));
    let store = Store::open_with(mirror.clone(), options, unlock.as_ref()).await;
    Ok((store.map_err(DisksError::Open)?, mirror))
}

async fn open_disks<D: BlockDevice + Clone>(
    disks: Vec<D>,
    ids: NewIds,
    key: Option<DiskKey<'_>>,
    say: impl Fn(&str),
) -> Result<Mirror<D>, DisksError> {
    let blank = if let [disk] = disks.as_slice() {
        match lfs::probe(disk).await.map_err(DisksError::Device)? {
            Content::FileSystem => false,
            Content::Blank => true,
            Content::Unknown => return Err(DisksError::Foreign),
        }
    } else {
        match Mirror::open(disks.clone(), ids.member).await {
            Err(MirrorError::Blank) => true,
            opened => return opened.map_err(DisksError::Mirror),
        }
    };
    if blank {
        say(match key {
            Some(_) => "the disk is blank, formatting it, encrypted with the key file",
            None => "the disk is blank, formatting it",
        });
        make_file_system(&disks, ids, key).await?;
    }
    let opened = Mirror::open(disks, ids.member).await;
    opened.map_err(DisksError::Mirror)
}

/// Makes a file system on the first disk that fits on all, whatever is there.
///
/// # Errors
/// [`DisksError::Missing`], [`DisksError::Format`].
pub async fn make_file_system<D: BlockDevice>(
    disks: &[D],
    ids: NewIds,
    key: Option<DiskKey<'_>>,
) -> Result<(), DisksError> {
    let part = CommonPart::of(disks).ok_or(DisksError::Missing)?;
    let bytes = part.geometry().block_count * BLOCK_SIZE as u64;
    let options = FormatOptions::for_device_bytes(bytes);
    let made = match key {
        Some(DiskKey { content, entropy }) => {
            let key = Encryption::with_key_file(content, entropy);
            lfs::format_encrypted(&part, options, ids.file_system, &key).await
        }
        None => lfs::format(&part, options, ids.file_system).await,
    };
    made.map_err(DisksError::Format)
}
