//! Whole databases: KEYS, SCAN, RANDOMKEY, DBSIZE, FLUSHDB, FLUSHALL.
//!
//! Within EXEC, KEYS walks the database in one go, as it must to be part of the transaction; otherwise the
//! session walks it in steps (see `session::reader`).

use alloc::vec::Vec;

use kvstore::{DATABASE_COUNT, DatabaseIndex};
use lfs::BlockDevice;

use super::failure::{self, Failure};
use super::{Data, Outcome, integer, is};
use crate::glob;
use crate::resp::Reply;
use crate::resp::reply::Sink;

/// Keys looked at in one step of a walk.
pub(crate) const WALK_STEP: usize = 256;
/// Keys one SCAN looks at at most, whatever its COUNT (which is a hint), so that none takes long.
const SCAN_COUNT_MAX: usize = 4096;
const SCAN_COUNT_DEFAULT: usize = 10;

pub(crate) fn keys<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let pattern = data.args.at(1);
    let mut found = KeyList::new(data.reply.room());
    let mut step = Vec::new();
    let mut last: Option<kvstore::Key> = None;
    loop {
        step.clear();
        data.transaction
            .keys_after(data.database, last.as_deref(), WALK_STEP, &mut step)?;
        found.take_matching(pattern, &step);
        match step.pop() {
            Some(key) if !found.is_full() => last = Some(key),
            _ => break,
        }
    }
    found.reply(&mut data.reply);
    Ok(())
}

/// Keys found so far, encoded for the reply; no longer than what the client may be sent.
#[derive(Debug)]
pub(crate) struct KeyList {
    encoded: Sink,
    count: usize,
}

impl KeyList {
    /// A list whose encoding may take `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            encoded: Sink::new(limit),
            count: 0,
        }
    }

    /// Takes those of `keys` that match.
    pub(crate) fn take_matching(&mut self, pattern: &[u8], keys: &[kvstore::Key]) {
        let all = glob::matches_all(pattern);
        let mut reply = Reply::new(&mut self.encoded, false);
        for key in keys {
            if all || glob::matches(pattern, key, false) {
                reply.bulk(key);
                self.count += 1;
            }
        }
    }

    /// Whether more were found than the client may be sent.
    pub(crate) fn is_full(&self) -> bool {
        self.encoded.has_overflowed()
    }

    /// Writes the list as one reply.
    pub(crate) fn reply(&self, reply: &mut Reply<'_>) {
        if self.is_full() {
            reply.overflow();
            return;
        }
        reply.array(self.count);
        reply.raw(self.encoded.bytes());
    }
}

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`.
pub(crate) fn scan<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let cursor = core::str::from_utf8(data.args.at(1))
        .ok()
        .and_then(|text| text.parse::<u64>().ok())
        .ok_or(Failure::of("ERR invalid cursor"))?;
    let mut count = SCAN_COUNT_DEFAULT;
    let mut pattern: Option<&[u8]> = None;
    let mut only_type: Option<&[u8]> = None;
    let mut index = 2;
    while let Some(word) = data.args.get(index) {
        let Some(value) = data.args.get(index + 1) else {
            return Err(failure::SYNTAX);
        };
        if is(word, "count") {
            let hint = integer(value)?;
            if hint < 1 {
                return Err(failure::SYNTAX);
            }
            count = usize::try_from(hint)
                .unwrap_or(SCAN_COUNT_MAX)
                .min(SCAN_COUNT_MAX);
        } else if is(word, "match") {
            pattern = Some(value);
        } else if is(word, "type") {
            only_type = Some(value);
        } else {
            return Err(failure::SYNTAX);
        }
        index += 2;
    }
    let mut keys = Vec::new();
    let next = data
        .transaction
        .scan(data.database, cursor, count, &mut keys)?;
    if only_type.is_some_and(|name| !is(name, "string")) {
        keys.clear();
    }
    if let Some(pattern) = pattern.filter(|pattern| !glob::matches_all(pattern)) {
        keys.retain(|key| glob::matches(pattern, key, false));
    }
    data.reply.array(2);
    data.reply.bulk(itoa::Buffer::new().format(next).as_bytes());
    data.reply.array(keys.len());
    for key in &keys {
        data.reply.bulk(key);
    }
    Ok(())
}

pub(crate) fn random_key<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    match data
        .transaction
        .random_key(data.database, data.env.random_u64())?
    {
        Some(key) => data.reply.bulk(&key),
        None => data.reply.null(),
    }
    Ok(())
}

pub(crate) fn db_size<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let count = data.transaction.count(data.database)?;
    data.reply.integer(i64::try_from(count).unwrap_or(i64::MAX));
    Ok(())
}

pub(crate) fn flush_db<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    check_flush_mode(data)?;
    data.transaction.clear(data.database);
    data.reply.ok();
    Ok(())
}

pub(crate) fn flush_all<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    check_flush_mode(data)?;
    for index in 0..DATABASE_COUNT {
        if let Ok(index) = u8::try_from(index) {
            data.transaction.clear(DatabaseIndex(index));
        }
    }
    data.reply.ok();
    Ok(())
}

/// DBSIZE of a transaction that stays open, if the number is known. Otherwise there is no reply yet: keys have to be counted.
pub(crate) fn known_db_size<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Result<bool, Failure> {
    let count = data.transaction.known_count(data.database)?;
    if let Some(count) = count {
        data.reply.integer(i64::try_from(count).unwrap_or(i64::MAX));
    }
    Ok(count.is_some())
}

/// Both ways take constant time here, so ASYNC and SYNC are the same.
fn check_flush_mode<D: BlockDevice>(data: &Data<'_, '_, D>) -> Outcome {
    match (data.args.len(), data.args.get(1)) {
        (1, _) => Ok(()),
        (2, Some(word)) if is(word, "async") || is(word, "sync") => Ok(()),
        _ => Err(failure::SYNTAX),
    }
}
