//! Random reads, writes, truncations, holes and mappings of one file, compared with a copy in memory; in the manner
//! of `fsx`.
//!
//! Invariants: whatever way the content is read (through the cache, past it, through a mapping, after a new mount), it is what
//! was written last; the size is right after each step.
#![expect(
    clippy::indexing_slicing,
    reason = "an index out of range is a finding"
)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use fastrand::Rng;
use memmap2::{Mmap, MmapMut};
use rustix::fs::{FallocateFlags, OFlags, SeekFrom, copy_file_range, fallocate, seek};

use crate::harness::{Scratch, seed};

const STEPS: usize = 4000;
const FILE_BYTES_MAX: usize = 512 << 10;
const STEP_BYTES_MAX: usize = 96 << 10;

struct Fsx {
    rng: Rng,
    /// What the file holds.
    model: Vec<u8>,
    file: File,
    /// The same file, read past the kernel's cache.
    direct: File,
    step: usize,
}

impl Fsx {
    fn new(path: &Path, rng: Rng) -> Self {
        let (file, direct) = Self::open(path);
        Self {
            rng,
            model: Vec::new(),
            file,
            direct,
            step: 0,
        }
    }

    fn open(path: &Path) -> (File, File) {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).expect("opens");
        let direct = OFlags::DIRECT.bits().cast_signed();
        let direct = OpenOptions::new()
            .read(true)
            .custom_flags(direct)
            .open(path);
        (file, direct.expect("opens"))
    }

    fn range(&mut self, end: usize) -> (usize, usize) {
        let from = self.rng.usize(..end.max(1));
        let len = self.rng.usize(1..=STEP_BYTES_MAX);
        (from, (from + len).min(end))
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        match self.rng.u8(..4) {
            0 => bytes.fill(self.rng.u8(..)),
            _ => self.rng.fill(&mut bytes),
        }
        bytes
    }

    fn grow(&mut self, end: usize) {
        if self.model.len() < end {
            self.model.resize(end, 0);
        }
    }

    fn step(&mut self, path: &Path) {
        self.step += 1;
        let len = self.model.len();
        match self.rng.u8(..100) {
            0..25 => {
                let (from, to) = self.range(FILE_BYTES_MAX);
                let bytes = self.bytes(to - from);
                self.file.write_all_at(&bytes, from as u64).expect("writes");
                self.grow(to);
                self.model[from..to].copy_from_slice(&bytes);
            }
            25..45 if len > 0 => {
                let (from, to) = self.range(len);
                self.check(&self.file, from, to, "read");
            }
            45..55 if len > 0 => {
                let (from, to) = self.range(len);
                self.check(&self.direct, from, to, "read past the cache");
            }
            55..63 => {
                let size = self.rng.usize(..FILE_BYTES_MAX);
                self.file.set_len(size as u64).expect("truncates");
                self.model.resize(size, 0);
            }
            63..70 if len > 0 => {
                let (from, to) = self.range(len);
                let keep = FallocateFlags::KEEP_SIZE;
                self.allocate(FallocateFlags::PUNCH_HOLE | keep, from, to);
                self.model[from..to].fill(0);
            }
            70..75 => {
                let (from, to) = self.range(FILE_BYTES_MAX);
                self.allocate(FallocateFlags::ZERO_RANGE, from, to);
                self.grow(to);
                self.model[from..to].fill(0);
            }
            75..78 => {
                let (from, to) = self.range(FILE_BYTES_MAX);
                self.allocate(FallocateFlags::empty(), from, to);
                self.grow(to);
            }
            78..84 if len > 0 => {
                let (from, to) = self.range(len);
                // SAFETY: nobody else changes the file while it is mapped.
                let map = unsafe { Mmap::map(&self.file) }.expect("maps");
                assert!(
                    map[from..to] == self.model[from..to],
                    "step {}: mapped",
                    self.step
                );
            }
            84..90 if len > 0 => {
                let (from, to) = self.range(len);
                let bytes = self.bytes(to - from);
                // SAFETY: as above.
                let mut map = unsafe { MmapMut::map_mut(&self.file) }.expect("maps");
                map[from..to].copy_from_slice(&bytes);
                map.flush().expect("synchronises");
                self.model[from..to].copy_from_slice(&bytes);
            }
            90..94 if len > 0 => {
                let (from, to) = self.range(len);
                let at = self.rng.usize(..FILE_BYTES_MAX);
                self.copy(from, to, at);
            }
            94..96 if len > 0 => self.seek(),
            96..98 => self.file.sync_all().expect("synchronises"),
            98..100 => (self.file, self.direct) = Self::open(path),
            _ => {}
        }
        let size = self.file.metadata().expect("is there").len();
        assert_eq!(
            size,
            self.model.len() as u64,
            "size after step {}",
            self.step
        );
    }

    fn allocate(&self, flags: FallocateFlags, from: usize, to: usize) {
        if from < to {
            let done = fallocate(&self.file, flags, from as u64, (to - from) as u64);
            done.unwrap_or_else(|error| panic!("step {}: {flags:?}: {error}", self.step));
        }
    }

    fn copy(&mut self, from: usize, to: usize, at: usize) {
        if at < to && from < at + (to - from) {
            // Ranges that overlap are refused.
            return;
        }
        let (mut source, mut target) = (from as u64, at as u64);
        let mut left = to - from;
        while left > 0 {
            let copied = copy_file_range(
                &self.file,
                Some(&mut source),
                &self.file,
                Some(&mut target),
                left,
            );
            let copied = copied.expect("copies");
            assert!(copied > 0, "step {}: copied nothing", self.step);
            left -= copied;
        }
        let bytes = self.model[from..to].to_vec();
        self.grow(at + bytes.len());
        self.model[at..at + bytes.len()].copy_from_slice(&bytes);
    }

    /// What is said to be a hole reads as zeros.
    fn seek(&mut self) {
        let from = self.rng.usize(..self.model.len());
        let data = seek(&self.file, SeekFrom::Data(from as u64));
        let data = data.map_or(self.model.len(), |at| usize::try_from(at).expect("fits"));
        assert!(data >= from, "step {}", self.step);
        let hole = &self.model[from..data];
        assert!(
            hole.iter().all(|byte| *byte == 0),
            "step {}: data in {from}..{data}, said to be a hole",
            self.step
        );
    }

    fn check(&self, file: &File, from: usize, to: usize, how: &str) {
        let mut bytes = vec![0; to - from];
        file.read_exact_at(&mut bytes, from as u64).expect("reads");
        let wrong = bytes
            .iter()
            .zip(&self.model[from..to])
            .position(|(a, b)| a != b);
        if let Some(at) = wrong {
            panic!("step {}: {how}: wrong at {}", self.step, from + at);
        }
    }
}

#[test]
fn a_file_is_what_was_written() {
    let scratch = Scratch::with_image("64M");
    let mut mount = scratch.mount();
    let path = mount.path("fsx");
    let mut fsx = Fsx::new(&path, Rng::with_seed(seed()));
    for _ in 0..4 {
        for _ in 0..STEPS / 4 {
            fsx.step(&path);
        }
        let Fsx {
            rng,
            model,
            file,
            direct,
            step,
        } = fsx;
        drop((file, direct));
        mount.unmount();
        mount = scratch.mount();
        let (file, direct) = Fsx::open(&path);
        fsx = Fsx {
            rng,
            model,
            file,
            direct,
            step,
        };
        assert!(
            std::fs::read(&path).expect("reads") == fsx.model,
            "after a new mount, step {}",
            fsx.step
        );
    }
    drop(fsx);
    mount.unmount();
}
