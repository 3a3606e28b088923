//! An image that a command has open: found, locked, mounted, and closed in order.
//!
//! For reading, nothing of the file system's own work runs, so nothing is ever written. For writing,
//! [`FileSystem::run`] goes on beside the command; the end makes everything durable and leaves a checkpoint. An
//! interrupted command is dropped where it waits, what it left half done under a temporary name is removed, and the image is
//! closed all the same.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::fmt::Display;
use std::path::Path;
use std::rc::Rc;

use lfs::host::{Access, FileDevice, HostClock, interrupted, now_ns};
use lfs::{
    BlockDevice, Content, FileError, FileSystem, InodeNumber, Mirror, MountError, Recovery,
    SnapshotId, Transaction, Unlock,
};
use tokio::task::JoinHandle;

use crate::backup::store_options;
use crate::error::{About as _, Error, Outcome, complain, describe};
use crate::key::{self, Key};
use crate::location::ImageName;

/// A file system on an image of the host.
pub(crate) type Volume = FileSystem<Mirror<FileDevice>>;

/// Largest piece of a file that one transaction writes.
const PIECE_BYTES_MAX: usize = 1 << 20;

/// An open image.
pub(crate) struct Image {
    volume: Rc<Volume>,
    disks: Disks,
    runner: Option<JoinHandle<()>>,
    /// Names that only exist while a command is at work.
    temporaries: RefCell<BTreeSet<(InodeNumber, Vec<u8>)>>,
}

/// The disk of an image, or both of a mirror. Locked for as long as they are here.
#[derive(Clone)]
pub(crate) struct Disks {
    devices: Vec<FileDevice>,
    access: Access,
    /// What they are called in messages.
    pub(crate) shown: String,
}

impl Disks {
    /// Opens the image at the one path, or the mirror at the two.
    pub(crate) fn open(paths: &[&Path], access: Access) -> Outcome<Self> {
        let mut devices = Vec::new();
        for path in paths {
            let device = FileDevice::open(path, access).about(&path.display())?;
            if device.size_bytes() == 0 {
                return Err(Error::new(path.display(), lfs::MountError::NotFound));
            }
            devices.push(device);
        }
        let shown = paths.iter().map(|path| path.display().to_string());
        let shown = shown.collect::<Vec<_>>().join(" and ");
        Ok(Self {
            devices,
            access,
            shown,
        })
    }

    /// An image that is open for writing.
    pub(crate) fn of(device: FileDevice, path: &Path) -> Self {
        Self {
            devices: vec![device],
            access: Access::Write,
            shown: path.display().to_string(),
        }
    }

    /// Opens them as what they are: a disk alone, or members of a mirror. One of a mirror that is written alone says so on the disk.
    pub(crate) async fn mirror(&self) -> Outcome<Mirror<FileDevice>> {
        let opened = match <[FileDevice; 2]>::try_from(self.devices.clone()) {
            Ok(both) => Mirror::open_copies(both).await,
            Err(mut one) => match (one.pop(), self.access) {
                (Some(device), Access::Read) => Mirror::open_read_only(device).await,
                (device, _) => Mirror::open(device.into_iter().collect(), [0; 16]).await,
            },
        };
        opened.map_err(|error| Error::new(&self.shown, error))
    }

    /// Not everything became durable, and what the host said of it.
    pub(crate) fn failed(&self) -> Error {
        let failure = self.devices.iter().find_map(FileDevice::failure);
        let cause = failure.map(|error| format!(" ({})", describe(error)));
        let cause = cause.unwrap_or_default();
        Error::new(
            &self.shown,
            format_args!("the disk failed{cause}; not everything is durable"),
        )
    }
}

/// One state of an image: the newest, or a snapshot.
#[derive(Clone)]
pub(crate) struct Tree {
    volume: Rc<Volume>,
    snapshot: Option<SnapshotId>,
}

/// The directories that a walk has been in. In an image that is damaged, or that somebody made so, a directory can be in
/// itself or in many places; a walk that goes into each once comes to an end.
#[derive(Debug, Default)]
pub(crate) struct Walked(HashSet<InodeNumber>);

impl Walked {
    /// Goes into the directory that is at `path`, too.
    ///
    /// # Errors
    /// When it has been in it.
    pub(crate) fn enter(
        &mut self,
        directory: InodeNumber,
        path: &(impl Display + ?Sized),
    ) -> Outcome<()> {
        if self.0.insert(directory) {
            return Ok(());
        }
        let message = "this directory is in more than one place: the image is damaged";
        Err(Error::new(path, message))
    }
}

