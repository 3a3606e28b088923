//! What the cleaner costs: device bytes per new byte on a file system that is full to some part, and what single
//! operations wait for meanwhile.
//!
//! One file fills the given part of the capacity; 4 KiB pages of it are overwritten by 16 at once, each waiting until its page
//! is durable. Eight times the data bring it into balance (of 90/10, cold data are overwritten once in nine), once the data is
//! measured. All bytes count: groups,
//! survivors, nodes, checkpoints.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use lfs::sim::Random;
use lfs::{BLOCK_SIZE, Clock, InodeNumber};

use crate::analysis;
use crate::simulated::{Counted, Simulated, create, fill, random_bytes};
use tests::report::{Report, Table, figure};

pub const PERCENTS: [u64; 4] = [50, 70, 80, 90];
const PAGE: u64 = 4096;
/// What a page and its check take on the disk.
const STORED_PAGE: u64 = PAGE + 4;
/// What the commit of a page is charged for at most: the page, its check, and what is said of it.
const COMMIT_BYTES_MAX: u64 = PAGE + 128;
const DEPTH: u64 = 16;
const ROUNDS_TO_BALANCE: u64 = 8;
/// Device bytes per new byte at which a point is given up.
const COST_MAX: u64 = 10;
/// How often, in simulated time, that is looked at.
const LOOK_MS: u64 = 10;

/// Which pages are overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    Uniform,
    /// Nine in ten overwrites go to a tenth of the data.
    Skewed,
}

impl Load {
    pub const ALL: [Self; 2] = [Self::Uniform, Self::Skewed];

    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Skewed => "90/10",
        }
    }

    /// The analytic figure at this utilisation.
    pub fn analytic(self, percent: u64) -> f64 {
        let utilisation = percent as f64 / 100.0;
        match self {
            Self::Uniform => analysis::age_ordered(utilisation),
            Self::Skewed => analysis::separated(utilisation),
        }
    }

    fn page(self, pages: u64, random: &mut Random) -> u64 {
        match self {
            Self::Uniform => random.below(pages),
            Self::Skewed if random.one_in(10) => pages / 10 + random.below(pages - pages / 10),
            Self::Skewed => random.below(pages / 10),
        }
    }
}

/// A point of the curve.
pub struct Point {
    pub load: Load,
    pub percent: u64,
    /// `None` where it was given up.
    cost: Option<Cost>,
}

impl Point {
    pub fn bytes_per_byte(&self) -> Option<f64> {
        self.cost.as_ref().map(|cost| cost.bytes_per_byte)
    }
}

struct Cost {
    bytes_per_byte: f64,
    /// Those of the cleaner.
    cleaner_bytes_per_byte: f64,
    segments_cleaned: u64,
    checkpoints: u64,
    /// Blocks of the largest group.
    group_blocks: u64,
    /// With 16 operations at once, and with one.
    waits: [Waits; 2],
}

/// What was written while single operations waited.
#[derive(Default)]
struct Waits {
    /// Blocks that the cleaner wrote until the operation was taken; from then on nothing keeps it from becoming durable.
    cleaner_blocks: Vec<u64>,
    /// Blocks that anybody wrote until it was durable.
    blocks: Vec<u64>,
}

pub fn measure(report: &mut Report, disk_mib: u64) -> Vec<Point> {
    let points = std::thread::scope(|scope| {
        let measure = |load| {
            scope
                .spawn(move || PERCENTS.map(|percent| measure_point(disk_mib << 20, load, percent)))
        };
        let running = Load::ALL.map(measure);
        running.map(|thread| thread.join().expect("a panic was printed"))
    });
    let points = points.into_iter().flatten().collect::<Vec<_>>();
    for point in &points {
        note(report, point, disk_mib);
    }
    report.show(&cost_table(&points, disk_mib));
    let in_balance = |point: &Point| point.percent == 90 && point.cost.is_some();
    if points.iter().any(in_balance) {
        report.show(&wait_table(&points, disk_mib));
    }
    points
}

fn measure_point(disk_bytes: u64, load: Load, percent: u64) -> Point {
    // It takes a while.
    eprintln!("   {} overwrites, {percent} % full", load.name());
    let mut simulated = Simulated::new(disk_bytes);
    let pages = simulated.filesystem.usage().capacity_bytes * percent / 100 / STORED_PAGE;
    let inode = simulated.run(|filesystem, _| async move {
        let inode = create(&filesystem, "data").await;
        fill(&filesystem, inode, pages * PAGE, &mut Random::new(7)).await;
        inode
    });
    let work = Work { inode, pages, load };
    Point {
        load,
        percent,
        cost: cost_of(&mut simulated, work),
    }
}

