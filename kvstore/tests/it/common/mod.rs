//! A store on a simulated disk, and a model to hold it against.

use std::collections::BTreeMap;
use std::rc::Rc;

use kvstore::{
    CommitError, DATABASE_COUNT, DatabaseIndex, Entry, Missing, OpenError, Options, Store,
    Timestamp, TransactError, Transaction,
};
use lfs::sim::{Executor, Random, SimDisk, seed_from};
use lfs::{BLOCK_SIZE, FileSystemId, FormatOptions};

pub type TestStore = Store<SimDisk>;

/// Databases that tests use.
pub const DATABASES: u8 = 2;

/// Keys of each that they use.
pub const KEYS: u64 = 12;

/// The seed, printed so that a failure can be replayed with `SILTSTONE_SEED`.
pub fn seed(default: u64) -> u64 {
    let seed = seed_from(std::env::var("SILTSTONE_SEED").ok().as_deref(), default);
    println!("SILTSTONE_SEED={seed}");
    seed
}

/// The smallest segments and log there are: every boundary is met early.
pub const FORMAT: FormatOptions = FormatOptions {
    segment_bytes: 8 * BLOCK_SIZE as u32,
    log_segments: 16,
    created_ns: 0,
};

pub const OPTIONS: Options = Options {
    memory_bytes_max: 8 << 20,
    open_memory_bytes_max: 16 << 20,
    hash_seed: 1,
    history_ms: 0,
};

/// A formatted disk of `segments` segments.
pub fn formatted(segments: usize, seed: u64) -> SimDisk {
    formatted_as(FORMAT, segments, seed)
}

/// The same, which makes durable what is written for the log in one of the ways there are, as the seed says.
pub fn formatted_of_any_kind(segments: usize, seed: u64) -> SimDisk {
    let disk = formatted(segments, seed);
    disk.flush_by(seed);
    println!("seed {seed} flushes: {:?}", disk.flushing());
    disk
}

/// As [`formatted`], of this form.
pub fn formatted_as(format: FormatOptions, segments: usize, seed: u64) -> SimDisk {
    let disk = SimDisk::new(segments * 8, seed);
    let target = disk.clone();
    Executor::new(seed).run(async move {
        lfs::format(&target, format, FileSystemId([0xA5; 16]))
            .await
            .unwrap();
    });
    disk.snapshot(seed)
}

/// Opens the store and lets it run in the background of `executor`.
pub fn open(executor: &mut Executor, disk: &SimDisk) -> Result<Rc<TestStore>, OpenError> {
    open_keeping(executor, disk, 0)
}

/// The same, with so many milliseconds of history.
pub fn open_keeping(
    executor: &mut Executor,
    disk: &SimDisk,
    history_ms: i64,
) -> Result<Rc<TestStore>, OpenError> {
    let disk = disk.clone();
    let options = Options {
        history_ms,
        ..OPTIONS
    };
    let store = Rc::new(executor.run(async move { Store::open(disk, options).await })?);
    let (running, clock) = (Rc::clone(&store), executor.clock());
    executor.spawn(async move { running.run(&clock).await });
    Ok(store)
}

/// What a store should hold: for each database and key, the value.
pub type Model = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

/// Everything in `store`.
pub fn contents(executor: &mut Executor, store: &Rc<TestStore>) -> Model {
    let store = Rc::clone(store);
    executor.run(async move { all_in(&store).await })
}

/// The same, within a task.
pub async fn all_in(store: &TestStore) -> Model {
    store.transact(0, 0, contents_of).await.unwrap().0
}

