//! Strings: GET, SET and their relatives.

use alloc::vec::Vec;

use kvstore::Entry;
use lfs::BlockDevice;

use super::expiry::{self, Base, Unit};
use super::failure::{self, Failure};
use super::{Data, Outcome, integer, is};

pub(crate) fn get<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    match data.transaction.get(data.database, data.args.at(1))? {
        Some(entry) => data.reply.bulk(&entry.value),
        None => data.reply.null(),
    }
    Ok(())
}

/// What SET and GETEX do with a key's time to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ttl {
    /// Not mentioned: SET removes it, GETEX leaves it.
    Unsaid,
    Keep,
    Persist,
    /// The argument at this index.
    At {
        index: usize,
        unit: Unit,
        base: Base,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SetOptions {
    only_if_absent: bool,
    only_if_present: bool,
    get: bool,
    ttl: Ttl,
}

/// Options from argument `first` on. SET knows all but PERSIST, GETEX only those about time.
fn parse_options<D: BlockDevice>(
    data: &Data<'_, '_, D>,
    first: usize,
    is_set: bool,
) -> Result<SetOptions, Failure> {
    let mut options = SetOptions {
        only_if_absent: false,
        only_if_present: false,
        get: false,
        ttl: Ttl::Unsaid,
    };
    let mut index = first;
    while let Some(word) = data.args.get(index) {
        let time = match () {
            () if is(word, "ex") => Some((Unit::Seconds, Base::Now)),
            () if is(word, "px") => Some((Unit::Milliseconds, Base::Now)),
            () if is(word, "exat") => Some((Unit::Seconds, Base::Epoch)),
            () if is(word, "pxat") => Some((Unit::Milliseconds, Base::Epoch)),
            () => None,
        };
        if let Some((unit, base)) = time {
            // The same option twice is allowed, the last one counts; different ones are not.
            let repeatable = match options.ttl {
                Ttl::Unsaid => true,
                Ttl::At {
                    unit: u, base: b, ..
                } => (u, b) == (unit, base),
                Ttl::Keep | Ttl::Persist => false,
            };
            if !repeatable || data.args.get(index + 1).is_none() {
                return Err(failure::SYNTAX);
            }
            options.ttl = Ttl::At {
                index: index + 1,
                unit,
                base,
            };
            index += 2;
            continue;
        }
        if is_set && is(word, "nx") && !options.only_if_present {
            options.only_if_absent = true;
        } else if is_set && is(word, "xx") && !options.only_if_absent {
            options.only_if_present = true;
        } else if is_set && is(word, "get") {
            options.get = true;
        } else if is_set && is(word, "keepttl") && matches!(options.ttl, Ttl::Unsaid | Ttl::Keep) {
            options.ttl = Ttl::Keep;
        } else if !is_set
            && is(word, "persist")
            && matches!(options.ttl, Ttl::Unsaid | Ttl::Persist)
        {
            options.ttl = Ttl::Persist;
        } else {
            return Err(failure::SYNTAX);
        }
        index += 1;
    }
    Ok(options)
}

fn deadline<D: BlockDevice>(
    data: &Data<'_, '_, D>,
    argument: &[u8],
    unit: Unit,
    base: Base,
) -> Result<i64, Failure> {
    let amount = integer(argument)?;
    if amount <= 0 {
        return Err(failure::invalid_expire(data.spec.name));
    }
    expiry::deadline_ms(amount, unit, base, data.transaction.now_ms())
        .ok_or_else(|| failure::invalid_expire(data.spec.name))
}

pub(crate) fn set<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let (key, value) = (data.args.at(1), data.args.at(2));
    if data.args.len() == 3 {
        data.transaction.put(data.database, key, value, None);
        data.reply.ok();
        return Ok(());
    }
    let options = parse_options(data, 3, true)?;
    let deadline = match options.ttl {
        Ttl::At { index, unit, base } => Some(deadline(data, data.args.at(index), unit, base)?),
        _ => None,
    };
    let conditional = options.only_if_absent || options.only_if_present;
    let old = if conditional || options.get || options.ttl == Ttl::Keep {
        data.transaction.get(data.database, key)?
    } else {
        None
    };
    let refused =
        (options.only_if_absent && old.is_some()) || (options.only_if_present && old.is_none());
    if !refused {
        let expires_at_ms = match options.ttl {
            Ttl::Keep => old.as_ref().and_then(|entry| entry.expires_at_ms),
            _ => deadline,
        };
        data.transaction
            .put(data.database, key, value, expires_at_ms);
    }
    if options.get {
        reply_value(data, old.as_ref());
    } else if refused {
        data.reply.null();
    } else {
        data.reply.ok();
    }
    Ok(())
}

