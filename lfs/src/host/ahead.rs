//! Zeros ahead of small durable writes.
//!
//! To make a write into a hole durable, the host's file system has to note in its journal which blocks it took for it; where
//! blocks were written before it need not. So the holes that small writes go to are filled with zeros, which is what they read as, many in one go: as many as there were
//! small writes since the last large one, up to [`AHEAD_BYTES_MAX`]. Zeros go the way that small writes will go, past the host's memory, so that whoever waits for them does not wait until all is durable that was written.
//!
//! It is for speed alone: where the host does not tell where holes are, or has no room, nothing is filled. A block device has no holes.

use core::ops::Range;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::direct::{Direct, ZEROS};
use crate::BLOCK_SIZE;

/// The most that is filled at once.
const AHEAD_BYTES_MAX: u64 = 1 << 20;

/// Writes of more bytes go to holes: for them the host's note of the blocks that they took is less than zeros are (`DESIGN.md`, "On a host").
const SMALL_BYTES_MAX: u64 = 16 << 10;

/// Each is a request of its own. Those of an image are whole segments, unless it was copied by who looks for zeros.
const HOLES_AT_ONCE: usize = 4;

/// Where writes go on, as far as that is known.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Bytes of the file that were looked at: none of them is a hole, unless it could not be filled.
    ready: Range<u64>,
    /// Bytes of small writes since the last large one.
    small_bytes: u64,
}

impl Ahead {
    /// Makes these bytes of the file ready for a small write past the host's memory, if they are not, and with them what is behind them up to `end`, to which the next ones go, and
    /// nobody else, and of which nothing is discarded. Whether they are.
    ///
    /// # Errors
    /// What the host says of zeros that are there then or not.
    pub(super) fn make_ready(
        &mut self,
        file: &File,
        direct: &Direct,
        bytes: &Range<u64>,
        end: u64,
    ) -> io::Result<bool> {
        let len = bytes.end - bytes.start;
        if len > SMALL_BYTES_MAX {
            return Ok(false);
        }
        if self.ready.contains(&bytes.start) && bytes.end <= self.ready.end {
            return Ok(true);
        }
        // One alone does not tell that there are more to come.
        if self.small_bytes == 0 {
            return Ok(false);
        }
        let most = self.small_bytes.min(AHEAD_BYTES_MAX - len);
        let end = end.min(bytes.end + most).max(bytes.end);
        let (filled_end, durable) = fill_holes(file, direct, &(bytes.start..end))?;
        // What is not filled stays a hole.
        self.ready = bytes.start..filled_end;
        Ok(durable && bytes.end <= filled_end)
    }

    /// A durable write of so many bytes was made.
    pub(super) fn count(&mut self, bytes: u64) {
        self.small_bytes = if bytes > SMALL_BYTES_MAX {
            0
        } else {
            (self.small_bytes + bytes).min(AHEAD_BYTES_MAX)
        };
    }

    /// These bytes of the file may be holes again.
    pub(super) fn forget(&mut self, discarded: &Range<u64>) {
        if discarded.start < self.ready.end && self.ready.start < discarded.end {
            self.ready = 0..0;
        }
    }
}

/// Writes zeros to what are holes of `range`, up to some: how far, and whether all of them are durable.
fn fill_holes(file: &File, direct: &Direct, range: &Range<u64>) -> io::Result<(u64, bool)> {
    let mut at = range.start;
    let mut durable = true;
    for _ in 0..HOLES_AT_ONCE {
        let Some(hole) = first_hole(file, at..range.end) else {
            return Ok((range.end, durable));
        };
        at = hole.end;
        match direct.write_zeros(file, hole.clone()) {
            Ok(true) => {}
            Ok(false) => {
                durable = false;
                fill_in_memory(file, hole);
            }
            // It is the business of writes that need the room.
            Err(error) if is_for_want_of_room(&error) => return Ok((range.end, false)),
            Err(error) => return Err(error),
        }
    }
    Ok((at, durable))
}

