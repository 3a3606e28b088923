//! A model of POSIX files and directories: nodes in a map, names in maps, content in vectors. It
//! shares no code with what it is the model of. `operation.rs` says what it is asked to do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use lfs::{FileError, FileKind, RenameFlags, SetAttributes, XattrMode};

use super::operation::{HANDLES, Observed, Operation, Outcome, Target, TreePath};

type Id = usize;
type Result<T> = std::result::Result<T, FileError>;

const ROOT_ID: Id = 0;

#[derive(Debug, Clone)]
struct Node {
    kind: FileKind,
    mode: u16,
    uid: u32,
    gid: u32,
    device: u64,
    atime: i64,
    mtime: i64,
    ctime: i64,
    btime: i64,
    /// Of a file, or a link's target.
    content: Vec<u8>,
    /// Of a directory.
    entries: BTreeMap<Vec<u8>, Id>,
    parent: Id,
    removed: bool,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The model. A copy shares what neither changes.
#[derive(Clone)]
pub struct Model {
    nodes: BTreeMap<Id, Rc<Node>>,
    next: Id,
    handles: [Option<Id>; HANDLES],
    pub now: i64,
}

impl Model {
    /// An empty root directory.
    pub fn new(now: i64, mode: u16) -> Self {
        let mut model = Self {
            nodes: BTreeMap::new(),
            next: ROOT_ID,
            handles: [None; HANDLES],
            now,
        };
        let root = model.node(FileKind::Directory, mode, ROOT_ID);
        model.nodes.insert(ROOT_ID, Rc::new(root));
        model.next = ROOT_ID + 1;
        model
    }

    fn node(&self, kind: FileKind, mode: u16, parent: Id) -> Node {
        Node {
            kind,
            mode,
            uid: 0,
            gid: 0,
            device: 0,
            atime: self.now,
            mtime: self.now,
            ctime: self.now,
            btime: self.now,
            content: Vec::new(),
            entries: BTreeMap::new(),
            parent,
            removed: false,
            attributes: BTreeMap::new(),
        }
    }

    fn at(&self, id: Id) -> &Node {
        &self.nodes[&id]
    }

    fn change(&mut self, id: Id) -> &mut Node {
        let now = self.now;
        let node = Rc::make_mut(self.nodes.get_mut(&id).unwrap());
        node.ctime = now;
        node
    }

    fn is_directory(&self, id: Id) -> bool {
        self.at(id).kind == FileKind::Directory
    }

    fn links(&self, id: Id) -> u32 {
        let node = self.at(id);
        let among = |entries: &BTreeMap<Vec<u8>, Id>, wanted: &dyn Fn(Id) -> bool| {
            entries.values().filter(|&&child| wanted(child)).count() as u32
        };
        match node.kind {
            FileKind::Directory if node.removed => 0,
            FileKind::Directory => 2 + among(&node.entries, &|child| self.is_directory(child)),
            _ => self
                .nodes
                .values()
                .map(|other| among(&other.entries, &|child| child == id))
                .sum(),
        }
    }

    // Paths.

    fn start(&self, path: &TreePath) -> Result<Id> {
        match path.base {
            None => Ok(ROOT_ID),
            Some(handle) => self.handles[handle].ok_or(FileError::NotFound),
        }
    }

    fn find(&self, directory: Id, name: &[u8]) -> Result<Option<Id>> {
        if !self.is_directory(directory) {
            return Err(FileError::NotADirectory);
        }
        check_name(name)?;
        Ok(self.at(directory).entries.get(name).copied())
    }

    fn resolve(&self, path: &TreePath, follow_last: bool) -> Result<Id> {
        self.walk(self.start(path)?, &path.bytes, follow_last)
    }

