//! Where backups come from, and the files that they are kept in.
//!
//! [`Source`] is an image of the host, or a server that is asked over the Redis protocol ([`client`]); both give the same
//! frames. [`stream`] reads the frames of a file, and verifies them; what is verified is `lfs`'s business.

mod client;
mod store;
mod stream;

use std::path::Path;

use lfs::BackupToken;

pub(crate) use client::Client;
pub(crate) use store::{OpenStore, store_options};
pub(crate) use stream::StreamReader;

use crate::error::Outcome;

/// Bytes of payload that a frame is to have.
const FRAME_BYTES: usize = 512 << 10;

/// Where a backup is read from.
pub(crate) enum Source {
    Image(OpenStore),
    Server(Client),
}

/// A snapshot, as far as a backup has to know it.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) name: String,
    pub(crate) commit: u64,
}

impl Source {
    /// The snapshots there are.
    pub(crate) async fn snapshots(&mut self) -> Outcome<Vec<Known>> {
        match self {
            Self::Image(store) => Ok(store.snapshots()),
            Self::Server(client) => client.snapshots().await,
        }
    }

    /// Makes a snapshot to back up.
    pub(crate) async fn begin(&mut self, since: Option<&str>) -> Outcome<Known> {
        match self {
            Self::Image(store) => store.begin().await,
            Self::Server(client) => client.begin(since).await,
        }
    }

    /// The frame at `token`.
    pub(crate) async fn frame(
        &mut self,
        snapshot: &str,
        since: Option<&str>,
        token: &BackupToken,
    ) -> Outcome<Vec<u8>> {
        match self {
            Self::Image(store) => store.frame(snapshot, since, token).await,
            Self::Server(client) => client.frame(snapshot, since, token).await,
        }
    }

    /// Removes a snapshot of which no backup came about.
    pub(crate) async fn forget(&mut self, snapshot: &str) -> Outcome<()> {
        match self {
            Self::Image(store) => store.forget(snapshot).await,
            Self::Server(client) => client.forget(snapshot).await,
        }
    }

    /// Ends in order.
    pub(crate) async fn close(self) -> Outcome<()> {
        match self {
            Self::Image(store) => store.close().await,
            Self::Server(_) => Ok(()),
        }
    }
}

/// Opens what `name` says: an image, or HOST:PORT when there is no file of this name.
pub(crate) async fn open(name: &Path) -> Outcome<Source> {
    match address(name) {
        Some(address) => Ok(Source::Server(Client::connect(address).await?)),
        None => Ok(Source::Image(OpenStore::open(name).await?)),
    }
}

/// The address of a server, if it is one.
pub(crate) fn address(name: &Path) -> Option<&str> {
    let text = name.to_str()?;
    let (host, port) = text.rsplit_once(':')?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let is_host = !host.is_empty() && !host.contains('/') && (bracketed || !host.contains(':'));
    (is_host && port.parse::<u16>().is_ok() && !name.exists()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_told_from_images() {
        for server in ["localhost:6379", "10.0.0.1:1", "[::1]:6379"] {
            assert_eq!(address(Path::new(server)), Some(server));
        }
        for image in [
            "disk",
            "disk:",
            "./a:1",
            ":6379",
            "disk:65536",
            "::1:6379",
            "/dev/sdx",
        ] {
            assert_eq!(address(Path::new(image)), None, "{image}");
        }
    }
}
