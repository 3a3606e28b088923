//! `siltstone info`.

use serde_json::{Map, Value};

use crate::arguments::Info;
use crate::error::Outcome;
use crate::image::reading;
use crate::output::{Output, human, put_text};

pub(crate) async fn info(arguments: Info) -> Outcome<()> {
    reading(&arguments.image.name, async |image, _| {
        let volume = image.volume();
        let (usage, span) = (volume.usage(), volume.span());
        let used = usage.live_bytes.min(usage.capacity_bytes);
        let free = usage.capacity_bytes - used;
        let snapshots = volume.snapshots().len();
        let numbers = [
            ("size_bytes", span.device_bytes),
            ("spanned_bytes", span.bytes),
            ("growth_bytes_max", span.bytes_max),
            ("capacity_bytes", usage.capacity_bytes),
            ("used_bytes", used),
            ("free_bytes", free),
            ("segment_bytes", usage.segment_bytes),
            ("log_bytes_max", usage.log_bytes_max),
            ("last_commit", volume.appended().0),
            ("replayed_commits", volume.counters().replayed_commits),
            ("snapshots", u64::try_from(snapshots).unwrap_or(u64::MAX)),
        ];
        let mut output = Output::new();
        let path = arguments.image.name.path.as_os_str();
        let path = std::os::unix::ffi::OsStrExt::as_bytes(path);
        if arguments.json {
            let mut object = Map::new();
            put_text(&mut object, "image", path);
            for (name, number) in numbers {
                object.insert(name.to_owned(), Value::from(number));
            }
            let cipher = volume.suite().map(|suite| suite.to_string());
            object.insert("cipher".to_owned(), cipher.into());
            let compression = volume.compression().name();
            object.insert("compression".to_owned(), compression.into());
            output.json(object)?;
            return output.finish();
        }
        output.text(format_args!("image:            "))?;
        output.name(path)?;
        output.text(format_args!("\n"))?;
        for (name, number) in numbers {
            let (name, text) = match name.strip_suffix("_bytes") {
                Some(name) => (name, format!("{} ({number} bytes)", human(number))),
                None => match name.strip_suffix("_bytes_max") {
                    Some(name) => (name, format!("up to {}", human(number))),
                    None => (name, number.to_string()),
                },
            };
            let name = format!("{}:", name.replace('_', " "));
            output.text(format_args!("{name:18}{text}\n"))?;
        }
        let cipher = volume.suite().map(|suite| suite.to_string());
        let cipher = cipher.as_deref().unwrap_or("none, not encrypted");
        output.text(format_args!("{:18}{cipher}\n", "cipher:"))?;
        let compression = volume.compression();
        output.text(format_args!("{:18}{compression}\n", "compression:"))?;
        output.finish()
    })
    .await
}
