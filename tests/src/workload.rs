//! Concurrent writers that keep a [`Ledger`] each, for power cuts and failing disks.
//!
//! Each writer has a connection and keys of its own: new keys, overwritten ones, counters, growing
//! values, deletions, and MULTI/EXEC over several of them; one command at a time or pipelined. However long they
//! write, a disk of 32 MiB holds what eight of them keep.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use redis::{Connection, RedisError, RedisResult, Value, cmd};

use crate::client;
use crate::ledger::{Contents, Ledger, Operation, Step};

/// Longest pipeline of one writer, in steps.
const BATCH_STEPS_MAX: usize = 16;
/// New keys of a writer at a time: from then on the oldest are written again.
const NEW_KEYS: u32 = 256;
/// One in so many steps of a growing value ends it.
const GROWTHS: u8 = 128;
/// For any progress a test waits for.
const PROGRESS_LIMIT: Duration = Duration::from_mins(1);
/// Keys a check reads at a time.
const CHECK_KEYS: usize = 256;

/// A set of writers; survives the machines it writes to.
pub struct Workload {
    writers: Vec<Writer>,
}

impl Workload {
    /// `count` writers that draw from `rng`.
    pub fn new(count: usize, rng: &mut Rng) -> Self {
        let writers = (0..count)
            .map(|index| Writer {
                index,
                rng: rng.fork(),
                ledger: Ledger::default(),
                keys_used: 0,
            })
            .collect();
        Self { writers }
    }

    /// Writes until every connection has failed or was refused something; `meanwhile` sees to that, and
    /// may watch the progress. Returns how the writers ended, and the number of acknowledged steps.
    pub fn run(&mut self, port: u16, meanwhile: impl FnOnce(&Progress)) -> (Vec<RedisError>, u64) {
        let progress = Progress::new(self.writers.len());
        thread::scope(|scope| {
            for writer in &mut self.writers {
                scope.spawn(|| progress.end(writer.write_until_failure(port, &progress)));
            }
            meanwhile(&progress);
        });
        let state = progress.state.into_inner().expect("no panic held it");
        (state.ends, state.steps)
    }

    /// Checks every promise on a machine that was rebooted, and panics when one is broken.
    pub fn check(&mut self, connection: &mut Connection) {
        let mut keys = 0;
        let mut survivors = 0;
        for writer in &mut self.writers {
            let found = read(connection, writer.ledger.keys());
            match writer.ledger.settle(found) {
                Ok(happened) => survivors += happened,
                Err(broken) => panic!("writer {}: {broken}", writer.index),
            }
            keys += writer.ledger.acknowledged().len();
        }
        let size: usize = cmd("DBSIZE").query(connection).expect("DBSIZE");
        assert_eq!(size, keys, "keys that nobody wrote, or counted wrongly");
        println!("checked {keys} keys; {survivors} unacknowledged steps had happened");
    }
}

/// How far a running workload has come.
pub struct Progress {
    state: Mutex<ProgressState>,
    changed: Condvar,
}

struct ProgressState {
    steps: u64,
    writers: usize,
    ends: Vec<RedisError>,
}

