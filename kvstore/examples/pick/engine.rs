//! The engine, as sizes: memtable, runs, jobs by `pick`, lists of what was dropped, sweeps.

use std::collections::BTreeMap;
use std::ops::Range;

use kvstore::Timestamp;
use kvstore::engine::manifest::BASE;
use kvstore::engine::pick::{Job, Pressure, RunStats, Shape, Tuning, debt, pick};
use lfs::sim::Random;

use crate::values::Values;

#[derive(Clone, Copy)]
pub struct Setting {
    pub keys: u32,
    pub flush_keys: u32,
    pub key_bytes: u64,
    pub value_bytes: u64,
    /// Of an entry in a run.
    pub entry_bytes: u64,
    pub is_large: bool,
    /// What the log takes for each byte, in hundredths.
    pub log_percent: u64,
    /// Dead bytes in segments from which on the cleaner works while there are commits.
    pub garbage_percent: u64,
    /// And when there are none.
    pub idle_garbage_percent: u64,
    /// Dropped pointers for each leaf of the tree before they are swept.
    pub sweep_items: u64,
    /// Of what share of its versions a flush knows what they replace, in hundredths (early discovery).
    pub early_percent: u32,
}

/// Bytes written for each byte that users wrote, and room for each live byte.
#[derive(Default)]
pub struct Figures {
    pub log: f64,
    pub flushes: f64,
    pub tiers: f64,
    pub base: f64,
    pub tree: f64,
    pub cleaner: f64,
    /// While there are commits, at most.
    pub space_max: f64,
    /// Some time after the last one.
    pub space_at_rest: f64,
    /// Of live bytes: dead values that no merge has met, and that no sweep has freed.
    pub not_found_max: f64,
    pub not_swept_max: f64,
    pub runs_max: usize,
    /// In flushes.
    pub debt_max: f64,
}

impl Figures {
    pub fn written(&self) -> f64 {
        self.log + self.flushes + self.tiers + self.base + self.tree + self.cleaner
    }
}

struct Run {
    tier: u8,
    /// Key and slot (of small values, the number of the write), by key.
    entries: Vec<(u32, u32)>,
    /// Keys before this one have moved on.
    from: u32,
    job: Option<u8>,
    commits: (u64, u64),
}

impl Run {
    fn left(&self) -> u64 {
        self.part(self.from..u32::MAX).len() as u64
    }

    fn part(&self, keys: Range<u32>) -> &[(u32, u32)] {
        let of = |key| self.entries.partition_point(|entry| entry.0 < key);
        &self.entries[of(keys.start)..of(keys.end)]
    }
}

struct Engine<'s> {
    setting: &'s Setting,
    tuning: &'s Tuning,
    /// What each key has.
    newest: Vec<u32>,
    memtable: BTreeMap<u32, u32>,
    /// Newest first.
    runs: Vec<Run>,
    /// Of each key what the base has.
    base: Vec<u32>,
    /// Up to where a job into the base has come.
    cut: u32,
    values: Values,
    dropped: Vec<u32>,
    commit: u64,
    written: [u64; 3],
    tokens: f64,
}

/// Overwrites ten times the data at random; figures are of the last nine tenths.
pub fn run(setting: &Setting, tuning: &Tuning, seed: u64) -> Figures {
    let mut random = Random::new(seed);
    let mut engine = Engine {
        setting,
        tuning,
        newest: Vec::new(),
        memtable: BTreeMap::new(),
        runs: Vec::new(),
        base: Vec::new(),
        cut: 0,
        values: Values::new(setting.value_bytes, setting.garbage_percent),
        dropped: Vec::new(),
        commit: 0,
        written: [0; 3],
        tokens: 0.0,
    };
    for _ in 0..setting.keys {
        let slot = engine.new_value();
        engine.newest.push(slot);
        engine.base.push(slot);
    }
    engine.values.checkpoint();
    let mut figures = Figures::default();
    let keys = u64::from(setting.keys);
    let user_bytes = setting.key_bytes + setting.value_bytes;
    let live = (keys * user_bytes) as f64;
    let mut before = [0; 5];
    for put in 0..10 * keys {
        if put == keys {
            before = engine.all_written();
            figures = Figures::default();
        }
        engine.put(u32::try_from(random.below(keys)).unwrap());
        if put % 512 == 0 {
            engine.compact();
            engine.values.clean();
            let flush = u64::from(setting.flush_keys) * setting.entry_bytes;
            let figure = engine.debt() as f64 / flush as f64;
            figures.debt_max = figures.debt_max.max(figure);
            figures.runs_max = figures.runs_max.max(engine.runs.len());
            figures.space_max = figures.space_max.max(engine.room() as f64 / live);
            if setting.is_large {
                let stored = engine.values.stored_live();
                let swept = engine.dropped.len() as f64 * setting.value_bytes as f64;
                let dead = stored as f64 - keys as f64 * setting.value_bytes as f64;
                figures.not_swept_max = figures.not_swept_max.max(swept / live);
                figures.not_found_max = figures.not_found_max.max((dead - swept) / live);
            }
        }
    }
    engine.rest();
    figures.space_at_rest = engine.room() as f64 / live;
    engine.verify();
    let user = (9 * keys * user_bytes) as f64;
    let written = engine.all_written();
    let of = |at: usize| (written[at] - before[at]) as f64 / user;
    figures.log = setting.log_percent as f64 / 100.0;
    figures.flushes = of(0);
    figures.tiers = of(1);
    figures.base = of(2);
    figures.tree = of(3);
    figures.cleaner = of(4);
    figures
}

