//! What trees promise about single steps: what is held stays, what is prepared goes well, what
//! fails changes nothing.

use std::vec::Vec;

use super::*;
use crate::disk::layout::NUMBER_MAX;

/// A tree of three levels on the disk, opened afresh with a cache in which nothing stays.
fn stored(items: u64) -> Bench {
    ENTRIES_MAX.set(16);
    let mut bench = Bench::new(TreeKind::Live, 0);
    for index in 0..items {
        bench.put(extent(1, index), &Item::new(index, b"somewhere"));
    }
    bench.checkpoint();
    bench.reopen();
    assert!(!bench.cache.borrow_mut().shrink(usize::MAX));
    assert_eq!(bench.cache.borrow().len(), 0);
    bench
}

#[test]
fn held_nodes_stay_and_others_go() {
    let bench = stored(2000);
    assert_eq!(bench.tree.level, 2);
    let mut held = Held::default();
    let mut asked = BTreeSet::new();
    let keys = (0..20)
        .map(|index| extent(1, index * 100))
        .collect::<Vec<_>>();
    let runs = (1..1000).find(|_| {
        let found = keys
            .iter()
            .try_for_each(|key| bench.tree.get(key).map(drop));
        let Err(Fault::Node(pointer)) = found else {
            return true;
        };
        assert!(asked.insert(pointer.block), "asked twice");
        let block = &bench.disk.blocks[&pointer.block];
        held.hold(bench.cache.borrow_mut().insert(pointer, block).unwrap());
        false
    });
    assert_eq!(runs, Some(held.len() + 1));
    assert!(held.len() > 20 && bench.cache.borrow().len() == held.len());
    assert!(held.memory_bytes() <= bench.cache.borrow().memory_bytes());
    held.clear();
    assert!(!bench.cache.borrow_mut().shrink(100));
    assert_eq!(
        (
            bench.cache.borrow().len(),
            bench.cache.borrow().memory_bytes()
        ),
        (0, 0)
    );
}

#[test]
fn a_cache_keeps_what_is_used_within_its_bound() {
    let mut bench = stored(3000);
    let bound = 40_000;
    bench.cache.borrow_mut().set_memory_bytes_max(bound);
    let hot = extent(1, 5);
    for index in 0..3000 {
        bench.check_key(hot);
        let before = bench.loads;
        bench.check_key(hot);
        assert_eq!(bench.loads, before);
        bench.check_key(extent(1, index));
        assert!(bench.cache.borrow().memory_bytes() <= bound);
    }
    // One leaf after another was read, but the hot one stayed nearly always.
    assert!(bench.loads < 3 * 3000 / 16 * 2, "{}", bench.loads);
}

#[test]
fn what_is_prepared_goes_well_even_where_a_whole_leaf_goes_before() {
    let mut bench = stored(640);
    // Each stretch is more than a leaf; what is put comes back into the midst of it.
    for start in [0, 100, 333, 600] {
        let mut changes = (start..start + 40)
            .map(|index| (extent(1, index), None))
            .collect::<Vec<_>>();
        changes.extend(
            [3, 20, 39].map(|index| (extent(1, start + index), Some(Item::new(9, b"back")))),
        );
        bench.step(&changes);
    }
    bench.check_all();
    bench.checkpoint();
    bench.check_all();
}

#[test]
fn without_preparation_a_change_asks_and_changes_nothing() {
    let mut bench = stored(640);
    let key = extent(1, 300);
    assert!(matches!(
        bench.tree.put(key, &Item::new(1, b"new")),
        Err(Fault::Node(_))
    ));
    assert!(matches!(bench.tree.remove(&key), Err(Fault::Node(_))));
    bench.check_all();
    bench.checkpoint();
    bench.check_all();
}

#[test]
fn what_is_removed_in_vain_makes_nothing_dirty() {
    let mut bench = stored(640);
    bench.step(&[(extent(2, 0), None), (extent(1, 9999), None)]);
    assert_eq!(bench.tree.dirty_nodes(), 0);
}

#[test]
fn a_checkpoint_without_room_goes_on_later_or_leaves_all_dirty() {
    let mut bench = stored(640);
    let changes = (0..64).map(|index| {
        (
            extent(1, index * 10),
            Some(Item::new(7, b"changed elsewhere")),
        )
    });
    bench.step(&changes.collect::<Vec<_>>());
    let dirty = bench.tree.dirty_nodes();
    let (mut frozen, _) = bench.freeze();
    let (mut rooms, mut written) = (5, 0);
    let mut room = || {
        rooms -= 1;
        (rooms >= 0).then_some(BlockIndex(1 << 40))
    };
    assert_eq!(
        frozen.next_batch(usize::MAX, &mut room, |_, _| written += 1),
        Err(NoSpace)
    );
    assert_eq!(
        frozen.next_batch(usize::MAX, &mut room, |_, _| written += 1),
        Err(NoSpace)
    );
    assert!(written == 5 && !frozen.is_written());
    let mut room = || Some(BlockIndex(1 << 40));
    assert_eq!(
        frozen.next_batch(usize::MAX, &mut room, |_, _| written += 1),
        Ok(false)
    );
    assert!(written == dirty && frozen.dirty_nodes() == dirty);
    drop(frozen);
    assert_eq!(bench.tree.dirty_nodes(), dirty);
    bench.checkpoint();
    bench.reopen();
    bench.check_all();
}