impl Progress {
    fn new(writers: usize) -> Self {
        let state = ProgressState {
            steps: 0,
            writers,
            ends: Vec::new(),
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Waits until `steps` were acknowledged in all; panics when all writers end before, or it takes long.
    pub fn wait_for(&self, steps: u64) {
        let waiting =
            |state: &mut ProgressState| state.steps < steps && state.ends.len() < state.writers;
        let wait = self
            .changed
            .wait_timeout_while(self.lock(), PROGRESS_LIMIT, waiting);
        let state = wait.expect("no panic holds it").0;
        let (done, ends) = (state.steps, &state.ends);
        assert!(
            done >= steps,
            "{done} of {steps} steps; writers that ended: {ends:?}"
        );
    }

    fn step(&self) {
        self.lock().steps += 1;
        self.changed.notify_all();
    }

    fn end(&self, reason: RedisError) {
        self.lock().ends.push(reason);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, ProgressState> {
        self.state.lock().expect("no panic holds it")
    }
}

struct Writer {
    index: usize,
    rng: Rng,
    ledger: Ledger,
    keys_used: u32,
}

impl Writer {
    fn write_until_failure(&mut self, port: u16, progress: &Progress) -> RedisError {
        let mut connection = match client::try_connect(port) {
            Ok(connection) => connection,
            Err(error) => return error,
        };
        loop {
            if let Err(error) = self.write_batch(&mut connection, progress) {
                return error;
            }
        }
    }

    fn write_batch(&mut self, connection: &mut Connection, progress: &Progress) -> RedisResult<()> {
        let steps = if self.rng.bool() {
            1
        } else {
            self.rng.usize(1..=BATCH_STEPS_MAX)
        };
        let batch: Vec<_> = (0..steps).map(|_| self.draw_step()).collect();
        let mut packed = Vec::new();
        for step in &batch {
            pack(step, &mut packed);
        }
        self.ledger.send(batch.iter().cloned());
        connection.send_packed_command(&packed)?;
        for step in &batch {
            receive(step, connection)?;
            self.ledger.acknowledge();
            progress.step();
        }
        Ok(())
    }

    fn draw_step(&mut self) -> Step {
        let operations = if self.rng.u8(..4) == 0 {
            self.rng.usize(2..=5)
        } else {
            1
        };
        (0..operations).map(|_| self.draw_operation()).collect()
    }

    fn draw_operation(&mut self) -> Operation {
        let writer = self.index;
        let few = self.rng.u32(..8);
        match self.rng.u8(..10) {
            0..4 => {
                self.keys_used += 1;
                let key = self.keys_used % NEW_KEYS;
                Operation::Set(format!("w{writer}:new:{key}"), self.draw_value())
            }
            4..6 => Operation::Set(format!("w{writer}:over:{few}"), self.draw_value()),
            6..8 => Operation::Increment(format!("w{writer}:count:{few}")),
            8 if self.rng.u8(..GROWTHS) == 0 => Operation::Delete(format!("w{writer}:grow:{few}")),
            8 => Operation::Append(format!("w{writer}:grow:{few}"), vec![b'a' + few as u8; 30]),
            _ => Operation::Delete(format!("w{writer}:new:{}", self.rng.u32(..NEW_KEYS))),
        }
    }

    fn draw_value(&mut self) -> Vec<u8> {
        // Mostly small, now and then one that spans many blocks.
        let bytes = match self.rng.u8(..50) {
            0 => self.rng.usize(..100_000),
            1..10 => self.rng.usize(..4_000),
            _ => self.rng.usize(..200),
        };
        let mut value = vec![0; bytes];
        self.rng.fill(&mut value);
        value
    }
}

fn pack(step: &Step, packed: &mut Vec<u8>) {
    let atomic = step.len() > 1;
    if atomic {
        packed.extend(cmd("MULTI").get_packed_command());
    }
    for operation in step {
        let command = match operation {
            Operation::Set(key, value) => cmd("SET").arg(key).arg(value).get_packed_command(),
            Operation::Append(key, tail) => cmd("APPEND").arg(key).arg(tail).get_packed_command(),
            Operation::Increment(key) => cmd("INCR").arg(key).get_packed_command(),
            Operation::Delete(key) => cmd("DEL").arg(key).get_packed_command(),
        };
        packed.extend(command);
    }
    if atomic {
        packed.extend(cmd("EXEC").get_packed_command());
    }
}

/// Receives the replies to one step; an error in any of them is an error.
fn receive(step: &Step, connection: &mut Connection) -> RedisResult<()> {
    let replies = if step.len() > 1 { step.len() + 2 } else { 1 };
    let mut last = Value::Nil;
    for _ in 0..replies {
        last = connection.recv_response()?.extract_error()?;
    }
    if step.len() > 1 {
        assert!(
            matches!(&last, Value::Array(results) if results.len() == step.len()),
            "EXEC: {last:?}"
        );
    }
    Ok(())
}

fn read<'k>(connection: &mut Connection, keys: impl Iterator<Item = &'k String>) -> Contents {
    let keys: Vec<_> = keys.collect();
    let mut contents = BTreeMap::new();
    for keys in keys.chunks(CHECK_KEYS) {
        let values: Vec<Option<Vec<u8>>> = cmd("MGET")
            .arg(keys)
            .query(connection)
            .expect("the machine answers MGET");
        let present = keys
            .iter()
            .zip(values)
            .filter_map(|(key, value)| Some(((*key).clone(), value?)));
        contents.extend(present);
    }
    contents
}
