//! `siltstone compression`, and what `mkfs --compress` does last.

use std::fmt::Display;

use lfs::Compression;

use crate::arguments::SetCompression;
use crate::error::{Error, Outcome};
use crate::image::{Image, reading, writing};
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
    writing(name, async |image| set(image, name, setting).await).await
}

/// Sets how what is written to an image is compressed; durable once it is closed.
pub(crate) async fn set(image: &Image, name: impl Display, setting: Compression) -> Outcome<()> {
    let set = image.volume().set_compression(setting).await;
    set.map_err(|error| Error::new(name, error))
}
