//! A disk that is full, and all that can be done on it.
#![allow(clippy::too_many_lines, reason = "the cases are one long list")]

use std::cell::RefCell;
use std::rc::Rc;

use lfs::sim::{Executor, Random, Request, SimDisk};
use lfs::{
    CheckEvent, CheckOptions, DeviceError, FileError, FileKind, NewInode, RenameFlags,
    SetAttributes, XattrMode,
};

use super::operation::{Operation, Target, TreePath};
use super::world::{Machine, Worker, World, random_bytes};
use super::{formatted, key};

pub const SEGMENTS: usize = 64;
/// Bytes of a file that fills: a block, which does not compress.
const UNIT_BYTES: usize = 4096;
/// Units freed one by one; after that, all at once.
pub const UNITS_MAX: usize = 20;
pub const SNAPSHOT: &str = "before";

/// How space comes back.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// What is freed lies all over the disk.
    pub scattered: bool,
    /// The cleaner can read what it is to move.
    pub cleaner: bool,
}

/// Something that is done on a full disk, in one transaction.
pub struct Case {
    pub name: &'static str,
    pub operations: Vec<Operation>,
    /// It takes something away and must not find the disk full.
    pub always: bool,
}

pub fn path(name: &str) -> TreePath {
    TreePath {
        base: None,
        bytes: name.into(),
    }
}

pub fn at(name: &str) -> Target {
    Target::Path(path(name))
}

pub fn create(name: &str, kind: FileKind) -> Operation {
    let mut new = NewInode::new(kind, 0o755);
    if kind == FileKind::Symlink {
        new.target = vec![b't'; 900];
    }
    Operation::Create {
        path: path(name),
        new,
    }
}

pub fn write(name: &str, offset: u64, len: usize) -> Operation {
    Operation::Write {
        target: at(name),
        offset,
        bytes: random_bytes(&mut Random::new(offset + len as u64), len),
    }
}

pub fn unlink(name: &str) -> Operation {
    Operation::Unlink { path: path(name) }
}

fn truncate(name: &str, size: u64) -> Operation {
    Operation::Truncate {
        target: at(name),
        size,
    }
}

fn rename(from: &str, to: &str, exchange: bool) -> Operation {
    Operation::Rename {
        from: path(from),
        to: path(to),
        flags: RenameFlags {
            exchange,
            ..RenameFlags::default()
        },
    }
}

fn set_xattr(name: &str, attribute: &str, len: usize) -> Operation {
    Operation::SetXattr {
        target: at(name),
        name: attribute.into(),
        value: random_bytes(&mut Random::new(len as u64), len),
        mode: XattrMode::Any,
    }
}

fn remove_xattr(name: &str, attribute: &str) -> Operation {
    Operation::RemoveXattr {
        target: at(name),
        name: attribute.into(),
    }
}

/// What there is besides filling.
fn base() -> Vec<Vec<Operation>> {
    let mut base = vec![
        vec![
            create("/d", FileKind::Directory),
            create("/d/empty", FileKind::Directory),
        ],
        vec![
            create("/d/small", FileKind::File),
            write("/d/small", 0, 300),
        ],
        vec![
            create("/d/blocks", FileKind::File),
            write("/d/blocks", 0, 15_000),
        ],
        vec![
            create("/d/large", FileKind::File),
            write("/d/large", 0, 40_000),
        ],
        vec![create("/d/link", FileKind::Symlink)],
        vec![
            set_xattr("/d/small", "user.short", 100),
            set_xattr("/d/small", "user.long", 9000),
        ],
        vec![create("/t", FileKind::Directory)],
    ];
    for directory in ["/t/x", "/t/y", "/t/x/z"] {
        base.push(vec![create(directory, FileKind::Directory)]);
        for (file, len) in [("1", 200), ("2", 5000)] {
            let name = format!("{directory}/{file}");
            base.push(vec![create(&name, FileKind::File), write(&name, 0, len)]);
        }
    }
    base
}

fn case(name: &'static str, operations: Vec<Operation>) -> Case {
    Case {
        name,
        operations,
        always: false,
    }
}

