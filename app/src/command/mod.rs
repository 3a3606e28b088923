//! Commands: what each one is called, takes and does.
//!
//! [`table`] describes every command once (arity, flags, key positions, help); dispatch, `COMMAND` and the checks
//! before execution all read that. There are three kinds:
//! - *data* commands, and those on files, work on one store transaction and nothing else ([`Data`]); alone each is a
//!   commit of its own, within EXEC they share one;
//! - *control* commands look at or change the session and the server ([`Control`]);
//! - *session* commands shape how others are executed (MULTI, EXEC, ...): the session knows them.
//!
//! A command validates everything before it writes anything, and replies last: an error leaves no trace.
//!
//! What a data command or one on files reads may not be in memory. Then it fails ([`failure::MISSING`], with `?`), the
//! transaction knows what is missing, and the session carries all of it out again. So nothing in it may have an effect
//! outside the transaction and the reply.
#![expect(
    clippy::unnecessary_wraps,
    reason = "every command has the same signature"
)]

pub(crate) mod backup;
pub(crate) mod client;
pub(crate) mod config;
pub(crate) mod connection;
pub(crate) mod counter;
pub(crate) mod debug;
pub(crate) mod expiry;
pub(crate) mod failure;
pub(crate) mod file;
pub(crate) mod generic;
pub(crate) mod introspect;
pub(crate) mod keyspace;
pub(crate) mod object;
pub(crate) mod range;
pub(crate) mod scrub;
pub(crate) mod server;
pub(crate) mod snapshot;
pub(crate) mod string;
pub(crate) mod table;

use alloc::vec::Vec;

use kvstore::{DATABASE_COUNT, DatabaseIndex, Fault, Timestamp, Transaction};
use lfs::BlockDevice;

use crate::env::{Engine, Env};
use crate::number;
use crate::resp::{Args, Reply};
use crate::session::State;
pub(crate) use failure::Failure;
pub(crate) use table::{DataCommand, FileCommand, Run, SessionCommand, Spec};

/// What became of a command that did not fail: it wrote its reply.
pub(crate) type Outcome = Result<(), Failure>;

/// Everything a data command sees.
pub(crate) struct Data<'a, 's, D: BlockDevice> {
    pub(crate) transaction: &'a mut Transaction<'s, D>,
    pub(crate) database: DatabaseIndex,
    pub(crate) args: Args<'a>,
    pub(crate) reply: Reply<'a>,
    pub(crate) env: &'a Env,
    pub(crate) spec: &'static Spec,
}