impl Engine<'_> {
    fn all_written(&self) -> [u64; 5] {
        let [flushes, tiers, base] = self.written;
        let values = &self.values;
        [flushes, tiers, base, values.tree_bytes, values.moved_bytes]
    }

    fn new_value(&mut self) -> u32 {
        self.commit += 1;
        if !self.setting.is_large {
            return u32::try_from(self.commit).unwrap();
        }
        let bytes = self.setting.key_bytes + self.setting.value_bytes;
        let rest = bytes * self.setting.log_percent / 100 - self.setting.value_bytes - 16;
        self.values.put(rest)
    }

    fn put(&mut self, key: u32) {
        let slot = self.new_value();
        let replaced = std::mem::replace(&mut self.newest[key as usize], slot);
        let in_memtable = self.memtable.insert(key, slot);
        if in_memtable.is_some() || self.is_known(replaced) {
            self.drop_value(replaced);
        }
        let user = self.setting.key_bytes + self.setting.value_bytes;
        let speed = self.speed();
        self.tokens += user as f64 * speed;
        if self.memtable.len() >= self.setting.flush_keys as usize {
            self.flush();
        }
    }

    /// Bytes of compaction for each byte that is committed: by how far it is behind, in flushes.
    fn speed(&self) -> f64 {
        let flush = u64::from(self.setting.flush_keys) * self.setting.entry_bytes;
        let debt = self.debt() as f64 / flush as f64;
        match debt {
            ..1.0 => 0.5,
            1.0..4.0 => 0.5 + (debt - 1.0) / 3.0 * 3.5,
            _ => (4.0 + (debt - 4.0) / 4.0 * 12.0).min(16.0),
        }
    }

    /// Whether a write that replaces this value finds it in memory: as good as any is a number that has nothing to do with its age.
    fn is_known(&self, slot: u32) -> bool {
        (slot.wrapping_mul(0x9E37_79B9) >> 16) % 100 < self.setting.early_percent
    }

    fn drop_value(&mut self, slot: u32) {
        if self.setting.is_large {
            self.dropped.push(slot);
        }
    }

    fn flush(&mut self) {
        let entries: Vec<_> = std::mem::take(&mut self.memtable).into_iter().collect();
        self.written[0] += entries.len() as u64 * self.setting.entry_bytes;
        let run = Run {
            tier: 0,
            entries,
            from: 0,
            job: None,
            commits: (self.commit, self.commit),
        };
        self.runs.insert(0, run);
        self.sweep_if_due();
        self.values.checkpoint();
    }

    /// Nobody commits: what is due is done, lists are swept, and less garbage is left.
    fn rest(&mut self) {
        self.tokens = f64::INFINITY;
        self.compact();
        self.sweep();
        self.values.set_garbage(self.setting.idle_garbage_percent);
        self.values.clean();
        self.values.checkpoint();
    }

    fn sweep_if_due(&mut self) {
        if self.dropped.len() as u64 >= self.setting.sweep_items * self.values.leaves() {
            self.sweep();
        }
    }

    fn sweep(&mut self) {
        let mut dropped = std::mem::take(&mut self.dropped);
        dropped.sort_unstable();
        for slot in dropped {
            self.values.free(slot);
        }
    }

    fn stats(&self) -> Vec<RunStats> {
        let entry = self.setting.entry_bytes;
        let value = if self.setting.is_large {
            self.setting.value_bytes
        } else {
            0
        };
        let stats = |tier, left: u64, commits: (u64, u64), job| RunStats {
            tier,
            bytes: left * entry,
            tables: 1,
            large_bytes: left * value,
            first: Timestamp(commits.0),
            last: Timestamp(commits.1),
            job,
        };
        let above = self.runs.iter();
        let mut all: Vec<_> = above
            .map(|run| stats(run.tier, run.left(), run.commits, run.job))
            .collect();
        all.push(stats(BASE, self.base.len() as u64, (0, 0), None));
        all
    }

    fn pressure(&self) -> Pressure {
        Pressure {
            free_bytes: u64::MAX / 2,
            reserve_bytes: 0,
            table_bytes: 1,
            // A sixteenth of the base, as 8 MiB are of 128.
            step_bytes: u64::from(self.setting.keys) * self.setting.entry_bytes / 16,
        }
    }

    fn with_shape<T>(&self, look: impl FnOnce(&Shape<'_>) -> T) -> T {
        let begun = self.runs.iter().any(|run| run.job == Some(BASE));
        let ahead = if begun {
            self.base.len() as u64 - u64::from(self.cut)
        } else {
            0
        };
        look(&Shape {
            runs: &self.stats(),
            base_tables: &[],
            ahead_bytes: ahead * self.setting.entry_bytes,
        })
    }

    fn debt(&self) -> u64 {
        self.with_shape(|shape| debt(shape, &self.pressure(), self.tuning))
    }

    /// Steps, as long as there are tokens for them.
    fn compact(&mut self) {
        while self.tokens > 0.0 {
            let job = self.with_shape(|shape| pick(shape, &self.pressure(), self.tuning));
            let written = match job {
                None => {
                    self.tokens = 0.0;
                    return;
                }
                Some(Job::Tier { runs, into }) => self.merge(runs, into),
                Some(Job::Base { runs }) => self.step(runs),
                Some(Job::Reclaim { .. }) => panic!("there are no tables"),
            };
            self.tokens -= written as f64;
        }
    }

    fn merge(&mut self, runs: Range<usize>, into: u8) -> u64 {
        let first = runs.start;
        let inputs: Vec<Run> = self.runs.drain(runs).collect();
        let mut merged = BTreeMap::new();
        for (key, slot) in inputs.iter().flat_map(|run| run.part(run.from..u32::MAX)) {
            // The newest comes first.
            if *merged.entry(*key).or_insert(*slot) != *slot && !self.is_known(*slot) {
                self.drop_value(*slot);
            }
        }
        let written = merged.len() as u64 * self.setting.entry_bytes;
        self.written[1] += written;
        let commits = (inputs[inputs.len() - 1].commits.0, inputs[0].commits.1);
        let run = Run {
            tier: into,
            entries: merged.into_iter().collect(),
            from: 0,
            job: None,
            commits,
        };
        self.runs.insert(first, run);
        written
    }

    fn step(&mut self, runs: Range<usize>) -> u64 {
        if self.runs[runs.start].job.is_none() {
            self.cut = 0;
        }
        assert_eq!(
            runs.end,
            self.runs.len(),
            "all that is older, or keys would be hidden"
        );
        let entries = self.pressure().step_bytes / self.setting.entry_bytes;
        let end = (self.cut + u32::try_from(entries).unwrap()).min(self.setting.keys);
        let keys = self.cut..end;
        for at in runs.clone().rev() {
            // From the oldest to the newest: each takes the place of the one before.
            let part = self.runs[at].part(keys.clone()).to_vec();
            for (key, slot) in part {
                let replaced = std::mem::replace(&mut self.base[key as usize], slot);
                if !self.is_known(replaced) {
                    self.drop_value(replaced);
                }
            }
            let run = &mut self.runs[at];
            (run.from, run.job) = (end, Some(BASE));
        }
        let written = u64::from(end - self.cut) * self.setting.entry_bytes;
        self.written[2] += written;
        self.cut = end;
        if end == self.setting.keys {
            self.runs.drain(runs);
        }
        written
    }

    fn room(&self) -> u64 {
        let runs = self.runs.iter().map(Run::left).sum::<u64>() + self.base.len() as u64;
        runs * self.setting.entry_bytes
            + if self.setting.is_large {
                self.values.room()
            } else {
                0
            }
    }

    /// What readers see is what was written, and every value that is seen is there.
    fn verify(&self) {
        let mut seen = self.base.clone();
        for run in self.runs.iter().rev() {
            for (key, slot) in run.part(run.from..u32::MAX) {
                seen[*key as usize] = *slot;
            }
        }
        for (key, slot) in &self.memtable {
            seen[*key as usize] = *slot;
        }
        assert!(seen == self.newest);
        if self.setting.is_large {
            assert!(self.newest.iter().all(|slot| self.values.is_live(*slot)));
        }
    }
}