#[test]
fn a_checkpoint_writes_only_what_has_changed() {
    let mut bench = stored(2000);
    bench.put(extent(1, 1000), &Item::new(7, b"changed"));
    assert_eq!(
        (bench.tree.dirty_nodes(), bench.tree.dirty_bytes()),
        (3, 3 * BLOCK_SIZE)
    );
    bench.checkpoint();
    let (frozen, _) = bench.freeze();
    assert_eq!(
        (frozen.dirty_nodes(), frozen.root(), frozen.freed().len()),
        (0, bench.root, 0)
    );
}

#[test]
fn every_node_can_be_moved_and_only_where_it_is() {
    let mut bench = stored(2000);
    let before = bench.in_use.clone();
    for &block in &before {
        let (header, first) = inspect(&bench.disk.blocks[&block], &vault(), block).unwrap();
        // Those above one that was moved have become dirty: they move too.
        let moved = bench.run(|tree| tree.redirty(block, header.level, &first));
        assert!(moved || header.level > 0);
        assert!(!bench.run(|tree| tree.redirty(block, header.level, &first)));
        assert!(!bench.run(|tree| tree.redirty(BlockIndex(1 << 40), header.level, &first)));
        assert!(!bench.run(|tree| tree.redirty(block, 3, &first)));
    }
    assert_eq!(bench.tree.dirty_nodes(), before.len());
    // What is free from now on is used only after the checkpoint: nothing is where it was.
    bench.checkpoint();
    assert!(bench.in_use.is_disjoint(&before));
    bench.check_all();
}

#[test]
fn what_has_been_emptied_takes_no_room() {
    let mut bench = stored(2000);
    // From the front, one by one, so that no neighbour is in memory.
    for index in 0..1990 {
        bench.step(&[(extent(1, index), None)]);
        if index % 100 == 0 {
            bench.checkpoint();
        }
    }
    bench.checkpoint();
    assert!(bench.in_use.len() <= 2, "{}", bench.in_use.len());
    bench.check_all();
}

#[test]
fn trees_share_a_cache_but_no_node() {
    let mut bench = stored(640);
    let history = Tree::open(TreeKind::History, bench.root, Rc::clone(&bench.cache)).unwrap();
    bench.check_all();
    let Err(Fault::Node(pointer)) = history.get(&extent(1, 1)) else {
        panic!("no fault");
    };
    let inserted = bench
        .cache
        .borrow_mut()
        .insert(pointer, &bench.disk.blocks[&pointer.block]);
    assert_eq!(inserted.unwrap_err().defect, Defect::OtherTree);
    bench.check_all();
}

#[test]
fn nodes_that_were_just_written_can_be_moved_before_they_are_clean() {
    let mut bench = stored(640);
    bench.put(extent(1, 300), &Item::new(7, b"changed"));
    let (mut frozen, map) = bench.freeze();
    let mut used = Vec::new();
    while bench.write(&mut frozen, 1, &mut used) {}
    bench.succeed(frozen, &used, map);
    let (header, first) = inspect(&bench.disk.blocks[&used[0]], &vault(), used[0]).unwrap();
    assert!(bench.run(|tree| tree.redirty(used[0], header.level, &first)));
    bench.checkpoint();
    bench.check_all();
}

#[test]
fn what_a_step_has_emptied_goes_with_the_next() {
    let mut bench = stored(640);
    let leaf = bench.run(|tree| tree.leaf_of(&extent(1, 300))).unwrap();
    let items = (0..leaf.len()).filter_map(|index| leaf.key(index));
    let removals = items.map(|key| (key, None)).collect::<Vec<_>>();
    drop(leaf);
    bench.step(&removals);
    // Its neighbours are not in memory, so until the next step it is there, without items.
    let dirty = bench.tree.dirty_nodes();
    bench.run(|tree| tree.prepare(&extent(1, 0)));
    assert_eq!(bench.tree.dirty_nodes(), dirty - 1);
    bench.check_all();
}

#[test]
fn a_changed_node_is_in_memory_once() {
    let mut bench = stored(640);
    bench.cache.borrow_mut().set_memory_bytes_max(1 << 30);
    bench.check_all();
    let nodes = bench.cache.borrow().len();
    bench.put(extent(1, 300), &Item::new(7, b"changed"));
    assert_eq!(bench.cache.borrow().len() + bench.tree.dirty_nodes(), nodes);
    bench.checkpoint();
    assert_eq!(bench.cache.borrow().len(), nodes);
}

