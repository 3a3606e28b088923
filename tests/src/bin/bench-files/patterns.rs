//! What programs do with files, and what each of it costs below the file system.
//!
//! Each pattern runs three times: through the library with each operation as one transaction, and as the system calls of
//! a program on a mounted image and on ext4. For the latter two a disk is a loop device, and the kernel counts the same
//! things at the same place; the former has a counted disk in memory. The disks are equally large, what is prepared
//! beforehand is unmounted and mounted again, and all is counted until the end of the unmount, checkpoints included. No byte
//! that is written can be compressed, so compression favours nobody.

use tests::qmp::BlockCounts;

use crate::library::{self, Spent};
use crate::loop_disk::{self, EXT4_FORMAT, EXT4_OPTIONS, Kind};
use crate::programs;
use tests::report::{Report, Table, figure};

pub const DISK_BYTES: u64 = 256 << 20;
pub const PAGE: u64 = 4096;
/// Pages of the file, or of all files together, that pages are overwritten in.
pub const PAGES: u64 = 4096;
/// Pages that a transaction of a database changes.
pub const PAGES_OF_TRANSACTION: u64 = 3;
/// Bytes of a line of a log.
pub const LINE: u64 = 256;
/// Files that are replaced by turns.
pub const REPLACED_FILES: u64 = 64;
/// Messages in a mailbox before each new one takes the place of the oldest.
pub const MAILBOX: u64 = 64;
/// What is copied with one call.
pub const COPY_STEP: u64 = 1 << 20;

/// The bytes of a message.
pub fn message_bytes(number: u64) -> u64 {
    1024 + number * 7919 % (15 << 10)
}

/// Flushes per transaction: one, and one more where a commit meets the end of a segment and so is in two groups.
const FLUSHES_MAX: f64 = 1.02;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// 4 KiB somewhere in a file, made durable, by so many at once.
    Overwrite { depth: u64 },
    /// A line at the end of a file, made durable.
    LogAppend,
    /// A new file of 4 KiB, made durable, takes the place of an old one, and that is made durable.
    Replace,
    /// A message is written to `tmp`, made durable, moved to `new`, and that made durable; later it is deleted.
    Mail,
    /// Three pages of a database with a rollback journal that is deleted, as SQLite does by default with `synchronous=FULL`.
    RollbackJournal,
    /// The same with a write-ahead log of at most 1000 pages.
    WriteAheadLog,
    /// 64 MiB from file to file, made durable at the end; counted by the MiB.
    Copy,
}

impl Pattern {
    pub const ALL: [Self; 8] = [
        Self::Overwrite { depth: 1 },
        Self::Overwrite { depth: 16 },
        Self::LogAppend,
        Self::Replace,
        Self::Mail,
        Self::RollbackJournal,
        Self::WriteAheadLog,
        Self::Copy,
    ];

    pub fn operations(self) -> u64 {
        match self {
            Self::Overwrite { .. } | Self::LogAppend => 2048,
            Self::Replace | Self::Mail | Self::RollbackJournal | Self::WriteAheadLog => 1024,
            Self::Copy => 64,
        }
    }

    /// New bytes, as who writes them sees it.
    fn payload_bytes(self) -> u64 {
        match self {
            Self::Overwrite { .. } | Self::Replace => self.operations() * PAGE,
            Self::LogAppend => self.operations() * LINE,
            Self::Mail => (0..self.operations()).map(message_bytes).sum(),
            Self::RollbackJournal | Self::WriteAheadLog => {
                self.operations() * PAGES_OF_TRANSACTION * PAGE
            }
            Self::Copy => self.operations() * COPY_STEP,
        }
    }

    /// Device bytes per new byte, and flushes and write requests per operation.
    fn costs(self, spent: BlockCounts) -> [f64; 3] {
        let operations = self.operations() as f64;
        [
            spent.bytes_written as f64 / self.payload_bytes() as f64,
            spent.flushes as f64 / operations,
            spent.writes as f64 / operations,
        ]
    }

