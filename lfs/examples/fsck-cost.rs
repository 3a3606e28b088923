//! What a check costs: makes an image with many files, checks it, and tells how often each block was read and how much
//! memory the process took.
//!
//!     cargo run --release -p lfs --example fsck-cost -- make IMAGE [FILES] [MIB]
//!     cargo run --release -p lfs --example fsck-cost -- check IMAGE [--data] [TABLE_MIB]
//!
//! `make` defaults to 100,000 files on 1 GiB. Memory is the peak of the process as Linux counts it, so `check`
//! runs in a process of its own.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "an example may panic"
)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::time::Instant;

use lfs::sim::Executor;
use lfs::{
    BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, CheckEvent, CheckOptions, DeviceError,
    DeviceGeometry, FileKind, FileSystemId, FormatOptions, NewInode, ROOT, Recovery,
};

/// A file as a device, that counts how often each block is read.
struct Counted {
    file: File,
    blocks: u64,
    reads: RefCell<HashMap<u64, u32>>,
}

impl Counted {
    fn new(file: File) -> Rc<Self> {
        let blocks = file.metadata().unwrap().len() / BLOCK_SIZE as u64;
        Rc::new(Self {
            file,
            blocks,
            reads: RefCell::default(),
        })
    }
}

struct Device(Rc<Counted>);

impl BlockDevice for Device {
    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry {
            block_count: self.0.blocks,
            discard: false,
        }
    }

    async fn read(
        &self,
        start: BlockIndex,
        mut buffer: Buffer,
    ) -> (Buffer, Result<(), DeviceError>) {
        let mut reads = self.0.reads.borrow_mut();
        for block in start.0..start.0 + buffer.len_blocks() as u64 {
            *reads.entry(block).or_default() += 1;
        }
        let at = start.0 * BLOCK_SIZE as u64;
        let read = self.0.file.read_exact_at(buffer.bytes_mut(), at);
        (buffer, read.map_err(|_| DeviceError::OutOfRange))
    }

    async fn write(&self, start: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        let at = start.0 * BLOCK_SIZE as u64;
        let written = self.0.file.write_all_at(buffer.bytes(), at);
        (buffer, written.map_err(|_| DeviceError::Io))
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    async fn discard(&self, _: BlockIndex, _: u64) -> Result<(), DeviceError> {
        Err(DeviceError::Unsupported)
    }
}

fn main() {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let words = arguments.iter().map(String::as_str).collect::<Vec<_>>();
    let number = |text: Option<&&str>, default| text.map_or(default, |text| text.parse().unwrap());
    match words.as_slice() {
        ["make", path, rest @ ..] => {
            make(
                path,
                number(rest.first(), 100_000),
                number(rest.get(1), 1024),
            );
        }
        ["check", path, rest @ ..] => {
            let data = rest.contains(&"--data");
            let mib = rest.iter().find(|word| **word != "--data");
            check(path, data, number(mib, 128) as usize);
        }
        _ => {
            println!(
                "usage: fsck-cost make IMAGE [FILES] [MIB] | check IMAGE [--data] [TABLE_MIB]"
            );
        }
    }
}

fn make(path: &str, files: u64, mib: u64) {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .unwrap();
    file.set_len(mib << 20).unwrap();
    let counted = Counted::new(file);
    let mut executor = Executor::new(1);
    let clock = executor.clock();
    let device = Device(Rc::clone(&counted));
    let filesystem = executor.run(async move {
        let options = FormatOptions::for_device_bytes(mib << 20);
        let id = FileSystemId([7; 16]);
        lfs::format(&device, options, id).await.unwrap();
        let mut recovery = Recovery::open(device).await.unwrap();
        while recovery.next_commit().await.unwrap().is_some() {}
        Rc::new(recovery.finish().await.unwrap())
    });
    let running = Rc::clone(&filesystem);
    let run_clock = executor.clock();
    executor.spawn(async move { running.run(&run_clock).await });
    executor.run(async move {
        let new = NewInode::new(FileKind::File, 0o644);
        let folder = NewInode::new(FileKind::Directory, 0o755);
        let content = (0..8192_u64)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect::<Vec<_>>();
        let mut directory = ROOT;
        for first in (0..files).step_by(50) {
            let (made, _) = filesystem
                .transact(0, |tx| {
                    let mut into = directory;
                    if first % 1000 == 0 {
                        let name = format!("directory-{first}").into_bytes();
                        into = tx.files().create(ROOT, &name, &folder)?;
                    }
                    for at in first..(first + 50).min(files) {
                        let name = format!("file-{at}").into_bytes();
                        let file = tx.files().create(into, &name, &new)?;
                        let len = [0, 100, 700, 2500, 8000][(at % 5) as usize];
                        let content = content.get(..len).unwrap_or_default();
                        tx.files().write(file, 0, content)?;
                    }
                    Ok(into)
                })
                .await
                .unwrap();
            directory = made;
        }
        filesystem.shutdown(&clock).await.unwrap();
    });
}

fn check(path: &str, data: bool, table_mib: usize) {
    let counted = Counted::new(File::open(path).unwrap());
    let device = Device(Rc::clone(&counted));
    let options = CheckOptions {
        key: None,
        data,
        table_bytes_max: table_mib << 20,
    };
    let begun = Instant::now();
    let summary = Executor::new(0).run(async move {
        let mut say = |event: CheckEvent<'_>| {
            if let CheckEvent::Finding(finding) = event {
                println!("{finding}");
            }
        };
        lfs::check(&device, options, &mut say).await
    });
    let seconds = begun.elapsed().as_secs_f64();
    let reads = counted.reads.borrow();
    let total = reads.values().map(|&count| u64::from(count)).sum::<u64>();
    let again = reads.values().filter(|&&count| count > 1).count();
    println!("{summary:#?}");
    println!(
        "{} blocks read, {again} of them more than once, {total} reads in all, {seconds:.2} s",
        reads.len()
    );
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines().filter(|line| line.starts_with("VmHWM")) {
        println!("peak memory: {}", line.trim_start_matches("VmHWM:").trim());
    }
}
