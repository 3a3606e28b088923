//! The loop that reads, parses and executes.
//!
//! What one read brought is executed back to back and its replies handed over as one batch. The loop gives way
//! after [`SLICE_WORK`] or [`SLICE_US`], waits while too many replies are queued, and never
//! executes a writing command before the log has room for it.

use alloc::vec::Vec;
use core::pin::pin;

use embassy_futures::select::{Either, select};
use embassy_futures::yield_now;
use embedded_io_async::Read;
use kvstore::{BackupReadError, BackupSource, Fault, Timestamp, View, Walk, WalkError};
use lfs::{BlockDevice, Clock, FileError};

use super::execute::Step;
use super::input::Input;
use super::output::{Batch, Output};
use super::{Admission, State};
use crate::clients::Registration;
use crate::command::keyspace::{KeyList, WALK_STEP};
use crate::command::{After, Failure, backup, failure, snapshot};
use crate::config::Limit;
use crate::env;
use crate::resp::{Limits, Progress, Reply, RequestParser};
use crate::server::Server;

/// Work done without giving way to others: one for each command, and one for so many bytes of it.
const SLICE_WORK: usize = 64;
const WORK_BYTES: usize = 512;
/// Microseconds of execution without giving way.
const SLICE_US: u64 = 1000;
/// Work after which the clock is read to see whether it has taken too long.
const CHECK_WORK: usize = 16;
/// A batch this large is handed over at once.
const BATCH_BYTES: usize = 16 * 1024;
/// After an error that ends the connection, input is taken until nothing comes for so long, ...
const DISCARD_PAUSE_MS: u64 = 100;
/// ... but in no more than so many reads.
const DISCARD_READS_MAX: usize = 256;

/// Whether the connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    Close,
}

/// The reading half of a session.
pub(super) struct Reader<'a, D: BlockDevice, C: Clock> {
    server: &'a Server<D, C>,
    registration: &'a Registration<'a>,
    output: &'a Output,
    state: State,
    input: Input,
    parser: RequestParser,
    batch: Batch,
    /// Work since the last time others had their turn, and at how much the clock is read next.
    slice_work: usize,
    slice_check: usize,
    slice_started_us: u64,
    /// `client-output-queue-limit`.
    queue_limit: usize,
    /// The connection ends with an error.
    failed: bool,
}

impl<'a, D: BlockDevice, C: Clock> Reader<'a, D, C> {
    pub(super) fn new(
        server: &'a Server<D, C>,
        registration: &'a Registration<'a>,
        output: &'a Output,
    ) -> Self {
        let authenticated = server.env.config().requirepass().is_empty();
        Self {
            server,
            registration,
            output,
            state: State::new((**registration).clone(), authenticated),
            input: Input::default(),
            parser: RequestParser::new(),
            batch: Batch::default(),
            slice_work: 0,
            slice_check: CHECK_WORK,
            queue_limit: 0,
            slice_started_us: 0,
            failed: false,
        }
    }

    /// Until the client ends, or is to be ended.
    pub(super) async fn run(mut self, mut reader: impl Read) {
        self.read_and_execute(&mut reader).await;
        self.hand_over();
        self.output.end();
        if self.failed {
            self.discard(&mut reader).await;
        }
    }

    /// Takes what a client still sends after an error that ends its connection. Closing with unread input would
    /// reset the connection, and the client might never see the error.
    async fn discard(&mut self, reader: &mut impl Read) {
        self.input = Input::default();
        self.parser = RequestParser::new();
        if self.input.grow(self.input.next_len(1)).is_err() {
            return;
        }
        self.charge(0);
        for _ in 0..DISCARD_READS_MAX {
            let pause = self.server.clock.sleep_ms(DISCARD_PAUSE_MS);
            match select(reader.read(self.input.room()), pause).await {
                Either::First(Ok(1..)) => {}
                Either::First(Ok(0) | Err(_)) | Either::Second(()) => return,
            }
        }
    }

    async fn read_and_execute(&mut self, reader: &mut impl Read) {
        loop {
            if let Err(failure) = self.make_room() {
                self.fail(&failure);
                return;
            }
            let room = self.input.room();
            let room_len = room.len();
            // What was executed is replied to even if the client sends no more.
            let Ok(count @ 1..) = reader.read(room).await else {
                return;
            };
            self.input.received(count);
            if count == room_len {
                self.input.widen();
            }
            self.note_arrival(count);
            if self.execute_all(reader).await == Next::Close {
                return;
            }
            self.hand_over();
            self.let_client_take_replies().await;
        }
    }

