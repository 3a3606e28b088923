//! Carries out one command: the checks before, the command, what its reply depends on.

use alloc::vec::Vec;

use kvstore::{Fault, KEY_BYTES_MAX, Timestamp};
use lfs::{BlockDevice, Clock};

use super::output::Batch;
use super::{Admission, ReplyMode, State};
use crate::command::failure::{self, Failure};
use crate::command::table::{self, COMMANDS, NO_AUTH, NO_MULTI, WRITE};
use crate::command::{
    After, Control, DataCommand, Outcome, Run, SessionCommand, Spec, introspect, keyspace,
};
use crate::env::{self, PauseMode};
use crate::resp::{Args, Reply};
use crate::server::Server;

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It was carried out; perhaps something is left that takes time.
    Done(After),
    /// Nothing has happened: the log has no room for a write. Try again when it has.
    WaitForRoom,
    /// Nothing has happened: CLIENT PAUSE holds it back.
    Paused,
    /// Nothing has happened: this must be loaded first.
    Load(Vec<Fault>),
}

/// A command that was found, and its place in the counters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) spec: &'static Spec,
    pub(super) index: usize,
}

impl State {
    /// After a command's reply: unless the client wants to hear it, forgets what was written from `start` on.
    pub(super) fn conclude(&mut self, batch: &mut Batch, start: usize) {
        match self.reply_mode {
            ReplyMode::On | ReplyMode::SkipNext => {}
            ReplyMode::Off => batch.take_back(start),
            ReplyMode::Skipping => {
                batch.take_back(start);
                self.reply_mode = ReplyMode::On;
            }
        }
    }
}

impl<D: BlockDevice, C: Clock> Server<D, C> {
    /// Carries out the command `args`, or says why not now. Replies go to the end of `batch`.
    pub(super) fn execute(&self, state: &mut State, args: Args<'_>, batch: &mut Batch) -> Step {
        if args.len() == 0 {
            return Step::Done(After::Nothing);
        }
        let start = batch.sink.len();
        let found = match find(args) {
            Ok(found) => found,
            Err(failure) => {
                // A browser was made to send this: do not read on.
                state.closing |= is_cross_protocol(args.at(0));
                self.reject(state, None, &failure, batch);
                state.conclude(batch, start);
                return Step::Done(After::Nothing);
            }
        };
        if let Err(failure) = check(state, found, args) {
            self.reject(state, Some(found), &failure, batch);
            state.conclude(batch, start);
            return Step::Done(After::Nothing);
        }
        if self.env.is_pausing() && self.is_paused(state, found) {
            return Step::Paused;
        }
        let Found { spec, index } = found;
        let queueing = state.is_queueing() && !runs_within_multi(spec);
        // Statements write nothing until their transaction commits.
        let writes = (spec.has(WRITE) && !state.is_open())
            || (matches!(spec.run, Run::Session(SessionCommand::Commit)) && state.is_open())
            || (matches!(spec.run, Run::Session(SessionCommand::Exec)) && state.queue_writes());
        let has_room = || match state.admission {
            Admission::None => !self.store.must_wait(),
            // Others may wait behind it.
            Admission::Admitted => self.store.has_room(),
        };
        if writes && !queueing && !has_room() {
            return Step::WaitForRoom;
        }
        state.client.last_command.set(spec.name);
        if state.reply_mode == ReplyMode::SkipNext {
            state.reply_mode = ReplyMode::Skipping;
        }
        let mut after = After::Nothing;
        if queueing {
            self.queue(state, found, args, batch);
        } else {
            if let Some(counters) = self.env.stats.command(index) {
                env::add(&counters.calls, 1);
            }
            after = self.run(state, found, args, batch);
            if let After::Load(faults) = after {
                if let Some(counters) = self.env.stats.command(index) {
                    env::take_back(&counters.calls, 1);
                }
                return Step::Load(faults);
            }
        }
        if after == After::Nothing || after == After::Close {
            state.conclude(batch, start);
        }
        Step::Done(after)
    }

