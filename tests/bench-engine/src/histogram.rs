//! Many numbers as a few counts: exact below 32, to a thirty-second above.

use serde::{Deserialize, Serialize};

const STEP_BITS: u32 = 5;
const STEPS: u64 = 1 << STEP_BITS;

/// Numbers by size.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Histogram {
    pub fn add(&mut self, number: u64) {
        let bucket = bucket(number);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
        self.max = self.max.max(number);
    }

    pub fn merge(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// The number that `part` of all are at most, as far as it is known; 0 if there are none.
    pub fn quantile(&self, part: f64) -> u64 {
        let wanted = (self.total as f64 * part).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted.max(1) {
                return greatest(bucket).min(self.max);
            }
        }
        0
    }

    pub fn max(&self) -> u64 {
        self.max
    }
}

fn bucket(number: u64) -> usize {
    let shift = (u64::BITS - number.leading_zeros()).saturating_sub(STEP_BITS + 1);
    (u64::from(shift) * STEPS + (number >> shift)) as usize
}

/// The greatest number of a bucket.
fn greatest(bucket: usize) -> u64 {
    let shift = (bucket as u64 / STEPS).saturating_sub(1);
    let step = bucket as u64 - shift * STEPS;
    (step << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_is_about_as_large() {
        for number in (0..70_000).chain([1 << 40, u64::MAX / 3]) {
            let greatest = greatest(bucket(number));
            assert!(greatest >= number, "{number}");
            assert!(greatest - number <= number / STEPS, "{number}");
        }
    }

    #[test]
    fn quantiles() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.quantile(0.5), histogram.max()), (0, 0));
        let mut other = Histogram::default();
        (1..=100).for_each(|number| histogram.add(number));
        other.add(1_000_000);
        histogram.merge(&other);
        assert_eq!(histogram.quantile(0.01), 2);
        assert_eq!(histogram.quantile(0.5), 51);
        assert_eq!(histogram.quantile(1.0), 1_000_000);
        assert_eq!(histogram.max(), 1_000_000);
    }
}
