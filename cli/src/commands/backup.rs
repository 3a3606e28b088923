//! `siltstone backup`.
//!
//! With a file to write to, frames go to a file beside it that takes its name when the backup is whole. It is what a backup
//! that was cut short goes on from: its last intact frame says where.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use lfs::host::{interrupted, sync_directory_of};
use lfs::{BackupSection, BackupVerifier};
use rustix::fs::OFlags;
use serde_json::{Map, Value};

use crate::arguments::Backup;
use crate::backup::{self, Known, OpenStore, Source, StreamReader};
use crate::error::{About as _, Error, Outcome, complain, say_aside};
use crate::image::end_at_second_signal;
use crate::location::same_file;
use crate::output::{Output, human, json_line};
use crate::progress::byte_bar;

pub(crate) async fn backup(arguments: Backup) -> Outcome<()> {
    let mut target = Target::open(&arguments)?;
    let outcome = transfer(&arguments, &mut target).await;
    if outcome.is_err() {
        target.abandon();
    }
    outcome
}

async fn transfer(arguments: &Backup, target: &mut Target) -> Outcome<()> {
    let mut source = match arguments.at {
        Some(_) if backup::address(&arguments.source).is_some() => {
            return Err(Error::Usage("--at is for images".to_owned()));
        }
        Some(commit) => Source::Image(OpenStore::open_at(&arguments.source, commit).await?),
        None => backup::open(&arguments.source).await?,
    };
    end_at_second_signal();
    // The snapshot that is of no use unless the backup comes to its end, or can go on.
    let made = RefCell::new(None);
    let outcome = tokio::select! {
        outcome = run(&mut source, arguments, target, &made) => outcome,
        () = interrupted() => Err(Error::Interrupted),
    };
    if outcome.is_err() {
        match (&*target, made.take()) {
            (Target::Stdout, Some(name)) => {
                if let Err(error) = source.forget(&name).await {
                    complain(format_args!(
                        "{name} stays: {}",
                        error.message().unwrap_or_default()
                    ));
                }
            }
            (Target::File { partial, .. }, Some(_)) => complain(format_args!(
                "{} keeps what there is; the same command goes on from there",
                partial.display()
            )),
            _ => {}
        }
    }
    let closed = source.close().await;
    let done = outcome?;
    closed?;
    report(arguments, &done)
}

/// A backup that is whole.
struct Done {
    snapshot: Known,
    since: u64,
    bytes: u64,
}

async fn run(
    source: &mut Source,
    arguments: &Backup,
    target: &mut Target,
    made: &RefCell<Option<String>>,
) -> Outcome<Done> {
    let shown = arguments.source.display();
    let since_name = arguments.since.as_deref();
    let snapshots = source.snapshots().await?;
    let since = match since_name {
        None => 0,
        Some(name) => {
            let found = snapshots.iter().find(|known| known.name == name);
            let found = found.ok_or_else(|| {
                Error::new(&shown, format_args!("no snapshot '{name}' to go on from"))
            });
            found?.commit
        }
    };
    let bar = byte_bar(None);
    let resumed = target.resumed(since, arguments.at, &snapshots)?;
    let (snapshot, mut verifier) = if let Some(resumed) = resumed {
        resumed
    } else {
        target.clear()?;
        (source.begin(since_name).await?, BackupVerifier::default())
    };
    if !snapshot.name.is_empty() {
        made.replace(Some(snapshot.name.clone()));
    }
    while !verifier.is_complete() {
        let token = verifier.next().clone();
        let bytes = source.frame(&snapshot.name, since_name, &token).await?;
        let frame = verifier.accept(&bytes).map_err(|error| match target {
            Target::File { partial, .. } if token.sequence > 0 => Error::new(
                &shown,
                format_args!("{error}; to start anew, remove {}", partial.display()),
            ),
            _ => Error::new(&shown, error),
        })?;
        if frame.section == BackupSection::Header
            && let Some(total) = frame.payload.get(8..16)
        {
            bar.set_length(u64::from_le_bytes(total.try_into().unwrap_or_default()));
        }
        target.write(&bytes)?;
        bar.set_position(verifier.next().payload_bytes);
        // Others, and signals, get their turn.
        tokio::task::yield_now().await;
    }
    bar.finish_and_clear();
    let bytes = target.finish()?;
    made.take();
    Ok(Done {
        snapshot,
        since,
        bytes,
    })
}

fn report(arguments: &Backup, done: &Done) -> Outcome<()> {
    let name = &done.snapshot.name;
    let text = if arguments.json {
        let mut object = Map::new();
        let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
        put("snapshot", name.as_str().into());
        put("commit", done.snapshot.commit.into());
        put("since", arguments.since.as_deref().into());
        put(
            "since_commit",
            (done.since > 0).then_some(done.since).into(),
        );
        put("bytes", done.bytes.into());
        json_line(object)
    } else if name.is_empty() {
        format!("commit: {}", done.snapshot.commit)
    } else {
        format!("snapshot: {name}")
    };
    let Some(path) = &arguments.output else {
        // The standard output has the backup.
        say_aside(text);
        return Ok(());
    };
    let mut output = Output::new();
    output.name(text.as_bytes())?;
    output.text(format_args!("\n"))?;
    output.finish()?;
    if io::stderr().is_terminal() {
        say_aside(format_args!("{}: {}", path.display(), human(done.bytes)));
    }
    Ok(())
}

