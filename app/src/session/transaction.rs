//! MULTI, EXEC, DISCARD, WATCH, UNWATCH.
//!
//! EXEC runs the queued commands in one store transaction and commits once: other clients, and a power cut,
//! see all of it or nothing. A command that fails while EXEC runs has its error in the array and changes nothing
//! itself; the others apply, as in Redis. When the commit as a whole is refused, EXEC answers EXECABORT.

use alloc::boxed::Box;
use alloc::vec::Vec;

use kvstore::{DatabaseIndex, Watch};
use lfs::{BlockDevice, Clock};

use super::State;
use super::attempts::{Attempt, want_named};
use super::execute::Found;
use super::output::Batch;
use crate::command::failure::{self, Failure};
use crate::command::introspect;
use crate::command::table::WRITE;
use crate::command::{After, Control, Data, Outcome, Run, SessionCommand};
use crate::config::Limit;
use crate::env;
use crate::resp::{Args, Reply, Span};
use crate::server::Server;

/// Commands between MULTI and EXEC: all arguments in one place.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says something of its own of the commands"
)]
pub(super) struct Queue {
    /// One of the commands is on files, ...
    pub(super) files: bool,
    /// ... one is neither on files nor on keys.
    pub(super) controls: bool,
    bytes: Vec<u8>,
    spans: Vec<Span>,
    commands: Vec<Queued>,
    /// One of the commands writes.
    writes: bool,
    /// A command could not be queued, so EXEC will refuse.
    spoiled: bool,
}

#[derive(Debug)]
struct Queued {
    found: Found,
    /// Where its spans end; they start where the ones of the command before end.
    spans_end: usize,
}

impl Queue {
    fn memory_bytes(&self) -> usize {
        self.bytes.capacity()
            + self.spans.capacity() * size_of::<Span>()
            + self.commands.capacity() * size_of::<Queued>()
    }

    /// What it takes to queue `args` too.
    fn cost(args: Args<'_>) -> usize {
        args.total_bytes() + args.len() * size_of::<Span>() + size_of::<Queued>()
    }

    fn used_bytes(&self) -> usize {
        self.bytes.len()
            + self.spans.len() * size_of::<Span>()
            + self.commands.len() * size_of::<Queued>()
    }

    /// False when there is no memory.
    fn push(&mut self, found: Found, args: Args<'_>) -> bool {
        let room = self.bytes.try_reserve(args.total_bytes()).is_ok()
            && self.spans.try_reserve(args.len()).is_ok()
            && self.commands.try_reserve(1).is_ok();
        if !room {
            return false;
        }
        for argument in args.from(0) {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(argument);
            self.spans.push(Span::new(start, self.bytes.len()));
        }
        self.commands.push(Queued {
            found,
            spans_end: self.spans.len(),
        });
        self.writes |= found.spec.has(WRITE);
        self.files |= matches!(found.spec.run, Run::File(_));
        self.controls |= !matches!(found.spec.run, Run::File(_) | Run::Data(_));
        true
    }

    pub(super) fn len(&self) -> usize {
        self.commands.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Found, Args<'_>)> {
        let mut spans_start = 0;
        self.commands.iter().map(move |queued| {
            let start = core::mem::replace(&mut spans_start, queued.spans_end);
            let spans = self.spans.get(start..queued.spans_end).unwrap_or_default();
            (queued.found, Args::new(&self.bytes, spans))
        })
    }
}

/// A key that must stay as it is.
pub(super) struct Watched {
    database: DatabaseIndex,
    key: Box<[u8]>,
    /// When its time comes it has changed, though nobody wrote it.
    expires_at_ms: Option<i64>,
}

impl State {
    pub(super) fn is_queueing(&self) -> bool {
        self.queue.is_some()
    }

