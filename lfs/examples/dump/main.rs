//! A small reader of images and backups, written from `SPEC.md` alone: it shares no code with the library, so that the
//! two can be compared. It opens what a key seals, finds the checkpoint, holds the segment table against the trees,
//! reads both trees, replays the log, and lists files or prints one; of a disk of a mirror it says what its member
//! record says; backups it applies one after the other, and lists what then is there.
//!
//!     cargo run -p lfs --example dump -- [--key-file FILE | --passphrase TEXT] IMAGE[@SNAPSHOT] [PATH]
//!     cargo run -p lfs --example dump -- BACKUP...
//!
//! It keeps everything in memory and gives up at the first thing that is not as it must be. Not here: what a mount
//! does beyond reading (steps 4 to 7 of "Recovery"), and putting two disks together.
//!
//! - `bytes`: numbers, checksums and LZ4, which everything else is made of;
//! - `keys`: from a secret to an opened structure;
//! - `image`: from the superblock to all items of a checkpoint;
//! - `log`: what commits behind it changed;
//! - `files`: what items say of files, and their data;
//! - `member`: member records, and which of two disks counts;
//! - `backup`: streams.
#![allow(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::trivially_copy_pass_by_ref,
    clippy::explicit_counter_loop,
    clippy::missing_errors_doc,
    missing_docs,
    dead_code,
    reason = "an example reads more easily; a test uses it as a module"
)]

mod backup;
mod bytes;
mod files;
mod image;
mod keys;
mod log;
mod member;

#[allow(unused_imports, reason = "for tests that use this as a module")]
pub use self::{
    backup::{Backup, Restored},
    files::State,
    image::Reader,
    keys::Secret,
    member::{Counts, Lacks, Member, counts, lacks},
};

use std::io::Write;

use bytes::Fallible;

const USAGE: &str = "usage: dump [--key-file FILE | --passphrase TEXT] IMAGE[@SNAPSHOT] [PATH]
       dump BACKUP...";

fn main() -> Fallible<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    let option = arguments.next_if(|argument| argument.starts_with("--"));
    let value = match &option {
        Some(_) => arguments.next().ok_or(USAGE)?,
        None => String::new(),
    };
    let key_file;
    let secret = match option.as_deref() {
        None => None,
        Some("--key-file") => {
            key_file = std::fs::read(value)?;
            Some(Secret::KeyFile(&key_file))
        }
        Some("--passphrase") => Some(Secret::Passphrase(value.as_bytes())),
        Some(_) => return Err(USAGE.into()),
    };
    let name = arguments.next().ok_or(USAGE)?;
    let (file, snapshot) = match name.split_once('@') {
        Some((file, snapshot)) => (file, Some(snapshot)),
        None => (name.as_str(), None),
    };
    let content = std::fs::read(file)?;
    let mut out = std::io::stdout().lock();
    if content.starts_with(b"SiBk") {
        return backups(content, arguments, &mut out);
    }

    let member = Member::newest(&content)?;
    let reader = Reader::open(content, secret)?;
    let commit = match snapshot {
        None => None,
        Some(snapshot) => {
            let snapshots = reader.snapshots();
            let mut found = snapshots.iter();
            let found = found.find(|(_, name)| *name == snapshot.as_bytes());
            Some(found.ok_or("no such snapshot")?.0)
        }
    };
    let state = reader.state(commit);
    if let Some(path) = arguments.next() {
        let files = state.files()?;
        let found = files.iter().find(|file| file.path == path.as_bytes());
        out.write_all(&state.content(found.ok_or("no such file")?.inode)?)?;
        return Ok(());
    }
    list(&state, &mut out)?;
    for object in &reader.objects {
        let (number, content) = object;
        writeln!(
            out,
            "object {number} of the layer above: {} bytes",
            content.len()
        )?;
    }
    if let Some(member) = member {
        writeln!(out, "{member}")?;
    }
    let (groups, snapshots) = (reader.groups, reader.snapshots().len());
    let commit = reader.last_commit;
    writeln!(
        out,
        "commit {commit}, {groups} groups replayed, {snapshots} snapshots"
    )?;
    Ok(())
}

/// Applies backups, of which the first was read already, and lists what is there then.
fn backups(
    first: Vec<u8>,
    others: impl Iterator<Item = String>,
    out: &mut impl Write,
) -> Fallible<()> {
    let mut restored = Restored::default();
    let others = others.map(|name| Ok(std::fs::read(name)?));
    for stream in std::iter::once(Ok(first)).chain(others) {
        let stream: Fallible<Vec<u8>> = stream;
        let backup = Backup::read(&stream?)?;
        restored.apply(&backup)?;
        let name = String::from_utf8_lossy(&backup.snapshot);
        let (since, at, records) = (backup.since, backup.at, backup.records.len());
        let (frames, layer) = (backup.frames, backup.layer.len());
        writeln!(
            out,
            "{name}: commits {since} to {at}, {frames} frames, {records} records of files, {layer} bytes of the layer above"
        )?;
    }
    list(&restored.state(), out)
}

fn list(state: &State<'_>, out: &mut impl Write) -> Fallible<()> {
    for file in &state.files()? {
        let kind = [' ', '-', 'd', 'l', 'p', 's', 'c', 'b'];
        let kind = kind.get(usize::from(file.kind)).copied().unwrap_or('?');
        write!(out, "{kind} {:>12} ", file.size)?;
        out.write_all(&file.path)?;
        writeln!(out)?;
    }
    Ok(())
}