    fn note_arrival(&mut self, count: usize) {
        let now_us = self.server.read_clock();
        if self.slice_work == 0 {
            self.slice_started_us = now_us;
        }
        let client = &self.state.client;
        client.active_us.set(now_us);
        client.has_sent.set(true);
        env::add(&self.server.env.stats.input_bytes, count);
    }

    /// Room to read into, within the limits of this client and of all together.
    fn make_room(&mut self) -> Result<(), Failure> {
        let env = &self.server.env;
        let limit = env.config().limit_usize(Limit::ClientQueryBytes);
        let wanted = self.parser.bytes_min();
        if self.input.filled().len() >= limit || (wanted > limit && wanted > 1) {
            env::add(&env.stats.query_limit_closed, 1);
            return Err(Failure::of(
                "ERR the request is larger than client-query-buffer-limit",
            ));
        }
        if self.input.has_room() {
            return if self.charge(0) {
                Ok(())
            } else {
                Err(out_of_memory())
            };
        }
        let len = self.input.next_len(wanted);
        // Asked for before it is taken.
        if !self.charge(len.saturating_sub(self.input.memory_bytes())) {
            return Err(out_of_memory());
        }
        self.input.grow(len).map_err(|_| out_of_memory())
    }

    /// Accounts for the buffers, and `more` bytes to come. False when all clients' buffers take too much and this one's just grew.
    fn charge(&self, more: usize) -> bool {
        let client = &self.state.client;
        client.input_bytes.set(self.input.filled().len());
        client.input_capacity.set(self.input.memory_bytes());
        client.output_bytes.set(self.output.bytes());
        client.multi_bytes.set(self.state.transaction_bytes());
        let bytes = self.input.memory_bytes()
            + self.parser.memory_bytes()
            + self.batch.memory_bytes()
            + self.output.memory_bytes()
            + self.state.transaction_bytes()
            + more;
        let limit = self
            .server
            .env
            .config()
            .limit_or_none(Limit::MaxMemoryClients)
            .min(self.server.store.connection_bytes_max());
        let is_within = self.registration.charge(bytes, limit);
        let buffers = self.server.env.clients.buffer_bytes();
        self.server.store.set_connection_bytes(buffers);
        is_within
    }

    /// What a request may be, now.
    fn limits(&self) -> Limits {
        let env = &self.server.env;
        let config = env.config();
        Limits {
            inline_bytes_max: config.limit_usize(Limit::InlineBytes),
            arguments_max: config.limit_usize(Limit::MultibulkCount),
            bulk_bytes_max: env.value_bytes_max(),
            unauthenticated: !self.state.authenticated,
        }
    }

    /// Executes every whole request that has arrived.
    async fn execute_all(&mut self, reader: &mut impl Read) -> Next {
        let mut limits = self.limits();
        self.queue_limit = self
            .server
            .env
            .config()
            .limit_usize(Limit::ClientOutputQueueBytes);
        self.limit_batch();
        loop {
            match self.parser.parse(self.input.filled(), &limits) {
                Ok(Progress::Request) => {}
                Ok(Progress::Incomplete) => return Next::GoOn,
                Err(error) => {
                    self.fail(&Failure::from(error.text()));
                    return Next::Close;
                }
            }
            if self.execute_one(reader).await == Next::Close {
                return Next::Close;
            }
            let consumed = self.parser.advance();
            self.input.consume(consumed);
            if limits.unauthenticated == self.state.authenticated {
                // AUTH or RESET has just changed what is allowed.
                limits = self.limits();
            }
            self.give_way(consumed).await;
        }
    }

