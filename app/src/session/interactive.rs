//! BEGIN, COMMIT, ROLLBACK, SAVEPOINT, LOCK, and commands between BEGIN and COMMIT.
//!
//! Each command on keys or files is a statement of the open transaction: it sees what the transaction sees and has done, and answers at once. One that fails
//! changes nothing, and the transaction goes on. (But for those that walk through many keys: they see one state as well, but take steps, between which others
//! have their turn; see `reader`.) What needs the disk, or waits for somebody's lock, is carried out again as any command is
//! (`attempts`). A transaction that was ended, because it was past a limit, lost a race, or would have waited for ever, is gone: the
//! command that hears of it says so, and the next one is carried out as if there had been none.

use alloc::vec::Vec;

use kvstore::{
    BeginError, BeginOptions, CommitError, CommitStop, Conflict, Cycle, Ended, Fault, Isolation,
    LockStop, SavepointError, TOKEN_BYTES_MAX, Timestamp, WalkError,
};
use lfs::{BlockDevice, Clock};

use super::State;
use super::attempts::{Attempt, want_named};
use super::execute::Found;
use super::output::Batch;
use crate::command::failure::{self, EXPIRED, Failure};
use crate::command::{Data, Outcome, Run, SessionCommand, is};
use crate::config::Limit;
use crate::number;
use crate::resp::{Args, Reply};
use crate::server::Server;

/// Of a long key, so much is shown.
const KEY_BYTES_SHOWN: usize = 256;

const NOT_OPEN: Failure = Failure::of("ERR there is no open transaction: BEGIN first");
const READ_ONLY: Failure = Failure::of("ERR the transaction only reads");
const NO_SAVEPOINT: Failure = Failure::of("ERR no such savepoint");
const TOKEN: Failure = Failure::of("ERR a token has 1 to 255 bytes");

impl State {
    /// Whether a transaction is open.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Takes back an open transaction.
    pub(super) fn roll_back(&mut self) {
        self.open = None;
    }
}

impl<D: BlockDevice, C: Clock> Server<D, C> {
    /// The commands that begin and end transactions, and what belongs to them.
    pub(super) fn run_interactive(
        &self,
        state: &mut State,
        command: SessionCommand,
        args: Args<'_>,
        batch: &mut Batch,
    ) -> Attempt {
        if let Some(error) = state.load_failure.take() {
            return Ok(Err(failure::of_load(&error)));
        }
        let done = match command {
            SessionCommand::Begin => self.begin(state, args),
            SessionCommand::Commit => return self.commit(state, args, batch),
            SessionCommand::Lock => return self.lock(state, args, batch),
            SessionCommand::Savepoint => self.savepoint(state, args),
            _ => self.roll_back(state, args),
        };
        if done.is_ok() {
            Reply::new(&mut batch.sink, state.resp3).ok();
        }
        Ok(done)
    }

    fn begin(&self, state: &mut State, args: Args<'_>) -> Outcome {
        if state.is_open() {
            return Err(Failure::of("ERR BEGIN calls can not be nested"));
        }
        if state.is_queueing() {
            return Err(Failure::of("ERR BEGIN inside MULTI is not allowed"));
        }
        let mut options = options(args)?;
        options.client = state.client.id;
        let begun = self.store.begin(options, self.now_ms(), self.now_ns());
        let open = begun.map_err(|error| match error {
            BeginError::Future(commit) => {
                quoting_number(b"ERR commit ", commit, b" has not been made yet")
            }
            BeginError::NotRetained(oldest) => quoting_number(
                b"NOTRETAINED the state of that commit is not kept, the oldest one is that of ",
                oldest,
                b"",
            ),
            _ => Failure::of("ERR too many transactions are open"),
        })?;
        state.open = Some(open);
        Ok(())
    }

    fn savepoint(&self, state: &mut State, args: Args<'_>) -> Outcome {
        let open = state.open.as_ref().ok_or(NOT_OPEN)?;
        let made = self.store.savepoint(open, args.at(1));
        made.map_err(|error| Self::of_savepoint(state, error))
    }

    fn roll_back(&self, state: &mut State, args: Args<'_>) -> Outcome {
        let open = state.open.as_ref().ok_or(NOT_OPEN)?;
        match (args.len(), args.get(1)) {
            (1, _) => {
                let was_ended = open.is_ended();
                state.roll_back();
                if was_ended { Err(EXPIRED) } else { Ok(()) }
            }
            (3, Some(to)) if is(to, "to") => {
                let rolled_back = self.store.roll_back_to(open, args.at(2));
                rolled_back.map_err(|error| Self::of_savepoint(state, error))
            }
            _ => Err(failure::SYNTAX),
        }
    }

    fn of_savepoint(state: &mut State, error: SavepointError) -> Failure {
        match error {
            SavepointError::TooMany => Failure::of("ERR too many savepoints"),
            SavepointError::NameTooLong => {
                Failure::of("ERR the name of a savepoint is longer than 255 bytes")
            }
            SavepointError::Unknown => NO_SAVEPOINT,
            SavepointError::Ended => {
                state.roll_back();
                EXPIRED
            }
        }
    }

