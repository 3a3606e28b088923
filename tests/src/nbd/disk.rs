//! A disk with a volatile write cache: what was not flushed is a lottery at a power cut.
//!
//! It keeps what SPEC.md assumes of a disk and nothing better: a 512-byte sector is written whole or
//! not at all; of the sectors not yet flushed any subset survives, each with any of the contents it
//! was given since the last flush; flushed sectors survive.

use std::collections::BTreeMap;

use fastrand::Rng;

/// The unit that never tears.
pub const SECTOR_BYTES: usize = 512;

type Sector = [u8; SECTOR_BYTES];

/// What trimmed sectors hold: not zeroes, because nobody may rely on anything.
const TRIMMED: Sector = [0xdb; SECTOR_BYTES];

/// A disk in memory, with its unflushed writes apart.
pub struct VolatileDisk {
    durable: Vec<u8>,
    /// For each sector written since the last flush, all its contents since then, oldest first.
    unflushed: BTreeMap<usize, Vec<Sector>>,
}

impl VolatileDisk {
    /// A blank disk; `bytes` is a multiple of [`SECTOR_BYTES`].
    pub fn new(bytes: usize) -> Self {
        assert!(bytes.is_multiple_of(SECTOR_BYTES), "whole sectors only");
        Self {
            durable: vec![0; bytes],
            unflushed: BTreeMap::new(),
        }
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.durable.len()
    }

    /// Whether it has no sector at all.
    pub fn is_empty(&self) -> bool {
        self.durable.is_empty()
    }

    /// Whether a request for these bytes is whole sectors inside the disk.
    pub fn holds(&self, offset: u64, bytes: u32) -> bool {
        let sector = SECTOR_BYTES as u64;
        let end = offset.checked_add(u64::from(bytes));
        offset.is_multiple_of(sector)
            && u64::from(bytes).is_multiple_of(sector)
            && end.is_some_and(|end| end <= self.len() as u64)
    }

    /// The newest bytes at `offset`, flushed or not.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.durable[offset..offset + out.len()]);
        let first = offset / SECTOR_BYTES;
        for (sector, versions) in self
            .unflushed
            .range(first..first + out.len() / SECTOR_BYTES)
        {
            let start = (sector - first) * SECTOR_BYTES;
            let newest = versions.last().expect("a written sector has contents");
            out[start..start + SECTOR_BYTES].copy_from_slice(newest);
        }
    }

    /// Takes a write; not durable.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        let (sectors, rest) = data.as_chunks();
        assert!(rest.is_empty(), "whole sectors only");
        for (index, sector) in sectors.iter().enumerate() {
            self.unflushed
                .entry(offset / SECTOR_BYTES + index)
                .or_default()
                .push(*sector);
        }
    }

    /// Forgets the content of a range; like a write, it is not durable.
    pub fn trim(&mut self, offset: usize, bytes: usize) {
        let first = offset / SECTOR_BYTES;
        for sector in first..first + bytes / SECTOR_BYTES {
            self.unflushed.entry(sector).or_default().push(TRIMMED);
        }
    }

    /// Makes everything durable.
    pub fn flush(&mut self) {
        for (sector, versions) in std::mem::take(&mut self.unflushed) {
            self.store(
                sector,
                versions.last().expect("a written sector has contents"),
            );
        }
    }

    /// Cuts the power: draws the fate of every unflushed sector. Returns how many there were and how
    /// many of them survived in some form.
    pub fn power_cut(&mut self, rng: &mut Rng) -> (usize, usize) {
        // All lost and all kept are corners worth more visits than an even lottery gives them.
        let survival = [0.0, 0.1, 0.5, 0.9, 1.0][rng.usize(..5)];
        let unflushed = std::mem::take(&mut self.unflushed);
        let count = unflushed.len();
        let mut survivors = 0;
        for (sector, versions) in unflushed {
            if rng.f64() < survival {
                survivors += 1;
                self.store(sector, &versions[rng.usize(..versions.len())]);
            }
        }
        (count, survivors)
    }

    fn store(&mut self, sector: usize, content: &Sector) {
        let start = sector * SECTOR_BYTES;
        self.durable[start..start + SECTOR_BYTES].copy_from_slice(content);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector_of(disk: &VolatileDisk, sector: usize) -> u8 {
        let mut out = [0; SECTOR_BYTES];
        disk.read(sector * SECTOR_BYTES, &mut out);
        out[0]
    }

    #[test]
    fn flushed_sectors_survive_and_unflushed_ones_hold_something_they_were_given() {
        let mut outcomes = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut disk = VolatileDisk::new(4 * SECTOR_BYTES);
            disk.write(0, &[1; 2 * SECTOR_BYTES]);
            disk.flush();
            disk.write(SECTOR_BYTES, &[2; 2 * SECTOR_BYTES]);
            disk.write(SECTOR_BYTES, &[3; SECTOR_BYTES]);
            assert_eq!(sector_of(&disk, 1), 3, "a read sees the newest write");
            disk.power_cut(&mut Rng::with_seed(seed));
            assert_eq!(sector_of(&disk, 0), 1, "flushed");
            outcomes.insert((sector_of(&disk, 1), sector_of(&disk, 2)));
        }
        let possible = [(1, 0), (1, 2), (2, 0), (2, 2), (3, 0), (3, 2)];
        assert_eq!(outcomes.into_iter().collect::<Vec<_>>(), possible);
    }
}
