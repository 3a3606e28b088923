//! Writing again on one disk what is right on the other.
//!
//! Somebody who read bytes from one disk, and verified them, asks for it. By the time the blocks are his alone other things may
//! have been written there, and the disk may be out, and its number the other one's: so it is only done if the disk of that
//! number has the same bytes.
//!
//! The write is noted like any other: it may be lost with the disk before a flush. It is carried out by
//! [`Mirror::run`], once that runs: before that, while mounting, nobody goes away in the middle.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;

use super::state::{Request, Standing, State};
use super::{Locked, Mirror};
use crate::{BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, DeviceError};

/// Bytes to be written again on one disk.
pub(super) struct Order {
    member: usize,
    start: BlockIndex,
    /// Where in the blocks from `start` on they begin.
    at: usize,
    good: Vec<u8>,
    /// The blocks as the other disk has them.
    blocks: Buffer,
    outcome: Rc<Cell<Option<Result<bool, DeviceError>>>>,
}

impl Drop for Order {
    fn drop(&mut self) {
        if self.outcome.get().is_none() {
            self.outcome.set(Some(Err(DeviceError::Gone)));
        }
    }
}

/// That [`Mirror::run`] carries out mends.
struct Carrying<'m, A: BlockDevice>(&'m Mirror<A>);

impl<A: BlockDevice> Drop for Carrying<'_, A> {
    fn drop(&mut self) {
        self.0.inner.mends.set(false);
        if let Some(order) = self.0.inner.order.take() {
            let locked = Locked { mirror: self.0 };
            drop(order);
            drop(locked);
        }
    }
}

impl<A: BlockDevice> Mirror<A> {
    /// See [`BlockDevice::mend`].
    pub(super) async fn mend_other(
        &self,
        copy: u8,
        address: u64,
        good: &[u8],
    ) -> Result<bool, DeviceError> {
        if self.inner.read_only || good.is_empty() {
            return Ok(false);
        }
        let block = BLOCK_SIZE as u64;
        let end = address.saturating_add(good.len() as u64).div_ceil(block);
        let start = BlockIndex(address / block);
        let count = usize::try_from(end - start.0).map_err(|_| DeviceError::OutOfRange)?;
        let at = usize::try_from(address % block).map_err(|_| DeviceError::OutOfRange)?;
        let locked = self.lock(start.0..end).await;
        let members = self.state(|state| state.read_members());
        let mut members = members.into_iter().flatten();
        let from = members.clone().nth(usize::from(copy));
        let from = from.ok_or(DeviceError::Gone)?;
        let to = members.find(|member| *member != from);
        let blocks = Buffer::zeroed(count).map_err(|_| DeviceError::Io)?;
        let (blocks, read) = self.read_member(from, start, blocks).await;
        read?;
        if blocks.bytes().get(at..at + good.len()) != Some(good) {
            return Err(DeviceError::Gone);
        }
        let Some(to) = to else {
            return Ok(false);
        };
        let mut copied = Vec::new();
        let reserved = copied.try_reserve_exact(good.len());
        reserved.map_err(|_| DeviceError::Io)?;
        copied.extend_from_slice(good);
        let outcome = Rc::default();
        let order = Order {
            member: to,
            start,
            at,
            good: copied,
            blocks,
            outcome: Rc::clone(&outcome),
        };
        if !self.inner.mends.get() {
            return self.carry_out(order).await;
        }
        locked.hand_over();
        self.inner.order.replace(Some(order));
        self.inner.changed.notify();
        self.inner.changed.until(|| outcome.get()).await
    }

    /// Carries out mends for whoever asks, one at a time: there is one right to blocks.
    pub(super) async fn carry_out_mends(&self) {
        self.inner.mends.set(true);
        let _carrying = Carrying(self);
        loop {
            let order = self.inner.changed.until(|| self.inner.order.take()).await;
            // It came with the order.
            let locked = Locked { mirror: self };
            let _ = self.carry_out(order).await;
            drop(locked);
        }
    }

    /// Writes what is ordered; the rest of the blocks stays as it is there, where it can be read.
    async fn carry_out(&self, mut order: Order) -> Result<bool, DeviceError> {
        let outcome = self.write_again(&mut order).await;
        order.outcome.set(Some(outcome));
        outcome
    }

    async fn write_again(&self, order: &mut Order) -> Result<bool, DeviceError> {
        let member = order.member;
        let device = self.device(member).ok_or(DeviceError::Gone)?;
        let own = Buffer::zeroed(order.blocks.len_blocks()).map_err(|_| DeviceError::Io)?;
        let (mut own, read) = self.read_member(member, order.start, own).await;
        if read.is_err() {
            own = self.own_blocks(order).await?;
        }
        let place = own
            .bytes_mut()
            .get_mut(order.at..order.at + order.good.len());
        let place = place.ok_or(DeviceError::OutOfRange)?;
        if read.is_ok() && *place == *order.good {
            return Ok(false);
        }
        place.copy_from_slice(&order.good);
        if self.state(|state| state.standing(member)) != Standing::In {
            // There is but one copy by now.
            return Ok(false);
        }
        let _writing = self.note(order.start, own.len_blocks() as u64);
        let write = device.write(order.start, own);
        match self.on_member(member, Request::Changes, write).await {
            Some((_, Ok(()))) => {
                self.state(State::repaired);
                Ok(true)
            }
            Some((_, Err(error))) if !self.fail(member) => {
                let is_out = self.state(|state| state.standing(member)) == Standing::Out;
                if is_out { Ok(false) } else { Err(error) }
            }
            Some((_, Err(_))) | None => Ok(false),
        }
    }

    /// The blocks of an order as the disk has them that gets it, one by one, since not all can be read; in place of those which cannot, as the
    /// other disk has them.
    async fn own_blocks(&self, order: &mut Order) -> Result<Buffer, DeviceError> {
        let mut blocks = core::mem::take(&mut order.blocks);
        for (number, target) in
            (order.start.0..).zip(blocks.bytes_mut().chunks_exact_mut(BLOCK_SIZE))
        {
            let buffer = Buffer::zeroed(1).map_err(|_| DeviceError::Io)?;
            let read = self
                .read_member(order.member, BlockIndex(number), buffer)
                .await;
            if let (own, Ok(())) = read {
                target.copy_from_slice(own.bytes());
            }
        }
        Ok(blocks)
    }
}
