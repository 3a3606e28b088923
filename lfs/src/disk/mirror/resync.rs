//! Bringing a disk up to date: what it lacks is copied in the background, then it is in.
//!
//! While it lasts, writes go to both disks and reads to the leader. Half of the time at most goes into copying, so
//! that others are not slowed down by more. A power cut costs what was copied since the marks were last tightened.
//!
//! A block that the leader cannot give stays on the other disk as it is, where that is known to hold nothing but an earlier
//! state of the same; before that disk is in, the file system writes anew what would be believed though it is old
//! (DESIGN.md, "Blocks that cannot be read").

use core::ops::Range;

use embassy_futures::join::join3;
use embassy_futures::select::{Either, select};

use super::Mirror;
use super::open::{Lack, Verdict, is_filled_from, judge, lack};
use super::record::{Other, RECORD_BLOCKS, Record};
use super::regions::Regions;
use super::state::{Request, Standing, State};
use crate::{BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, Clock, DeviceError};

/// Blocks copied at a time: writes to them wait so long.
const CHUNK_BLOCKS: u64 = 64;
/// Blocks copied before the leader's record is told.
const BLOCKS_PER_RECORD: u64 = 16 << 20 >> 12;
/// Between attempts to bring a disk back: from, to.
const BACKOFF_MS: Range<u64> = 1000..60_000;
/// How long a disk that is tried again may take to answer.
const ANSWER_MS: u64 = 5000;
/// How often it is looked whether disks answer, and how often in a row the same request may be found waiting.
const WATCH_MS: u64 = 1000;
const SILENCE_MAX: u32 = 15;
/// Blocks that the leader may not be able to give, in all and one behind the other: a disk that has more of them is no
/// source.
const UNREAD_BLOCKS_MAX: u64 = 1024;
const UNREAD_RUN_MAX: u64 = 64;
/// Longest rest after a chunk.
const REST_MS_MAX: u64 = 100;

/// A disk could not be brought up to date.
struct Failed;

/// A disk that is being brought up to date.
struct Follower {
    member: usize,
    /// How often it had gone out before.
    begun: u64,
    /// What is on it is an earlier state of what the leader has, or was copied from there.
    is_ours: bool,
    /// Blocks in a row that could not be read.
    unread_run: u64,
}

impl<A: BlockDevice> Mirror<A> {
    /// Brings a disk that is not in up to date, now and whenever one has failed and answers again; gives up a disk
    /// that does not answer. Run once, beside everything else, from when the file system is mounted on. Returns at once
    /// when this is no mirror of two disks.
    pub async fn run(&self, clock: &impl Clock) {
        let both = self.inner.devices.iter().flatten().count() == 2;
        if both && !self.inner.read_only {
            join3(
                self.watch(clock),
                self.bring_back(clock),
                self.carry_out_mends(),
            )
            .await;
        }
    }

    /// Waits until both disks have everything. For ever, where one is away.
    pub async fn whole(&self) {
        let whole = || self.state(|state| state.is_whole().then_some(()));
        self.inner.changed.until(whole).await;
    }

    /// Gives up a disk that neither completes a request nor fails it, if the other one has everything.
    async fn watch(&self, clock: &impl Clock) {
        let mut silence = [(None, 0); 2];
        loop {
            clock.sleep_ms(WATCH_MS).await;
            for (member, (before, times)) in silence.iter_mut().enumerate() {
                let oldest = self.state(|state| state.oldest_request(member));
                *times = if oldest.is_some() && oldest == *before {
                    *times + 1
                } else {
                    0
                };
                *before = oldest;
                if *times >= SILENCE_MAX && self.state(|state| state.give_up(member)) {
                    self.inner.gone.notify();
                    self.inner.changed.notify();
                }
            }
        }
    }

