//! Attempts: how commands on keys and files are carried out, alone or by EXEC.
//!
//! What they need may be on the disk only. Then the attempt is dropped with all it did (replies, counters, what MULTI
//! and WATCH know stay as before), the session loads what was missing and begins again, with what was loaded at
//! hand: so each attempt gets further, and the last one happens in one step. With everything in memory it is the first
//! one. All that commands on files and keys do is in the store's transaction; other commands, which can stand in the
//! same EXEC, do things at once. Where there are any, the commands on files and keys are rehearsed until nothing is
//! missing, and only then is everything carried out.
//!
//! What is found missing first is needed; what is asked for behind it, so that it can be loaded in one go, is a guess:
//! the other keys that the command names, and what the other commands of an EXEC need.

use alloc::vec::Vec;

use kvstore::{CommitError, DatabaseIndex, Fault, Loaded, Transaction};
use lfs::{BlockDevice, Clock};

use super::State;
use super::execute::Found;
use super::output::Batch;
use super::transaction::{Queue, aborted};
use crate::command::failure::{self, BUSY};
use crate::command::{Data, Outcome, Run, connection};
use crate::resp::reply::Sink;
use crate::resp::{Args, Reply};
use crate::server::Server;

/// What became of a command; or what has to be loaded first, and nothing has happened.
pub(super) type Attempt = Result<Outcome, Vec<Fault>>;

impl State {
    /// The command at hand has come to its end.
    pub(super) fn forget_loaded(&mut self) {
        self.loaded.forget();
        self.load_failure = None;
    }
}

impl<D: BlockDevice, C: Clock> Server<D, C> {
    /// A command on keys or files, which `run` carries out, as a commit of its own.
    pub(super) fn run_alone(
        &self,
        state: &mut State,
        found: Found,
        args: Args<'_>,
        batch: &mut Batch,
        run: impl FnOnce(&mut Data<'_, '_, D>) -> Outcome,
    ) -> Attempt {
        if let Some(error) = state.load_failure.take() {
            return Ok(Err(failure::of_load(&error)));
        }
        let start = batch.sink.place();
        let mut transaction = self.store.transaction(
            self.now_ms(),
            self.file_time_ns(matches!(found.spec.run, Run::File(_))),
            &mut state.loaded,
        );
        let outcome = run(&mut Data {
            transaction: &mut transaction,
            database: state.database,
            args,
            reply: Reply::new(&mut batch.sink, state.resp3),
            env: &self.env,
            spec: found.spec,
        });
        if transaction.is_in_vain() {
            want_named(&mut transaction, state.database, found, args);
            batch.sink.return_to(start);
            return Err(transaction.take_faults());
        }
        let read_only = transaction.is_read_only();
        if outcome.is_err() && !read_only {
            batch.sink.return_to(start);
            return Ok(outcome);
        }
        let timestamp = match transaction.commit() {
            Ok(timestamp) => timestamp,
            Err(error) => {
                batch.sink.return_to(start);
                return match error {
                    CommitError::Fault(faults) => Err(faults),
                    error => Ok(Err(self.refusal(error))),
                };
            }
        };
        if !read_only {
            state.last_write = timestamp;
        }
        Ok(self.depend_with_outcome(state, outcome, batch, start.len(), timestamp))
    }

    /// EXEC of `queue`.
    pub(super) fn exec_queue(
        &self,
        state: &mut State,
        queue: &Queue,
        batch: &mut Batch,
    ) -> Attempt {
        if let Some(error) = state.load_failure.take() {
            return Ok(Err(aborted(&failure::of_load(&error))));
        }
        let mut loaded = core::mem::take(&mut state.loaded);
        let start = batch.sink.place();
        let attempt = if queue.controls {
            let rehearsed = self.rehearse(state, queue, &mut loaded, batch);
            rehearsed.and_then(|()| {
                state.end_transaction();
                let attempt = self.attempt(state, queue, &mut loaded, batch);
                // What was found missing only now cannot be loaded: the other commands have had their effect.
                attempt.or_else(|_| Ok(Err(aborted(&BUSY))))
            })
        } else {
            self.attempt(state, queue, &mut loaded, batch)
        };
        if !matches!(attempt, Ok(Ok(()))) {
            batch.sink.return_to(start);
        }
        state.loaded = loaded;
        attempt
    }

