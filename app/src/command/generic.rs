//! Keys whatever their value: DEL, EXISTS, RENAME, COPY, MOVE, TYPE.

use kvstore::DatabaseIndex;
use lfs::BlockDevice;

use super::failure;
use super::{Data, Outcome, database, is};

/// DEL and UNLINK: memory is given back either way without a stall.
pub(crate) fn del<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let mut deleted = 0;
    for key in data.args.from(1) {
        deleted += usize::from(data.transaction.delete(data.database, key)?);
    }
    data.reply.count(deleted);
    Ok(())
}

/// EXISTS and TOUCH: a key given twice counts twice.
pub(crate) fn exists<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let mut found = 0;
    for key in data.args.from(1) {
        found += usize::from(data.transaction.get(data.database, key)?.is_some());
    }
    data.reply.count(found);
    Ok(())
}

pub(crate) fn type_of<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let found = data
        .transaction
        .get(data.database, data.args.at(1))?
        .is_some();
    data.reply.simple(if found { "string" } else { "none" });
    Ok(())
}

pub(crate) fn rename<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    rename_if(data, false)?;
    data.reply.ok();
    Ok(())
}

pub(crate) fn rename_nx<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let renamed = rename_if(data, true)?;
    data.reply.integer(i64::from(renamed));
    Ok(())
}

fn rename_if<D: BlockDevice>(
    data: &mut Data<'_, '_, D>,
    only_if_absent: bool,
) -> Result<bool, failure::Failure> {
    let (from, to, db) = (data.args.at(1), data.args.at(2), data.database);
    let entry = data.transaction.get(db, from)?;
    let entry = entry.ok_or(failure::NO_SUCH_KEY)?;
    if from == to {
        return Ok(false);
    }
    if only_if_absent && data.transaction.get(db, to)?.is_some() {
        return Ok(false);
    }
    data.transaction.delete(db, from)?;
    data.transaction
        .put(db, to, entry.value, entry.expires_at_ms);
    Ok(true)
}

/// `COPY source destination [DB n] [REPLACE]`.
pub(crate) fn copy<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let mut target = data.database;
    let mut replace = false;
    let mut index = 3;
    while let Some(word) = data.args.get(index) {
        if is(word, "replace") {
            replace = true;
        } else if is(word, "db")
            && let Some(number) = data.args.get(index + 1)
        {
            target = database(number)?;
            index += 1;
        } else {
            return Err(failure::SYNTAX);
        }
        index += 1;
    }
    let (from, to) = (data.args.at(1), data.args.at(2));
    if target == data.database && from == to {
        return Err(failure::SAME_OBJECT);
    }
    let copied = transfer(data, from, target, to, replace)?;
    data.reply.integer(i64::from(copied));
    Ok(())
}

/// MOVE key db.
pub(crate) fn move_to<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let key = data.args.at(1);
    let target = database(data.args.at(2))?;
    if target == data.database {
        return Err(failure::SAME_OBJECT);
    }
    let moved = transfer(data, key, target, key, false)?;
    if moved {
        data.transaction.delete(data.database, key)?;
    }
    data.reply.integer(i64::from(moved));
    Ok(())
}

/// Copies value and expiry; false when there is nothing to copy or something in the way.
fn transfer<D: BlockDevice>(
    data: &mut Data<'_, '_, D>,
    from: &[u8],
    target: DatabaseIndex,
    to: &[u8],
    replace: bool,
) -> Result<bool, failure::Failure> {
    let Some(entry) = data.transaction.get(data.database, from)? else {
        return Ok(false);
    };
    if !replace && data.transaction.get(target, to)?.is_some() {
        return Ok(false);
    }
    data.transaction
        .put(target, to, entry.value, entry.expires_at_ms);
    Ok(true)
}
