//! What a key's value is made of: OBJECT and MEMORY USAGE.

use lfs::BlockDevice;

use super::failure::{self, Failure};
use super::{Control, Data, Outcome, integer, is};
use crate::number;

/// Redis's short strings share a memory block with their header up to this length.
const EMBEDDED_BYTES_MAX: usize = 44;
/// Index entry and version header that come with every key, about.
const OVERHEAD_BYTES: usize = 96;

pub(crate) fn encoding<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    match data.transaction.get(data.database, data.args.at(2))? {
        None => data.reply.null(),
        Some(entry) => {
            // Strings are kept as they are; the answer is what Redis would have chosen for this one.
            let name = if number::parse_i64(&entry.value).is_some() {
                "int"
            } else if entry.value.len() <= EMBEDDED_BYTES_MAX {
                "embstr"
            } else {
                "raw"
            };
            data.reply.bulk(name.as_bytes());
        }
    }
    Ok(())
}

pub(crate) fn freq<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    if data
        .transaction
        .get(data.database, data.args.at(2))?
        .is_none()
    {
        data.reply.null();
        return Ok(());
    }
    Err(Failure::of(
        "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note \
         that when switching between policies at runtime LRU and LFU data will take some time to adjust.",
    ))
}

/// Idle times are not kept, because nothing is ever evicted: always 0.
pub(crate) fn idle_time<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    constant(data, 0)
}

pub(crate) fn ref_count<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    constant(data, 1)
}

fn constant<D: BlockDevice>(data: &mut Data<'_, '_, D>, answer: i64) -> Outcome {
    match data.transaction.get(data.database, data.args.at(2))? {
        Some(_) => data.reply.integer(answer),
        None => data.reply.null(),
    }
    Ok(())
}

/// `MEMORY USAGE key [SAMPLES count]`.
pub(crate) fn memory_usage<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    match (data.args.get(3), data.args.get(4), data.args.len()) {
        (None, ..) => {}
        (Some(word), Some(count), 5) if is(word, "samples") => {
            if integer(count)? < 0 {
                return Err(failure::SYNTAX);
            }
        }
        _ => return Err(failure::SYNTAX),
    }
    let key = data.args.at(2);
    match data.transaction.get(data.database, key)? {
        Some(entry) => data
            .reply
            .count(key.len() + entry.value.len() + OVERHEAD_BYTES),
        None => data.reply.null(),
    }
    Ok(())
}

pub(crate) fn object_help(control: &mut Control<'_>) -> Outcome {
    super::introspect::help(
        control,
        "OBJECT",
        &[
            ("ENCODING <key>", "How Redis would keep the value of <key>."),
            ("FREQ <key>", "Not tracked: an error."),
            ("IDLETIME <key>", "Not tracked: 0."),
            ("REFCOUNT <key>", "Always 1."),
        ],
    )
}

pub(crate) fn memory_help(control: &mut Control<'_>) -> Outcome {
    super::introspect::help(
        control,
        "MEMORY",
        &[(
            "USAGE <key> [SAMPLES <count>]",
            "Bytes of memory for <key> and its value.",
        )],
    )
}
