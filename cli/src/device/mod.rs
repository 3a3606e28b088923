//! An image file, or a block device of the host, as the disk.
//!
//! Requests run on the runtime's blocking threads, so many can be in flight and none of them holds up the
//! executor. Flush is `fdatasync`: it covers every write that completed before it started, as
//! [`BlockDevice`] promises. A device opened for reading cannot write, whatever is asked of it.
//!
//! The hosted server has a smaller device of its own (`app/src/bin/hosted/host/disk.rs`). They are not one, because there is
//! no layer both may know: `lfs` is `no_std`, and neither of the two tools may depend on the other. Both take the
//! same lock on the whole file, so they exclude each other.

mod lock;

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use lfs::{BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, DeviceError, DeviceGeometry};
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;

/// What the device is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing is ever written; others may read at the same time.
    Read,
    /// Nobody else may have it open.
    Write,
}

/// The disk. Locked against other processes for as long as it lives.
#[derive(Debug)]
pub(crate) struct FileDevice {
    file: Arc<File>,
    geometry: DeviceGeometry,
    access: Access,
}

impl FileDevice {
    /// Opens the image or block device at `path`.
    ///
    /// # Errors
    /// When it cannot be opened, is neither of the two, or is in use.
    pub(crate) fn open(path: &Path, access: Access) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(access == Access::Write)
            // A FIFO must not hang the tool.
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)?;
        Self::new(file, access)
    }

    /// Creates an image file of `size_bytes`, all holes.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], or when it cannot be created.
    pub(crate) fn create(path: &Path, size_bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        file.set_len(size_bytes)?;
        file.sync_all()?;
        Self::new(file, Access::Write)
    }

    fn new(mut file: File, access: Access) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::other("neither an image file nor a block device"));
        }
        lock::take(&file, access)?;
        // Metadata does not tell the size of a block device.
        let size_bytes = file.seek(SeekFrom::End(0))?;
        Ok(Self {
            file: Arc::new(file),
            geometry: DeviceGeometry {
                block_count: size_bytes / BLOCK_SIZE as u64,
                discard: access == Access::Write,
            },
            access,
        })
    }

    /// Sets the size of an image file that is open for writing.
    ///
    /// # Errors
    /// When it is not a file, or the file system under it refuses.
    pub(crate) fn resize(&mut self, size_bytes: u64) -> io::Result<()> {
        if !self.file.metadata()?.is_file() {
            return Err(io::Error::other("the size of a block device is given"));
        }
        self.file.set_len(size_bytes)?;
        self.geometry.block_count = size_bytes / BLOCK_SIZE as u64;
        Ok(())
    }

    /// Bytes of the device that are used: whole blocks.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.geometry.block_count * BLOCK_SIZE as u64
    }

    /// The byte at which `blocks` blocks from `start` begin, if they are on the disk.
    fn offset(&self, start: BlockIndex, blocks: u64) -> Result<u64, DeviceError> {
        match start.0.checked_add(blocks) {
            Some(end) if blocks > 0 && end <= self.geometry.block_count => {
                Ok(start.0 * BLOCK_SIZE as u64)
            }
            _ => Err(DeviceError::OutOfRange),
        }
    }

    /// Runs `request` with the buffer on a thread that may block.
    async fn transfer(
        &self,
        start: BlockIndex,
        mut buffer: Buffer,
        request: impl FnOnce(&File, u64, &mut Buffer) -> io::Result<()> + Send + 'static,
    ) -> (Buffer, Result<(), DeviceError>) {
        let offset = match self.offset(start, buffer.len_blocks() as u64) {
            Ok(offset) => offset,
            Err(error) => return (buffer, Err(error)),
        };
        let file = Arc::clone(&self.file);
        let done = tokio::task::spawn_blocking(move || {
            let outcome = request(&file, offset, &mut buffer);
            (buffer, outcome.map_err(|_| DeviceError::Io))
        });
        // Only a panic or the end of the runtime loses the buffer.
        done.await
            .unwrap_or_else(|_| (Buffer::default(), Err(DeviceError::Gone)))
    }

    /// Runs `request` on a thread that may block.
    async fn request(
        &self,
        request: impl FnOnce(&File) -> Result<(), DeviceError> + Send + 'static,
    ) -> Result<(), DeviceError> {
        let file = Arc::clone(&self.file);
        tokio::task::spawn_blocking(move || request(&file))
            .await
            .unwrap_or(Err(DeviceError::Gone))
    }
}

impl BlockDevice for FileDevice {
    fn geometry(&self) -> DeviceGeometry {
        self.geometry
    }

    async fn read(&self, start: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        self.transfer(start, buffer, |file, offset, buffer| {
            file.read_exact_at(buffer.bytes_mut(), offset)
        })
        .await
    }

    async fn write(&self, start: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        if self.access == Access::Read {
            return (buffer, Err(DeviceError::Unsupported));
        }
        self.transfer(start, buffer, |file, offset, buffer| {
            file.write_all_at(buffer.bytes(), offset)
        })
        .await
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        if self.access == Access::Read {
            // Nothing was written, so all of it is durable.
            return Ok(());
        }
        self.request(|file| file.sync_data().map_err(|_| DeviceError::Io))
            .await
    }

    async fn discard(&self, start: BlockIndex, count: u64) -> Result<(), DeviceError> {
        if self.access == Access::Read {
            return Err(DeviceError::Unsupported);
        }
        let offset = self.offset(start, count)?;
        let length = count * BLOCK_SIZE as u64;
        // On block devices this is a discard that reads as zeros afterwards, where they have that.
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.request(move |file| {
            fallocate(file, hole, offset, length).map_err(|error| match error {
                Errno::OPNOTSUPP | Errno::NODEV => DeviceError::Unsupported,
                _ => DeviceError::Io,
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(size_bytes: u64) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("image");
        drop(FileDevice::create(&path, size_bytes).expect("created"));
        (directory, path)
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime")
            .block_on(future)
    }

    fn block(byte: u8) -> Buffer {
        let mut buffer = Buffer::zeroed(1).expect("memory");
        buffer.bytes_mut().fill(byte);
        buffer
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
            assert_eq!(device.discard(BlockIndex(0), 1).await, refused);
        });
    }

    #[test]
    fn a_directory_is_no_device() {
        let directory = tempfile::tempdir().expect("a directory");
        let error = FileDevice::open(directory.path(), Access::Read).expect_err("refused");
        assert!(error.to_string().contains("neither"), "{error}");
    }
}
