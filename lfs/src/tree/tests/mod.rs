//! Trees against maps.
//!
//! What is checked after every step of a seeded run, with checkpoints that are cut short, fail or succeed in
//! between, nodes that are evicted all the time, and the tree opened again from what is on the disk:
//!
//! - the tree holds what a map holds, seen from any key in both directions;
//! - a checkpoint holds what the map held when it was frozen;
//! - the blocks of all checkpoints so far are those of the newest one and those reported freed, each once;
//! - an operation needs no more runs than nodes.

extern crate std;

mod cost;
mod damage;
mod steps;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::println;
use std::vec::Vec;

use super::node::NODE_ENTRIES_MAX;
use super::*;
use crate::disk::layout::VALUE_OBJECT;
use crate::seal::{SharedVault, Vault};
use crate::sim::{Random, seed_from};
use crate::{FileSystemId, ItemKey, ItemKind};

const ID: FileSystemId = FileSystemId([0x5A; 16]);

fn vault() -> SharedVault {
    Vault::plain(ID)
}

type Map = BTreeMap<Key, Item>;

fn seed(default: u64) -> u64 {
    let seed = seed_from(std::env::var("SILTSTONE_SEED").ok().as_deref(), default);
    println!("SILTSTONE_SEED={seed}");
    seed
}

std::thread_local! {
    static ENTRIES_MAX: Cell<usize> = const { Cell::new(NODE_ENTRIES_MAX) };
}

/// Most entries of a node in the test of this thread.
pub(super) fn entries_max() -> usize {
    ENTRIES_MAX.get()
}

/// A disk of nodes that reuses what is free at once, so that anything stale shows.
#[derive(Default)]
struct Disk {
    blocks: HashMap<BlockIndex, [u8; BLOCK_SIZE]>,
    free: Vec<BlockIndex>,
    end: u64,
}

impl Disk {
    fn allocate(&mut self) -> BlockIndex {
        self.free.pop().unwrap_or_else(|| {
            self.end += 1;
            BlockIndex(self.end)
        })
    }
}

/// A tree with its disk and what it should hold.
struct Bench {
    tree: Tree,
    cache: SharedCache,
    disk: Disk,
    map: Map,
    /// The newest checkpoint: its root, what it should hold, its blocks.
    root: Option<TreeRoot>,
    stored: Map,
    in_use: BTreeSet<BlockIndex>,
    generation: u64,
    loads: usize,
}

impl Bench {
    fn new(kind: TreeKind, cache_bytes: usize) -> Self {
        let cache = NodeCache::shared(vault(), cache_bytes);
        Self {
            tree: Tree::empty(kind, Rc::clone(&cache)),
            cache,
            disk: Disk::default(),
            map: Map::new(),
            root: None,
            stored: Map::new(),
            in_use: BTreeSet::new(),
            generation: 0,
            loads: 0,
        }
    }

    /// Runs `operation` until it needs nothing more.
    fn run<T>(&mut self, mut operation: impl FnMut(&mut Tree) -> Result<T, Fault>) -> T {
        let mut held = Held::default();
        let mut asked = BTreeSet::new();
        loop {
            match operation(&mut self.tree) {
                Ok(value) => return value,
                Err(Fault::Node(pointer)) => {
                    assert!(
                        asked.insert(pointer.block),
                        "a held node was asked for again"
                    );
                    let block = &self.disk.blocks[&pointer.block];
                    held.hold(self.cache.borrow_mut().insert(pointer, block).unwrap());
                    self.loads += 1;
                }
                Err(fault) => unreachable!("{fault:?}"),
            }
        }
    }

    fn put(&mut self, key: Key, item: &Item) {
        let old = self.run(|tree| {
            tree.prepare(&key)?;
            Ok(tree.put(key, item).expect("prepared"))
        });
        assert_eq!(old, self.map.insert(key, item.clone()));
    }

    /// Several changes in one step.
    fn step(&mut self, changes: &[(Key, Option<Item>)]) {
        self.run(|tree| changes.iter().try_for_each(|(key, _)| tree.prepare(key)));
        // All are in memory now, for nothing was evicted since the last was prepared.
        for (key, item) in changes {
            let (old, expected) = match item {
                Some(item) => (
                    self.tree.put(*key, item),
                    self.map.insert(*key, item.clone()),
                ),
                None => (self.tree.remove(key), self.map.remove(key)),
            };
            assert_eq!(old.expect("prepared"), expected);
        }
    }

    fn freeze(&mut self) -> (Frozen, Map) {
        self.generation += 1;
        (self.tree.freeze(self.generation), self.map.clone())
    }

    /// Writes at most `nodes` nodes; returns whether there are more, and the blocks used.
    fn write(&mut self, frozen: &mut Frozen, nodes: usize, used: &mut Vec<BlockIndex>) -> bool {
        let disk = RefCell::new(&mut self.disk);
        let more = frozen.next_batch(
            nodes,
            || {
                let block = disk.borrow_mut().allocate();
                used.push(block);
                Some(block)
            },
            |block, bytes| {
                disk.borrow_mut().blocks.insert(block, *bytes);
            },
        );
        more.unwrap()
    }

