//! `siltstone compression`, and what `mkfs --compress` does last.

use lfs::Compression;

use crate::arguments::SetCompression;
use crate::error::{Error, Outcome};
use crate::image::{reading, writing};
use crate::location::ImageName;
use crate::output::Output;

pub(crate) async fn compression(arguments: SetCompression) -> Outcome<()> {
    let name = &arguments.image.name;
    let Some(setting) = arguments.setting else {
        return reading(name, async |image, _| {
            let mut output = Output::new();
            output.text(format_args!("{}\n", image.volume().compression()))?;
            output.finish()
        })
        .await;
    };
    set(name, setting).await
}

/// Sets how what is written to an image is compressed; durable on return.
pub(crate) async fn set(name: &ImageName, setting: Compression) -> Outcome<()> {
    writing(name, async |image| {
        let set = image.volume().set_compression(setting).await;
        set.map_err(|error| Error::new(name, error))
    })
    .await
}
