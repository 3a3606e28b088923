//! Old images as they were once written: they must be read in all time to come, and damage in them must be found. One
//! with files, directories, snapshots and survivors of the cleaner; one encrypted with each cipher; and the two disks of a
//! mirror, of which one was away.
//!
//! `golden/NAME.deflate` is the image, `golden/NAME.txt` what is in it, and `golden/NAME-damage.txt` one bit per line that,
//! flipped, gives that finding. Unlike `golden.rs` this does not ask for the same bytes from today's code: how blocks are
//! chosen may change, what they mean may not. `SILTSTONE_BLESS=1` writes all three of what is tested, only
//! for a change of the format; `SILTSTONE_BLESS=damage` the last one, when a finding is worded in another way.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;

use crate::common::images::{Contents, contents_at};
use crate::common::key::{self, KEY_FILE, choose, entropy, with_key_file};
use crate::common::{self, FORMAT, ID, SEGMENT_BLOCKS, formatted, mount};
use crate::dump::{Counts, Lacks, Member, Reader, Secret, counts, lacks};
use embassy_futures::select::{Either, select};
use lfs::sim::{Executor, Random, SimClock, SimDisk};
use lfs::{
    BLOCK_SIZE, BlockDevice, BlockIndex, CheckEvent, CheckOptions, CheckSummary, Clock,
    DumpOptions, FileKind, FileSystem, KdfCost, KeyChange, KeyError, Mirror, MountError, NewInode,
    ROOT, Recovery, Suite, Unlock, XattrMode,
};

const NOW_NS: i64 = 1_700_000_000_000_000_000;

/// An image that is kept.
struct Golden {
    name: &'static str,
    suite: Option<Suite>,
    make: fn() -> SimDisk,
    snapshots: u64,
    /// How many bits of damage are kept with it.
    damages: usize,
    /// What a dump of it says, among other things.
    lines: &'static [&'static str],
}

const FULL: Golden = Golden {
    name: "files-1",
    suite: None,
    make: make_full,
    snapshots: 3,
    damages: 40,
    lines: &[
        ", survivors, ",
        "name \"snapshot 650\"",
        "group: sequence",
        "content log,",
        "content nodes,",
    ],
};

const ENCRYPTED: [Golden; 2] = [
    Golden {
        name: "encrypted-1-1",
        suite: Some(Suite::XChaCha20Poly1305),
        make: || make_encrypted(Suite::XChaCha20Poly1305),
        ..FEW_FILES
    },
    Golden {
        name: "encrypted-2-1",
        suite: Some(Suite::Aes256GcmSiv),
        make: || make_encrypted(Suite::Aes256GcmSiv),
        ..FEW_FILES
    },
];

/// The first of the two has everything.
const MIRROR: [Golden; 2] = [
    Golden {
        name: "mirror-first-1",
        make: || make_mirror()[0].clone(),
        ..FEW_FILES
    },
    Golden {
        name: "mirror-second-1",
        make: || make_mirror()[1].clone(),
        ..FEW_FILES
    },
];

const FEW_FILES: Golden = Golden {
    name: "",
    suite: None,
    make: || unreachable!(),
    snapshots: 1,
    damages: 28,
    lines: &[
        "name \"snapshot 4\"",
        "group: sequence",
        "content log,",
        "content nodes,",
        "content object,",
    ],
};

const PASSPHRASE: &[u8] = b"a passphrase for tests";

fn golden(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.join("tests/golden").join(name)
}

fn lines_of(disk: &SimDisk) -> Vec<String> {
    let disk = disk.clone();
    Executor::new(0).run(async move {
        let mut lines = Vec::new();
        let options = DumpOptions {
            key: key::key(),
            ..DumpOptions::default()
        };
        lfs::dump(&disk, options, &mut |event| lines.push(event.to_string())).await;
        lines
    })
}

