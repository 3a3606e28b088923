//! Error replies, worded as Redis words them.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::ToString as _;
use alloc::vec::Vec;

use kvstore::{CommitError, LOADED_KEY_BYTES_MAX, LoadError, Missing};
use lfs::{FileError, Structure};

/// An error reply: its code and text, such as `ERR syntax error`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure(pub(crate) Cow<'static, [u8]>);

impl Failure {
    /// An error with a fixed text.
    pub(crate) const fn of(text: &'static str) -> Self {
        Self(Cow::Borrowed(text.as_bytes()))
    }

    /// An error that quotes what the client sent: the parts, one after the other.
    pub(crate) fn quoting(parts: &[&[u8]]) -> Self {
        Self(Cow::Owned(parts.concat()))
    }

    /// Whether something has to be loaded first: an attempt was in vain, and nobody is told.
    pub(crate) fn is_missing(&self) -> bool {
        *self == MISSING
    }

    /// The code: everything before the first blank.
    pub(crate) fn code(text: &[u8]) -> &[u8] {
        text.split(|&byte| byte == b' ').next().unwrap_or_default()
    }
}

/// What a read found missing is loaded and the command run again: nobody is told of it.
impl From<Missing> for Failure {
    fn from(_: Missing) -> Self {
        MISSING
    }
}

impl From<Vec<u8>> for Failure {
    fn from(text: Vec<u8>) -> Self {
        Self(Cow::Owned(text))
    }
}

pub(crate) const SYNTAX: Failure = Failure::of("ERR syntax error");
pub(crate) const NOT_AN_INTEGER: Failure =
    Failure::of("ERR value is not an integer or out of range");
pub(crate) const NOT_A_C_INT: Failure =
    Failure::of("ERR value is out of range, value must between -2147483648 and 2147483647");
pub(crate) const NOT_A_FLOAT: Failure = Failure::of("ERR value is not a valid float");
pub(crate) const NO_SUCH_KEY: Failure = Failure::of("ERR no such key");
pub(crate) const SAME_OBJECT: Failure =
    Failure::of("ERR source and destination objects are the same");
pub(crate) const DB_OUT_OF_RANGE: Failure = Failure::of("ERR DB index is out of range");
pub(crate) const STRING_TOO_LONG: Failure =
    Failure::of("ERR string exceeds maximum allowed size (proto-max-bulk-len)");
pub(crate) const KEY_TOO_LONG: Failure =
    Failure::of("ERR key is longer than the maximum of 65535 bytes");
pub(crate) const NOAUTH: Failure = Failure::of("NOAUTH Authentication required.");
pub(crate) const WRONGPASS: Failure =
    Failure::of("WRONGPASS invalid username-password pair or user is disabled.");
pub(crate) const OUT_OF_MEMORY: Failure =
    Failure::of("OOM command not allowed when used memory > 'maxmemory'.");
pub(crate) const TRANSACTION_TOO_LARGE: Failure = Failure::of("ERR the transaction is too large");
/// An open transaction is gone.
pub(crate) const EXPIRED: Failure = Failure::of(
    "TXEXPIRED the transaction was ended: it was idle or open for too long, or too old for what there is room to keep",
);
pub(crate) const BUSY: Failure = Failure::of("ERR the store is busy, try again");
pub(crate) const OFFSET_OUT_OF_RANGE: Failure = Failure::of("ERR offset is out of range");
/// Not for clients: an attempt that was in vain. Were it sent all the same, this is what would be read.
pub(crate) const MISSING: Failure =
    Failure::of("ERR internal error: a reply to what has not been carried out");
/// What a reply becomes whose commit may or may not have reached the disk.
pub(crate) const IO_ERROR: &str = "MISCONF Errors writing to the AOF file: Input/output error. \
                                   The store is read-only until it is restarted.";

/// `ERR wrong number of arguments for 'name' command`
pub(crate) fn arity(name: &str) -> Failure {
    Failure::quoting(&[
        b"ERR wrong number of arguments for '",
        name.as_bytes(),
        b"' command",
    ])
}

/// `ERR invalid expire time in 'name' command`
pub(crate) fn invalid_expire(name: &str) -> Failure {
    Failure::quoting(&[
        b"ERR invalid expire time in '",
        name.as_bytes(),
        b"' command",
    ])
}

