//! QEMU's aarch64 `virt` machine, entered by the arm64 boot protocol.

mod boot;
mod interrupts;
mod overflow;
mod pvpanic;

use aarch64_cpu::registers::{
    CNTFRQ_EL0, CNTP_CTL_EL0, CNTP_CVAL_EL0, CNTPCT_EL0, Readable, Writeable,
};
use axplat_aarch64_peripherals::psci;
use page_table_multiarch::aarch64::A64PageTable;

use crate::mmio::Registers;

/// Virtual address minus physical address in the linear mapping.
pub(crate) const PHYS_VIRT_OFFSET: usize = 0xffff_0000_0000_0000;
pub(crate) const KERNEL_ASPACE: (usize, usize) = (PHYS_VIRT_OFFSET, 0xffff_ffff_f000);
/// The architecture, as `ARCH=` names it.
pub const NAME: &str = "aarch64";

/// Device registers that are not in the list of virtio transports.
pub(crate) const MMIO_RANGES: [(usize, usize); 5] = [
    (interrupts::GIC_PADDR, interrupts::GIC_SIZE),
    (UART_PADDR, 0x1000),
    (RTC_PADDR, 0x1000),
    (pvpanic::WINDOW_PADDR, pvpanic::WINDOW_SIZE),
    (pvpanic::ECAM_PADDR, pvpanic::ECAM_SIZE),
];

/// Cells of a device-tree `interrupts` property to the number [`axhal::irq::register`] takes.
pub(crate) fn irq_of_cells(cells: [u32; 3]) -> usize {
    const SHARED: u32 = 0;
    let [kind, number, _] = cells;
    number as usize + if kind == SHARED { 32 } else { 16 }
}

pub(crate) type PageTable<H> = A64PageTable<H>;

const UART_PADDR: usize = 0x0900_0000;
const RTC_PADDR: usize = 0x0901_0000;
pub(crate) const UART_IRQ: usize = 33;
/// The non-secure physical timer.
pub(crate) const TIMER_IRQ: usize = 30;

// SAFETY: these devices are at these addresses in every `virt` machine, inside the mapped ranges above;
// the offsets used below are the documented registers.
const RTC: Registers = unsafe { Registers::new(RTC_PADDR) };
// SAFETY: as above.
const UART: Registers = unsafe { Registers::new(UART_PADDR) };

/// A PL011: asks for an interrupt per received byte.
pub(crate) fn uart_listen() {
    UART.write32(0x2c, 0x60); // 8 bits, FIFO off: the interrupt comes with the first byte
    UART.write32(0x44, 0x7ff); // clear what is pending
    UART.write32(0x38, 1 << 4); // received-data interrupt
    UART.write32(0x30, 0x301); // on, both directions
}

pub(crate) fn uart_write(byte: u8) {
    while UART.read32(0x18) & (1 << 5) != 0 {
        core::hint::spin_loop();
    }
    UART.write32(0x00, u32::from(byte));
}

pub(crate) fn uart_read() -> Option<u8> {
    if UART.read32(0x18) & (1 << 4) != 0 {
        return None;
    }
    let [byte, ..] = UART.read32(0x00).to_le_bytes();
    Some(byte)
}

pub(crate) fn init_early() {
    overflow::init();
    psci::init("hvc"); // the conduit of a machine without a hypervisor of its own
}

pub(crate) fn init_later() {
    interrupts::init();
}

pub(crate) fn ticks() -> u64 {
    CNTPCT_EL0.get()
}

/// `value * numerator / denominator` without overflow in between.
fn scale(value: u64, numerator: u64, denominator: u64) -> u64 {
    let scaled = u128::from(value) * u128::from(numerator) / u128::from(denominator.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

pub(crate) fn ticks_to_nanos(ticks: u64) -> u64 {
    let frequency = CNTFRQ_EL0.get();
    // QEMU counts at 62.5 MHz: 16 ns. The general way divides 128 bits.
    if frequency != 0 && NANOS_PER_SECOND.is_multiple_of(frequency) {
        return ticks.wrapping_mul(NANOS_PER_SECOND / frequency);
    }
    scale(ticks, NANOS_PER_SECOND, frequency)
}

pub(crate) fn nanos_to_ticks(nanos: u64) -> u64 {
    scale(nanos, CNTFRQ_EL0.get(), NANOS_PER_SECOND)
}

/// Asks for one timer interrupt at `deadline_ns` of the monotonic clock; `u64::MAX` for none.
pub(crate) fn set_timer(deadline_ns: u64) {
    if deadline_ns == u64::MAX {
        CNTP_CTL_EL0.write(CNTP_CTL_EL0::IMASK::SET);
    } else {
        CNTP_CVAL_EL0.set(nanos_to_ticks(deadline_ns));
        CNTP_CTL_EL0.write(CNTP_CTL_EL0::ENABLE::SET);
    }
}

/// Nanoseconds since 1970 from the PL031, which counts seconds.
pub(crate) fn rtc_unix_ns() -> u64 {
    u64::from(RTC.read32(0x00)) * NANOS_PER_SECOND
}

/// Ends the machine. Unless `status` is 0, QEMU's exit status is not either, provided it has the panic
/// device (see [`pvpanic`]).
pub(crate) fn power_off(status: u8) -> ! {
    if status != 0 {
        pvpanic::report();
    }
    psci::system_off()
}

/// Finds the device through which this machine reports a failure.
pub(crate) fn probe_failure_reporting() {
    pvpanic::probe();
}

pub(crate) fn frame_pointer() -> usize {
    let fp;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, x29", out(reg) fp, options(nomem, nostack)) };
    fp
}
/// Byte offsets, relative to the frame pointer, of (caller's frame pointer, return address).
pub(crate) const FRAME_LAYOUT: (isize, isize) = (0, 8);
