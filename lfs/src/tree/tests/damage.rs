//! Blocks that are not what they should be: refused with the right reason, never a panic, and what is
//! accepted is exactly what would be written.

use super::super::codec::{decode, encode};
use super::*;
use crate::disk::layout::checksum_after_head;

const OWN: BlockIndex = BlockIndex(77);
const GENERATION: u64 = 9;

fn put_all(kind: TreeKind, items: impl Iterator<Item = (Key, Item)>) -> Bench {
    let mut bench = Bench::new(kind, 10 << 20);
    for (key, item) in items {
        bench.put(key, &item);
    }
    bench.checkpoint();
    bench
}

/// A leaf with items of all kinds, and an interior node.
fn blocks() -> [[u8; BLOCK_SIZE]; 2] {
    let mut random = Random::new(3);
    let mut small = move || {
        let item = random_item(&mut random, 5000);
        let key = random_key(&mut random, TreeKind::History);
        (item.value.len() <= 200).then_some((key, item))
    };
    let leaf = (0..50).filter_map(|_| small());
    let mut leaf = put_all(TreeKind::History, leaf);
    let interior = (0..3000).map(|index| (extent(index % 7, index), Item::new(index, &[1; 20])));
    let mut interior = put_all(TreeKind::History, interior);
    [&mut leaf, &mut interior].map(|bench| {
        let root = bench.root.unwrap();
        let block = &bench.disk.blocks[&root.pointer.block];
        let (_, node) = decode(block, &vault(), root.pointer, None).unwrap();
        let mut block = [0; BLOCK_SIZE];
        encode(&node, &vault(), OWN, GENERATION, &mut block);
        block
    })
}

/// The pointer to whatever `block` holds.
fn pointer_to(block: &[u8]) -> NodePointer {
    NodePointer {
        block: OWN,
        checksum: u32::from_le_bytes(block[4..8].try_into().unwrap()),
    }
}

/// Makes the checksum right: what an attacker, or a bug, would do.
fn seal(block: &mut [u8]) {
    let checksum = checksum_after_head(block);
    block[4..8].copy_from_slice(&checksum.to_le_bytes());
}

/// A block with a right checksum is refused or is what encoding makes of the node.
fn check_sealed(block: &mut [u8; BLOCK_SIZE]) -> bool {
    seal(block);
    let Ok((header, node)) = decode(block, &vault(), pointer_to(block), None) else {
        return false;
    };
    assert!(
        node.memory_bytes() < 5 * BLOCK_SIZE,
        "{}",
        node.memory_bytes()
    );
    let mut again = [0xEE; BLOCK_SIZE];
    encode(&node, &vault(), OWN, header.generation, &mut again);
    assert!(*block == again, "accepted what is never written");
    true
}

#[test]
fn a_block_with_any_byte_changed_is_refused() {
    for block in blocks() {
        let pointer = pointer_to(&block);
        assert!(decode(&block, &vault(), pointer, None).is_ok());
        for index in 0..BLOCK_SIZE {
            for change in [1, 0x80, 0xFF] {
                let mut changed = block;
                changed[index] ^= change;
                assert!(
                    decode(&changed, &vault(), pointer, None).is_err(),
                    "byte {index}"
                );
                assert!(inspect(&changed, &vault(), OWN).is_none(), "byte {index}");
            }
        }
        for len in [0, 1, 95, 96, 4095] {
            assert!(decode(&block[..len], &vault(), pointer, None).is_err());
        }
        assert!(decode(&[&block[..], &[0]].concat(), &vault(), pointer, None).is_err());
    }
}

#[test]
fn what_has_a_right_checksum_is_accepted_only_as_it_would_be_written() {
    let mut random = Random::new(seed(1));
    let mut accepted = 0;
    for block in blocks() {
        for index in 8..BLOCK_SIZE {
            for change in [1, 2, 4, 8, 16, 32, 64, 128, 0xFF] {
                let mut changed = block;
                changed[index] ^= change;
                accepted += usize::from(check_sealed(&mut changed));
            }
        }
        for _ in 0..20_000 {
            let mut changed = block;
            let used = usize::from(u16::from_le_bytes([block[76], block[77]]));
            for _ in 0..=random.index(3) {
                changed[74 + random.index(22 + used)] =
                    random.next_u64().to_le_bytes()[random.index(3)];
            }
            accepted += usize::from(check_sealed(&mut changed));
        }
        for _ in 0..20_000 {
            // Entries of random bytes, few of them set.
            let mut changed = block;
            let (used, rarity) = (1 + random.index(200), 1 + random.below(4));
            changed[96..].fill(0);
            for byte in &mut changed[96..96 + used] {
                *byte = if random.one_in(rarity) {
                    random.next_u64().to_le_bytes()[0]
                } else {
                    0
                };
            }
            changed[74] = 1 + random.next_u64().to_le_bytes()[0] % 4;
            (changed[75], changed[77]) = (0, 0);
            changed[76] = used.to_le_bytes()[0];
            accepted += usize::from(check_sealed(&mut changed));
        }
    }
    // Values, births and pointers may be anything, so some are.
    assert!(accepted > 1000, "{accepted}");
}