    /// The checkpoint is in force.
    fn succeed(&mut self, frozen: Frozen, used: &[BlockIndex], map: Map) {
        for block in frozen.freed() {
            assert!(self.in_use.remove(block), "{block:?} freed, but not in use");
            self.disk.free.push(*block);
        }
        for block in used {
            assert!(self.in_use.insert(*block), "{block:?} is in use");
        }
        self.root = frozen.root();
        self.stored = map;
        self.check_stored();
        self.tree.settle(frozen);
    }

    /// The checkpoint has failed.
    fn fail(&mut self, frozen: Frozen, used: Vec<BlockIndex>) {
        drop(frozen);
        self.disk.free.extend(used);
    }

    fn checkpoint(&mut self) {
        let (mut frozen, map) = self.freeze();
        let mut used = Vec::new();
        while self.write(&mut frozen, 7, &mut used) {}
        assert_eq!(used.len(), frozen.dirty_nodes());
        self.succeed(frozen, &used, map);
        while self.tree.settle_step(5) {}
        assert_eq!(self.tree.dirty_nodes(), 0);
    }

    /// What is on the disk is the map of the checkpoint, in exactly the blocks in use.
    fn check_stored(&self) {
        let (mut items, mut blocks) = (Map::new(), BTreeSet::new());
        let mut walk = Walk::new(self.tree.ledger.kind, self.root, vault());
        while let Some(place) = walk.next_place() {
            let visited = walk
                .enter(&place, &self.disk.blocks[&place.pointer.block])
                .unwrap();
            assert!(visited.header.entries > 0 && visited.header.generation <= self.generation);
            assert!(blocks.insert(place.pointer.block));
            items.extend(visited.items().map(|(key, item)| (key, item.to_item())));
        }
        assert_eq!(blocks, self.in_use);
        assert_eq!(items, self.stored);
    }

    fn reopen(&mut self) {
        let kind = self.tree.ledger.kind;
        self.tree = Tree::open(kind, self.root, Rc::clone(&self.cache)).unwrap();
        self.map = self.stored.clone();
    }

    fn check_key(&mut self, key: Key) {
        let (get, first, before, up_to) = self.run(|tree| {
            let before = tree.last_before(&key)?;
            Ok((
                tree.get(&key)?,
                tree.first_from(&key)?,
                before,
                tree.last_up_to(&key)?,
            ))
        });
        let owned = |found: Option<(&Key, &Item)>| found.map(|(key, item)| (*key, item.clone()));
        assert_eq!(get.as_ref(), self.map.get(&key));
        assert_eq!(first, owned(self.map.range(key..).next()));
        assert_eq!(before, owned(self.map.range(..key).next_back()));
        assert_eq!(up_to, owned(self.map.range(..=key).next_back()));
    }

    fn check_all(&mut self) {
        let items = self.run(|tree| items_in(tree, Key::MIN, item(u64::MAX, u64::MAX)));
        assert_eq!(items, self.map.clone().into_iter().collect::<Vec<_>>());
        let mut counts = (0, BTreeSet::new());
        if let Some(root) = &self.tree.root {
            let place = self.tree.ledger.root_place(self.tree.level);
            check_dirty(root, &place, &mut counts);
        }
        if self.tree.settling.is_none() {
            assert_eq!(counts.0, self.tree.dirty_nodes());
        }
    }
}

/// Counts dirty nodes, and checks that they are what they should be.
fn check_dirty(child: &Child, place: &Expected, counts: &mut (usize, BTreeSet<BlockIndex>)) {
    match child {
        Child::Stored(pointer) => assert!(counts.1.insert(pointer.block)),
        Child::Dirty(node) => {
            counts.0 += 1;
            assert!(node.fits() && node.level() == place.level && node.is_within(&place.range));
            let again = node.with_stored(&[]);
            assert!(node.level() == 0 || again.size() <= node.size());
            for (index, child) in node.children().iter().enumerate() {
                check_dirty(child, &Ledger::below(node, index, place), counts);
            }
        }
    }
}

fn items_in(tree: &Tree, from: Key, to: Key) -> Result<Vec<(Key, Item)>, Fault> {
    let mut items = Vec::new();
    tree.for_each_in(&(from..=to), |key, item| {
        items.push((key, item.to_item()));
        ControlFlow::Continue(())
    })?;
    Ok(items)
}

fn item(object: u64, position: u64) -> Key {
    Key {
        object,
        kind: ItemKind::Property,
        position,
        version: 0,
    }
}

fn extent(object: u64, index: u64) -> Key {
    Key {
        object,
        kind: ItemKind::Extent,
        position: index << 16,
        version: 0,
    }
}

