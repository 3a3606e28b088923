//! Ours: the store over an image file, as the hosted server has it. All on one thread; clients are tasks.
//!
//! A reply leaves when what it depends on is durable, so reads wait for that as well.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use ::tests::qmp::BlockCounts;
use kvstore::{CommitError, DatabaseIndex, Missing, Options, Store, TransactError, Transaction};
use lfs::host::{Access, FileDevice, HostClock, now_ns};
use lfs::{FileSystemId, FormatOptions};
use tokio::task::{JoinHandle, spawn_local};

use super::{copy, size};
use crate::counted::CountedDevice;
use crate::data::Key;
use crate::engine::{Client, Engine, Host, Name, Sizes};

const DB: DatabaseIndex = DatabaseIndex(0);

/// Bytes of the disk for each byte of data, and beyond. It is a file of holes: what is never written takes nothing.
const DISK_PER_DATA: u64 = 8;
const DISK_BYTES_MIN: u64 = 256 << 20;

/// The store and its task.
pub struct Tasks {
    ours: Rc<Ours>,
    log: JoinHandle<()>,
}

/// What clients see.
pub struct Ours {
    store: Store<CountedDevice>,
    device: CountedDevice,
}

impl Ours {
    /// Runs `body` until all that it reads is in memory and its commit is taken, and waits until what it depends on is durable.
    async fn run<T>(
        &self,
        mut body: impl FnMut(&mut Transaction<'_, CountedDevice>) -> Result<T, Missing>,
    ) -> T {
        loop {
            match self
                .store
                .transact(now_ns() / 1_000_000, 0, &mut body)
                .await
            {
                Err(TransactError::Commit(CommitError::Busy)) => self.store.admit().await,
                done => {
                    let (result, committed) = done.expect("commits");
                    self.store.wait_durable(committed).await.expect("durable");
                    return result;
                }
            }
        }
    }
}

impl Engine for Ours {
    async fn put(&self, entries: &[(Key, Vec<u8>)]) {
        self.store.admit().await;
        self.run(|transaction| {
            for (key, value) in entries {
                transaction.put(DB, key, value.as_slice(), None);
            }
            Ok(())
        })
        .await;
    }

    async fn get(&self, key: &Key, value: &mut Vec<u8>) -> bool {
        self.run(|transaction| {
            let found = transaction.get(DB, key)?;
            Ok(found.map(|found| copy(&found.value, value)).is_some())
        })
        .await
    }

    async fn scan(&self, from: &Key, limit: usize, each: &mut dyn FnMut(&[u8], &[u8])) {
        let end = [u8::MAX; size_of::<Key>()];
        let range = |transaction: &mut Transaction<'_, CountedDevice>| {
            transaction.range(DB, from, &end, false, limit, true)
        };
        for (key, entry) in self.run(range).await {
            each(&key, &entry.expect("it was asked for").value);
        }
    }

    async fn delete(&self, key: &Key) {
        self.store.admit().await;
        self.run(|transaction| transaction.delete(DB, key)).await;
    }

    async fn update(&self, keys: &[Key; 2], change: &mut dyn FnMut(&mut [Vec<u8>; 2])) -> u64 {
        self.store.admit().await;
        let mut attempts = 0;
        // From the first read to the commit it is one step: nobody comes in between.
        self.run(|transaction| {
            attempts += 1;
            let [first, second] = keys.map(|key| transaction.get(DB, &key));
            let mut values =
                [first?, second?].map(|found| found.expect("it is there").value.to_vec());
            change(&mut values);
            for (key, value) in keys.iter().zip(values) {
                transaction.put(DB, key, value, None);
            }
            Ok(())
        })
        .await;
        attempts
    }

    fn disk_counts(&self) -> Option<BlockCounts> {
        Some(self.device.counts())
    }
}

impl Host for Tasks {
    type Engine = Ours;

    async fn open(_: Name, directory: &Path, sizes: Sizes) -> Self {
        let path = directory.join("disk.img");
        let device = if path.exists() {
            FileDevice::open(&path, Access::Write).expect("an image")
        } else {
            let bytes = (sizes.data_bytes * DISK_PER_DATA).max(DISK_BYTES_MIN);
            let device = FileDevice::create(&path, bytes).expect("an image");
            let options = FormatOptions::for_device_bytes(bytes);
            let made = lfs::format(&device, options, FileSystemId([7; 16])).await;
            made.expect("a file system");
            device
        };
        let device = CountedDevice::new(device);
        let memory_bytes = sizes.memory_bytes;
        let options = Options {
            memory_bytes_max: size(memory_bytes),
            open_memory_bytes_max: size(memory_bytes),
            hash_seed: 7,
            history_ms: 0,
        };
        let store = Store::open(device.clone(), options).await;
        let store = store.expect("a store");
        let ours = Rc::new(Ours { store, device });
        let running = Rc::clone(&ours);
        let log = spawn_local(async move { Box::pin(running.store.run(&HostClock::new())).await });
        Self { ours, log }
    }

    fn engine(&self) -> &Ours {
        &self.ours
    }

    async fn run<C: Client>(&self, clients: Vec<C>) -> Vec<C> {
        let work = |mut client: C| {
            let ours = Rc::clone(&self.ours);
            spawn_local(async move {
                client.run(&*ours).await;
                client
            })
        };
        let tasks = clients.into_iter().map(work).collect::<Vec<_>>();
        let mut ended = Vec::new();
        for task in tasks {
            ended.push(task.await.expect("a client is through"));
        }
        ended
    }

    async fn rest(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn close(self) {
        self.ours.store.shutdown().await.expect("durable");
        self.log.await.expect("the log ended");
    }
}