fn always(name: &'static str, operations: Vec<Operation>) -> Case {
    Case {
        always: true,
        ..case(name, operations)
    }
}

/// Every operation of the namespace that changes something.
pub fn cases() -> Vec<Case> {
    let long = format!("/d/{}", "n".repeat(255));
    let several = vec![
        create("/d/one", FileKind::File),
        write("/d/one", 0, 5000),
        rename("/d/one", "/d/small", false),
        create("/d/two", FileKind::Directory),
        rename("/d/blocks", "/d/two/moved", false),
        set_xattr("/d/two", "user.new", 2000),
        unlink("/d/link"),
    ];
    let attributes = SetAttributes {
        mode: Some(0o600),
        uid: Some(7),
        mtime_ns: Some(5),
        ..SetAttributes::default()
    };
    vec![
        case("create", vec![create("/d/new", FileKind::File)]),
        case(
            "create with a long name",
            vec![create(&long, FileKind::Fifo)],
        ),
        case("mkdir", vec![create("/d/new", FileKind::Directory)]),
        case("symlink", vec![create("/d/new", FileKind::Symlink)]),
        case(
            "link",
            vec![Operation::Link {
                from: at("/d/small"),
                to: path("/d/new"),
            }],
        ),
        case("write into an item", vec![write("/d/small", 250, 600)]),
        case("item to extent", vec![write("/d/small", 250, 3000)]),
        case("append", vec![write("/d/blocks", 15_000, 6000)]),
        case("overwrite blocks", vec![write("/d/blocks", 0, 12_288)]),
        case("overwrite a part", vec![write("/d/blocks", 5000, 100)]),
        case("overwrite groups", vec![write("/d/large", 0, 36_864)]),
        case("write far behind", vec![write("/d/blocks", 1 << 18, 5000)]),
        case(
            "write several groups",
            vec![create("/d/new", FileKind::File), write("/d/new", 0, 45_000)],
        ),
        case("truncate up", vec![truncate("/d/blocks", 1 << 18)]),
        case("truncate into a block", vec![truncate("/d/blocks", 6000)]),
        always("truncate to blocks", vec![truncate("/d/blocks", 8192)]),
        always("truncate to nothing", vec![truncate("/d/large", 0)]),
        always(
            "punch",
            vec![Operation::Punch {
                target: at("/d/large"),
                offset: 8192,
                len: 16_384,
            }],
        ),
        case(
            "punch within blocks",
            vec![Operation::Punch {
                target: at("/d/large"),
                offset: 5000,
                len: 10_000,
            }],
        ),
        case(
            "allocate",
            vec![Operation::Allocate {
                target: at("/d/small"),
                offset: 0,
                len: 20_000,
                keep_size: false,
            }],
        ),
        case("rename", vec![rename("/d/small", "/t/new", false)]),
        case("rename over", vec![rename("/d/small", "/d/blocks", false)]),
        case(
            "rename a directory over",
            vec![rename("/t/y/1", "/d/small", false)],
        ),
        case("exchange", vec![rename("/d/small", "/t/x", true)]),
        case("set an attribute", vec![set_xattr("/d", "user.new", 300)]),
        case(
            "replace attributes",
            vec![
                set_xattr("/d/small", "user.short", 20_000),
                set_xattr("/d/small", "user.long", 10),
            ],
        ),
        always(
            "remove attributes",
            vec![
                remove_xattr("/d/small", "user.short"),
                remove_xattr("/d/small", "user.long"),
            ],
        ),
        case(
            "set times and mode",
            vec![Operation::SetAttributes {
                target: at("/d/large"),
                change: attributes,
            }],
        ),
        always("unlink", vec![unlink("/d/large")]),
        always("unlink what is an item", vec![unlink("/d/small")]),
        always(
            "rmdir",
            vec![Operation::Rmdir {
                path: path("/d/empty"),
            }],
        ),
        always(
            "remove a tree",
            vec![Operation::RemoveTree { path: path("/t") }],
        ),
        always(
            "remove a tree at once",
            vec![Operation::RemoveSome { path: path("/t") }],
        ),
        case("several", several),
    ]
}