/// What the work costs in balance; `None` when it is not worth going on.
fn cost_of(simulated: &mut Simulated, work: Work) -> Option<Cost> {
    let pages = work.pages;
    overwrite(simulated, work, pages * ROUNDS_TO_BALANCE, DEPTH)?;
    let before = (simulated.disk.counts(), simulated.filesystem.counters());
    let many = overwrite(simulated, work, pages, DEPTH)?;
    let after = (simulated.disk.counts(), simulated.filesystem.counters());
    let alone = overwrite(simulated, work, pages / 4, 1)?;
    let new_bytes = (pages * PAGE) as f64;
    let cleaned = after.1.bytes_cleaned_written - before.1.bytes_cleaned_written;
    Some(Cost {
        bytes_per_byte: (after.0 - before.0).bytes_written as f64 / new_bytes,
        cleaner_bytes_per_byte: cleaned as f64 / new_bytes,
        segments_cleaned: after.1.segments_cleaned - before.1.segments_cleaned,
        checkpoints: after.1.checkpoints - before.1.checkpoints,
        group_blocks: simulated.filesystem.usage().segment_bytes / BLOCK_SIZE as u64 / 2,
        waits: [many, alone],
    })
}

#[derive(Clone, Copy)]
struct Work {
    inode: InodeNumber,
    pages: u64,
    load: Load,
}

/// Overwrites `count` pages, `depth` at once; each is durable before the next. `None` when that costs more than it may:
/// then nothing is to be done with the file system any more.
fn overwrite(simulated: &mut Simulated, work: Work, count: u64, depth: u64) -> Option<Waits> {
    let waits = Rc::new(RefCell::new(Waits::default()));
    let at_work = Rc::new(Cell::new(depth));
    for worker in 0..depth {
        let (waits, at_work) = (Rc::clone(&waits), Rc::clone(&at_work));
        let filesystem = Rc::clone(&simulated.filesystem);
        let mut random = Random::new(work.pages + count + worker);
        simulated.executor.spawn(async move {
            for _ in 0..count / depth {
                let page = work.load.page(work.pages, &mut random);
                let bytes = random_bytes(&mut random, PAGE);
                let before = written(&filesystem);
                let commit = filesystem.transact(1, |transaction| {
                    transaction.files().write(work.inode, page * PAGE, &bytes)
                });
                let ((), commit) = commit.await.unwrap();
                let taken = written(&filesystem);
                filesystem.wait_durable(commit).await.unwrap();
                let durable = written(&filesystem);
                let mut waits = waits.borrow_mut();
                waits.cleaner_blocks.push(taken.0 - before.0);
                waits.blocks.push(durable.1 - before.1);
            }
            at_work.set(at_work.get() - 1);
        });
    }
    let blocks_max = written(&simulated.filesystem).1 + count * COST_MAX;
    let done = simulated.run(move |filesystem, clock| async move {
        while at_work.get() > 0 && written(&filesystem).1 < blocks_max {
            clock.sleep_ms(LOOK_MS).await;
        }
        at_work.get() == 0
    });
    done.then(|| waits.take())
}

/// Blocks that the cleaner wrote so far, and blocks that anybody wrote.
fn written(filesystem: &Counted) -> (u64, u64) {
    let by_cleaner = filesystem.counters().bytes_cleaned_written;
    let by_all = filesystem.device().counts().bytes_written;
    (by_cleaner / BLOCK_SIZE as u64, by_all / BLOCK_SIZE as u64)
}

