//! The patterns as the system calls of a program.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use tests::qmp::BlockCounts;

use crate::loop_disk::{Kind, LoopDisk};
use crate::patterns::{
    COPY_STEP, DISK_BYTES, LINE, MAILBOX, PAGE, PAGES, PAGES_OF_TRANSACTION, Pattern,
    REPLACED_FILES, message_bytes,
};

/// Head of SQLite's rollback journal: a sector.
const JOURNAL_HEAD: u64 = 512;
/// What each page in the journal has besides: its number and a checksum.
const JOURNAL_PAGE: u64 = PAGE + 8;
const WAL_HEAD: u64 = 32;
/// What each page in the write-ahead log has besides.
const WAL_FRAME: u64 = PAGE + 24;
/// SQLite's `wal_autocheckpoint`.
const WAL_FRAMES_MAX: u64 = 1000;

/// What carrying out `pattern` on a new disk costs.
pub fn spent(pattern: Pattern, kind: Kind) -> BlockCounts {
    let disk = LoopDisk::new(DISK_BYTES);
    disk.format(kind);
    let mount = disk.mount(kind);
    prepare(pattern, mount.directory());
    mount.unmount();
    let mount = disk.mount(kind);
    let before = disk.counts();
    work(pattern, mount.directory());
    mount.unmount();
    disk.counts() - before
}

fn prepare(pattern: Pattern, directory: &Path) {
    let mut random = Rng::with_seed(1);
    let mut write = |name: PathBuf, len| {
        fs::write(directory.join(name), bytes(&mut random, len)).unwrap();
    };
    match pattern {
        Pattern::Overwrite { depth } => {
            (0..depth).for_each(|number| write(numbered(number), PAGES / depth * PAGE));
        }
        Pattern::LogAppend => write(numbered(0), 0),
        Pattern::Replace => (0..REPLACED_FILES).for_each(|number| write(numbered(number), PAGE)),
        Pattern::Mail => {
            for name in ["tmp", "new"] {
                fs::create_dir(directory.join(name)).unwrap();
            }
            for number in 0..MAILBOX {
                write(
                    Path::new("new").join(numbered(number)),
                    message_bytes(number),
                );
            }
        }
        Pattern::RollbackJournal => write(numbered(0), PAGES * PAGE),
        Pattern::WriteAheadLog => {
            write(numbered(0), PAGES * PAGE);
            write("wal".into(), WAL_HEAD);
        }
        Pattern::Copy => write(numbered(0), pattern.operations() * COPY_STEP),
    }
}

fn work(pattern: Pattern, directory: &Path) {
    let operations = 0..pattern.operations();
    let mut random = Rng::with_seed(2);
    match pattern {
        Pattern::Overwrite { depth } => overwrite(directory, operations.end, depth),
        Pattern::LogAppend => append(directory, operations.end),
        Pattern::Replace => operations.for_each(|number| replace(directory, number, &mut random)),
        Pattern::Mail => operations.for_each(|number| deliver(directory, number, &mut random)),
        Pattern::RollbackJournal => {
            let database = open(directory, 0);
            operations.for_each(|_| with_rollback_journal(directory, &database, &mut random));
        }
        Pattern::WriteAheadLog => with_write_ahead_log(directory, operations.end, &mut random),
        Pattern::Copy => copy(directory, operations.end),
    }
}

/// Each on a file of its own: Linux lets only one `fsync` of a file into a file system in user space.
fn overwrite(directory: &Path, operations: u64, depth: u64) {
    std::thread::scope(|scope| {
        for worker in 0..depth {
            scope.spawn(move || {
                let mut random = Rng::with_seed(worker);
                let file = open(directory, worker);
                for _ in 0..operations / depth {
                    overwrite_page(&file, PAGES / depth, &mut random);
                    file.sync_data().unwrap();
                }
            });
        }
    });
}

fn overwrite_page(file: &File, pages: u64, random: &mut Rng) {
    let page = bytes(random, PAGE);
    file.write_all_at(&page, random.u64(..pages) * PAGE)
        .unwrap();
}

