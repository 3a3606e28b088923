//! Reads of what the host has in memory, or will have soon, without a thread for them.
//!
//! Asked for what it lacks, the host begins to read it, and says that one would have to wait. To ask again until it is there takes less of a processor than to wake a thread for each read
//! that waits for it, as long as it comes soon, or several wait together: between two askings everybody else has a turn. So a lone read asks for [`SOON`], many at once for longer, up to
//! [`SOON_MAX`]; what is not there by then a thread waits for. Where there is one processor alone nobody asks again: others may need it to bring what is asked for.
//!
//! There are hosts that begin nothing when they are asked like that, and disks that are slower. So after a wait in vain the next read does not wait at all, after
//! another one three do not, and so on, up to [`SKIPPED_MAX`], until a wait is worth it again. Waits that ended in vain together count as one.

use core::sync::atomic::{AtomicU32, Ordering};
use std::fs::File;
use std::io::IoSliceMut;
use std::time::{Duration, Instant};

use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::has_more_processors;

/// How long one read asks: some times as long as a good disk takes.
const SOON: Duration = Duration::from_micros(250);

/// How long it asks when many do.
const SOON_MAX: Duration = Duration::from_millis(1);

/// From one asking to the next, at least.
const INTERVAL: Duration = Duration::from_micros(5);

/// The most that is copied from the host's memory without a thread for it, in bytes.
const BYTES_MAX: usize = 128 << 10;

/// Reads that do not wait, at most, before one does again.
const SKIPPED_MAX: u32 = 1023;

/// What the host answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// All of it was read.
    Done,
    /// Not all of it is in memory.
    NotYet,
    /// Only who may wait is told.
    Never,
}

/// Who waits, and whether it was worth it lately.
#[derive(Debug)]
pub(super) struct Reading {
    /// Whether there is more than one processor.
    is_of_use: bool,
    /// Reads that wait now.
    waiting: AtomicU32,
    /// Waits that were worth it, or were the first of some that were in vain together.
    verdicts: AtomicU32,
    /// Reads that did not wait, or will not, since the last wait in vain. 0: the last one was not.
    skipped: AtomicU32,
    /// Of them, those that are still to come.
    left: AtomicU32,
}

impl Reading {
    pub(super) fn new() -> Self {
        Self {
            is_of_use: has_more_processors(),
            waiting: AtomicU32::new(0),
            verdicts: AtomicU32::new(0),
            skipped: AtomicU32::new(0),
            left: AtomicU32::new(0),
        }
    }

    /// Reads all of `bytes` without waiting for a disk: whether it could. What they hold is not said otherwise.
    pub(super) async fn read(&self, file: &File, offset: u64, bytes: &mut [u8]) -> bool {
        let mut read = 0;
        let soon = |waiting| SOON_MAX.min(SOON.saturating_mul(waiting));
        bytes.len() <= BYTES_MAX
            && self
                .ask_for(soon, || ask(file, offset, bytes, &mut read))
                .await
    }

    /// Asks, and again for as long as `soon` says, where so many wait.
    async fn ask_for(
        &self,
        soon: impl Fn(u32) -> Duration,
        mut ask: impl FnMut() -> Answer,
    ) -> bool {
        let mut answer = ask();
        if answer == Answer::NotYet && self.is_worth_waiting() {
            let verdicts = self.verdicts.load(Ordering::Relaxed);
            let waits = Waits::begin(self);
            let began = Instant::now();
            while answer == Answer::NotYet {
                let asked = Instant::now();
                while asked.elapsed() < INTERVAL {
                    tokio::task::yield_now().await;
                }
                answer = ask();
                if began.elapsed() >= soon(self.waiting.load(Ordering::Relaxed)) {
                    break;
                }
            }
            drop(waits);
            self.note(answer == Answer::Done, verdicts);
        }
        answer == Answer::Done
    }

    fn is_worth_waiting(&self) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        self.is_of_use && left == 0
    }

    /// A wait is over that began when there were so many verdicts.
    fn note(&self, was_worth_it: bool, verdicts: u32) {
        let skipped = if was_worth_it {
            0
        } else if self.verdicts.load(Ordering::Relaxed) == verdicts {
            let skipped = self.skipped.load(Ordering::Relaxed);
            (2 * skipped + 1).min(SKIPPED_MAX)
        } else {
            return;
        };
        self.verdicts.fetch_add(1, Ordering::Relaxed);
        self.skipped.store(skipped, Ordering::Relaxed);
        self.left.store(skipped, Ordering::Relaxed);
    }
}

/// A read that waits until this goes.
struct Waits<'r>(&'r Reading);

