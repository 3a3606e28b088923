//! Bringing a disk up to date: what it lacks is copied in the background, then it is in.
//!
//! While it lasts, writes go to both disks and reads to the leader. Half of the time at most goes into copying, so
//! that others are not slowed down by more. A power cut costs what was copied since the marks were last tightened.

use core::ops::Range;

use embassy_futures::join::join;
use embassy_futures::select::{Either, select};

use super::Mirror;
use super::open::{Lack, Verdict, judge, lack};
use super::record::{Other, RECORD_BLOCKS, Record};
use super::regions::Regions;
use super::state::{Standing, State};
use crate::{BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, Clock, DeviceError};

/// Blocks copied at a time: writes to them wait so long.
const CHUNK_BLOCKS: u64 = 64;
/// Blocks copied before the leader's record is told.
const BLOCKS_PER_RECORD: u64 = 16 << 20 >> 12;
/// Between attempts to bring a disk back: from, to.
const BACKOFF_MS: Range<u64> = 1000..60_000;
/// How long a disk that is tried again may take to answer.
const ANSWER_MS: u64 = 5000;
/// How often it is looked whether disks answer, and how often in a row they may not have.
const WATCH_MS: u64 = 1000;
const SILENCE_MAX: u32 = 15;
/// Longest rest after a chunk.
const REST_MS_MAX: u64 = 100;

/// A disk could not be brought up to date.
struct Failed;

impl<A: BlockDevice> Mirror<A> {
    /// Brings a disk that is not in up to date, now and whenever one has failed and answers again; gives up a disk
    /// that does not answer. Run once, beside everything else, from when the file system is mounted on. Returns at once
    /// when this is no mirror of two disks.
    pub async fn run(&self, clock: &impl Clock) {
        let both = self.inner.devices.iter().flatten().count() == 2;
        if both && !self.inner.read_only {
            join(self.watch(clock), self.bring_back(clock)).await;
        }
    }

    /// Waits until both disks have everything. For ever, where one is away.
    pub async fn whole(&self) {
        let whole = || self.state(|state| state.is_whole().then_some(()));
        self.inner.changed.until(whole).await;
    }

    /// Gives up a disk that neither completes its requests nor fails them, if the other one has everything.
    async fn watch(&self, clock: &impl Clock) {
        let mut silence = [(None, 0); 2];
        loop {
            clock.sleep_ms(WATCH_MS).await;
            for (member, (before, times)) in silence.iter_mut().enumerate() {
                let ended = self.state(|state| state.at_work(member));
                *times = if ended.is_some() && ended == *before {
                    *times + 1
                } else {
                    0
                };
                *before = ended;
                if *times >= SILENCE_MAX && self.fail(member) {
                    self.state(|state| state.set_silent(member));
                }
            }
        }
    }

    async fn bring_back(&self, clock: &impl Clock) {
        let mut backoff_ms = BACKOFF_MS.start;
        loop {
            let out = || {
                self.state(|state| {
                    let member = 1 - state.lead();
                    let out = state.standing(member) == Standing::Out && !state.is_silent(member);
                    out.then_some(member)
                })
            };
            let member = self.inner.changed.until(out).await;
            if self.rejoin(member, clock).await.is_ok() {
                backoff_ms = BACKOFF_MS.start;
                self.inner.changed.notify();
            } else {
                if self.state(|state| state.standing(member) == Standing::Resync) {
                    self.fail(member);
                }
                clock.sleep_ms(backoff_ms).await;
                backoff_ms = (backoff_ms * 2).min(BACKOFF_MS.end);
            }
        }
    }

    async fn rejoin(&self, member: usize, clock: &impl Clock) -> Result<(), Failed> {
        let device = self.device(member).ok_or(Failed)?;
        let prepared = async {
            let found = Record::read(device).await.map_err(|_| Failed)?;
            let new = || self.state(|state| state.adopted_record(member));
            let own = found.or_else(new).ok_or(Failed)?;
            let lack = self.lack_of(member, &own)?;
            // From here on it is of no use alone.
            let own = Record {
                incomplete: true,
                generation: own.generation + 1,
                ..own
            };
            own.write(device).await.map_err(|_| Failed)?;
            self.state(|state| state.end_adoption(member));
            Ok((own, lack))
        };
        let (own, lack) = match select(prepared, clock.sleep_ms(ANSWER_MS)).await {
            Either::First(prepared) => prepared?,
            Either::Second(()) => {
                self.state(|state| state.set_silent(member));
                return Err(Failed);
            }
        };
        self.state(|state| {
            state.set_record(member, own);
            if lack == Lack::All {
                state.lacks_all();
            }
            state.set_standing(member, Standing::Resync);
        });
        self.inner.changed.notify();
        let begun = self.state(|state| state.departures(member));
        let settled = self.settle(None).await;
        settled.map_err(|_| Failed)?;
        loop {
            self.copy_stale(member, begun, clock).await?;
            // What was copied is durable before its record says so.
            self.flush().await.map_err(|_| Failed)?;
            self.check_still(member, begun)?;
            if self.state(|state| state.is_level()) {
                break;
            }
        }
        self.begin_epoch().await.map_err(|_| Failed)
    }