fn is_for_want_of_room(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// The first part of `range` that is a hole, if there is one and the host tells.
fn first_hole(file: &File, range: Range<u64>) -> Option<Range<u64>> {
    let hole = seek(file, SeekFrom::Hole(range.start)).ok()?;
    if hole >= range.end {
        return None;
    }
    match seek(file, SeekFrom::Data(hole)) {
        Ok(data) => Some(hole..data.min(range.end)),
        // There are no more.
        Err(Errno::NXIO) => Some(hole..range.end),
        Err(_) => None,
    }
}

/// The same where all goes through the host's memory: for the flushes to come. Block by block: the host keeps what was written in one go in one piece in memory, and counts all of
/// it as changed when a block of it is.
fn fill_in_memory(file: &File, hole: Range<u64>) {
    let Some(block) = ZEROS.0.first_chunk::<BLOCK_SIZE>() else {
        return;
    };
    for at in hole.step_by(BLOCK_SIZE) {
        if file.write_all_at(block, at).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    const BLOCK: u64 = BLOCK_SIZE as u64;

    /// A file of a megabyte and more, all holes.
    fn file() -> File {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(600 * BLOCK).expect("room");
        file
    }

    /// Writes some blocks, durably or not: whether they could have gone past the host's memory.
    fn write(file: &File, ahead: &mut Ahead, block: u64, blocks: u64, end: u64) -> bool {
        let written = block * BLOCK..(block + blocks) * BLOCK;
        let taken = ahead.make_ready(file, &Direct::default(), &written, end * BLOCK);
        let bytes = std::vec![1; usize::try_from(blocks * BLOCK).expect("few")];
        file.write_all_at(&bytes, written.start).expect("written");
        ahead.count(blocks * BLOCK);
        taken.expect("no error")
    }

    fn hole_from(file: &File, block: u64) -> u64 {
        seek(file, SeekFrom::Hole(block * BLOCK)).expect("it tells") / BLOCK
    }

    #[test]
    fn small_writes_go_to_holes_ever_less_often() {
        let (file, mut ahead) = (file(), Ahead::default());
        let mut to_holes = std::vec::Vec::new();
        for block in 0..500 {
            if hole_from(&file, block) == block {
                to_holes.push(block);
            }
            write(&file, &mut ahead, block, 1, 510);
        }
        assert_eq!(to_holes, [0, 1, 3, 7, 15, 31, 63, 127, 255]);
        assert_eq!(hole_from(&file, 0), 510, "and no further than they may");
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
        assert_eq!(hole_from(&file, 200), 217, "there may be no other one");
        write(&file, &mut ahead, 217, 1, 600);
        assert_eq!(hole_from(&file, 200), 219);
    }

    /// Of more bytes than there are zeros in one piece, and than go into one request.
    #[test]
    fn what_is_there_stays() {
        for there in [&[3, 4, 9, 60][..], &[]] {
            let (file, mut ahead) = (file(), Ahead::default());
            for block in there {
                file.write_all_at(&[7; BLOCK_SIZE], block * BLOCK)
                    .expect("written");
            }
            ahead.small_bytes = AHEAD_BYTES_MAX;
            let has_direct = Direct::is_there(
                &tempfile::tempfile().expect("a file"),
                &ZEROS.0[..BLOCK_SIZE],
            );
            assert_eq!(write(&file, &mut ahead, 0, 1, 600), has_direct);
            assert_eq!(hole_from(&file, 0), 256);
            let mut bytes = std::vec![0; 256 * BLOCK_SIZE];
            file.read_exact_at(&mut bytes, 0).expect("read");
            for (block, bytes) in (0..).zip(bytes.chunks_exact(BLOCK_SIZE)) {
                let byte = match block {
                    0 => 1,
                    _ if there.contains(&block) => 7,
                    _ => 0,
                };
                assert!(bytes.iter().all(|&other| other == byte), "block {block}");
            }
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

    /// What is said of a block, and the first hole then, where zeros go to `other` in place of the file.
    fn made_ready_with(other: &str, options: &OpenOptions) -> (io::Result<bool>, u64) {
        let (file, direct) = (file(), Direct::default());
        direct.to(options.open(other).expect("opens"));
        let mut ahead = Ahead::default();
        ahead.count(BLOCK);
        let taken = ahead.make_ready(&file, &direct, &(0..BLOCK), 20 * BLOCK);
        (taken, hole_from(&file, 0))
    }

    /// As in an image that was copied by who looks for zeros.
    #[test]
    fn of_many_holes_some_are_filled_at_once() {
        let (file, mut ahead) = (file(), Ahead::default());
        for block in (1..100).step_by(2) {
            file.write_all_at(&[7; BLOCK_SIZE], block * BLOCK)
                .expect("written");
        }
        ahead.small_bytes = AHEAD_BYTES_MAX;
        write(&file, &mut ahead, 0, 1, 600);
        assert_eq!(hole_from(&file, 0), 8);
        for block in 1..20 {
            write(&file, &mut ahead, block, 1, 600);
        }
        assert_eq!(hole_from(&file, 0), 8 * 3);
    }

    #[test]
    fn a_quota_is_want_of_room_and_a_broken_disk_is_none() {
        assert!(is_for_want_of_room(&Errno::NOSPC.into()));
        assert!(is_for_want_of_room(&Errno::DQUOT.into()));
        assert!(!is_for_want_of_room(&Errno::IO.into()));
    }

    /// A full disk of the host is the business of the writes that need room.
    #[test]
    fn for_zeros_there_may_be_no_room() {
        let (taken, filled) = made_ready_with("/dev/full", OpenOptions::new().write(true));
        assert!(!taken.expect("that is no error"));
        assert_eq!(filled, 0);
    }

    #[test]
    fn zeros_that_may_be_there_or_not_are_an_error() {
        let (taken, _) = made_ready_with("/dev/full", OpenOptions::new().read(true));
        taken.expect_err("it was opened for reading");
    }
}
