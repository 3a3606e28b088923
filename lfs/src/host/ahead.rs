//! Zeros ahead of small durable writes.
//!
//! To make a write into a hole durable, the host's file system has to note in its journal which blocks it took for it; where
//! blocks were written before it need not. So the holes that small writes go on to are filled with zeros, which is what they read as, many in one go: as many as there were
//! small writes since the last large one, up to [`AHEAD_BYTES_MAX`].
//!
//! It is for speed alone: where the host does not tell where holes are, or has no room, nothing is filled. A block device has no holes.

use core::ops::Range;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::BLOCK_SIZE;

/// The most that is filled at once.
const AHEAD_BYTES_MAX: u64 = 1 << 20;

/// Writes of more bytes have their blocks noted for themselves.
const SMALL_BYTES_MAX: u64 = 8 << 10;

/// Written block by block: the host keeps what was written in one go in one piece in memory, and counts all of it as changed when a block of it is.
static ZEROS: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];

/// Where writes go on, as far as that is known.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Bytes of the file that were looked at: none of them is a hole, unless it could not be filled.
    ready: Range<u64>,
    /// Bytes of small writes since the last large one.
    small_bytes: u64,
}

impl Ahead {
    /// Bytes `written` of the file were written, and the next ones go there up to `end`, which nobody else writes to or discards: fills holes there.
    pub(super) fn prepare(&mut self, file: &File, written: &Range<u64>, end: u64) {
        let bytes = written.end - written.start;
        if bytes > SMALL_BYTES_MAX {
            self.small_bytes = 0;
            return;
        }
        self.count(bytes);
        if self.ready.contains(&written.start) && written.end < self.ready.end {
            return;
        }
        let end = end.min(written.end + self.small_bytes);
        self.ready = written.start..end;
        // What is not filled stays a hole.
        let _ = fill_holes(file, written.end..end);
    }

    /// Whether a small write may go to these bytes otherwise: they were made ready for it, and durably so.
    pub(super) fn takes(&self, bytes: &Range<u64>) -> bool {
        let is_ready = self.ready.contains(&bytes.start) && bytes.end <= self.ready.end;
        bytes.end - bytes.start <= SMALL_BYTES_MAX && is_ready
    }

    /// A small write of so many bytes was made.
    pub(super) fn count(&mut self, bytes: u64) {
        self.small_bytes = (self.small_bytes + bytes).min(AHEAD_BYTES_MAX);
    }

    /// These bytes of the file may be holes again.
    pub(super) fn forget(&mut self, discarded: &Range<u64>) {
        if discarded.start < self.ready.end && self.ready.start < discarded.end {
            self.ready = 0..0;
        }
    }
}

/// Writes zeros to what are holes of `range`.
fn fill_holes(file: &File, range: Range<u64>) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let hole = seek(file, SeekFrom::Hole(at))?;
        if hole >= range.end {
            break;
        }
        let hole_end = match seek(file, SeekFrom::Data(hole)) {
            Ok(data) => data.min(range.end),
            // There are no more.
            Err(Errno::NXIO) => range.end,
            Err(error) => return Err(error.into()),
        };
        at = hole;
        while at < hole_end {
            let len = usize::try_from(hole_end - at).unwrap_or(usize::MAX);
            let zeros = ZEROS.get(..len).unwrap_or(&ZEROS);
            file.write_all_at(zeros, at)?;
            at += zeros.len() as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = BLOCK_SIZE as u64;

    /// A file of a megabyte and more, all holes.
    fn file() -> File {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(600 * BLOCK).expect("room");
        file
    }

    fn write(file: &File, ahead: &mut Ahead, block: u64, blocks: u64, end: u64) {
        let bytes = std::vec![1; usize::try_from(blocks * BLOCK).expect("few")];
        file.write_all_at(&bytes, block * BLOCK).expect("written");
        ahead.prepare(
            file,
            &(block * BLOCK..(block + blocks) * BLOCK),
            end * BLOCK,
        );
    }

    fn hole_from(file: &File, block: u64) -> u64 {
        seek(file, SeekFrom::Hole(block * BLOCK)).expect("it tells") / BLOCK
    }

    #[test]
    fn small_writes_go_to_holes_ever_less_often() {
        let (file, mut ahead) = (file(), Ahead::default());
        let mut to_holes = 0;
        for block in 0..500 {
            to_holes += u32::from(hole_from(&file, block) == block);
            write(&file, &mut ahead, block, 1, 512);
        }
        assert_eq!(to_holes, 1);
        assert_eq!(hole_from(&file, 0), 512, "and no further than they may");
    }

    #[test]
    fn there_are_no_more_zeros_than_small_writes_since_a_large_one() {
        let (file, mut ahead) = (file(), Ahead::default());
        for block in 0..64 {
            write(&file, &mut ahead, block, 1, 600);
            assert!(hole_from(&file, 0) <= 2 * (block + 1));
        }
        write(&file, &mut ahead, 200, 16, 600);
        assert_eq!(hole_from(&file, 200), 216);
        write(&file, &mut ahead, 216, 1, 600);
        assert_eq!(hole_from(&file, 200), 218);
    }

    #[test]
    fn what_is_there_stays() {
        let (file, mut ahead) = (file(), Ahead::default());
        for block in [3, 4, 9] {
            file.write_all_at(&[7; BLOCK_SIZE], block * BLOCK)
                .expect("written");
        }
        ahead.small_bytes = AHEAD_BYTES_MAX;
        write(&file, &mut ahead, 0, 1, 20);
        assert_eq!(hole_from(&file, 0), 20);
        let mut bytes = std::vec![0; 20 * BLOCK_SIZE];
        file.read_exact_at(&mut bytes, 0).expect("read");
        for (number, block) in bytes.chunks_exact(BLOCK_SIZE).enumerate() {
            let byte = match number {
                0 => 1,
                3 | 4 | 9 => 7,
                _ => 0,
            };
            assert!(block.iter().all(|&other| other == byte), "block {number}");
        }
    }

    #[test]
    fn what_was_discarded_is_filled_again() {
        let (file, mut ahead) = (file(), Ahead::default());
        ahead.small_bytes = AHEAD_BYTES_MAX;
        write(&file, &mut ahead, 0, 1, 20);
        // As a discard does where the host has that.
        file.set_len(5 * BLOCK).expect("cut");
        file.set_len(600 * BLOCK).expect("room");
        write(&file, &mut ahead, 1, 1, 20);
        assert_eq!(hole_from(&file, 0), 5, "it is believed to be there");
        ahead.forget(&(30 * BLOCK..40 * BLOCK));
        write(&file, &mut ahead, 2, 1, 20);
        assert_eq!(hole_from(&file, 0), 5);
        ahead.forget(&(19 * BLOCK..21 * BLOCK));
        write(&file, &mut ahead, 3, 1, 20);
        assert_eq!(hole_from(&file, 0), 20);
    }

    /// A full disk of the host is the business of the writes that need room.
    #[test]
    fn what_cannot_be_filled_is_no_error() {
        let path = tempfile::NamedTempFile::new().expect("a file");
        let file = File::open(path.path()).expect("only to be read");
        let mut ahead = Ahead::default();
        file.set_len(0).expect_err("it cannot be written");
        ahead.prepare(&file, &(0..BLOCK), 20 * BLOCK);
        assert_eq!(file.metadata().expect("it tells").len(), 0);
    }
}
