//! What a check reads, and the memory it takes: 1 GiB with 100,000 files.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lfs::sim::Executor;
use lfs::{
    BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, CheckEvent, CheckOptions, DeviceError,
    DeviceGeometry, FileKind, NewInode, ROOT,
};
use serde_json::{Value, json};
use tests::process::Process;

use crate::simulated::{Counted, FILE, Simulated};
use tests::report::{Report, Table};

const DISK_BYTES: u64 = 1 << 30;
const FILES: u64 = 100_000;
/// By turns: nothing, what an item holds, and one block and two.
const FILE_BYTES: [usize; 5] = [0, 100, 700, 2500, 8000];
/// Memory for what is known of inodes and names, and where it does not suffice to know all at once.
const TABLES_MIB: [u64; 2] = [128, 4];
/// Memory that a check takes besides its tables, at most: nodes, two segments of log, and the program.
const MEMORY_BESIDES_MIB: u64 = 64;
const CHECK_LIMIT: Duration = Duration::from_mins(10);

pub fn measure(report: &mut Report) {
    let directory = tempfile::tempdir().expect("a directory");
    let image = directory.path().join("image");
    make_image(&image);
    let columns = [
        "",
        "passes",
        "nodes",
        "nodes read",
        "blocks read",
        "more than once",
        "reads",
        "peak MiB",
        "seconds",
    ];
    let title = format!("A check of {} MiB with {FILES} files", DISK_BYTES >> 20);
    let mut table = Table::new(&title, &columns);
    for (name, table_mib, data) in [
        ("metadata", TABLES_MIB[0], false),
        ("metadata, in little memory", TABLES_MIB[1], false),
        ("metadata and data", TABLES_MIB[0], true),
    ] {
        let found = check_elsewhere(&image, table_mib, data);
        let number = |name: &str| found[name].as_f64().expect("a number");
        table.row([
            name.to_owned(),
            number("passes").to_string(),
            number("nodes").to_string(),
            number("nodes_read").to_string(),
            number("blocks").to_string(),
            number("again").to_string(),
            number("reads").to_string(),
            format!("{:.0}", number("peak_kib") / 1024.0),
            format!("{:.1}", number("seconds")),
        ]);
        let figure_name = format!("check_{}", name.replace(", ", "_").replace(' ', "_"));
        for (quantity, unit) in [
            ("blocks", "blocks"),
            ("again", "blocks"),
            ("peak_kib", "KiB"),
        ] {
            let name = format!("{figure_name}_{quantity}");
            report.figures.add(&name, "library", number(quantity), unit);
        }
        let most = (table_mib * 5 / 4 + MEMORY_BESIDES_MIB) as f64;
        report.at_most(
            &format!("check, {name}: memory"),
            number("peak_kib") / 1024.0,
            most,
            "MiB",
        );
        if table_mib == TABLES_MIB[0] {
            let reads_of_node = number("nodes_read") / number("nodes");
            report.at_most(
                &format!("check, {name}"),
                reads_of_node,
                1.0,
                "reads of a tree node",
            );
        }
    }
    table.note("read more than once: of the log, its last segment; with data, blocks that several extents share");
    table.note(format!(
        "memory for what is known of inodes: {} MiB, little: {} MiB",
        TABLES_MIB[0], TABLES_MIB[1]
    ));
    report.show(&table);
}

fn make_image(path: &Path) {
    let mut simulated = Simulated::new(DISK_BYTES);
    simulated.run(|filesystem, _| async move { create_files(&filesystem).await });
    let (_, disk) = simulated.shut_down();
    disk.save(path).expect("there is room for an image");
}

async fn create_files(filesystem: &Counted) {
    const FILES_AT_ONCE: u64 = 50;
    const FILES_OF_DIRECTORY: u64 = 1000;
    let new_directory = NewInode::new(FileKind::Directory, 0o755);
    // It repeats nowhere.
    let content = (0..8192_u64).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8);
    let content = content.collect::<Vec<_>>();
    let mut directory = ROOT;
    for first in (0..FILES).step_by(FILES_AT_ONCE as usize) {
        let made = filesystem.transact(1, |transaction| {
            let mut files = transaction.files();
            let mut directory = directory;
            if first.is_multiple_of(FILES_OF_DIRECTORY) {
                let name = format!("directory-{first}");
                directory = files.create(ROOT, name.as_bytes(), &new_directory)?;
            }
            for number in first..first + FILES_AT_ONCE {
                let name = format!("file-{number}");
                let file = files.create(directory, name.as_bytes(), &FILE)?;
                let len = FILE_BYTES[number as usize % FILE_BYTES.len()];
                files.write(file, 0, &content[..len])?;
            }
            Ok(directory)
        });
        directory = made.await.unwrap().0;
    }
}