    /// Whether EXEC would write.
    pub(super) fn queue_writes(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.writes)
    }

    /// A command between MULTI and EXEC was refused.
    pub(super) fn spoil_queue(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.spoiled = true;
        }
    }

    /// Memory of queued commands and watched keys.
    pub(super) fn transaction_bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, Queue::memory_bytes)
            + self.watched_bytes
            + self.watched.capacity() * size_of::<Watched>()
            + self.loaded.memory_bytes()
    }

    /// Forgets queued commands and watched keys.
    pub(super) fn end_transaction(&mut self) {
        self.queue = None;
        self.client.queued_commands.set(-1);
        self.unwatch();
    }

    /// MULTI, DISCARD and UNWATCH.
    pub(super) fn run_transaction_command(
        &mut self,
        command: SessionCommand,
        batch: &mut Batch,
    ) -> Outcome {
        match command {
            SessionCommand::Multi if self.is_queueing() => {
                return Err(Failure::of("ERR MULTI calls can not be nested"));
            }
            SessionCommand::Multi => {
                self.queue = Some(Queue::default());
                self.client.queued_commands.set(0);
            }
            SessionCommand::Discard if !self.is_queueing() => {
                return Err(Failure::of("ERR DISCARD without MULTI"));
            }
            SessionCommand::Discard => self.end_transaction(),
            _ => self.unwatch(),
        }
        Reply::new(&mut batch.sink, self.resp3).ok();
        Ok(())
    }

    fn unwatch(&mut self) {
        self.watched = Vec::new();
        self.watched_bytes = 0;
        self.watch = None;
        self.client.watched_keys.set(0);
    }
}

impl<D: BlockDevice, C: Clock> Server<D, C> {
    /// Queues a command until EXEC.
    pub(super) fn queue(&self, state: &mut State, found: Found, args: Args<'_>, batch: &mut Batch) {
        let limit = self.env.config().limit_usize(Limit::MultiQueueBytes);
        let watched_bytes = state.watched_bytes;
        let Some(queue) = &mut state.queue else {
            return;
        };
        let mut reply = Reply::new(&mut batch.sink, state.resp3);
        let cost = queue.used_bytes() + watched_bytes + Queue::cost(args);
        if cost > limit || !queue.push(found, args) {
            let failure = introspect::queue_full(limit);
            queue.spoiled = true;
            // It will not be executed any more: no need to keep it.
            queue.bytes = Vec::new();
            queue.spans = Vec::new();
            queue.commands = Vec::new();
            queue.writes = false;
            self.note_failure(found, &failure);
            reply.error(&failure.0);
            return;
        }
        let count = i64::try_from(queue.commands.len()).unwrap_or(i64::MAX);
        state.client.queued_commands.set(count);
        reply.simple("QUEUED");
    }

    pub(super) fn watch(
        &self,
        state: &mut State,
        found: Found,
        args: Args<'_>,
        batch: &mut Batch,
    ) -> Attempt {
        if state.is_queueing() {
            let failure = Failure::of("ERR WATCH inside MULTI is not allowed");
            return Ok(Err(failure));
        }
        let limit = self.env.config().limit_usize(Limit::MultiQueueBytes);
        let cost = args.total_bytes() + args.len() * size_of::<Watched>();
        let used = state.watched_bytes + state.watched.len() * size_of::<Watched>();
        if used + cost > limit {
            return Ok(Err(introspect::queue_full(limit)));
        }
        if let Some(error) = state.load_failure.take() {
            return Ok(Err(failure::of_load(&error)));
        }
        let database = state.database;
        let mut watched: Vec<Watched> = Vec::new();
        let mut transaction = self.store.transaction(self.now_ms(), 0, &mut state.loaded);
        for key in args.from(1) {
            let mut known = state.watched.iter().chain(&watched);
            if known.any(|w| w.database == database && *w.key == *key) {
                continue;
            }
            let Ok(entry) = transaction.get(database, key) else {
                want_named(&mut transaction, database, found, args);
                return Err(transaction.take_faults());
            };
            watched.push(Watched {
                database,
                key: key.into(),
                expires_at_ms: entry.and_then(|entry| entry.expires_at_ms),
            });
        }
        drop(transaction);
        let watch = state.watch.get_or_insert_with(|| self.store.new_watch());
        let mut added = watched
            .iter()
            .map(|watched| watch.add(database, &watched.key));
        if added.any(|added| added.is_err()) {
            // What was added is watched without need: at worst EXEC fails that would not have to.
            return Ok(Err(failure::OUT_OF_MEMORY));
        }
        state.watched_bytes += watched
            .iter()
            .map(|watched| watched.key.len())
            .sum::<usize>();
        state.watched.append(&mut watched);
        state.client.watched_keys.set(state.watched.len());
        Reply::new(&mut batch.sink, state.resp3).ok();
        Ok(Ok(()))
    }