    fn walk(&self, start: Id, path: &[u8], follow_last: bool) -> Result<Id> {
        check_path(path)?;
        let mut here = if path[0] == b'/' { ROOT_ID } else { start };
        let mut parts = parts_of(path);
        let mut slash_at_end = path.ends_with(b"/");
        let mut links = 0;
        while let Some(part) = parts.pop_front() {
            if !self.is_directory(here) {
                return Err(FileError::NotADirectory);
            }
            let node = self.at(here);
            here = match part.as_slice() {
                b"." => here,
                b".." if node.removed => return Err(FileError::NotFound),
                b".." => node.parent,
                name => {
                    let child = self.find(here, name)?.ok_or(FileError::NotFound)?;
                    let last = parts.is_empty();
                    let link = self.at(child).kind == FileKind::Symlink;
                    if link && (follow_last || !last || slash_at_end) {
                        links += 1;
                        if links > 40 {
                            return Err(FileError::LinkLoop);
                        }
                        let target = &self.at(child).content;
                        if last && target.ends_with(b"/") {
                            slash_at_end = true;
                        }
                        for part in parts_of(target).into_iter().rev() {
                            parts.push_front(part);
                        }
                        if target[0] == b'/' { ROOT_ID } else { here }
                    } else {
                        child
                    }
                }
            };
        }
        if slash_at_end && !self.is_directory(here) {
            return Err(FileError::NotADirectory);
        }
        Ok(here)
    }

    fn resolve_parent(&self, path: &TreePath) -> Result<(Id, Vec<u8>)> {
        let start = self.start(path)?;
        check_path(&path.bytes)?;
        let mut bytes = path.bytes.clone();
        while bytes.last() == Some(&b'/') {
            bytes.pop();
        }
        let slash_at_end = bytes.len() < path.bytes.len();
        let name_at = bytes
            .iter()
            .rposition(|&b| b == b'/')
            .map_or(0, |at| at + 1);
        let name = bytes.split_off(name_at);
        let directory = if bytes.is_empty() {
            start
        } else {
            self.walk(start, &bytes, true)?
        };
        check_name(&name)?;
        let child = self.find(directory, &name)?;
        if slash_at_end && child.is_some_and(|child| !self.is_directory(child)) {
            return Err(FileError::NotADirectory);
        }
        Ok((directory, name))
    }

    fn target(&self, target: &Target) -> Result<Id> {
        match target {
            Target::Path(path) => self.resolve(path, true),
            Target::Link(path) => self.resolve(path, false),
            Target::Handle(handle) => self.handles[*handle].ok_or(FileError::NotFound),
        }
    }

    fn file(&self, target: &Target) -> Result<Id> {
        let id = self.target(target)?;
        match self.at(id).kind {
            FileKind::File => Ok(id),
            FileKind::Directory => Err(FileError::IsADirectory),
            _ => Err(FileError::Invalid),
        }
    }

    // Names.

    fn free_name(&self, directory: Id, name: &[u8]) -> Result<()> {
        if self.at(directory).removed {
            return Err(FileError::NotFound);
        }
        match self.find(directory, name)? {
            Some(_) => Err(FileError::Exists),
            None => Ok(()),
        }
    }

    fn enter(&mut self, directory: Id, name: &[u8], id: Id) {
        let now = self.now;
        let node = self.change(directory);
        node.mtime = now;
        node.entries.insert(name.to_vec(), id);
    }

    fn drop_entry(&mut self, directory: Id, name: &[u8]) {
        let now = self.now;
        let node = self.change(directory);
        node.mtime = now;
        let child = node.entries.remove(name).unwrap();
        if self.is_directory(child) {
            self.change(child).removed = true;
            let inside: Vec<_> = self.at(child).entries.keys().cloned().collect();
            for name in inside {
                let grandchild = Rc::make_mut(self.nodes.get_mut(&child).unwrap())
                    .entries
                    .remove(&name);
                self.lose_deep(grandchild.unwrap());
            }
        } else {
            self.change(child);
        }
    }

    /// As [`drop_entry`](Self::drop_entry), for what was in a directory that is gone.
    fn lose_deep(&mut self, id: Id) {
        let node = self.change(id);
        if node.kind == FileKind::Directory {
            node.removed = true;
            for child in std::mem::take(&mut node.entries).into_values() {
                self.lose_deep(child);
            }
        }
    }

    /// Directories that lose one entry after the other, from below.
    fn note_emptied(&mut self, id: Id) {
        let inside: Vec<_> = self.at(id).entries.values().copied().collect();
        if !inside.is_empty() {
            let now = self.now;
            self.change(id).mtime = now;
        }
        for child in inside {
            self.note_emptied(child);
        }
    }

