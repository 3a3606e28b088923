//! Randomness, of which the virtio-rng device is the only source (virtio 1.2, section 5.4).

use alloc::boxed::Box;

use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::{DeviceStatus, DeviceType, Transport as _};

use crate::clock::monotonic_us;
use crate::virtio::{self, DmaHal};

/// Why there is no randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntropyError {
    /// The machine has no virtio-rng device.
    Missing,
    /// The device does not do what it should.
    Broken,
    /// The device has not answered in time.
    Silent,
}

impl core::fmt::Display for EntropyError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Missing => {
                "no virtio-rng device: without a source of randomness nothing here could be kept \
                 secret (QEMU: -device virtio-rng-device)"
            }
            Self::Broken => "the virtio-rng device does not answer as specified",
            Self::Silent => "the virtio-rng device does not answer",
        })
    }
}

impl core::error::Error for EntropyError {}

const QUEUE: u16 = 0;
const QUEUE_SIZE: usize = 4;
/// Bytes asked for at a time.
const CHUNK_BYTES: usize = 64;
const PATIENCE_US: u64 = 10_000_000;
const FEATURE_VERSION_1: u64 = 1 << 32;

/// Fills `bytes` from the device, waiting for it: for the start of the system. Call it once.
///
/// # Errors
/// See [`EntropyError`].
pub fn fill(bytes: &mut [u8]) -> Result<(), EntropyError> {
    use DeviceStatus as Status;
    let (mut transport, _) =
        virtio::open(DeviceType::EntropySource, 0).ok_or(EntropyError::Missing)?;
    transport.set_status(Status::empty());
    transport.set_status(Status::ACKNOWLEDGE | Status::DRIVER);
    let features = transport.read_device_features() & FEATURE_VERSION_1;
    transport.write_driver_features(features);
    transport.set_status(Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK);
    if features == 0 || !transport.get_status().contains(Status::FEATURES_OK) {
        return Err(EntropyError::Broken);
    }
    let mut queue = VirtQueue::<DmaHal, QUEUE_SIZE>::new(&mut transport, QUEUE, false, false)
        .map_err(|_| EntropyError::Broken)?;
    queue.set_dev_notify(false);
    transport.finish_init();

    let deadline_us = monotonic_us() + PATIENCE_US;
    let mut memory = Box::new([0; CHUNK_BYTES]);
    let mut rest = bytes;
    while !rest.is_empty() {
        // SAFETY: `memory` lives, unused, until the token has been popped; on every other way out it is
        // leaked below.
        let token = unsafe { queue.add(&[], &mut [memory.as_mut_slice()]) }
            .map_err(|_| EntropyError::Broken)?;
        transport.notify(QUEUE);
        while !queue.can_pop() {
            if monotonic_us() > deadline_us {
                Box::leak(memory);
                return Err(EntropyError::Silent);
            }
            core::hint::spin_loop();
        }
        // SAFETY: the same memory as above.
        let popped = unsafe { queue.pop_used(token, &[], &mut [memory.as_mut_slice()]) };
        // A device that lies about how much it wrote would leave us with zeros.
        let Ok(written @ 1..=CHUNK_BYTES) = popped.map(|written| written as usize) else {
            Box::leak(memory);
            return Err(EntropyError::Broken);
        };
        let used = written.min(rest.len());
        let (now, later) = core::mem::take(&mut rest).split_at_mut(used);
        now.copy_from_slice(memory.get(..used).unwrap_or_default());
        rest = later;
    }
    transport.queue_unset(QUEUE);
    Ok(())
}