    fn any_watched_changed(&self, state: &State) -> bool {
        let is_past = |at_ms: i64| at_ms <= self.now_ms();
        let mut watched = state.watched.iter();
        state.watch.as_ref().is_some_and(Watch::is_set)
            || watched.any(|watched| watched.expires_at_ms.is_some_and(is_past))
    }

    pub(super) fn exec(&self, state: &mut State, batch: &mut Batch) -> Attempt {
        let Some(queue) = state.queue.take() else {
            return Ok(Err(Failure::of("ERR EXEC without MULTI")));
        };
        let attempt = if queue.spoiled {
            Ok(Err(Failure::of(
                "EXECABORT Transaction discarded because of previous errors.",
            )))
        } else if self.any_watched_changed(state) {
            Reply::new(&mut batch.sink, state.resp3).null_array();
            Ok(Ok(()))
        } else {
            self.exec_queue(state, &queue, batch)
        };
        if attempt.is_err() {
            state.queue = Some(queue);
        } else {
            state.end_transaction();
        }
        attempt
    }

    fn data<'a, 's>(
        &'a self,
        state: &State,
        transaction: &'a mut kvstore::Transaction<'s, D>,
        args: Args<'a>,
        reply: Reply<'a>,
        found: Found,
    ) -> Data<'a, 's, D> {
        Data {
            transaction,
            database: state.database,
            args,
            reply,
            env: &self.env,
            spec: found.spec,
        }
    }

    /// Counts a queued command that is carried out.
    pub(super) fn count_call(&self, found: Found) {
        if let Some(counters) = self.env.stats.command(found.index) {
            env::add(&counters.calls, 1);
        }
    }

    /// Carries out a queued command. Its reply is written whatever comes of it; its error is returned as well. Of an
    /// attempt that is in vain nothing need be written.
    pub(super) fn run_queued(
        &self,
        state: &mut State,
        transaction: &mut kvstore::Transaction<'_, D>,
        found: Found,
        args: Args<'_>,
        batch: &mut Batch,
    ) -> Option<Failure> {
        let resp3 = state.resp3;
        let start = batch.sink.len();
        let reply = Reply::new(&mut batch.sink, resp3);
        let outcome = match found.spec.run {
            Run::Data(command) => self
                .data(state, transaction, args, reply, found)
                .run(command),
            Run::File(command) => self
                .data(state, transaction, args, reply, found)
                .run_file(command),
            Run::Control(run) => {
                // Within EXEC nothing waits: what a command would do afterwards is dropped.
                let mut after = After::Nothing;
                run(&mut Control {
                    state,
                    args,
                    reply,
                    env: &self.env,
                    engine: self,
                    in_exec: true,
                    after: &mut after,
                })
            }
            // UNWATCH is the only one that is queued, and EXEC has forgotten the keys already.
            Run::Session(_) | Run::Container => {
                Reply::new(&mut batch.sink, resp3).ok();
                Ok(())
            }
        };
        if let Err(failure) = outcome {
            if !transaction.is_in_vain() {
                batch.sink.truncate(start);
                Reply::new(&mut batch.sink, state.resp3).error(&failure.0);
            }
            return Some(failure);
        }
        if batch.sink.len() == start {
            // A command without a reply, such as CLIENT REPLY OFF, still has its place in the array.
            Reply::new(&mut batch.sink, state.resp3).null();
        }
        None
    }
}

/// EXEC's error when nothing of the transaction was done.
pub(super) fn aborted(refusal: &Failure) -> Failure {
    Failure::quoting(&[b"EXECABORT Transaction discarded because of: ", &refusal.0])
}