fn check(disk: &SimDisk) -> (CheckSummary, Vec<String>) {
    let disk = disk.clone();
    Executor::new(0).run(async move {
        let mut lines = Vec::new();
        let mut say = |event: CheckEvent<'_>| {
            if let CheckEvent::Finding(finding) = event {
                lines.push(finding.to_string());
            }
        };
        let options = CheckOptions {
            key: key::key(),
            data: true,
            ..CheckOptions::default()
        };
        let summary = lfs::check(&disk, options, &mut say).await;
        (summary, lines)
    })
}

fn sum(content: &[u8]) -> u64 {
    content
        .iter()
        .fold(0xCBF2_9CE4_8422_2325_u64, |sum, &byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
        })
}

/// Everything in it, snapshots too, as text.
fn describe(disk: &SimDisk) -> String {
    let mut text = String::new();
    let mut executor = Executor::new(0);
    let filesystem = mount(&mut executor, &disk.snapshot(0)).unwrap().filesystem;
    let secret = key::suite().map(|_| Secret::KeyFile(&KEY_FILE));
    let reader = Reader::open(disk.to_bytes(), secret).unwrap();
    let snapshots = filesystem.snapshots().into_iter();
    let states = snapshots.map(|info| (info.name.clone(), Some(info)));
    for (name, info) in states.chain([("newest".to_owned(), None)]) {
        writeln!(text, "{name}").unwrap();
        let filesystem = filesystem.clone();
        let id = info.as_ref().map(|info| info.id);
        let contents: Contents = executor.run(async move { contents_at(&filesystem, id).await });
        // The reader written from SPEC.md says the same.
        let state = reader.state(info.map(|info| info.commit.0));
        let files = state.files().unwrap();
        assert_eq!(files.len(), contents.len());
        for (found, (path, kind, content)) in files.iter().zip(&contents) {
            assert_eq!(&found.path, path);
            if *kind != FileKind::Directory {
                assert!(state.content(found.inode).unwrap() == *content);
            }
            let (path, len, sum) = (path.escape_ascii(), content.len(), sum(content));
            writeln!(text, "  {kind:?} {path} {len} {sum:016x}").unwrap();
        }
    }
    for (number, content) in &reader.objects {
        let (len, sum) = (content.len(), sum(content));
        writeln!(text, "object {number} {len} {sum:016x}").unwrap();
    }
    for (commit, record) in &reader.layer {
        writeln!(text, "record in commit {commit}: {}", record.escape_ascii()).unwrap();
    }
    if !reader.manifest.is_empty() {
        writeln!(text, "manifest {}", reader.manifest.escape_ascii()).unwrap();
    }
    if let Some(member) = Member::newest(&disk.to_bytes()).unwrap() {
        writeln!(text, "{member}").unwrap();
    }
    text
}

/// A disk so full that the cleaner had to work, ended by a power cut.
fn make_full() -> SimDisk {
    let disk = formatted(120, 9);
    let mut executor = Executor::new(9);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    executor.run(async move {
        let mut random = Random::new(9);
        let file = NewInode::new(FileKind::File, 0o644);
        let directory = NewInode::new(FileKind::Directory, 0o755);
        let link = NewInode {
            target: b"small".to_vec(),
            ..NewInode::new(FileKind::Symlink, 0o777)
        };
        let mut files = Vec::new();
        let made = filesystem.transact(NOW_NS, |tx| {
            let inner = tx.files().create(ROOT, b"directory", &directory)?;
            let small = tx.files().create(inner, b"small", &file)?;
            tx.files().write(small, 0, b"a few bytes")?;
            tx.files().link(small, ROOT, b"second name")?;
            tx.files().create(inner, b"link", &link)?;
            tx.files()
                .set_xattr(small, b"user.large", &[b'x'; 5000], XattrMode::Any)?;
            let sparse = tx.files().create(ROOT, b"sparse", &file)?;
            tx.files().write(sparse, 1 << 20, b"far out")
        });
        made.await.unwrap();
        for at in 0..24 {
            let name = format!("file-{at}").into_bytes();
            let (made, _) = filesystem
                .transact(NOW_NS, |tx| tx.files().create(ROOT, &name, &file))
                .await
                .unwrap();
            files.push(made);
        }
        for round in 0..900_u64 {
            let chosen = files[random.index(files.len())];
            let offset = random.below(10) * 4096;
            // Not compressible to nothing, but it repeats.
            let content = (0..6000_u64).map(|at| (at * at + round * 7) as u8);
            let content = content.collect::<Vec<_>>();
            let written = filesystem
                .transact(NOW_NS, |tx| tx.files().write(chosen, offset, &content))
                .await;
            let ((), commit) = written.unwrap();
            filesystem.wait_durable(commit).await.unwrap();
            if round % 300 == 50 {
                let name = format!("snapshot {round}");
                filesystem.create_snapshot(&name, NOW_NS).await.unwrap();
            }
        }
        assert!(filesystem.counters().segments_cleaned > 0);
        filesystem.close();
        filesystem.stop();
        let _ = clock;
    });
    disk.snapshot(0)
}