/// Runs `work` on what `name` says, which nothing changes.
pub(crate) async fn reading<T>(
    name: &ImageName,
    work: impl AsyncFnOnce(&Image, &Tree) -> Outcome<T>,
) -> Outcome<T> {
    let image = Image::open(&name.path, Access::Read).await?;
    let tree = image.tree(name.snapshot.as_deref())?;
    work(&image, &tree).await
}

/// Runs `work` on an image it may change. What it did is durable on return.
pub(crate) async fn writing<T>(
    name: &ImageName,
    work: impl AsyncFnOnce(&Image) -> Outcome<T>,
) -> Outcome<T> {
    if name.snapshot.is_some() {
        return Err(Error::Usage(format!("{name}: snapshots do not change")));
    }
    writing_to(Image::open(&name.path, Access::Write).await?, work).await
}

/// As [`writing`], on both disks of a mirror.
pub(crate) async fn writing_both<T>(
    image: &Path,
    mirror: &Path,
    work: impl AsyncFnOnce(&Image) -> Outcome<T>,
) -> Outcome<T> {
    writing_to(
        Image::open_disks(&[image, mirror], Access::Write).await?,
        work,
    )
    .await
}

pub(crate) async fn writing_to<T>(
    image: Image,
    work: impl AsyncFnOnce(&Image) -> Outcome<T>,
) -> Outcome<T> {
    end_at_second_signal();
    let outcome = tokio::select! {
        outcome = work(&image) => outcome,
        () = interrupted() => Err(Error::Interrupted),
    };
    match (outcome, image.close().await) {
        (Err(error), closed) => {
            // Often why.
            if let Err(closing) = closed {
                complain(closing.message().unwrap_or_default());
            }
            Err(error)
        }
        (Ok(result), closed) => closed.map(|()| result),
    }
}

/// From the second signal on the tool ends at once, whatever it does: an image survives that.
pub(crate) fn end_at_second_signal() {
    tokio::task::spawn_local(async {
        interrupted().await;
        interrupted().await;
        complain("ended at once; the image recovers when it is opened next");
        std::process::exit(130);
    });
}

impl Image {
    /// Opens and mounts the image at `path`. With [`Access::Write`] it has to be [closed](Self::close).
    pub(crate) async fn open(path: &Path, access: Access) -> Outcome<Self> {
        Self::open_disks(&[path], access).await
    }

    /// As [`open`](Self::open), of one image or of the two of a mirror.
    pub(crate) async fn open_disks(paths: &[&Path], access: Access) -> Outcome<Self> {
        Self::on(Disks::open(paths, access)?).await
    }

    /// As [`open`](Self::open), of disks that are open, and stay so.
    pub(crate) async fn on(disks: Disks) -> Outcome<Self> {
        let failed = |error: lfs::MountError| Error::new(&disks.shown, error);
        let key = key::given()?;
        let key = key.as_ref();
        let access = disks.access;
        let device = disks.mirror().await?;
        let (mut volume, keys_in_log) = mount(device, access, key).await.map_err(failed)?;
        if keys_in_log && access == Access::Write {
            drop(volume);
            Box::pin(settle_keys(&disks, key)).await?;
            let device = disks.mirror().await?;
            (volume, _) = mount(device, access, key).await.map_err(failed)?;
        }
        let volume = Rc::new(volume);
        let runner = (access == Access::Write).then(|| {
            let volume = Rc::clone(&volume);
            tokio::task::spawn_local(async move {
                let clock = HostClock::new();
                let mirror = volume.device().clone();
                // A disk that lacks something gets it while the command is at work.
                tokio::select! {
                    () = volume.run(&clock) => {}
                    () = async {
                        mirror.run(&clock).await;
                        std::future::pending::<()>().await;
                    } => {}
                }
            })
        });
        Ok(Self {
            volume,
            disks,
            runner,
            temporaries: RefCell::default(),
        })
    }

    /// The file system.
    pub(crate) fn volume(&self) -> &Rc<Volume> {
        &self.volume
    }

    /// One of its states.
    pub(crate) fn tree(&self, snapshot: Option<&str>) -> Outcome<Tree> {
        let find = |name: &str| {
            let snapshots = self.volume.snapshots();
            let found = snapshots.into_iter().find(|one| one.name == name);
            found
                .map(|one| one.id)
                .ok_or_else(|| Error::new(&self.disks.shown, format_args!("no snapshot '{name}'")))
        };
        Ok(Tree {
            volume: Rc::clone(&self.volume),
            snapshot: snapshot.map(find).transpose()?,
        })
    }

