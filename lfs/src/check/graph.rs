//! How files and directories hang together: what names each inode, and whether that is what the inode says.
//!
//! A table of all inodes and one of all that names something, sorted and compared. When they would take more
//! memory than they may, the upper half of the numbers is put off to another pass through the tree: each
//! pass treats a range of inode numbers, and one is enough while all fits.
//!
//! Bound: `bytes_max` for the two tables, and a quarter of that for the directories' parents.

use alloc::vec::Vec;

use super::Sink;
use super::report::{Finding, Part, Problem, Repair};
use crate::{FileKind, ROOT};

/// What kind of thing names another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// A directory entry for a file of that kind.
    Name(u8),
    /// The owner of data: an attribute or an orphan item.
    Data,
    /// An inode that owns data under another number.
    Content,
    /// An orphan item for an inode without a name.
    Nameless,
    /// An orphan item for an inode with cuts.
    Cuts,
}

/// Something names something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reference {
    pub target: u64,
    pub class: Class,
    pub from: u64,
    /// Of the item that names; of an inode that owns data the room that it says they take.
    pub position: u64,
}

/// An inode, or an object that only holds data.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entity {
    pub number: u64,
    pub parent: u64,
    pub links: u32,
    /// Of the file; 0 for an object that only holds data.
    pub kind: u8,
    pub has_data: bool,
    /// Its content is under its own number.
    pub own_data: bool,
    pub has_cuts: bool,
    /// The room that data under this number take.
    pub room: u64,
}

impl Entity {
    pub(super) fn data_only(number: u64, room: u64) -> Self {
        Self {
            number,
            parent: 0,
            links: 0,
            kind: 0,
            has_data: true,
            own_data: false,
            has_cuts: false,
            room,
        }
    }

    fn is_directory(&self) -> bool {
        self.kind == FileKind::Directory as u8
    }
}

/// See the module.
pub(super) struct Graph {
    bytes_max: usize,
    /// This pass treats numbers from `low` up to, but without, `high`.
    low: u64,
    high: Option<u64>,
    entities: Vec<Entity>,
    references: Vec<Reference>,
    /// Directories and the one each says it is in; only in the first pass. `None`: there were too many.
    parents: Option<Vec<(u64, u64)>>,
    first: bool,
    pub bytes_peak: usize,
}

const ENTITY_BYTES: usize = size_of::<Entity>();
const REFERENCE_BYTES: usize = size_of::<Reference>();