    async fn execute_one(&mut self, reader: &mut impl Read) -> Next {
        self.state.admission = Admission::None;
        loop {
            if self.server.env.draining.get() {
                return Next::Close;
            }
            let args = self.parser.args(self.input.filled());
            match self.server.execute(&mut self.state, args, &mut self.batch) {
                Step::Done(After::Nothing) => break,
                Step::Done(after) => {
                    self.carry_out(after).await;
                    break;
                }
                Step::WaitForRoom => {
                    // What is queued goes first: its durability is what makes room.
                    self.hand_over();
                    self.server.store.admit().await;
                    self.state.admission = Admission::Admitted;
                    self.server.read_clock();
                }
                Step::Load(faults) => {
                    // Replies that are due do not wait for the disk.
                    self.hand_over();
                    if faults.contains(&Fault::Room) {
                        self.state.admission = Admission::Admitted;
                    }
                    if self.load(faults, reader).await == Next::Close {
                        return Next::Close;
                    }
                }
                Step::Paused => {
                    self.hand_over();
                    self.wait_for_pause_to_end().await;
                }
            }
        }
        if self.batch.sink.has_overflowed() {
            // Half a reply would be misunderstood: nothing more is sent at all.
            env::add(&self.server.env.stats.output_limit_closed, 1);
            self.registration.kill();
            return Next::Close;
        }
        if self.state.closing {
            Next::Close
        } else {
            Next::GoOn
        }
    }

    /// Loads what a command needs. Whoever waits for somebody's lock may do so for long: it is read on, as far as there is room, and a client that ends meanwhile gives up.
    async fn load(&mut self, faults: Vec<Fault>, reader: &mut impl Read) -> Next {
        let waits = faults.iter().any(|fault| matches!(fault, Fault::Lock(_)));
        let mut arrived = 0;
        let done = {
            let loading = self.server.store.load_all(faults, &mut self.state.loaded);
            let mut loading = pin!(loading);
            loop {
                if !waits || !self.input.has_room() {
                    break loading.await;
                }
                match select(&mut loading, reader.read(self.input.room())).await {
                    Either::First(done) => break done,
                    Either::Second(Ok(count @ 1..)) => {
                        self.input.received(count);
                        arrived += count;
                    }
                    Either::Second(_) => return Next::Close,
                }
            }
        };
        self.state.load_failure = done.err();
        if arrived > 0 {
            self.note_arrival(arrived);
        }
        self.server.read_clock();
        Next::GoOn
    }

    /// Lets others have their turn, and the client take its replies, when it is time to.
    async fn give_way(&mut self, request_bytes: usize) {
        self.slice_work += 1 + request_bytes / WORK_BYTES;
        if self.batch.sink.len() >= BATCH_BYTES {
            self.hand_over();
            self.let_client_take_replies().await;
        }
        if self.slice_work < self.slice_check {
            return;
        }
        let slice_us = self
            .server
            .read_clock()
            .saturating_sub(self.slice_started_us);
        if self.slice_work >= SLICE_WORK || slice_us >= SLICE_US {
            self.hand_over();
            self.let_client_take_replies().await;
            yield_now().await;
            self.begin_slice();
        } else {
            self.slice_check = self.slice_work + CHECK_WORK;
        }
    }

    /// Waits as long as more is queued than `client-output-queue-limit`: a client that does not read is not
    /// read from.
    async fn let_client_take_replies(&mut self) {
        if self.output.memory_bytes() > self.queue_limit {
            self.output.until_at_most(self.queue_limit / 2).await;
            self.limit_batch();
        }
    }

    fn begin_slice(&mut self) {
        self.slice_work = 0;
        self.slice_check = CHECK_WORK;
        self.slice_started_us = self.server.read_clock();
    }

    /// Gives the replies so far to the sending loop.
    fn hand_over(&mut self) {
        if self.batch.is_empty() || self.batch.sink.has_overflowed() {
            return;
        }
        let batch = core::mem::replace(&mut self.batch, self.output.fresh());
        self.output.push(batch);
        self.limit_batch();
        if !self.charge(0) && !self.state.closing {
            self.state.closing = true;
            self.fail(&out_of_memory());
        }
    }

    /// How much the replies now being written may add to what waits already.
    fn limit_batch(&mut self) {
        let limit = self
            .server
            .env
            .config()
            .limit_or_none(Limit::ClientOutputBytes);
        // Places in a batch are 32 bits wide.
        let limit = limit.min(u32::MAX as usize);
        self.batch
            .sink
            .set_limit(limit.saturating_sub(self.output.bytes()));
    }

    /// Replies with an error that ends the connection.
    fn fail(&mut self, failure: &Failure) {
        self.failed = true;
        self.note(failure);
    }