/// A few files, which these rounds write to in turn; and an object and a snapshot of the layer above.
async fn work<D: BlockDevice>(filesystem: &FileSystem<D>, clock: &SimClock, rounds: Range<u64>) {
    let file = NewInode::new(FileKind::File, 0o644);
    for round in rounds {
        let name = format!("file-{}", round % 3).into_bytes();
        // What is not compressed, in several units; what is; and what is kept in the item.
        let mut random = Random::new(round);
        let content = match round % 3 {
            0 if round % 2 == 0 => (0..4200).map(|_| random.below(256) as u8).collect(),
            0 | 1 => b"what repeats is compressed ".repeat(300),
            _ => b"a few bytes ".repeat(round as usize),
        };
        let written = filesystem.transact(NOW_NS, |tx| {
            let file = match tx.files().lookup(ROOT, &name) {
                Ok(file) => file,
                Err(_) => tx.files().create(ROOT, &name, &file)?,
            };
            tx.files()
                .set_xattr(file, b"user.round", &[round as u8], XattrMode::Any)?;
            tx.files().write(file, round * 1000, &content)
        });
        let ((), commit) = written.await.unwrap();
        filesystem.wait_durable(commit).await.unwrap();
        if round == 4 {
            filesystem
                .create_snapshot("snapshot 4", NOW_NS)
                .await
                .unwrap();
            let mut object = filesystem.create_object().unwrap();
            common::put_all(&mut object, &b"of the layer above ".repeat(50))
                .await
                .unwrap();
            let object = object.finish().await.unwrap();
            let objects = [object];
            let made = filesystem.checkpoint(commit, &objects, b"manifest", clock);
            made.await.unwrap();
            let commit = filesystem.append(b"behind the object").unwrap();
            filesystem.wait_durable(commit).await.unwrap();
        }
    }
}

/// Which a key file and a passphrase open, ended by a power cut.
fn make_encrypted(suite: Suite) -> SimDisk {
    choose(Some(suite));
    let disk = formatted(64, 10);
    let mut executor = Executor::new(10);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let (clock, device) = (executor.clock(), disk.clone());
    executor.run(async move {
        work(&filesystem, &clock, 0..8).await;
        filesystem.close();
        filesystem.stop();
        let cost = KdfCost {
            memory_kib: 64,
            passes: 2,
            lanes: 2,
        };
        let add = KeyChange::Add(lfs::Secret::Passphrase(PASSPHRASE), cost);
        let added = lfs::change_keys(&device, &with_key_file(&KEY_FILE), add).await;
        assert_eq!(added, Ok(1));
    });
    disk.snapshot(0)
}

