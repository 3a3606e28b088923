//! Volatile access to device registers through the linear mapping.

use crate::arch::PHYS_VIRT_OFFSET;

/// A block of device registers, by physical address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Registers {
    base: usize,
}

impl Registers {
    /// The registers at physical address `paddr`.
    ///
    /// # Safety
    /// `paddr` must be the start of a device's registers that stay mapped, and every offset used on the
    /// value must lie within them and be aligned to its access.
    pub(crate) const unsafe fn new(paddr: usize) -> Self {
        Self {
            base: paddr + PHYS_VIRT_OFFSET,
        }
    }

    #[cfg(target_arch = "riscv64")]
    pub(crate) fn read8(self, offset: usize) -> u8 {
        // SAFETY: whoever made `self` vouched for the mapping and the offsets.
        unsafe { ((self.base + offset) as *const u8).read_volatile() }
    }

    pub(crate) fn write8(self, offset: usize, value: u8) {
        // SAFETY: whoever made `self` vouched for the mapping and the offsets.
        unsafe { ((self.base + offset) as *mut u8).write_volatile(value) }
    }

    pub(crate) fn read32(self, offset: usize) -> u32 {
        // SAFETY: whoever made `self` vouched for the mapping and the offsets.
        unsafe { ((self.base + offset) as *const u32).read_volatile() }
    }

    pub(crate) fn write32(self, offset: usize, value: u32) {
        // SAFETY: whoever made `self` vouched for the mapping and the offsets.
        unsafe { ((self.base + offset) as *mut u32).write_volatile(value) }
    }
}
