//! What is measured: cases, each on a new store in a process of its own, made of phases.

use crate::data::{Data, Order};
use crate::settings::Settings;
use crate::work::{Draw, Load, Mix, Phase};

/// Operations of a phase where it is only to be seen whether it works.
const SMOKE_OPERATIONS: u64 = 300;

/// Clients of the usual phase, as many as a busy server's.
const CLIENTS: u64 = 16;

/// Keys that may be inserted, at most.
const INSERTS_MAX: u64 = 1 << 20;

/// Values of a commit that overwrites.
const OVERWRITE_BATCH: u64 = 16;

pub const OVERWRITES: u64 = 10;

/// Writers of durable single commits.
pub const WRITERS: [u64; 3] = [1, 16, 128];

/// Accounts that transactions are about.
pub const ACCOUNTS: [u64; 5] = [2, 16, 128, 1024, 16384];

pub struct Case {
    /// Stable, for figures.
    pub name: &'static str,
    pub title: &'static str,
    pub order: Order,
    pub value_bytes: usize,
    /// Whether all data fits into the engine's memory.
    pub fits: bool,
    /// Whether one round is enough: it counts bytes rather than time, and takes long.
    pub once: bool,
    /// Whether room on the disk is looked at while it is under way.
    pub watches_space: bool,
    phases: fn(&Settings, &Data) -> Vec<Phase>,
}

impl Case {
    pub const ALL: [Self; 10] = [
        Self::new(
            "fill_seq_100",
            "Fill in order, 100 B",
            Order::Ascending,
            100,
            fill,
        ),
        Self::new(
            "fill_seq_1k",
            "Fill in order, 1 KiB",
            Order::Ascending,
            1024,
            fill,
        ),
        Self::new(
            "fill_random_100",
            "Fill at random, 100 B",
            Order::Random,
            100,
            fill,
        ),
        Self::new(
            "fill_random_1k",
            "Fill at random, 1 KiB",
            Order::Random,
            1024,
            fill,
        ),
        Self::new("ycsb_100", "YCSB, 100 B", Order::Random, 100, ycsb),
        Self::new("ycsb_1k", "YCSB, 1 KiB", Order::Random, 1024, ycsb),
        Self::new(
            "read_in",
            "Reads in cache, 1 KiB",
            Order::Random,
            1024,
            read_in,
        ),
        Self {
            fits: false,
            ..Self::new(
                "read_out",
                "Reads out of cache, 1 KiB",
                Order::Random,
                1024,
                read_out,
            )
        },
        Self::new(
            "commits",
            "Durable single commits, 100 B",
            Order::Random,
            100,
            commits,
        ),
        Self::new(
            "conflicts",
            "Transactions that conflict",
            Order::Random,
            100,
            conflicts,
        ),
    ];

    pub const OVERWRITE: Self = Self {
        fits: false,
        once: true,
        watches_space: true,
        ..Self::new(
            "overwrite",
            "Everything overwritten ten times at random, 1 KiB",
            Order::Random,
            1024,
            overwrite,
        )
    };

    /// All of them.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        static ALL: [Case; 10] = Case::ALL;
        static OVERWRITE: Case = Case::OVERWRITE;
        ALL.iter().chain([&OVERWRITE])
    }

    pub fn find(name: &str) -> Option<&'static Self> {
        Self::all().find(|case| case.name == name)
    }

    const fn new(
        name: &'static str,
        title: &'static str,
        order: Order,
        value_bytes: usize,
        phases: fn(&Settings, &Data) -> Vec<Phase>,
    ) -> Self {
        Self {
            name,
            title,
            order,
            value_bytes,
            fits: true,
            once: false,
            watches_space: false,
            phases,
        }
    }

    pub fn memory_bytes(&self, settings: &Settings) -> u64 {
        if self.fits {
            settings.large_memory_bytes()
        } else {
            settings.small_memory_bytes
        }
    }

    /// Its keys, none of which is there yet.
    pub fn data(&self, settings: &Settings) -> Data {
        let entry_bytes = Data::new(self.order, self.value_bytes, 1, 0).entry_bytes();
        let keys = settings.data_bytes / entry_bytes;
        Data::new(self.order, self.value_bytes, keys, keys.min(INSERTS_MAX))
    }

    pub fn phases(&self, settings: &Settings, data: &Data) -> Vec<Phase> {
        (self.phases)(settings, data)
    }
}

/// One that takes its time.
fn timed(settings: &Settings, name: &str, title: &str, clients: u64, load: Load) -> Phase {
    let operations_max = if settings.smoke {
        SMOKE_OPERATIONS
    } else {
        u64::MAX
    };
    Phase {
        name: name.to_owned(),
        title: title.to_owned(),
        clients,
        load,
        operations_max,
        seconds_max: settings.seconds,
        cold: false,
        uncached: false,
    }
}