    fn note(&mut self, failure: &Failure) {
        self.server.env.stats.count_error(&failure.0);
        Reply::new(&mut self.batch.sink, self.state.resp3).error(&failure.0);
    }

    /// Does what a command has left to do that takes time.
    async fn carry_out(&mut self, after: After) {
        self.hand_over();
        self.state.client.blocked.set(true);
        let (failure, timestamp) = match after {
            After::Nothing | After::Close | After::Load(_) => {
                self.state.closing |= after == After::Close;
                (None, None)
            }
            After::SleepMs(duration_ms) => {
                self.server.clock.sleep_ms(duration_ms).await;
                self.reply(|reply| reply.simple("OK"));
                (None, None)
            }
            After::Durable(text) => {
                let store = &self.server.store;
                match store.wait_durable(store.committed()).await {
                    Ok(()) => {
                        self.reply(|reply| reply.simple(text));
                        (None, None)
                    }
                    Err(_) => (Some(Failure::of(failure::IO_ERROR)), None),
                }
            }
            After::WaitAof {
                timestamp,
                timeout_ms,
            } => (self.wait_aof(timestamp, timeout_ms).await, None),
            After::Keys(pattern) => {
                let walked = self.walk_keys(&pattern).await;
                self.end_walk(walked)
            }
            After::CountRange(start, end) => {
                let walked = self.count_range(start, end).await;
                self.end_walk(walked)
            }
            After::Snapshot(request) => match self.snapshot(request).await {
                Ok(timestamp) => (None, Some(timestamp)),
                Err(error) => (Some(failure::of_file(&error)), None),
            },
            After::Backup(request) => (self.backup(request).await.err(), None),
        };
        self.state.client.blocked.set(false);
        self.server.read_clock();
        let start = 0; // Everything before was handed over.
        if let Some(failure) = failure {
            self.note(&failure);
        }
        if let Some(timestamp) = timestamp
            && timestamp > self.server.store.durable()
            && self.server.env.replies_wait()
        {
            self.batch.depend(start, timestamp);
        }
        self.state.conclude(&mut self.batch, start);
    }