    fn title(self) -> &'static str {
        match self {
            Self::Overwrite { depth: 1 } => "4 KiB durable overwrite, alone",
            Self::Overwrite { .. } => "4 KiB durable overwrite, 16 at once",
            Self::LogAppend => "log append of 256 B + fsync",
            Self::Replace => "create, write 4 KiB, fsync, rename",
            Self::Mail => "mail: deliver 1-16 KiB, delete one",
            Self::RollbackJournal => "database, 3 pages, rollback journal",
            Self::WriteAheadLog => "database, 3 pages, write-ahead log",
            Self::Copy => "big copy, by the MiB",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Overwrite { depth: 1 } => "overwrite_4k_c1",
            Self::Overwrite { .. } => "overwrite_4k_c16",
            Self::LogAppend => "log_append",
            Self::Replace => "replace",
            Self::Mail => "mail",
            Self::RollbackJournal => "rollback_journal",
            Self::WriteAheadLog => "write_ahead_log",
            Self::Copy => "copy",
        }
    }
}

/// Who does it: the library, where an operation is a transaction, and programs on a mounted image and on ext4.
const SIDES: [&str; 3] = ["library", "mounted", "ext4"];

pub fn measure(report: &mut Report) {
    let obstacle = loop_disk::obstacle();
    let mut tables = [
        Tabled::new("Device bytes per new byte", "device_bytes", "bytes/byte"),
        Tabled::new("Flushes per operation", "flushes", "flushes/operation"),
        Tabled::new("Write requests per operation", "writes", "writes/operation"),
    ];
    for pattern in Pattern::ALL {
        let library = library::spent(pattern);
        note_goals(report, pattern, &library);
        let on_loop = |kind| obstacle.is_none().then(|| programs::spent(pattern, kind));
        let spent = [
            Some(library.in_all),
            on_loop(Kind::Siltstone),
            on_loop(Kind::Ext4),
        ];
        let costs = spent.map(|spent| spent.map(|spent| pattern.costs(spent)));
        for (index, table) in tables.iter_mut().enumerate() {
            let values = costs.map(|costs| costs.map(|costs| costs[index]));
            table.add(report, pattern, values);
        }
    }
    let [bytes, ..] = &mut tables;
    bytes.table.note(obstacle.map_or_else(
        || {
            format!(
                "ext4: mke2fs {}; mount -o {EXT4_OPTIONS}",
                EXT4_FORMAT.join(" ")
            )
        },
        |obstacle| format!("mounted and ext4 were NOT MEASURED: {obstacle}"),
    ));
    bytes
        .table
        .note("library: each operation is one transaction; mounted, ext4: as system calls");
    bytes.table.note(format!(
        "disks of {} MiB; new bytes are incompressible; all is counted to the end of the unmount",
        DISK_BYTES >> 20
    ));
    let [_, flushes, _] = &mut tables;
    flushes.table.note(
        "a transaction is one group and one flush, two at the end of a segment; of a MiB as many groups as it fills",
    );
    for tabled in tables {
        report.show(&tabled.table);
    }
}

/// One quantity of all patterns.
struct Tabled {
    table: Table,
    quantity: &'static str,
    unit: &'static str,
}

impl Tabled {
    fn new(title: &str, quantity: &'static str, unit: &'static str) -> Self {
        let [library, mounted, ext4] = SIDES;
        let table = Table::new(title, &["", library, mounted, ext4, "mounted/ext4"]);
        Self {
            table,
            quantity,
            unit,
        }
    }

    fn add(&mut self, report: &mut Report, pattern: Pattern, values: [Option<f64>; 3]) {
        let name = format!("files_{}_{}", pattern.name(), self.quantity);
        for (side, value) in SIDES.into_iter().zip(values) {
            if let Some(value) = value {
                report.figures.add(&name, side, value, self.unit);
            }
        }
        let [_, mounted, ext4] = values;
        let ratio = mounted.zip(ext4).map(|(mounted, ext4)| mounted / ext4);
        let cells = values.into_iter().chain([ratio]);
        let cells = cells.map(|cell| cell.map_or_else(|| "-".to_owned(), figure));
        self.table
            .row([pattern.title().to_owned()].into_iter().chain(cells));
    }
}

fn note_goals(report: &mut Report, pattern: Pattern, spent: &Spent) {
    let [bytes, ..] = pattern.costs(spent.in_all);
    if let Pattern::Overwrite { depth } = pattern {
        let most = if depth == 1 { 3.0 } else { 1.3 };
        report.at_most(pattern.title(), bytes, most, "device bytes per new byte");
    }
    // A copy's transactions are larger than groups.
    if pattern != Pattern::Copy {
        let [_, flushes, _] = pattern.costs(spent.at_work);
        report.at_most(
            pattern.title(),
            flushes,
            FLUSHES_MAX,
            "flushes per transaction",
        );
    }
}
