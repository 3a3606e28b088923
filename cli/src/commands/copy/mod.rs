//! `siltstone cp`: into an image, out of one, within one, from one to another.
//!
//! A copy goes from a [`Source`] to a [`Target`]; each is the host or an image. What is between them
//! knows neither: it walks the source, keeps hard links together, and streams the data of files piece by piece, passing
//! over holes.
//!
//! Invariants: a name in the target never shows half a file; nothing is recursive in memory but a list of what is to be
//! done; a failure on one file is said and the others go on.

mod host;
mod image;
mod node;
mod walk;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use lfs::host::{Access, interrupted};
use lfs::{FileError, FileKind};

use self::host::{HostSource, HostTarget};
use self::image::{TreeSource, TreeTarget};
use self::node::{Source, Target};
use self::walk::{Progress, Walk};
use crate::arguments::Cp;
use crate::error::{About as _, Error, Outcome, complain};
use crate::image::{Image, writing};
use crate::location::{ImageName, ImagePath, Location, same_file};

pub(crate) async fn cp(arguments: Cp) -> Outcome<()> {
    let inside = |location: &Location| matches!(location, Location::Image(..));
    if !inside(&arguments.destination) && !arguments.sources.iter().any(inside) {
        return Err(Error::Usage(
            "neither side is in an image; write IMAGE:/path for one that is".to_owned(),
        ));
    }
    match &arguments.destination {
        Location::Host(path) => tokio::select! {
            outcome = to_host(&arguments, path) => outcome,
            // What is half done under a temporary name goes away with the copy.
            () = interrupted() => Err(Error::Interrupted),
        },
        Location::Image(name, path) => {
            writing(name, async |image| {
                to_image(&arguments, image, name, path).await
            })
            .await
        }
    }
}

/// Where copies go: into a directory under their own names, or to one name.
enum Place<D> {
    Into(D),
    As(D, Vec<u8>),
}

async fn to_host(arguments: &Cp, path: &Path) -> Outcome<()> {
    let place = if path.is_dir() {
        Place::Into(path.to_owned())
    } else {
        one_source(arguments, &path.display())?;
        let name = path
            .file_name()
            .ok_or_else(|| Error::new(path.display(), "no such directory"))?;
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        Place::As(parent.to_owned(), name.as_bytes().to_vec())
    };
    let named = match &place {
        Place::As(parent, name) => Some(parent.join(OsStr::from_bytes(name))),
        Place::Into(_) => None,
    };
    let images = arguments.sources.iter().filter_map(|source| match source {
        Location::Image(name, _) => Some(name.path.as_path()),
        Location::Host(_) => None,
    });
    let target = HostTarget::new(named, images);
    let mut copy = Copy::new(arguments, &target, place);
    for source in &arguments.sources {
        copy.one(source, None).await?;
    }
    copy.finish()
}

async fn to_image(
    arguments: &Cp,
    image: &Image,
    name: &ImageName,
    path: &ImagePath,
) -> Outcome<()> {
    let tree = image.tree(None)?;
    let found = tree
        .read(|tx| {
            let mut files = tx.files();
            match files.resolve(path.bytes(), true) {
                Ok(inode) if files.stat(inode)?.kind == FileKind::Directory => {
                    Ok(Place::Into(inode))
                }
                Ok(_) | Err(FileError::NotFound) => {
                    let (parent, name) = files.resolve_parent(path.bytes())?;
                    Ok(Place::As(parent, name.to_vec()))
                }
                Err(error) => Err(error),
            }
        })
        .await
        .about(path)?;
    if matches!(found, Place::As(..)) {
        one_source(arguments, path)?;
    }
    let place = match found {
        Place::Into(inode) => Place::Into((inode, path.clone())),
        Place::As(inode, name) => Place::As((inode, path.parent()), name),
    };
    let target = TreeTarget::new(image);
    let mut copy = Copy::new(arguments, &target, place);
    for source in &arguments.sources {
        copy.one(source, Some((image, name))).await?;
    }
    copy.finish()
}

fn one_source(arguments: &Cp, destination: &impl std::fmt::Display) -> Outcome<()> {
    if arguments.sources.len() > 1 {
        return Err(Error::new(destination, "not a directory"));
    }
    Ok(())
}

/// A copy of all sources to one target.
struct Copy<'a, T: Target> {
    arguments: &'a Cp,
    target: &'a T,
    place: Place<T::Directory>,
    progress: Progress,
    failed: bool,
    /// Images that are only read.
    opened: Vec<(PathBuf, Image)>,
}

impl<'a, T: Target> Copy<'a, T> {
    fn new(arguments: &'a Cp, target: &'a T, place: Place<T::Directory>) -> Self {
        Self {
            arguments,
            target,
            place,
            progress: Progress::new(),
            failed: false,
            opened: Vec::new(),
        }
    }

    /// Copies one source; `written` is the image that the target is in.
    async fn one(
        &mut self,
        source: &Location,
        written: Option<(&Image, &ImageName)>,
    ) -> Outcome<()> {
        let outcome = match source {
            Location::Host(path) => {
                let name = host_name(path);
                self.walk(&HostSource, path.clone(), name).await
            }
            Location::Image(name, path) => match written {
                Some((image, of)) if same_file(&of.path, &name.path) => {
                    let tree = image.tree(name.snapshot.as_deref())?;
                    self.copy_tree(&TreeSource::new(tree, 0), path).await
                }
                _ => {
                    let index = self.open(name).await?;
                    let Some((_, image)) = self.opened.get(index) else {
                        return Err(Error::new(name, "not open"));
                    };
                    let tree = image.tree(name.snapshot.as_deref())?;
                    let source = TreeSource::new(tree, index as u64 + 1);
                    self.copy_tree(&source, path).await
                }
            },
        };
        match outcome {
            Err(Error::Failed(message)) => {
                self.progress.suspend(|| complain(message));
                self.failed = true;
                Ok(())
            }
            Err(Error::Reported) => {
                self.failed = true;
                Ok(())
            }
            other => other,
        }
    }

    /// The image, which is opened once however often it is named.
    async fn open(&mut self, name: &ImageName) -> Outcome<usize> {
        let same = |(path, _): &(PathBuf, Image)| same_file(path, &name.path);
        if let Some(index) = self.opened.iter().position(same) {
            return Ok(index);
        }
        let image = Image::open(&name.path, Access::Read).await?;
        self.opened.push((name.path.clone(), image));
        Ok(self.opened.len() - 1)
    }

    async fn copy_tree(&mut self, source: &TreeSource, path: &ImagePath) -> Outcome<()> {
        let node = source.find(path).await?;
        let name = path.file_name().map(<[u8]>::to_vec);
        self.walk(source, node, name).await
    }

    async fn walk<S: Source>(
        &mut self,
        source: &S,
        node: S::Node,
        own_name: Option<Vec<u8>>,
    ) -> Outcome<()> {
        let (directory, name) = match (&self.place, own_name) {
            (Place::As(directory, name), _) => (directory.clone(), Some(name.clone())),
            (Place::Into(directory), name) => (directory.clone(), name),
        };
        let mut walk = Walk::new(source, self.target, &mut self.progress);
        walk.copy(node, directory, name, self.arguments.recursive)
            .await
    }

    fn finish(self) -> Outcome<()> {
        self.progress.finish();
        if self.failed {
            Err(Error::Reported)
        } else {
            Ok(())
        }
    }
}

/// The name a path of the host is copied under; none for one such as `..`, of which only the content is.
fn host_name(path: &Path) -> Option<Vec<u8>> {
    path.file_name().map(|name| name.as_bytes().to_vec())
}