    /// Commits what `body` does, all or nothing. Durable once the image is [closed](Self::close).
    ///
    /// # Errors
    /// Those of `body`, and what keeps the log from taking it.
    pub(crate) async fn transact<T>(
        &self,
        body: impl FnMut(&mut Transaction<'_>) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let (result, _) = self.volume.transact(now_ns(), body).await?;
        // The log's task and the signals get their turn, also in a long row of commits that never wait.
        tokio::task::yield_now().await;
        Ok(result)
    }

    /// Bytes of a file that one transaction may write: what any log takes.
    pub(crate) fn piece_bytes(&self) -> usize {
        piece_bytes(&self.volume)
    }

    /// Remembers a name to be removed should the command not get to its end.
    pub(crate) fn add_temporary(&self, directory: InodeNumber, name: &[u8]) {
        let mut temporaries = self.temporaries.borrow_mut();
        temporaries.insert((directory, name.to_vec()));
    }

    /// The name is gone.
    pub(crate) fn forget_temporary(&self, directory: InodeNumber, name: &[u8]) {
        let mut temporaries = self.temporaries.borrow_mut();
        temporaries.remove(&(directory, name.to_vec()));
    }

    /// Makes everything durable and ends in order.
    pub(crate) async fn close(mut self) -> Outcome<()> {
        for (directory, name) in self.temporaries.take() {
            // It may be gone together with its directory.
            let _ = self
                .transact(|tx| tx.files().unlink(directory, &name))
                .await;
        }
        let durable = self.volume.shutdown(&HostClock::new()).await;
        if let Some(runner) = self.runner.take() {
            runner
                .await
                .map_err(|error| Error::new(&self.disks.shown, error))?;
        }
        durable.map_err(|_| self.disks.failed())
    }
}

impl Tree {
    /// Runs `body`, which changes nothing, on this state.
    ///
    /// # Errors
    /// Those of `body`, and what cannot be read.
    pub(crate) async fn read<T>(
        &self,
        body: impl FnMut(&mut Transaction<'_>) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        match self.snapshot {
            Some(snapshot) => self.volume.read_snapshot(snapshot, body).await,
            None => self.volume.read(body).await,
        }
    }

    /// The snapshot, if it is one.
    pub(crate) fn snapshot(&self) -> Option<SnapshotId> {
        self.snapshot
    }
}

/// As [`Image::piece_bytes`].
pub(crate) fn piece_bytes(volume: &Volume) -> usize {
    // Data are aligned to blocks; the rest of a commit is for what is said of them.
    let half = volume.commit_bytes_max() / 2;
    (half - half % lfs::BLOCK_SIZE).clamp(lfs::BLOCK_SIZE, PIECE_BYTES_MAX)
}

/// The disk under a whole image, snapshots included, which `what` is about.
pub(crate) fn open_whole(name: &ImageName, what: &str, access: Access) -> Outcome<FileDevice> {
    if name.snapshot.is_some() {
        let message = format!("{name}: {what} of the whole image, snapshots included");
        return Err(Error::Usage(message));
    }
    FileDevice::open(&name.path, access).about(name)
}

/// Makes sure that there is a file system that opens with this key, or needs none.
pub(crate) async fn expect_file_system(
    device: &impl BlockDevice,
    name: &ImageName,
    key: Option<&Unlock<'_>>,
) -> Outcome<()> {
    let found = lfs::probe(device).await;
    match found.map_err(|error| Error::new(name, error))? {
        Content::FileSystem => {}
        _ => return Err(Error::new(name, MountError::NotFound)),
    }
    // A key that is wrong or missing is nothing that is wrong with the image.
    match lfs::verify_key(device, key).await {
        Err(error @ MountError::Key(_)) => Err(Error::new(name, error)),
        _ => Ok(()),
    }
}

/// Mounts, and tells whether the log has keys that are nowhere else.
async fn mount(
    device: Mirror<FileDevice>,
    access: Access,
    key: Option<&Key>,
) -> Result<(Volume, bool), lfs::MountError> {
    let key = key.map(Key::unlock);
    let mut recovery = Recovery::open_with(device, key.as_ref()).await?;
    let mut keys_in_log = false;
    while let Some((_, layer)) = recovery.next_commit().await? {
        keys_in_log |= !layer.is_empty();
    }
    let volume = match access {
        Access::Read => recovery.finish_without_writing(),
        Access::Write => recovery.finish().await?,
    };
    Ok((volume, keys_in_log))
}

/// Has the store of keys write what it has only in the log to where it keeps it, as a clean shutdown of a server does.
/// Without it, what a command writes would fill the log behind keys that must not be dropped from it.
async fn settle_keys(disks: &Disks, key: Option<&Key>) -> Outcome<()> {
    let device = disks.mirror().await?;
    let options = store_options()?;
    let key = key.map(Key::unlock);
    let store = kvstore::Store::open_with(device, options, key.as_ref())
        .await
        .map_err(|error| Error::new(&disks.shown, error))?;
    let clock = HostClock::new();
    let ((), durable) = tokio::join!(store.run(&clock), store.shutdown());
    durable.map_err(|_| disks.failed())
}
