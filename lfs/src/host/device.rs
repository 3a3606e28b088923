//! An image file, or a block device of the host, as the disk.
//!
//! Requests run on the runtime's blocking threads, so many can be in flight and none of them holds up the
//! executor; but what the host has in memory, or will have soon, is read without one (`reading`). Flush is `fdatasync`: it covers every write that completed before it started, as
//! [`BlockDevice`] promises. A device opened for reading cannot write, whatever is asked of it. One that becomes larger while
//! it is open is noticed within a second.

use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;

use super::ahead::Ahead;
use super::direct::Direct;
use super::lock;
use super::reading::Reading;
use super::standby::Standby;
use crate::{
    BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, Content, DeviceError, DeviceGeometry, Durable,
};

/// How often a device is asked whether it has become larger.
const SIZE_INTERVAL: Duration = Duration::from_secs(1);

/// What the device is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing is ever written; others may read at the same time.
    Read,
    /// Nobody else may have it open.
    Write,
}

/// The disk. Locked against other processes for as long as it lives. Clones are handles of the same one.
#[derive(Debug, Clone)]
pub struct FileDevice {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    file: File,
    /// The way to it past the host's memory.
    direct: Direct,
    access: Access,
    block_count: AtomicU64,
    /// The first request that the host did not carry out.
    failure: OnceLock<io::Error>,
    /// Whether a flush has failed. One at a time: the host tells of what it could not write once, and whoever asks next is told that all is well.
    flush_failed: Mutex<bool>,
    /// What was made ready for durable writes. One at a time.
    ahead: Mutex<Ahead>,
    /// Whether it is worth waiting for what the host has not in memory.
    reading: Reading,
    /// Who carries out durable writes, and reads for which that is not.
    standby: Arc<Standby>,
}

impl Shared {
    /// Carries out `request`, and notes it when the host does not.
    fn carry_out<T>(
        &self,
        mut buffer: Buffer,
        request: impl FnOnce(&Self, &mut Buffer) -> io::Result<T>,
    ) -> (Buffer, Result<T, DeviceError>) {
        let done = request(self, &mut buffer).map_err(|error| {
            // What came first counts.
            let _ = self.failure.set(error);
            DeviceError::Io
        });
        (buffer, done)
    }

    fn flush(&self) -> io::Result<()> {
        let mut failed = self.flush_failed();
        if *failed {
            return Err(flush_has_failed());
        }
        let flushed = self.file.sync_data();
        *failed = flushed.is_err();
        flushed
    }

    /// Writes `bytes`, so that what is said is durable when this returns: not less than `least`. The next such writes go on up to `ahead_end`.
    fn write_durable(
        &self,
        bytes: &[u8],
        offset: u64,
        least: Durable,
        ahead_end: u64,
    ) -> io::Result<Durable> {
        let written = offset..offset + bytes.len() as u64;
        let is_past = least < Durable::All && self.write_past(bytes, &written, ahead_end)?;
        let durable = if is_past {
            Durable::Written
        } else {
            self.file.write_all_at(bytes, offset)?;
            self.flush()?;
            Durable::All
        };
        self.ahead().count(bytes.len() as u64);
        Ok(durable)
    }

    /// Writes past the host's memory, durably: whether the host can, and it is worth it.
    fn write_past(&self, bytes: &[u8], to: &Range<u64>, ahead_end: u64) -> io::Result<bool> {
        if *self.flush_failed() {
            return Err(flush_has_failed());
        }
        let is_ready = self
            .ahead()
            .make_ready(&self.file, &self.direct, to, ahead_end);
        let written = match is_ready {
            Ok(true) => self.direct.write(&self.file, bytes, to.start),
            not_ready => not_ready,
        };
        if written.is_err() {
            // As little is known as after a failed flush.
            *self.flush_failed() = true;
        }
        written
    }