/// Where frames go.
enum Target {
    Stdout,
    File {
        path: PathBuf,
        /// Until it is whole.
        partial: PathBuf,
        file: File,
        bytes: u64,
    },
}

impl Target {
    fn open(arguments: &Backup) -> Outcome<Self> {
        let Some(path) = arguments.output.clone() else {
            if io::stdout().is_terminal() {
                return Err(Error::Usage(
                    "a backup is nothing for a terminal: -o FILE, or send it elsewhere".to_owned(),
                ));
            }
            return Ok(Self::Stdout);
        };
        let mut partial = OsString::from(&path);
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let source = &arguments.source;
        if same_file(&path, source) || same_file(&partial, source) {
            return Err(Error::Usage("a backup does not go to its image".to_owned()));
        }
        if std::fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            // A device must not become a file.
            let message = "not a file; without -o the backup goes to the standard output";
            return Err(Error::new(path.display(), message));
        }
        // Not through a link, nor waiting for a FIFO.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .custom_flags(flags.bits().cast_signed())
            .open(&partial);
        let file = opened.about(&partial.display())?;
        claim(&partial, &file).about(&partial.display())?;
        Ok(Self::File {
            path,
            partial,
            file,
            bytes: 0,
        })
    }

    /// The snapshot and place to go on with, if an earlier backup of the same kind was cut short and its snapshot is there
    /// yet.
    fn resumed(
        &mut self,
        since: u64,
        at: Option<u64>,
        snapshots: &[Known],
    ) -> Outcome<Option<(Known, BackupVerifier)>> {
        let Self::File {
            partial,
            file,
            bytes,
            ..
        } = self
        else {
            return Ok(None);
        };
        let mut reader = StreamReader::open(partial)?;
        // It ends somewhere within a frame.
        let Ok(Some(header)) = reader.next() else {
            return Ok(None);
        };
        while let Ok(Some(_)) = reader.next() {}
        let name = header.payload.get(16..).unwrap_or_default();
        let known = Known {
            name: String::from_utf8_lossy(name).into_owned(),
            commit: header.id.at.0,
        };
        let is_there = |found: &Known| found.name == known.name && found.commit == known.commit;
        let usable = match at {
            Some(at) => at == known.commit && known.name.is_empty(),
            None => snapshots.iter().any(is_there),
        };
        if !usable || header.id.since.0 != since {
            return Ok(None);
        }
        *bytes = reader.bytes();
        file.set_len(*bytes).about(&partial.display())?;
        Ok(Some((known, reader.verifier().clone())))
    }

    fn clear(&mut self) -> Outcome<()> {
        if let Self::File {
            partial,
            file,
            bytes,
            ..
        } = self
        {
            *bytes = 0;
            file.set_len(0).about(&partial.display())?;
        }
        Ok(())
    }

    fn write(&mut self, frame: &[u8]) -> Outcome<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                let written = stdout.write_all(frame).and_then(|()| stdout.flush());
                written.map_err(|error| Error::output(&error))
            }
            Self::File {
                partial,
                file,
                bytes,
                ..
            } => {
                *bytes += u64::try_from(frame.len()).unwrap_or(u64::MAX);
                file.write_all(frame).about(&partial.display())
            }
        }
    }

    /// Nothing came of it: what holds nothing is not left behind.
    fn abandon(&self) {
        if let Self::File { partial, file, .. } = self
            && file.metadata().is_ok_and(|found| found.len() == 0)
        {
            let _ = std::fs::remove_file(partial);
        }
    }

    /// All is there: how many bytes, if that is known.
    fn finish(&mut self) -> Outcome<u64> {
        let Self::File {
            path,
            partial,
            file,
            bytes,
        } = self
        else {
            return Ok(0);
        };
        file.sync_all().about(&partial.display())?;
        std::fs::rename(&*partial, &*path).about(&path.display())?;
        sync_directory_of(path).about(&path.display())?;
        Ok(*bytes)
    }
}

/// Makes sure that what was opened under the name `partial` is a file, that no other process writes a backup to it, and that it
/// has that name yet.
fn claim(partial: &Path, file: &File) -> io::Result<()> {
    let opened = file.metadata()?;
    if !opened.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let taken = match file.try_lock() {
        Err(TryLockError::WouldBlock) => true,
        // There are file systems that know no locks.
        Ok(()) | Err(TryLockError::Error(_)) => {
            let named = std::fs::symlink_metadata(partial)?;
            (opened.dev(), opened.ino()) != (named.dev(), named.ino())
        }
    };
    if taken {
        return Err(io::Error::other("in use by another process"));
    }
    Ok(())
}
