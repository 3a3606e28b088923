//! Directories that two transactions change at once.
//!
//! Who creates, removes or renames a name also changes the inode of the directory it is in: how many entries there are, how many
//! directories among them, and two times. None of that need keep others from doing the same with other names: the counts are
//! added up, and times are those of whoever commits last, as if all of it had happened then (a time that is set to what it was
//! counts as left alone). What else an inode says is
//! changed by one of the two or they conflict. A directory that one of the two has removed, the other may not have changed
//! at all.

use crate::namespace::{ATTRIBUTE_NAMES_BYTES_MAX, FileKind, Inode, LINKS_MAX};

/// What a commit has changed in an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum InodeChange {
    /// Nothing that anybody sees: what is left to free behind the scenes.
    Hidden,
    /// Something that can be seen, but nothing that a way through it depends on.
    Seen,
    /// That it is there, or of a directory where.
    Passage,
}

/// How an inode's item was changed; `None`: there is none.
pub(crate) fn change_of(old: Option<&[u8]>, new: Option<&[u8]>) -> InodeChange {
    let decode = |value: Option<&[u8]>| value.and_then(|value| Inode::decode(value).ok());
    let (Some(old), Some(new)) = (decode(old), decode(new)) else {
        return InodeChange::Passage;
    };
    let passage = |inode: &Inode| (inode.kind, inode.links == 0, inode.parent);
    if passage(&old) != passage(&new) {
        return InodeChange::Passage;
    }
    let visible = Inode {
        cuts: old.cuts.clone(),
        allocated: old.allocated,
        ..new
    };
    if old.kind == FileKind::File && old == visible {
        InodeChange::Hidden
    } else {
        InodeChange::Seen
    }
}

/// The inode of a directory that was `base`, is `own` for a transaction, and `newest` for all others, with the changes of both;
/// `None` when they do not go together.
pub(crate) fn merge(base: &Inode, own: &Inode, newest: &Inode) -> Option<Inode> {
    let there = |inode: &Inode| inode.is_directory() && inode.links != 0;
    if ![base, own, newest].into_iter().all(there) {
        return None;
    }
    let sum = |field: fn(&Inode) -> u64| {
        let grown = field(own).checked_sub(field(base));
        match grown {
            Some(more) => field(newest).checked_add(more),
            None => field(newest).checked_sub(field(base) - field(own)),
        }
    };
    let last = |field: fn(&Inode) -> i64| {
        let untouched = field(own) == field(base);
        field(if untouched { newest } else { own })
    };
    let links = sum(|inode| inode.links.into())?;
    let names = sum(|inode| inode.attribute_names_bytes.into())?;
    Some(Inode {
        mode: one_of(base.mode, own.mode, newest.mode)?,
        uid: one_of(base.uid, own.uid, newest.uid)?,
        gid: one_of(base.gid, own.gid, newest.gid)?,
        parent: one_of(base.parent, own.parent, newest.parent)?,
        size: sum(|inode| inode.size)?,
        links: u32::try_from(links)
            .ok()
            .filter(|links| (2..=LINKS_MAX).contains(links))?,
        attribute_names_bytes: u32::try_from(names)
            .ok()
            .filter(|&bytes| bytes as usize <= ATTRIBUTE_NAMES_BYTES_MAX)?,
        mtime_ns: last(|inode| inode.mtime_ns),
        ctime_ns: last(|inode| inode.ctime_ns),
        atime_ns: last(|inode| inode.atime_ns),
        ..newest.clone()
    })
}

/// The value that was changed, by one of the two or by both to the same.
fn one_of<T: PartialEq + Copy>(base: T, own: T, newest: T) -> Option<T> {
    if own == base || own == newest {
        Some(newest)
    } else if newest == base {
        Some(own)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::{InodeNumber, NewInode};

    fn directory() -> Inode {
        let new = NewInode::new(FileKind::Directory, 0o755);
        Inode {
            size: 3,
            links: 4,
            ..Inode::new(&new, InodeNumber(1), 100)
        }
    }

    #[test]
    fn counts_add_up_and_times_are_those_of_the_last_to_commit() {
        let base = directory();
        let own = Inode {
            size: 2,
            links: 3,
            mtime_ns: 150,
            ctime_ns: 150,
            ..base.clone()
        };
        let newest = Inode {
            size: 5,
            links: 5,
            mtime_ns: 200,
            mode: 0o700,
            ..base.clone()
        };
        let merged = merge(&base, &own, &newest);
        let expected = Inode {
            size: 4,
            links: 4,
            mode: 0o700,
            mtime_ns: 150,
            ctime_ns: 150,
            ..base.clone()
        };
        assert_eq!(merged, Some(expected.clone()));
        let other_way = Inode {
            mtime_ns: 200,
            ..expected
        };
        assert_eq!(merge(&base, &newest, &own), Some(other_way));
    }

    #[test]
    fn what_is_removed_moved_twice_or_too_much_does_not_go_together() {
        let base = directory();
        let own = Inode {
            size: 4,
            links: 5,
            parent: 7,
            ..base.clone()
        };
        let gone = Inode {
            links: 0,
            ..base.clone()
        };
        let elsewhere = Inode {
            parent: 8,
            ..base.clone()
        };
        let full = Inode {
            links: LINKS_MAX,
            ..base.clone()
        };
        let other_mode = |mode| Inode {
            mode,
            ..base.clone()
        };
        for other in [&gone, &elsewhere, &full] {
            assert_eq!(merge(&base, &own, other), None);
            assert_eq!(merge(&base, other, &own), None);
        }
        assert_eq!(merge(&base, &other_mode(0o700), &other_mode(0o711)), None);
        assert!(merge(&base, &other_mode(0o700), &other_mode(0o700)).is_some());
    }

    #[test]
    fn changes_are_told_apart_by_who_they_matter_to() {
        let base = directory();
        let encoded = base.encode();
        let change = |new: &Inode| change_of(Some(&encoded), Some(&new.encode()));
        let more = Inode {
            size: 4,
            links: 5,
            mtime_ns: 7,
            ..base.clone()
        };
        assert_eq!(change(&more), InodeChange::Seen);
        let moved = Inode {
            parent: 9,
            ..base.clone()
        };
        let removed = Inode {
            links: 0,
            ..base.clone()
        };
        assert_eq!(change(&moved), InodeChange::Passage);
        assert_eq!(change(&removed), InodeChange::Passage);
        assert_eq!(change_of(None, Some(&encoded)), InodeChange::Passage);
        assert_eq!(change_of(Some(&encoded), None), InodeChange::Passage);
        let mut file = Inode {
            parent: 0,
            ..Inode::new(&NewInode::new(FileKind::File, 0o644), InodeNumber(1), 5)
        };
        let whole = file.encode();
        file.cuts.add(4096, 8192);
        file.allocated = 4096;
        let cut = change_of(Some(&whole), Some(&file.encode()));
        assert_eq!(cut, InodeChange::Hidden);
        file.size = 1;
        let written = change_of(Some(&whole), Some(&file.encode()));
        assert_eq!(written, InodeChange::Seen);
    }
}
