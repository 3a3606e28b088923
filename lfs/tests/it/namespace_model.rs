//! The namespace against a model.
//!
//! Invariants: every operation answers what the model answers, errors included, and after each one the whole
//! tree is the model's: names, links, content, attributes, times, also of what is open but has no name.
//! Its items fit together as `SPEC.md` says. An operation that fails has changed nothing. It does not matter whether names collide, at which
//! access an operation faults, and when orphans are reclaimed; once nothing is open and all of them are,
//! no item and no data is left that does not belong to something with a name.

use crate::common;

use std::collections::BTreeMap;

use crate::common::check::check;
use crate::common::generator::Generator;
use crate::common::operation::{HANDLES, Handles, Outcome, apply, note_handles, observe};
use crate::common::posix::Model;
use crate::common::seed;
use lfs::sim::{MemoryView, Random};
use lfs::{ItemKind, Namespace, ROOT};

struct Run {
    view: MemoryView,
    hash: fn(&[u8]) -> u64,
    model: Model,
    handles: Handles,
    random: Random,
}

impl Run {
    fn new(hash: fn(&[u8]) -> u64, seed: u64) -> Self {
        let mut view = MemoryView::new(hash);
        view.set_now_ns(1);
        view.transact(|files| files.create_root(0o755, 0, 0))
            .unwrap();
        view.set_faults(seed, 50);
        Self {
            view,
            hash,
            model: Model::new(1, 0o755),
            handles: [None; HANDLES],
            random: Random::new(seed),
        }
    }

    fn steps(&mut self, count: u64, kinds: &mut BTreeMap<String, [u64; 2]>) {
        let mut generator = Generator::new(self.random.next_u64());
        for step in 0..count {
            let now = self.model.now + self.random.below(3).cast_signed();
            self.model.now = now;
            self.view.set_now_ns(now);
            generator.note(&self.model.observe());
            let operation = generator.next();
            let expected = self.model.apply(&operation);
            let handles = self.handles;
            let small = |view: &mut MemoryView| {
                apply(
                    &mut Namespace::with_small_limits(view),
                    &handles,
                    &operation,
                )
            };
            let result = self.view.transact_on(small);
            let right = match (&result, &expected) {
                (Ok(outcome), Ok(model)) => outcome.is_as(model),
                (result, expected) => result == expected,
            };
            let mut what = format!("step {step}: {operation:?}");
            let kind = what.split(' ').nth(2).unwrap().to_owned();
            what.truncate(300);
            assert!(right, "{what}\nfound {result:?}\nmodel {expected:?}");
            kinds.entry(kind).or_default()[usize::from(result.is_ok())] += 1;
            if let Ok(outcome) = &result {
                note_handles(&mut self.handles, &operation, outcome);
                // The model removes a tree at once.
                if matches!(operation, common::operation::Operation::RemoveTree { .. }) {
                    self.reclaim(false);
                }
                if *outcome == Outcome::Done && self.random.one_in(8) {
                    self.reclaim(true);
                }
            }
            self.compare(&what);
        }
    }

    fn compare(&mut self, what: &str) {
        let handles = self.handles;
        // So many accesses would never get through without a fault.
        let mut view = self.view.clone();
        view.clear_faults();
        let found = observe(&mut Namespace::with_small_limits(&mut view), &handles).unwrap();
        let expected = self.model.observe();
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                found == expected,
                "{what}\nfound {}\nmodel {}",
                found.brief(),
                expected.brief()
            );
        }
        assert_eq!(found.len(), expected.len(), "{what}");
        let items = self.view.items().iter();
        let items = items.map(|(&key, value)| (key, &value[..]));
        check(items, self.view.objects(), self.hash);
    }

    /// Reclaims what nobody has open; perhaps only a part.
    fn reclaim(&mut self, perhaps: bool) {
        loop {
            let mut progress = false;
            for orphan in self.view.transact(|files| files.orphans(0, 100)).unwrap() {
                let open = |inode| self.handles.contains(&Some(inode));
                if orphan.nameless.is_some_and(open) || (perhaps && self.random.one_in(2)) {
                    continue;
                }
                let budget = self.random.below(20_000);
                self.view
                    .transact_on(|view| {
                        Namespace::with_small_limits(view).reclaim_orphan(orphan.id, budget)
                    })
                    .unwrap();
                progress = !perhaps;
            }
            if !progress {
                return;
            }
        }
    }

    /// Nothing is left behind.
    fn finish(&mut self) {
        for handle in 0..HANDLES {
            let operation = common::operation::Operation::Close { handle };
            self.model.apply(&operation).unwrap();
            self.handles[handle] = None;
        }
        self.reclaim(false);
        self.compare("at the end");
        let entries = self
            .view
            .transact(|files| files.read_dir(ROOT, 0, usize::MAX));
        for entry in entries.unwrap().entries {
            self.view
                .transact(|files| files.remove_tree(ROOT, &entry.name))
                .unwrap();
        }
        self.reclaim(false);
        for name in self.view.transact(|files| files.list_xattrs(ROOT)).unwrap() {
            self.view
                .transact(|files| files.remove_xattr(ROOT, &name))
                .unwrap();
        }
        let items: Vec<_> = self.view.items().keys().collect();
        assert_eq!(items.len(), 1, "left: {items:?}");
        assert_eq!(items[0].kind, ItemKind::Inode);
        assert_eq!(self.view.objects().count(), 0, "data is left");
    }
}

fn run(hash: fn(&[u8]) -> u64, seed: u64, rounds: u64, steps: u64) {
    let mut kinds = BTreeMap::new();
    for round in 0..rounds {
        let mut run = Run::new(hash, seed.wrapping_add(round));
        run.steps(steps, &mut kinds);
        run.finish();
    }
    println!("operations, failed and done: {kinds:?}");
    assert_eq!(kinds.len(), 20, "some kind of operation never came up");
    for (kind, [_, done]) in kinds {
        assert!(
            done * 200 > rounds * steps / 100,
            "{kind} hardly ever succeeded"
        );
    }
}

#[test]
fn random_operations_do_what_the_model_does() {
    run(MemoryView::spread, seed(1), 36, 500);
}

#[test]
fn random_operations_do_what_the_model_does_when_names_collide() {
    run(MemoryView::colliding, seed(2), 24, 500);
}