    fn lock(&self, state: &mut State, args: Args<'_>, batch: &mut Batch) -> Attempt {
        let Some(open) = &state.open else {
            return Ok(Err(NOT_OPEN));
        };
        for key in args.from(1) {
            let locked = self
                .store
                .try_lock(open, state.database, key, self.now_ms());
            let failure = match locked {
                Ok(()) => continue,
                Err(LockStop::Wait(ticket)) => return Err(alloc::vec![Fault::Lock(ticket)]),
                Err(LockStop::TooMany) => return Ok(Err(Failure::of("ERR too many locks"))),
                Err(LockStop::ReadOnly) => return Ok(Err(READ_ONLY)),
                Err(LockStop::Deadlock(cycle)) => of_deadlock(&cycle),
                Err(LockStop::Conflict(conflict)) => of_conflict(&conflict),
                Err(LockStop::Ended) => EXPIRED,
            };
            state.roll_back();
            return Ok(Err(failure));
        }
        Reply::new(&mut batch.sink, state.resp3).ok();
        Ok(Ok(()))
    }

    fn commit(&self, state: &mut State, args: Args<'_>, batch: &mut Batch) -> Attempt {
        let token = match (args.len(), args.get(1)) {
            (1, _) => None,
            (3, Some(word)) if is(word, "token") => Some(args.at(2)),
            _ => return Ok(Err(failure::SYNTAX)),
        };
        if token.is_some_and(|token| token.is_empty() || token.len() > TOKEN_BYTES_MAX) {
            return Ok(Err(TOKEN));
        }
        let Some(open) = &state.open else {
            return match token {
                Some(token) => self.was_committed(state, token, batch),
                None => Ok(Err(NOT_OPEN)),
            };
        };
        let (now_ms, file_time_ns) = (self.now_ms(), self.now_ns());
        let kept_secs = self.env.config().limit(Limit::CommitTokenSecs);
        let kept_ms = i64::try_from(kept_secs.saturating_mul(1000)).unwrap_or(i64::MAX);
        let until_ms = now_ms.saturating_add(kept_ms);
        let token = token.map(|token| (token, until_ms));
        let loaded = &mut state.loaded;
        let failure = match self
            .store
            .try_commit(open, token, now_ms, file_time_ns, loaded)
        {
            Ok(committed) => {
                state.roll_back();
                state.last_write = state.last_write.max(committed.depends_on);
                let start = batch.sink.len();
                Reply::new(&mut batch.sink, state.resp3).ok();
                self.depend(batch, start, committed.depends_on);
                return Ok(Ok(()));
            }
            Err(CommitStop::Fault(faults)) => return Err(faults),
            Err(CommitStop::Locked(ticket)) => return Err(alloc::vec![Fault::Lock(ticket)]),
            Err(CommitStop::Busy) => return Err(alloc::vec![Fault::Room]),
            // It goes on.
            Err(CommitStop::Error(error)) => return Ok(Err(self.refusal(error))),
            Err(CommitStop::Conflict(conflict)) => of_conflict(&conflict),
            Err(CommitStop::Deadlock(cycle)) => of_deadlock(&cycle),
            Err(_) => EXPIRED,
        };
        state.roll_back();
        Ok(Err(failure))
    }

    /// COMMIT TOKEN of whoever has lost the reply, or the connection.
    fn was_committed(&self, state: &mut State, token: &[u8], batch: &mut Batch) -> Attempt {
        let (there, timestamp) = self.store.token(token, self.now_ms(), &mut state.loaded)?;
        if !there {
            return Ok(Err(Failure::of(
                "NOTOKEN no transaction with that token was committed",
            )));
        }
        let start = batch.sink.len();
        Reply::new(&mut batch.sink, state.resp3).ok();
        self.depend(batch, start, timestamp);
        Ok(Ok(()))
    }

    /// A command on keys or files, which `run` carries out, as a statement of the open transaction.
    pub(super) fn run_statement(
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
        let done = self.statement(state, found, args, batch, run);
        let Ok(attempt) = done else {
            state.roll_back();
            batch.sink.return_to(start);
            return Ok(Err(EXPIRED));
        };
        let (outcome, timestamp) = match attempt {
            Ok(done) => done,
            Err(CommitError::Fault(faults)) => {
                batch.sink.return_to(start);
                return Err(faults);
            }
            Err(error) => {
                batch.sink.return_to(start);
                return Ok(Err(self.refused_statement(error)));
            }
        };
        if outcome
            .as_ref()
            .is_err_and(|failure| matches!(Failure::code(&failure.0), b"CONFLICT" | b"TXEXPIRED"))
        {
            state.roll_back();
        }
        Ok(self.depend_with_outcome(state, outcome, batch, start.len(), timestamp))
    }

