//! `siltstone mkdir`, `rm` and `mv`: changes of names.

use lfs::{FileError, FileKind, InodeNumber, NewInode, RenameFlags, Transaction};

use crate::arguments::{Mkdir, Mv, Rm};
use crate::error::{About as _, Error, Outcome, complain};
use crate::image::{Image, writing};
use crate::location::ImagePath;

/// Names that one transaction removes.
const BATCH: usize = 256;

pub(crate) async fn mkdir(arguments: Mkdir) -> Outcome<()> {
    let owner = Owner::current();
    writing(&arguments.image.name, async |image| {
        let mut at_fault = None;
        let made = image.transact(|tx| {
            for path in &arguments.paths {
                at_fault = Some(path);
                if arguments.parents {
                    make_with_parents(tx, path, arguments.mode, owner)?;
                } else {
                    make(tx, path, arguments.mode, owner)?;
                }
            }
            Ok(())
        });
        let made = made.await;
        match at_fault {
            Some(path) => made.about(path),
            None => made.about("nothing to make"),
        }
    })
    .await
}

/// Who runs the command; what it makes is theirs.
#[derive(Debug, Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    fn current() -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    fn directory(self, mode: u32) -> NewInode {
        NewInode {
            uid: self.uid,
            gid: self.gid,
            ..NewInode::new(FileKind::Directory, u16::try_from(mode).unwrap_or(0o755))
        }
    }
}

fn make(
    tx: &mut Transaction<'_>,
    path: &ImagePath,
    mode: u32,
    owner: Owner,
) -> Result<(), FileError> {
    let (parent, name) = tx.files().resolve_parent(path.bytes())?;
    tx.files().create(parent, name, &owner.directory(mode))?;
    Ok(())
}

/// Makes what is missing of a path. Those above the last get the mode that `mkdir -p` gives them.
fn make_with_parents(
    tx: &mut Transaction<'_>,
    path: &ImagePath,
    mode: u32,
    owner: Owner,
) -> Result<(), FileError> {
    let bytes = path.bytes();
    // Every place where a component ends.
    let ends = (1..=bytes.len()).filter(|&end| {
        bytes.get(end - 1) != Some(&b'/') && bytes.get(end).is_none_or(|&byte| byte == b'/')
    });
    let ends: Vec<usize> = ends.collect();
    for &end in &ends {
        let part = bytes.get(..end).unwrap_or(bytes);
        match tx.files().resolve(part, true) {
            Ok(found) => {
                if tx.files().stat(found)?.kind != FileKind::Directory {
                    return Err(FileError::Exists);
                }
            }
            Err(FileError::NotFound) => {
                let mode = if Some(&end) == ends.last() {
                    mode
                } else {
                    0o755
                };
                let (parent, name) = tx.files().resolve_parent(part)?;
                tx.files().create(parent, name, &owner.directory(mode))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(crate) async fn rm(arguments: Rm) -> Outcome<()> {
    writing(&arguments.image.name, async |image| {
        let mut failed = false;
        for path in &arguments.paths {
            let removed = remove(image, path, arguments.recursive).await;
            match removed {
                Err(FileError::NotFound) if arguments.force => {}
                Ok(()) => {}
                Err(FileError::IsADirectory) if !arguments.recursive => {
                    complain(format_args!("{path}: is a directory; -r removes it"));
                    failed = true;
                }
                Err(error) => {
                    complain(format_args!("{path}: {error}"));
                    failed = true;
                }
            }
        }
        if failed { Err(Error::Reported) } else { Ok(()) }
    })
    .await
}

async fn remove(image: &Image, path: &ImagePath, recursive: bool) -> Result<(), FileError> {
    if path.bytes().iter().all(|&byte| byte == b'/') {
        // The root has no name to take away.
        return Err(FileError::NotPermitted);
    }
    if !recursive {
        return image
            .transact(|tx| {
                let (parent, name) = tx.files().resolve_parent(path.bytes())?;
                tx.files().unlink(parent, name)
            })
            .await;
    }
    while !image
        .transact(|tx| {
            let (parent, name) = tx.files().resolve_parent(path.bytes())?;
            tx.files().remove_some(parent, name, BATCH)
        })
        .await?
    {}
    Ok(())
}

pub(crate) async fn mv(arguments: Mv) -> Outcome<()> {
    let flags = RenameFlags {
        no_replace: arguments.no_clobber,
        exchange: false,
    };
    writing(&arguments.image.name, async |image| {
        let moved = image.transact(|tx| {
            let from = arguments.from.bytes();
            let (from_parent, from_name) = tx.files().resolve_parent(from)?;
            let moved = tx.files().lookup(from_parent, from_name)?;
            let into = if arguments.no_target_directory {
                None
            } else {
                directory_at(tx, &arguments.to)?
            };
            let (to_parent, to_name) = match into {
                // A directory moved to itself is a mistake, not a move into itself.
                Some(directory) if directory != moved => (directory, from_name),
                _ => {
                    let to = tx.files().resolve_parent(arguments.to.bytes())?;
                    if arguments.to.is_written_as_directory()
                        && tx.files().stat(moved)?.kind != FileKind::Directory
                    {
                        return Err(FileError::NotADirectory);
                    }
                    to
                }
            };
            tx.files()
                .rename(from_parent, from_name, to_parent, to_name, flags)
        });
        moved
            .await
            .about(&format_args!("{} to {}", arguments.from, arguments.to))
    })
    .await
}

/// The directory a path leads to, if it leads to one.
fn directory_at(
    tx: &mut Transaction<'_>,
    path: &ImagePath,
) -> Result<Option<InodeNumber>, FileError> {
    let found = match tx.files().resolve(path.bytes(), true) {
        Ok(found) => found,
        Err(FileError::NotFound | FileError::NotADirectory) => return Ok(None),
        Err(error) => return Err(error),
    };
    let kind = tx.files().stat(found)?.kind;
    Ok((kind == FileKind::Directory).then_some(found))
}