#[test]
fn looking_back_reads_one_path() {
    let mut bench = stored(640);
    for index in 1..640 {
        let before = bench.loads;
        let key = extent(1, index);
        assert!(bench.run(|tree| tree.last_before(&key)).is_some());
        bench.cache.borrow_mut().shrink(usize::MAX);
        let found = bench.run(|tree| tree.last_up_to(&key));
        assert!(found.is_some_and(|(found, _)| found == key));
        bench.cache.borrow_mut().shrink(usize::MAX);
        // Separators are the keys that leaves begin with, so it is always known which leaf it is.
        assert_eq!(
            bench.loads - before,
            2 * (usize::from(bench.tree.level) + 1)
        );
    }
}

/// A neighbour takes over what is between: a key that was prepared there must find its way.
#[test]
fn joined_nodes_send_every_key_where_it_went_before() {
    let stored = |block| {
        let block = BlockIndex(block);
        Child::Stored(NodePointer { block, checksum: 0 })
    };
    let [mut left, mut right] = [1, 1].map(|level| Node::empty(TreeKind::Live, level));
    left.insert_child(0, extent(1, 0), stored(1));
    // Whose range begins before its first key.
    right.insert_child(0, extent(1, 20), stored(2));
    left.join(right, extent(1, 10));
    assert_eq!(
        [5, 10, 15, 20].map(|index| left.route(&extent(1, index))),
        [0, 1, 1, 1]
    );
}

#[test]
fn values_that_change_their_length_leave_nothing_behind() {
    let mut node = Node::empty(TreeKind::Live, 0);
    let mut random = Random::new(1);
    for _ in 0..20_000 {
        let value = std::vec![random.next_u64().to_le_bytes()[0]; random.index(900)];
        let key = extent(1, random.below(4));
        node.put(key, &Item::new(random.below(100), &value));
        assert_eq!(
            node.item(node.search(&key).unwrap()).unwrap().1.value,
            value
        );
        assert!(node.memory_bytes() < 3 * BLOCK_SIZE);
    }
}

/// Births are kept relative to the least: an old one makes all others larger, in a node that is full.
#[test]
fn an_old_item_between_many_young_ones_finds_room() {
    let mut bench = Bench::new(TreeKind::History, 1 << 20);
    for index in 0..2000 {
        let key = Key {
            version: NUMBER_MAX - 1 - index % 2,
            ..extent(index / 2, 1 << 40)
        };
        bench.put(key, &Item::new(NUMBER_MAX - 1 - index % 3, b""));
    }
    bench.checkpoint();
    for index in [700, 3, 999, 0] {
        let key = Key {
            version: 5,
            ..extent(index, 1 << 47)
        };
        bench.put(key, &Item::new(index, &[7; crate::ITEM_BYTES_MAX]));
        bench.check_all();
    }
    bench.checkpoint();
    bench.check_all();
}

/// What is admitted by count must not turn out to be more.
#[test]
fn a_step_changes_no_more_nodes_than_it_said() {
    let first = seed(9);
    for seed in first..first + 8 {
        let mut random = Random::new(seed);
        let (mut said, mut found) = (0, 0);
        for kind in [TreeKind::Live, TreeKind::History] {
            ENTRIES_MAX.set(if random.one_in(2) {
                NODE_ENTRIES_MAX
            } else {
                20
            });
            let mut bench = Bench::new(kind, 0);
            for round in 0..250 {
                let mut changes = Map::new();
                let mut removals = BTreeSet::new();
                let mut next = random_key(&mut random, kind);
                let most = if random.one_in(20) { 600 } else { 30 };
                for _ in 0..random.index(most) {
                    // Here and there, or one behind the other.
                    next = match random.below(4) {
                        0 => random_key(&mut random, kind),
                        _ => Key {
                            position: next.position.wrapping_add(4096),
                            ..next
                        },
                    };
                    let there = bench.map.range(next..).next().map(|(key, _)| *key);
                    match there.filter(|_| random.one_in(3)) {
                        Some(there) if random.one_in(2) => drop(removals.insert(there)),
                        there => {
                            let item = random_item(&mut random, 1 + round * 1000);
                            changes.insert(there.unwrap_or(next), item);
                        }
                    }
                }
                let removals = removals.into_iter().map(|key| (key, None));
                let puts = changes.into_iter().map(|(key, item)| (key, Some(item)));
                let changes = removals.chain(puts).collect::<Vec<_>>();
                let nodes = bench.run(|tree| {
                    let mut touched = Touched::default();
                    for (key, item) in &changes {
                        let put = item.as_ref().map(|item| Put {
                            birth: item.birth,
                            value_bytes: item.value.len(),
                        });
                        tree.prepare_counted(key, put, &mut touched)?;
                    }
                    Ok(touched.nodes().changed)
                });
                let before = bench.tree.dirty_nodes();
                bench.step(&changes);
                let more = bench.tree.dirty_nodes().saturating_sub(before);
                assert!(
                    more <= nodes,
                    "seed {seed}, round {round}: {more}, not {nodes}"
                );
                said += nodes;
                found += more;
                if random.one_in(4) {
                    bench.checkpoint();
                }
            }
        }
        println!("{said} said, {found} changed");
        assert!(said < 3 * found, "{said} said, {found} changed");
    }
}