impl<'r> Waits<'r> {
    fn begin(reading: &'r Reading) -> Self {
        reading.waiting.fetch_add(1, Ordering::Relaxed);
        Self(reading)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Asks for what is behind the first `read` of `bytes`, and counts what comes of it.
fn ask(file: &File, offset: u64, bytes: &mut [u8], read: &mut usize) -> Answer {
    let len = bytes.len();
    let rest = bytes.get_mut(*read..).unwrap_or_default();
    let behind = offset.saturating_add(*read as u64);
    match preadv2(
        file,
        &mut [IoSliceMut::new(rest)],
        behind,
        ReadWriteFlags::NOWAIT,
    ) {
        Ok(more @ 1..) => {
            *read += more;
            if *read >= len {
                Answer::Done
            } else {
                Answer::NotYet
            }
        }
        Err(Errno::AGAIN) => Answer::NotYet,
        // Behind the end nothing comes. File systems that cannot tell say that it is not supported.
        Ok(0) | Err(_) => Answer::Never,
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;
    use std::io::{Seek as _, SeekFrom, Write as _};

    use rustix::fs::{Advice, fadvise};

    use super::Answer::{Done, Never, NotYet};
    use super::*;
    use crate::together;

    /// Asks once more where it waits at all.
    const ONCE: fn(u32) -> Duration = |_| Duration::ZERO;
    /// Asks until the answer is another one.
    const EVER: fn(u32) -> Duration = |_| Duration::MAX;

    fn of_use() -> Reading {
        Reading {
            is_of_use: true,
            ..Reading::new()
        }
    }

    /// Whether it was read, and how often it was asked for.
    async fn asked(
        reading: &Reading,
        soon: fn(u32) -> Duration,
        answers: impl IntoIterator<Item = Answer>,
    ) -> (bool, u32) {
        let (mut answers, mut count) = (answers.into_iter(), 0);
        let ask = || {
            count += 1;
            answers.next().unwrap_or(NotYet)
        };
        (reading.ask_for(soon, ask).await, count)
    }

    #[test]
    fn who_waits_in_vain_waits_less_and_less_and_again_when_it_is_worth_it() {
        let program = async move {
            let reading = of_use();
            assert_eq!(asked(&reading, EVER, [Done]).await, (true, 1));
            assert_eq!(asked(&reading, EVER, [Never]).await, (false, 1));
            let read = asked(&reading, EVER, [NotYet, NotYet, Done]).await;
            assert_eq!(read, (true, 3));
            for skipped in [0, 1, 3, 7, 15] {
                for _ in 0..skipped {
                    let read = asked(&reading, EVER, [NotYet, Done]).await;
                    assert_eq!(read, (false, 1), "of {skipped}");
                    // What is in memory is read in any case, and says nothing.
                    assert_eq!(asked(&reading, EVER, [Done]).await, (true, 1));
                }
                let read = asked(&reading, ONCE, []).await;
                assert_eq!(read, (false, 2), "after {skipped}");
            }
            // What cannot be told without waiting is in vain as well.
            reading.left.store(0, Ordering::Relaxed);
            let read = asked(&reading, EVER, [NotYet, Never]).await;
            assert_eq!(read, (false, 2));
            assert_eq!(reading.left.load(Ordering::Relaxed), 63);
            reading.left.store(0, Ordering::Relaxed);
            for _ in 0..3 {
                let read = asked(&reading, EVER, [NotYet, Done]).await;
                assert_eq!(read, (true, 2));
            }
            // It never waits less often than that.
            for _ in 0..20 {
                reading.note(false, reading.verdicts.load(Ordering::Relaxed));
            }
            assert_eq!(reading.left.load(Ordering::Relaxed), SKIPPED_MAX);
        };
        super::super::run(program).expect("a runtime");
    }

    /// A moment in which a disk does nothing would be taken for as many as there are readers.
    #[test]
    fn waits_that_are_in_vain_together_count_as_one() {
        let program = async move {
            let reading = of_use();
            let all = together((0..16).map(|_| asked(&reading, ONCE, []))).await;
            assert!(all.into_iter().all(|read| read == (false, 2)));
            assert_eq!(reading.waiting.load(Ordering::Relaxed), 0);
            assert_eq!(asked(&reading, EVER, [NotYet, Done]).await, (false, 1));
            assert_eq!(asked(&reading, EVER, [NotYet, Done]).await, (true, 2));
            // Nor does one that is in vain while others are worth it.
            let before = reading.verdicts.load(Ordering::Relaxed);
            assert_eq!(asked(&reading, EVER, [NotYet, Done]).await, (true, 2));
            reading.note(false, before);
            assert_eq!(asked(&reading, EVER, [NotYet, Done]).await, (true, 2));
        };
        super::super::run(program).expect("a runtime");
    }

    #[test]
    fn many_wait_longer_than_one_and_nobody_where_others_need_the_processor() {
        let program = async move {
            let reading = of_use();
            let most = AtomicU32::new(0);
            let soon = |waiting| {
                most.fetch_max(waiting, Ordering::Relaxed);
                Duration::ZERO
            };
            together((0..16).map(|_| reading.ask_for(soon, || NotYet))).await;
            assert_eq!(most.into_inner(), 16);
            let alone = Reading {
                is_of_use: false,
                ..Reading::new()
            };
            assert_eq!(asked(&alone, EVER, [NotYet, Done]).await, (false, 1));
            assert_eq!(asked(&alone, EVER, [Done]).await, (true, 1));
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
            // Where the host tells nobody who does not wait, nothing is read.
            let is_told = ask(&file, 0, &mut [0], &mut 0) != Never;
            let reading = of_use();
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
            assert_eq!(done > 0, is_told);
        };
        super::super::run(program).expect("a runtime");
    }
}