    fn run(&self, state: &mut State, found: Found, args: Args<'_>, batch: &mut Batch) -> After {
        let mut after = After::Nothing;
        let attempt = match found.spec.run {
            Run::Data(DataCommand::Keys) => {
                after = After::Keys(args.at(1).to_vec());
                Ok(Ok(()))
            }
            Run::Data(DataCommand::CountRange) => {
                after = After::CountRange(args.at(1).to_vec(), Some(args.at(2).to_vec()));
                Ok(Ok(()))
            }
            Run::Data(DataCommand::DbSize) if state.is_open() => {
                let mut is_known = true;
                let attempt = self.run_statement(state, found, args, batch, |data| {
                    is_known = keyspace::known_db_size(data)?;
                    Ok(())
                });
                if !is_known && attempt == Ok(Ok(())) {
                    after = After::CountRange(Vec::new(), None);
                }
                attempt
            }
            Run::Data(command) if state.is_open() => {
                self.run_statement(state, found, args, batch, |data| data.run(command))
            }
            Run::File(command) if state.is_open() => {
                self.run_statement(state, found, args, batch, |data| data.run_file(command))
            }
            Run::Data(command) => {
                self.run_alone(state, found, args, batch, |data| data.run(command))
            }
            Run::File(command) => {
                self.run_alone(state, found, args, batch, |data| data.run_file(command))
            }
            Run::Control(run) => {
                let resp3 = state.resp3;
                Ok(run(&mut Control {
                    state,
                    args,
                    reply: Reply::new(&mut batch.sink, resp3),
                    env: &self.env,
                    engine: self,
                    in_exec: false,
                    after: &mut after,
                }))
            }
            Run::Session(SessionCommand::Quit) => {
                Reply::new(&mut batch.sink, state.resp3).ok();
                after = After::Close;
                Ok(Ok(()))
            }
            Run::Session(SessionCommand::Reset) => {
                state.reset(self.env.config().requirepass().is_empty());
                Reply::new(&mut batch.sink, false).simple("RESET");
                Ok(Ok(()))
            }
            Run::Session(SessionCommand::Exec) => self.exec(state, batch),
            Run::Session(SessionCommand::Watch) => self.watch(state, found, args, batch),
            Run::Session(
                command @ (SessionCommand::Begin
                | SessionCommand::Commit
                | SessionCommand::Rollback
                | SessionCommand::Savepoint
                | SessionCommand::Lock),
            ) => self.run_interactive(state, command, args, batch),
            Run::Session(command) => Ok(state.run_transaction_command(command, batch)),
            Run::Container => Ok(Err(introspect::unknown_subcommand(found.spec, args.at(1)))),
        };
        let outcome = match attempt {
            Ok(outcome) => outcome,
            Err(faults) => return After::Load(faults),
        };
        state.forget_loaded();
        if let Err(failure) = outcome {
            self.note_failure(found, &failure);
            Reply::new(&mut batch.sink, state.resp3).error(&failure.0);
        }
        after
    }

    /// A command's reply from `start` on, or its error, may leave once `timestamp` is durable.
    pub(super) fn depend_with_outcome(
        &self,
        state: &State,
        outcome: Outcome,
        batch: &mut Batch,
        start: usize,
        timestamp: Timestamp,
    ) -> Outcome {
        match outcome {
            Ok(()) => {
                self.depend(batch, start, timestamp);
                Ok(())
            }
            Err(failure) => {
                // An error, too, can tell of what it read.
                Reply::new(&mut batch.sink, state.resp3).error(&failure.0);
                self.depend(batch, start, timestamp);
                batch.sink.truncate(start);
                Err(failure)
            }
        }
    }

    /// The reply from `start` on may leave once `timestamp` is durable.
    pub(super) fn depend(&self, batch: &mut Batch, start: usize, timestamp: Timestamp) {
        if timestamp > self.store.durable() && self.env.replies_wait() {
            batch.depend(start, timestamp);
        }
    }

