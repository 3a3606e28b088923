//! Commands and transactions that touch files.
//!
//! What they need may be on the disk only. Then the attempt is dropped with all it did (replies, counters, what MULTI
//! and WATCH know stay as before), the session loads what was missing and begins again, with what was loaded at
//! hand: so each attempt gets further, and the last one happens in one step like any other command. All that
//! commands on files and keys do is in the store's transaction; other commands, which can stand in the same EXEC, do
//! things at once. Where there are any, the commands on files are rehearsed until nothing is missing, and only
//! then is everything carried out.

use alloc::vec::Vec;

use kvstore::CommitError;
use lfs::{BlockDevice, Clock, Fault, Loaded};

use super::State;
use super::output::Batch;
use super::transaction::{Queue, aborted};
use crate::command::failure::{self, BUSY};
use crate::command::{Data, FileCommand, Outcome, Run, Spec};
use crate::resp::reply::Sink;
use crate::resp::{Args, Reply};
use crate::server::Server;

/// Faults that one attempt collects at most: those behind the first are a guess.
const FAULTS_MAX: usize = 64;

impl State {
    /// The command at hand has come to its end.
    pub(super) fn forget_loaded(&mut self) {
        self.loaded = Loaded::default();
        self.load_failure = None;
    }
}

impl<D: BlockDevice, C: Clock> Server<D, C> {
    /// A command on files as a commit of its own; or what has to be loaded first, and nothing has happened.
    pub(super) fn run_file_alone(
        &self,
        state: &mut State,
        command: FileCommand,
        spec: &'static Spec,
        args: Args<'_>,
        batch: &mut Batch,
    ) -> Result<Outcome, Vec<Fault>> {
        let mut loaded = core::mem::take(&mut state.loaded);
        if let Some(error) = state.load_failure.take() {
            return Ok(Err(failure::of_file(&error)));
        }
        let start = batch.sink.len();
        let mut transaction =
            self.store
                .transaction_with_files(self.now_ms(), self.now_ns(), &mut loaded);
        let outcome = Data {
            transaction: &mut transaction,
            database: state.database,
            args,
            reply: Reply::new(&mut batch.sink, state.resp3),
            env: &self.env,
            spec,
        }
        .run_file(command);
        let mut fault = transaction.take_fault();
        let read_only = transaction.is_read_only();
        let mut committed = Err(CommitError::Busy);
        if fault.is_none() {
            committed = transaction.commit();
            if let Err(CommitError::Fault(missing)) = committed {
                fault = Some(*missing);
                committed = Err(CommitError::Busy);
            }
        }
        if let Some(fault) = fault {
            batch.sink.truncate(start);
            state.loaded = loaded;
            return Err(alloc::vec![fault]);
        }
        let timestamp = match committed {
            Ok(timestamp) => timestamp,
            Err(error) => {
                batch.sink.truncate(start);
                return Ok(Err(self.refusal(error)));
            }
        };
        if !read_only {
            state.last_write = timestamp;
        }
        Ok(self.depend_with_outcome(state, outcome, batch, start, timestamp))
    }

    /// EXEC with commands on files among the others; or what has to be loaded first, and nothing has happened.
    pub(super) fn exec_with_files(
        &self,
        state: &mut State,
        queue: &Queue,
        batch: &mut Batch,
    ) -> Result<Outcome, Vec<Fault>> {
        let mut loaded = core::mem::take(&mut state.loaded);
        if let Some(error) = state.load_failure.take() {
            return Ok(Err(aborted(&failure::of_file(&error))));
        }
        let start = batch.sink.len();
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
        match attempt {
            Ok(outcome) => {
                if outcome.is_err() {
                    batch.sink.truncate(start);
                }
                Ok(outcome)
            }
            Err(faults) => {
                batch.sink.truncate(start);
                state.loaded = loaded;
                Err(faults)
            }
        }
    }

    /// Carries all out and commits.
    fn attempt(
        &self,
        state: &mut State,
        queue: &Queue,
        loaded: &mut Loaded,
        batch: &mut Batch,
    ) -> Result<Outcome, Vec<Fault>> {
        let start = batch.sink.len();
        let database = state.database;
        Reply::new(&mut batch.sink, state.resp3).array(queue.len());
        let mut transaction =
            self.store
                .transaction_with_files(self.now_ms(), self.now_ns(), loaded);
        let mut outcomes = Vec::new();
        let mut faults = Vec::new();
        for (found, args) in queue.iter() {
            let is_file = matches!(found.spec.run, Run::File(_));
            if !faults.is_empty() && !is_file {
                continue;
            }
            let failure = self.run_queued(state, &mut transaction, found, args, batch);
            if let Some(fault) = transaction.take_fault() {
                // In vain. The others may still tell what they will need.
                faults.push(fault);
                if faults.len() >= FAULTS_MAX {
                    break;
                }
            }
            outcomes.push((found, failure));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let read_only = transaction.is_read_only();
        let committed = match transaction.commit() {
            Err(CommitError::Fault(fault)) => return Err(alloc::vec![*fault]),
            committed => committed,
        };
        for (found, failure) in outcomes {
            self.count_call(found);
            if let Some(failure) = failure {
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

    /// Carries out the commands on files only, for nobody to see.
    fn rehearse(
        &self,
        state: &State,
        queue: &Queue,
        loaded: &mut Loaded,
        batch: &mut Batch,
    ) -> Result<(), Vec<Fault>> {
        let room = Reply::new(&mut batch.sink, state.resp3).room();
        let mut sink = Sink::new(room);
        let mut transaction =
            self.store
                .transaction_with_files(self.now_ms(), self.now_ns(), loaded);
        let mut faults = Vec::new();
        for (found, args) in queue.iter() {
            let Run::File(command) = found.spec.run else {
                continue;
            };
            sink.reset(0);
            // Its error will be said when it is carried out.
            let _ = Data {
                transaction: &mut transaction,
                database: state.database,
                args,
                reply: Reply::new(&mut sink, state.resp3),
                env: &self.env,
                spec: found.spec,
            }
            .run_file(command);
            faults.extend(transaction.take_fault());
            if faults.len() >= FAULTS_MAX {
                break;
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        match transaction.rehearse() {
            Err(CommitError::Fault(fault)) => Err(alloc::vec![*fault]),
            _ => Ok(()),
        }
    }
}