/// Runs something on the file system of a mirror; then the power goes.
fn on_mirror<T: 'static, F: Future<Output = T> + 'static>(
    disks: &[SimDisk],
    body: impl FnOnce(Mirror<SimDisk>, Rc<FileSystem<Mirror<SimDisk>>>, SimClock) -> F,
) -> T {
    let mut executor = Executor::new(11);
    let disks = disks.to_vec();
    let (mirror, filesystem) = executor.run(async move {
        let mirror = Mirror::open(disks, [11; 16]).await.unwrap();
        let mut recovery = key::open(mirror.clone()).await.unwrap();
        while recovery.next_commit().await.unwrap().is_some() {}
        (mirror, Rc::new(recovery.finish().await.unwrap()))
    });
    let clock = executor.clock();
    let (running, of) = (Rc::clone(&filesystem), clock.clone());
    executor.spawn(async move { Box::pin(running.run(&of)).await });
    let (running, of) = (mirror.clone(), clock.clone());
    executor.spawn(async move { running.run(&of).await });
    executor.run(body(mirror, filesystem, clock))
}

async fn whole(mirror: &Mirror<SimDisk>, clock: &SimClock) {
    let waited = select(mirror.whole(), clock.sleep_ms(600_000)).await;
    assert!(matches!(waited, Either::First(())), "not whole");
}

/// Two disks that had the same, until one was away.
fn make_mirror() -> [SimDisk; 2] {
    let disks = [1, 2].map(|seed| SimDisk::new(64 * SEGMENT_BLOCKS, seed));
    let target = disks[0].clone();
    Executor::new(11).run(async move { key::format(&target, FORMAT, ID).await.unwrap() });
    on_mirror(&disks, |mirror, filesystem, clock| async move {
        whole(&mirror, &clock).await;
        work(&filesystem, &clock, 0..6).await;
        filesystem.shutdown(&clock).await.unwrap();
    });
    on_mirror(&disks[..1], |_, filesystem, clock| async move {
        work(&filesystem, &clock, 6..9).await;
    });
    disks.map(|disk| disk.snapshot(0))
}

fn flipped(image: &[u8], at: usize) -> SimDisk {
    let disk = SimDisk::from_bytes(image, 0);
    disk.flip_bit(BlockIndex((at / BLOCK_SIZE) as u64), at % BLOCK_SIZE * 8);
    disk
}

impl Golden {
    fn image(&self) -> Vec<u8> {
        let packed = std::fs::read(golden(&format!("{}.deflate", self.name))).unwrap();
        miniz_oxide::inflate::decompress_to_vec(&packed).unwrap()
    }

    fn text(&self, of: &str) -> String {
        std::fs::read_to_string(golden(&format!("{}{of}.txt", self.name))).unwrap()
    }

    /// Places of bits, with what is found when they are flipped.
    fn damage(&self) -> Vec<(usize, String)> {
        let text = self.text("-damage");
        let lines = text.lines().map(|line| {
            let (at, finding) = line.split_once(' ').unwrap();
            (at.parse().unwrap(), finding.to_owned())
        });
        lines.collect()
    }

    fn bless(&self, what: &str) {
        let write = |of: &str, bytes: &[u8]| {
            std::fs::write(golden(&format!("{}{of}", self.name)), bytes).unwrap();
        };
        if what != "damage" {
            let disk = (self.make)();
            let packed = miniz_oxide::deflate::compress_to_vec(&disk.to_bytes(), 9);
            write(".deflate", &packed);
            write(".txt", describe(&disk).as_bytes());
        }
        let image = self.image();
        let disk = SimDisk::from_bytes(&image, 0);
        let good = check(&disk).1;
        let mut random = Random::new(3);
        let used = (0..image.len())
            .filter(|&at| image[at] != 0)
            .collect::<Vec<_>>();
        let mut head = vec![0, 20, 15 * BLOCK_SIZE + 40];
        if self.suite.is_some() {
            head.extend([BLOCK_SIZE + 30, BLOCK_SIZE + 200, 14 * BLOCK_SIZE + 80]);
        }
        let places = head.into_iter();
        let places = places.chain((0..3000).map(|_| used[random.index(used.len())]));
        let lines = places.filter_map(|at| {
            let found = check(&flipped(&image, at)).1;
            let new = found.iter().find(|line| !good.contains(line))?;
            Some(format!("{at} {new}\n"))
        });
        write(
            "-damage.txt",
            lines.take(self.damages).collect::<String>().as_bytes(),
        );
    }

