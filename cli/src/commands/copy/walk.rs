//! The way through a source, and how far it has come.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use indicatif::ProgressBar;
use lfs::FileKind;

use super::node::{Node, Source, Target};
use crate::error::{Error, Outcome, complain};
use crate::progress::{byte_spinner, show_bytes};

/// How often a bar moves by itself.
const TICK: Duration = Duration::from_millis(200);

/// Shows on a terminal what has been copied.
pub(super) struct Progress {
    bar: ProgressBar,
    /// Of the files that are sources themselves, as far as they have begun.
    expected_bytes: u64,
    files: u64,
}

impl Progress {
    pub(super) fn new() -> Self {
        let bar = byte_spinner();
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        Self {
            bar,
            expected_bytes: 0,
            files: 0,
        }
    }

    /// Prints something without disturbing the bar.
    pub(super) fn suspend(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// A file is a source itself: its end is known.
    fn expect(&mut self, size: u64) {
        self.expected_bytes += size;
        self.bar.set_length(self.expected_bytes);
        show_bytes(&self.bar);
    }

    fn copied_bytes(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn copied_file(&mut self) {
        self.files += 1;
        if !self.bar.is_hidden() {
            self.bar.set_message(format!("{} files", self.files));
        }
    }
}

/// Something left to do.
enum Step<N, D> {
    Copy { node: N, parent: D, name: Vec<u8> },
    FinishDirectory { directory: D, node: Box<Node> },
}

/// One source, and all below it, to one target.
pub(super) struct Walk<'a, S: Source, T: Target> {
    source: &'a S,
    target: &'a T,
    progress: &'a mut Progress,
    steps: Vec<Step<S::Node, T::Directory>>,
    /// Files with several names that were copied.
    linked: HashMap<(u64, u64), T::File>,
    /// Directories made by this copy, which may lie in what is copied.
    made: HashSet<(u64, u64)>,
    failed: bool,
}

impl<'a, S: Source, T: Target> Walk<'a, S, T> {
    pub(super) fn new(source: &'a S, target: &'a T, progress: &'a mut Progress) -> Self {
        Self {
            source,
            target,
            progress,
            steps: Vec::new(),
            linked: HashMap::new(),
            made: HashSet::new(),
            failed: false,
        }
    }

    /// Copies `node` into `parent` under `name`, or without a name only what is in it.
    ///
    /// # Errors
    /// [`Error::Reported`] when a part of it failed.
    pub(super) async fn copy(
        &mut self,
        node: S::Node,
        parent: T::Directory,
        name: Option<Vec<u8>>,
        recursive: bool,
    ) -> Outcome<()> {
        let found = self.source.look(&node).await?;
        if found.kind == FileKind::Directory && !recursive {
            return Err(Error::new(
                self.source.shown(&node),
                "is a directory; -r copies it",
            ));
        }
        if found.kind == FileKind::File {
            self.progress.expect(found.size);
        }
        match name {
            Some(name) => self.steps.push(Step::Copy { node, parent, name }),
            None => self.children(&node, &parent).await?,
        }
        while let Some(step) = self.steps.pop() {
            // Where nothing else waits, signals get their turn.
            tokio::task::yield_now().await;
            let outcome = match step {
                Step::Copy { node, parent, name } => self.step(&node, &parent, &name).await,
                Step::FinishDirectory { directory, node } => {
                    self.target.finish_directory(&directory, &node).await
                }
            };
            match outcome {
                Ok(()) => {}
                Err(Error::Failed(message)) => {
                    self.failed = true;
                    self.progress.suspend(|| complain(message));
                }
                Err(error) => return Err(error),
            }
        }
        if self.failed {
            Err(Error::Reported)
        } else {
            Ok(())
        }
    }

    async fn step(&mut self, node: &S::Node, parent: &T::Directory, name: &[u8]) -> Outcome<()> {
        let found = self.source.look(node).await?;
        if found.kind == FileKind::Directory {
            if self.made.contains(&found.identity) {
                return Err(Error::new(
                    self.source.shown(node),
                    "a directory is not copied into itself",
                ));
            }
            let directory = self.target.make_directory(parent, name).await?;
            self.made.extend(self.target.identity(&directory).await);
            let node = (node, Box::new(found));
            self.steps.push(Step::FinishDirectory {
                directory: directory.clone(),
                node: node.1,
            });
            return self.children(node.0, &directory).await;
        }
        if found.links > 1
            && let Some(file) = self.linked.get(&found.identity)
        {
            return self.target.link(file, parent, name).await;
        }
        let file = if found.kind == FileKind::File {
            self.file(node, &found, parent, name).await?
        } else {
            self.target.make_special(parent, name, &found).await?
        };
        self.progress.copied_file();
        if found.links > 1 {
            self.linked.insert(found.identity, file);
        }
        Ok(())
    }

    async fn children(&mut self, node: &S::Node, directory: &T::Directory) -> Outcome<()> {
        let mut children = self.source.children(node).await?;
        children.sort_unstable_by(|one, other| other.0.cmp(&one.0));
        let steps = children.into_iter().map(|(name, node)| Step::Copy {
            node,
            parent: directory.clone(),
            name,
        });
        self.steps.extend(steps);
        Ok(())
    }

    async fn file(
        &mut self,
        node: &S::Node,
        found: &Node,
        parent: &T::Directory,
        name: &[u8],
    ) -> Outcome<T::File> {
        let mut reader = self.source.open(node).await?;
        let mut writer = self.target.start_file(parent, name).await?;
        let piece = self.target.piece_bytes();
        let mut offset = 0;
        let mut end_of_data = 0;
        while let Some((start, end)) = self.source.next_data(&mut reader, offset).await? {
            offset = start;
            while offset < end {
                // Pieces begin where blocks begin, so that none is written twice.
                let room = piece as u64 - offset % piece as u64;
                let len = usize::try_from(room.min(end - offset)).unwrap_or(piece);
                let bytes = self.source.read(&mut reader, offset, len).await?;
                if bytes.is_empty() {
                    break;
                }
                let count = bytes.len() as u64;
                self.target.write(&mut writer, offset, bytes).await?;
                self.progress.copied_bytes(count);
                offset += count;
                end_of_data = offset;
            }
            if offset < end {
                // It has become shorter meanwhile.
                break;
            }
        }
        let node = Node {
            size: found.size.max(end_of_data),
            ..found.clone()
        };
        self.target.finish_file(writer, &node).await
    }
}
