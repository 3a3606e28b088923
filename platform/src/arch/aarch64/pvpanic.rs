//! QEMU's `pvpanic-pci`: the way this machine says that it failed.
//!
//! PSCI knows no exit status, and semihosting would open the host's files to the guest. With
//! `-device pvpanic-pci -action panic=exit-failure` a byte written to this device ends QEMU with status 1.
//! It is the only PCI device of interest, so this is all the PCI there is: bus 0 is searched, and the
//! device's one region of registers placed at the start of the window for such regions.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::mmio::Registers;

/// Configuration space of bus 0.
pub(super) const ECAM_PADDR: usize = 0x40_1000_0000;
pub(super) const ECAM_SIZE: usize = 0x10_0000;
/// Where 32-bit memory regions of PCI devices go.
pub(super) const WINDOW_PADDR: usize = 0x1000_0000;
pub(super) const WINDOW_SIZE: usize = 0x1000;

// SAFETY: both are mapped by `arch::MMIO_RANGES`; the offsets below stay inside.
const ECAM: Registers = unsafe { Registers::new(ECAM_PADDR) };
// SAFETY: as above.
const WINDOW: Registers = unsafe { Registers::new(WINDOW_PADDR) };

const ID: u32 = 0x0011_1b36;
const COMMAND: usize = 0x04;
const MEMORY_SPACE: u32 = 1 << 1;
const BAR0: usize = 0x10;
/// "A panic has happened", the device's documented event.
const PANICKED: u8 = 1;

static PRESENT: AtomicBool = AtomicBool::new(false);

/// Looks for the device and makes it reachable. Needs the final page table: its configuration space is
/// outside the one the machine starts with.
pub(super) fn probe() {
    for device in 0..32 {
        let function = device << 15;
        if ECAM.read32(function) == ID {
            ECAM.write32(function + BAR0, 0x1000_0000);
            ECAM.write32(function + COMMAND, MEMORY_SPACE);
            PRESENT.store(true, Ordering::Relaxed);
            return;
        }
    }
}

/// Tells QEMU. Returns when there is no such device.
pub(super) fn report() {
    if PRESENT.load(Ordering::Relaxed) {
        WINDOW.write8(0, PANICKED);
    }
}