    /// It is as it was, and damage in it is found.
    fn verify(&self) {
        choose(self.suite);
        if let Ok(what) = std::env::var("SILTSTONE_BLESS") {
            self.bless(&what);
        }
        let image = self.image();
        let disk = SimDisk::from_bytes(&image, 0);
        let lines = lines_of(&disk).join("\n");
        for part in self.lines {
            assert!(lines.contains(part), "{}: {part}", self.name);
        }
        let (summary, findings) = check(&disk);
        assert!(
            summary.is_clean() && summary.snapshots == self.snapshots,
            "{}: {findings:?}",
            self.name
        );
        assert_eq!(describe(&disk), self.text(""), "{}", self.name);

        let damage = self.damage();
        assert!(damage.len() > 20);
        for (at, finding) in damage {
            let (_, found) = check(&flipped(&image, at));
            assert!(
                found.contains(&finding),
                "{}: {at} {finding}: {found:#?}",
                self.name
            );
        }
    }
}

#[test]
fn an_old_image_with_files_is_read_and_its_damage_is_found() {
    FULL.verify();
}

#[test]
fn old_encrypted_images_are_read_and_their_damage_is_found() {
    for golden in &ENCRYPTED {
        golden.verify();
        let image = golden.image();
        let disk = SimDisk::from_bytes(&image, 0);
        let open = |secret| {
            let disk = disk.clone();
            Executor::new(0).run(async move {
                let unlock = Unlock {
                    secret,
                    memory_kib_max: 64,
                    entropy: &entropy,
                };
                let opened = Recovery::open_with(disk, Some(&unlock)).await;
                opened.map(|_| ()).err()
            })
        };
        // The passphrase opens it too; others do not.
        assert_eq!(open(lfs::Secret::Passphrase(PASSPHRASE)), None);
        assert!(Reader::open(image.clone(), Some(Secret::Passphrase(PASSPHRASE))).is_ok());
        let wrong = Some(MountError::Key(KeyError::WrongKey));
        assert_eq!(open(lfs::Secret::Passphrase(b"another")), wrong);
        assert_eq!(open(lfs::Secret::KeyFile(&[7; 32])), wrong);
        assert!(Reader::open(image, Some(Secret::Passphrase(b"another"))).is_err());
    }
}

#[test]
fn an_old_mirror_is_read_and_its_damage_is_found() {
    for golden in &MIRROR {
        golden.verify();
    }
    let images = MIRROR.each_ref().map(Golden::image);
    let members = images
        .each_ref()
        .map(|image| Member::newest(image).unwrap().unwrap());
    assert_eq!(counts(&members[0], &members[1]), Counts::First);
    assert_eq!(lacks(&members[0], &members[1]), Lacks::Marked);

    let alone = |disk: &SimDisk| {
        let mut executor = Executor::new(0);
        let filesystem = mount(&mut executor, &disk.snapshot(0)).unwrap().filesystem;
        executor.run(async move { contents_at(&filesystem, None).await })
    };
    let seen = |disks: &[SimDisk; 2]| {
        on_mirror(disks, |mirror, filesystem, clock| async move {
            let contents = contents_at(&filesystem, None).await;
            whole(&mirror, &clock).await;
            contents
        })
    };
    let fresh = || images.each_ref().map(|image| SimDisk::from_bytes(image, 0));
    let disks = fresh();
    let expected = alone(&disks[0]);
    assert!(alone(&disks[1]) != expected);
    for reversed in [false, true] {
        let mut disks = fresh();
        if reversed {
            disks.reverse();
        }
        assert!(seen(&disks) == expected);
        assert!(disks.iter().all(|disk| alone(disk) == expected));
    }
    // What is damaged on the one that lacks something does no harm.
    for (at, finding) in MIRROR[1].damage() {
        let [first, _] = fresh();
        let disks = [first, flipped(&images[1], at)];
        assert!(seen(&disks) == expected, "{at} {finding}");
    }
}
