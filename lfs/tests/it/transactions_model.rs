//! Interleavings of open transactions by seed, on a few files, against a model that knows exactly when they conflict.
//!
//! Invariants: whatever is read is the state at the beginning with the transaction's own changes. A commit is refused if and
//! only if somebody else has since changed something that this one changed or, serializable, read, missed or listed: neither is a
//! conflict missed, nor is anybody disturbed without need. The final state is that of the commits in their order.

use crate::common;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::common::{TestFileSystem, formatted, mount, seed};
use lfs::sim::{Executor, Random};
use lfs::{Clock, FileError, FileKind, Isolation, NewInode, OpenTransaction, ROOT, Transaction};

const FILES: u64 = 8;
const NOW: i64 = 1_700_000_000_000_000_000;

type Files = BTreeMap<u64, Vec<u8>>;

/// Contents of files that were changed, or that they were removed; and whether the name came or went on the way.
type Changes = BTreeMap<u64, (Option<Vec<u8>>, bool)>;

#[derive(Debug, Clone)]
enum Action {
    Read(u64),
    Write(u64, Vec<u8>),
    Remove(u64),
    List,
}

/// What an action answers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Content(Option<Vec<u8>>),
    Names(Vec<u64>),
    Done(bool),
}

/// The newest state, and when what was last changed.
#[derive(Default)]
struct World {
    files: Files,
    time: u64,
    changed: BTreeMap<u64, u64>,
    /// When a name last came or went.
    names_changed: u64,
}

impl World {
    fn commit(&mut self, changed: &Changes) {
        self.time += 1;
        for (file, (content, renamed)) in changed {
            let was = self.files.contains_key(file);
            if !was && content.is_none() {
                continue;
            }
            self.changed.insert(*file, self.time);
            if *renamed {
                self.names_changed = self.time;
            }
            match content {
                Some(content) => drop(self.files.insert(*file, content.clone())),
                None => drop(self.files.remove(file)),
            }
        }
    }
}

/// An open transaction and the model of it.
struct Open {
    transaction: OpenTransaction,
    begun: u64,
    files: Files,
    changed: Changes,
    read: BTreeSet<u64>,
    listed: bool,
    savepoints: Vec<(Files, Changes)>,
}

impl Open {
    fn begin(fs: &TestFileSystem, world: &World, isolation: Isolation) -> Self {
        Self {
            transaction: fs.begin(isolation, NOW).unwrap(),
            begun: world.time,
            files: world.files.clone(),
            changed: BTreeMap::new(),
            read: BTreeSet::new(),
            listed: false,
            savepoints: Vec::new(),
        }
    }

    /// A savepoint, or back to one.
    fn save_or_roll_back(&mut self, random: &mut Random) {
        if self.savepoints.is_empty() || random.one_in(2) {
            self.transaction.savepoint().unwrap();
            let now = (self.files.clone(), self.changed.clone());
            self.savepoints.push(now);
        } else {
            let place = random.index(self.savepoints.len());
            self.transaction.roll_back_to(place).unwrap();
            self.savepoints.truncate(place + 1);
            (self.files, self.changed) = self.savepoints[place].clone();
        }
    }

    /// A step, compared with the model.
    async fn step(&mut self, fs: &TestFileSystem, action: Action) {
        let found = fs.step(&mut self.transaction, NOW, |t| carry_out(t, &action));
        let found = found.await.unwrap();
        let expected = self.answer(&action);
        assert!(found == expected, "{action:?}\n{found:?}\n{expected:?}");
    }

