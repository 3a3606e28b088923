//! Times to live: EXPIRE, TTL and their relatives.

use lfs::BlockDevice;

use super::failure::{self, Failure};
use super::{Data, Outcome, integer, is};

/// In what a time is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Seconds,
    Milliseconds,
}

/// From when a time is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    Now,
    Epoch,
}

/// The Unix millisecond that `amount` names; `None` when no such number exists.
pub(crate) fn deadline_ms(amount: i64, unit: Unit, base: Base, now_ms: i64) -> Option<i64> {
    let amount_ms = match unit {
        Unit::Seconds => amount.checked_mul(1000)?,
        Unit::Milliseconds => amount,
    };
    match base {
        Base::Now => amount_ms.checked_add(now_ms),
        Base::Epoch => Some(amount_ms),
    }
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "one for each word a client may say"
)]
#[derive(Debug, Clone, Copy, Default)]
struct Conditions {
    absent: bool,
    present: bool,
    greater: bool,
    less: bool,
}

fn parse_conditions<D: BlockDevice>(data: &Data<'_, '_, D>) -> Result<Conditions, Failure> {
    let mut conditions = Conditions::default();
    for word in data.args.from(3) {
        match () {
            () if is(word, "nx") => conditions.absent = true,
            () if is(word, "xx") => conditions.present = true,
            () if is(word, "gt") => conditions.greater = true,
            () if is(word, "lt") => conditions.less = true,
            () => return Err(Failure::quoting(&[b"ERR Unsupported option ", word])),
        }
    }
    if conditions.absent && (conditions.present || conditions.greater || conditions.less) {
        return Err(Failure::of(
            "ERR NX and XX, GT or LT options at the same time are not compatible",
        ));
    }
    if conditions.greater && conditions.less {
        return Err(Failure::of(
            "ERR GT and LT options at the same time are not compatible",
        ));
    }
    Ok(conditions)
}

/// EXPIRE, PEXPIRE, EXPIREAT, PEXPIREAT.
pub(crate) fn expire<D: BlockDevice>(
    data: &mut Data<'_, '_, D>,
    unit: Unit,
    base: Base,
) -> Outcome {
    let key = data.args.at(1);
    let conditions = parse_conditions(data)?;
    let deadline = deadline_ms(
        integer(data.args.at(2))?,
        unit,
        base,
        data.transaction.now_ms(),
    )
    .ok_or_else(|| failure::invalid_expire(data.spec.name))?;
    let allowed = match data.transaction.get(data.database, key)? {
        None => false,
        // A key without a time to live counts as one that lives for ever.
        Some(entry) => match entry.expires_at_ms {
            None => !conditions.present && !conditions.greater,
            Some(current) => {
                !conditions.absent
                    && (!conditions.greater || deadline > current)
                    && (!conditions.less || deadline < current)
            }
        },
    };
    if allowed {
        data.transaction
            .set_expiry(data.database, key, Some(deadline))?;
    }
    data.reply.integer(i64::from(allowed));
    Ok(())
}

/// TTL, PTTL, EXPIRETIME, PEXPIRETIME: -2 for no key, -1 for no time.
pub(crate) fn ttl<D: BlockDevice>(data: &mut Data<'_, '_, D>, unit: Unit, base: Base) -> Outcome {
    let answer = match data.transaction.get(data.database, data.args.at(1))? {
        None => -2,
        Some(entry) => match entry.expires_at_ms {
            None => -1,
            Some(at_ms) => {
                let ms = match base {
                    Base::Now => at_ms.saturating_sub(data.transaction.now_ms()).max(0),
                    Base::Epoch => at_ms,
                };
                match unit {
                    Unit::Seconds => ms.saturating_add(500) / 1000,
                    Unit::Milliseconds => ms,
                }
            }
        },
    };
    data.reply.integer(answer);
    Ok(())
}

pub(crate) fn persist<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let key = data.args.at(1);
    let mortal = data
        .transaction
        .get(data.database, key)?
        .is_some_and(|entry| entry.expires_at_ms.is_some());
    if mortal {
        data.transaction.set_expiry(data.database, key, None)?;
    }
    data.reply.integer(i64::from(mortal));
    Ok(())
}