    /// Why a statement was taken back.
    fn refused_statement(&self, error: CommitError) -> Failure {
        match error {
            CommitError::ReadOnly => READ_ONLY,
            CommitError::TooLarge => failure::TRANSACTION_TOO_LARGE,
            error => self.refusal(error),
        }
    }

    /// Why a walk through keys did not come to its end. One that was of a transaction which has been ended takes that back.
    pub(super) fn cut_short(&self, state: &mut State, error: WalkError) -> Failure {
        match error {
            WalkError::Ended(_) => {
                state.roll_back();
                EXPIRED
            }
            WalkError::Load(error) => failure::of_load(&error),
            WalkError::Refused(error) => self.refused_statement(error),
            _ => failure::BUSY,
        }
    }

    /// What it replied, and what that depends on; or what has to be loaded first.
    fn statement(
        &self,
        state: &mut State,
        found: Found,
        args: Args<'_>,
        batch: &mut Batch,
        run: impl FnOnce(&mut Data<'_, '_, D>) -> Outcome,
    ) -> Result<Result<(Outcome, Timestamp), CommitError>, Ended> {
        let open = state.open.as_ref().ok_or(Ended)?;
        let file_time_ns = self.file_time_ns(matches!(found.spec.run, Run::File(_)));
        let resumed = self
            .store
            .resume(open, self.now_ms(), file_time_ns, &mut state.loaded);
        let mut transaction = resumed?;
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
            let faults = transaction.take_faults();
            // Nothing was done: it will be run again.
            let _ = transaction.suspend(false);
            return Ok(Err(CommitError::Fault(faults)));
        }
        let suspended = transaction.suspend(outcome.is_ok());
        Ok(suspended.map(|timestamp| (outcome, timestamp)))
    }
}

/// What BEGIN says.
fn options(args: Args<'_>) -> Result<BeginOptions, Failure> {
    let mut options = BeginOptions::default();
    let mut words = args.from(1).peekable();
    let mut has_level = false;
    while let Some(word) = words.next() {
        let mut next_is = |expected: &str| words.next_if(|word| is(word, expected)).is_some();
        let level = if is(word, "serializable") {
            Some(Isolation::Serializable)
        } else if is(word, "snapshot") {
            Some(Isolation::Snapshot)
        } else if is(word, "read") && next_is("committed") {
            Some(Isolation::ReadCommitted)
        } else if is(word, "read") && next_is("only") {
            options.read_only = true;
            None
        } else if is(word, "as") && next_is("of") {
            let commit = words.next().and_then(number::parse_i64);
            let commit = commit.and_then(|commit| u64::try_from(commit).ok());
            let commit = commit.ok_or(Failure::of("ERR AS OF takes the number of a commit"))?;
            options.as_of = Some(Timestamp(commit));
            None
        } else {
            return Err(failure::SYNTAX);
        };
        if let Some(level) = level {
            if has_level {
                return Err(failure::SYNTAX);
            }
            (options.isolation, has_level) = (level, true);
        }
    }
    Ok(options)
}

fn quoting_number(before: &[u8], number: u64, behind: &[u8]) -> Failure {
    let mut text = before.to_vec();
    number::push_u64(&mut text, number);
    text.extend_from_slice(behind);
    Failure::from(text)
}

/// `-CONFLICT key "…" in database n was changed by commit c`.
fn of_conflict(conflict: &Conflict) -> Failure {
    let mut text = b"CONFLICT ".to_vec();
    match conflict {
        Conflict::Key(database, key, commit) => {
            push_key(&mut text, key);
            text.extend_from_slice(b" in database ");
            number::push_u64(&mut text, database.0.into());
            text.extend_from_slice(b" was changed by commit ");
            number::push_u64(&mut text, commit.0);
        }
        Conflict::Files(conflict) => return failure::of_file_conflict(conflict),
    }
    Failure::from(text)
}

/// `-DEADLOCK client 7 (key "a" in database 0) -> client 9 (…) -> client 7`.
fn of_deadlock(cycle: &Cycle) -> Failure {
    let mut text = b"DEADLOCK ".to_vec();
    for (client, key) in &cycle.0 {
        text.extend_from_slice(b"client ");
        number::push_u64(&mut text, *client);
        let (database, key) = key.split_first().unwrap_or((&0, &[]));
        text.extend_from_slice(b" (");
        push_key(&mut text, key);
        text.extend_from_slice(b" in database ");
        number::push_u64(&mut text, (*database).into());
        text.extend_from_slice(b") -> ");
    }
    if let Some((client, _)) = cycle.0.first() {
        text.extend_from_slice(b"client ");
        number::push_u64(&mut text, *client);
    }
    Failure::from(text)
}

/// The key, quoted, on one line.
fn push_key(text: &mut Vec<u8>, key: &[u8]) {
    text.extend_from_slice(b"key \"");
    for byte in key.iter().take(KEY_BYTES_SHOWN) {
        text.extend(byte.escape_ascii());
    }
    if key.len() > KEY_BYTES_SHOWN {
        text.extend_from_slice("…".as_bytes());
    }
    text.push(b'"');
}