#[test]
fn each_defect_has_its_name() {
    let [block, _] = blocks();
    let pointer = pointer_to(&block);
    let of = |block: &[u8], pointer, expected: Option<Expected>| {
        decode(block, &vault(), pointer, expected.as_ref())
            .map(drop)
            .unwrap_err()
    };
    let changed = |offset: usize, byte: u8| {
        let mut changed = block;
        changed[offset] ^= byte;
        seal(&mut changed);
        of(&changed, pointer_to(&changed), None)
    };
    let expected = |tree, level, low: u64| {
        let low = Key {
            object: low,
            ..Key::MIN
        };
        let range = KeyRange { low, high: None };
        Some(Expected { tree, level, range })
    };
    assert_eq!(changed(0, 1), Defect::NotANode);
    assert_eq!(changed(8, 1), Defect::OtherFileSystem);
    assert_eq!(changed(24, 1), Defect::OtherPlace);
    assert_eq!(changed(32, 0xFF), Defect::Seal);
    assert_eq!(changed(60, 1), Defect::Seal);
    assert_eq!(changed(72, 0xFF), Defect::Malformed);
    assert_eq!(changed(74, 1), Defect::Malformed);
    assert_eq!(changed(78, 1), Defect::Malformed);
    assert_eq!(changed(BLOCK_SIZE - 1, 1), Defect::Malformed);
    let other = NodePointer {
        checksum: pointer.checksum ^ 1,
        ..pointer
    };
    assert_eq!(of(&block, other, None), Defect::Checksum);
    assert_eq!(
        of(&block, pointer, expected(TreeKind::Live, 0, 0)),
        Defect::OtherTree
    );
    assert_eq!(
        of(&block, pointer, expected(TreeKind::History, 1, 0)),
        Defect::OtherLevel
    );
    assert_eq!(
        of(&block, pointer, expected(TreeKind::History, 0, 1 << 62)),
        Defect::OutOfRange
    );
}

/// An interior node whose children are all the same leaf would make walks endless.
#[test]
fn a_node_in_two_places_is_damage_where_it_does_not_belong() {
    let mut bench = put_all(
        TreeKind::Live,
        [(extent(1, 10), Item::new(1, b"x"))].into_iter(),
    );
    let leaf = bench.root.unwrap().pointer;
    let mut node = Node::empty(TreeKind::Live, 1);
    for index in 0..200 {
        node.insert_child(index, extent(1, index as u64), Child::Stored(leaf));
    }
    let own = bench.disk.allocate();
    let mut block = [0; BLOCK_SIZE];
    let pointer = encode(&node, &vault(), own, 1, &mut block);
    bench.disk.blocks.insert(own, block);
    let root = TreeRoot { pointer, level: 1 };
    let mut walk = Walk::new(TreeKind::Live, Some(root), vault());
    let (mut good, mut bad) = (0, 0);
    while let Some(place) = walk.next_place() {
        match walk.enter(&place, &bench.disk.blocks[&place.pointer.block]) {
            Ok(_) => good += 1,
            Err(damaged) => {
                assert_eq!(damaged.defect, Defect::OutOfRange);
                bad += 1;
            }
        }
    }
    assert_eq!((good, bad), (2, 199));

    let tree = Tree::open(TreeKind::Live, Some(root), Rc::clone(&bench.cache)).unwrap();
    let mut held = Held::default();
    let mut load = |key: Key| loop {
        match tree.get(&key) {
            Ok(found) => return Ok::<_, Damaged>(found.is_some()),
            Err(Fault::Node(pointer)) => {
                let block = &bench.disk.blocks[&pointer.block];
                held.hold(bench.cache.borrow_mut().insert(pointer, block)?);
            }
            Err(fault) => unreachable!("{fault:?}"),
        }
    };
    // Being in memory for the right place does not make it right elsewhere, nor wrong there.
    assert_eq!(load(extent(1, 10)), Ok(true));
    assert_eq!(load(extent(1, 50)).unwrap_err().defect, Defect::OutOfRange);
    assert_eq!(load(extent(1, 10)), Ok(true));
    let too_high = TreeRoot { pointer, level: 16 };
    assert!(Tree::open(TreeKind::Live, Some(too_high), Rc::clone(&bench.cache)).is_err());
}

/// What had failed once was taken for what it should be when it was read again, and whoever needed it asked for ever: of a mirror the other copy is read, the cleaner has
/// read it before.
#[test]
fn a_node_that_is_damage_is_damage_however_often_it_is_read() {
    let leaf = [(extent(1, 10), Item::new(1, b"x"))].into_iter();
    let bench = put_all(TreeKind::Live, leaf);
    let pointer = bench.root.unwrap().pointer;
    let block = &bench.disk.blocks[&pointer.block];
    let mut cache = NodeCache::new(vault(), 1 << 20);
    let wrong = Expected {
        tree: TreeKind::History,
        level: 0,
        range: KeyRange {
            low: Key::MIN,
            high: None,
        },
    };
    assert!(cache.find(pointer, &wrong).is_none());
    for _ in 0..3 {
        assert!(cache.insert(pointer, block).is_err());
    }
}