impl Graph {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max: bytes_max.max(1 << 16),
            low: 0,
            high: None,
            entities: Vec::new(),
            references: Vec::new(),
            parents: Some(Vec::new()),
            first: true,
            bytes_peak: 0,
        }
    }

    fn is_wanted(&self, number: u64) -> bool {
        number >= self.low && self.high.is_none_or(|high| number < high)
    }

    pub(super) fn add(&mut self, entity: Entity) {
        if self.first && entity.is_directory() {
            let max = self.parents_max();
            let parents = self.parents.take();
            self.parents = parents.filter(|parents| parents.len() < max);
            if let Some(parents) = &mut self.parents {
                // A removed directory is in none; what it still holds hangs on it.
                let parent = if entity.links == 0 {
                    ROOT.0
                } else {
                    entity.parent
                };
                parents.push((entity.number, parent));
            }
        }
        if self.is_wanted(entity.number) {
            self.make_room();
            if self.is_wanted(entity.number) {
                self.entities.push(entity);
            }
        }
    }

    pub(super) fn refer(&mut self, reference: Reference) {
        if self.is_wanted(reference.target) {
            self.make_room();
            if self.is_wanted(reference.target) {
                self.references.push(reference);
            }
        }
    }

    fn parents_max(&self) -> usize {
        self.bytes_max / 4 / size_of::<(u64, u64)>()
    }

    fn bytes(&self) -> usize {
        // A vector may be twice as large as what is in it.
        2 * (self.entities.len() * ENTITY_BYTES + self.references.len() * REFERENCE_BYTES)
    }

    /// Before something is added: puts half of the numbers off when there is no memory for more.
    fn make_room(&mut self) {
        let bytes = self.bytes() + 2 * (ENTITY_BYTES + REFERENCE_BYTES);
        if bytes <= self.bytes_max {
            self.bytes_peak = self.bytes_peak.max(bytes);
            return;
        }
        let middle = |numbers: &mut Vec<u64>| {
            numbers.sort_unstable();
            numbers.get(numbers.len() / 2).copied()
        };
        let mut numbers = self.entities.iter().map(|e| e.number).collect::<Vec<_>>();
        let mut high = middle(&mut numbers);
        if self.references.len() > self.entities.len() {
            let mut numbers = self.references.iter().map(|r| r.target).collect();
            high = middle(&mut numbers);
        }
        let high = high.unwrap_or(0).max(self.low + 1);
        self.high = Some(self.high.map_or(high, |old| old.min(high)));
        self.entities.retain(|entity| entity.number < high);
        self.references.retain(|reference| reference.target < high);
        if self.bytes() > self.bytes_max {
            // One number is named by this many: what names it counts no further.
            self.references
                .truncate(self.bytes_max / 4 / REFERENCE_BYTES);
        }
    }

    /// What names `number` as a directory entry: the directory, and the position there.
    pub(super) fn name_of(&self, number: u64) -> Option<(u64, u64)> {
        let start = self.references.partition_point(|r| r.target < number);
        let found = self.references.get(start)?;
        (found.target == number && matches!(found.class, Class::Name(_)))
            .then_some((found.from, found.position))
    }

    /// Compares what was gathered. True when another pass is needed; then begins it with
    /// [`next_pass`](Self::next_pass).
    pub(super) fn compare(&mut self, sink: &mut Sink<'_>) -> bool {
        self.references.sort_unstable();
        self.entities.sort_unstable_by_key(|entity| entity.number);
        let mut rest = self.references.as_slice();
        let mut entities = self.entities.iter().peekable();
        loop {
            let number = match (rest.first(), entities.peek()) {
                (Some(reference), Some(entity)) => reference.target.min(entity.number),
                (Some(reference), None) => reference.target,
                (None, Some(entity)) => entity.number,
                (None, None) => break,
            };
            let (these, others) = rest.split_at(rest.partition_point(|r| r.target == number));
            rest = others;
            let entity = entities.next_if(|entity| entity.number == number);
            match entity {
                Some(entity) => compare_one(entity, these, sink),
                None => dangling(these, sink),
            }
        }
        if self.first {
            self.find_circles(sink);
        }
        self.high.is_some()
    }

    /// Begins the next pass.
    pub(super) fn next_pass(&mut self) {
        self.low = self.high.take().unwrap_or(u64::MAX);
        self.first = false;
        self.entities.clear();
        self.references.clear();
    }

    /// Directories that do not lead to the root, whichever way their parents go.
    fn find_circles(&mut self, sink: &mut Sink<'_>) {
        let max = self.parents_max();
        let Some(mut parents) = self.parents.take() else {
            sink.report(Finding::new(Part::Files, Problem::CirclesUnchecked { max }));
            return;
        };
        parents.sort_unstable();
        let mut reached = alloc::vec![Reach::Unknown; parents.len()];
        let index_of = |number: u64| parents.binary_search_by_key(&number, |entry| entry.0).ok();
        for start in 0..parents.len() {
            let mut at = start;
            // Up to something known, marking the way.
            let end = loop {
                match reached.get(at).copied() {
                    Some(Reach::Unknown) => {}
                    Some(Reach::OnTheWay) => break Reach::Circle,
                    known => break known.unwrap_or(Reach::Root),
                }
                if let Some(mark) = reached.get_mut(at) {
                    *mark = Reach::OnTheWay;
                }
                let Some(&(number, parent)) = parents.get(at) else {
                    break Reach::Root;
                };
                if number == ROOT.0 || parent == ROOT.0 {
                    break Reach::Root;
                }
                match index_of(parent) {
                    Some(next) => at = next,
                    // A parent that does not exist is reported elsewhere.
                    None => break Reach::Root,
                }
            };
            at = start;
            while let Some(mark) = reached.get_mut(at).filter(|mark| **mark == Reach::OnTheWay) {
                *mark = end;
                let parent = parents.get(at).map(|entry| entry.1);
                match parent.and_then(index_of) {
                    Some(next) => at = next,
                    None => break,
                }
            }
        }
        for (&(number, _), reach) in parents.iter().zip(&reached) {
            if *reach == Reach::Circle && !sink.is_damaged(number) {
                sink.report(Finding::new(Part::Files, Problem::DirectoryCircle).of(number));
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Unknown,
    OnTheWay,
    Root,
    Circle,
}

/// Something names what does not exist.
fn dangling(references: &[Reference], sink: &mut Sink<'_>) {
    for reference in references {
        let target = reference.target;
        // Data of an inode may be all holes.
        if reference.class == Class::Content {
            compare_room(reference, 0, sink);
            continue;
        }
        if reference.class == Class::Data || sink.is_damaged(target) {
            continue;
        }
        let finding = Finding::new(Part::Files, Problem::DanglingName { target });
        sink.report(match reference.from {
            0 => finding,
            from => finding.of(from),
        });
    }
}

/// What an inode says of the room that its data under another number take, and what they take.
fn compare_room(content: &Reference, counted: u64, sink: &mut Sink<'_>) {
    let (inode, recorded) = (content.from, content.position);
    if recorded == counted || sink.is_damaged(inode) || sink.is_damaged(content.target) {
        return;
    }
    let problem = Problem::Allocated { recorded, counted };
    let finding = Finding::new(Part::Files, problem).of(inode);
    sink.report(finding.by(Repair::Allocated));
}

/// An inode or object with all that names it.
fn compare_one(entity: &Entity, references: &[Reference], sink: &mut Sink<'_>) {
    let number = entity.number;
    let finding = |problem| Finding::new(Part::Files, problem).of(number);
    let count = |class: fn(&Class) -> bool| {
        let of_class = references.iter().filter(|r| class(&r.class));
        of_class.count() as u64
    };
    let names = count(|class| matches!(class, Class::Name(_)));
    let nameless = count(|class| *class == Class::Nameless);
    let cuts = count(|class| *class == Class::Cuts);
    let is_owner = |class: &Class| matches!(class, Class::Data | Class::Content);
    let owners = count(is_owner) + u64::from(entity.own_data);
    for content in references.iter().filter(|r| r.class == Class::Content) {
        compare_room(content, entity.room, sink);
    }
    if entity.has_data && owners > 1 || (entity.kind == 0 && owners == 0 && !sink.has_damage()) {
        let object = number;
        if owners == 0 {
            sink.report(finding(Problem::Unreachable));
        } else {
            sink.report(finding(Problem::DataOwners { object, owners }));
        }
    }
    if entity.kind == 0 {
        let others = references.iter().filter(|r| !is_owner(&r.class));
        for reference in others {
            let problem = Problem::DanglingName { target: number };
            let finding = Finding::new(Part::Files, problem);
            if !sink.is_damaged(number) {
                sink.report(finding.of(reference.from));
            }
        }
        return;
    }
    let other_kind = |class: &Class| matches!(class, Class::Name(kind) if *kind != entity.kind);
    if references.iter().any(|r| other_kind(&r.class)) {
        sink.report(finding(Problem::KindContradicted));
    }
    let lost_names = sink.has_damage();
    if entity.links == 0 {
        if names > 0 {
            let problem = Problem::Links {
                recorded: 0,
                counted: names,
            };
            sink.report(finding(problem));
        }
        if nameless == 0 && !lost_names {
            sink.report(finding(Problem::Unreachable));
        }
        return;
    }
    if nameless > 0 {
        // It would be freed although it is in use.
        let problem = Problem::ItemMisplaced(crate::ItemKind::Orphan);
        sink.report(finding(problem));
    }
    if entity.has_cuts && cuts == 0 && !lost_names {
        sink.report(finding(Problem::Unreachable));
    }
    if entity.is_directory() {
        let expected = u64::from(number != ROOT.0);
        let found = references
            .iter()
            .find(|r| matches!(r.class, Class::Name(_)));
        if names == 0 && expected == 1 && !lost_names {
            sink.report(finding(Problem::Unreachable));
        } else if names > expected {
            let problem = Problem::Links {
                recorded: 1,
                counted: names,
            };
            sink.report(finding(problem));
        }
        let named_by = if number == ROOT.0 {
            Some(ROOT.0)
        } else {
            found.map(|reference| reference.from)
        };
        if let Some(found) = named_by.filter(|&found| found != entity.parent) {
            let recorded = entity.parent;
            sink.report(finding(Problem::Parent { recorded, found }));
        }
        return;
    }
    if names == u64::from(entity.links) || (lost_names && names < u64::from(entity.links)) {
        return;
    }
    let problem = Problem::Links {
        recorded: entity.links,
        counted: names,
    };
    if names == 0 {
        sink.report(finding(Problem::Unreachable));
    } else {
        sink.report(finding(problem).by(Repair::Links));
    }
}
