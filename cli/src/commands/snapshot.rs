//! `siltstone snapshot create|list|rm`.

use lfs::FileError;
use lfs::host::now_ns;
use serde_json::{Map, Value};

use crate::arguments::{Snapshot, SnapshotCommand, SnapshotList, SnapshotName};
use crate::clock::iso8601;
use crate::error::{Error, Outcome};
use crate::image::{reading, writing};
use crate::output::Output;

pub(crate) async fn snapshot(arguments: Snapshot) -> Outcome<()> {
    match arguments.command {
        SnapshotCommand::Create(arguments) => create(arguments).await,
        SnapshotCommand::List(arguments) => list(arguments).await,
        SnapshotCommand::Rm(arguments) => remove(arguments).await,
    }
}

async fn create(arguments: SnapshotName) -> Outcome<()> {
    writing(&arguments.image.name, async |image| {
        let made = image
            .volume()
            .create_snapshot(&arguments.snapshot, now_ns());
        match made.await {
            Ok(_) => Ok(()),
            Err(error) => Err(failure(&arguments, &error)),
        }
    })
    .await
}

async fn remove(arguments: SnapshotName) -> Outcome<()> {
    writing(&arguments.image.name, async |image| {
        let removed = image.volume().delete_snapshot(&arguments.snapshot).await;
        removed.map_err(|error| failure(&arguments, &error))
    })
    .await
}

fn failure(arguments: &SnapshotName, error: &FileError) -> Error {
    let name = &arguments.snapshot;
    let what = format!("{}@{name}", arguments.image.name);
    match error {
        FileError::Exists => Error::new(what, "there is a snapshot of this name"),
        FileError::NotFound => Error::new(what, "there is no snapshot of this name"),
        FileError::Invalid => Error::new(
            what,
            "a name has 1 to 255 bytes, without '/', '@' and control characters",
        ),
        error => Error::new(what, error),
    }
}

async fn list(arguments: SnapshotList) -> Outcome<()> {
    reading(&arguments.image.name, async |image, _| {
        let mut output = Output::new();
        for snapshot in image.volume().snapshots() {
            if arguments.json {
                let mut object = Map::new();
                let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
                put("name", snapshot.name.into());
                put("commit", snapshot.commit.0.into());
                put("created_ns", snapshot.created_ns.into());
                put("created", iso8601(snapshot.created_ns).into());
                output.json(object)?;
            } else {
                let created = iso8601(snapshot.created_ns);
                output.text(format_args!("{created}  {:>10}  ", snapshot.commit.0))?;
                output.name(snapshot.name.as_bytes())?;
                output.text(format_args!("\n"))?;
            }
        }
        output.finish()
    })
    .await
}
