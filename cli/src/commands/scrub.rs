//! `siltstone scrub`.

use std::time::Duration;

use lfs::host::{FileDevice, HostClock};
use lfs::{BlockDevice as _, Finding, Mirror, ScrubOptions, ScrubStatus};
use serde_json::{Map, Value};

use super::fsck::object_of;
use crate::arguments::Scrub;
use crate::error::{Error, Outcome};
use crate::image::{Image, reading, writing, writing_both};
use crate::output::{Output, human};
use crate::progress::byte_bar;

/// How often the bar is drawn.
const TICK: Duration = Duration::from_millis(200);
/// How long a disk that does not have everything is waited for without it getting any more.
const STANDSTILL_MAX: Duration = Duration::from_mins(1);
/// So often that may be waited for when nothing is left to copy.
const RENEWAL_STANDSTILLS_MAX: u32 = 10;

pub(crate) async fn scrub(arguments: Scrub) -> Outcome<()> {
    let name = &arguments.image.name;
    if name.snapshot.is_some() {
        let message = format!("{name}: a scrub is of the whole image, snapshots included");
        return Err(Error::Usage(message));
    }
    let status = if let Some(mirror) = &arguments.mirror {
        writing_both(&name.path, mirror, async |image| {
            let device = image.volume().device();
            // What one of them lacks comes first: only then are there two copies of everything.
            until_whole(device).await?;
            let before = Before {
                mended: device.repaired(),
                unread: device
                    .mirror_status()
                    .map_or(0, |status| status.unread_blocks),
            };
            let status = run(image, &arguments, before).await?;
            if !device.is_whole() {
                return Err(Error::new(mirror.display(), "one of the two disks failed"));
            }
            Ok(status)
        })
        .await?
    } else if arguments.read_only {
        reading(name, async |image, _| {
            run(image, &arguments, Before::default()).await
        })
        .await?
    } else {
        writing(name, async |image| {
            run(image, &arguments, Before::default()).await
        })
        .await?
    };
    if status.unrepairable > 0 {
        return Err(Error::Reported);
    }
    Ok(())
}

/// Waits until both disks have everything, as long as that gets on.
async fn until_whole(device: &Mirror<FileDevice>) -> Outcome<()> {
    let progress = || {
        let status = device.mirror_status();
        status.map_or((0, 0), |status| {
            (status.resynced_bytes, status.behind_bytes)
        })
    };
    let mut standstills = 0;
    while !device.is_whole() {
        let before = progress();
        let waited = tokio::time::timeout(STANDSTILL_MAX, device.whole()).await;
        standstills = if progress() == before {
            standstills + 1
        } else {
            0
        };
        // All is copied, and what could be taken for newer than it is is being written anew: how far that is, is not told.
        let patience = if before.1 == 0 {
            RENEWAL_STANDSTILLS_MAX
        } else {
            1
        };
        if waited.is_err() && standstills >= patience {
            let message = "one of the two disks cannot be brought up to date";
            return Err(Error::Failed(message.to_owned()));
        }
    }
    Ok(())
}

/// What became of two disks on the way to a scrub of both.
#[derive(Debug, Default)]
struct Before {
    /// Places that were repaired.
    mended: u64,
    /// Blocks that one could not give when the other was brought up to date.
    unread: u64,
}

async fn run(image: &Image, arguments: &Scrub, before: Before) -> Outcome<ScrubStatus> {
    let Before { mended, unread } = before;
    let volume = image.volume();
    let bar = byte_bar(None);
    let clock = HostClock::new();
    let options = ScrubOptions {
        bytes_per_second: arguments.rate,
        read_only: arguments.read_only,
    };
    let mut output = Output::new();
    let mut printed = Ok(());
    let mut report = |finding: &Finding, _| {
        if printed.is_ok() {
            printed = bar.suspend(|| {
                if arguments.json {
                    output.json(object_of(finding))
                } else {
                    output.text(format_args!("{finding}\n"))
                }
                .and_then(|()| output.finish())
            });
        }
    };
    let progress = async {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            let status = volume.scrub_status();
            bar.set_length(status.total_bytes);
            bar.set_position(status.done_bytes);
        }
    };
    let status = tokio::select! {
        status = volume.scrub(&clock, options, &mut report) => status,
        () = progress => return Ok(volume.scrub_status()),
    };
    bar.finish_and_clear();
    printed?;
    let status = status.map_err(|error| Error::new(&arguments.image.name, error))?;
    if arguments.json {
        let mut object = Map::new();
        let mut put = |key: &str, value: u64| object.insert(key.to_owned(), Value::from(value));
        put("done_bytes", status.done_bytes);
        put("total_bytes", status.total_bytes);
        put("repaired", status.repaired + mended);
        put("unrepairable", status.unrepairable);
        put("unread_blocks", unread);
        output.json(object)?;
    } else {
        output.text(format_args!(
            "{}: {} verified, {} repaired, {} cannot be repaired\n",
            arguments.image.name,
            human(status.done_bytes),
            status.repaired + mended,
            status.unrepairable,
        ))?;
        if unread > 0 {
            output.text(format_args!(
                "{}: {unread} blocks of one disk could not be read when the other was brought up to date\n",
                arguments.image.name,
            ))?;
        }
    }
    output.finish()?;
    Ok(status)
}
