//! Whether the items of a file system fit together: what `SPEC.md` says they have in common.

use std::collections::{BTreeMap, BTreeSet};

use lfs::{Description, FileKind, InodeNumber, ItemKey, ROOT, describe_item, is_position_of};

#[derive(Debug, Default)]
struct Counted {
    names: u32,
    entries: u64,
    directories: u32,
    attribute_names_bytes: u32,
}

/// Checks all items; `objects` are those that have data, each with how much room they take.
///
/// # Panics
/// With what does not fit.
pub fn check<'i>(
    items: impl Iterator<Item = (ItemKey, &'i [u8])>,
    objects: impl Iterator<Item = (u64, u64)>,
    hash: fn(&[u8]) -> u64,
) {
    let objects = objects.collect::<BTreeMap<_, _>>();
    let mut inodes = BTreeMap::new();
    let mut counted: BTreeMap<InodeNumber, Counted> = BTreeMap::new();
    let mut parents = BTreeMap::new();
    let mut objects_owned = BTreeSet::new();
    let mut own = |object: u64| assert!(objects_owned.insert(object), "{object} has two owners");
    let mut orphans = BTreeMap::new();
    let mut named = Vec::new();
    for (key, value) in items {
        let owner = InodeNumber(key.object);
        let description = describe_item(key, value)
            .expect("decodes")
            .expect("is known");
        match description {
            Description::Inode {
                data_object,
                allocated_bytes,
                ..
            } => {
                if data_object != 0 {
                    own(data_object);
                }
                let room = objects.get(&data_object).copied().unwrap_or(0);
                assert_eq!(allocated_bytes, room, "{owner:?}: {description:?}");
                inodes.insert(owner, description);
            }
            Description::Entry { name, inode, kind } => {
                assert!(is_position_of(key.position, hash(&name)));
                let directory = counted.entry(owner).or_default();
                directory.entries += 1;
                if kind == FileKind::Directory {
                    directory.directories += 1;
                    assert_eq!(parents.insert(inode, owner), None, "two parents");
                }
                counted.entry(inode).or_default().names += 1;
                named.push((inode, kind));
            }
            Description::Attribute { name, object, .. } => {
                assert!(is_position_of(key.position, hash(&name)));
                let bytes = u32::try_from(name.len()).expect("is short") + 1;
                counted.entry(owner).or_default().attribute_names_bytes += bytes;
                object.map(&mut own);
            }
            Description::Freeing { object, .. } => own(object),
            other => assert_eq!(orphans.insert(InodeNumber(key.position), other), None),
        }
    }
    for (inode, as_kind) in named {
        let found = inodes.get(&inode).expect("a name has an inode");
        assert!(matches!(found, Description::Inode { kind, .. } if *kind == as_kind));
    }
    for (&inode, description) in &inodes {
        check_inode(inode, description, &counted, &parents, orphans.get(&inode));
    }
    for inode in counted.keys().chain(orphans.keys()) {
        assert!(inodes.contains_key(inode), "{inode:?} is not there");
    }
    for object in objects.keys() {
        assert!(
            objects_owned.contains(object),
            "data of {object} belongs to nobody"
        );
    }
}

fn check_inode(
    inode: InodeNumber,
    description: &Description,
    counted: &BTreeMap<InodeNumber, Counted>,
    parents: &BTreeMap<InodeNumber, InodeNumber>,
    orphan: Option<&Description>,
) {
    let Description::Inode {
        kind,
        links,
        size,
        parent,
        attribute_names_bytes,
        has_cuts,
        ..
    } = description
    else {
        panic!("{description:?}");
    };
    let none = Counted::default();
    let counted = counted.get(&inode).unwrap_or(&none);
    let what = || format!("{inode:?}: {description:?} {counted:?} {orphan:?}");
    if *kind == FileKind::Directory {
        assert_eq!(counted.entries, *size, "{}", what());
        let named = inode == ROOT || counted.names == 1;
        assert_eq!(
            *links,
            if named { 2 + counted.directories } else { 0 },
            "{}",
            what()
        );
        if inode == ROOT {
            assert_eq!((*parent, counted.names), (ROOT, 0), "{}", what());
        } else if named {
            assert_eq!(parents.get(&inode), Some(parent), "{}", what());
        }
    } else {
        assert_eq!(counted.names, *links, "{}", what());
        assert_eq!(counted.entries, 0, "{}", what());
    }
    assert_eq!(
        counted.attribute_names_bytes,
        *attribute_names_bytes,
        "{}",
        what()
    );
    let right = match orphan {
        Some(Description::Nameless(_)) => {
            *links == 0 && (*kind != FileKind::Directory || *size == 0)
        }
        Some(Description::Tree(_)) => *links == 0 && *kind == FileKind::Directory,
        Some(Description::Cuts(_)) => *links > 0,
        _ => *links > 0 && !has_cuts,
    };
    assert!(right, "{}", what());
}
