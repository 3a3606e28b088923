//! Reads of what the host has in memory, or will have soon, without a thread for them.
//!
//! Asked for what it lacks, the host begins to read it, and says that it would have to wait. To ask again until it is there takes less of a processor than to wake a thread that waits
//! for it, and between two askings everybody else has a turn: reads of many wait together. What is not there within [`SOON`] a thread waits for.
//!
//! There are hosts that begin nothing when they are asked like that, and disks that are slower. So after a wait in vain the next read does not wait at all, after
//! another one three do not, and so on, up to [`SKIPPED_MAX`], until a wait is worth it again.

use core::sync::atomic::{AtomicU32, Ordering};
use std::fs::File;
use std::io::IoSliceMut;
use std::time::{Duration, Instant};

use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// How long it is asked for: some times as long as a good disk takes, a busy one too.
const SOON: Duration = Duration::from_millis(1);

/// From one asking to the next, at least.
const INTERVAL: Duration = Duration::from_micros(5);

/// The most that is copied from the host's memory without a thread for it, in bytes.
const BYTES_MAX: usize = 128 << 10;

/// Reads that do not wait, at most, before one does again.
const SKIPPED_MAX: u32 = 1023;

/// What the host answers.
#[derive(Clone, Copy)]
enum Answer {
    /// All of it was read.
    Done,
    /// Not all of it is in memory.
    NotYet,
    /// Only who may wait is told.
    Never,
}

/// Whether it was worth waiting lately.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Reads that did not wait, or will not, since the last wait in vain. 0: the last one was not.
    skipped: AtomicU32,
    /// Of them, those that are still to come.
    left: AtomicU32,
}

impl Reading {
    /// Reads all of `bytes` without waiting for a disk: whether it could. What they hold is not said otherwise.
    pub(super) async fn read(&self, file: &File, offset: u64, bytes: &mut [u8]) -> bool {
        bytes.len() <= BYTES_MAX && self.ask_for(|| ask(file, offset, bytes)).await
    }

    async fn ask_for(&self, mut ask: impl FnMut() -> Answer) -> bool {
        let mut answer = ask();
        if matches!(answer, Answer::NotYet) && self.is_worth_waiting() {
            let began = Instant::now();
            while matches!(answer, Answer::NotYet) && began.elapsed() < SOON {
                let asked = Instant::now();
                while asked.elapsed() < INTERVAL {
                    tokio::task::yield_now().await;
                }
                answer = ask();
            }
            self.note(matches!(answer, Answer::Done));
        }
        matches!(answer, Answer::Done)
    }

    fn is_worth_waiting(&self) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        left == 0
    }

    /// A wait is over.
    fn note(&self, was_worth_it: bool) {
        let skipped = if was_worth_it {
            0
        } else {
            let skipped = self.skipped.load(Ordering::Relaxed);
            (2 * skipped + 1).min(SKIPPED_MAX)
        };
        self.skipped.store(skipped, Ordering::Relaxed);
        self.left.store(skipped, Ordering::Relaxed);
    }
}

fn ask(file: &File, offset: u64, bytes: &mut [u8]) -> Answer {
    let len = bytes.len();
    let mut parts = [IoSliceMut::new(bytes)];
    match preadv2(file, &mut parts, offset, ReadWriteFlags::NOWAIT) {
        Ok(read) if read == len => Answer::Done,
        // Behind the end nothing comes. Where a part is in memory, the rest is as good as not there.
        Ok(1..) | Err(Errno::AGAIN) => Answer::NotYet,
        // File systems that cannot tell say that it is not supported.
        Ok(0) | Err(_) => Answer::Never,
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;
    use std::io::{Seek as _, SeekFrom, Write as _};

    use rustix::fs::{Advice, fadvise};

    use super::*;
    use crate::together;

    /// Asks once, and again and again if it waits, until the answer is another one.
    async fn asked(reading: &Reading, answers: impl IntoIterator<Item = Answer>) -> (bool, u32) {
        let (mut answers, mut count) = (answers.into_iter(), 0);
        let ask = || {
            count += 1;
            answers.next().unwrap_or(Answer::NotYet)
        };
        (reading.ask_for(ask).await, count)
    }

    #[test]
    fn who_waits_in_vain_waits_less_and_less_and_again_when_it_is_worth_it() {
        let program = async move {
            use Answer::{Done, Never, NotYet};
            let reading = Reading::default();
            assert_eq!(asked(&reading, [Done]).await, (true, 1));
            assert_eq!(asked(&reading, [Never]).await, (false, 1));
            assert_eq!(asked(&reading, [NotYet, NotYet, Done]).await, (true, 3));
            assert_eq!(asked(&reading, [NotYet, Never]).await, (false, 2));
            for skipped in [1, 3, 7, 15] {
                for _ in 0..skipped {
                    assert_eq!(asked(&reading, []).await, (false, 1), "of {skipped}");
                    // What is in memory is read in any case, and says nothing.
                    assert_eq!(asked(&reading, [Done]).await, (true, 1));
                }
                let (is_done, count) = asked(&reading, []).await;
                assert!(!is_done && count > 1, "after {skipped}");
            }
            for _ in 0..31 {
                assert_eq!(asked(&reading, []).await, (false, 1));
            }
            assert_eq!(asked(&reading, [NotYet, Done]).await, (true, 2));
            assert_eq!(asked(&reading, [NotYet, Done]).await, (true, 2));
            // It never waits less often than that.
            for _ in 0..20 {
                reading.note(false);
            }
            assert_eq!(reading.left.load(Ordering::Relaxed), SKIPPED_MAX);
        };
        super::super::run(program).expect("a runtime");
    }

    /// Of a file that the host forgets again and again all is read, or nothing said.
    #[test]
    fn what_is_read_without_waiting_is_what_the_file_holds() {
        const BLOCK: usize = 4096;
        let mut file = tempfile::tempfile().expect("a file");
        let byte_at = |at: usize| (at / 7 % 251).to_le_bytes()[0];
        let content = (0..256 * BLOCK).map(byte_at).collect::<Vec<_>>();
        file.write_all(&content).expect("written");
        file.sync_all().expect("durable");
        file.seek(SeekFrom::Start(0)).expect("its start");
        let program = async move {
            let reading = Reading::default();
            let mut done = 0;
            for round in 0..200 {
                let _ = fadvise(&file, 0, None, Advice::DontNeed);
                let reads = (0..8).map(|number| {
                    let at = (round * 37 + number * 61) % 250 * BLOCK;
                    let (reading, file) = (&reading, &file);
                    async move {
                        let mut bytes = vec![0; (1 + number % 4) * BLOCK];
                        let is_done = reading.read(file, at as u64, &mut bytes).await;
                        is_done.then_some((at, bytes))
                    }
                });
                for (at, bytes) in together(reads).await.into_iter().flatten() {
                    assert!(bytes == content[at..at + bytes.len()], "at {at}");
                    done += 1;
                }
            }
            let mut bytes = [0; 2 * BLOCK];
            let end = content.len() as u64;
            let behind = reading.read(&file, end, &mut bytes).await;
            assert!(!behind, "nothing is there");
            let across = reading.read(&file, end - 100, &mut bytes).await;
            assert!(!across, "not all of it is there");
            let large = reading.read(&file, 0, &mut vec![0; BYTES_MAX + 1]).await;
            assert!(!large, "that is for a thread");
            done
        };
        let done = super::super::run(program).expect("a runtime");
        assert!(done > 0, "the host has nothing in memory, and never will");
    }
}
