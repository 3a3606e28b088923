//! Supervisor interrupts and the PLIC, as ArceOS's interrupt interface.
#![expect(
    clippy::used_underscore_binding,
    reason = "the interface's macro passes them on"
)]

use core::num::NonZeroU32;
use core::ptr::NonNull;

use axplat::impl_plat_interface;
use axplat::irq::{HandlerTable, IpiTarget, IrqHandler, IrqIf};
use riscv::register::sie;
use riscv_plic::{PLICRegs, Plic};
use spin::Mutex;

use super::PHYS_VIRT_OFFSET;
use crate::interrupt;

pub(super) const PLIC_PADDR: usize = 0x0c00_0000;
/// Priorities and enables of all sources, and the contexts of the first hart.
pub(super) const PLIC_SIZE: usize = 0x21_0000;

/// `scause` of an interrupt: the top bit and the cause.
const INTERRUPT: usize = 1 << 63;
pub(super) const SUPERVISOR_TIMER: usize = INTERRUPT | 5;
const SUPERVISOR_EXTERNAL: usize = INTERRUPT | 9;

/// Sources of the `virt` machine's PLIC.
const LINES: usize = 96;
/// Supervisor context of hart 0, the one hart this system uses.
const CONTEXT: usize = 1;

static HANDLERS: HandlerTable<LINES> = HandlerTable::new();

static CONTROLLER: Mutex<Plic> = Mutex::new({
    let Some(base) = NonNull::new((PLIC_PADDR + PHYS_VIRT_OFFSET) as *mut PLICRegs) else {
        panic!("the linear mapping does not reach address zero");
    };
    // SAFETY: every `virt` machine has its PLIC there, mapped for as long as the system runs, and nobody
    // else touches it.
    unsafe { Plic::new(base) }
});

pub(super) fn init() {
    CONTROLLER.lock().init_by_context(CONTEXT);
    // SAFETY: the trap vector is set (`init_early`), and every cause enabled has a handler here.
    unsafe { sie::set_stimer() };
    // SAFETY: as above.
    unsafe { sie::set_sext() };
}

/// Interrupts off until dropped, if they were on.
struct Masked {
    restore: bool,
}

impl Masked {
    fn enter() -> Self {
        let restore = axhal::asm::irqs_enabled();
        axhal::asm::disable_irqs();
        Self { restore }
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        if self.restore {
            axhal::asm::enable_irqs();
        }
    }
}

struct Interrupts;

#[impl_plat_interface]
impl IrqIf for Interrupts {
    fn set_enable(irq: usize, enabled: bool) {
        let Some(line) = u32::try_from(irq).ok().and_then(NonZeroU32::new) else {
            return;
        };
        // The handler below takes the same lock.
        let _masked = Masked::enter();
        let mut controller = CONTROLLER.lock();
        if enabled {
            controller.set_priority(line, 1);
            controller.enable(line, CONTEXT);
        } else {
            controller.disable(line, CONTEXT);
        }
    }

    fn register(irq: usize, handler: IrqHandler) -> bool {
        if irq == SUPERVISOR_TIMER {
            // ArceOS's runtime brings a periodic tick for its scheduler, which is not linked here.
            return true;
        }
        let registered = HANDLERS.register_handler(irq, handler);
        if registered {
            Self::set_enable(irq, true);
        }
        registered
    }

    fn unregister(irq: usize) -> Option<IrqHandler> {
        Self::set_enable(irq, false);
        HANDLERS.unregister_handler(irq)
    }

    fn handle(cause: usize) -> Option<usize> {
        match cause {
            SUPERVISOR_TIMER => {
                interrupt::timer_fired();
                Some(cause)
            }
            SUPERVISOR_EXTERNAL => {
                // Interrupts are off here, and whoever holds this lock has them off: it is free.
                let mut controller = CONTROLLER.lock();
                let line = controller.claim(CONTEXT)?;
                let irq = line.get() as usize;
                HANDLERS.handle(irq);
                controller.complete(CONTEXT, line);
                Some(irq)
            }
            _ => None,
        }
    }

    fn send_ipi(_irq: usize, _target: IpiTarget) {
        // One processor: nobody to send to.
    }
}