fn note(report: &mut Report, point: &Point, disk_mib: u64) {
    let name = point.load.name().replace('/', "_");
    let name = format!("cleaner_{disk_mib}m_{name}_{}", point.percent);
    let load = point.load.name();
    if point.percent == 80 {
        let most = match point.load {
            Load::Uniform => 2.7,
            Load::Skewed => 1.6,
        };
        let what = format!("{load} overwrites, 80 % full, {disk_mib} MiB");
        let measured = point.bytes_per_byte().unwrap_or(f64::INFINITY);
        report.at_most(&what, measured, most, "device bytes per new byte");
    }
    let Some(cost) = &point.cost else {
        if point.percent == 90 {
            let what = format!("{load} overwrites, 90 % full, {disk_mib} MiB");
            report.at_most(
                &what,
                f64::INFINITY,
                COST_MAX as f64,
                "device bytes per new byte",
            );
        }
        return;
    };
    for (quantity, value) in [
        ("device_bytes", cost.bytes_per_byte),
        ("cleaner_bytes", cost.cleaner_bytes_per_byte),
    ] {
        let name = format!("{name}_{quantity}");
        report.figures.add(&name, "library", value, "bytes/byte");
    }
    for (waits, depth) in cost.waits.iter().zip([DEPTH, 1]) {
        let [p50, p99, max] = percentiles(&waits.cleaner_blocks);
        for (quantity, blocks) in [("p50", p50), ("p99", p99), ("max", max)] {
            let name = format!("{name}_wait_c{depth}_{quantity}");
            report
                .figures
                .add(&name, "library", blocks as f64, "blocks");
        }
        if point.percent == 90 {
            let what = format!("{load}, {depth} at once, 90 % full, {disk_mib} MiB: longest wait");
            let most = wait_blocks_max(cost.group_blocks, depth) as f64;
            report.at_most(&what, max as f64, most, "blocks by the cleaner");
        }
    }
}

/// What an operation that writes a page waits for at most, by DESIGN.md, "Bounds": an operation is charged at most
/// fourfold, a victim is empty to a sixteenth at least, and what the cleaner has at hand comes to five groups.
fn wait_blocks_max(group_blocks: u64, depth: u64) -> u64 {
    64 * (depth * COMMIT_BYTES_MAX).div_ceil(PAGE) + 5 * group_blocks
}

fn cost_table(points: &[Point], disk_mib: u64) -> Table {
    let columns = [
        "overwrites, part of the capacity in use",
        "device bytes per new byte",
        "by the cleaner",
        "analytic",
        "segments cleaned",
        "checkpoints",
    ];
    let title = format!("Write cost of the cleaner, {disk_mib} MiB");
    let mut table = Table::new(&title, &columns);
    for point in points {
        let name = format!("{}, {} %", point.load.name(), point.percent);
        let analytic = figure(point.load.analytic(point.percent));
        let cells = match &point.cost {
            Some(cost) => [
                figure(cost.bytes_per_byte),
                figure(cost.cleaner_bytes_per_byte),
                analytic,
                cost.segments_cleaned.to_string(),
                cost.checkpoints.to_string(),
            ],
            None => [
                format!("> {COST_MAX}"),
                "-".into(),
                analytic,
                "-".into(),
                "-".into(),
            ],
        };
        table.row([name].into_iter().chain(cells));
    }
    table.note("capacity: without what the disk keeps free for itself");
    table.note("analytic: that part of a disk in use, no metadata; uniform: segments cleaned by age; 90/10: hot and cold apart");
    table.note(format!(
        "4 KiB each, {DEPTH} at once; measured over one overwrite of all data after {ROUNDS_TO_BALANCE}"
    ));
    table
}

fn wait_table(points: &[Point], disk_mib: u64) -> Table {
    let columns = [
        "overwrites, at once",
        "cleaner p50",
        "p99",
        "max",
        "bound",
        "all p50",
        "p99",
        "max",
    ];
    let title = format!("Blocks written while one operation waits, 90 % full, {disk_mib} MiB");
    let mut table = Table::new(&title, &columns);
    for point in points.iter().filter(|point| point.percent == 90) {
        let Some(cost) = &point.cost else { continue };
        for (waits, depth) in cost.waits.iter().zip([DEPTH, 1]) {
            let bound = wait_blocks_max(cost.group_blocks, depth);
            let by_cleaner = percentiles(&waits.cleaner_blocks);
            let cells = by_cleaner.into_iter().chain([bound]);
            let cells = cells
                .chain(percentiles(&waits.blocks))
                .map(|blocks| blocks.to_string());
            let name = format!("{}, {depth}", point.load.name());
            table.row([name].into_iter().chain(cells));
        }
    }
    table
        .note("blocks of 4 KiB; cleaner: until the operation is taken, which is what it waits for");
    table.note("all: by everybody until it is durable; bound: lfs/DESIGN.md, \"Bounds\"");
    table
}

/// The middle, the hundredth from above, and the greatest.
fn percentiles(values: &[u64]) -> [u64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = |permille: usize| sorted[(sorted.len() - 1) * permille / 1000];
    [at(500), at(990), at(1000)]
}
