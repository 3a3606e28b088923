//! Reading what a device may keep several copies of: the first one that proves right counts, and those that did
//! not are written again from it.
//!
//! Not here: looking at copies that nobody reads; that is what a scrub does.

use crate::{BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, DeviceError, DeviceGeometry};

/// Reads blocks and gives what `check` makes of them: of the first copy it accepts, else of the first one that could be
/// read.
///
/// # Errors
/// When no copy could be read.
pub(crate) async fn read_checked<D: BlockDevice, T, E>(
    device: &D,
    start: BlockIndex,
    mut buffer: Buffer,
    mut check: impl FnMut(&[u8]) -> Result<T, E>,
) -> (Buffer, Result<Result<T, E>, DeviceError>) {
    let copies = device.copies();
    if copies <= 1 {
        let (buffer, read) = device.read(start, buffer).await;
        let checked = read.map(|()| check(buffer.bytes()));
        return (buffer, checked);
    }
    let mut refused = Err(DeviceError::Gone);
    for copy in 0..copies {
        let read;
        (buffer, read) = device.read_copy(copy, start, buffer).await;
        match read.map(|()| check(buffer.bytes())) {
            Ok(Ok(value)) => {
                if copy > 0 {
                    let address = start.0 * BLOCK_SIZE as u64;
                    device.mend(copy, address, buffer.bytes()).await;
                }
                return (buffer, Ok(Ok(value)));
            }
            Ok(Err(error)) => refused = refused.or(Ok(Err(error))),
            Err(error) => refused = refused.map_err(|_| error),
        }
    }
    (buffer, refused)
}

/// One copy of a device, to be read.
pub(crate) struct OneCopy<'d, D>(pub &'d D, pub u8);

impl<D: BlockDevice> BlockDevice for OneCopy<'_, D> {
    fn geometry(&self) -> DeviceGeometry {
        self.0.geometry()
    }

    fn read(
        &self,
        start: BlockIndex,
        buffer: Buffer,
    ) -> impl Future<Output = (Buffer, Result<(), DeviceError>)> {
        self.0.read_copy(self.1, start, buffer)
    }

    async fn write(&self, _: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        (buffer, Err(DeviceError::Unsupported))
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        Err(DeviceError::Unsupported)
    }

    async fn discard(&self, _: BlockIndex, _: u64) -> Result<(), DeviceError> {
        Err(DeviceError::Unsupported)
    }
}