    /// Carries all out and commits.
    fn attempt(
        &self,
        state: &mut State,
        queue: &Queue,
        loaded: &mut Loaded,
        batch: &mut Batch,
    ) -> Attempt {
        let start = batch.sink.len();
        let database = state.database;
        Reply::new(&mut batch.sink, state.resp3).array(queue.len());
        let file_time_ns = self.file_time_ns(queue.files);
        let mut transaction = self.store.transaction(self.now_ms(), file_time_ns, loaded);
        let mut failures = Vec::new();
        for (found, args) in queue.iter() {
            let before = batch.sink.place();
            if queue.controls {
                // Others may look at the counters.
                self.count_call(found);
            }
            let failure = self.run_queued(state, &mut transaction, found, args, batch);
            if transaction.is_in_vain() {
                // The others may still tell what they will need; what they reply is nothing.
                batch.sink.return_to(before);
                if failure.is_some_and(|failure| failure.is_missing()) {
                    want_named(&mut transaction, state.database, found, args);
                }
                if queue.controls || transaction.has_all_faults() {
                    break;
                }
                continue;
            }
            match failure {
                Some(failure) if queue.controls => self.note_failure(found, &failure),
                Some(failure) => failures.push((found, failure)),
                None => {}
            }
        }
        if transaction.is_in_vain() {
            state.select(database);
            return Err(transaction.take_faults());
        }
        let read_only = transaction.is_read_only();
        let committed = match transaction.commit() {
            // It is run again, and what it watches may have changed by then.
            Err(CommitError::Fault(faults)) => return Err(faults),
            committed => committed,
        };
        if !queue.files {
            state.end_transaction();
        }
        if !queue.controls {
            for (found, _) in queue.iter() {
                self.count_call(found);
            }
            for (found, failure) in failures {
                self.note_failure(found, &failure);
            }
        }
        match committed {
            Ok(timestamp) => {
                if !read_only {
                    state.last_write = timestamp;
                }
                self.depend(batch, start, timestamp);
                Ok(Ok(()))
            }
            Err(error) => {
                state.select(database);
                Ok(Err(aborted(&self.refusal(error))))
            }
        }
    }

    /// Carries out the commands on files and keys only, for nobody to see.
    fn rehearse(
        &self,
        state: &State,
        queue: &Queue,
        loaded: &mut Loaded,
        batch: &mut Batch,
    ) -> Result<(), Vec<Fault>> {
        let room = Reply::new(&mut batch.sink, state.resp3).room();
        let mut sink = Sink::new(room);
        let mut database = state.database;
        let file_time_ns = self.file_time_ns(queue.files);
        let mut transaction = self.store.transaction(self.now_ms(), file_time_ns, loaded);
        for (found, args) in queue.iter() {
            sink.reset(0);
            let mut data = Data {
                transaction: &mut transaction,
                database,
                args,
                reply: Reply::new(&mut sink, state.resp3),
                env: &self.env,
                spec: found.spec,
            };
            // Its error will be said when it is carried out.
            let outcome = match found.spec.run {
                Run::Data(command) => data.run(command),
                Run::File(command) => data.run_file(command),
                _ => {
                    // What comes after it is on the keys of another database.
                    database = connection::selects(found.spec, args).unwrap_or(database);
                    continue;
                }
            };
            if outcome.is_err_and(|failure| failure.is_missing()) {
                want_named(&mut transaction, database, found, args);
            }
            if transaction.has_all_faults() {
                break;
            }
        }
        match transaction.rehearse() {
            Err(CommitError::Fault(faults)) => Err(faults),
            _ => Ok(()),
        }
    }

    /// The time that files get; the clock is read only for those who touch them.
    pub(super) fn file_time_ns(&self, files: bool) -> i64 {
        if files { self.now_ns() } else { 0 }
    }
}

/// One of the keys that a command names is missing: has all of them loaded together.
pub(super) fn want_named<D: BlockDevice>(
    transaction: &mut Transaction<'_, D>,
    database: DatabaseIndex,
    found: Found,
    args: Args<'_>,
) {
    let indexes = found.spec.key_indexes(args.len());
    transaction.want(database, &mut indexes.map(|index| args.at(index)));
}
