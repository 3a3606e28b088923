//! The rest of ArceOS's platform interface; interrupts are in `arch`.
#![expect(
    clippy::used_underscore_binding,
    reason = "the interface's macro passes them on"
)]

use axplat::console::ConsoleIf;
use axplat::impl_plat_interface;
use axplat::init::InitIf;
use axplat::mem::{MemIf, PhysAddr, RawRange, VirtAddr, pa, va};
use axplat::power::PowerIf;
use axplat::time::TimeIf;

use crate::{arch, console, machine, power};

struct Init;

#[impl_plat_interface]
impl InitIf for Init {
    fn init_early(_cpu_id: usize, _device_tree: usize) {
        axcpu::init::init_trap();
        arch::init_early();
        machine::init();
    }

    fn init_later(_cpu_id: usize, _device_tree: usize) {
        arch::init_later();
    }
}

struct Console;

#[impl_plat_interface]
impl ConsoleIf for Console {
    fn write_bytes(bytes: &[u8]) {
        console::write_from_runtime(bytes);
    }

    fn read_bytes(_bytes: &mut [u8]) -> usize {
        0 // input is for `console::interrupt` alone
    }

    fn irq_num() -> Option<usize> {
        Some(arch::UART_IRQ)
    }
}

struct Memory;

#[impl_plat_interface]
impl MemIf for Memory {
    fn phys_ram_ranges() -> &'static [RawRange] {
        machine::ram()
    }

    fn reserved_phys_ram_ranges() -> &'static [RawRange] {
        &[]
    }

    fn mmio_ranges() -> &'static [RawRange] {
        &arch::MMIO_RANGES
    }

    fn phys_to_virt(paddr: PhysAddr) -> VirtAddr {
        va!(paddr.as_usize().wrapping_add(arch::PHYS_VIRT_OFFSET))
    }

    fn virt_to_phys(vaddr: VirtAddr) -> PhysAddr {
        pa!(vaddr.as_usize().wrapping_sub(arch::PHYS_VIRT_OFFSET))
    }

    fn kernel_aspace() -> (VirtAddr, usize) {
        let (start, size) = arch::KERNEL_ASPACE;
        (va!(start), size)
    }
}

struct Power;

#[impl_plat_interface]
impl PowerIf for Power {
    /// The runtime calls this at the end of its panic handler, and only there: `main` does not return.
    fn system_off() -> ! {
        power::off_after_panic()
    }

    fn cpu_num() -> usize {
        1
    }
}

struct Time;

#[impl_plat_interface]
impl TimeIf for Time {
    fn current_ticks() -> u64 {
        arch::ticks()
    }

    fn ticks_to_nanos(ticks: u64) -> u64 {
        arch::ticks_to_nanos(ticks)
    }

    fn nanos_to_ticks(nanos: u64) -> u64 {
        arch::nanos_to_ticks(nanos)
    }

    fn epochoffset_nanos() -> u64 {
        0 // `clock` keeps the wall time
    }

    fn irq_num() -> usize {
        arch::TIMER_IRQ
    }

    fn set_oneshot_timer(deadline_ns: u64) {
        arch::set_timer(deadline_ns);
    }
}