fn append(directory: &Path, operations: u64) {
    let mut random = Rng::with_seed(2);
    let path = directory.join(numbered(0));
    let mut log = File::options().append(true).open(path).unwrap();
    for _ in 0..operations {
        log.write_all(&bytes(&mut random, LINE)).unwrap();
        log.sync_data().unwrap();
    }
}

fn replace(directory: &Path, operation: u64, random: &mut Rng) {
    let (new, old) = (
        directory.join("tmp"),
        directory.join(numbered(operation % REPLACED_FILES)),
    );
    create(&new, &bytes(random, PAGE)).sync_all().unwrap();
    fs::rename(&new, &old).unwrap();
    sync_directory(directory);
}

fn deliver(directory: &Path, operation: u64, random: &mut Rng) {
    let number = operation + MAILBOX;
    let (new, mailbox) = (
        directory.join("tmp").join(numbered(number)),
        directory.join("new"),
    );
    create(&new, &bytes(random, message_bytes(number)))
        .sync_all()
        .unwrap();
    fs::rename(&new, mailbox.join(numbered(number))).unwrap();
    sync_directory(&mailbox);
    fs::remove_file(mailbox.join(numbered(operation))).unwrap();
}

/// What SQLite does to the files: the old pages go to a journal, the journal's head says how many, the new pages to
/// their places, and deleting the journal commits.
fn with_rollback_journal(directory: &Path, database: &File, random: &mut Rng) {
    let path = directory.join("journal");
    let mut journal = create(&path, &vec![0; JOURNAL_HEAD as usize]);
    for _ in 0..PAGES_OF_TRANSACTION {
        journal.write_all(&bytes(random, JOURNAL_PAGE)).unwrap();
    }
    journal.sync_data().unwrap();
    sync_directory(directory);
    journal.write_all_at(&[1; 12], 0).unwrap();
    journal.sync_data().unwrap();
    for _ in 0..PAGES_OF_TRANSACTION {
        overwrite_page(database, PAGES, random);
    }
    database.sync_data().unwrap();
    drop(journal);
    fs::remove_file(path).unwrap();
}

/// What SQLite does to the files: new pages go to the log; when that is full they are copied to their places, and the
/// log begins anew in the same place.
fn with_write_ahead_log(directory: &Path, operations: u64, random: &mut Rng) {
    let database = open(directory, 0);
    let mut log = File::options()
        .write(true)
        .open(directory.join("wal"))
        .unwrap();
    log.seek(SeekFrom::Start(WAL_HEAD)).unwrap();
    let mut frames = 0;
    for _ in 0..operations {
        let transaction = bytes(random, PAGES_OF_TRANSACTION * WAL_FRAME);
        log.write_all(&transaction).unwrap();
        log.sync_data().unwrap();
        frames += PAGES_OF_TRANSACTION;
        if frames >= WAL_FRAMES_MAX {
            (0..frames).for_each(|_| overwrite_page(&database, PAGES, random));
            database.sync_data().unwrap();
            log.seek(SeekFrom::Start(0)).unwrap();
            log.write_all(&bytes(random, WAL_HEAD)).unwrap();
            frames = 0;
        }
    }
}

fn copy(directory: &Path, operations: u64) {
    let source = open(directory, 0);
    let mut target = create(&directory.join("copy"), &[]);
    let mut bytes = vec![0; COPY_STEP as usize];
    for step in 0..operations {
        source.read_exact_at(&mut bytes, step * COPY_STEP).unwrap();
        target.write_all(&bytes).unwrap();
    }
    target.sync_all().unwrap();
}

fn create(path: &Path, content: &[u8]) -> File {
    let mut file = File::create_new(path).unwrap();
    file.write_all(content).unwrap();
    file
}

fn open(directory: &Path, number: u64) -> File {
    let path = directory.join(numbered(number));
    File::options().read(true).write(true).open(path).unwrap()
}

fn sync_directory(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

fn numbered(number: u64) -> PathBuf {
    format!("{number:06}").into()
}

fn bytes(random: &mut Rng, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    random.fill(&mut bytes);
    bytes
}
