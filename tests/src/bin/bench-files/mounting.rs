//! What a mount reads: nothing in proportion to the data.

use lfs::sim::{Executor, Random};
use lfs::{FileKind, InodeNumber, NewInode, ROOT};
use tests::qmp::BlockCounts;

use crate::simulated::{Counted, FILE, Simulated, random_bytes};
use tests::report::{Report, Table};

const DISK_BYTES: u64 = 1 << 30;
const FILE_BYTES: u64 = 64 << 10;
const FILES_OF_ONE_MIB: u64 = (1 << 20) / FILE_BYTES;
const DATA_MIB: [u64; 3] = [4, 40, 400];
/// Overwrites of 4 KiB anywhere in the data, behind the last checkpoint when the power is cut.
const COMMITS_BEFORE_CUT: u64 = 2000;

/// What mounts read.
struct Mounts {
    data_mib: u64,
    after_unmount: BlockCounts,
    after_power_cut: BlockCounts,
    replayed_commits: u64,
}

pub fn measure(report: &mut Report) {
    let mounts = DATA_MIB.map(mount_with);
    let columns = [
        "data",
        "files",
        "after an unmount: reads",
        "KiB",
        "after a power cut: reads",
        "KiB",
        "commits replayed",
    ];
    let title = format!("What a mount reads, {} MiB", DISK_BYTES >> 20);
    let mut table = Table::new(&title, &columns);
    for mount in &mounts {
        let (clean, cut) = (mount.after_unmount, mount.after_power_cut);
        let cells = [
            mount.data_mib * FILES_OF_ONE_MIB,
            clean.reads,
            clean.bytes_read >> 10,
            cut.reads,
            cut.bytes_read >> 10,
            mount.replayed_commits,
        ];
        let name = format!("{} MiB", mount.data_mib);
        table.row([name].into_iter().chain(cells.map(|cell| cell.to_string())));
        for (case, counts) in [("unmount", clean), ("power_cut", cut)] {
            let name = format!("mount_after_{case}_{}m", mount.data_mib);
            report.figures.add(
                &format!("{name}_reads"),
                "library",
                counts.reads as f64,
                "requests",
            );
            report.figures.add(
                &format!("{name}_bytes"),
                "library",
                counts.bytes_read as f64,
                "bytes",
            );
        }
    }
    table.note(format!(
        "the power is cut {COMMITS_BEFORE_CUT} commits of 4 KiB, anywhere in the data, after a checkpoint"
    ));
    report.show(&table);
    let [least, _, most] = &mounts;
    let growth = most.after_unmount.bytes_read as f64 / least.after_unmount.bytes_read as f64;
    report.at_most(
        "mount with 100 times the data",
        growth,
        1.1,
        "times the bytes read",
    );
}

fn mount_with(data_mib: u64) -> Mounts {
    let mut simulated = Simulated::new(DISK_BYTES);
    let files = simulated.run(move |filesystem, _| async move {
        create_files(&filesystem, data_mib * FILES_OF_ONE_MIB).await
    });
    let (executor, disk) = simulated.shut_down();
    let before = disk.counts();
    let mut simulated = Simulated::mount(executor, disk);
    let after_unmount = simulated.disk.counts() - before;
    simulated.run(move |filesystem, _| async move { overwrite(&filesystem, &files).await });
    // What the program had in memory is gone, and the disk is looked at anew.
    let executor = Executor::new(2);
    let disk = simulated.disk.with_clock(&executor.clock());
    drop(simulated);
    let before = disk.counts();
    let simulated = Simulated::mount(executor, disk);
    Mounts {
        data_mib,
        after_unmount,
        after_power_cut: simulated.disk.counts() - before,
        replayed_commits: simulated.filesystem.counters().replayed_commits,
    }
}

async fn create_files(filesystem: &Counted, count: u64) -> Vec<InodeNumber> {
    const FILES_OF_DIRECTORY: u64 = 100;
    let mut random = Random::new(1);
    let (mut files, mut directory) = (Vec::new(), ROOT);
    let new_directory = NewInode::new(FileKind::Directory, 0o755);
    for number in 0..count {
        let bytes = random_bytes(&mut random, FILE_BYTES);
        let made = filesystem.transact(1, |transaction| {
            let mut files = transaction.files();
            let mut directory = directory;
            if number.is_multiple_of(FILES_OF_DIRECTORY) {
                directory = files.create(ROOT, format!("{number}").as_bytes(), &new_directory)?;
            }
            let file = files.create(directory, format!("{number}").as_bytes(), &FILE)?;
            files.write(file, 0, &bytes)?;
            Ok((directory, file))
        });
        let ((own_directory, file), _) = made.await.unwrap();
        directory = own_directory;
        files.push(file);
    }
    files
}

async fn overwrite(filesystem: &Counted, files: &[InodeNumber]) {
    const PAGE: u64 = 4096;
    let mut random = Random::new(2);
    let mut last = filesystem.appended();
    for _ in 0..COMMITS_BEFORE_CUT {
        let file = files[random.index(files.len())];
        let offset = random.below(FILE_BYTES / PAGE) * PAGE;
        let bytes = random_bytes(&mut random, PAGE);
        let written = filesystem.transact(1, |transaction| {
            transaction.files().write(file, offset, &bytes)
        });
        last = written.await.unwrap().1;
    }
    filesystem.wait_durable(last).await.unwrap();
}