/// Runs `body` until nothing is missing and there is room, and commits.
pub async fn transact<T>(
    store: &TestStore,
    now_ms: i64,
    mut body: impl FnMut(&mut Transaction<'_, SimDisk>) -> Result<T, Missing>,
) -> Result<(T, Timestamp), CommitError> {
    loop {
        store.admit().await;
        match store.transact(now_ms, 0, &mut body).await {
            // Others took the room while something was loaded.
            Err(TransactError::Commit(CommitError::Busy)) => {}
            Err(TransactError::Commit(error)) => return Err(error),
            Err(TransactError::Load(error)) => panic!("{error}"),
            Ok(done) => return Ok(done),
        }
    }
}

/// Sets a key of the first database to so many bytes that do not compress.
pub async fn put(store: &TestStore, number: u32, len: usize) -> Result<Timestamp, CommitError> {
    let mut random = Random::new(u64::from(number));
    let bytes = (0..len).map(|_| random.next_u64().to_le_bytes()[0]);
    let bytes = bytes.collect::<Vec<u8>>();
    let done = transact(store, 0, |transaction| {
        let key = number.to_be_bytes();
        transaction.put(DatabaseIndex(0), &key, &bytes[..], None);
        Ok(())
    });
    Ok(done.await?.1)
}

/// What `key` has.
pub async fn value_of(store: &TestStore, db: DatabaseIndex, key: &[u8]) -> Option<Entry> {
    let get = |transaction: &mut Transaction<'_, SimDisk>| transaction.get(db, key);
    store.transact(0, 0, get).await.unwrap().0
}

/// Everything that `transaction` sees.
pub fn contents_of(transaction: &mut Transaction<'_, SimDisk>) -> Result<Model, Missing> {
    let mut model = Model::new();
    for db in 0..DATABASE_COUNT as u8 {
        let mut keys = Vec::new();
        transaction.keys_after(DatabaseIndex(db), None, usize::MAX / 2, &mut keys)?;
        assert_eq!(keys.len() as u64, transaction.count(DatabaseIndex(db))?);
        for key in keys {
            let entry = transaction
                .get(DatabaseIndex(db), &key)?
                .expect("a listed key has a value");
            model.insert((db, key.to_vec()), entry.value.to_vec());
        }
    }
    Ok(model)
}

/// A random transaction of up to `ops` operations, applied to `model` as well.
pub fn random_writes(
    random: &mut Random,
    transaction: &mut Transaction<'_, SimDisk>,
    model: &mut Model,
    ops: u64,
    value_bytes_max: u64,
) -> Result<(), Missing> {
    for _ in 0..=random.below(ops) {
        let db = u8::try_from(random.below(u64::from(DATABASES))).unwrap();
        let index = DatabaseIndex(db);
        let key = format!("key{}", random.below(KEYS)).into_bytes();
        let at = (db, key.clone());
        match random.below(20) {
            0 => {
                transaction.clear(index);
                model.retain(|(of, _), _| *of != db);
            }
            1 => {
                let (from, to) = (random.below(12), random.below(KEYS));
                let (from, to) = (
                    format!("key{from}").into_bytes(),
                    format!("key{to}").into_bytes(),
                );
                transaction.delete_range(index, &from, &to);
                model.retain(|(of, key), _| *of != db || *key < from || *key >= to);
            }
            2..=4 => {
                let existed = transaction.delete(index, &key)?;
                assert_eq!(existed, model.remove(&at).is_some());
            }
            5..=8 => {
                let tail = random_bytes(random, 40);
                let len = transaction.append(index, &key, &tail)?;
                let value = model.entry(at).or_default();
                value.extend_from_slice(&tail);
                assert_eq!(len, value.len());
            }
            9 => {
                let existed = transaction.set_expiry(index, &key, Some(i64::MAX - 1))?;
                assert_eq!(existed, model.contains_key(&at));
            }
            _ => {
                let value = random_bytes(random, value_bytes_max);
                transaction.put(index, &key, value.as_slice(), None);
                model.insert(at, value);
            }
        }
        let key = format!("key{}", random.below(KEYS)).into_bytes();
        let found = transaction.get(index, &key)?;
        let found = found.map(|entry| entry.value.to_vec());
        assert_eq!(found.as_ref(), model.get(&(db, key)), "own writes are seen");
    }
    Ok(())
}

fn random_bytes(random: &mut Random, max: u64) -> Vec<u8> {
    let byte = random.next_u64().to_le_bytes()[0];
    vec![byte; usize::try_from(random.below(max + 1)).unwrap()]
}

/// What was acknowledged, and when: `timestamp` was durable once the disk had seen `events`.
#[derive(Debug, Clone, Copy)]
pub struct Acknowledged {
    pub timestamp: Timestamp,
    pub events: usize,
}

/// The newest commit that had been acknowledged when the disk had seen `events`.
pub fn newest_acknowledged(acknowledged: &[Acknowledged], events: usize) -> Timestamp {
    let before = acknowledged.iter().filter(|ack| ack.events <= events);
    let timestamps = before.map(|ack| ack.timestamp);
    timestamps.max().unwrap_or_default()
}
