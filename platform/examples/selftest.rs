//! An image that tests the platform on the machine itself, and powers off with status 0 if all is well.
//!
//! `scripts/test-platform` boots it. The words on the argument line choose what it does:
//!
//! - `disk`: the contract of [`lfs::BlockDevice`] on a real virtio-blk device: what is written is read, in
//!   any order and number; a dropped future leaves its request running and its memory alone; a full queue
//!   makes callers wait their turn; what cannot be is refused.
//! - `disk-fails`: on a disk that fails every write, writes and flushes say so and reads go on.
//! - `memory`: when memory is short, allocations that can fail do.
//! - `bytes`: comparing memory, for all alignments and lengths.
//! - `time`: timers fire when they should, also many, also those that are dropped.
//! - `panic`, `overflow`: end in a panic, and in a stack that is too deep; QEMU must return a failure.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

/// There is nothing to test on a host.
#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
platform::entry!(machine::run);

#[cfg(target_os = "none")]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod machine {
    use alloc::rc::Rc;
    use alloc::vec::Vec;
    use core::cell::Cell;
    use core::cmp::Ordering;
    use core::future::poll_fn;
    use core::pin::pin;
    use core::task::Poll;

    use lfs::{BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, Clock as _, DeviceError};
    use platform::clock::{Clock, monotonic_us, sleep_until_us};
    use platform::disk::{Disk, REQUESTS_MAX};
    use platform::executor::{TaskPool, spawn};
    use platform::{memory, power, println};

    pub async fn run() {
        for word in platform::arguments() {
            println!("selftest: {word}");
            match word {
                "disk" => disk().await,
                "disk-fails" => disk_fails().await,
                "bytes" => bytes(),
                "memory" => memory_is_short(),
                "time" => time().await,
                "panic" => panic!("a panic that was asked for"),
                "overflow" => assert!(deeper(1) > 0),
                other => panic!("no test called {other}"),
            }
        }
        println!("selftest: passed");
        power::off(0);
    }

    fn open_disk() -> Disk {
        let disk = Disk::open().unwrap_or_else(|error| panic!("{error}"));
        let runner = disk.clone();
        spawn(async move { runner.run().await });
        disk
    }

    /// A buffer whose every block says what it is.
    fn pattern(first: u64, blocks: usize, salt: u64) -> Buffer {
        let mut buffer = zeroed(blocks);
        for (number, block) in (first..).zip(buffer.bytes_mut().chunks_exact_mut(BLOCK_SIZE)) {
            for (position, word) in (0_u64..).zip(block.chunks_exact_mut(8)) {
                let value = (number << 20 | position).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt;
                word.copy_from_slice(&value.to_le_bytes());
            }
        }
        buffer
    }

    fn zeroed(blocks: usize) -> Buffer {
        Buffer::zeroed(blocks).unwrap_or_else(|error| panic!("{error}"))
    }

    async fn expect(disk: &Disk, first: u64, blocks: usize, salt: u64) {
        let (read, result) = disk.read(BlockIndex(first), zeroed(blocks)).await;
        assert_eq!(result, Ok(()), "reading {blocks} blocks at {first}");
        assert!(
            read.bytes() == pattern(first, blocks, salt).bytes(),
            "{blocks} blocks at {first} are not what was written"
        );
    }

    async fn disk() {
        let disk = open_disk();
        let blocks = disk.geometry().block_count;
        println!(
            "selftest: {blocks} blocks, discard: {}",
            disk.geometry().discard
        );
        refuses(&disk, blocks).await;
        lengths(&disk).await;
        a_crowd(&disk).await;
        dropped(&disk).await;
        abandoned_in_line(&disk).await;
        discard(&disk).await;
    }

    /// Requests that reach past the end or are empty fail, and give the buffer back.
    async fn refuses(disk: &Disk, blocks: u64) {
        for (start, count) in [
            (blocks, 1),
            (blocks - 1, 2),
            (u64::MAX, 1),
            (u64::MAX - 1, 4),
            (0, 0),
        ] {
            let (buffer, result) = disk.write(BlockIndex(start), zeroed(count)).await;
            assert_eq!(
                result,
                Err(DeviceError::OutOfRange),
                "{count} blocks at {start}"
            );
            assert_eq!(buffer.len_blocks(), count);
            let (_, result) = disk.read(BlockIndex(start), zeroed(count)).await;
            assert_eq!(
                result,
                Err(DeviceError::OutOfRange),
                "{count} blocks at {start}"
            );
        }
    }

    /// One block, many, more than one request takes, and the very last.
    async fn lengths(disk: &Disk) {
        let last = disk.geometry().block_count - 1;
        for (first, count) in [
            (0, 1),
            (7, 3),
            (100, 256),
            (1000, 1024),
            (3000, 2600),
            (last, 1),
        ] {
            let (_, result) = disk
                .write(BlockIndex(first), pattern(first, count, 1))
                .await;
            assert_eq!(result, Ok(()));
            assert_eq!(disk.flush().await, Ok(()));
            expect(disk, first, count, 1).await;
        }
    }

    /// Three times as many requests at once as can be in flight, among them flushes: all of them are served, and in the
    /// order they came, which is not the order their tasks were spawned in.
    async fn a_crowd(disk: &Disk) {
        let tasks = Rc::new(TaskPool::default());
        let open = Rc::new(Cell::new(0_usize));
        let came = Rc::new(Cell::new(0_usize));
        let written = Rc::new(Cell::new(0_usize));
        for number in 0..3 * REQUESTS_MAX as u64 {
            let (disk, open) = (disk.clone(), Rc::clone(&open));
            let (came, written) = (Rc::clone(&came), Rc::clone(&written));
            open.set(open.get() + 1);
            let task = async move {
                let first = 10_000 + number * 2;
                let before = came.replace(came.get() + 1);
                let (_, result) = disk.write(BlockIndex(first), pattern(first, 2, 2)).await;
                assert_eq!(result, Ok(()));
                // Whoever has a slot shares them with `REQUESTS_MAX - 1` others: the rest of those who came before are done.
                assert!(
                    written.get() + REQUESTS_MAX > before,
                    "the queue was not kept in order: {before} came before, {} are written",
                    written.get()
                );
                written.set(written.get() + 1);
                if number % 8 == 0 {
                    assert_eq!(disk.flush().await, Ok(()));
                }
                expect(&disk, first, 2, 2).await;
                open.set(open.get() - 1);
            };
            assert!(tasks.spawn(task).is_ok());
        }
        until(|| open.get() == 0).await;
        assert_eq!(written.get(), 3 * REQUESTS_MAX);
    }

    /// A write whose future is dropped in flight happens all the same, and its memory is left alone meanwhile.
    async fn dropped(disk: &Disk) {
        let before = memory::usage().used_bytes;
        for round in 0..50 {
            let first = 20_000 + round * 64;
            {
                let mut write = pin!(disk.write(BlockIndex(first), pattern(first, 64, 3)));
                poll_once(write.as_mut()).await;
            }
            // Memory the driver had freed too early would be handed out here and overwritten.
            drop(pattern(first, 64, 99));
            // Requests pass each other, so reading may show what was there before; in the end it is there.
            let deadline_us = monotonic_us() + 5_000_000;
            loop {
                let (read, result) = disk.read(BlockIndex(first), zeroed(64)).await;
                assert_eq!(result, Ok(()));
                if read.bytes() == pattern(first, 64, 3).bytes() {
                    break;
                }
                assert!(
                    monotonic_us() < deadline_us,
                    "a write that was begun did not happen"
                );
            }
            {
                let mut read = pin!(disk.read(BlockIndex(first), zeroed(64)));
                poll_once(read.as_mut()).await;
            }
            drop(zeroed(64));
        }
        // A request that waits for others: when it is done, so are the reads nobody waited for.
        assert_eq!(disk.flush().await, Ok(()));
        until(|| memory::usage().used_bytes <= before).await;
    }

    /// A future dropped while it waits for its turn never reaches the disk, and those behind it move up.
    async fn abandoned_in_line(disk: &Disk) {
        let tasks = Rc::new(TaskPool::default());
        let open = Rc::new(Cell::new(0_usize));
        for number in 0..4 * REQUESTS_MAX as u64 {
            let (disk, open) = (disk.clone(), Rc::clone(&open));
            open.set(open.get() + 1);
            let task = async move {
                let first = 30_000 + number;
                let mut write = pin!(disk.write(BlockIndex(first), pattern(first, 1, 4)));
                if number % 3 == 0 {
                    poll_once(write.as_mut()).await;
                } else {
                    assert_eq!(write.await.1, Ok(()));
                    expect(&disk, first, 1, 4).await;
                }
                open.set(open.get() - 1);
            };
            assert!(tasks.spawn(task).is_ok());
        }
        until(|| open.get() == 0).await;
    }

    async fn discard(disk: &Disk) {
        let result = disk.discard(BlockIndex(40_000), 300).await;
        if !disk.geometry().discard {
            assert_eq!(result, Err(DeviceError::Unsupported));
            return;
        }
        assert_eq!(result, Ok(()));
        let blocks = disk.geometry().block_count;
        assert_eq!(
            disk.discard(BlockIndex(blocks - 1), 2).await,
            Err(DeviceError::OutOfRange)
        );
    }

    /// The disk under this test reads well and fails everything else.
    async fn disk_fails() {
        let disk = open_disk();
        for round in 0..100 {
            let (buffer, result) = disk.write(BlockIndex(round), pattern(round, 1, 5)).await;
            assert_eq!(result, Err(DeviceError::Io));
            assert_eq!(buffer.len_blocks(), 1);
            let (_, result) = disk.read(BlockIndex(round), zeroed(4)).await;
            assert_eq!(result, Ok(()));
            assert_eq!(disk.flush().await, Err(DeviceError::Io));
        }
    }

    /// Takes all memory there is: the end of it is an error, and afterwards everything is back.
    fn memory_is_short() {
        let before = memory::usage();
        let mut taken: Vec<Vec<u8>> = Vec::new();
        assert!(taken.try_reserve_exact(1 << 16).is_ok());
        for size in [1 << 20, 1 << 12] {
            loop {
                let mut bytes: Vec<u8> = Vec::new();
                if bytes.try_reserve_exact(size).is_err() {
                    break;
                }
                taken.push(bytes);
            }
        }
        assert!(
            Buffer::zeroed(16).is_err(),
            "there cannot be any memory left"
        );
        let mut small: Vec<u8> = Vec::new();
        assert!(
            small.try_reserve_exact(256).is_ok(),
            "the last of it is for small pieces"
        );
        let all: usize = taken.iter().map(Vec::capacity).sum();
        println!(
            "selftest: {all} of {} bytes could be taken",
            before.total_bytes
        );
        assert!(all > before.total_bytes / 10 * 9, "not all memory is used");
        // Nine tenths of what the machine has: the rest is the image, its stack and the firmware's share.
        assert!(before.total_bytes > memory::machine_bytes() / 10 * 9);
        drop((taken, small));
        assert_eq!(memory::usage().used_bytes, before.used_bytes);
    }

    /// Against a comparison that is obviously right.
    fn bytes() {
        let left = [0x55_u8; 96];
        let mut right = left;
        for (offset_a, offset_b) in (0..9).flat_map(|a| (0..9).map(move |b| (a, b))) {
            for len in 0..40 {
                for different in 0..=len {
                    for value in [0x54_u8, 0x56, 0xd5] {
                        let (a, b) = (&left[offset_a..], &mut right[offset_b..]);
                        b[different] = value;
                        let expected = if different == len {
                            Ordering::Equal
                        } else {
                            0x55.cmp(&value)
                        };
                        let (a, b) = core::hint::black_box((&a[..len], &b[..len]));
                        assert_eq!(
                            a.cmp(b),
                            expected,
                            "{offset_a} {offset_b} {len} {different}"
                        );
                        assert_eq!(
                            a == b,
                            expected.is_eq(),
                            "{offset_a} {offset_b} {len} {different}"
                        );
                        right[offset_b + different] = 0x55;
                    }
                }
            }
        }
    }

    async fn time() {
        let clock = Clock::open();
        // The wall clock says that it is after 2024, and goes on.
        assert!(clock.unix_ms() > 1_704_067_200_000, "{}", clock.unix_ms());
        let (unix_us, began_us) = (clock.unix_us(), monotonic_us());
        let open = Rc::new(Cell::new(0_usize));
        for number in 0..200_u64 {
            let open = Rc::clone(&open);
            open.set(open.get() + 1);
            spawn(async move {
                let wanted_us = began_us + 1000 + number % 20 * 1000;
                {
                    let mut dropped = pin!(sleep_until_us(wanted_us - 500));
                    poll_once(dropped.as_mut()).await;
                }
                sleep_until_us(wanted_us).await;
                let late_us = monotonic_us().checked_sub(wanted_us);
                assert!(late_us.is_some(), "too early");
                assert!(late_us < Some(200_000), "{late_us:?} us late");
                open.set(open.get() - 1);
            });
        }
        clock.sleep_ms(100).await;
        assert_eq!(open.get(), 0);
        let elapsed_us = monotonic_us() - began_us;
        let wall_us = clock.unix_us() - unix_us;
        assert!(
            wall_us.abs_diff(elapsed_us.cast_signed()) < 10_000,
            "the clocks do not agree"
        );
    }

    /// Waits without a waker for something that other tasks bring about.
    async fn until(mut condition: impl FnMut() -> bool) {
        let deadline_us = monotonic_us() + 30_000_000;
        while !condition() {
            assert!(monotonic_us() < deadline_us, "it did not come about");
            sleep_until_us(monotonic_us() + 1000).await;
        }
    }

    /// Polls once, as a caller does that loses interest then.
    async fn poll_once<F: Future>(mut future: core::pin::Pin<&mut F>) {
        poll_fn(|context| {
            let _ = future.as_mut().poll(context);
            Poll::Ready(())
        })
        .await;
    }

    /// Never returns, and needs more stack with every call.
    #[expect(
        unconditional_recursion,
        reason = "the test is what it does to the stack"
    )]
    fn deeper(level: u64) -> u64 {
        let frame = core::hint::black_box([level; 64]);
        deeper(level + 1) + frame.iter().sum::<u64>()
    }
}