fn reply_value<D: BlockDevice>(data: &mut Data<'_, '_, D>, entry: Option<&Entry>) {
    match entry {
        Some(entry) => data.reply.bulk(&entry.value),
        None => data.reply.null(),
    }
}

pub(crate) fn set_nx<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let key = data.args.at(1);
    let absent = data.transaction.get(data.database, key)?.is_none();
    if absent {
        data.transaction
            .put(data.database, key, data.args.at(2), None);
    }
    data.reply.integer(i64::from(absent));
    Ok(())
}

/// SETEX and PSETEX: key, time, value.
pub(crate) fn set_ex<D: BlockDevice>(data: &mut Data<'_, '_, D>, unit: Unit) -> Outcome {
    let deadline = deadline(data, data.args.at(2), unit, Base::Now)?;
    data.transaction.put(
        data.database,
        data.args.at(1),
        data.args.at(3),
        Some(deadline),
    );
    data.reply.ok();
    Ok(())
}

pub(crate) fn get_set<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let key = data.args.at(1);
    let old = data.transaction.get(data.database, key)?;
    data.transaction
        .put(data.database, key, data.args.at(2), None);
    reply_value(data, old.as_ref());
    Ok(())
}

pub(crate) fn get_del<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let key = data.args.at(1);
    let old = data.transaction.get(data.database, key)?;
    if old.is_some() {
        data.transaction.delete(data.database, key)?;
    }
    reply_value(data, old.as_ref());
    Ok(())
}

pub(crate) fn get_ex<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let key = data.args.at(1);
    let options = parse_options(data, 2, false)?;
    let Some(entry) = data.transaction.get(data.database, key)? else {
        // Like Redis, which does not look at the time when there is no key.
        data.reply.null();
        return Ok(());
    };
    match options.ttl {
        Ttl::At { index, unit, base } => {
            let deadline = deadline(data, data.args.at(index), unit, base)?;
            data.transaction
                .set_expiry(data.database, key, Some(deadline))?;
        }
        Ttl::Persist if entry.expires_at_ms.is_some() => {
            data.transaction.set_expiry(data.database, key, None)?;
        }
        _ => {}
    }
    data.reply.bulk(&entry.value);
    Ok(())
}

pub(crate) fn mget<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    data.reply.array(data.args.len() - 1);
    for key in data.args.from(1) {
        match data.transaction.get(data.database, key)? {
            Some(entry) => data.reply.bulk(&entry.value),
            None => data.reply.null(),
        }
    }
    Ok(())
}

pub(crate) fn mset<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    check_pairs(data)?;
    put_pairs(data);
    data.reply.ok();
    Ok(())
}

pub(crate) fn mset_nx<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    check_pairs(data)?;
    let mut absent = true;
    for key in data.args.from(1).step_by(2) {
        if data.transaction.get(data.database, key)?.is_some() {
            absent = false;
            break;
        }
    }
    if absent {
        put_pairs(data);
    }
    data.reply.integer(i64::from(absent));
    Ok(())
}

fn check_pairs<D: BlockDevice>(data: &Data<'_, '_, D>) -> Outcome {
    if data.args.len().is_multiple_of(2) {
        Err(failure::arity(data.spec.name))
    } else {
        Ok(())
    }
}