    fn flush_failed(&self) -> MutexGuard<'_, bool> {
        let failed = self.flush_failed.lock();
        failed.unwrap_or_else(PoisonError::into_inner)
    }

    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FileDevice {
    /// Opens the image or block device at `path`.
    ///
    /// # Errors
    /// When it cannot be opened, is neither of the two, or is in use.
    pub fn open(path: &Path, access: Access) -> io::Result<Self> {
        // A FIFO must not hang the program.
        let mut flags = OFlags::NONBLOCK;
        if access == Access::Write && std::fs::metadata(path)?.file_type().is_block_device() {
            // Of a block device it asks for nobody else in the kernel, such as a mount, to have it.
            flags |= OFlags::EXCL;
        }
        let opened = OpenOptions::new()
            .read(true)
            .write(access == Access::Write)
            .custom_flags(flags.bits().cast_signed())
            .open(path);
        match opened {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Err(lock::in_use(
                "the host: it is mounted, or part of another device",
            )),
            opened => Self::new(opened?, access),
        }
    }

    /// Creates an image file of `size_bytes`, all holes. It is there for good.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], or when it cannot be created; then it is not there, unless somebody else has opened it already or
    /// nothing can be locked: then it is empty.
    pub fn create(path: &Path, size_bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        // From here on it is this one's, or already somebody else's who found it.
        let device = Self::new(file, Access::Write)?;
        let made = device.resize(size_bytes);
        let made = made.and_then(|()| device.shared.file.sync_all());
        if let Err(error) = made.and_then(|()| sync_directory_of(path)) {
            // There is nothing in it. That it is there is the smaller problem.
            let _ = device.remove(path);
            return Err(error);
        }
        Ok(device)
    }

    /// Removes the name of an image of which nothing came. While it is open nobody else has it; should `path` lead to another file by now, that
    /// stays.
    ///
    /// # Errors
    /// When the name is gone, or cannot be removed.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        let own = self.shared.file.metadata()?;
        let there = std::fs::symlink_metadata(path)?;
        if (own.dev(), own.ino()) != (there.dev(), there.ino()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        std::fs::remove_file(path)
    }

    fn new(file: File, access: Access) -> io::Result<Self> {
        let found = file.metadata()?;
        let kind = found.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::other("neither an image file nor a block device"));
        }
        lock::take(&file, &found, access)?;
        let device = Self {
            shared: Arc::new(Shared {
                file,
                direct: Direct::default(),
                access,
                block_count: AtomicU64::new(0),
                failure: OnceLock::new(),
                flush_failed: Mutex::new(false),
                ahead: Mutex::default(),
                reading: Reading::new(),
                standby: Arc::new(Standby::new()),
            }),
        };
        device.measure()?;
        Ok(device)
    }

    /// Sets the size of an image file that is open for writing.
    ///
    /// # Errors
    /// When it is not a file, or the file system under it refuses.
    pub fn resize(&self, size_bytes: u64) -> io::Result<()> {
        let shared = &self.shared;
        if !shared.file.metadata()?.is_file() {
            return Err(io::Error::other(
                "a block device has the size it has; only that of a file can be set",
            ));
        }
        shared.file.set_len(size_bytes)?;
        let blocks = size_bytes / BLOCK_SIZE as u64;
        shared.block_count.store(blocks, Ordering::Relaxed);
        Ok(())
    }

    /// Bytes of the device that are used: whole blocks.
    pub fn size_bytes(&self) -> u64 {
        self.block_count() * BLOCK_SIZE as u64
    }

    /// What it holds, as [`probe`](crate::probe) finds out, and what is behind the last whole block, too.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn content(&self) -> io::Result<Content> {
        let found = crate::probe(self).await.map_err(io::Error::other)?;
        let mut rest = [0; BLOCK_SIZE];
        let len = self.shared.file.read_at(&mut rest, self.size_bytes())?;
        let blank = rest.iter().take(len).all(|&byte| byte == 0);
        Ok(match found {
            Content::Blank if !blank => Content::Unknown,
            found => found,
        })
    }

    /// Whether there is not a single byte on it, as in a file that was just made.
    ///
    /// # Errors
    /// When the host does not tell.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.measure()? == 0)
    }

    /// What the host said of the first request that it did not carry out. [`DeviceError`] does not tell.
    pub fn failure(&self) -> Option<&io::Error> {
        self.shared.failure.get()
    }

    fn block_count(&self) -> u64 {
        self.shared.block_count.load(Ordering::Relaxed)
    }

    /// Looks how large it is by now, in bytes. What was cut off fails when it is asked for.
    fn measure(&self) -> io::Result<u64> {
        // Metadata do not tell the size of a block device. Nothing depends on the position.
        let size_bytes = (&self.shared.file).seek(SeekFrom::End(0))?;
        let blocks = size_bytes / BLOCK_SIZE as u64;
        self.shared.block_count.fetch_max(blocks, Ordering::Relaxed);
        Ok(size_bytes)
    }

    /// The byte at which `blocks` blocks from `start` begin, if they are on the disk.
    fn offset(&self, start: BlockIndex, blocks: u64) -> Result<u64, DeviceError> {
        match start.0.checked_add(blocks) {
            Some(end) if blocks > 0 && end <= self.block_count() => Ok(start.0 * BLOCK_SIZE as u64),
            _ => Err(DeviceError::OutOfRange),
        }
    }

    /// Runs `request` on a thread that may block.
    async fn on_thread(
        &self,
        buffer: Buffer,
        request: impl FnOnce(&Shared, &mut Buffer) -> io::Result<()> + Send + 'static,
    ) -> (Buffer, Result<(), DeviceError>) {
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || shared.carry_out(buffer, request));
        done.await.unwrap_or_else(|_| lost())
    }

    /// The same, with `buffer` at `start`, for what is waited for.
    async fn at_once<T: Send + 'static>(
        &self,
        start: BlockIndex,
        buffer: Buffer,
        request: impl FnOnce(&Shared, u64, &mut Buffer) -> io::Result<T> + Send + 'static,
    ) -> (Buffer, Result<T, DeviceError>) {
        let offset = match self.offset(start, buffer.len_blocks() as u64) {
            Ok(offset) => offset,
            Err(error) => return (buffer, Err(error)),
        };
        let shared = Arc::clone(&self.shared);
        let request =
            move || shared.carry_out(buffer, |shared, buffer| request(shared, offset, buffer));
        let done = self.shared.standby.run(request).await;
        done.unwrap_or_else(lost)
    }
}

