//! Keys in order and in time: RANGE, COUNTRANGE, DELRANGE, HISTORY.

use lfs::BlockDevice;

use super::failure::{self, Failure};
use super::{Data, Outcome, integer, is};

/// `RANGE start end [LIMIT n] [REV] [WITHVALUES]`: keys with start ≤ key < end, in order, or from the end. With values: an array of keys and values by
/// turns, in RESP3 one of pairs.
pub(crate) fn range<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let (mut limit, mut reverse, mut with_values) = (usize::MAX, false, false);
    let mut index = 3;
    while let Some(word) = data.args.get(index) {
        index += 1;
        if is(word, "rev") {
            reverse = true;
        } else if is(word, "withvalues") {
            with_values = true;
        } else if is(word, "limit") {
            limit = count(data, index)?;
            index += 1;
        } else {
            return Err(failure::SYNTAX);
        }
    }
    let (start, end) = (data.args.at(1), data.args.at(2));
    let found = data
        .transaction
        .range(data.database, start, end, reverse, limit, with_values)?;
    let pairs = with_values && data.reply.is_resp3();
    let flat = with_values && !pairs;
    data.reply
        .array(if flat { 2 * found.len() } else { found.len() });
    for (key, entry) in &found {
        if pairs {
            data.reply.array(2);
        }
        data.reply.bulk(key);
        if with_values {
            match entry {
                Some(entry) => data.reply.bulk(&entry.value),
                None => data.reply.null(),
            }
        }
    }
    Ok(())
}

/// `COUNTRANGE start end`, within EXEC: all in one go, as it must be to be part of it. Otherwise the session walks the keys in steps.
pub(crate) fn count_range<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let (start, end) = (data.args.at(1), data.args.at(2));
    let count = if start < end {
        data.transaction
            .count_range(data.database, start, Some(end))?
    } else {
        0
    };
    data.reply.integer(i64::try_from(count).unwrap_or(i64::MAX));
    Ok(())
}

/// `DELRANGE start end`: takes as long whatever it deletes, so it does not say how many that were.
pub(crate) fn del_range<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let (start, end) = (data.args.at(1), data.args.at(2));
    data.transaction.delete_range(data.database, start, end);
    data.reply.ok();
    Ok(())
}

/// `HISTORY key [LIMIT n]`: `[commit, value or nil]`, newest first.
pub(crate) fn history<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let limit = match (data.args.len(), data.args.get(2)) {
        (2, _) => usize::MAX,
        (4, Some(word)) if is(word, "limit") => count(data, 3)?,
        _ => return Err(failure::SYNTAX),
    };
    let key = data.args.at(1);
    let history = data.transaction.history(data.database, key, limit)?;
    data.reply.array(history.len());
    for (commit, value) in &history {
        data.reply.array(2);
        data.reply
            .integer(i64::try_from(commit.0).unwrap_or(i64::MAX));
        match value {
            Some(value) => data.reply.bulk(value),
            None => data.reply.null(),
        }
    }
    Ok(())
}

fn count<D: BlockDevice>(data: &Data<'_, '_, D>, index: usize) -> Result<usize, Failure> {
    let number = integer(data.args.get(index).ok_or(failure::SYNTAX)?)?;
    usize::try_from(number).map_err(|_| Failure::of("ERR LIMIT is not negative"))
}
