//! QEMU's riscv64 `virt` machine under OpenSBI.

mod boot;
mod interrupts;
mod overflow;

use page_table_multiarch::riscv::Sv39PageTable;
use riscv::register::time;

use crate::mmio::Registers;

/// Virtual address minus physical address in the linear mapping.
pub(crate) const PHYS_VIRT_OFFSET: usize = 0xffff_ffc0_0000_0000;
pub(crate) const KERNEL_ASPACE: (usize, usize) = (PHYS_VIRT_OFFSET, 0x3f_ffff_f000);
/// The architecture, as `ARCH=` names it.
pub const NAME: &str = "riscv64";

/// Device registers that are not in the list of virtio transports.
pub(crate) const MMIO_RANGES: [(usize, usize); 4] = [
    (FINISHER_PADDR, 0x1000),
    (RTC_PADDR, 0x1000),
    (interrupts::PLIC_PADDR, interrupts::PLIC_SIZE),
    (UART_PADDR, 0x1000),
];

/// Cells of a device-tree `interrupts` property to the number [`axhal::irq::register`] takes.
pub(crate) fn irq_of_cells(cells: [u32; 3]) -> usize {
    let [line, _, _] = cells;
    line as usize
}

pub(crate) type PageTable<H> = Sv39PageTable<H>;

const FINISHER_PADDR: usize = 0x10_0000;
const RTC_PADDR: usize = 0x10_1000;
const UART_PADDR: usize = 0x1000_0000;
pub(crate) const UART_IRQ: usize = 10;

// SAFETY: these devices are at these addresses in every `virt` machine, inside the mapped ranges above;
// the offsets used below are the documented registers.
const FINISHER: Registers = unsafe { Registers::new(FINISHER_PADDR) };
// SAFETY: as above.
const RTC: Registers = unsafe { Registers::new(RTC_PADDR) };
// SAFETY: as above.
const UART: Registers = unsafe { Registers::new(UART_PADDR) };

/// What a clock tick lasts: the `virt` machine counts at 10 MHz.
const NANOS_PER_TICK: u64 = 100;

/// A 16550 as OpenSBI left it; asks for an interrupt per received byte.
pub(crate) fn uart_listen() {
    UART.write8(2, 0x07); // FIFO on, both directions emptied, threshold of one byte
    UART.write8(1, 0x01); // received-data interrupt
}

pub(crate) fn uart_write(byte: u8) {
    while UART.read8(5) & 0x20 == 0 {
        core::hint::spin_loop();
    }
    UART.write8(0, byte);
}

pub(crate) fn uart_read() -> Option<u8> {
    (UART.read8(5) & 0x01 != 0).then(|| UART.read8(0))
}

pub(crate) fn init_early() {
    overflow::init();
}

pub(crate) fn init_later() {
    interrupts::init();
}

pub(crate) fn ticks() -> u64 {
    time::read() as u64
}

pub(crate) fn ticks_to_nanos(ticks: u64) -> u64 {
    ticks.wrapping_mul(NANOS_PER_TICK)
}

pub(crate) fn nanos_to_ticks(nanos: u64) -> u64 {
    nanos / NANOS_PER_TICK
}

/// Asks for one timer interrupt at `deadline_ns` of the monotonic clock; `u64::MAX` for none.
pub(crate) fn set_timer(deadline_ns: u64) {
    let ticks = if deadline_ns == u64::MAX {
        u64::MAX
    } else {
        nanos_to_ticks(deadline_ns)
    };
    // An SBI that cannot set timers would not have started this machine; there is nothing to do about it here.
    let _ = sbi_rt::set_timer(ticks);
}

pub(crate) const TIMER_IRQ: usize = interrupts::SUPERVISOR_TIMER;

/// Nanoseconds since 1970 from the Goldfish clock.
pub(crate) fn rtc_unix_ns() -> u64 {
    // Reading the low word latches the high one.
    let low = RTC.read32(0x00);
    let high = RTC.read32(0x04);
    u64::from(high) << 32 | u64::from(low)
}

/// Ends the machine; QEMU's exit status is `status`.
pub(crate) fn power_off(status: u8) -> ! {
    const PASS: u32 = 0x5555;
    const FAIL: u32 = 0x3333;
    let word = if status == 0 {
        PASS
    } else {
        u32::from(status) << 16 | FAIL
    };
    FINISHER.write32(0, word);
    // A machine without the finisher: the firmware can at least switch it off.
    let _ = sbi_rt::system_reset(sbi_rt::Shutdown, sbi_rt::SystemFailure);
    loop {
        axhal::asm::halt();
    }
}

/// No device of this machine needs more than the finisher to report a failure.
pub(crate) fn probe_failure_reporting() {}

/// The frame pointer, and where in a frame the caller's frame pointer and return address are.
pub(crate) fn frame_pointer() -> usize {
    let fp;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mv {}, fp", out(reg) fp, options(nomem, nostack)) };
    fp
}
/// Byte offsets, relative to the frame pointer, of (caller's frame pointer, return address).
pub(crate) const FRAME_LAYOUT: (isize, isize) = (-16, -8);
