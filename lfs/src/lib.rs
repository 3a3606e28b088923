//! The log-structured file system of Siltstone.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod buffer;
mod device;

pub use buffer::{BLOCK_SIZE, Buffer, BufferAllocError};
pub use device::{BlockDevice, BlockIndex, Clock, DeviceError, DeviceGeometry};