impl BlockDevice for FileDevice {
    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry {
            block_count: self.block_count(),
            discard: self.shared.access == Access::Write,
        }
    }

    async fn resized(&self, block_count: u64) {
        // A host that does not tell is asked again.
        while self.measure().is_err() || self.block_count() == block_count {
            tokio::time::sleep(SIZE_INTERVAL).await;
        }
    }

    async fn read(
        &self,
        start: BlockIndex,
        mut buffer: Buffer,
    ) -> (Buffer, Result<(), DeviceError>) {
        if let Ok(offset) = self.offset(start, buffer.len_blocks() as u64)
            && self
                .shared
                .reading
                .read(&self.shared.file, offset, buffer.bytes_mut())
                .await
        {
            // Whoever reads and reads lets others have their turn, after half a megabyte or so.
            for _ in 0..buffer.len_blocks() {
                tokio::task::coop::consume_budget().await;
            }
            return (buffer, Ok(()));
        }
        self.at_once(start, buffer, |shared, offset, buffer| {
            shared.file.read_exact_at(buffer.bytes_mut(), offset)
        })
        .await
    }

    async fn write(&self, start: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        if self.shared.access == Access::Read {
            return (buffer, Err(DeviceError::Unsupported));
        }
        let offset = match self.offset(start, buffer.len_blocks() as u64) {
            Ok(offset) => offset,
            Err(error) => return (buffer, Err(error)),
        };
        let write = move |shared: &Shared, buffer: &mut Buffer| {
            shared.file.write_all_at(buffer.bytes(), offset)
        };
        self.on_thread(buffer, write).await
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        if self.shared.access == Access::Read {
            // Nothing was written, so all of it is durable.
            return Ok(());
        }
        let flush = |shared: &Shared, _: &mut Buffer| shared.flush();
        self.on_thread(Buffer::default(), flush).await.1
    }

    async fn write_durable(
        &self,
        start: BlockIndex,
        buffer: Buffer,
        least: Durable,
        ahead: u64,
    ) -> (Buffer, Result<Durable, DeviceError>) {
        if self.shared.access == Access::Read {
            return (buffer, Err(DeviceError::Unsupported));
        }
        let blocks = buffer.len_blocks() as u64;
        let ahead_end = start.0.saturating_add(blocks).saturating_add(ahead);
        let ahead_end = ahead_end.min(self.block_count()) * BLOCK_SIZE as u64;
        self.at_once(start, buffer, move |shared, offset, buffer| {
            shared.write_durable(buffer.bytes(), offset, least, ahead_end)
        })
        .await
    }

    async fn discard(&self, start: BlockIndex, count: u64) -> Result<(), DeviceError> {
        if self.shared.access == Access::Read {
            return Err(DeviceError::Unsupported);
        }
        let offset = self.offset(start, count)?;
        let length = count * BLOCK_SIZE as u64;
        let shared = Arc::clone(&self.shared);
        // On block devices this is a discard that reads as zeros afterwards, where they have that.
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let done = tokio::task::spawn_blocking(move || {
            let done = fallocate(&shared.file, hole, offset, length);
            shared.ahead().forget(&(offset..offset + length));
            done
        });
        match done.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Errno::OPNOTSUPP | Errno::NODEV)) => Err(DeviceError::Unsupported),
            Ok(Err(_)) => Err(DeviceError::Io),
            Err(_) => Err(DeviceError::Gone),
        }
    }
}