fn random_key(random: &mut Random, kind: TreeKind) -> Key {
    let kinds = [
        ItemKind::Inode,
        ItemKind::Entry,
        ItemKind::Extent,
        ItemKind::Property,
    ];
    let kind_of_item = kinds[random.index(kinds.len())];
    Key {
        object: random.below(6) * if random.one_in(9) { 1 << 59 } else { 1 },
        kind: kind_of_item,
        position: match kind_of_item {
            ItemKind::Inode => 0,
            ItemKind::Entry => random.below(90).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            ItemKind::Extent => random.below(200) << 16,
            _ => random.below(60),
        },
        version: match kind {
            TreeKind::Live => 0,
            TreeKind::History => random.below(9),
        },
    }
}

fn random_item(random: &mut Random, commit: u64) -> Item {
    let longest = [16, 16, 16, 120, 1200][random.index(5)];
    let len = random.index(longest + 1);
    // Items that the cleaner moves keep an old birth.
    let birth = if random.one_in(8) {
        random.below(commit)
    } else {
        commit
    };
    Item::new(birth, &std::vec![random.next_u64().to_le_bytes()[0]; len])
}

/// One run: see the head of the file.
fn run(seed: u64, kind: TreeKind, cache_bytes: usize, steps: usize) {
    let mut random = Random::new(seed);
    let mut bench = Bench::new(kind, cache_bytes);
    let mut frozen: Option<(Frozen, Map, Vec<BlockIndex>)> = None;
    for step in 0..steps {
        let commit = 1 + step as u64 * 1000;
        // Phases of growing and of shrinking, down to nothing.
        let shrinking = step / 150 % 3 == 2;
        let changes = (0..=random.index(12)).map(|_| {
            let remove = random.one_in(if shrinking { 1 } else { 4 });
            let mut key = random_key(&mut random, kind);
            if shrinking && let Some((there, _)) = bench.map.range(key..).next() {
                key = *there;
            }
            (key, (!remove).then(|| random_item(&mut random, commit)))
        });
        let mut changes = changes.collect::<Vec<_>>();
        if shrinking && random.one_in(3) {
            // A whole stretch, in order.
            let from = random_key(&mut random, kind);
            let stretch = bench.map.range(from..).take(random.index(400));
            changes = stretch.map(|(key, _)| (*key, None)).collect();
        }
        bench.step(&changes);
        bench.check_key(random_key(&mut random, kind));
        bench.tree.settle_step(random.index(4));
        match &mut frozen {
            None if random.one_in(6) => {
                let (now, map) = bench.freeze();
                frozen = Some((now, map, Vec::new()));
            }
            Some((now, _, used)) => {
                let more = bench.write(now, random.index(20), used);
                if !more || random.one_in(20) {
                    let (now, map, used) = frozen.take().unwrap();
                    if more || random.one_in(3) {
                        bench.fail(now, used);
                    } else {
                        bench.succeed(now, &used, map);
                    }
                }
            }
            None => {}
        }
        if random.one_in(5)
            && let Some(&block) = bench.in_use.iter().nth(random.index(bench.in_use.len()))
        {
            let (header, first) = inspect(&bench.disk.blocks[&block], &vault(), block).unwrap();
            bench.run(|tree| tree.redirty(block, header.level, &first));
        }
        if random.one_in(97) {
            bench.check_all();
        }
        if random.one_in(150) {
            if let Some((now, _, used)) = frozen.take() {
                bench.fail(now, used);
            }
            bench.reopen();
        }
    }
    drop(frozen);
    bench.check_all();
    bench.checkpoint();
    bench.check_all();
    let all = bench.map.keys().map(|key| (*key, None)).collect::<Vec<_>>();
    bench.step(&all);
    bench.checkpoint();
    assert!(bench.tree.is_empty() && bench.root.is_none() && bench.in_use.is_empty());
}

#[test]
fn a_tree_is_a_map_whatever_happens_in_between() {
    let first = seed(1);
    for seed in first..first + 12 {
        for kind in [TreeKind::Live, TreeKind::History] {
            // Nothing fits, a few nodes fit, everything fits.
            for cache_bytes in [0, 60_000, 10 << 20] {
                for entries_max in [4, 20, NODE_ENTRIES_MAX] {
                    println!("seed {seed} {kind:?} cache {cache_bytes} entries {entries_max}");
                    ENTRIES_MAX.set(entries_max);
                    run(seed, kind, cache_bytes, 700);
                }
            }
        }
    }
}

/// What leads to the values in an interior node is shorter than the key of any of them.
#[test]
fn values_can_begin_a_node() {
    ENTRIES_MAX.set(4);
    for files in 1..12 {
        // Nothing stays in memory.
        let mut bench = Bench::new(TreeKind::Live, 0);
        let item = Item::new(1, b"value");
        for object in 1..=files {
            let key = ItemKey::new(object, ItemKind::Inline, 0);
            bench.put(Key::live(key), &item);
        }
        for value in 0..9 {
            let key = ItemKey::new(VALUE_OBJECT, ItemKind::Extent, 4096 * value);
            bench.put(Key::live(key), &item);
        }
        bench.checkpoint();
        bench.check_stored();
        bench.reopen();
        bench.check_all();
    }
}
