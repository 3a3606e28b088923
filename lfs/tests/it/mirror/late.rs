//! Disks that neither complete nor fail what they are asked, and what they do with it later.

use embassy_futures::select::{Either, select};
use lfs::Buffer;
use lfs::sim::Request;

use super::*;

/// What a disk holds of the requests it gets.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Hangs {
    /// All from one on.
    Everything,
    /// One write; everything else is done as ever.
    OneWrite,
    OneFlush,
}

fn hang(disk: &SimDisk, what: Hangs, from: usize) {
    let mut count = 0;
    disk.set_holds(move |request| {
        let counts = match what {
            Hangs::Everything => true,
            Hangs::OneWrite => matches!(request, Request::Write(..)),
            Hangs::OneFlush => request == Request::Flush,
        };
        count += usize::from(counts);
        counts && (count == from || count > from && what == Hangs::Everything)
    });
}

/// A disk that lost one request and answered others was waited for without end, and so was the service.
#[test]
fn a_disk_that_hangs_is_given_up_and_does_no_harm_later() {
    let base = pair(200);
    for hanging in [0, 1] {
        for what in [Hangs::Everything, Hangs::OneWrite, Hangs::OneFlush] {
            for from in 1..8 {
                let disks = snapshots(&base, 201);
                let told = format!("disk {hanging}, {what:?} {from}");
                let mut machine = Machine::boot(&disks, 202).unwrap();
                // Somebody else keeps the disks busy meanwhile.
                let (mirror, clock) = (machine.mirror.clone(), machine.clock.clone());
                let busy = Rc::new(Cell::new(true));
                let goes_on = Rc::clone(&busy);
                machine.executor.spawn(async move {
                    while goes_on.get() {
                        for copy in 0..mirror.copies() {
                            let buffer = Buffer::zeroed(1).unwrap();
                            let _ = mirror.read_copy(copy, BlockIndex(0), buffer).await;
                        }
                        clock.sleep_ms(300).await;
                    }
                });
                hang(&disks[hanging], what, from);
                let started = machine.clock.monotonic_us();
                let (filesystem, clock) = (Rc::clone(&machine.filesystem), machine.clock.clone());
                let done = machine.executor.run(async move {
                    let work = async {
                        for version in 1..=6 {
                            put(&filesystem, version).await.unwrap();
                            if version == 3 {
                                let commit = lfs::CommitNumber(0);
                                let made = filesystem.checkpoint(commit, &[], &[], &clock);
                                made.await.unwrap();
                            }
                        }
                    };
                    matches!(
                        select(work, clock.sleep_ms(20_000)).await,
                        Either::First(())
                    )
                });
                assert!(done, "{told}: it is waited for without end");
                machine.rest(20);
                let waited_s = (machine.clock.monotonic_us() - started) / 1_000_000;
                assert!(waited_s < 45, "{told}: {waited_s} s");
                assert_eq!(machine.get(), Ok(6), "{told}");
                let status = machine.status();
                let held = disks[hanging].held_count();
                assert!(held > 0, "{told}");
                assert_eq!(status.failures, 1, "{told}: {status:?}");
                assert_eq!(status.members[hanging], MemberState::Out, "{told}");
                // What it was asked arrives after all, and again nothing is sent to it before the next start.
                disks[hanging].release();
                machine.rest(120);
                let status = machine.status();
                assert_eq!(status.members[hanging], MemberState::Out, "{told}");
                busy.set(false);
                machine.put(7).unwrap();
                machine.shutdown();
                let mut machine = Machine::boot(&disks, 203).unwrap();
                machine.whole();
                machine.put(8).unwrap();
                machine.shutdown();
                assert_each_has(&disks, 8, &told);
            }
        }
    }
}

