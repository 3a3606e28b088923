//! `siltstone mkfs`.

use std::io;

use lfs::{BlockDevice as _, Compression, Content, FileSystemId, FormatOptions};

use crate::arguments::Mkfs;
use crate::clock::now_ns;
use crate::commands::compression;
use crate::device::{Access, FileDevice};
use crate::error::{About as _, Error, Outcome};
use crate::key::{self, Key};
use crate::location::ImageName;
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
    let mut outcome = format(&device, &arguments, key.as_ref()).await;
    drop(device);
    if outcome.is_ok() && arguments.compress != Compression::default() {
        let name = ImageName {
            path: arguments.image.clone(),
            snapshot: None,
        };
        outcome = compression::set(&name, arguments.compress).await;
    }
    if outcome.is_err() && created {
        // Nothing of value is in it.
        let _ = std::fs::remove_file(&arguments.image);
    }
    outcome
}

/// Makes sure that an image that exists may be overwritten, and gives it its size.
async fn prepare(mut device: FileDevice, arguments: &Mkfs) -> Outcome<FileDevice> {
    let shown = arguments.image.display();
    // An empty file is what `touch` or a program that asks for a place leaves.
    let empty = device.geometry().block_count == 0;
    if !arguments.force && !empty {
        let found = lfs::probe(&device).await;
        let holds = match found.map_err(|error| Error::new(shown.to_string(), error))? {
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
    let mut id = [0; 16];
    key::entropy(&mut id);
    let id = FileSystemId(id);
    let made = match key {
        None => lfs::format(device, options, id).await,
        Some(key) => {
            let key = key.encryption(arguments.cipher.into());
            lfs::format_encrypted(device, options, id, &key).await
        }
    };
    made.map_err(|error| Error::new(shown, error))
}
