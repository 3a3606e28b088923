//! Faults: what has to be read from the disk before an operation can go on.
//!
//! Operations on the tree are plain functions: they see one state and nothing happens in between. What they
//! need may not be in memory; then they return a [`Fault`] and have changed nothing. Whoever runs them
//! loads what is missing and runs them again from the start.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::BlockIndex;
use crate::check::PieceAt;
use crate::transaction::Unseen;

/// Where a tree node is on the disk, and how to know it again. Kept in its parent, or in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodePointer {
    /// Its block.
    pub block: BlockIndex,
    /// Checksum of the whole block: a node that is intact but not the one meant shows.
    pub checksum: u32,
}

/// Bytes on the disk that one operation wants: a stored extent, or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoredRange {
    /// First byte, from the start of the device.
    pub address: u64,
    /// How many.
    pub len_bytes: u32,
}

/// Bytes that were loaded and are not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuspectData(pub(crate) PieceAt);

/// Something that must be loaded, or done, first. Nothing has been changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A node of the tree.
    Node(NodePointer),
    /// Nodes of the tree: the first, and others that will be asked for next.
    Nodes(Vec<NodePointer>),
    /// Not something to read: a checkpoint, after which so many more nodes may change.
    Changes(usize),
    /// File data.
    Data(Vec<StoredRange>),
    /// File data that were loaded and are damaged: another copy may have them.
    Suspect(SuspectData),
    /// Nothing is missing, but much was passed by that the state does not show: others should have their turn.
    Unseen(Unseen),
}

impl Fault {
    /// As few faults as ask for the same: what is read of a kind becomes one, in the place of the first, and is there once.
    pub(crate) fn gathered(faults: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut gathered: Vec<Self> = Vec::new();
        for fault in faults {
            let fault = match fault {
                Self::Node(pointer) => Self::Nodes(alloc::vec![pointer]),
                fault => fault,
            };
            let taken_in = gathered.iter_mut().any(|before| before.takes_in(&fault));
            if !taken_in {
                gathered.push(fault);
            }
        }
        for fault in &mut gathered {
            match fault {
                Self::Nodes(pointers) => keep_once(pointers),
                Self::Data(ranges) => keep_once(ranges),
                _ => {}
            }
        }
        gathered
    }

    /// Asks for what another one asks for besides, if both are of a kind.
    fn takes_in(&mut self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nodes(own), Self::Nodes(others)) => own.extend(others),
            (Self::Data(own), Self::Data(others)) => own.extend(others),
            _ => return false,
        }
        true
    }
}

/// Drops what was there before.
fn keep_once<T: Copy + Ord>(all: &mut Vec<T>) {
    let mut seen = BTreeSet::new();
    all.retain(|one| seen.insert(*one));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_of_a_kind_is_asked_for_at_once_and_only_once() {
        let range = |address| StoredRange {
            address,
            len_bytes: 9,
        };
        let faults = [
            Fault::Data(alloc::vec![range(5), range(3)]),
            Fault::Changes(4),
            Fault::Data(alloc::vec![range(4), range(5)]),
            Fault::Changes(4),
        ];
        let expected = [
            Fault::Data(alloc::vec![range(5), range(3), range(4)]),
            Fault::Changes(4),
            Fault::Changes(4),
        ];
        assert_eq!(Fault::gathered(faults), expected);
        assert_eq!(Fault::gathered([]), []);
    }
}