/// A disk that failed one request was brought up to date while another one was still with it, which then arrived over
/// what was newer.
#[test]
fn a_disk_that_failed_is_not_taken_back_before_its_last_write_has_ended() {
    let disks = pair(210);
    let mut machine = Machine::boot(&disks, 211).unwrap();
    // In two segments that hold nothing.
    let blocks = [5, 20].map(|back| BlockIndex(BLOCKS as u64 - back));
    let write = |machine: &Machine, block, byte| {
        let mirror = machine.mirror.clone();
        async move {
            let mut buffer = Buffer::zeroed(1).unwrap();
            buffer.bytes_mut().fill(byte);
            assert_eq!(mirror.write(block, buffer).await.1, Ok(()));
        }
    };
    let one = write(&machine, blocks[0], 1);
    machine.executor.run(one);
    // The first write there, and nothing else.
    let mut held = false;
    disks[1].set_holds(move |request| {
        let first = !held && request == Request::Write(blocks[0], 1);
        held |= first;
        first
    });
    disks[1].set_faults(move |request| {
        (request == Request::Write(blocks[1], 1)).then_some(DeviceError::Io)
    });
    let two = write(&machine, blocks[0], 2);
    machine.executor.spawn(two);
    let other = write(&machine, blocks[1], 2);
    machine.executor.run(other);
    assert_eq!(machine.status().members[1], MemberState::Out);
    disks[1].clear_faults();
    // It answers everything but the one write.
    machine.rest(5);
    assert_eq!(disks[1].held_count(), 1);
    let three = write(&machine, blocks[0], 3);
    machine.executor.spawn(three);
    machine.rest(5);
    disks[1].release();
    machine.whole();
    machine.rest(1);
    for disk in &disks {
        let bytes = disk.to_bytes();
        let at = blocks[0].0 as usize * 4096;
        assert!(bytes[at..at + 4096].iter().all(|byte| *byte == 3));
    }
}

/// Data that is read while the disk it is asked from goes out come from the other one, not from one that is being
/// brought up to date.
#[test]
fn nothing_is_read_from_a_disk_that_is_not_in() {
    let disks = pair(220);
    let mut machine = Machine::boot(&disks, 221).unwrap();
    let block = BlockIndex(BLOCKS as u64 - 5);
    let filled = |byte: u8| {
        let mut buffer = Buffer::zeroed(1).unwrap();
        buffer.bytes_mut().fill(byte);
        buffer
    };
    let mirror = machine.mirror.clone();
    machine.executor.run(async move {
        assert_eq!(mirror.write(block, filled(1)).await.1, Ok(()));
        mirror.flush().await.unwrap();
    });
    // The leader does not answer; a reader waits for it.
    disks[0].set_holds(move |request| request == Request::Read(block, 1));
    disks[0]
        .set_faults(move |request| (request == Request::Read(block, 1)).then_some(DeviceError::Io));
    let (mirror, found) = (machine.mirror.clone(), Rc::new(Cell::new(None)));
    let read = Rc::clone(&found);
    machine.executor.spawn(async move {
        let buffer = Buffer::zeroed(1).unwrap();
        let (buffer, outcome) = mirror.read(block, buffer).await;
        read.set(Some(outcome.map(|()| buffer.bytes()[0])));
    });
    machine.rest(1);
    // Meanwhile the other one goes out, misses a write and comes back, with much to copy before that.
    disks[1]
        .set_faults(|request| (!matches!(request, Request::Read(..))).then_some(DeviceError::Io));
    let mirror = machine.mirror.clone();
    machine.executor.run(async move {
        assert_eq!(mirror.write(block, filled(2)).await.1, Ok(()));
        mirror.flush().await.unwrap();
    });
    assert_eq!(machine.status().members[1], MemberState::Out);
    disks[1].power_cycle(|_| false);
    // It takes its record, and what is copied not yet.
    disks[1].clear_faults();
    disks[1].set_holds(move |request| matches!(request, Request::Write(start, _) if start.0 > 8));
    machine.rest(2);
    assert_eq!(machine.status().members[1], MemberState::Resync);
    disks[0].release();
    machine.rest(1);
    let outcome = found.take();
    assert!(matches!(outcome, Some(Ok(2) | Err(_))), "{outcome:?}");
}
