//! The secret of encrypted images: what `--key-file`, `--passphrase-file` or `--passphrase` say, for the one command that
//! runs.
//!
//! A file is read when an image is opened, and wiped after that; what was typed in is kept until the end, so that nobody is
//! asked twice. None of it is part of any message.

use std::path::PathBuf;
use std::sync::OnceLock;

use lfs::host::{entropy, read_secret};
use lfs::{Encryption, KdfCost, Secret, Suite, Unlock};
use zeroize::Zeroizing;

use crate::error::{About as _, Error, Outcome};

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A file of bytes that nobody can guess.
    KeyFile(PathBuf),
    /// A file whose first line is a passphrase.
    PassphraseFile(PathBuf),
    /// A passphrase that is typed in.
    Terminal,
}

/// What the command line says.
static ORIGIN: OnceLock<Option<Origin>> = OnceLock::new();
/// What was typed in.
static TYPED: OnceLock<Zeroizing<Vec<u8>>> = OnceLock::new();

/// A secret.
pub(crate) struct Key {
    content: Zeroizing<Vec<u8>>,
    passphrase: bool,
}

/// Notes what the command line says. Once, at the start.
pub(crate) fn choose(origin: Option<Origin>) {
    // A second time is a mistake of this program's, and the first one counts.
    let _ = ORIGIN.set(origin);
}

/// The secret that the command line says, if it does.
pub(crate) fn given() -> Outcome<Option<Key>> {
    let Some(origin) = ORIGIN.get().and_then(Option::as_ref) else {
        return Ok(None);
    };
    if *origin != Origin::Terminal {
        return Key::read(origin).map(Some);
    }
    let typed = if let Some(typed) = TYPED.get() {
        typed
    } else {
        let typed = ask("Passphrase: ")?;
        TYPED.get_or_init(|| typed)
    };
    Ok(Some(Key {
        content: typed.clone(),
        passphrase: true,
    }))
}

/// As [`given`], of an image that is about to be made: what is typed in is asked for twice.
pub(crate) fn given_new() -> Outcome<Option<Key>> {
    if let Some(Some(Origin::Terminal)) = ORIGIN.get()
        && TYPED.get().is_none()
    {
        let typed = ask_twice("Passphrase: ")?;
        let _ = TYPED.set(typed);
    }
    given()
}

impl Key {
    /// Reads a secret that is not known yet; what is typed in is asked for twice.
    pub(crate) fn new(origin: &Origin) -> Outcome<Self> {
        if *origin == Origin::Terminal {
            return Ok(Self {
                content: ask_twice("New passphrase: ")?,
                passphrase: true,
            });
        }
        Self::read(origin)
    }

    fn read(origin: &Origin) -> Outcome<Self> {
        match origin {
            Origin::KeyFile(path) => Ok(Self {
                content: read_secret(path).about(&format_args!("key file {}", path.display()))?,
                passphrase: false,
            }),
            Origin::PassphraseFile(path) => {
                let what = format!("passphrase file {}", path.display());
                let mut content = read_secret(path).about(&what)?;
                if let Some(end) = content.iter().position(|&byte| byte == b'\n') {
                    content.truncate(end);
                }
                passphrase(content, &what)
            }
            Origin::Terminal => passphrase(ask("Passphrase: ")?, "passphrase"),
        }
    }

    /// What slots are made of.
    pub(crate) fn secret(&self) -> Secret<'_> {
        if self.passphrase {
            Secret::Passphrase(&self.content)
        } else {
            Secret::KeyFile(&self.content)
        }
    }

    /// To open an image with.
    pub(crate) fn unlock(&self) -> Unlock<'_> {
        Unlock {
            secret: self.secret(),
            ..Unlock::with_key_file(&[], &entropy)
        }
    }

    /// To make an image with.
    pub(crate) fn encryption(&self, suite: Suite) -> Encryption<'_> {
        Encryption {
            suite,
            secret: self.secret(),
            cost: KdfCost::DEFAULT,
            entropy: &entropy,
        }
    }
}

fn passphrase(content: Zeroizing<Vec<u8>>, what: &str) -> Outcome<Key> {
    if content.is_empty() {
        return Err(Error::new(what, "is empty"));
    }
    Ok(Key {
        content,
        passphrase: true,
    })
}

/// Asks on the terminal, without showing what is typed.
fn ask(prompt: &str) -> Outcome<Zeroizing<Vec<u8>>> {
    let typed = rpassword::prompt_password(prompt).about(&"passphrase")?;
    let typed = Zeroizing::new(typed.into_bytes());
    if typed.is_empty() {
        return Err(Error::new("passphrase", "is empty"));
    }
    Ok(typed)
}

fn ask_twice(prompt: &str) -> Outcome<Zeroizing<Vec<u8>>> {
    let typed = ask(prompt)?;
    if *typed != *ask("Again: ")? {
        return Err(Error::new("passphrase", "the two are not the same"));
    }
    Ok(typed)
}