fn flush_has_failed() -> io::Error {
    io::Error::other("an earlier flush has failed")
}

/// What comes of a request when a panic or the end of the runtime loses its buffer.
fn lost<T>() -> (Buffer, Result<T, DeviceError>) {
    (Buffer::default(), Err(DeviceError::Gone))
}

/// Makes durable which names there are in the directory that `path` is in, such as after a file was made or renamed there.
///
/// # Errors
/// When the directory cannot be opened, or the host does not make it durable.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = path
        .parent()
        .filter(|directory| !directory.as_os_str().is_empty());
    match File::open(directory.unwrap_or(Path::new(".")))?.sync_all() {
        // There are file systems of which a directory cannot be asked that.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString as _;
    use alloc::vec;

    use super::*;

    fn image(size_bytes: u64) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("image");
        drop(FileDevice::create(&path, size_bytes).expect("created"));
        (directory, path)
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        super::super::run(future).expect("a runtime")
    }

    fn block(byte: u8) -> Buffer {
        let mut buffer = Buffer::zeroed(1).expect("memory");
        buffer.bytes_mut().fill(byte);
        buffer
    }

    /// Whoever was second, and found it locked, removed what the first was serving.
    #[test]
    fn a_name_is_removed_only_while_it_leads_to_what_is_open() {
        let (_directory, path) = image(1 << 20);
        let device = FileDevice::open(&path, Access::Write).expect("opens");
        let again = FileDevice::create(&path, 1 << 20).expect_err("it is there");
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        std::fs::rename(&path, path.with_extension("old")).expect("renamed");
        std::fs::write(&path, "another").expect("written");
        assert!(device.remove(&path).is_err());
        assert_eq!(std::fs::read(&path).expect("there"), b"another");
        device.remove(&path.with_extension("old")).expect("removed");
        assert!(!path.with_extension("old").exists());
    }

    #[test]
    fn what_is_written_is_read_and_discarded() {
        let (_directory, path) = image(1 << 20);
        let device = FileDevice::open(&path, Access::Write).expect("opens");
        run(async {
            assert_eq!(device.write(BlockIndex(3), block(7)).await.1, Ok(()));
            assert_eq!(device.flush().await, Ok(()));
            let (read, outcome) = device.read(BlockIndex(3), block(0)).await;
            assert_eq!(outcome, Ok(()));
            assert_eq!(read.bytes(), block(7).bytes());
            // A hint, which a file system under the test may not know.
            if device.discard(BlockIndex(3), 1).await.is_ok() {
                let (read, _) = device.read(BlockIndex(3), block(1)).await;
                assert_eq!(read.bytes(), block(0).bytes());
            }
        });
    }

    #[test]
    fn durable_writes_are_read_and_stay_on_the_device() {
        let (_directory, path) = image(16 * BLOCK_SIZE as u64);
        let device = FileDevice::open(&path, Access::Write).expect("opens");
        run(async {
            for number in 0..16_u8 {
                let start = BlockIndex(u64::from(number));
                // More than there is.
                let written = device
                    .write_durable(start, block(number + 1), Durable::All, 100)
                    .await;
                assert_eq!(written.1, Ok(Durable::All));
            }
            let outside = device
                .write_durable(BlockIndex(16), block(1), Durable::All, 0)
                .await;
            assert_eq!(outside.1, Err(DeviceError::OutOfRange));
            for number in 0..16_u8 {
                let (read, _) = device.read(BlockIndex(u64::from(number)), block(0)).await;
                assert_eq!(read.bytes(), block(number + 1).bytes());
            }
        });
        let len = std::fs::metadata(&path).expect("there").len();
        assert_eq!(len, 16 * BLOCK_SIZE as u64);
    }

    /// Past the host's memory where it can, and what was in that is not what is read afterwards.
    #[test]
    fn durable_writes_are_read_again_whatever_way_they_went() {
        let (_directory, path) = image(64 * BLOCK_SIZE as u64);
        let device = FileDevice::open(&path, Access::Write).expect("opens");
        let has_direct = Direct::is_there(&device.shared.file, block(0).bytes());
        run(async {
            let mut directly = 0;
            for number in 0..60_u8 {
                let start = BlockIndex(u64::from(number));
                let ahead = 60 - u64::from(number);
                let (before, _) = device.read(start, block(1)).await;
                assert_eq!(before.bytes(), block(0).bytes());
                let (_, written) = device
                    .write_durable(start, block(number + 1), Durable::Written, ahead)
                    .await;
                let written = written.expect("written");
                assert_ne!(written, Durable::Nothing);
                directly += usize::from(written == Durable::Written);
                let (read, _) = device.read(start, block(0)).await;
                assert_eq!(read.bytes(), block(number + 1).bytes());
            }
            assert_eq!(
                directly > 50,
                has_direct,
                "{directly} past the host's memory"
            );
            for outside in [64, u64::MAX] {
                let written = device
                    .write_durable(BlockIndex(outside), block(1), Durable::Written, 0)
                    .await;
                assert_eq!(written.1, Err(DeviceError::OutOfRange));
            }
        });
        let bytes = std::fs::read(&path).expect("readable");
        let blocks = bytes.chunks_exact(BLOCK_SIZE).take(60);
        assert!(
            blocks
                .zip(1..)
                .all(|(found, byte)| found == block(byte).bytes())
        );
    }

    /// A small durable write to a block that the one before has made ready.
    async fn write_small(device: &FileDevice, number: u8) -> Result<Durable, DeviceError> {
        let (start, least) = (BlockIndex(number.into()), Durable::Written);
        let written = device.write_durable(start, block(number + 1), least, 40);
        written.await.1
    }

    /// A device of 64 blocks, none of which the host writes past its memory.
    fn without_direct_writes() -> (tempfile::TempDir, FileDevice) {
        let (directory, path) = image(64 * BLOCK_SIZE as u64);
        let device = FileDevice::open(&path, Access::Write).expect("opens");
        // It takes a number, in few bytes, and says of anything else what a disk with larger blocks would say.
        let number = OpenOptions::new()
            .write(true)
            .open("/proc/self/oom_score_adj");
        device.shared.direct.to(number.expect("opens"));
        (directory, device)
    }

    #[test]
    fn what_the_host_does_not_write_past_its_memory_is_written_the_other_way() {
        let (_directory, device) = without_direct_writes();
        run(async {
            for number in 0..20 {
                assert_eq!(write_small(&device, number).await, Ok(Durable::All));
                let (read, _) = device.read(BlockIndex(number.into()), block(0)).await;
                assert_eq!(read.bytes(), block(number + 1).bytes());
            }
            assert_eq!(device.flush().await, Ok(()));
        });
        assert!(device.failure().is_none());
        assert!(device.shared.direct.is_refused());
    }

    #[test]
    fn as_much_is_made_ready_as_was_written_whatever_way_it_went() {
        let (_directory, device) = without_direct_writes();
        run(async {
            for (number, ready) in [(0, 1), (1, 3), (2, 3), (3, 7)] {
                assert_eq!(write_small(&device, number).await, Ok(Durable::All));
                let hole = rustix::fs::seek(&device.shared.file, rustix::fs::SeekFrom::Hole(0));
                assert_eq!(hole, Ok(ready * BLOCK_SIZE as u64));
            }
        });
    }

    /// Where zeros cannot be written, and where there is no hole and the write itself cannot be made.
    #[test]
    fn after_a_durable_write_that_failed_nothing_is_said_to_be_durable() {
        for has_holes in [true, false] {
            let (_directory, path) = image(64 * BLOCK_SIZE as u64);
            if !has_holes {
                std::fs::write(&path, vec![7; 64 * BLOCK_SIZE]).expect("written");
            }
            let device = FileDevice::open(&path, Access::Write).expect("opens");
            // What was opened for reading cannot be written to.
            device.shared.direct.to(File::open(&path).expect("opens"));
            run(async {
                assert_eq!(
                    write_small(&device, 0).await,
                    Ok(Durable::All),
                    "none is ready"
                );
                assert_eq!(write_small(&device, 1).await, Err(DeviceError::Io));
                for number in 2..5 {
                    assert_eq!(write_small(&device, number).await, Err(DeviceError::Io));
                    assert_eq!(device.flush().await, Err(DeviceError::Io));
                }
            });
            let failure = device.failure().and_then(io::Error::raw_os_error);
            assert_eq!(failure, Some(Errno::BADF.raw_os_error()));
            let bytes = std::fs::read(&path).expect("readable");
            let behind = if has_holes { 0 } else { 7 };
            assert!(bytes[BLOCK_SIZE..].iter().all(|&byte| byte == behind));
        }
    }

    #[test]
    fn requests_outside_the_device_are_refused() {
        let (_directory, path) = image(16 * BLOCK_SIZE as u64 + 100);
        let device = FileDevice::open(&path, Access::Write).expect("opens");
        assert_eq!(device.geometry().block_count, 16);
        run(async {
            for start in [16, u64::MAX] {
                let outside = Err(DeviceError::OutOfRange);
                assert_eq!(device.read(BlockIndex(start), block(0)).await.1, outside);
                assert_eq!(device.write(BlockIndex(start), block(0)).await.1, outside);
                assert_eq!(device.discard(BlockIndex(start), 1).await, outside);
            }
        });
    }

    #[test]
    fn opened_for_reading_it_never_writes() {
        let (_directory, path) = image(1 << 20);
        let device = FileDevice::open(&path, Access::Read).expect("opens");
        run(async {
            let refused = Err(DeviceError::Unsupported);
            assert_eq!(device.write(BlockIndex(0), block(1)).await.1, refused);
            let durable = device
                .write_durable(BlockIndex(0), block(1), Durable::Written, 9)
                .await;
            assert_eq!(durable.1, Err(DeviceError::Unsupported));
            assert_eq!(device.discard(BlockIndex(0), 1).await, refused);
        });
    }

    #[test]
    fn it_is_noticed_that_a_file_becomes_larger_and_not_that_it_was_cut_short() {
        let (_directory, path) = image(16 * BLOCK_SIZE as u64);
        let device = FileDevice::open(&path, Access::Write).expect("opens");
        let resize = |blocks: u64| {
            let file = OpenOptions::new().write(true).open(&path);
            let file = file.expect("opens");
            file.set_len(blocks * BLOCK_SIZE as u64).expect("resized");
        };
        run(async {
            resize(20);
            assert_eq!(device.geometry().block_count, 16, "not while nobody asks");
            device.resized(16).await;
            assert_eq!(device.geometry().block_count, 20);
            assert_eq!(device.write(BlockIndex(19), block(1)).await.1, Ok(()));
            resize(10);
            device.resized(16).await;
            assert_eq!(device.geometry().block_count, 20);
            assert!(device.failure().is_none());
            let read = device.read(BlockIndex(15), block(0)).await;
            assert_eq!(read.1, Err(DeviceError::Io));
            let failure = device.failure().map(io::Error::kind);
            assert_eq!(failure, Some(io::ErrorKind::UnexpectedEof));
        });
    }

    /// A look at whole blocks alone took a note of a few bytes for a blank disk.
    #[test]
    fn a_file_shorter_than_a_block_is_not_blank() {
        let (_directory, path) = image(0);
        let content = || {
            let device = FileDevice::open(&path, Access::Write).expect("opens");
            (
                device.is_empty().expect("it tells"),
                run(device.content()).expect("readable"),
            )
        };
        assert_eq!(content(), (true, Content::Blank));
        for (blank, text) in [(0, "x"), (3 * BLOCK_SIZE, "note"), (40 * BLOCK_SIZE, "end")] {
            let bytes = [&vec![0; blank][..], text.as_bytes()].concat();
            std::fs::write(&path, &bytes).expect("written");
            assert_eq!(content(), (false, Content::Unknown), "{text}");
            std::fs::write(&path, vec![0; bytes.len()]).expect("written");
            assert_eq!(content(), (false, Content::Blank), "{text}");
        }
    }

    #[test]
    fn a_directory_is_no_device() {
        let directory = tempfile::tempdir().expect("a directory");
        let error = FileDevice::open(directory.path(), Access::Read).expect_err("refused");
        assert!(error.to_string().contains("neither"), "{error}");
    }
}
