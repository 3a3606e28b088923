//! Commands on files: `FS.*` (`COMMANDS.md`).
//!
//! Paths begin at the root, with or without `/`. Each command is one operation on the files as the transaction sees
//! them: it applies whole or not at all.
//!
//! - `content`: what is in files; `names`: directories, links, what a file is; `attributes`: extended attributes.

mod attributes;
mod content;
mod names;

use lfs::{BlockDevice, FileError, InodeNumber, Namespace};

use super::failure::{self, Failure};
use super::{Data, FileCommand, Outcome, integer};

/// The files a command works on.
type Files<'a, 'v> = Namespace<'a, lfs::Transaction<'v>>;

impl<D: BlockDevice> Data<'_, '_, D> {
    /// Runs `command`.
    pub(crate) fn run_file(&mut self, command: FileCommand) -> Outcome {
        use FileCommand as C;
        match command {
            C::Put => content::put(self),
            C::Get => content::get(self),
            C::Read => content::read(self),
            C::Write => content::write(self),
            C::Append => content::append(self),
            C::Truncate => content::truncate(self),
            C::Stat => names::stat(self),
            C::SetAttributes => names::set_attributes(self),
            C::List => names::list(self),
            C::MakeDirectory => names::make_directory(self),
            C::Remove => names::remove(self),
            C::Move => names::rename(self),
            C::Link => names::link(self),
            C::Symlink => names::symlink(self),
            C::ReadLink => names::read_link(self),
            C::SetXattr => attributes::set(self),
            C::GetXattr => attributes::get(self),
            C::ListXattr => attributes::list(self),
            C::DelXattr => attributes::remove(self),
        }
    }

    /// Carries out one operation on files, whole or not at all.
    fn files<T>(
        &mut self,
        body: impl FnOnce(&mut Files<'_, '_>) -> Result<T, FileError>,
    ) -> Result<T, Failure> {
        self.transaction
            .files(|transaction| body(&mut transaction.files()))
            .map_err(|error| failure::of_file(&error))
    }
}

/// `result`, or nothing when there is no such file.
fn optional<T>(result: Result<T, FileError>) -> Result<Option<T>, FileError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(FileError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The inode that a path leads to, symbolic links followed.
fn existing(files: &mut Files<'_, '_>, path: &[u8]) -> Result<InodeNumber, FileError> {
    files.resolve(path, true)
}

/// Argument `bytes` as an offset or a size.
fn offset(bytes: &[u8]) -> Result<u64, Failure> {
    u64::try_from(integer(bytes)?).map_err(|_| failure::OFFSET_OUT_OF_RANGE)
}

/// A size as a reply has it.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
