//! The key of encrypted images: what `--key-file` names, for the one command that runs.
//!
//! The content of the file is read when an image is opened, and wiped after that. It is not part of any message.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use lfs::{Encryption, Suite, Unlock};
use zeroize::Zeroizing;

use crate::error::{About as _, Outcome, complain};

/// What the command line names.
static KEY_FILE: OnceLock<Option<PathBuf>> = OnceLock::new();

/// One more than a key file may have, so that longer ones show.
const KEY_FILE_BYTES_READ: u64 = 64 * 1024 + 1;

/// The content of a key file.
pub(crate) struct Key(Zeroizing<Vec<u8>>);

/// Notes what the command line names. Once, at the start.
pub(crate) fn choose(path: Option<PathBuf>) {
    // A second time is a mistake of this program's, and the first one counts.
    let _ = KEY_FILE.set(path);
}

/// The key that the command line names, if it does.
pub(crate) fn given() -> Outcome<Option<Key>> {
    let path = KEY_FILE.get().and_then(Option::as_deref);
    path.map(Key::read).transpose()
}

impl Key {
    /// Reads a key file.
    pub(crate) fn read(path: &Path) -> Outcome<Self> {
        let what = format!("key file {}", path.display());
        let mut content = Zeroizing::new(Vec::new());
        // All at once: growing would leave copies behind.
        content.reserve_exact(usize::try_from(KEY_FILE_BYTES_READ).unwrap_or(usize::MAX));
        let file = File::open(path).about(&what)?;
        file.take(KEY_FILE_BYTES_READ)
            .read_to_end(&mut content)
            .about(&what)?;
        Ok(Self(content))
    }

    /// The content.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// To open an image with.
    pub(crate) fn unlock(&self) -> Unlock<'_> {
        Unlock::with_key_file(&self.0, &entropy)
    }

    /// To make an image with.
    pub(crate) fn encryption(&self, suite: Suite) -> Encryption<'_> {
        Encryption {
            suite,
            ..Encryption::with_key_file(&self.0, &entropy)
        }
    }
}

/// Fills `bytes` from the kernel's generator.
pub(crate) fn entropy(mut bytes: &mut [u8]) {
    while !bytes.is_empty() {
        match rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty()) {
            Ok(len) => bytes = bytes.get_mut(len..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                // Going on would give away what is encrypted.
                complain(format_args!("no random bytes from the kernel: {error}"));
                std::process::exit(1);
            }
        }
    }
}
