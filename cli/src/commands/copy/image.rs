//! An image as an end of a copy.

use std::cell::RefCell;

use lfs::XattrMode;
use lfs::{
    FileError, FileKind, InodeNumber, NewInode, RenameFlags, SetAttributes, Sought, Transaction,
};

use super::node::{Node, Source, Target, temporary_name};
use crate::error::{About as _, Outcome};
use crate::image::{Image, Tree, Walked};
use crate::location::ImagePath;

/// Entries of a directory that one look into the tree takes.
const BATCH: usize = 1024;

/// A state of an image to copy from.
pub(super) struct TreeSource {
    tree: Tree,
    /// Which of the images of this run; 0 is the one that is written, in its newest state.
    index: u64,
    walked: RefCell<Walked>,
}

impl TreeSource {
    /// `index` tells images apart; the one that is written has 0.
    pub(super) fn new(tree: Tree, index: u64) -> Self {
        let index = match tree.snapshot() {
            // Nothing in a snapshot is anything in the state that is written.
            Some(_) if index == 0 => u64::MAX,
            _ => index,
        };
        Self {
            tree,
            index,
            walked: RefCell::default(),
        }
    }

    /// What a path stands for; a symbolic link at its end is not followed.
    pub(super) async fn find(&self, path: &ImagePath) -> Outcome<(InodeNumber, ImagePath)> {
        let found = self.tree.read(|tx| tx.files().resolve(path.bytes(), false));
        Ok((found.await.about(path)?, path.clone()))
    }
}

impl Source for TreeSource {
    type Node = (InodeNumber, ImagePath);
    type Reader = (InodeNumber, ImagePath);

    async fn look(&self, (inode, path): &Self::Node) -> Outcome<Node> {
        let looked = self.tree.read(|tx| {
            let stat = tx.files().stat(*inode)?;
            let target = match stat.kind {
                FileKind::Symlink => tx.files().read_link(*inode)?,
                _ => Vec::new(),
            };
            let mut attributes = Vec::new();
            for name in tx.files().list_xattrs(*inode)? {
                if name.starts_with(b"user.") {
                    let value = tx.files().get_xattr(*inode, &name)?;
                    attributes.push((name, value));
                }
            }
            Ok(Node {
                kind: stat.kind,
                mode: stat.mode,
                uid: stat.uid,
                gid: stat.gid,
                size: stat.size,
                device: stat.device,
                atime_ns: stat.atime_ns,
                mtime_ns: stat.mtime_ns,
                links: stat.links.into(),
                identity: (self.index, inode.0),
                attributes,
                target,
            })
        });
        looked.await.about(path)
    }

    async fn children(&self, (inode, path): &Self::Node) -> Outcome<Vec<(Vec<u8>, Self::Node)>> {
        self.walked.borrow_mut().enter(*inode, path)?;
        let mut children = Vec::new();
        let mut after = Some(0);
        while let Some(cookie) = after {
            let batch = self
                .tree
                .read(|tx| tx.files().read_dir(*inode, cookie, BATCH))
                .await
                .about(path)?;
            after = batch.next;
            children.extend(batch.entries.into_iter().map(|entry| {
                let node = (entry.inode, path.join(&entry.name));
                (entry.name, node)
            }));
        }
        Ok(children)
    }

    async fn open(&self, node: &Self::Node) -> Outcome<Self::Reader> {
        Ok(node.clone())
    }

    async fn next_data(
        &self,
        (inode, path): &mut Self::Reader,
        offset: u64,
    ) -> Outcome<Option<(u64, u64)>> {
        let (tree, inode) = (&self.tree, *inode);
        let seek = |from, data| tree.read(move |tx| tx.files().seek(inode, from, data));
        let mut from = offset;
        let start = loop {
            match seek(from, true).await.about(path)? {
                Sought::At(start) => break start,
                Sought::Nowhere => return Ok(None),
                Sought::Further(place) => from = place,
            }
        };
        Ok(match seek(start, false).await.about(path)? {
            // There may be more behind it; that is the next range.
            Sought::At(end) | Sought::Further(end) => Some((start, end)),
            Sought::Nowhere => Some((start, start)),
        })
    }

    async fn read(
        &self,
        (inode, path): &mut Self::Reader,
        offset: u64,
        len: usize,
    ) -> Outcome<Vec<u8>> {
        let bytes = self.tree.read(|tx| tx.files().read(*inode, offset, len));
        bytes.await.about(path)
    }

    fn shown(&self, (_, path): &Self::Node) -> String {
        path.to_string()
    }
}

/// An image to copy into.
pub(super) struct TreeTarget<'a> {
    image: &'a Image,
}

/// A file on its way into an image. Small ones wait in memory and come in one transaction.
pub(super) struct TreeWriter {
    parent: (InodeNumber, ImagePath),
    name: Vec<u8>,
    waiting: Vec<(u64, Vec<u8>)>,
    waiting_bytes: usize,
    started: Option<(InodeNumber, Vec<u8>)>,
}

impl<'a> TreeTarget<'a> {
    pub(super) fn new(image: &'a Image) -> Self {
        Self { image }
    }

    /// Writes what waits into a file with a temporary name.
    async fn spill(&self, writer: &mut TreeWriter) -> Result<(), FileError> {
        let (parent, _) = writer.parent;
        let inode = if let Some((inode, _)) = &writer.started {
            *inode
        } else {
            let name = temporary_name();
            let new = NewInode::new(FileKind::File, 0o600);
            let inode = self
                .image
                .transact(|tx| tx.files().create(parent, &name, &new))
                .await?;
            self.image.add_temporary(parent, &name);
            writer.started = Some((inode, name));
            inode
        };
        for (offset, bytes) in writer.waiting.drain(..) {
            self.image
                .transact(|tx| tx.files().write(inode, offset, &bytes))
                .await?;
        }
        writer.waiting_bytes = 0;
        Ok(())
    }
}

