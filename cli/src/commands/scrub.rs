//! `siltstone scrub`.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lfs::{Finding, ScrubOptions, ScrubStatus};
use serde_json::{Map, Value};

use super::fsck::object_of;
use crate::arguments::Scrub;
use crate::clock::HostClock;
use crate::error::{Error, Outcome};
use crate::image::{Image, reading, writing};
use crate::output::{Output, human};

/// How often the bar is drawn.
const TICK: Duration = Duration::from_millis(200);

pub(crate) async fn scrub(arguments: Scrub) -> Outcome<()> {
    let name = &arguments.image.name;
    if name.snapshot.is_some() {
        let message = format!("{name}: a scrub is of the whole image, snapshots included");
        return Err(Error::Usage(message));
    }
    let status = if arguments.read_only {
        reading(name, async |image, _| run(image, &arguments).await).await?
    } else {
        writing(name, async |image| run(image, &arguments).await).await?
    };
    if status.unrepairable > 0 {
        return Err(Error::Reported);
    }
    Ok(())
}

async fn run(image: &Image, arguments: &Scrub) -> Outcome<ScrubStatus> {
    let volume = image.volume();
    // Draws nothing when the standard error is not a terminal.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = "{wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    let clock = HostClock::new();
    let options = ScrubOptions {
        bytes_per_second: arguments.rate,
        read_only: arguments.read_only,
    };
    let mut output = Output::new();
    let mut printed = Ok(());
    let mut report = |finding: &Finding| {
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
        put("repaired", status.repaired);
        put("unrepairable", status.unrepairable);
        output.json(object)?;
    } else {
        output.text(format_args!(
            "{}: {} verified, {} repaired, {} cannot be repaired\n",
            arguments.image.name,
            human(status.done_bytes),
            status.repaired,
            status.unrepairable,
        ))?;
    }
    output.finish()?;
    Ok(status)
}
