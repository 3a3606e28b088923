//! Strings that are numbers: INCR, DECR and their relatives. The time to live stays.

use alloc::vec::Vec;

use lfs::BlockDevice;

use super::failure::{self, Failure};
use super::{Data, Outcome, integer};
use crate::number::{self, Decimal};

pub(crate) fn incr_by<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let amount = integer(data.args.at(2))?;
    add(data, amount)
}

pub(crate) fn decr_by<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let amount = integer(data.args.at(2))?;
    add(
        data,
        amount
            .checked_neg()
            .ok_or(Failure::of("ERR decrement would overflow"))?,
    )
}

pub(crate) fn add<D: BlockDevice>(data: &mut Data<'_, '_, D>, amount: i64) -> Outcome {
    let key = data.args.at(1);
    let old = data.transaction.get(data.database, key)?;
    let value = match &old {
        Some(entry) => integer(&entry.value)?,
        None => 0,
    };
    let sum = value
        .checked_add(amount)
        .ok_or(Failure::of("ERR increment or decrement would overflow"))?;
    let mut digits = Vec::with_capacity(20);
    number::push_i64(&mut digits, sum);
    let expires_at_ms = old.and_then(|entry| entry.expires_at_ms);
    data.transaction
        .put(data.database, key, digits, expires_at_ms);
    data.reply.integer(sum);
    Ok(())
}

pub(crate) fn incr_by_float<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let key = data.args.at(1);
    let old = data.transaction.get(data.database, key)?;
    let float = |bytes: &[u8]| Decimal::parse(bytes).ok_or(failure::NOT_A_FLOAT);
    let value = match &old {
        Some(entry) => float(&entry.value)?,
        None => Decimal::Exact(0),
    };
    let sum = value
        .checked_add(float(data.args.at(2))?)
        .ok_or(Failure::of("ERR increment would produce NaN or Infinity"))?;
    let digits = sum.format().into_bytes();
    data.reply.bulk(&digits);
    let expires_at_ms = old.and_then(|entry| entry.expires_at_ms);
    data.transaction
        .put(data.database, key, digits, expires_at_ms);
    Ok(())
}