    /// Why a commit was refused, in a client's words.
    pub(super) fn refusal(&self, error: kvstore::CommitError) -> Failure {
        failure::of_commit(error, self.store.limits().commit_bytes_max)
    }

    /// Replies that a command was not even begun. Within MULTI that spoils the transaction.
    fn reject(
        &self,
        state: &mut State,
        found: Option<Found>,
        failure: &Failure,
        batch: &mut Batch,
    ) {
        state.spoil_queue();
        if state.reply_mode == ReplyMode::SkipNext {
            state.reply_mode = ReplyMode::Skipping;
        }
        if let Some(counters) = found.and_then(|found| self.env.stats.command(found.index)) {
            env::add(&counters.rejected, 1);
        }
        self.env.stats.count_error(&failure.0);
        Reply::new(&mut batch.sink, state.resp3).error(&failure.0);
    }

    /// Counts a command that failed.
    pub(super) fn note_failure(&self, found: Found, failure: &Failure) {
        if let Some(counters) = self.env.stats.command(found.index) {
            env::add(&counters.failed, 1);
        }
        self.env.stats.count_error(&failure.0);
    }

    /// Whether CLIENT PAUSE holds this command back. CLIENT itself it never does, so that a pause can be ended.
    fn is_paused(&self, state: &State, found: Found) -> bool {
        let Some(pause) = self.env.pause() else {
            return false;
        };
        if self.env.coarse_us.get() >= pause.until_us {
            self.env.set_pause(None);
            return false;
        }
        if found.spec.name.starts_with("client|") {
            return false;
        }
        match pause.mode {
            PauseMode::All => true,
            PauseMode::Write => {
                found.spec.has(WRITE)
                    || match found.spec.run {
                        Run::Session(SessionCommand::Exec) => state.queue_writes(),
                        Run::Session(SessionCommand::Commit) => state.is_open(),
                        _ => false,
                    }
            }
        }
    }
}

/// What can be said before a command begins.
fn check(state: &State, found: Found, args: Args<'_>) -> Outcome {
    let spec = found.spec;
    if !spec.takes(args.len()) {
        return Err(failure::arity(spec.name));
    }
    if !state.authenticated && !spec.has(NO_AUTH) {
        return Err(failure::NOAUTH);
    }
    if spec.has(NO_MULTI) && (state.is_queueing() || state.is_open()) {
        return Err(Failure::of("ERR Command not allowed inside a transaction"));
    }
    let of_multi = matches!(
        spec.run,
        Run::Session(SessionCommand::Multi | SessionCommand::Exec | SessionCommand::Watch)
    );
    if of_multi && state.is_open() {
        return Err(Failure::of(
            "ERR MULTI, EXEC and WATCH are not allowed between BEGIN and COMMIT",
        ));
    }
    let is_lock = matches!(spec.run, Run::Session(SessionCommand::Lock));
    if (spec.has(WRITE) || is_lock)
        && spec
            .key_indexes(args.len())
            .any(|index| args.at(index).len() > KEY_BYTES_MAX)
    {
        return Err(failure::KEY_TOO_LONG);
    }
    Ok(())
}

/// Commands that MULTI does not queue.
fn runs_within_multi(spec: &Spec) -> bool {
    matches!(spec.run, Run::Session(command) if command != SessionCommand::Unwatch)
}

/// The command or subcommand that `args` names.
fn find(args: Args<'_>) -> Result<Found, Failure> {
    let index = table::find(args.at(0));
    let Some((index, spec)) = index.and_then(|index| Some((index, COMMANDS.get(index)?))) else {
        return Err(introspect::unknown_command(args));
    };
    match args.get(1) {
        Some(name) if !spec.subcommands.is_empty() => match table::find_subcommand(spec, name) {
            Some(spec) => Ok(Found { spec, index }),
            None => Err(introspect::unknown_subcommand(spec, name)),
        },
        _ => Ok(Found { spec, index }),
    }
}

fn is_cross_protocol(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}
