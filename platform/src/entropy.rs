//! Randomness, of which the virtio-rng device is the only source.

use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::transport::DeviceType;

use crate::virtio::{self, DmaHal};

/// Why there is no randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntropyError {
    /// The machine has no virtio-rng device.
    Missing,
    /// The device does not do what it should.
    Broken,
}

impl core::fmt::Display for EntropyError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Missing => {
                "no virtio-rng device: without a source of randomness nothing here could be kept secret \
                 (QEMU: -device virtio-rng-device)"
            }
            Self::Broken => "the virtio-rng device does not answer as specified",
        })
    }
}

impl core::error::Error for EntropyError {}

/// Fills `bytes` from the device. Waits for it, so for the start of the system only; call it once.
///
/// # Errors
/// See [`EntropyError`].
pub fn fill(bytes: &mut [u8]) -> Result<(), EntropyError> {
    let (transport, _) = virtio::open(DeviceType::EntropySource).ok_or(EntropyError::Missing)?;
    let mut device = VirtIORng::<DmaHal, _>::new(transport).map_err(|_| EntropyError::Broken)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let wanted = rest.len();
        let got = device
            .request_entropy(rest)
            .map_err(|_| EntropyError::Broken)?;
        // A device that lies about the length would leave us with zeros.
        if got == 0 || got > wanted {
            return Err(EntropyError::Broken);
        }
        rest = rest.get_mut(got..).unwrap_or_default();
    }
    Ok(())
}
