//! The frames of a backup in a file, one after the other, each verified.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use lfs::{BackupError, BackupFrame, BackupVerifier, FRAME_HEADER_BYTES, frame_bytes};
use rustix::fs::OFlags;

use crate::error::{About as _, Error, Outcome};

/// Reads a file that holds one backup.
pub(crate) struct StreamReader {
    file: BufReader<File>,
    shown: String,
    verifier: BackupVerifier,
    /// Bytes of the frames that were taken.
    bytes: u64,
}

impl StreamReader {
    /// Opens the file at `path`.
    pub(crate) fn open(path: &Path) -> Outcome<Self> {
        let shown = path.display().to_string();
        // A FIFO must not hang the tool.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = file.about(&shown)?;
        if !file.metadata().about(&shown)?.is_file() {
            // It is read twice.
            return Err(Error::new(shown, "not a file"));
        }
        Ok(Self {
            file: BufReader::with_capacity(1 << 20, file),
            shown,
            verifier: BackupVerifier::default(),
            bytes: 0,
        })
    }

    /// What was taken so far.
    pub(crate) fn verifier(&self) -> &BackupVerifier {
        &self.verifier
    }

    /// Bytes of what was taken so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next frame; `None` behind the last one, where the file has to end, too.
    ///
    /// # Errors
    /// When what follows is not the next frame, or the file ends before the last one.
    pub(crate) fn next(&mut self) -> Outcome<Option<BackupFrame>> {
        if self.verifier.is_complete() {
            let mut byte = [0];
            return match self.file.read(&mut byte).about(&self.shown)? {
                0 => Ok(None),
                _ => Err(Error::new(
                    &self.shown,
                    "more follows behind its last frame",
                )),
            };
        }
        let mut bytes = vec![0; FRAME_HEADER_BYTES];
        self.fill(&mut bytes)?;
        let damaged = BackupError::Damaged {
            frame: self.verifier.next().sequence,
        };
        let header = bytes.first_chunk();
        let whole = header.map_or(Err(damaged), frame_bytes);
        let whole = whole.map_err(|error| match error {
            BackupError::NotABackup if self.bytes > 0 => self.error(damaged),
            error => self.error(error),
        })?;
        bytes.resize(whole, 0);
        self.fill(bytes.get_mut(FRAME_HEADER_BYTES..).unwrap_or_default())?;
        let frame = self.verifier.accept(&bytes);
        let frame = frame.map_err(|error| self.error(error))?;
        self.bytes += u64::try_from(whole).unwrap_or(u64::MAX);
        Ok(Some(frame))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Outcome<()> {
        match self.file.read_exact(bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.error(self.verifier.short()))
            }
            read => read.about(&self.shown),
        }
    }

    fn error(&self, error: BackupError) -> Error {
        Error::new(&self.shown, error)
    }
}
