//! A file (or a block device of the host) as the disk.
//!
//! Requests run on tokio's blocking threads, so any number can be in flight. FLUSH is `fdatasync`; that covers
//! every write that completed before it started, as `BlockDevice` promises.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use lfs::{BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, DeviceError, DeviceGeometry};

/// The disk. Locked against other processes for as long as it lives.
#[derive(Debug, Clone)]
pub(crate) struct FileDisk {
    file: Arc<File>,
    block_count: u64,
}

impl FileDisk {
    /// Opens the file at `path`; creates one of `size_bytes` when there is none.
    pub(crate) fn open(path: &Path, size_bytes: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::Error(error) => error,
            TryLockError::WouldBlock => io::Error::other("in use by another process"),
        })?;
        if file.metadata()?.is_file() && file.metadata()?.len() == 0 {
            file.set_len(size_bytes)?;
            file.sync_all()?;
        }
        // Metadata does not tell the size of a block device.
        let size_bytes = file.seek(SeekFrom::End(0))?;
        Ok(Self {
            file: Arc::new(file),
            block_count: size_bytes / BLOCK_SIZE as u64,
        })
    }

    /// The byte at which `blocks` blocks from `start` begin, if they are on the disk.
    fn offset(&self, start: BlockIndex, blocks: usize) -> Result<u64, DeviceError> {
        let end = u64::try_from(blocks)
            .ok()
            .and_then(|blocks| start.0.checked_add(blocks));
        match end {
            Some(end) if blocks > 0 && end <= self.block_count => Ok(start.0 * BLOCK_SIZE as u64),
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
        let offset = match self.offset(start, buffer.len_blocks()) {
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
}

impl BlockDevice for FileDisk {
    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry {
            block_count: self.block_count,
            discard: false,
        }
    }

    async fn read(&self, start: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        self.transfer(start, buffer, |file, offset, buffer| {
            file.read_exact_at(buffer.bytes_mut(), offset)
        })
        .await
    }

    async fn write(&self, start: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        self.transfer(start, buffer, |file, offset, buffer| {
            file.write_all_at(buffer.bytes(), offset)
        })
        .await
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        let file = Arc::clone(&self.file);
        let done = tokio::task::spawn_blocking(move || file.sync_data());
        match done.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(DeviceError::Io),
            Err(_) => Err(DeviceError::Gone),
        }
    }

    async fn discard(&self, _: BlockIndex, _: u64) -> Result<(), DeviceError> {
        Err(DeviceError::Unsupported)
    }
}
