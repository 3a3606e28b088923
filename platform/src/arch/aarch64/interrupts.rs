//! The `GICv2`, as ArceOS's interrupt interface.
#![expect(
    clippy::used_underscore_binding,
    reason = "the interface's macro passes them on"
)]

use aarch64_cpu::registers::{CNTP_CTL_EL0, Writeable};
use axplat::impl_plat_interface;
use axplat::irq::{IpiTarget, IrqHandler, IrqIf};
use axplat::mem::{pa, phys_to_virt};
use axplat_aarch64_peripherals::gic;

use super::TIMER_IRQ;
use crate::interrupt;

pub(super) const GIC_PADDR: usize = 0x0800_0000;
pub(super) const GIC_SIZE: usize = 0x2_0000;
const DISTRIBUTOR_PADDR: usize = GIC_PADDR;
const CPU_INTERFACE_PADDR: usize = GIC_PADDR + 0x1_0000;

pub(super) fn init() {
    gic::init_gic(
        phys_to_virt(pa!(DISTRIBUTOR_PADDR)),
        phys_to_virt(pa!(CPU_INTERFACE_PADDR)),
    );
    gic::init_gicc();
    CNTP_CTL_EL0.write(CNTP_CTL_EL0::IMASK::SET);
    gic::register_handler(TIMER_IRQ, interrupt::timer_fired);
}

struct Interrupts;

#[impl_plat_interface]
impl IrqIf for Interrupts {
    fn set_enable(irq: usize, enabled: bool) {
        gic::set_enable(irq, enabled);
    }

    fn register(irq: usize, handler: IrqHandler) -> bool {
        // ArceOS's runtime brings a periodic tick for its scheduler, which is not linked here.
        irq == TIMER_IRQ || gic::register_handler(irq, handler)
    }

    fn unregister(irq: usize) -> Option<IrqHandler> {
        gic::unregister_handler(irq)
    }

    fn handle(irq: usize) -> Option<usize> {
        gic::handle_irq(irq)
    }

    fn send_ipi(_irq: usize, _target: IpiTarget) {
        // One processor: nobody to send to.
    }
}