    /// What a disk lacks by its own record, if it is the one we know and has not gone its own way.
    fn lack_of(&self, member: usize, own: &Record) -> Result<Lack, Failed> {
        self.state(|state| {
            let lead = state.record(state.lead()).ok_or(Failed)?;
            let known = state.record(member);
            if known.is_some_and(|known| known.id == own.id && known.epoch == own.epoch) {
                // What it lacks has been kept account of.
                return Ok(Lack::Marked);
            }
            match judge([lead, own]) {
                Ok(Verdict::Leads(0)) => Ok(lack(lead, own)),
                _ => Err(Failed),
            }
        })
    }

    fn check_still(&self, member: usize, begun: u64) -> Result<(), Failed> {
        let still = self.state(|state| {
            state.departures(member) == begun && state.standing(member) == Standing::Resync
        });
        still.then_some(()).ok_or(Failed)
    }

    /// Copies all that is stale.
    async fn copy_stale(
        &self,
        member: usize,
        begun: u64,
        clock: &impl Clock,
    ) -> Result<(), Failed> {
        let mut from = 0;
        let mut since_record = 0;
        while let Some(region) = self.state(|state| state.next_stale(from)) {
            from = region + 1;
            let blocks = self.state(|state| state.cut()).blocks_of(region);
            let mut at = blocks.start;
            while at < blocks.end {
                self.check_still(member, begun)?;
                let end = blocks.end.min(at + CHUNK_BLOCKS);
                let started = clock.monotonic_us();
                self.copy_chunk(member, at..end).await?;
                let took_ms = clock.monotonic_us().saturating_sub(started) / 1000;
                if took_ms > 0 {
                    clock.sleep_ms(took_ms.min(REST_MS_MAX)).await;
                } else {
                    embassy_futures::yield_now().await;
                }
                at = end;
            }
            self.check_still(member, begun)?;
            self.state(|state| state.copied(region));
            since_record += blocks.end - blocks.start;
            if since_record >= BLOCKS_PER_RECORD {
                since_record = 0;
                self.flush().await.map_err(|_| Failed)?;
                self.check_still(member, begun)?;
                self.state(State::tighten_marks);
                self.settle(None).await.map_err(|_| Failed)?;
            }
        }
        Ok(())
    }

    /// Copies blocks from the leader, but for those of the records, while nobody else writes there.
    async fn copy_chunk(&self, member: usize, blocks: Range<u64>) -> Result<(), Failed> {
        let _locked = self.lock(blocks.clone()).await;
        let mut start = blocks.start;
        while start < blocks.end {
            let record = |block: &u64| RECORD_BLOCKS.contains(&BlockIndex(*block));
            if record(&start) {
                start += 1;
                continue;
            }
            let end = (start..blocks.end).find(record).unwrap_or(blocks.end);
            self.copy_run(member, start..end).await?;
            start = end;
        }
        self.state(|state| state.count_copied(blocks.end - blocks.start));
        Ok(())
    }

    async fn copy_run(&self, member: usize, blocks: Range<u64>) -> Result<(), Failed> {
        let lead = self.state(|state| state.lead());
        let count = usize::try_from(blocks.end - blocks.start).map_err(|_| Failed)?;
        let buffer = Buffer::zeroed(count).map_err(|_| Failed)?;
        let start = BlockIndex(blocks.start);
        let (buffer, read) = self.read_member(lead, start, buffer).await;
        if read.is_ok() {
            return self.put(member, start, buffer).await;
        }
        // Block by block: one that cannot be read is lost here and cannot be believed there.
        for block in blocks.map(BlockIndex) {
            let buffer = Buffer::zeroed(1).map_err(|_| Failed)?;
            let (mut buffer, read) = self.read_member(lead, block, buffer).await;
            if read.is_err() {
                buffer = Buffer::zeroed(1).map_err(|_| Failed)?;
            }
            self.put(member, block, buffer).await?;
        }
        Ok(())
    }

    async fn put(&self, member: usize, start: BlockIndex, buffer: Buffer) -> Result<(), Failed> {
        let device = self.device(member).ok_or(Failed)?;
        match self.on_member(member, device.write(start, buffer)).await {
            Some((_, Ok(()))) => Ok(()),
            Some((_, Err(_))) => {
                self.fail(member);
                Err(Failed)
            }
            None => Err(Failed),
        }
    }

    /// Both disks have everything: they begin an epoch together. First the leader says that the other one joins, then
    /// that one says that it has, then the leader that it is in: whatever is on the disks in between leads to one
    /// of them being brought up to date by the marks, or to both being in.
    pub(super) async fn begin_epoch(&self) -> Result<(), DeviceError> {
        let begun = self.state(|state| {
            let lead = state.lead();
            let epoch = state.begin_joining()?;
            let own = state.record(1 - lead)?.clone();
            Some((1 - lead, epoch, own))
        });
        let Some((member, epoch, own)) = begun else {
            return Err(DeviceError::Gone);
        };
        let departures = self.state(|state| state.departures(member));
        self.settle(None).await?;
        let joined = Record {
            generation: own.generation + 1,
            epoch,
            base: epoch,
            other: Other::In,
            incomplete: false,
            marks: Regions::default(),
            ..own
        };
        let device = self.device(member).ok_or(DeviceError::Gone)?;
        let written = self.on_member(member, joined.write(device)).await;
        if !matches!(written, Some(Ok(()))) {
            self.fail(member);
            return self.settle(None).await;
        }
        self.state(|state| {
            if state.departures(member) == departures {
                state.set_record(member, joined);
                state.end_joining();
            }
        });
        self.settle(None).await
    }
}

const _: () = assert!(CHUNK_BLOCKS * BLOCK_SIZE as u64 <= 1 << 20);