    fn is_within(&self, mut directory: Id, above: Id) -> bool {
        loop {
            if directory == above {
                return true;
            }
            if directory == ROOT_ID {
                return false;
            }
            directory = self.at(directory).parent;
        }
    }

    fn rename(
        &mut self,
        (from, from_name): (Id, &[u8]),
        (to, to_name): (Id, &[u8]),
        flags: RenameFlags,
    ) -> Result<()> {
        if flags.no_replace && flags.exchange {
            return Err(FileError::Invalid);
        }
        if self.at(from).removed || self.at(to).removed {
            return Err(FileError::NotFound);
        }
        let moved = self.find(from, from_name)?.ok_or(FileError::NotFound)?;
        let other = self.find(to, to_name)?;
        match other {
            None if flags.exchange => return Err(FileError::NotFound),
            Some(_) if flags.no_replace => return Err(FileError::Exists),
            Some(other) if other == moved => return Ok(()),
            _ => {}
        }
        if self.is_directory(moved) && self.is_within(to, moved) {
            return Err(FileError::Invalid);
        }
        if let Some(other) = other {
            if flags.exchange {
                if self.is_directory(other) && self.is_within(from, other) {
                    return Err(FileError::Invalid);
                }
                self.enter(from, from_name, other);
                self.enter(to, to_name, moved);
                self.change(other).parent = from;
                self.change(moved).parent = to;
                return Ok(());
            }
            match (self.is_directory(moved), self.is_directory(other)) {
                (true, false) => return Err(FileError::NotADirectory),
                (false, true) => return Err(FileError::IsADirectory),
                (true, true) if !self.at(other).entries.is_empty() => {
                    return Err(FileError::NotEmpty);
                }
                _ => self.drop_entry(to, to_name),
            }
        }
        let now = self.now;
        let node = self.change(from);
        node.mtime = now;
        node.entries.remove(from_name);
        self.enter(to, to_name, moved);
        self.change(moved).parent = to;
        Ok(())
    }

    // Content and attributes.

    fn resize(&mut self, id: Id, size: u64) -> Result<()> {
        if size > i64::MAX as u64 {
            return Err(FileError::FileTooLarge);
        }
        let now = self.now;
        let node = self.change(id);
        node.content.resize(size.try_into().unwrap(), 0);
        node.mtime = now;
        Ok(())
    }

    fn set_attributes(&mut self, id: Id, change: &SetAttributes) {
        if *change == SetAttributes::default() {
            return;
        }
        let node = self.change(id);
        node.mode = change.mode.map_or(node.mode, |mode| mode & 0o7777);
        node.uid = change.uid.unwrap_or(node.uid);
        node.gid = change.gid.unwrap_or(node.gid);
        node.atime = change.atime_ns.unwrap_or(node.atime);
        node.mtime = change.mtime_ns.unwrap_or(node.mtime);
    }

