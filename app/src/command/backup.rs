//! BACKUP: keys and files of one commit as a stream, for clients that pull it part by part. The session reads it, as that
//! waits for the disk; nothing of it is kept between two parts but what the store pins.

use alloc::string::String;
use alloc::vec::Vec;

use kvstore::BackupReadError;
use lfs::{BackupToken, SnapshotInfo};

use super::failure::{self, Failure};
use super::{After, Control, Outcome, integer, introspect, is};
use crate::resp::Reply;

/// Bytes of a part when nobody says otherwise.
const PART_BYTES: usize = 256 << 10;
const PART_BYTES_MAX: usize = 1 << 20;

/// Before the first part, and behind the last.
const AT_END: &[u8] = b"0";

/// What the session is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Start {
        name: Option<String>,
        since: Option<String>,
    },
    Read {
        snapshot: String,
        token: BackupToken,
        since: Option<String>,
        bytes: usize,
    },
}

/// `BACKUP START [NAME snapshot] [SINCE snapshot]`
pub(crate) fn start(control: &mut Control<'_>) -> Outcome {
    let (mut name, mut since) = (None, None);
    options(control, 2, |option, value| {
        if is(option, "name") {
            name = Some(text(value)?);
        } else if is(option, "since") {
            since = Some(text(value)?);
        } else {
            return Err(failure::SYNTAX);
        }
        Ok(())
    })?;
    *control.after = After::Backup(Request::Start { name, since });
    Ok(())
}

/// `BACKUP READ snapshot cursor [SINCE snapshot] [COUNT bytes]`
pub(crate) fn read(control: &mut Control<'_>) -> Outcome {
    let (mut since, mut bytes) = (None, PART_BYTES);
    options(control, 4, |option, value| {
        if is(option, "since") {
            since = Some(text(value)?);
        } else if is(option, "count") {
            let count = usize::try_from(integer(value)?).ok();
            let count = count.filter(|count| (1..=PART_BYTES_MAX).contains(count));
            bytes = count.ok_or(Failure::of("ERR COUNT is from 1 to 1048576"))?;
        } else {
            return Err(failure::SYNTAX);
        }
        Ok(())
    })?;
    let token = match control.args.at(3) {
        AT_END => Some(BackupToken::default()),
        cursor => BackupToken::from_text(cursor),
    };
    *control.after = After::Backup(Request::Read {
        snapshot: text(control.args.at(2))?,
        token: token.ok_or(INVALID_CURSOR)?,
        since,
        bytes,
    });
    Ok(())
}

pub(crate) fn help(control: &mut Control<'_>) -> Outcome {
    introspect::help(
        control,
        "BACKUP",
        &[
            (
                "START [NAME <snapshot>] [SINCE <snapshot>]",
                "Keep the state that keys and files have now, to be read.",
            ),
            (
                "READ <snapshot> <cursor> [SINCE <snapshot>] [COUNT <bytes>]",
                "Return the next cursor and a part of the backup; 0 begins and ends.",
            ),
        ],
    )
}

const INVALID_CURSOR: Failure = Failure::of("ERR invalid cursor");

/// The options from argument `first` on, each with its value.
fn options(
    control: &Control<'_>,
    first: usize,
    mut take: impl FnMut(&[u8], &[u8]) -> Outcome,
) -> Outcome {
    let mut at = first;
    while at < control.args.len() {
        let value = control.args.get(at + 1).ok_or(failure::SYNTAX)?;
        take(control.args.at(at), value)?;
        at += 2;
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<String, Failure> {
    let text = core::str::from_utf8(bytes);
    let text = text.map_err(|_| failure::of_file(&lfs::FileError::Invalid))?;
    Ok(String::from(text))
}

/// The reply of `BACKUP START`.
pub(crate) fn reply_started(snapshot: &SnapshotInfo, reply: &mut Reply<'_>) {
    reply.map(2);
    reply.bulk(b"snapshot");
    reply.bulk(snapshot.name.as_bytes());
    reply.bulk(b"commit");
    reply.integer(i64::try_from(snapshot.commit.0).unwrap_or(i64::MAX));
}

/// The reply of `BACKUP READ`.
pub(crate) fn reply_part(frame: &[u8], reply: &mut Reply<'_>) {
    reply.array(2);
    match BackupToken::behind(frame) {
        Some(next) => reply.bulk(next.to_text().as_bytes()),
        None => reply.bulk(AT_END),
    }
    reply.bulk(frame);
}

/// Why a part cannot be read, in a client's words.
pub(crate) fn refusal(error: &BackupReadError) -> Failure {
    match error {
        BackupReadError::NotFound(_) => Failure::of("ENOENT no such snapshot"),
        BackupReadError::NotOlder => {
            Failure::of("ERR the snapshot after SINCE is not older than the other one")
        }
        BackupReadError::Keys(error) => failure::of_load(error),
        BackupReadError::Files(error) => failure::of_file(error),
        BackupReadError::OutOfMemory => failure::of_file(&lfs::FileError::OutOfMemory),
        _ => INVALID_CURSOR,
    }
}

/// Names for a snapshot that was given none.
pub(crate) fn names(now_ms: i64) -> Vec<String> {
    let names = (0..3).map(|more| alloc::format!("backup-{}", now_ms.saturating_add(more)));
    names.collect()
}