impl Target for TreeTarget<'_> {
    type Directory = (InodeNumber, ImagePath);
    type File = (InodeNumber, ImagePath);
    type Writer = TreeWriter;

    async fn make_directory(
        &self,
        (parent, path): &Self::Directory,
        name: &[u8],
    ) -> Outcome<Self::Directory> {
        let path = path.join(name);
        let new = NewInode::new(FileKind::Directory, 0o700);
        let made = self.image.transact(|tx| {
            match tx.files().create(*parent, name, &new) {
                Err(FileError::Exists) => {}
                made => return made,
            }
            let found = tx.files().lookup(*parent, name)?;
            match tx.files().stat(found)?.kind {
                FileKind::Directory => Ok(found),
                _ => Err(FileError::NotADirectory),
            }
        });
        Ok((made.await.about(&path)?, path))
    }

    async fn identity(&self, (inode, _): &Self::Directory) -> Option<(u64, u64)> {
        Some((0, inode.0))
    }

    async fn finish_directory(&self, (inode, path): &Self::Directory, node: &Node) -> Outcome<()> {
        let finished = self.image.transact(|tx| keep(tx, *inode, node));
        finished.await.about(path)
    }

    async fn start_file(&self, parent: &Self::Directory, name: &[u8]) -> Outcome<TreeWriter> {
        Ok(TreeWriter {
            parent: parent.clone(),
            name: name.to_vec(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            started: None,
        })
    }

    fn piece_bytes(&self) -> usize {
        self.image.piece_bytes()
    }

    async fn write(&self, writer: &mut TreeWriter, offset: u64, bytes: Vec<u8>) -> Outcome<()> {
        if writer.waiting_bytes + bytes.len() > self.piece_bytes() {
            let spilled = self.spill(writer).await;
            spilled.about(&writer.parent.1.join(&writer.name))?;
        }
        writer.waiting_bytes += bytes.len();
        writer.waiting.push((offset, bytes));
        Ok(())
    }

    async fn finish_file(&self, mut writer: TreeWriter, node: &Node) -> Outcome<Self::File> {
        let path = writer.parent.1.join(&writer.name);
        let (parent, _) = writer.parent;
        if writer.started.is_some() {
            self.spill(&mut writer).await.about(&path)?;
        }
        let temporary = match &writer.started {
            Some((_, name)) => name.clone(),
            None => temporary_name(),
        };
        let new = NewInode::new(FileKind::File, 0o600);
        let finished = self.image.transact(|tx| {
            let inode = match writer.started {
                Some((inode, _)) => inode,
                None => tx.files().create(parent, &temporary, &new)?,
            };
            for (offset, bytes) in &writer.waiting {
                tx.files().write(inode, *offset, bytes)?;
            }
            if tx.files().stat(inode)?.size < node.size {
                tx.files().truncate(inode, node.size)?;
            }
            keep(tx, inode, node)?;
            replace(tx, parent, &temporary, &writer.name)?;
            Ok(inode)
        });
        let inode = finished.await;
        if writer.started.is_some() {
            if inode.is_err() {
                // The copy is not wanted any more; the error that is reported is the first one.
                let _ = self
                    .image
                    .transact(|tx| tx.files().unlink(parent, &temporary))
                    .await;
            }
            self.image.forget_temporary(parent, &temporary);
        }
        Ok((inode.about(&path)?, path))
    }

    async fn make_special(
        &self,
        (parent, path): &Self::Directory,
        name: &[u8],
        node: &Node,
    ) -> Outcome<Self::File> {
        let path = path.join(name);
        let temporary = temporary_name();
        let new = NewInode {
            device: node.device,
            target: node.target.clone(),
            ..NewInode::new(node.kind, node.mode)
        };
        let made = self.image.transact(|tx| {
            let inode = tx.files().create(*parent, &temporary, &new)?;
            keep(tx, inode, node)?;
            replace(tx, *parent, &temporary, name)?;
            Ok(inode)
        });
        Ok((made.await.about(&path)?, path))
    }

    async fn link(
        &self,
        (inode, _): &Self::File,
        (parent, path): &Self::Directory,
        name: &[u8],
    ) -> Outcome<()> {
        let temporary = temporary_name();
        let linked = self.image.transact(|tx| {
            if matches!(tx.files().lookup(*parent, name), Ok(found) if found == *inode) {
                return Ok(());
            }
            tx.files().link(*inode, *parent, &temporary)?;
            replace(tx, *parent, &temporary, name)
        });
        linked.await.about(&path.join(name))
    }
}

/// Gives an inode what a copy keeps.
fn keep(tx: &mut Transaction<'_>, inode: InodeNumber, node: &Node) -> Result<(), FileError> {
    for (name, value) in &node.attributes {
        tx.files().set_xattr(inode, name, value, XattrMode::Any)?;
    }
    let attributes = SetAttributes {
        mode: Some(node.mode),
        uid: Some(node.uid),
        gid: Some(node.gid),
        size: None,
        atime_ns: Some(node.atime_ns),
        mtime_ns: Some(node.mtime_ns),
    };
    tx.files().set_attributes(inode, &attributes)
}

/// Gives what has a temporary name its own.
fn replace(
    tx: &mut Transaction<'_>,
    parent: InodeNumber,
    temporary: &[u8],
    name: &[u8],
) -> Result<(), FileError> {
    let flags = RenameFlags::default();
    tx.files().rename(parent, temporary, parent, name, flags)
}