impl<D: BlockDevice> Data<'_, '_, D> {
    /// Runs `command`.
    pub(crate) fn run(&mut self, command: DataCommand) -> Outcome {
        use DataCommand as C;
        match command {
            C::Get => string::get(self),
            C::Set => string::set(self),
            C::SetNx => string::set_nx(self),
            C::SetEx => string::set_ex(self, expiry::Unit::Seconds),
            C::PSetEx => string::set_ex(self, expiry::Unit::Milliseconds),
            C::GetSet => string::get_set(self),
            C::GetDel => string::get_del(self),
            C::GetEx => string::get_ex(self),
            C::MGet => string::mget(self),
            C::MSet => string::mset(self),
            C::MSetNx => string::mset_nx(self),
            C::Append => string::append(self),
            C::StrLen => string::strlen(self),
            C::GetRange => string::get_range(self),
            C::SetRange => string::set_range(self),
            C::Incr => counter::add(self, 1),
            C::Decr => counter::add(self, -1),
            C::IncrBy => counter::incr_by(self),
            C::DecrBy => counter::decr_by(self),
            C::IncrByFloat => counter::incr_by_float(self),
            C::Del => generic::del(self),
            C::Exists => generic::exists(self),
            C::Type => generic::type_of(self),
            C::Rename => generic::rename(self),
            C::RenameNx => generic::rename_nx(self),
            C::Copy => generic::copy(self),
            C::Move => generic::move_to(self),
            C::Keys => keyspace::keys(self),
            C::Scan => keyspace::scan(self),
            C::RandomKey => keyspace::random_key(self),
            C::DbSize => keyspace::db_size(self),
            C::Range => range::range(self),
            C::CountRange => range::count_range(self),
            C::DelRange => range::del_range(self),
            C::History => range::history(self),
            C::FlushDb => keyspace::flush_db(self),
            C::FlushAll => keyspace::flush_all(self),
            C::Expire => expiry::expire(self, expiry::Unit::Seconds, expiry::Base::Now),
            C::PExpire => expiry::expire(self, expiry::Unit::Milliseconds, expiry::Base::Now),
            C::ExpireAt => expiry::expire(self, expiry::Unit::Seconds, expiry::Base::Epoch),
            C::PExpireAt => expiry::expire(self, expiry::Unit::Milliseconds, expiry::Base::Epoch),
            C::Ttl => expiry::ttl(self, expiry::Unit::Seconds, expiry::Base::Now),
            C::PTtl => expiry::ttl(self, expiry::Unit::Milliseconds, expiry::Base::Now),
            C::ExpireTime => expiry::ttl(self, expiry::Unit::Seconds, expiry::Base::Epoch),
            C::PExpireTime => expiry::ttl(self, expiry::Unit::Milliseconds, expiry::Base::Epoch),
            C::Persist => expiry::persist(self),
            C::ObjectEncoding => object::encoding(self),
            C::ObjectFreq => object::freq(self),
            C::ObjectIdleTime => object::idle_time(self),
            C::ObjectRefCount => object::ref_count(self),
            C::MemoryUsage => object::memory_usage(self),
        }
    }
}

/// Everything a control command sees.
pub(crate) struct Control<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) args: Args<'a>,
    pub(crate) reply: Reply<'a>,
    pub(crate) env: &'a Env,
    pub(crate) engine: &'a dyn Engine,
    /// Within EXEC nothing can wait.
    pub(crate) in_exec: bool,
    pub(crate) after: &'a mut After,
}

/// What the session does once the command's own work is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum After {
    /// Goes on.
    Nothing,
    /// Waits, then replies `+OK`.
    SleepMs(u64),
    /// Waits until everything committed is durable, then replies `text` as a status.
    Durable(&'static str),
    /// Waits until the session's own writes are durable, at most so long (0: for ever), then replies as WAITAOF does.
    WaitAof {
        timestamp: Timestamp,
        timeout_ms: u64,
    },
    /// Walks the key space and replies with the keys that match.
    Keys(Vec<u8>),
    /// Walks the keys from the first to the second, not included, or to the last, and replies with their number.
    CountRange(Vec<u8>, Option<Vec<u8>>),
    /// Makes, deletes or lists snapshots and replies.
    Snapshot(snapshot::Request),
    /// Begins or reads a backup and replies.
    Backup(backup::Request),
    /// Nothing was carried out: loads what is missing, and has it carried out again.
    Load(Vec<Fault>),
    /// Sends what is to be sent and closes.
    Close,
}

/// Argument `bytes` as an integer.
pub(crate) fn integer(bytes: &[u8]) -> Result<i64, Failure> {
    number::parse_i64(bytes).ok_or(failure::NOT_AN_INTEGER)
}

/// Argument `bytes` as the number of a database.
pub(crate) fn database(bytes: &[u8]) -> Result<DatabaseIndex, Failure> {
    let index = i32::try_from(integer(bytes)?).map_err(|_| failure::NOT_A_C_INT)?;
    u8::try_from(index)
        .ok()
        .filter(|&index| usize::from(index) < DATABASE_COUNT)
        .map(DatabaseIndex)
        .ok_or(failure::DB_OUT_OF_RANGE)
}

/// Whether `argument` is `word`, in any case.
pub(crate) fn is(argument: &[u8], word: &str) -> bool {
    argument.eq_ignore_ascii_case(word.as_bytes())
}
