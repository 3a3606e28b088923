//! The patterns through the library: each operation is one transaction, made durable before the next.

use std::cell::Cell;
use std::rc::Rc;

use lfs::sim::Random;
use lfs::{FileError, FileKind, InodeNumber, NewInode, Notify, ROOT, RenameFlags, Transaction};
use tests::qmp::BlockCounts;

use crate::patterns::{
    COPY_STEP, DISK_BYTES, LINE, MAILBOX, PAGE, PAGES, PAGES_OF_TRANSACTION, Pattern,
    REPLACED_FILES, message_bytes,
};
use crate::simulated::{Counted, FILE, Simulated, create, fill, random_bytes};

/// What a pattern cost.
pub struct Spent {
    /// Until the last operation was durable.
    pub at_work: BlockCounts,
    /// Until the file system was unmounted.
    pub in_all: BlockCounts,
}

/// Prepares a disk for `pattern` and carries that out.
pub fn spent(pattern: Pattern) -> Spent {
    let mut simulated = Simulated::new(DISK_BYTES);
    let prepared =
        simulated.run(|filesystem, _| async move { prepare(&filesystem, pattern).await });
    let (executor, disk) = simulated.shut_down();
    let mut simulated = Simulated::mount(executor, disk);
    let before = simulated.disk.counts();
    let workers = match pattern {
        Pattern::Overwrite { depth } => depth,
        _ => 1,
    };
    let at_work = Rc::new((Cell::new(workers), Notify::default()));
    for number in 0..workers {
        let at_work = Rc::clone(&at_work);
        let mut worker = Worker {
            filesystem: Rc::clone(&simulated.filesystem),
            pattern,
            inode: prepared[number as usize],
            target: *prepared.last().expect("something is prepared"),
            random: Random::new(number + 2),
        };
        simulated.executor.spawn(async move {
            for operation in (number..pattern.operations()).step_by(workers as usize) {
                worker.work(operation).await;
            }
            at_work.0.set(at_work.0.get() - 1);
            at_work.1.notify();
        });
    }
    simulated.executor.run(async move {
        let over = || (at_work.0.get() == 0).then_some(());
        at_work.1.until(over).await;
    });
    let at_work = simulated.disk.counts() - before;
    let (_, disk) = simulated.shut_down();
    Spent {
        at_work,
        in_all: disk.counts() - before,
    }
}

/// The files or the directory that are worked on.
async fn prepare(filesystem: &Counted, pattern: Pattern) -> Vec<InodeNumber> {
    let mut random = Random::new(1);
    let (names, bytes) = match pattern {
        Pattern::Overwrite { depth } => (depth, PAGES / depth * PAGE),
        Pattern::LogAppend => (1, 0),
        Pattern::Replace => (REPLACED_FILES, PAGE),
        Pattern::Mail => return vec![mailbox(filesystem, &mut random).await],
        Pattern::RollbackJournal | Pattern::WriteAheadLog => (1, PAGES * PAGE),
        Pattern::Copy => (1, pattern.operations() * COPY_STEP),
    };
    let mut files = Vec::new();
    for number in 0..names {
        let file = create(filesystem, &name(number)).await;
        fill(filesystem, file, bytes, &mut random).await;
        files.push(file);
    }
    if pattern == Pattern::Copy {
        files.push(create(filesystem, "copy").await);
    }
    files
}

async fn mailbox(filesystem: &Counted, random: &mut Random) -> InodeNumber {
    let directory = NewInode::new(FileKind::Directory, 0o755);
    let made = filesystem.transact(1, |transaction| {
        transaction.files().create(ROOT, b"new", &directory)
    });
    let (mailbox, _) = made.await.unwrap();
    for number in 0..MAILBOX {
        let bytes = random_bytes(random, message_bytes(number));
        let deliver = |transaction: &mut Transaction<'_>| {
            create_with(transaction, mailbox, &name(number), &bytes)
        };
        filesystem.transact(1, deliver).await.unwrap();
    }
    mailbox
}

