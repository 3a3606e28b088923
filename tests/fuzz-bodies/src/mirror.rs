//! Two disks of a mirror that were damaged apart from each other.
//!
//! Invariants: opening them together or each alone, mounting, writing and bringing the other one up to date end, without a panic. What
//! one disk has durably written is there at the next start, unless the disks were tampered with.
//!
//! The input is a kind (of 2 on, all checksums are made right again after the damage, those of member records too), and a script of
//! [`Damage`] with a byte before each step that says to which disk.

use std::rc::Rc;
use std::sync::OnceLock;

use lfs::sim::{Damage, Executor, SimDisk, forge};
use lfs::{
    BlockDevice, Clock as _, FileKind, FileSystem, FileSystemId, FormatOptions, Mirror, NewInode,
    ROOT, Recovery,
};

const DISK_BLOCKS: usize = 640;
/// Of a step: which disk, and what becomes of it.
pub const STEP_BYTES: usize = 1 + Damage::BYTES;
/// For the disk that lacks something to get it, in the simulation's time.
const CATCH_UP_MS: u64 = 60_000;
const WRITTEN: &[u8] = b"written since";

/// What became of the disks: see [`run`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Both together were a mirror that mounted.
    pub together: bool,
    /// Each mounted alone.
    pub alone: [bool; 2],
}

/// The body: see the module.
pub fn run(input: &[u8]) -> Ends {
    let (kind, script) = input.split_first().unwrap_or((&1, &[]));
    let [earlier, latest] = pair();
    let mut disks = latest.clone();
    for [which, step @ ..] in script.as_chunks::<STEP_BYTES>().0 {
        let which = usize::from(which % 2);
        if let (Some(disk), Some(earlier)) = (disks.get_mut(which), earlier.get(which)) {
            Damage::parse(*step).apply(disk, earlier);
        }
    }
    let forged = *kind >= 2;
    if forged {
        for disk in &mut disks {
            forge(disk);
        }
    }
    let disks = disks.map(|bytes| SimDisk::from_bytes(&bytes, 4));
    let copies = |disks: &[SimDisk; 2]| disks.iter().map(|disk| disk.snapshot(4)).collect();
    let [first, second] = &disks;
    let alone = [first, second].map(|disk| boot(vec![disk.snapshot(4)]).is_some());
    let both: Vec<_> = copies(&disks);
    let together = match boot(both.clone()) {
        None => false,
        Some(true) => {
            let again = boot(both).is_some_and(|before| !before);
            assert!(forged || again, "a durable commit is gone");
            true
        }
        Some(false) => true,
    };
    Ends { together, alone }
}

/// Mounts the disks and, where that works, makes a file that was not there and waits until both disks have everything. Whether
/// the file is new and durable.
fn boot(disks: Vec<SimDisk>) -> Option<bool> {
    let mut executor = Executor::new(5);
    let opened = executor.run(async move {
        let mirror = Mirror::open(disks, [6; 16]).await.ok()?;
        let mut recovery = Recovery::open(mirror.clone()).await.ok()?;
        while recovery.next_commit().await.ok()?.is_some() {}
        Some((mirror, Rc::new(recovery.finish().await.ok()?)))
    });
    let (mirror, filesystem) = opened?;
    start(&mut executor, &mirror, &filesystem);
    let clock = executor.clock();
    Some(executor.run(async move {
        let kept = write(&filesystem).await;
        let whole = embassy_futures::select::select(mirror.whole(), clock.sleep_ms(CATCH_UP_MS));
        whole.await;
        let _ = mirror.mirror_status();
        let ended = filesystem.shutdown(&clock).await;
        kept && ended.is_ok()
    }))
}

fn start(
    executor: &mut Executor,
    mirror: &Mirror<SimDisk>,
    filesystem: &Rc<FileSystem<Mirror<SimDisk>>>,
) {
    let (running, clock) = (Rc::clone(filesystem), executor.clock());
    executor.spawn(async move { Box::pin(running.run(&clock)).await });
    let (running, clock) = (mirror.clone(), executor.clock());
    executor.spawn(async move { running.run(&clock).await });
}

/// Makes a file; false when it is there already, or does not become durable.
async fn write(filesystem: &FileSystem<Mirror<SimDisk>>) -> bool {
    let new = NewInode::new(FileKind::File, 0o600);
    let made = filesystem.transact(0, |tx| tx.files().create(ROOT, WRITTEN, &new));
    match made.await {
        Ok((_, commit)) => filesystem.wait_durable(commit).await.is_ok(),
        Err(_) => false,
    }
}

/// Two disks at two moments: when both were whole, and when the second had been away for a while.
fn pair() -> &'static [[Vec<u8>; 2]; 2] {
    static DISKS: OnceLock<[[Vec<u8>; 2]; 2]> = OnceLock::new();
    DISKS.get_or_init(|| {
        let disks = [1, 2].map(|seed| SimDisk::new(DISK_BLOCKS, seed));
        let [first, second] = disks.clone();
        let bytes = || [first.to_bytes(), second.to_bytes()];
        let device = first.clone();
        Executor::new(1).run(async move {
            let options = FormatOptions {
                segment_bytes: 32 << 10,
                log_segments: 16,
                created_ns: 0,
            };
            let made = lfs::format(&device, options, FileSystemId([7; 16])).await;
            made.expect("it fits");
        });
        use_disks(disks.to_vec(), 0);
        let earlier = bytes();
        use_disks(vec![first.clone()], 10);
        [earlier, bytes()]
    })
}

/// Makes some files, and ends in order once all disks have them.
fn use_disks(disks: Vec<SimDisk>, from: u8) {
    let mut executor = Executor::new(3);
    let many = disks.len() > 1;
    let (mirror, filesystem) = executor.run(async move {
        let mirror = Mirror::open(disks, [8; 16]).await.expect("a mirror");
        let recovery = Recovery::open(mirror.clone()).await;
        let mut recovery = recovery.expect("a sound disk");
        while recovery.next_commit().await.expect("sound").is_some() {}
        let filesystem = recovery.finish().await.expect("a disk that works");
        (mirror, Rc::new(filesystem))
    });
    start(&mut executor, &mirror, &filesystem);
    let clock = executor.clock();
    executor.run(async move {
        for number in from..from + 10 {
            let new = NewInode::new(FileKind::File, 0o600);
            let made = filesystem.transact(0, |tx| {
                let file = tx.files().create(ROOT, &[b'a' + number], &new)?;
                tx.files().write(file, 0, &[number; 3000])
            });
            made.await.expect("it fits");
        }
        if many {
            mirror.whole().await;
        }
        filesystem.shutdown(&clock).await.expect("it keeps it");
    });
}
