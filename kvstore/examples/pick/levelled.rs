//! A levelled tree with values in it, as the common embedded stores have: four memtables at level 0, each level ten times the one above, a file at a time.

use lfs::sim::Random;

/// Level 1, in memtables.
const LEVEL_1: usize = 4;
const LEVEL_0_RUNS: usize = 4;
const FANOUT: usize = 10;

/// Bytes written for each byte of ten times the data in random overwrites, the log included.
pub fn written(keys: u32, memtable_keys: u32, seed: u64) -> f64 {
    let mut random = Random::new(seed);
    let (memtable, file) = (memtable_keys as usize, memtable_keys as usize / 4);
    // From level 1 on, each sorted.
    let mut levels: Vec<Vec<u32>> = vec![Vec::new()];
    let mut size = memtable * LEVEL_1;
    while size < keys as usize {
        levels.push(Vec::new());
        size *= FANOUT;
    }
    *levels.last_mut().unwrap() = (0..keys).collect();
    let mut cursors = vec![0_u32; levels.len()];
    let (mut flushed, mut moved, mut put) = (0_usize, 0_usize, 0_usize);
    let mut level_0: Vec<Vec<u32>> = Vec::new();
    while put < 10 * keys as usize {
        let mut run: Vec<u32> = (0..memtable)
            .map(|_| u32::try_from(random.below(u64::from(keys))).unwrap())
            .collect();
        put += memtable;
        run.sort_unstable();
        run.dedup();
        flushed += run.len();
        level_0.push(run);
        if level_0.len() < LEVEL_0_RUNS {
            continue;
        }
        let mut all = std::mem::take(&mut levels[0]);
        all.extend(level_0.drain(..).flatten());
        all.sort_unstable();
        all.dedup();
        moved += all.len();
        levels[0] = all;
        let mut cap = memtable * LEVEL_1;
        for level in 0..levels.len() - 1 {
            while levels[level].len() > cap {
                // The next file in turn, with what it overlaps below.
                let upper = &mut levels[level];
                let mut from = upper.partition_point(|key| *key < cursors[level]);
                if from == upper.len() {
                    from = 0;
                }
                let to = (from + file).min(upper.len());
                let taken: Vec<u32> = upper.drain(from..to).collect();
                let (first, last) = (taken[0], taken[taken.len() - 1]);
                cursors[level] = last + 1;
                let lower = &mut levels[level + 1];
                // Whole files: half a one more at each end.
                let from = lower
                    .partition_point(|key| *key < first)
                    .saturating_sub(file / 2);
                let to = lower.partition_point(|key| *key <= last) + file / 2;
                let to = to.min(lower.len());
                let mut merged = [&lower[from..to], &taken].concat();
                merged.sort_unstable();
                merged.dedup();
                moved += merged.len();
                lower.splice(from..to, merged);
            }
            cap *= FANOUT;
        }
    }
    1.0 + (flushed + moved) as f64 / put as f64
}