/// Checks in a process of its own, whose memory is the check's.
fn check_elsewhere(image: &Path, table_mib: u64, data: bool) -> Value {
    let own = std::env::current_exe().expect("this program");
    let mut command = Command::new(own);
    command.arg(CHECK_IMAGE).arg(image);
    command.arg(table_mib.to_string()).arg(data.to_string());
    let said = Process::run(command, CHECK_LIMIT);
    serde_json::from_str(&said).expect("what a check found is JSON")
}

/// The word that makes this program check an image and say what that took.
pub const CHECK_IMAGE: &str = "check-image";

/// Checks the image that `words` name, with so many MiB for tables, with or without data.
pub fn check_image(words: &[String]) {
    let [path, table_mib, data] = words else {
        panic!("{CHECK_IMAGE} IMAGE TABLE_MIB DATA");
    };
    let options = CheckOptions {
        key: None,
        data: data.parse().expect("true or false"),
        table_bytes_max: table_mib.parse::<usize>().expect("MiB") << 20,
    };
    let image = Image::open(Path::new(path)).expect("an image");
    let counted = Rc::clone(&image.0);
    let begun = Instant::now();
    let summary = Executor::new(0).run(async move {
        let mut say = |event: CheckEvent<'_>| {
            if let CheckEvent::Finding(finding) = event {
                panic!("a new image is in order: {finding}");
            }
        };
        lfs::check(&image, options, &mut say).await
    });
    let reads_of = counted.reads_of_block.borrow();
    let read_at_least = |least| reads_of.iter().filter(|&&reads| reads >= least).count();
    let found = json!({
        "passes": summary.passes,
        "nodes": summary.nodes,
        "nodes_read": summary.nodes_read,
        "blocks": read_at_least(1),
        "again": read_at_least(2),
        "reads": counted.reads.get(),
        "peak_kib": peak_kib(),
        "seconds": begun.elapsed().as_secs_f64(),
    });
    println!("{found}");
}

/// Most memory that this process ever had.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.expect("VmHWM").trim().trim_end_matches(" kB");
    kib.parse().expect("a number")
}

/// An image that is only read, and how often.
struct Image(Rc<ImageFile>);

struct ImageFile {
    file: File,
    /// As far as a byte counts.
    reads_of_block: RefCell<Vec<u8>>,
    reads: Cell<u64>,
}

impl Image {
    fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let blocks = file.metadata()?.len() / BLOCK_SIZE as u64;
        Ok(Self(Rc::new(ImageFile {
            file,
            reads_of_block: RefCell::new(vec![0; blocks as usize]),
            reads: Cell::default(),
        })))
    }
}

impl BlockDevice for Image {
    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry {
            block_count: self.0.reads_of_block.borrow().len() as u64,
            discard: false,
        }
    }

    async fn read(
        &self,
        start: BlockIndex,
        mut buffer: Buffer,
    ) -> (Buffer, Result<(), DeviceError>) {
        let blocks = start.0 as usize..start.0 as usize + buffer.len_blocks();
        for reads in &mut self.0.reads_of_block.borrow_mut()[blocks] {
            *reads = reads.saturating_add(1);
        }
        self.0.reads.set(self.0.reads.get() + 1);
        let at = start.0 * BLOCK_SIZE as u64;
        let read = self.0.file.read_exact_at(buffer.bytes_mut(), at);
        (buffer, read.map_err(|_| DeviceError::Io))
    }

    async fn write(&self, _: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        (buffer, Err(DeviceError::Unsupported))
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    async fn discard(&self, _: BlockIndex, _: u64) -> Result<(), DeviceError> {
        Err(DeviceError::Unsupported)
    }
}
