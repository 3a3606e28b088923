//! From an interrupt to a waker, in two steps.
//!
//! A handler, running with interrupts off in the middle of anything, acknowledges its device and sets that
//! device's bit. The executor, between polls, takes the bits and wakes whoever waits ([`deliver`]). No
//! handler touches a waker, the heap or a lock.

use core::cell::RefCell;
use core::future::poll_fn;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::{Poll, Waker};

use crate::atomics::AtomicU32;
use crate::mmio::Registers;
use crate::signals::Signals;
use crate::{arch, console, machine};

/// Virtio devices that can have an interrupt: disk, network, entropy, and one more.
const DEVICES_MAX: usize = 4;
const CONSOLE_BIT: u32 = 1 << DEVICES_MAX;
const TIMER_BIT: u32 = CONSOLE_BIT << 1;

static SIGNALS: Signals = Signals {
    fired: AtomicU32::new(0),
    configured: AtomicU32::new(0),
};

/// Physical addresses of the transports that [`Source`]s stand for; 0 when free.
static DEVICES: [AtomicUsize; DEVICES_MAX] = [const { AtomicUsize::new(0) }; DEVICES_MAX];

/// Register offsets of a virtio-mmio transport.
const INTERRUPT_STATUS: usize = 0x60;
const INTERRUPT_ACK: usize = 0x64;

/// In the interrupt status: the configuration changed (virtio 1.2, 4.2.2).
const STATUS_CONFIGURATION: u32 = 1 << 1;

fn device_fired<const N: usize>() {
    let Some(paddr) = DEVICES.get(N).map(|slot| slot.load(Ordering::Relaxed)) else {
        return;
    };
    if paddr == 0 {
        return;
    }
    // SAFETY: `Source::new` stored the address of a transport of this machine.
    let registers = unsafe { Registers::new(paddr) };
    let status = registers.read32(INTERRUPT_STATUS);
    registers.write32(INTERRUPT_ACK, status);
    if status & STATUS_CONFIGURATION != 0 {
        SIGNALS.note_configuration(1 << N);
    }
    SIGNALS.fire(1 << N);
}

const HANDLERS: [fn(); DEVICES_MAX] = [
    device_fired::<0>,
    device_fired::<1>,
    device_fired::<2>,
    device_fired::<3>,
];

fn console_fired() {
    console::drain_input();
    SIGNALS.fire(CONSOLE_BIT);
}

/// The handler of the timer interrupt; it stops the timer.
pub(crate) fn timer_fired() {
    arch::set_timer(u64::MAX);
    SIGNALS.fire(TIMER_BIT);
}

/// Lets the console's interrupt through.
pub(crate) fn listen_to_console() {
    axhal::irq::register(arch::UART_IRQ, console_fired);
}

/// Whether something fired that [`deliver`] has not seen.
pub(crate) fn pending() -> bool {
    SIGNALS.are_pending()
}

/// What fired, for the executor.
pub(crate) struct Fired {
    pub(crate) timer: bool,
    pub(crate) console: bool,
}

/// Takes the bits and wakes those who wait for a device.
pub(crate) fn deliver() -> Fired {
    let bits = SIGNALS.take_fired();
    if bits != 0 {
        WAITERS.with(|waiters| {
            for (number, waiter) in waiters.iter_mut().enumerate() {
                if bits & 1 << number != 0 {
                    waiter.fired = true;
                    if let Some(waker) = waiter.waker.take() {
                        waker.wake();
                    }
                }
            }
        });
    }
    Fired {
        timer: bits & TIMER_BIT != 0,
        console: bits & CONSOLE_BIT != 0,
    }
}

#[derive(Default)]
struct Waiter {
    fired: bool,
    waker: Option<Waker>,
}

static WAITERS: OneCore<[Waiter; DEVICES_MAX]> = OneCore::new(
    [const {
        Waiter {
            fired: false,
            waker: None,
        }
    }; DEVICES_MAX],
);

/// State that only code outside interrupt handlers uses, on the one core there is.
pub(crate) struct OneCore<T>(RefCell<T>);

// SAFETY: one core, no threads, and interrupt handlers never reach one of these (module documentation), so
// there is never a second party.
unsafe impl<T> Sync for OneCore<T> {}

impl<T> OneCore<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }

    /// # Panics
    /// When `f` comes back to the same value.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.0.borrow_mut())
    }
}

/// The interrupt of one virtio device.
pub(crate) struct Source {
    number: usize,
}

impl Source {
    /// Starts to receive the interrupts of `transport`. `None` when there are too many devices.
    pub(crate) fn new(transport: &machine::Transport) -> Option<Self> {
        for (number, (slot, handler)) in DEVICES.iter().zip(HANDLERS).enumerate() {
            if slot
                .compare_exchange(0, transport.paddr, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            {
                return axhal::irq::register(transport.irq, handler).then_some(Self { number });
            }
        }
        None
    }

    /// Whether the device has said since the last call that its configuration changed.
    pub(crate) fn take_configuration_change(&self) -> bool {
        SIGNALS.take_configuration(1 << self.number)
    }

    /// Completes when the device interrupted since the last call completed. For one task.
    pub(crate) fn wait(&self) -> impl Future<Output = ()> + '_ {
        poll_fn(|context| {
            WAITERS.with(|waiters| {
                let Some(waiter) = waiters.get_mut(self.number) else {
                    return Poll::Pending;
                };
                if core::mem::take(&mut waiter.fired) {
                    return Poll::Ready(());
                }
                if !waiter
                    .waker
                    .as_ref()
                    .is_some_and(|waker| waker.will_wake(context.waker()))
                {
                    waiter.waker = Some(context.waker().clone());
                }
                Poll::Pending
            })
        })
    }
}