fn put_pairs<D: BlockDevice>(data: &mut Data<'_, '_, D>) {
    let mut words = data.args.from(1);
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        data.transaction.put(data.database, key, value, None);
    }
}

pub(crate) fn append<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let (key, tail) = (data.args.at(1), data.args.at(2));
    let length = data
        .transaction
        .get(data.database, key)?
        .map_or(0, |entry| entry.value.len());
    if length.saturating_add(tail.len()) > data.env.value_bytes_max() {
        return Err(failure::STRING_TOO_LONG);
    }
    let length = data.transaction.append(data.database, key, tail)?;
    data.reply.count(length);
    Ok(())
}

pub(crate) fn strlen<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let entry = data.transaction.get(data.database, data.args.at(1))?;
    data.reply.count(entry.map_or(0, |entry| entry.value.len()));
    Ok(())
}

/// GETRANGE and SUBSTR: both ends included, negative ones count from the end.
pub(crate) fn get_range<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let (start, end) = (integer(data.args.at(2))?, integer(data.args.at(3))?);
    let entry = data.transaction.get(data.database, data.args.at(1))?;
    let value: &[u8] = entry.as_ref().map_or(&[], |entry| &entry.value);
    data.reply.bulk(slice(value, start, end));
    Ok(())
}

fn slice(value: &[u8], start: i64, end: i64) -> &[u8] {
    let length = i64::try_from(value.len()).unwrap_or(i64::MAX);
    if start < 0 && end < 0 && start > end {
        return &[];
    }
    let from_start = |at: i64| {
        if at < 0 {
            at.saturating_add(length).max(0)
        } else {
            at
        }
    };
    let (start, end) = (from_start(start), from_start(end).min(length - 1));
    match (usize::try_from(start), usize::try_from(end)) {
        (Ok(start), Ok(end)) if start <= end => value.get(start..=end).unwrap_or_default(),
        _ => &[],
    }
}

pub(crate) fn set_range<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let (key, piece) = (data.args.at(1), data.args.at(3));
    let offset = integer(data.args.at(2))?;
    let offset = usize::try_from(offset).map_err(|_| Failure::of("ERR offset is out of range"))?;
    let old = data.transaction.get(data.database, key)?;
    let old_value: &[u8] = old.as_ref().map_or(&[], |entry| &entry.value);
    if piece.is_empty() {
        data.reply.count(old_value.len());
        return Ok(());
    }
    let end = offset.saturating_add(piece.len());
    if end > data.env.value_bytes_max() {
        return Err(failure::STRING_TOO_LONG);
    }
    let length = end.max(old_value.len());
    let mut value = Vec::new();
    value
        .try_reserve_exact(length)
        .map_err(|_| failure::of_commit(kvstore::CommitError::OutOfMemory, 0))?;
    value.extend_from_slice(
        old_value
            .get(..offset.min(old_value.len()))
            .unwrap_or_default(),
    );
    value.resize(offset, 0);
    value.extend_from_slice(piece);
    value.extend_from_slice(old_value.get(end..).unwrap_or_default());
    let expires_at_ms = old.as_ref().and_then(|entry| entry.expires_at_ms);
    data.transaction
        .put(data.database, key, value, expires_at_ms);
    data.reply.count(length);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::slice;

    #[test]
    fn ranges_follow_redis() {
        let text = b"Hello World";
        for (start, end, expected) in [
            (0, 3, "Hell"),
            (0, -1, "Hello World"),
            (-4, -1, "orld"),
            (5, 3, ""),
            (5, 5000, " World"),
            (-5000, 10000, "Hello World"),
            (0, -100, "H"),
            (1, -100, ""),
            (-1, -5, ""),
            (20, 30, ""),
            (i64::MIN, i64::MAX, "Hello World"),
        ] {
            assert_eq!(
                slice(text, start, end),
                expected.as_bytes(),
                "{start} {end}"
            );
        }
        assert_eq!(slice(b"", 0, -1), b"");
    }
}
