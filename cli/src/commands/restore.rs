//! `siltstone restore`.
//!
//! Everything is read and verified before the image is touched, and once more while it is filled. Until the last step the image
//! holds no file system: what was cut short says so when it is opened, and can be begun again.

use std::io;
use std::path::{Path, PathBuf};

use lfs::host::{Access, FileDevice, interrupted, now_ns, random};
use lfs::{BackupId, Content, FileError, FileSystemId, FormatOptions, Mirror, ROOT, Suite};

use crate::arguments::Restore;
use crate::backup::{OpenStore, StreamReader, store_options};
use crate::error::{About as _, Error, Outcome, complain};
use crate::image::{Disks, end_at_second_signal};
use crate::key::{self, Key};
use crate::progress::byte_bar;

pub(crate) async fn restore(arguments: Restore) -> Outcome<()> {
    let Some((image, files)) = arguments.paths.split_last() else {
        return Err(Error::Usage(
            "restore FULL [INCREMENTAL...] IMAGE".to_owned(),
        ));
    };
    let bytes = verify(files)?;
    let shown = image.display().to_string();
    let (device, created) = prepare(image, arguments.size).await?;
    end_at_second_signal();
    let outcome = tokio::select! {
        outcome = fill(&device, image, files, bytes) => outcome,
        () = interrupted() => Err(Error::Interrupted),
    };
    if outcome.is_err() {
        if created {
            // Nothing of value is in it.
            let _ = device.remove(image);
        } else {
            complain(format_args!(
                "{shown} holds no file system: nothing was restored"
            ));
        }
    }
    outcome
}

/// Makes sure that `files` are backups that follow each other; how many bytes they have.
fn verify(files: &[PathBuf]) -> Outcome<u64> {
    let mut bytes = 0;
    let mut before: Option<BackupId> = None;
    for path in files {
        let mut reader = StreamReader::open(path)?;
        while let Some(frame) = reader.next()? {
            let id = frame.id;
            let follows = match before {
                None => id.since.0 == 0,
                Some(before) => before.at == id.since && before.lineage == id.lineage,
            };
            if follows {
                continue;
            }
            let path = path.display();
            let cause = match before {
                None => format!(
                    "an incremental backup, which goes behind one of commit {}",
                    id.since.0
                ),
                Some(before) if before.lineage != id.lineage => {
                    "a backup of another file system than the one before".to_owned()
                }
                Some(_) if id.since.0 == 0 => "a full backup, which comes first".to_owned(),
                Some(before) => format!(
                    "it goes behind a backup of commit {}, and the one before is of {}",
                    id.since.0, before.at.0
                ),
            };
            return Err(Error::new(path, cause));
        }
        before = reader.verifier().id().copied();
        bytes += reader.bytes();
    }
    Ok(bytes)
}

/// Makes sure that the image may be written to, and gives it its size. It stays open until it is filled: nobody else gets it in
/// between. Whether it was made for this.
async fn prepare(image: &Path, size: Option<u64>) -> Outcome<(FileDevice, bool)> {
    let shown = image.display();
    if let Some(size) = size
        && size < lfs::DEVICE_BYTES_MIN
    {
        let least = crate::output::human(lfs::DEVICE_BYTES_MIN);
        return Err(Error::new(
            shown,
            format_args!("an image takes at least {least}"),
        ));
    }
    let device = match FileDevice::open(image, Access::Write) {
        Ok(device) => device,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let size = size.ok_or_else(|| {
                Error::new(shown, "there is no such image; --size SIZE makes one")
            })?;
            let device = FileDevice::create(image, size).about(&image.display())?;
            return Ok((device, true));
        }
        Err(error) => return Err(error).about(&shown),
    };
    let found = device.content().await.about(&shown)?;
    let not_empty = "a backup is only restored to a blank image, or an empty one";
    match found {
        Content::Blank => {}
        Content::Unknown => {
            let what = format_args!("it holds something that is not Siltstone's; {not_empty}");
            return Err(Error::new(shown, what));
        }
        Content::FileSystem => {
            if !is_empty(&device, image).await? {
                return Err(Error::new(shown, format_args!("it is in use; {not_empty}")));
            }
        }
    }
    if let Some(size) = size
        && size != device.size_bytes()
    {
        device.resize(size).about(&shown)?;
    }
    if device.size_bytes() == 0 {
        return Err(Error::new(
            shown,
            "it has no size; --size SIZE gives it one",
        ));
    }
    Ok((device, false))
}