fn name(number: u64) -> String {
    format!("{number:06}")
}

fn create_with(
    transaction: &mut Transaction<'_>,
    directory: InodeNumber,
    name: &str,
    bytes: &[u8],
) -> Result<(), FileError> {
    let file = transaction
        .files()
        .create(directory, name.as_bytes(), &FILE)?;
    transaction.files().write(file, 0, bytes)
}

struct Worker {
    filesystem: Rc<Counted>,
    pattern: Pattern,
    /// What it works on.
    inode: InodeNumber,
    /// Where a copy goes.
    target: InodeNumber,
    random: Random,
}

impl Worker {
    async fn work(&mut self, operation: u64) {
        match self.pattern {
            Pattern::Overwrite { depth } => self.overwrite(operation, PAGES / depth, 1).await,
            Pattern::RollbackJournal | Pattern::WriteAheadLog => {
                self.overwrite(operation, PAGES, PAGES_OF_TRANSACTION).await;
            }
            Pattern::LogAppend => {
                let line = random_bytes(&mut self.random, LINE);
                let inode = self.inode;
                self.commit(operation, |transaction| {
                    transaction.files().write(inode, operation * LINE, &line)
                })
                .await;
            }
            Pattern::Replace => self.replace(operation).await,
            Pattern::Mail => self.deliver(operation).await,
            Pattern::Copy => self.copy(operation).await,
        }
    }

    async fn overwrite(&mut self, operation: u64, pages_of_file: u64, pages: u64) {
        let changes = (0..pages)
            .map(|_| {
                let offset = self.random.below(pages_of_file) * PAGE;
                (offset, random_bytes(&mut self.random, PAGE))
            })
            .collect::<Vec<_>>();
        let inode = self.inode;
        self.commit(operation, |transaction| {
            let mut files = transaction.files();
            let mut changes = changes.iter();
            changes.try_for_each(|(offset, bytes)| files.write(inode, *offset, bytes))
        })
        .await;
    }

    async fn replace(&mut self, operation: u64) {
        let bytes = random_bytes(&mut self.random, PAGE);
        let target = name(operation % REPLACED_FILES);
        self.commit(operation, |transaction| {
            create_with(transaction, ROOT, "tmp", &bytes)?;
            let flags = RenameFlags::default();
            transaction
                .files()
                .rename(ROOT, b"tmp", ROOT, target.as_bytes(), flags)
        })
        .await;
    }

    async fn deliver(&mut self, operation: u64) {
        let number = operation + MAILBOX;
        let bytes = random_bytes(&mut self.random, message_bytes(number));
        let mailbox = self.inode;
        self.commit(operation, |transaction| {
            create_with(transaction, mailbox, &name(number), &bytes)?;
            transaction
                .files()
                .unlink(mailbox, name(operation).as_bytes())
        })
        .await;
    }

    async fn copy(&mut self, operation: u64) {
        let (source, target) = (self.inode, self.target);
        let offset = operation * COPY_STEP;
        let now_ns = operation as i64 * 1000;
        let copied = self.filesystem.transact(now_ns, |transaction| {
            let bytes = transaction
                .files()
                .read(source, offset, COPY_STEP as usize)?;
            transaction.files().write(target, offset, &bytes)
        });
        let ((), commit) = copied.await.unwrap();
        if operation + 1 == self.pattern.operations() {
            self.filesystem.wait_durable(commit).await.unwrap();
        }
    }

    /// One operation: taken, and durable.
    async fn commit(
        &self,
        operation: u64,
        body: impl FnMut(&mut Transaction<'_>) -> Result<(), FileError>,
    ) {
        let now_ns = operation as i64 * 1000;
        let ((), commit) = self.filesystem.transact(now_ns, body).await.unwrap();
        self.filesystem.wait_durable(commit).await.unwrap();
    }
}