    fn reply(&mut self, write: impl FnOnce(&mut Reply<'_>)) {
        write(&mut Reply::new(&mut self.batch.sink, self.state.resp3));
    }

    /// SNAPSHOT. Returns what the reply depends on.
    async fn snapshot(&mut self, request: snapshot::Request) -> Result<Timestamp, FileError> {
        let store = &self.server.store;
        match request {
            snapshot::Request::Create(name) => {
                let now_ns = self.server.now_ns();
                store.create_snapshot(&name, now_ns).await?;
                self.reply(|reply| reply.simple("OK"));
            }
            snapshot::Request::Delete(name) => {
                store.delete_snapshot(&name).await?;
                self.reply(|reply| reply.simple("OK"));
            }
            snapshot::Request::List => {
                let snapshots = store.snapshots();
                let timestamp = store.committed();
                self.reply(|reply| snapshot::reply_list(&snapshots, reply));
                return Ok(timestamp);
            }
        }
        // They wait until it is durable themselves.
        Ok(Timestamp(0))
    }

    /// BACKUP. What it shows is durable before it is begun.
    async fn backup(&mut self, request: backup::Request) -> Result<(), Failure> {
        let store = &self.server.store;
        let now_ms = self.server.now_ms();
        match request {
            backup::Request::Start { name, since } => {
                let known = store.snapshots();
                if let Some(since) = since
                    && !known.iter().any(|snapshot| snapshot.name == since)
                {
                    return Err(backup::refusal(&BackupReadError::NotFound(since)));
                }
                let names = name.map_or_else(|| backup::names(now_ms), |name| alloc::vec![name]);
                let mut begun = Err(FileError::Exists);
                for name in names {
                    begun = store.create_snapshot(&name, self.server.now_ns()).await;
                    if begun != Err(FileError::Exists) {
                        break;
                    }
                }
                let snapshot = begun.map_err(|error| failure::of_file(&error))?;
                self.reply(|reply| backup::reply_started(&snapshot, reply));
            }
            backup::Request::Read {
                snapshot,
                token,
                since,
                bytes,
            } => {
                let source = BackupSource {
                    show: Ok(&snapshot),
                    since: since.as_deref(),
                };
                let frame = store.read_backup(source, &token, bytes).await;
                let frame = frame.map_err(|error| backup::refusal(&error))?;
                self.reply(|reply| backup::reply_part(&frame, reply));
            }
        }
        Ok(())
    }

    async fn wait_aof(&mut self, timestamp: Timestamp, timeout_ms: u64) -> Option<Failure> {
        let durable = self.server.store.wait_durable(timestamp);
        let outcome = if timeout_ms == 0 {
            durable.await
        } else {
            match select(durable, self.server.clock.sleep_ms(timeout_ms)).await {
                Either::First(outcome) => outcome,
                Either::Second(()) => Ok(()),
            }
        };
        if outcome.is_err() {
            return Some(Failure::of(failure::IO_ERROR));
        }
        let is_durable = timestamp <= self.server.store.durable();
        self.reply(|reply| {
            reply.array(2);
            reply.integer(i64::from(is_durable));
            reply.integer(0);
        });
        None
    }

    /// Why a walk failed, or what its reply depends on.
    fn end_walk(
        &mut self,
        walked: Result<Timestamp, WalkError>,
    ) -> (Option<Failure>, Option<Timestamp>) {
        match walked {
            Ok(timestamp) => (None, Some(timestamp)),
            Err(error) => (Some(self.server.cut_short(&mut self.state, error)), None),
        }
    }

    /// KEYS. Returns what the reply depends on.
    async fn walk_keys(&mut self, pattern: &[u8]) -> Result<Timestamp, WalkError> {
        let mut found = KeyList::new(
            self.server
                .env
                .config()
                .limit_or_none(Limit::ClientOutputBytes)
                .min(u32::MAX as usize),
        );
        let take = |keys: &[kvstore::Key]| {
            found.take_matching(pattern, keys);
            !found.is_full()
        };
        let timestamp = self.walk(Vec::new(), None, take).await?;
        self.reply(|reply| found.reply(reply));
        Ok(timestamp)
    }

    /// COUNTRANGE, or DBSIZE. Returns what the reply depends on.
    async fn count_range(
        &mut self,
        start: Vec<u8>,
        end: Option<Vec<u8>>,
    ) -> Result<Timestamp, WalkError> {
        let mut count = 0;
        let take = |keys: &[kvstore::Key]| {
            count += keys.len();
            true
        };
        let timestamp = self.walk(start, end, take).await?;
        self.reply(|reply| reply.count(count));
        Ok(timestamp)
    }

    /// Walks the keys from `start` on, up to `end`, not included, in steps, so that others go on, for as long as `take` wants more of them: as the open
    /// transaction sees them, or else a snapshot. Returns what was seen.
    async fn walk(
        &self,
        start: Vec<u8>,
        end: Option<Vec<u8>>,
        mut take: impl FnMut(&[kvstore::Key]) -> bool,
    ) -> Result<Timestamp, WalkError> {
        let store = &self.server.store;
        let snapshot;
        let view = if let Some(open) = &self.state.open {
            View::Open(open)
        } else {
            snapshot = store.snapshot();
            View::Snapshot(&snapshot)
        };
        let mut walk = Walk::new(view, self.state.database, start, end);
        let mut keys = Vec::new();
        loop {
            keys.clear();
            let now_ms = self.server.now_ms();
            let is_more = store.walk_step(&mut walk, WALK_STEP, now_ms, &mut keys);
            let is_more = is_more.await?;
            if !take(&keys) || !is_more {
                return Ok(walk.depends_on());
            }
            yield_now().await;
            self.server.read_clock();
        }
    }

    /// CLIENT PAUSE holds the next command back.
    async fn wait_for_pause_to_end(&mut self) {
        let env = &self.server.env;
        let Some(pause) = env.pause() else { return };
        self.state.client.blocked.set(true);
        let left_us = pause.until_us.saturating_sub(self.server.read_clock());
        select(
            env.pause_changed
                .until(|| (env.pause() != Some(pause)).then_some(())),
            self.server.clock.sleep_ms(left_us.div_ceil(1000)),
        )
        .await;
        self.state.client.blocked.set(false);
        self.server.read_clock();
    }
}

fn out_of_memory() -> Failure {
    Failure::of("ERR not enough memory for this connection's buffers (maxmemory-clients)")
}