/// Whether an image has neither files nor keys nor snapshots. Writes nothing.
async fn is_empty(device: &FileDevice, image: &Path) -> Outcome<bool> {
    let shown = image.display();
    let device = Mirror::open_read_only(device.clone()).await;
    let device = device.map_err(|error| Error::new(&shown, error))?;
    let key = key::given()?;
    let key = key.as_ref().map(Key::unlock);
    let store = kvstore::Store::open_with(device, store_options()?, key.as_ref()).await;
    let store = store.map_err(|error| Error::new(&shown, error))?;
    let keys = store.stats().keys.iter().sum::<u64>();
    if keys > 0 || !store.snapshots().is_empty() {
        return Ok(false);
    }
    let look = store.transact(0, 0, |transaction| {
        Ok(transaction.files(|files| {
            let entries = files.files().read_dir(ROOT, 0, 1)?.entries.len();
            let attributes = files.files().list_xattrs(ROOT)?.len();
            Ok(entries + attributes)
        }))
    });
    let (names, _) = look.await.map_err(|error| Error::new(&shown, error))?;
    Ok(names.about(&shown)? == 0)
}

/// Makes a file system in the image of what `files` say.
async fn fill(device: &FileDevice, image: &Path, files: &[PathBuf], bytes: u64) -> Outcome<()> {
    let shown = image.display();
    let mut options = FormatOptions::for_device_bytes(device.size_bytes());
    options.created_ns = now_ns();
    let id = FileSystemId(random().about("no random bytes from the kernel")?);
    let formatted = match key::given_new()? {
        None => lfs::format_unfinished(device, options, id).await,
        Some(key) => {
            let key = key.encryption(Suite::default());
            lfs::format_encrypted_unfinished(device, options, id, &key).await
        }
    };
    formatted.map_err(|error| Error::new(&shown, error))?;

    let target = OpenStore::open_unfinished(Disks::of(device.clone(), image)).await?;
    let outcome = apply(&target, files, bytes).await;
    let closed = target.close().await;
    match outcome {
        Ok(()) => closed?,
        // The disk's own failure says more.
        Err(Failure::Disk) => {
            closed?;
            return Err(Error::new(&shown, "the disk failed"));
        }
        Err(Failure::TooSmall) => {
            return Err(Error::new(&shown, "it is too small for this backup"));
        }
        Err(Failure::Stream(error)) => return Err(error),
    }

    let finished = lfs::finish_format(device).await;
    finished.map_err(|error| Error::new(&shown, error))
}

/// What went wrong, and where.
enum Failure {
    Stream(Error),
    TooSmall,
    Disk,
}

async fn apply(target: &OpenStore, files: &[PathBuf], bytes: u64) -> Result<(), Failure> {
    let bar = byte_bar(Some(bytes));
    let store = target.store();
    store.set_restoring(true);
    let mut done = 0;
    for path in files {
        let mut reader = StreamReader::open(path).map_err(Failure::Stream)?;
        while let Some(frame) = reader.next().map_err(Failure::Stream)? {
            if let Err(error) = store.restore_frame(&frame).await {
                return Err(because(path, &error));
            }
            bar.set_position(done + reader.bytes());
            tokio::task::yield_now().await;
        }
        done += reader.bytes();
    }
    store.set_restoring(false);
    bar.finish_and_clear();
    Ok(())
}

fn because(path: &Path, error: &kvstore::RestoreError) -> Failure {
    use kvstore::CommitError::{DiskFull, FilesFull, ReadOnly};
    use kvstore::{RestoreError, TransactError};
    match error {
        RestoreError::Keys(TransactError::Commit(DiskFull | FilesFull))
        | RestoreError::Files(FileError::NoSpace) => Failure::TooSmall,
        RestoreError::Keys(TransactError::Commit(ReadOnly))
        | RestoreError::Files(FileError::ReadOnly) => Failure::Disk,
        error => Failure::Stream(Error::new(path.display(), error)),
    }
}