fn filler(number: usize) -> String {
    format!("/f{number}")
}

/// A full disk that was shut down, and what is on it.
pub struct Full {
    disk: SimDisk,
    world: World,
}

/// Makes files with `len` bytes, from `/{prefix}{from}` on, until there is no space; how many there are then.
pub async fn fill(worker: &Worker, prefix: &str, from: usize, len: usize) -> usize {
    for number in from.. {
        let name = format!("/{prefix}{number}");
        let operations = [create(&name, FileKind::File), write(&name, 0, len)];
        if let Err(error) = worker.transact(&operations).await {
            assert_eq!(error, FileError::NoSpace);
            return number;
        }
    }
    unreachable!("a disk has an end");
}

/// Fills a disk: with files that no test touches, with units, and with what still fits then.
pub fn full(snapshot: bool, seed: u64) -> Full {
    let mut machine = Machine::new(formatted(SEGMENTS, seed), seed);
    let worker = machine.worker();
    machine.run(async move {
        for operations in base() {
            worker.transact(&operations).await.unwrap();
        }
        if snapshot {
            worker.create_snapshot_named(SNAPSHOT.to_owned()).await;
        }
        for number in 0..3 * UNITS_MAX {
            let name = filler(number);
            let operations = [create(&name, FileKind::File), write(&name, 0, UNIT_BYTES)];
            worker.transact(&operations).await.unwrap();
        }
    });
    let mut made = [0; 4];
    loop {
        let worker = machine.worker();
        let before = made;
        made = machine.run(async move {
            let mut made = before;
            for (number, len) in made.iter_mut().zip([40_000, UNIT_BYTES, 700, 0]) {
                *number = fill(&worker, &format!("rest{len}-"), *number, len).await;
            }
            made
        });
        // What the trees take is known when they are written: then there is a little more room.
        machine = machine.reboot(seed);
        if made == before {
            break;
        }
    }
    let world = machine.world.borrow().fork();
    Full {
        disk: machine.disk.snapshot(seed),
        world,
    }
}

impl Full {
    /// A machine that runs on it, with `units` of what fills it taken away.
    pub fn boot(&self, setting: Setting, units: usize) -> Machine {
        let world = Rc::new(RefCell::new(self.world.fork()));
        let disk = self.disk.snapshot(units as u64);
        let mut machine = Machine::boot(disk, world, units as u64);
        if !setting.cleaner {
            let reads = |request| match request {
                // Groups and rows of nodes; a file's data are at most two blocks here.
                Request::Read(_, blocks) if blocks > 2 => Some(DeviceError::Io),
                _ => None,
            };
            machine.disk.set_faults(reads);
        }
        if units > 0 {
            let worker = machine.worker();
            machine.run(async move {
                let apart = setting.scattered && units <= UNITS_MAX;
                let numbers = (0..3 * UNITS_MAX).step_by(if apart { 3 } else { 1 });
                for number in numbers.take(units) {
                    worker.transact(&[unlink(&filler(number))]).await.unwrap();
                }
                // Until what was taken away has come back.
                worker.settle().await;
            });
        }
        machine
    }
}

/// Shuts down, and nothing is wrong with the image.
pub fn check(machine: &mut Machine, what: &str) {
    let (filesystem, clock) = (Rc::clone(&machine.filesystem), machine.executor.clock());
    machine.run(async move { filesystem.shutdown(&clock).await.unwrap() });
    let disk = machine.disk.clone();
    let (summary, found) = Executor::new(0).run(async move {
        let mut found = Vec::new();
        let options = CheckOptions {
            key: key::key(),
            ..CheckOptions::default()
        };
        let mut note = |event: CheckEvent<'_>| {
            if let CheckEvent::Finding(finding) = event {
                found.push(finding.to_string());
            }
        };
        let summary = lfs::check(&disk, options, &mut note).await;
        (summary, found)
    });
    assert!(summary.is_clean() && summary.mounts, "{what}: {found:?}");
}
