//! What items take: bytes on disk, in memory, and (printed only) time.

use std::time::Instant;
use std::vec::Vec;

use super::*;

const ITEMS: u64 = 1_000_000;
const FEWER_ITEMS: u64 = 200_000;

/// Bytes in use of all bytes, and bytes of disk for each item.
#[derive(Debug)]
struct Cost {
    fill_percent: usize,
    leaf_bytes_per_100_items: u64,
    #[expect(dead_code, reason = "printed")]
    disk_bytes_per_100_items: u64,
    memory_bytes_per_node: usize,
}

/// Puts the keys with what extents hold, and writes a checkpoint every so often.
fn cost(name: &str, keys: impl Iterator<Item = Key>, value_bytes: usize) -> Cost {
    let mut bench = Bench::new(TreeKind::Live, 1 << 30);
    let keys = keys.collect::<Vec<_>>();
    let start = Instant::now();
    for (index, key) in keys.iter().enumerate() {
        let mut value = [0; 64];
        value[..8].copy_from_slice(&(index as u64).to_le_bytes());
        let item = Item::new(1_000_000 + index as u64 / 20, &value[..value_bytes]);
        bench.tree.prepare(key).unwrap();
        bench.tree.put(*key, &item).unwrap();
    }
    let put_ns = start.elapsed().as_nanos() / keys.len() as u128;
    let mut frozen = bench.tree.freeze(1);
    let (mut used, mut nodes, mut leaves) = (0, 0, 0);
    let start = Instant::now();
    let mut latest = 0;
    let allocate = || {
        latest += 1;
        Some(BlockIndex(latest))
    };
    let written = frozen.next_batch(usize::MAX, allocate, |own, block| {
        bench.disk.blocks.insert(own, *block);
    });
    assert_eq!(written, Ok(false));
    let write_ns = start.elapsed().as_nanos() / frozen.dirty_nodes() as u128;
    let root = frozen.root();
    bench.tree.settle(frozen);
    while bench.tree.settle_step(100) {}
    let mut walk = Walk::new(TreeKind::Live, root, vault());
    let start = Instant::now();
    while let Some(place) = walk.next_place() {
        let visited = walk
            .enter(&place, &bench.disk.blocks[&place.pointer.block])
            .unwrap();
        nodes += 1;
        used += visited.header.used_bytes;
        leaves += if place.level == 0 {
            visited.header.used_bytes
        } else {
            0
        };
    }
    let read_ns = start.elapsed().as_nanos() / nodes as u128;
    let memory = bench.cache.borrow().memory_bytes() / bench.cache.borrow().len();
    let start = Instant::now();
    for key in &keys {
        assert!(bench.tree.get(key).unwrap().is_some());
    }
    let get_ns = start.elapsed().as_nanos() / keys.len() as u128;
    let cost = Cost {
        fill_percent: used * 100 / (nodes * super::super::codec::NODE_PAYLOAD_BYTES),
        leaf_bytes_per_100_items: leaves as u64 * 100 / keys.len() as u64,
        disk_bytes_per_100_items: (nodes * BLOCK_SIZE) as u64 * 100 / keys.len() as u64,
        memory_bytes_per_node: memory,
    };
    println!(
        "{name}: {cost:?}, put {put_ns} ns, get {get_ns} ns, encode {write_ns} ns, decode {read_ns} ns"
    );
    assert!(cost.memory_bytes_per_node < 4 * BLOCK_SIZE);
    cost
}

#[test]
fn items_put_in_order_fill_their_nodes() {
    let one = cost("one file", (0..ITEMS).map(|index| extent(9, index)), 12);
    assert!(one.fill_percent >= 90 && one.leaf_bytes_per_100_items <= 2200);
    // Many files that grow at once, each after another's items.
    let many = cost(
        "64 files",
        (0..FEWER_ITEMS).map(|index| extent(1 + index % 64, index / 64)),
        12,
    );
    assert!(many.fill_percent >= 85 && many.leaf_bytes_per_100_items <= 2200);
}

#[test]
fn items_put_anywhere_leave_nodes_well_filled() {
    let mut random = Random::new(1);
    let keys = (0..ITEMS).map(|_| extent(9, random.below(1 << 28)));
    let extents = cost("random extents", keys, 12);
    assert!(extents.fill_percent >= 75 && extents.leaf_bytes_per_100_items <= 2200);
    let mut random = Random::new(2);
    let names = (0..FEWER_ITEMS).map(|_| Key {
        object: 9,
        kind: ItemKind::Entry,
        position: random.next_u64(),
        version: 0,
    });
    let names = cost("names", names, 30);
    assert!(names.fill_percent >= 75);
}