    /// Does an operation and says what it should answer.
    pub fn apply(&mut self, operation: &Operation) -> Result<Outcome> {
        let result = self.act(operation);
        self.forget_unreachable();
        result
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each operation")]
    fn act(&mut self, operation: &Operation) -> Result<Outcome> {
        let now = self.now;
        match operation {
            Operation::Create { path, new } => {
                let (directory, name) = self.resolve_parent(path)?;
                self.free_name(directory, &name)?;
                let mut node = self.node(new.kind, new.mode & 0o7777, directory);
                (node.uid, node.gid) = (new.uid, new.gid);
                match new.kind {
                    FileKind::Symlink => match new.target.len() {
                        0 => return Err(FileError::NotFound),
                        4096.. => return Err(FileError::NameTooLong),
                        _ if new.target.contains(&0) => return Err(FileError::Invalid),
                        _ => node.content.clone_from(&new.target),
                    },
                    FileKind::CharDevice | FileKind::BlockDevice => node.device = new.device,
                    _ => {}
                }
                let id = self.next;
                self.next += 1;
                self.nodes.insert(id, Rc::new(node));
                self.enter(directory, &name, id);
            }
            Operation::Link { from, to } => {
                let id = self.target(from)?;
                let (directory, name) = self.resolve_parent(to)?;
                if self.is_directory(id) {
                    return Err(FileError::NotPermitted);
                }
                if self.links(id) == 0 {
                    return Err(FileError::NotFound);
                }
                self.free_name(directory, &name)?;
                self.change(id);
                self.enter(directory, &name, id);
            }
            Operation::Unlink { path } | Operation::Rmdir { path } => {
                let (directory, name) = self.resolve_parent(path)?;
                let id = self.find(directory, &name)?.ok_or(FileError::NotFound)?;
                let wants_directory = matches!(operation, Operation::Rmdir { .. });
                match (wants_directory, self.is_directory(id)) {
                    (true, false) => return Err(FileError::NotADirectory),
                    (false, true) => return Err(FileError::IsADirectory),
                    (true, true) if !self.at(id).entries.is_empty() => {
                        return Err(FileError::NotEmpty);
                    }
                    _ => self.drop_entry(directory, &name),
                }
            }
            Operation::RemoveTree { path } | Operation::RemoveSome { path } => {
                let (directory, name) = self.resolve_parent(path)?;
                let id = self.find(directory, &name)?.ok_or(FileError::NotFound)?;
                if matches!(operation, Operation::RemoveSome { .. }) {
                    self.note_emptied(id);
                }
                self.drop_entry(directory, &name);
            }
            Operation::Rename { from, to, flags } => {
                let (old, old_name) = self.resolve_parent(from)?;
                let (new, new_name) = self.resolve_parent(to)?;
                self.rename((old, &old_name), (new, &new_name), *flags)?;
            }
            Operation::Open { target, handle } => {
                self.handles[*handle] = Some(self.target(target)?);
            }
            Operation::Close { handle } => self.handles[*handle] = None,
            Operation::ReadLink { path } => {
                let node = self.at(self.resolve(path, false)?);
                if node.kind != FileKind::Symlink {
                    return Err(FileError::Invalid);
                }
                return Ok(Outcome::Bytes(node.content.clone()));
            }
            Operation::Read {
                target,
                offset,
                len,
            } => {
                let content = &self.at(self.file(target)?).content;
                let start = usize::try_from(*offset).unwrap().min(content.len());
                let end = start.saturating_add(*len).min(content.len());
                return Ok(Outcome::Bytes(content[start..end].to_vec()));
            }
            Operation::Write {
                target,
                offset,
                bytes,
            } => {
                let id = self.file(target)?;
                let end = offset.checked_add(bytes.len() as u64);
                if end.is_none_or(|end| end > i64::MAX as u64) {
                    return Err(FileError::FileTooLarge);
                }
                if !bytes.is_empty() {
                    let start = usize::try_from(*offset).unwrap();
                    let node = self.change(id);
                    node.mtime = now;
                    let size = node.content.len().max(start + bytes.len());
                    node.content.resize(size, 0);
                    node.content[start..start + bytes.len()].copy_from_slice(bytes);
                }
            }
            Operation::Truncate { target, size } => {
                let id = self.file(target)?;
                self.resize(id, *size)?;
            }
            Operation::Punch {
                target,
                offset,
                len,
            } => {
                let id = self.file(target)?;
                let node = self.change(id);
                node.mtime = now;
                let size = node.content.len();
                let start = usize::try_from(*offset).unwrap().min(size);
                let end = start
                    .saturating_add(usize::try_from(*len).unwrap())
                    .min(size);
                node.content[start..end].fill(0);
            }
            Operation::Allocate {
                target,
                offset,
                len,
                keep_size,
            } => {
                let id = self.file(target)?;
                let size = self.at(id).content.len() as u64;
                let end = if *keep_size { size } else { offset + len };
                self.resize(id, size.max(end))?;
            }
            Operation::Seek {
                target,
                offset,
                data,
            } => {
                let content = self.at(self.file(target)?).content.clone();
                return Ok(Outcome::SeekIn {
                    content,
                    offset: *offset,
                    data: *data,
                });
            }
            Operation::SetAttributes { target, change } => {
                let id = self.target(target)?;
                if let Some(size) = change.size {
                    self.file(target)?;
                    self.resize(id, size)?;
                }
                self.set_attributes(id, change);
            }
            Operation::GetXattr { target, name } => {
                let node = self.at(self.target(target)?);
                check_attribute_name(name)?;
                let value = node.attributes.get(name).ok_or(FileError::NoAttribute)?;
                return Ok(Outcome::Bytes(value.clone()));
            }
            Operation::SetXattr {
                target,
                name,
                value,
                mode,
            } => {
                let id = self.target(target)?;
                check_attribute_name(name)?;
                if value.len() > 65_536 {
                    return Err(FileError::AttributeTooLarge);
                }
                match (mode, self.at(id).attributes.contains_key(name)) {
                    (XattrMode::Create, true) => return Err(FileError::Exists),
                    (XattrMode::Replace, false) => return Err(FileError::NoAttribute),
                    _ => self
                        .change(id)
                        .attributes
                        .insert(name.clone(), value.clone()),
                };
            }
            Operation::RemoveXattr { target, name } => {
                let id = self.target(target)?;
                check_attribute_name(name)?;
                if !self.at(id).attributes.contains_key(name) {
                    return Err(FileError::NoAttribute);
                }
                self.change(id).attributes.remove(name);
            }
        }
        Ok(Outcome::Done)
    }

    /// Nodes that neither a name nor a handle leads to.
    fn forget_unreachable(&mut self) {
        let named = self.nodes.values().flat_map(|node| node.entries.values());
        let kept: BTreeSet<Id> = named
            .copied()
            .chain(self.handles.iter().flatten().copied())
            .chain([ROOT_ID])
            .collect();
        self.nodes.retain(|id, _| kept.contains(id));
    }

    /// Everything there is to see.
    pub fn observe(&self) -> Vec<Observed> {
        let mut seen = Vec::new();
        let mut numbers = BTreeMap::new();
        let mut left = VecDeque::from([(b"/".to_vec(), ROOT_ID)]);
        for (handle, id) in self.handles.iter().enumerate() {
            left.extend(id.map(|id| (format!("handle {handle}").into_bytes(), id)));
        }
        while let Some((path, id)) = left.pop_front() {
            let node = self.at(id);
            let count = numbers.len();
            let first = !numbers.contains_key(&id);
            let number = *numbers.entry(id).or_insert(count);
            if first {
                for (name, &child) in &node.entries {
                    left.push_back(([&path[..], b"/", name].concat(), child));
                }
            }
            let parent = node.kind == FileKind::Directory && !node.removed;
            seen.push(Observed {
                path,
                number,
                kind: node.kind,
                mode: node.mode,
                uid: node.uid,
                gid: node.gid,
                links: self.links(id),
                size: (node.content.len() + node.entries.len()) as u64,
                device: node.device,
                times: [node.atime, node.mtime, node.ctime, node.btime],
                content: first.then(|| node.content.clone()),
                attributes: node.attributes.clone(),
                parent: parent.then(|| numbers.get(&node.parent).copied()).flatten(),
            });
        }
        seen
    }
}

fn parts_of(path: &[u8]) -> VecDeque<Vec<u8>> {
    let parts = path.split(|&byte| byte == b'/');
    parts
        .filter(|part| !part.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}

fn check_path(path: &[u8]) -> Result<()> {
    match path.len() {
        0 => Err(FileError::NotFound),
        4096.. => Err(FileError::NameTooLong),
        _ if path.contains(&0) => Err(FileError::Invalid),
        _ => Ok(()),
    }
}

fn check_name(name: &[u8]) -> Result<()> {
    match name {
        b"" | b"." | b".." => Err(FileError::Invalid),
        name if name.len() > 255 => Err(FileError::NameTooLong),
        name if name.contains(&b'/') || name.contains(&0) => Err(FileError::Invalid),
        _ => Ok(()),
    }
}

fn check_attribute_name(name: &[u8]) -> Result<()> {
    match name.len() {
        0 => Err(FileError::Invalid),
        256.. => Err(FileError::AttributeTooLarge),
        _ if name.contains(&0) => Err(FileError::Invalid),
        _ => Ok(()),
    }
}
