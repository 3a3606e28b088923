//! Images whose checksums are right and whose numbers cannot be.
//!
//! Invariants: the mount is refused, or whatever is promised after it is kept: a commit that became durable is there after
//! the next mount. Nothing runs in circles, and nothing overflows.

use crate::common;

use crate::common::counting::CountingDisk;
use crate::common::{ID, formatted, mount, mount_device};
use lfs::sim::{Executor, SimDisk};
use lfs::{
    BLOCK_SIZE, CheckOptions, Clock, CommitNumber, FileKind, Finding, MountError, NewInode, ROOT,
    ScrubOptions, Structure,
};

/// What no number reaches.
const NUMBER_MAX: u64 = 1 << 62;

/// A disk as bytes, with what is needed to make its checksums right again.
struct Image(Vec<u8>);

impl Image {
    /// A file system with a log to replay.
    fn in_use() -> Self {
        common::key::choose(None);
        let disk = formatted(72, 1);
        let mut executor = Executor::new(1);
        let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
        let clock = executor.clock();
        executor.run(async move {
            let made = filesystem.checkpoint(CommitNumber(0), &[], &[], &clock);
            made.await.unwrap();
            for name in [b"one", b"two"] {
                let new = NewInode::new(FileKind::File, 0o600);
                let create = filesystem.transact(1, |tx| tx.files().create(ROOT, name, &new));
                let (_, commit) = create.await.unwrap();
                filesystem.wait_durable(commit).await.unwrap();
            }
        });
        Self(disk.to_bytes())
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Makes the checksum at `at` that of a range.
    fn sum(&mut self, at: usize, start: usize, end: usize) -> u32 {
        let sum = crc32fast::hash(&self.0[start..end]);
        self.set(at, &sum.to_le_bytes());
        sum
    }

    /// Where the newest checkpoint is.
    fn slot(&self) -> usize {
        let slots = [16, 16 + self.u32(72) as usize].map(|block| block * BLOCK_SIZE);
        let valid = slots
            .into_iter()
            .filter(|at| self.0[*at..].starts_with(b"SiCp"));
        valid.max_by_key(|at| self.u64(at + 32)).unwrap()
    }

    fn set_in_slot(&mut self, at: usize, bytes: &[u8]) {
        let slot = self.slot();
        self.set(slot + at, bytes);
        let end = slot + 240 + self.u32(slot + 40) as usize;
        self.sum(slot + 4, slot + 8, end);
    }

    /// A block near the end of the disk that nothing is in.
    fn free_block(&self, number: usize) -> usize {
        self.0.len() / BLOCK_SIZE - 1 - number
    }

    /// Writes a node with these entries, the least birth of which is `base`; gives its pointer.
    fn write_node(
        &mut self,
        block: usize,
        (tree, level): (u8, u8),
        base: u64,
        entries: &[Vec<u8>],
    ) -> Vec<u8> {
        let at = block * BLOCK_SIZE;
        let bytes = entries.concat();
        self.0[at..at + BLOCK_SIZE].fill(0);
        self.set(at, b"SiTn");
        self.set(at + 8, &ID.0);
        self.set(at + 24, &(block as u64).to_le_bytes());
        self.set(at + 72, &[tree, level]);
        self.set(at + 74, &(entries.len() as u16).to_le_bytes());
        self.set(at + 76, &(bytes.len() as u16).to_le_bytes());
        self.set(at + 80, &1_u64.to_le_bytes());
        self.set(at + 88, &base.to_le_bytes());
        self.set(at + 96, &bytes);
        let sum = self.sum(at + 4, at + 8, at + BLOCK_SIZE);
        [&(block as u64).to_le_bytes()[..], &sum.to_le_bytes()].concat()
    }

    /// Puts a leaf with one item beside the live tree.
    fn add_leaf(&mut self, item: &Item) {
        let (leaf, root) = (self.free_block(0), self.free_block(1));
        let leaf = self.write_node(leaf, (1, 0), item.birth, &[item.encode()]);
        let slot = self.slot();
        let level = self.0[slot + 188];
        let old = self.0[slot + 176..slot + 188].to_vec();
        let entry = |flags: u8, before: &[u8], pointer: &[u8]| [&[flags], before, pointer].concat();
        // Of object 0, before the root directory, or behind all.
        let entries = if item.object == 0 {
            let first = entry(2, &[1, 0], &leaf);
            [first, entry(1, &[1, 0], &old)]
        } else {
            let mut key = varint(item.object);
            key.push(0);
            [entry(2, &[1, 0], &old), entry(1, &key, &leaf)]
        };
        assert_eq!(level, 0, "the old root is a leaf");
        let root = self.write_node(root, (1, 1), 0, &entries);
        self.set_in_slot(176, &root);
        self.set_in_slot(188, &1_u32.to_le_bytes());
    }

    /// What the root says of the leaf that was added: it is at `block`.
    fn say_that_leaf_is_at(&mut self, block: u64) {
        let (leaf, root) = (self.free_block(0) as u64, self.free_block(1) * BLOCK_SIZE);
        let mut places = root + 96..root + BLOCK_SIZE - 8;
        let place = places.find(|place| self.u64(*place) == leaf).unwrap();
        self.set(place, &block.to_le_bytes());
        let sum = self.sum(root + 4, root + 8, root + BLOCK_SIZE);
        self.set_in_slot(184, &sum.to_le_bytes());
    }

    /// Makes a leaf with one item the history tree.
    fn set_history(&mut self, item: &Item) {
        let leaf = self.free_block(0);
        let leaf = self.write_node(leaf, (2, 0), item.birth, &[item.encode()]);
        self.set_in_slot(192, &leaf);
        self.set_in_slot(204, &0_u32.to_le_bytes());
    }

    /// Appends a group with one commit of these records, as if it had been written last.
    fn append_group(&mut self, records: &[u8]) {
        self.append_group_with(records, &[]);
    }

    /// The same with data.
    fn append_group_with(&mut self, records: &[u8], data: &[u8]) {
        let groups = (0..self.0.len()).step_by(BLOCK_SIZE);
        let groups = groups.filter(|at| self.0[*at..].starts_with(b"SiGr"));
        let last = groups.max_by_key(|at| self.u64(at + 32)).unwrap();
        let len = 160 + self.u32(last + 68) + self.u32(last + 76);
        let at = last + (len as usize).next_multiple_of(BLOCK_SIZE);
        let mut frame = varint(records.len() as u64);
        frame.extend(varint(data.len() as u64));
        frame.extend_from_slice(records);
        let len = frame.len() as u32;
        let (sequence, commit) = (self.u64(last + 32) + 1, self.u64(last + 40));
        let commit = commit + u64::from(self.u32(last + 56));
        let (chain, next) = (self.u32(last + 4), self.0[last + 88..last + 96].to_vec());
        let checkpoint = self.u64(last + 48);
        self.0[at..at + BLOCK_SIZE].fill(0);
        self.set(at, b"SiGr");
        self.set(at + 8, &ID.0);
        self.set(at + 24, &((at / BLOCK_SIZE) as u64).to_le_bytes());
        self.set(at + 32, &sequence.to_le_bytes());
        self.set(at + 40, &commit.to_le_bytes());
        self.set(at + 48, &checkpoint.to_le_bytes());
        self.set(at + 56, &1_u32.to_le_bytes());
        self.set(at + 64, &chain.to_le_bytes());
        self.set(at + 68, &(data.len() as u32).to_le_bytes());
        self.set(at + 76, &len.to_le_bytes());
        self.set(at + 80, &len.to_le_bytes());
        self.set(at + 88, &next);
        let records = at + 160 + data.len();
        self.set(at + 160, data);
        self.set(records, &frame);
        self.sum(at + 72, at + 160, records);
        self.sum(at + 84, records, records + frame.len());
        self.sum(at + 4, at + 8, at + 160);
    }

    /// Mounts it, goes on for a while, and mounts it again: why not, or that all went well.
    fn try_out(&self, what: &str) -> Result<(), MountError> {
        println!("{what}");
        let disk = SimDisk::from_bytes(&self.0, 1);
        let mut executor = Executor::new(1);
        let filesystem = mount(&mut executor, &disk)?.filesystem;
        let clock = executor.clock();
        let promised = executor.run(async move {
            let new = NewInode::new(FileKind::File, 0o600);
            let make = filesystem.transact(1, |tx| tx.files().create(ROOT, b"after", &new));
            let promised = match make.await {
                Ok((_, commit)) => filesystem.wait_durable(commit).await.is_ok(),
                Err(_) => false,
            };
            // Walks through the history.
            let _ = filesystem.create_snapshot("after", 1).await;
            let _ = filesystem.delete_snapshot("after").await;
            clock.sleep_ms(5000).await;
            let horizon = CommitNumber(0);
            let _ = filesystem.checkpoint(horizon, &[], &[], &clock).await;
            let _ = filesystem.shutdown(&clock).await;
            promised
        });
        let mut executor = Executor::new(2);
        let again = mount(&mut executor, &disk.snapshot(2));
        let filesystem = again
            .unwrap_or_else(|error| panic!("{what}: {error}"))
            .filesystem;
        let found = executor.run(async move {
            let find = filesystem.read(|tx| tx.files().lookup(ROOT, b"after"));
            find.await.map(drop)
        });
        assert!(!promised || found == Ok(()), "{what}: {found:?}");
        Ok(())
    }

    /// The same, and it must be refused for what is damaged in `structure`.
    fn must_be_refused(&self, what: &str, expected: Structure) {
        let refused = self.try_out(what);
        let Err(MountError::Damaged { structure, .. }) = refused else {
            panic!("{what}: {refused:?}");
        };
        assert_eq!(structure, expected, "{what}");
    }
}

/// An item of a tree.
#[derive(Clone)]
struct Item {
    object: u64,
    kind: u8,
    position: u64,
    version: u64,
    birth: u64,
    value: Vec<u8>,
}

impl Item {
    /// As the only entry of a leaf whose base birth is the item's.
    fn encode(&self) -> Vec<u8> {
        let object = self.object != 0;
        let version = self.version << 1 ^ if self.version >> 63 == 0 { 0 } else { u64::MAX };
        let wide = self.position >= 1 << 56;
        let mut bytes = vec![
            u8::from(object)
                | 2
                | u8::from(version != 0) << 2
                | u8::from(wide) << 3
                | u8::from(!self.value.is_empty()) << 6,
        ];
        if object {
            bytes.extend(varint(self.object));
        }
        bytes.push(self.kind);
        if wide {
            bytes.extend(self.position.to_le_bytes());
        } else {
            bytes.extend(varint(self.position));
        }
        if version != 0 {
            bytes.extend(varint(version));
        }
        if !self.value.is_empty() {
            bytes.extend(varint(self.value.len() as u64));
        }
        bytes.extend_from_slice(&self.value);
        bytes
    }
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Of a file without a name.
fn inode() -> Item {
    Item {
        object: 5000,
        kind: 1,
        position: 0,
        version: 0,
        birth: 1,
        value: inode_value(),
    }
}

/// An inode of a file without content.
fn inode_value() -> Vec<u8> {
    [&[1, 1, 0, 0, 0, 0, 1, 0][..], &[0; 8], &[0, 0, 0]].concat()
}

#[test]
fn an_image_that_is_only_copied_mounts_and_so_does_what_is_added_rightly() {
    let image = Image::in_use();
    image.try_out("nothing forged").unwrap();
    // The means of this file work: what they add is believed when it can be.
    let mut image = Image::in_use();
    image.set_in_slot(112, &0_u64.to_le_bytes());
    image.try_out("the same horizon").unwrap();
    let mut image = Image::in_use();
    let item = inode();
    image.add_leaf(&item);
    image.try_out("an inode more").unwrap();
    let mut image = Image::in_use();
    image.set_history(&Item {
        version: 1,
        birth: 0,
        object: 1,
        ..item
    });
    image.try_out("some history").unwrap();
    let mut image = Image::in_use();
    let put = [
        &[1, 1][..],
        &varint(5000),
        &[0],
        &varint(19),
        &inode_value(),
    ]
    .concat();
    image.append_group(&put);
    image.try_out("a commit more").unwrap();
}

#[test]
fn numbers_of_a_checkpoint_that_cannot_be() {
    let fields = [
        ("sequence", 32),
        ("horizon", 112),
        ("tree commit", 120),
        ("durable group", 128),
        ("group of the start", 136),
        ("commit of the start", 144),
        ("clock", 152),
        ("next object", 160),
        ("next inode", 168),
    ];
    for (name, at) in fields {
        for number in [NUMBER_MAX + 1, 1 << 63, u64::MAX] {
            let mut image = Image::in_use();
            image.set_in_slot(at, &number.to_le_bytes());
            image.must_be_refused(&format!("{name} {number:#x}"), Structure::Checkpoint);
        }
    }
}

/// After which there could be no other: it was mounted, and then no checkpoint was ever made.
#[test]
fn a_checkpoint_that_would_be_the_last() {
    let mut image = Image::in_use();
    image.set_in_slot(32, &(NUMBER_MAX - 1).to_le_bytes());
    image.must_be_refused("the last checkpoint", Structure::Checkpoint);
    // One that would not be mounted is not made.
    for left in [2, 3] {
        image.set_in_slot(32, &(NUMBER_MAX - left).to_le_bytes());
        image.try_out(&format!("the last but {left}")).unwrap();
    }
}

/// Promised is what the log must bring back, and replay begins where all of that is.
#[test]
fn a_checkpoint_ahead_of_its_log() {
    for (name, at, structure) in [
        ("horizon", 112, Structure::CommitGroup),
        ("tree commit", 120, Structure::CommitGroup),
        ("commit of the start", 144, Structure::Checkpoint),
    ] {
        for number in [1000, NUMBER_MAX - 1] {
            let mut image = Image::in_use();
            image.set_in_slot(at, &number.to_le_bytes());
            image.must_be_refused(&format!("{name} {number:#x}"), structure);
        }
    }
}

/// Those that are given out come to their end: nothing is promised that the next mount would not take.
#[test]
fn numbers_that_are_the_last_there_are() {
    for (name, at) in [("next object", 160), ("next inode", 168), ("clock", 152)] {
        for number in [NUMBER_MAX - 2, NUMBER_MAX - 1] {
            let mut image = Image::in_use();
            image.set_in_slot(at, &number.to_le_bytes());
            image.try_out(&format!("{name} {number:#x}")).unwrap();
        }
    }
}

#[test]
fn items_whose_numbers_cannot_be() {
    let snapshot = Item {
        object: 0,
        kind: 7,
        position: 9,
        version: 0,
        birth: 1,
        value: b"\0\0\0\0\0\0\0\0forged".to_vec(),
    };
    let inode = inode();
    for number in [NUMBER_MAX, u64::MAX - 1, u64::MAX] {
        let mut image = Image::in_use();
        image.add_leaf(&Item {
            version: number,
            ..snapshot.clone()
        });
        image.must_be_refused(&format!("snapshot of version {number:#x}"), Structure::Node);
        let mut image = Image::in_use();
        image.add_leaf(&Item {
            birth: number,
            ..snapshot.clone()
        });
        image.must_be_refused(&format!("snapshot of commit {number:#x}"), Structure::Node);
        let mut image = Image::in_use();
        image.add_leaf(&Item {
            position: number,
            ..snapshot.clone()
        });
        image.must_be_refused(&format!("snapshot {number:#x}"), Structure::Node);
        // What nobody asks for shows when somebody does.
        for what in ["object", "version", "birth"] {
            let mut item = inode.clone();
            match what {
                "object" => item.object = number,
                "version" => item.version = number,
                _ => item.birth = number,
            }
            let mut image = Image::in_use();
            image.add_leaf(&item);
            let _ = image.try_out(&format!("inode with {what} {number:#x}"));
            let mut image = Image::in_use();
            item.version = item.version.max(1);
            image.set_history(&item);
            let _ = image.try_out(&format!("history with {what} {number:#x}"));
        }
    }
}

/// What a scrub finds, where there are so many copies of everything.
fn scrubbed(image: &Image, copies: u8) -> Vec<Finding> {
    let disk = CountingDisk::new(SimDisk::from_bytes(&image.0, 3), 1).of_copies(copies);
    let mut executor = Executor::new(3);
    let filesystem = mount_device(&mut executor, disk).unwrap().filesystem;
    let clock = executor.clock();
    executor.run(async move {
        let mut findings = Vec::new();
        let mut report = |finding: &Finding, repaired: bool| {
            assert!(!repaired);
            findings.push(finding.clone());
        };
        let scrub = filesystem.scrub(&clock, ScrubOptions::default(), &mut report);
        scrub.await.unwrap();
        findings
    })
}

/// To find out where such a block begins, a scrub that wanted to mend it went beyond the greatest number.
#[test]
fn a_scrub_says_that_a_node_is_nowhere() {
    let last = u64::MAX / BLOCK_SIZE as u64;
    for block in [NUMBER_MAX, last - 1, last, u64::MAX - 1, u64::MAX] {
        let mut image = Image::in_use();
        image.add_leaf(&inode());
        image.say_that_leaf_is_at(block);
        for copies in [1, 2] {
            let found = scrubbed(&image, copies);
            assert_eq!(found.len(), 1, "{block:#x}: {found:?}");
        }
    }
}

/// No file has data there, and to tell which are damaged goes beyond the greatest number.
#[test]
fn data_that_no_file_can_have() {
    for position in [u64::MAX - 4095, u64::MAX] {
        for address in [BLOCK_SIZE as u64 * 2000, NUMBER_MAX, u64::MAX - 8192] {
            let what = format!("{position:#x} at {address:#x}");
            let mut image = Image::in_use();
            // One unit, and all of what was written.
            image.add_leaf(&Item {
                kind: 5,
                position,
                value: [vec![12], varint(address)].concat(),
                ..inode()
            });
            let _ = image.try_out(&what);
            for copies in [1, 2] {
                assert!(!scrubbed(&image, copies).is_empty(), "{what}");
            }
            let disk = SimDisk::from_bytes(&image.0, 3);
            let clean = Executor::new(3).run(async move {
                let options = CheckOptions {
                    data: true,
                    ..CheckOptions::default()
                };
                lfs::check(&disk, options, &mut |_| ()).await.is_clean()
            });
            assert!(!clean, "{what}");
        }
    }
}

#[test]
fn records_whose_numbers_cannot_be() {
    let extent = |object: u64, offset: u64, stored_len: u64| {
        [
            &[3][..],
            &varint(object),
            &varint(offset),
            &varint(4096),
            &[0],
            &varint(stored_len),
        ]
        .concat()
    };
    for number in [NUMBER_MAX, u64::MAX - 1, u64::MAX] {
        let object = varint(number);
        for (what, records) in [
            (
                "put of object",
                [&[1, 1][..], &object, &[0], &varint(19), &inode_value()].concat(),
            ),
            ("put of orphan", [&[1, 6, 0][..], &object, &[1, 1]].concat()),
            ("removal of object", [&[2, 1][..], &object, &[0]].concat()),
            ("data of object", extent(number, 0, 4100)),
            ("free of object", [&[4][..], &object, &[0, 0]].concat()),
        ] {
            let mut image = Image::in_use();
            image.append_group(&records);
            let what = format!("{what} {number:#x}");
            image.must_be_refused(&what, Structure::CommitGroup);
        }
    }
    // The group has no data at all.
    let mut image = Image::in_use();
    image.append_group(&extent(5000, 0, 4100));
    image.must_be_refused("data that are not there", Structure::CommitGroup);
}

/// Bytes of data that no record tells of were passed over.
#[test]
fn data_that_belong_to_nothing() {
    let removal = [2, 1, 99, 0];
    let mut image = Image::in_use();
    image.append_group_with(&removal, &[]);
    image.try_out("no data").unwrap();
    for rest in [1, 500] {
        let mut image = Image::in_use();
        image.append_group_with(&removal, &vec![7; rest]);
        image.must_be_refused("data of nothing", Structure::CommitGroup);
    }
}