/// Why a commit was refused, in a client's words.
pub(crate) fn of_commit(error: CommitError, commit_bytes_max: usize) -> Failure {
    match error {
        CommitError::OutOfMemory => OUT_OF_MEMORY,
        CommitError::DiskFull => {
            Failure::of("MISCONF Errors writing to the AOF file: No space left on device")
        }
        CommitError::TooLarge => {
            let mut text = b"ERR the command writes more than one commit can hold (".to_vec();
            crate::number::push_usize(&mut text, commit_bytes_max);
            text.extend_from_slice(b" bytes)");
            Failure::from(text)
        }
        CommitError::FilesFull => of_file(&FileError::NoSpace),
        CommitError::Files(error) => of_file(&error),
        // Not met by commands, which wait for room before they run, and run without waiting.
        CommitError::Busy | CommitError::Conflict => BUSY,
        CommitError::Fault(_) => MISSING,
        _ => Failure::of(IO_ERROR),
    }
}

/// Why what a command needs cannot be loaded.
pub(crate) fn of_load(error: &LoadError) -> Failure {
    match error {
        LoadError::File(error) => of_file(error),
        LoadError::Keys(error) => Failure::quoting(&[b"EIO ", error.to_string().as_bytes()]),
        LoadError::DamagedTable(_) => Failure::quoting(&[b"EIO ", error.to_string().as_bytes()]),
        LoadError::OutOfMemory => {
            let mut text = b"OOM the command reads more than ".to_vec();
            crate::number::push_usize(&mut text, LOADED_KEY_BYTES_MAX);
            text.extend_from_slice(b" bytes of keys that are not in memory");
            Failure::from(text)
        }
        LoadError::TransactionTooLarge => TRANSACTION_TOO_LARGE,
        _ => BUSY,
    }
}

/// Why an operation on files failed: the name that POSIX has for it, then what it means (`COMMANDS.md`).
pub(crate) fn of_file(error: &FileError) -> Failure {
    let damaged = match error {
        // It is somewhere in a node that is itself intact.
        FileError::Damaged {
            structure: structure @ Structure::Item,
            ..
        } => Some(format!("damaged {structure}")),
        FileError::Damaged { .. } | FileError::DamagedData { .. } => Some(error.to_string()),
        _ => None,
    };
    if let Some(damaged) = damaged {
        let text = b"EIO what is on the disk is not what was written: ";
        return Failure::quoting(&[text, damaged.as_bytes()]);
    }
    Failure::of(match error {
        FileError::NotFound => "ENOENT no such file or directory",
        FileError::Exists => "EEXIST file exists",
        FileError::NotADirectory => "ENOTDIR not a directory",
        FileError::IsADirectory => "EISDIR is a directory",
        FileError::NotEmpty => "ENOTEMPTY directory not empty",
        FileError::NameTooLong => "ENAMETOOLONG file name too long",
        FileError::Invalid => "EINVAL invalid argument",
        FileError::LinkLoop => "ELOOP too many levels of symbolic links",
        FileError::TooManyLinks => "EMLINK too many links",
        FileError::NotPermitted => "EPERM operation not permitted",
        FileError::FileTooLarge => "EFBIG file too large",
        FileError::NoAttribute => "ENODATA no such attribute",
        FileError::AttributeTooLarge => "E2BIG attribute too large",
        FileError::NoSpace => "ENOSPC no space left on device",
        FileError::OutOfMemory => "ENOMEM not enough memory",
        FileError::Device(_) => "EIO input/output error",
        FileError::TransactionTooLarge => "ERR the command writes more than one commit can hold",
        FileError::NotRetained => {
            "NOTRETAINED the files of that commit are not kept: no snapshot shows them"
        }
        FileError::ReadOnly => IO_ERROR,
        FileError::Fault(_) => return MISSING,
        FileError::ConflictOn(conflict) => return of_file_conflict(conflict),
        FileError::TransactionEnded => return EXPIRED,
        _ => return BUSY,
    })
}

/// A transaction has lost a race for files.
pub(crate) fn of_file_conflict(conflict: &lfs::Conflict) -> Failure {
    Failure::quoting(&[b"CONFLICT ", conflict.to_string().as_bytes()])
}
