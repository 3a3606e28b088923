//! `siltstone ls`.
//!
//! A listing that is not complete must not look as if it were: whatever cannot be read is said on the standard error
//! where it happens, the rest is listed, and the command fails.

use lfs::{FileKind, InodeNumber, Stat};
use serde_json::Map;

use super::stat::{device_numbers, kind_letter, mode_text, object_of};
use crate::arguments::Ls;
use crate::clock::iso8601;
use crate::error::{About as _, Error, Outcome, complain};
use crate::image::{Tree, Walked, reading};
use crate::location::ImagePath;
use crate::output::{Output, put_text};

/// Entries of a directory that one look into the tree takes.
const BATCH: usize = 1024;

pub(crate) async fn ls(arguments: Ls) -> Outcome<()> {
    reading(&arguments.image.name, async |_, tree| {
        let mut listing = Listing {
            tree,
            arguments: &arguments,
            output: Output::new(),
            failed: false,
        };
        listing.run().await?;
        listing.output.finish()?;
        if listing.failed {
            Err(Error::Reported)
        } else {
            Ok(())
        }
    })
    .await
}

struct Listing<'a> {
    tree: &'a Tree,
    arguments: &'a Ls,
    output: Output,
    failed: bool,
}

impl Listing<'_> {
    async fn run(&mut self) -> Outcome<()> {
        let path = &self.arguments.path;
        let inode = self
            .tree
            .read(|tx| tx.files().resolve(path.bytes(), false))
            .await
            .about(path)?;
        let stat = self.tree.read(|tx| tx.files().stat(inode)).await;
        let stat = stat.about(path)?;
        if stat.kind != FileKind::Directory {
            return self.line(path, path.bytes(), inode, stat.kind).await;
        }
        // Not recursion: directories can be nested deeper than a stack.
        let mut directories = vec![(path.clone(), inode)];
        let mut walked = Walked::default();
        while let Some((path, inode)) = directories.pop() {
            let entries = match walked.enter(inode, &path) {
                Ok(()) => self.entries(inode).await.about(&path),
                Err(error) => Err(error),
            };
            let entries = match entries {
                Ok(entries) => entries,
                Err(error) => {
                    self.complain(&error);
                    continue;
                }
            };
            let mut below = Vec::new();
            for (name, inode, kind) in entries {
                let path = path.join(&name);
                let shown = if self.arguments.recursive {
                    path.bytes()
                } else {
                    &name
                };
                self.line(&path, shown, inode, kind).await?;
                if self.arguments.recursive && kind == FileKind::Directory {
                    below.push((path, inode));
                }
            }
            directories.extend(below.into_iter().rev());
        }
        Ok(())
    }

    /// All entries of a directory, sorted by name.
    async fn entries(
        &self,
        directory: InodeNumber,
    ) -> Result<Vec<(Vec<u8>, InodeNumber, FileKind)>, lfs::FileError> {
        let mut entries = Vec::new();
        let mut after = Some(0);
        while let Some(cookie) = after {
            let batch = self
                .tree
                .read(|tx| tx.files().read_dir(directory, cookie, BATCH))
                .await?;
            after = batch.next;
            entries.extend(
                batch
                    .entries
                    .into_iter()
                    .map(|entry| (entry.name, entry.inode, entry.kind)),
            );
        }
        entries.sort_unstable();
        Ok(entries)
    }

    async fn line(
        &mut self,
        path: &ImagePath,
        shown: &[u8],
        inode: InodeNumber,
        kind: FileKind,
    ) -> Outcome<()> {
        if !self.arguments.long && !self.arguments.json {
            self.output.name(shown)?;
            return self.output.text(format_args!("\n"));
        }
        let looked = self
            .tree
            .read(|tx| {
                let stat = tx.files().stat(inode)?;
                let target = match stat.kind {
                    FileKind::Symlink => Some(tx.files().read_link(inode)?),
                    _ => None,
                };
                Ok((stat, target))
            })
            .await
            .about(path);
        let (stat, target) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                // The name is there, whatever it stands for.
                self.complain(&error);
                if self.arguments.json {
                    let mut object = Map::new();
                    put_text(&mut object, "path", path.bytes());
                    object.insert("error".to_owned(), error.message().into());
                    return self.output.json(object);
                }
                let letter = kind_letter(kind);
                self.output.text(format_args!(
                    "{letter}?????????    ? ?     ?     ? {:30} ",
                    "?"
                ))?;
                self.output.name(shown)?;
                return self.output.text(format_args!("\n"));
            }
        };
        if self.arguments.json {
            return self.output.json(object_of(path, &stat, target.as_deref()));
        }
        self.long(shown, &stat, target.as_deref())
    }

    fn long(&mut self, shown: &[u8], stat: &Stat, target: Option<&[u8]>) -> Outcome<()> {
        let size = match stat.kind {
            FileKind::CharDevice | FileKind::BlockDevice => {
                let (major, minor) = device_numbers(stat.device);
                format!("{major}, {minor}")
            }
            _ => stat.size.to_string(),
        };
        self.output.text(format_args!(
            "{} {:4} {:5} {:5} {size:>12} {} ",
            mode_text(stat),
            stat.links,
            stat.uid,
            stat.gid,
            iso8601(stat.mtime_ns),
        ))?;
        self.output.name(shown)?;
        if let Some(target) = target {
            self.output.text(format_args!(" -> "))?;
            self.output.name(target)?;
        }
        self.output.text(format_args!("\n"))
    }

    fn complain(&mut self, error: &Error) {
        self.failed = true;
        complain(error.message().unwrap_or_default());
    }
}
