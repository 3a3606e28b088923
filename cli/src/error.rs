//! Why a command ended without success, and with which exit status.

use std::fmt::Display;
use std::io::{self, Write as _};

use lfs::FileError;

use crate::output::printable;

/// The end of a command that did not do what it was told.
#[derive(Debug)]
pub(crate) enum Error {
    /// To be printed.
    Failed(String),
    /// A part failed; each failure has been printed where it happened.
    Reported,
    /// Whoever read the output has gone.
    OutputClosed,
    /// SIGINT or SIGTERM.
    Interrupted,
    /// With an exit status of the command's own; it has said why.
    Status(u8),
    /// Wrong usage that the parser of arguments cannot see.
    Usage(String),
}

/// What a command returns.
pub(crate) type Outcome<T> = Result<T, Error>;

impl Error {
    /// `what` failed because of `cause`.
    pub(crate) fn new(what: impl Display, cause: impl Display) -> Self {
        Self::Failed(format!("{what}: {cause}"))
    }

    /// The exit status.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Reported => 1,
            Self::Usage(_) => 2,
            Self::Status(status) => *status,
            // As a shell reports the end by SIGINT and SIGPIPE.
            Self::Interrupted => 130,
            Self::OutputClosed => 141,
        }
    }

    /// What to print, if anything.
    pub(crate) fn message(&self) -> Option<&str> {
        match self {
            Self::Failed(message) | Self::Usage(message) => Some(message),
            Self::Interrupted => Some("interrupted"),
            Self::Reported | Self::OutputClosed | Self::Status(_) => None,
        }
    }

    /// The standard output could not be written.
    pub(crate) fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::OutputClosed
        } else {
            Self::new("cannot write the output", describe(error))
        }
    }
}

/// Says which file a [`FileError`] is about.
pub(crate) trait About<T> {
    /// Turns an error into one about `what`.
    fn about(self, what: &(impl Display + ?Sized)) -> Outcome<T>;
}

impl<T> About<T> for Result<T, FileError> {
    fn about(self, what: &(impl Display + ?Sized)) -> Outcome<T> {
        self.map_err(|error| Error::new(what, error))
    }
}

impl<T> About<T> for io::Result<T> {
    fn about(self, what: &(impl Display + ?Sized)) -> Outcome<T> {
        self.map_err(|error| Error::new(what, describe(&error)))
    }
}

/// The text of an error of the host, without the number that follows it.
pub(crate) fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text.get(..end).unwrap_or_default().to_owned(),
        None => text,
    }
}

/// Prints a failure that the command survives.
pub(crate) fn complain(message: impl Display) {
    say_aside(format_args!("siltstone: {message}"));
}

/// Prints a line on the standard error. Names in it may be anybody's: no terminal obeys them.
pub(crate) fn say_aside(line: impl Display) {
    let line = printable(line.to_string().as_bytes());
    // Where nobody listens there is nobody to tell of it.
    let _ = writeln!(io::stderr(), "{line}");
}