/// Loads all keys, however long it takes.
fn load(data: &Data) -> Phase {
    Phase {
        name: "fill".to_owned(),
        title: "fill".to_owned(),
        clients: 1,
        load: Load::Fill,
        operations_max: Phase::fill_operations(data),
        seconds_max: f64::from(1 << 20),
        cold: false,
        uncached: false,
    }
}

fn fill(_: &Settings, data: &Data) -> Vec<Phase> {
    vec![load(data)]
}

/// Workloads as YCSB defines them. E is last, as its scans would go through what D inserted otherwise as well.
fn ycsb(settings: &Settings, data: &Data) -> Vec<Phase> {
    let nothing = Mix::NOTHING;
    let workloads = [
        (
            "A",
            Mix {
                read: 50,
                update: 50,
                ..nothing
            },
        ),
        (
            "B",
            Mix {
                read: 95,
                update: 5,
                ..nothing
            },
        ),
        (
            "C",
            Mix {
                read: 100,
                ..nothing
            },
        ),
        (
            "F",
            Mix {
                read: 50,
                modify: 50,
                ..nothing
            },
        ),
        (
            "D",
            Mix {
                read: 95,
                insert: 5,
                draw: Draw::Latest,
                ..nothing
            },
        ),
        (
            "E",
            Mix {
                scan: 95,
                insert: 5,
                ..nothing
            },
        ),
    ];
    let phase =
        |(letter, mix): (&str, Mix)| timed(settings, letter, letter, CLIENTS, Load::Mixed(mix));
    [load(data)]
        .into_iter()
        .chain(workloads.map(phase))
        .collect()
}

/// All of it was read before.
fn read_in(settings: &Settings, data: &Data) -> Vec<Phase> {
    let touch = Phase {
        name: "touch".to_owned(),
        title: "each once".to_owned(),
        load: Load::Touch,
        operations_max: data.loaded(),
        ..load(data)
    };
    let mut phases = vec![load(data), touch];
    phases.extend(reads(settings));
    phases
}

fn read_out(settings: &Settings, data: &Data) -> Vec<Phase> {
    let mut phases = vec![load(data)];
    phases.extend(reads(settings).into_iter().map(|phase| Phase {
        uncached: true,
        ..phase
    }));
    // From then on an engine has what it chose to keep.
    phases[1].cold = true;
    phases
}

/// Random reads and scans of a hundred, by one client and by many.
fn reads(settings: &Settings) -> Vec<Phase> {
    let mut phases = Vec::new();
    for clients in [1, CLIENTS] {
        for (name, mix) in [
            (
                "read",
                Mix {
                    read: 100,
                    draw: Draw::Uniform,
                    ..Mix::NOTHING
                },
            ),
            (
                "scan",
                Mix {
                    scan: 100,
                    draw: Draw::Uniform,
                    scan_pairs: (100, 100),
                    ..Mix::NOTHING
                },
            ),
        ] {
            let title = match name {
                "read" => format!("read, {clients} at once"),
                _ => format!("scan of 100, {clients} at once"),
            };
            let name = format!("{name}_{clients}");
            phases.push(timed(settings, &name, &title, clients, Load::Mixed(mix)));
        }
    }
    phases
}

fn commits(settings: &Settings, data: &Data) -> Vec<Phase> {
    let put = |writers| {
        let title = match writers {
            1 => "put, 1 writer".to_owned(),
            _ => format!("put, {writers} writers"),
        };
        let load = Load::Put { batch: 1 };
        timed(settings, &format!("put_{writers}"), &title, writers, load)
    };
    let delete = timed(
        settings,
        "delete_16",
        "delete, 16 writers",
        16,
        Load::Delete,
    );
    let phases = [load(data)].into_iter().chain(WRITERS.map(put));
    phases.chain([delete]).collect()
}

fn conflicts(settings: &Settings, _: &Data) -> Vec<Phase> {
    let transfer = |accounts| {
        let title = format!("between {accounts} accounts");
        let load = Load::Transfer { accounts };
        timed(
            settings,
            &format!("accounts_{accounts}"),
            &title,
            CLIENTS,
            load,
        )
    };
    ACCOUNTS.map(transfer).to_vec()
}

fn overwrite(settings: &Settings, data: &Data) -> Vec<Phase> {
    let overwrite = Phase {
        name: "overwrite".to_owned(),
        title: "overwrite".to_owned(),
        clients: CLIENTS,
        load: Load::Put {
            batch: OVERWRITE_BATCH,
        },
        operations_max: OVERWRITES * data.loaded() / OVERWRITE_BATCH,
        seconds_max: settings.overwrite_seconds,
        cold: false,
        uncached: false,
    };
    vec![load(data), overwrite]
}
