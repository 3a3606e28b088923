//! An image opened with its keys, to be backed up or restored to.

use std::path::Path;
use std::rc::Rc;

use kvstore::{BackupSource, OpenError, Options, Store, Timestamp};
use lfs::host::{Access, FileDevice, HostClock, now_ns, random};
use lfs::{BackupToken, Mirror};
use tokio::task::JoinHandle;

use super::{FRAME_BYTES, Known};
use crate::clock::iso8601;
use crate::error::{About as _, Error, Outcome};
use crate::image::Disks;
use crate::key::{self, Key};

/// A store on an image of the host.
pub(crate) struct OpenStore {
    store: Rc<Store<Mirror<FileDevice>>>,
    disks: Disks,
    runner: Option<JoinHandle<()>>,
    /// The commit to show, of a store that is only read.
    at: Option<Timestamp>,
}

/// Memory that the keys of a store on the host may take: their caches and what is not flushed yet.
const MEMORY_BYTES_MAX: usize = 256 << 20;

/// How stores of images are opened.
pub(crate) fn store_options() -> Outcome<Options> {
    let seed = random().about("no random bytes from the kernel")?;
    Ok(Options {
        memory_bytes_max: MEMORY_BYTES_MAX,
        open_memory_bytes_max: MEMORY_BYTES_MAX,
        hash_seed: u64::from_le_bytes(seed),
        // How far back it is kept is for servers to say.
        history_ms: i64::MAX,
    })
}

impl OpenStore {
    /// Opens the image at `path`, and has its log and cleaner run until it is [closed](Self::close).
    pub(crate) async fn open(path: &Path) -> Outcome<Self> {
        let key = key::given()?;
        let key = key.as_ref().map(Key::unlock);
        let disks = Disks::open(&[path], Access::Write)?;
        Self::open_with(disks, async |device, options| {
            Store::open_with(device, options, key.as_ref()).await
        })
        .await
    }

    /// The same for one that is to be restored to and that nobody else can open yet.
    pub(crate) async fn open_unfinished(disks: Disks) -> Outcome<Self> {
        let key = key::given()?;
        let key = key.as_ref().map(Key::unlock);
        Self::open_with(disks, async |device, options| {
            // What a restore overwrites is in the middle of it.
            let options = Options {
                history_ms: 0,
                ..options
            };
            Store::open_unfinished(device, options, key.as_ref()).await
        })
        .await
    }

    /// Opens the image as it was after a commit, to be read.
    pub(crate) async fn open_at(path: &Path, commit: u64) -> Outcome<Self> {
        let disks = Disks::open(&[path], Access::Read)?;
        let device = disks.mirror().await?;
        let at = Timestamp(commit);
        let key = key::given()?;
        let key = key.as_ref().map(Key::unlock);
        let store = Store::open_at(device, store_options()?, key.as_ref(), at).await;
        Ok(Self {
            store: Rc::new(store.map_err(|error| Error::new(&disks.shown, error))?),
            disks,
            runner: None,
            at: Some(at),
        })
    }

    async fn open_with(
        disks: Disks,
        open: impl AsyncFnOnce(
            Mirror<FileDevice>,
            Options,
        ) -> Result<Store<Mirror<FileDevice>>, OpenError>,
    ) -> Outcome<Self> {
        let device = disks.mirror().await?;
        let store = open(device, store_options()?).await;
        let store = Rc::new(store.map_err(|error| Error::new(&disks.shown, error))?);
        let running = Rc::clone(&store);
        let runner =
            tokio::task::spawn_local(async move { Box::pin(running.run(&HostClock::new())).await });
        Ok(Self {
            store,
            disks,
            runner: Some(runner),
            at: None,
        })
    }

    /// What is opened.
    pub(crate) fn store(&self) -> &Store<Mirror<FileDevice>> {
        &self.store
    }

    pub(super) fn snapshots(&self) -> Vec<Known> {
        let snapshots = self.store.snapshots().into_iter();
        let known = snapshots.map(|snapshot| Known {
            name: snapshot.name,
            commit: snapshot.commit.0,
        });
        known.collect()
    }

    pub(super) async fn begin(&self) -> Outcome<Known> {
        if let Some(at) = self.at {
            return Ok(Known {
                name: String::new(),
                commit: at.0,
            });
        }
        let time = now_ns();
        // Its digits only, and those of the fraction that tell backups of one second apart.
        let digits = iso8601(time);
        let digits = digits.chars().filter(char::is_ascii_digit).take(17);
        let name = format!("backup-{}", digits.collect::<String>());
        let begun = self.store.create_snapshot(&name, time).await;
        let begun = begun.map_err(|error| Error::new(&self.disks.shown, error))?;
        Ok(Known {
            name: begun.name,
            commit: begun.commit.0,
        })
    }

    pub(super) async fn frame(
        &self,
        snapshot: &str,
        since: Option<&str>,
        token: &BackupToken,
    ) -> Outcome<Vec<u8>> {
        let source = BackupSource {
            show: self.at.map_or(Ok(snapshot), Err),
            since,
        };
        let frame = self.store.read_backup(source, token, FRAME_BYTES).await;
        frame.map_err(|error| Error::new(&self.disks.shown, error))
    }

    pub(super) async fn forget(&self, snapshot: &str) -> Outcome<()> {
        if self.at.is_some() {
            return Ok(());
        }
        let removed = self.store.delete_snapshot(snapshot).await;
        removed.map_err(|error| Error::new(&self.disks.shown, error))
    }

    /// Makes everything durable and ends in order.
    pub(crate) async fn close(self) -> Outcome<()> {
        let Some(runner) = self.runner else {
            return Ok(());
        };
        let durable = self.store.shutdown().await;
        runner
            .await
            .map_err(|error| Error::new(&self.disks.shown, error))?;
        durable.map_err(|_| self.disks.failed())
    }
}
