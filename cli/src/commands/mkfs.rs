//! `siltstone mkfs`.

use std::io;

use lfs::host::{Access, FileDevice, interrupted, now_ns, random};
use lfs::{Compression, Content, FileSystemId, FormatOptions};

use crate::arguments::Mkfs;
use crate::commands::compression;
use crate::error::{About as _, Error, Outcome};
use crate::image::{Disks, Image, writing_to};
use crate::key::{self, Key};
use crate::output::human;

/// Of an image file that does not exist and for which no size is given.
const SIZE_BYTES_DEFAULT: u64 = 256 << 20;

pub(crate) async fn mkfs(arguments: Mkfs) -> Outcome<()> {
    let shown = arguments.image.display();
    let key = match (arguments.encrypt, key::given_new()?) {
        (false, None) => None,
        (true, Some(key)) => Some(key),
        (true, None) => {
            let message = "--encrypt takes the key from --key-file FILE or a passphrase";
            return Err(Error::Usage(message.to_owned()));
        }
        (false, Some(_)) => {
            let message = "keys and passphrases are for --encrypt: without that the image has none";
            return Err(Error::Usage(message.to_owned()));
        }
    };
    let size_bytes = arguments.size.unwrap_or(SIZE_BYTES_DEFAULT);
    if size_bytes < lfs::DEVICE_BYTES_MIN {
        let least = human(lfs::DEVICE_BYTES_MIN);
        return Err(Error::new(
            shown,
            format_args!("an image takes at least {least}"),
        ));
    }
    let (device, created) = match FileDevice::create(&arguments.image, size_bytes) {
        Ok(device) => (device, true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let device = FileDevice::open(&arguments.image, Access::Write).about(&shown)?;
            (prepare(device, &arguments).await?, false)
        }
        Err(error) => return Err(error).about(&shown),
    };
    let outcome = tokio::select! {
        outcome = make(&device, &arguments, key.as_ref()) => outcome,
        () = interrupted() => Err(Error::Interrupted),
    };
    if outcome.is_err() && created {
        // Nothing of value is in it.
        let _ = device.remove(&arguments.image);
    }
    outcome
}

/// Makes sure that an image that exists may be overwritten, and gives it its size.
async fn prepare(device: FileDevice, arguments: &Mkfs) -> Outcome<FileDevice> {
    let shown = arguments.image.display();
    // An empty file is what `touch` or a program that asks for a place leaves.
    let empty = device.is_empty().about(&shown)?;
    if !arguments.force {
        let holds = match device.content().await.about(&shown)? {
            Content::Blank => None,
            Content::FileSystem => Some("holds a Siltstone file system"),
            Content::Unknown => Some("holds something that is not Siltstone's"),
        };
        if let Some(holds) = holds {
            return Err(Error::Failed(format!(
                "{shown} {holds}; --force overwrites it"
            )));
        }
    }
    let size_bytes = arguments.size.or(empty.then_some(SIZE_BYTES_DEFAULT));
    if let Some(size_bytes) = size_bytes
        && size_bytes != device.size_bytes()
    {
        device.resize(size_bytes).about(&shown)?;
    }
    Ok(device)
}

/// Makes a file system, with its settings.
async fn make(device: &FileDevice, arguments: &Mkfs, key: Option<&Key>) -> Outcome<()> {
    format(device, arguments, key).await?;
    if arguments.compress == Compression::default() {
        return Ok(());
    }
    let shown = arguments.image.display();
    let disks = Disks::of(device.clone(), &arguments.image);
    writing_to(Image::on(disks).await?, async |image| {
        compression::set(image, &shown, arguments.compress).await
    })
    .await
}

async fn format(device: &FileDevice, arguments: &Mkfs, key: Option<&Key>) -> Outcome<()> {
    let shown = arguments.image.display();
    let mut options = FormatOptions::for_device_bytes(device.size_bytes());
    options.created_ns = now_ns();
    if let Some(segment_bytes) = arguments.segment_size {
        let segment_bytes = u32::try_from(segment_bytes)
            .map_err(|_| Error::Usage("--segment-size is too large".to_owned()))?;
        options = options.with_segment_bytes(segment_bytes);
    }
    if let Some(bytes) = arguments.replay_window {
        options = options.with_replay_window_bytes(bytes);
    }
    let id = FileSystemId(random().about("no random bytes from the kernel")?);
    let made = match key {
        None => lfs::format(device, options, id).await,
        Some(key) => {
            let key = key.encryption(arguments.cipher.into());
            lfs::format_encrypted(device, options, id, &key).await
        }
    };
    made.map_err(|error| Error::new(shown, error))
}
