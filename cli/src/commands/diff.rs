//! `siltstone diff`.

use std::collections::{BTreeMap, BTreeSet};

use lfs::{BackupRange, CommitNumber, FileError, FileKind, InodeNumber, ROOT};
use serde_json::{Map, Value};

use crate::arguments::Diff;
use crate::error::{About as _, Error, Outcome};
use crate::image::{Image, Tree, Walked, reading};
use crate::output::{Output, put_text};

/// Entries of a directory that are read in one go.
const ENTRIES_AT_ONCE: usize = 256;

pub(crate) async fn diff(arguments: Diff) -> Outcome<()> {
    if let Some(snapshot) = &arguments.image.name.snapshot {
        let message = format!("write IMAGE {snapshot} OTHER, not IMAGE@{snapshot}");
        return Err(Error::Usage(message));
    }
    reading(&arguments.image.name, async |image, _| {
        compare(image, &arguments).await
    })
    .await
}

/// What is under a name.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Named {
    inode: InodeNumber,
    kind: FileKind,
}

type Entries = BTreeMap<Vec<u8>, Named>;

/// How a path of the newer state differs.
#[derive(Clone, Copy)]
enum Change {
    Added,
    Removed,
    Changed,
}

impl Change {
    fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Removed => 'D',
            Self::Changed => 'M',
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}

/// Directories to compare, or to list because only one state has them.
enum Pending {
    Both(Vec<u8>, InodeNumber),
    One(Vec<u8>, InodeNumber, Change),
}

async fn compare(image: &Image, arguments: &Diff) -> Outcome<()> {
    let snapshots = image.volume().snapshots();
    let commit = |name: &str| {
        let found = snapshots.iter().find(|snapshot| snapshot.name == name);
        found.map(|snapshot| snapshot.commit)
    };
    // That there are such snapshots.
    let from_tree = image.tree(Some(&arguments.from))?;
    let to_tree = image.tree(arguments.to.as_deref())?;
    let from = commit(&arguments.from);
    let to = arguments.to.as_deref().and_then(commit);
    let shown = &arguments.image.name;
    let changed = changed_inodes(image, from, to).await.about(shown)?;
    let mut walk = Walk {
        from: &from_tree,
        to: &to_tree,
        changed: &changed,
        walked: Default::default(),
        arguments,
        output: Output::new(),
    };
    if changed.contains(&ROOT.0) {
        walk.print(Change::Changed, b"/", FileKind::Directory)?;
    }
    // The last is the next: in the order of paths.
    let mut pending = vec![Pending::Both(Vec::new(), ROOT)];
    while let Some(next) = pending.pop() {
        let found = match next {
            Pending::Both(path, directory) => walk.both(&path, directory).await?,
            Pending::One(path, directory, change) => walk.one(&path, directory, change).await?,
        };
        pending.extend(found.into_iter().rev());
    }
    walk.output.finish()
}

/// Inodes that both states may have, but not alike.
async fn changed_inodes(
    image: &Image,
    from: Option<CommitNumber>,
    to: Option<CommitNumber>,
) -> Result<BTreeSet<u64>, FileError> {
    // Whichever is newer: what differs is the same.
    let (at, since) = match (from, to) {
        (Some(from), Some(to)) if from > to => (Some(from), Some(to)),
        (from, to) => (to, from),
    };
    if at == since {
        return Ok(BTreeSet::new());
    }
    image
        .volume()
        .changed_inodes(BackupRange { at, since })
        .await
}

struct Walk<'a> {
    from: &'a Tree,
    to: &'a Tree,
    changed: &'a BTreeSet<u64>,
    /// In the older state, and in the newer one.
    walked: [Walked; 2],
    arguments: &'a Diff,
    output: Output,
}

impl Walk<'_> {
    /// Compares a directory that both states have.
    async fn both(&mut self, path: &[u8], directory: InodeNumber) -> Outcome<Vec<Pending>> {
        for walked in &mut self.walked {
            walked.enter(directory, &String::from_utf8_lossy(path))?;
        }
        let to = self.entries(self.to, path, directory).await?;
        let from = if self.changed.contains(&directory.0) {
            self.entries(self.from, path, directory).await?
        } else {
            to.clone()
        };
        let mut pending = Vec::new();
        let every = from.keys().chain(to.keys()).collect::<BTreeSet<_>>();
        for name in every {
            let path = [path, b"/", name].concat();
            match (from.get(name), to.get(name)) {
                (Some(old), Some(new)) if old == new => {
                    if self.changed.contains(&new.inode.0) {
                        self.print(Change::Changed, &path, new.kind)?;
                    }
                    if new.kind == FileKind::Directory {
                        pending.push(Pending::Both(path, new.inode));
                    }
                }
                // Another file under the same name.
                (Some(old), Some(new))
                    if old.kind == new.kind && old.kind != FileKind::Directory =>
                {
                    self.print(Change::Changed, &path, new.kind)?;
                }
                (old, new) => {
                    let sides = [(Change::Removed, old), (Change::Added, new)];
                    for (change, named) in sides {
                        let Some(named) = named else { continue };
                        self.print(change, &path, named.kind)?;
                        if named.kind == FileKind::Directory {
                            pending.push(Pending::One(path.clone(), named.inode, change));
                        }
                    }
                }
            }
        }
        Ok(pending)
    }

    /// Lists a directory that one state has.
    async fn one(
        &mut self,
        path: &[u8],
        directory: InodeNumber,
        change: Change,
    ) -> Outcome<Vec<Pending>> {
        let [from_walked, to_walked] = &mut self.walked;
        let (state, walked) = match change {
            Change::Removed => (self.from, from_walked),
            Change::Added | Change::Changed => (self.to, to_walked),
        };
        walked.enter(directory, &String::from_utf8_lossy(path))?;
        let mut pending = Vec::new();
        for (name, named) in self.entries(state, path, directory).await? {
            let path = [path, b"/", &name].concat();
            self.print(change, &path, named.kind)?;
            if named.kind == FileKind::Directory {
                pending.push(Pending::One(path, named.inode, change));
            }
        }
        Ok(pending)
    }

    async fn entries(&self, tree: &Tree, path: &[u8], directory: InodeNumber) -> Outcome<Entries> {
        let mut entries = Entries::new();
        let mut after = Some(0);
        while let Some(cookie) = after {
            let some = tree
                .read(|tx| tx.files().read_dir(directory, cookie, ENTRIES_AT_ONCE))
                .await;
            let some = some.about(&String::from_utf8_lossy(path))?;
            after = some.next;
            for entry in some.entries {
                let named = Named {
                    inode: entry.inode,
                    kind: entry.kind,
                };
                entries.insert(entry.name, named);
            }
        }
        Ok(entries)
    }

    fn print(&mut self, change: Change, path: &[u8], kind: FileKind) -> Outcome<()> {
        if self.arguments.json {
            let mut object = Map::new();
            object.insert("change".to_owned(), Value::from(change.word()));
            put_text(&mut object, "path", path);
            let directory = kind == FileKind::Directory;
            object.insert("directory".to_owned(), directory.into());
            return self.output.json(object);
        }
        self.output.text(format_args!("{} ", change.letter()))?;
        self.output.name(path)?;
        self.output.text(format_args!("\n"))
    }
}