    async fn bring_back(&self, clock: &impl Clock) {
        let mut backoff_ms = BACKOFF_MS.start;
        let mut blurred = false;
        loop {
            let out = || {
                self.state(|state| {
                    let member = 1 - state.lead();
                    let out = state.standing(member) == Standing::Out && !state.is_silent(member);
                    // A write that is still with it could arrive over what is copied.
                    (out && !state.is_changing(member)).then_some(member)
                })
            };
            let member = self.inner.changed.until(out).await;
            if self.rejoin(member, &mut blurred, clock).await.is_ok() {
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

    /// `blurred`: at the attempt before only a part of its record could be read.
    async fn rejoin(
        &self,
        member: usize,
        blurred: &mut bool,
        clock: &impl Clock,
    ) -> Result<(), Failed> {
        let device = self.device(member).ok_or(Failed)?;
        if device.geometry().block_count < self.inner.block_count.get() {
            return Err(Failed);
        }
        let prepared = async {
            let found = Record::read(device).await;
            let in_part = found.record.is_some() && found.unread.is_some();
            // One that begins to answer again just then fails the first of two reads: that is not to cost a copy of everything.
            if in_part && !core::mem::replace(blurred, in_part) {
                return Err(Failed);
            }
            *blurred = in_part;
            let own = self.own_record(member, found.record).ok_or(Failed)?;
            let lack = self.lack_of(member, &own, found.unread.is_some())?;
            // One that has never had everything, or lacks all of it, holds anything.
            let is_ours = lack == Lack::Marked && own.epoch > 0;
            // From here on it is of no use alone, and if it is not ours, that outlasts this attempt.
            let own = Record {
                incomplete: true,
                generation: own.generation + 1,
                epoch: if is_ours { own.epoch } else { 0 },
                ..own
            };
            own.write(device).await.map_err(|_| Failed)?;
            self.state(|state| state.end_adoption(member));
            Ok((own, lack, is_ours))
        };
        let (own, lack, is_ours) = match select(prepared, clock.sleep_ms(ANSWER_MS)).await {
            Either::First(prepared) => prepared?,
            Either::Second(()) => {
                self.state(|state| state.set_silent(member));
                return Err(Failed);
            }
        };
        let mut follower = Follower {
            member,
            begun: self.state(|state| state.departures(member)),
            is_ours,
            unread_run: 0,
        };
        self.state(|state| state.begin_resync(own, lack == Lack::All));
        self.inner.changed.notify();
        let settled = self.settle(None).await;
        settled.map_err(|_| Failed)?;
        let mut retried = false;
        loop {
            self.copy_stale(&mut follower, clock).await?;
            // What was copied is durable before its record says so.
            self.flush().await.map_err(|_| Failed)?;
            self.check_still(&follower)?;
            if !self.state(|state| state.is_level()) {
                continue;
            }
            if retried || !self.state(|state| state.has_unread()) {
                break;
            }
            retried = true;
            self.state(State::retry_unread);
        }
        if self.state(|state| state.has_unread()) {
            self.have_renewed(&follower).await?;
        }
        self.begin_epoch().await.map_err(|_| Failed)
    }

    /// The record that a disk goes on from: what was found on it. One that the leader is to adopt gets the one that was made for it, also if it
    /// was being filled by the leader before, which has named another one since.
    fn own_record(&self, member: usize, found: Option<Record>) -> Option<Record> {
        self.state(|state| {
            let lead = state.record(state.lead())?;
            match (found, state.adopted_record(member)) {
                (Some(found), Some(adopted)) if is_filled_from(&found, lead) => Some(Record {
                    generation: found.generation,
                    ..adopted
                }),
                (found, adopted) => found.or(adopted),
            }
        })
    }

    /// Has the file system write anew, to both disks, what of an earlier state would be believed.
    async fn have_renewed(&self, follower: &Follower) -> Result<(), Failed> {
        self.state(State::want_renewal);
        self.inner.changed.notify();
        // One that goes out takes the wish along.
        let over = || self.state(|state| state.renewal().is_none().then_some(()));
        self.inner.changed.until(over).await;
        self.check_still(follower)
    }

    /// What a disk lacks by its own record, if it is the one we know and has not gone its own way. `blurred`: it may
    /// have a newer record, that cannot be read.
    fn lack_of(&self, member: usize, own: &Record, blurred: bool) -> Result<Lack, Failed> {
        self.state(|state| {
            let lead = state.record(state.lead()).ok_or(Failed)?;
            let known = state.record(member);
            if blurred {
                let same = known.is_some_and(|known| known.id == own.id);
                return same.then_some(Lack::All).ok_or(Failed);
            }
            match known.filter(|known| known.id == own.id) {
                // What it lacks has been kept account of.
                Some(known) if known.epoch == own.epoch => return Ok(Lack::Marked),
                // It holds anything, and does not say so yet.
                Some(known) if known.epoch == 0 => return Ok(Lack::All),
                _ => {}
            }
            match judge([lead, own]) {
                Ok(Verdict::Leads(0)) => Ok(lack(lead, own)),
                _ => Err(Failed),
            }
        })
    }

    fn check_still(&self, follower: &Follower) -> Result<(), Failed> {
        let member = follower.member;
        let still = self.state(|state| {
            state.departures(member) == follower.begun && state.standing(member) == Standing::Resync
        });
        still.then_some(()).ok_or(Failed)
    }

    /// Copies all that is stale.
    async fn copy_stale(&self, follower: &mut Follower, clock: &impl Clock) -> Result<(), Failed> {
        let mut from = 0;
        let mut since_record = 0;
        while let Some(region) = self.state(|state| state.next_stale(from)) {
            from = region + 1;
            let blocks = self.state(|state| state.cut()).blocks_of(region);
            let mut at = blocks.start;
            while at < blocks.end {
                self.check_still(follower)?;
                let end = blocks.end.min(at + CHUNK_BLOCKS);
                let started = clock.monotonic_us();
                self.copy_chunk(follower, at..end).await?;
                let took_ms = clock.monotonic_us().saturating_sub(started) / 1000;
                if took_ms > 0 {
                    clock.sleep_ms(took_ms.min(REST_MS_MAX)).await;
                } else {
                    embassy_futures::yield_now().await;
                }
                at = end;
            }
            self.check_still(follower)?;
            self.state(|state| state.copied(region));
            since_record += blocks.end - blocks.start;
            if since_record >= BLOCKS_PER_RECORD {
                since_record = 0;
                self.flush().await.map_err(|_| Failed)?;
                self.check_still(follower)?;
                self.state(State::tighten_marks);
                self.settle(None).await.map_err(|_| Failed)?;
            }
        }
        Ok(())
    }

    /// Copies blocks from the leader, but for those of the records, while nobody else writes there.
    async fn copy_chunk(&self, follower: &mut Follower, blocks: Range<u64>) -> Result<(), Failed> {
        let _locked = self.lock(blocks.clone()).await;
        // It may have gone out, and others have been at the blocks, before they were ours.
        self.check_still(follower)?;
        let mut start = blocks.start;
        while start < blocks.end {
            let record = |block: &u64| RECORD_BLOCKS.contains(&BlockIndex(*block));
            if record(&start) {
                start += 1;
                continue;
            }
            let end = (start..blocks.end).find(record).unwrap_or(blocks.end);
            self.copy_run(follower, start..end).await?;
            start = end;
        }
        self.state(|state| state.count_copied(blocks.end - blocks.start));
        Ok(())
    }

    async fn copy_run(&self, follower: &mut Follower, blocks: Range<u64>) -> Result<(), Failed> {
        let lead = self.state(|state| state.lead());
        let count = usize::try_from(blocks.end - blocks.start).map_err(|_| Failed)?;
        let buffer = Buffer::zeroed(count).map_err(|_| Failed)?;
        let start = BlockIndex(blocks.start);
        let (buffer, read) = self.read_member(lead, start, buffer).await;
        if read.is_ok() {
            follower.unread_run = 0;
            return self.put(follower, start, buffer).await;
        }
        for block in blocks {
            let buffer = Buffer::zeroed(1).map_err(|_| Failed)?;
            let (buffer, read) = self.read_member(lead, BlockIndex(block), buffer).await;
            if read.is_ok() {
                follower.unread_run = 0;
                self.put(follower, BlockIndex(block), buffer).await?;
                continue;
            }
            follower.unread_run += 1;
            let unread = self.state(|state| state.note_unread(block));
            if unread > UNREAD_BLOCKS_MAX || follower.unread_run > UNREAD_RUN_MAX {
                return Err(Failed);
            }
            // What it has may be the last good copy, which shows when it is read. What is not ours never is.
            if !follower.is_ours {
                let nothing = Buffer::zeroed(1).map_err(|_| Failed)?;
                self.put(follower, BlockIndex(block), nothing).await?;
            }
        }
        Ok(())
    }

    async fn put(
        &self,
        follower: &Follower,
        start: BlockIndex,
        buffer: Buffer,
    ) -> Result<(), Failed> {
        self.check_still(follower)?;
        let member = follower.member;
        let device = self.device(member).ok_or(Failed)?;
        let _writing = self.note(start, buffer.len_blocks() as u64);
        let write = device.write(start, buffer);
        match self.on_member(member, Request::Changes, write).await {
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
        let departures = || self.state(|state| [0, 1].map(|member| state.departures(member)));
        let before = departures();
        self.settle(None).await?;
        if departures() != before {
            // One is out, be it the one that led: that is an epoch of its own.
            return Ok(());
        }
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
        let write = joined.write(device);
        let written = self.on_member(member, Request::Changes, write).await;
        if departures() == before {
            if matches!(written, Some(Ok(()))) {
                self.state(|state| {
                    state.set_record(member, joined);
                    state.end_joining();
                });
                self.inner.changed.notify();
            } else {
                self.fail(member);
            }
        }
        self.settle(None).await
    }
}

const _: () = assert!(CHUNK_BLOCKS * BLOCK_SIZE as u64 <= 1 << 20);
