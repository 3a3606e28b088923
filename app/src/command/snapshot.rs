//! SNAPSHOT: states of all files and keys that are kept. The session makes and deletes them, as that waits for the disk.

use alloc::string::String;

use lfs::{FileError, SnapshotInfo};

use super::failure::{self, Failure};
use super::{After, Control, Outcome, introspect};
use crate::resp::Reply;

/// What the session is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Create(String),
    Delete(String),
    List,
}

/// `SNAPSHOT CREATE name`
pub(crate) fn create(control: &mut Control<'_>) -> Outcome {
    *control.after = After::Snapshot(Request::Create(name(control)?));
    Ok(())
}

/// `SNAPSHOT DELETE name`
pub(crate) fn delete(control: &mut Control<'_>) -> Outcome {
    *control.after = After::Snapshot(Request::Delete(name(control)?));
    Ok(())
}

/// `SNAPSHOT LIST`
pub(crate) fn list(control: &mut Control<'_>) -> Outcome {
    *control.after = After::Snapshot(Request::List);
    Ok(())
}

pub(crate) fn help(control: &mut Control<'_>) -> Outcome {
    introspect::help(
        control,
        "SNAPSHOT",
        &[
            (
                "CREATE <name>",
                "Keep the state that all files and keys have now.",
            ),
            ("DELETE <name>", "Give a kept state up."),
            ("LIST", "The kept states, oldest first."),
        ],
    )
}

fn name(control: &Control<'_>) -> Result<String, Failure> {
    let name = core::str::from_utf8(control.args.at(2));
    let name = name.map_err(|_| failure::of_file(&FileError::Invalid))?;
    Ok(String::from(name))
}

/// The reply of `SNAPSHOT LIST`.
pub(crate) fn reply_list(snapshots: &[SnapshotInfo], reply: &mut Reply<'_>) {
    let integer = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    reply.array(snapshots.len());
    for snapshot in snapshots {
        reply.map(4);
        reply.bulk(b"name");
        reply.bulk(snapshot.name.as_bytes());
        reply.bulk(b"id");
        reply.integer(integer(snapshot.id.0));
        reply.bulk(b"commit");
        reply.integer(integer(snapshot.commit.0));
        reply.bulk(b"created_ms");
        reply.integer(snapshot.created_ns.div_euclid(1_000_000));
    }
}
