//! `siltstone grow`.

use lfs::host::{Access, FileDevice, HostClock};
use lfs::{BlockDevice as _, Span};
use serde_json::{Map, Value};

use crate::arguments::Grow;
use crate::error::{About as _, Error, Outcome};
use crate::image::{Image, reading, writing};
use crate::output::{Output, human, put_text};

pub(crate) async fn grow(arguments: Grow) -> Outcome<()> {
    let name = &arguments.image.name;
    if name.snapshot.is_some() {
        let message = format!("{name}: it is the whole image that grows");
        return Err(Error::Usage(message));
    }
    // Nothing is touched before it is known that it is one, opens with the key, and can grow.
    let before = reading(name, async |image, _| growable(image, &arguments)).await?;
    if let Some(size_bytes) = arguments.size {
        resize(&arguments, size_bytes)?;
    }
    writing(name, async |image| {
        let volume = image.volume();
        volume
            .grow(&HostClock::new())
            .await
            .map_err(|error| Error::new(name, error))?;
        report(&arguments, image, before)
    })
    .await
}

/// How large it is, if it can become larger.
fn growable(image: &Image, arguments: &Grow) -> Outcome<Span> {
    let name = &arguments.image.name;
    let volume = image.volume();
    if volume.device().mirror_status().is_some() {
        let message = "one of the two disks of a mirror; make both larger, and the machine that has both grows by itself";
        return Err(Error::new(name, message));
    }
    let span = volume.span();
    match arguments.size {
        Some(size_bytes) if size_bytes < span.device_bytes => {
            let message = format!(
                "it has {} already, and does not become smaller; restore a backup to a smaller image",
                human(span.device_bytes)
            );
            Err(Error::new(name, message))
        }
        _ => Ok(span),
    }
}

fn resize(arguments: &Grow, size_bytes: u64) -> Outcome<()> {
    let path = &arguments.image.name.path;
    let device = FileDevice::open(path, Access::Write).about(&path.display())?;
    if size_bytes > device.size_bytes() {
        device.resize(size_bytes).about(&path.display())?;
    }
    Ok(())
}

fn report(arguments: &Grow, image: &Image, before: Span) -> Outcome<()> {
    let span = image.volume().span();
    let capacity_bytes = image.volume().usage().capacity_bytes;
    let mut output = Output::new();
    if arguments.json {
        let mut object = Map::new();
        let path = arguments.image.name.path.as_os_str();
        put_text(
            &mut object,
            "image",
            std::os::unix::ffi::OsStrExt::as_bytes(path),
        );
        for (key, number) in [
            ("before_bytes", before.bytes),
            ("spanned_bytes", span.bytes),
            ("growth_bytes_max", span.bytes_max),
            ("size_bytes", span.device_bytes),
            ("capacity_bytes", capacity_bytes),
        ] {
            object.insert(key.to_owned(), Value::from(number));
        }
        output.json(object)?;
        return output.finish();
    }
    let name = &arguments.image.name;
    let now = human(span.bytes);
    if span.bytes > before.bytes {
        let from = human(before.bytes);
        output.text(format_args!("{name}: grown from {from} to {now}\n"))?;
    } else {
        output.text(format_args!("{name}: {now}, no more than before\n"))?;
    }
    if span.device_bytes > span.bytes_max {
        let unused = human(span.device_bytes - span.bytes_max);
        output.text(format_args!(
            "{name}: that is the most it can have; {unused} of the device stay unused\n"
        ))?;
    }
    output.finish()
}
