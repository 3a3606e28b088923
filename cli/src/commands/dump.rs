//! `siltstone dump`.

use lfs::{Content, DumpEvent, DumpOptions, DumpRecord, ItemKey, MountError};
use serde_json::{Map, Value};

use crate::arguments::Dump;
use crate::device::{Access, FileDevice};
use crate::error::{Error, Outcome, describe};
use crate::key::{self, Key};
use crate::output::{Output, hexadecimal};

pub(crate) async fn dump(arguments: Dump) -> Outcome<()> {
    let name = &arguments.image.name;
    if name.snapshot.is_some() {
        let message = format!("{name}: a dump is of the whole image, snapshots included");
        return Err(Error::Usage(message));
    }
    let device = FileDevice::open(&name.path, Access::Read)
        .map_err(|error| Error::new(name, describe(&error)))?;
    let found = lfs::probe(&device).await;
    match found.map_err(|error| Error::new(name, error))? {
        Content::FileSystem => {}
        _ => return Err(Error::new(name, MountError::NotFound)),
    }
    let key = key::given()?;
    let key = key.as_ref().map(Key::unlock);
    let unlocked = lfs::verify_key(&device, key.as_ref()).await;
    if let Err(error @ MountError::Key(_)) = unlocked {
        return Err(Error::new(name, error));
    }
    let options = DumpOptions {
        key,
        segments: !arguments.log,
        older_groups: !arguments.log,
    };
    let mut output = Output::new();
    let mut outcome = Ok(());
    let mut event = |event: DumpEvent<'_>| {
        // Once nobody reads any more, the rest is passed over.
        if outcome.is_ok() {
            outcome = if arguments.json {
                output.json(object(&event))
            } else {
                output.text(format_args!("{event}\n"))
            };
        }
    };
    lfs::dump(&device, options, &mut event).await;
    outcome?;
    output.finish()
}

/// An event as JSON: `kind` says which, the others are its parts.
fn object(event: &DumpEvent<'_>) -> Map<String, Value> {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| {
        object.insert(key.to_owned(), value);
    };
    match event {
        DumpEvent::Superblock {
            block,
            ready,
            segment_blocks,
            segment_count_max,
            first_segment_block,
            log_segments,
            suite,
        } => {
            put("kind", "superblock".into());
            put("block", block.0.into());
            put("ready", (*ready).into());
            put("segment_blocks", (*segment_blocks).into());
            put("segment_count_max", (*segment_count_max).into());
            put("first_segment_block", (*first_segment_block).into());
            put("log_segments", (*log_segments).into());
            put("cipher", suite.map(|suite| suite.to_string()).into());
        }
        DumpEvent::Checkpoint { .. } => put_checkpoint(&mut put, event),
        DumpEvent::Segment {
            segment,
            block,
            kind,
            live_bytes,
            generation,
            written_at,
        } => {
            put("kind", "segment".into());
            put("segment", (*segment).into());
            put("block", block.0.into());
            put("content", (*kind).into());
            put("live_bytes", (*live_bytes).into());
            put("generation", (*generation).into());
            put("written_at", (*written_at).into());
        }
        DumpEvent::Group {
            block,
            survivors,
            replayed,
            sequence,
            first_commit,
            commits_ending,
            checkpoint,
            blocks,
            data_bytes,
            records_bytes,
            checksum,
            previous_checksum,
            ..
        } => {
            put("kind", "group".into());
            put("block", block.0.into());
            put("survivors", (*survivors).into());
            put("replayed", (*replayed).into());
            put("sequence", (*sequence).into());
            put("first_commit", (*first_commit).into());
            put("commits_ending", (*commits_ending).into());
            put("checkpoint", (*checkpoint).into());
            put("blocks", (*blocks).into());
            put("data_bytes", (*data_bytes).into());
            put("records_bytes", (*records_bytes).into());
            put("checksum", format!("{checksum:08x}").into());
            put(
                "previous_checksum",
                format!("{previous_checksum:08x}").into(),
            );
        }
        DumpEvent::Commit {
            number,
            records_bytes,
            data_bytes,
        } => {
            put("kind", "commit".into());
            put("commit", (*number).into());
            put("records_bytes", (*records_bytes).into());
            put("data_bytes", (*data_bytes).into());
        }
        DumpEvent::Record(record) => put_record(&mut put, record),
        DumpEvent::Note { block, text } => {
            put("kind", "note".into());
            put("block", block.0.into());
            put("note", (*text).into());
        }
        // What later versions tell, at least as text.
        other => {
            put("kind", "other".into());
            put("text", other.to_string().into());
        }
    }
    object
}

fn put_checkpoint(put: &mut impl FnMut(&str, Value), event: &DumpEvent<'_>) {
    let DumpEvent::Checkpoint {
        block,
        sequence,
        segment_count,
        in_force,
        tree_commit,
        horizon,
        durable_group,
        start_group,
        log_segments,
        objects,
        manifest_bytes,
        ..
    } = event
    else {
        return;
    };
    put("kind", "checkpoint".into());
    put("block", block.0.into());
    put("sequence", (*sequence).into());
    put("segment_count", (*segment_count).into());
    put("in_force", (*in_force).into());
    put("tree_commit", tree_commit.0.into());
    put("horizon", horizon.0.into());
    put("durable_group", (*durable_group).into());
    put("start_group", (*start_group).into());
    put("log_segments", log_segments.clone().into());
    put("objects", objects.len().into());
    put("manifest_bytes", (*manifest_bytes).into());
}

fn put_record(put: &mut impl FnMut(&str, Value), record: &DumpRecord<'_>) {
    put("kind", "record".into());
    match record {
        DumpRecord::Put { key, value, commit } => {
            put("record", "put".into());
            put_key(put, key);
            put("value_hex", hexadecimal(value).into());
            put("commit", (*commit).into());
        }
        DumpRecord::Remove { key } => {
            put("record", "remove".into());
            put_key(put, key);
        }
        DumpRecord::Extent {
            moved,
            object,
            offset,
            len,
            encoding,
            stored_len,
            address,
            birth,
        } => {
            put("record", "extent".into());
            put("moved", (*moved).into());
            put("object", (*object).into());
            put("offset", (*offset).into());
            put("len", (*len).into());
            put("encoding", (*encoding).into());
            put("stored_len", (*stored_len).into());
            put("address", (*address).into());
            put("birth", (*birth).into());
        }
        DumpRecord::Free { object, from, to } => {
            put("record", "free".into());
            put("object", (*object).into());
            put("from", (*from).into());
            put("to", (*to).into());
        }
        DumpRecord::Layer(bytes) => {
            put("record", "layer".into());
            put("bytes", bytes.len().into());
        }
        other => {
            put("record", "other".into());
            put("text", format!("{other:?}").into());
        }
    }
}

fn put_key(put: &mut impl FnMut(&str, Value), key: &ItemKey) {
    put("object", key.object.into());
    put("item", format!("{:?}", key.kind).to_lowercase().into());
    put("position", key.position.into());
}