    /// Commits it, here and in the model.
    async fn commit(self, fs: &TestFileSystem, world: &mut World, ends: &mut Ends) {
        let expected = self.conflicts(world);
        let isolation = self.transaction.isolation();
        match fs.commit_open(self.transaction, &[]).await {
            Ok(_) => {
                assert!(!expected, "a conflict was missed: {isolation:?}");
                if self.changed.is_empty() {
                    ends.empty += 1;
                } else {
                    ends.committed += 1;
                    world.commit(&self.changed);
                }
            }
            Err(FileError::ConflictOn(conflict)) => {
                assert!(
                    expected,
                    "disturbed without need: {isolation:?}, {conflict}"
                );
                ends.refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn answer(&mut self, action: &Action) -> Answer {
        match action {
            Action::Read(file) => {
                self.read.insert(*file);
                Answer::Content(self.files.get(file).cloned())
            }
            Action::Write(file, content) => {
                self.read.insert(*file);
                let new = self.files.insert(*file, content.clone()).is_none();
                let before = self.changed.get(file).is_some_and(|change| change.1);
                let change = (Some(content.clone()), new || before);
                self.changed.insert(*file, change);
                Answer::Done(true)
            }
            Action::Remove(file) => {
                self.read.insert(*file);
                let there = self.files.remove(file).is_some();
                if there {
                    self.changed.insert(*file, (None, true));
                }
                Answer::Done(there)
            }
            Action::List => {
                self.listed = true;
                Answer::Names(self.files.keys().copied().collect())
            }
        }
    }

    /// Whether it must not be committed.
    fn conflicts(&self, world: &World) -> bool {
        let since = |file: &u64| world.changed.get(file).is_some_and(|&at| at > self.begun);
        let written = self.changed.keys().any(since);
        let serializable = self.transaction.isolation() == Isolation::Serializable;
        let listed = self.listed && world.names_changed > self.begun;
        !self.changed.is_empty()
            && (written || serializable && (self.read.iter().any(since) || listed))
    }
}

fn name(file: u64) -> Vec<u8> {
    format!("file {file}").into_bytes()
}

fn carry_out(transaction: &mut Transaction<'_>, action: &Action) -> Result<Answer, FileError> {
    let mut files = transaction.files();
    let mut find = |file| match files.lookup(ROOT, &name(file)) {
        Ok(inode) => Ok(Some(inode)),
        Err(FileError::NotFound) => Ok(None),
        Err(error) => Err(error),
    };
    Ok(match action {
        Action::Read(file) => match find(*file)? {
            Some(inode) => Answer::Content(Some(files.read(inode, 0, usize::MAX)?)),
            None => Answer::Content(None),
        },
        Action::Write(file, content) => {
            let inode = if let Some(inode) = find(*file)? {
                inode
            } else {
                let new = NewInode::new(FileKind::File, 0o644);
                files.create(ROOT, &name(*file), &new)?
            };
            files.truncate(inode, 0)?;
            files.write(inode, 0, content)?;
            Answer::Done(true)
        }
        Action::Remove(file) => match find(*file)? {
            Some(_) => {
                files.unlink(ROOT, &name(*file))?;
                Answer::Done(true)
            }
            None => Answer::Done(false),
        },
        Action::List => {
            let mut names = Vec::new();
            let mut after = Some(0);
            while let Some(cookie) = after {
                let some = files.read_dir(ROOT, cookie, 3)?;
                after = some.next;
                for entry in some.entries {
                    let text = String::from_utf8(entry.name).unwrap();
                    names.push(text.strip_prefix("file ").unwrap().parse().unwrap());
                }
            }
            names.sort_unstable();
            Answer::Names(names)
        }
    })
}

fn action(random: &mut Random) -> Action {
    let file = random.below(FILES);
    match random.below(9) {
        0..4 => Action::Read(file),
        4..7 => {
            let len = [3, 900, 5000][random.index(3)];
            Action::Write(file, common::world::random_bytes(random, len))
        }
        7 => Action::Remove(file),
        _ => Action::List,
    }
}

/// How many were committed and refused.
#[derive(Debug, Default)]
struct Ends {
    committed: u64,
    refused: u64,
    empty: u64,
}

/// Steps of up to six transactions at once, in an order that follows the seed.
async fn interleave(fs: Rc<TestFileSystem>, clock: lfs::sim::SimClock, mut random: Random) -> Ends {
    let mut world = World::default();
    let mut open: Vec<Open> = Vec::new();
    let mut ends = Ends::default();
    for _ in 0..1500 {
        let isolation = [Isolation::Snapshot, Isolation::Serializable][random.index(2)];
        let index = random.index(open.len());
        match random.below(20) {
            0..3 if open.len() < 6 => open.push(Open::begin(&fs, &world, isolation)),
            3 => {
                // Somebody who does not stay open always gets through.
                let action = action(&mut random);
                let mut model = Open::begin(&fs, &world, isolation);
                let found = fs.transact(NOW, |t| carry_out(t, &action)).await;
                assert_eq!(found.unwrap().0, model.answer(&action));
                world.commit(&model.changed);
            }
            4 => clock.sleep_ms(random.below(2000)).await,
            _ if open.is_empty() => {}
            5 => drop(open.swap_remove(index)),
            6..9 => {
                let one = open.swap_remove(index);
                one.commit(&fs, &mut world, &mut ends).await;
            }
            9..11 => open[index].save_or_roll_back(&mut random),
            _ => open[index].step(&fs, action(&mut random)).await,
        }
    }
    drop(open);
    compare(&fs, &world, &clock).await;
    ends
}

/// Compares the newest state, and looks whether anything is left over.
async fn compare(fs: &TestFileSystem, world: &World, clock: &lfs::sim::SimClock) {
    let names = fs.transact(NOW, |t| carry_out(t, &Action::List)).await;
    let expected = world.files.keys().copied().collect();
    assert_eq!(names.unwrap().0, Answer::Names(expected));
    for (file, content) in &world.files {
        let found = fs
            .transact(NOW, |t| carry_out(t, &Action::Read(*file)))
            .await;
        assert!(found.unwrap().0 == Answer::Content(Some(content.clone())));
    }
    clock.sleep_ms(5000).await;
    let audit = fs.audit().await.unwrap();
    assert_eq!(audit.contradictions, []);
    assert_eq!(audit.unseen, []);
    assert_eq!(fs.transaction_usage().kept_items, 0);
}

#[test]
fn a_commit_is_refused_if_and_only_if_it_conflicts() {
    let seed = seed(7);
    for round in 0..100 {
        let disk = formatted(96, seed);
        let mut executor = Executor::new(seed + round);
        let fs = mount(&mut executor, &disk).unwrap().filesystem;
        let clock = executor.clock();
        let random = Random::new(seed + round);
        let ends = executor.run(interleave(fs, clock, random));
        assert!(
            ends.committed > 10 && ends.refused > 5 && ends.empty > 2,
            "{ends:?}"
        );
    }
}
