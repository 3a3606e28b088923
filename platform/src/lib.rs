//! ArceOS and virtio under Siltstone: the only crate that knows hardware, and nearly all `unsafe` of the
//! project.
//!
//! | module | what |
//! |---|---|
//! | [`executor`] | tasks, polled on one core; `wfi` when there is nothing to do |
//! | [`disk`] | virtio-blk as an [`lfs::BlockDevice`]: many requests in flight, FLUSH, DISCARD |
//! | [`net`] | virtio-net and smoltcp: a TCP listener and its streams |
//! | [`entropy`] | virtio-rng, the only source of randomness |
//! | [`boot_file`] | the file that came with the boot: a key |
//! | [`clock`] | [`lfs::Clock`]: monotonic time, wall clock, timers |
//! | [`console`] | lines to the operator, and the operator's Ctrl-C |
//! | [`power`] | off, with a status |
//! | [`memory`] | the heap: all memory the machine has |
//!
//! Below them: `arch` (the two machines as an ArceOS platform), `machine` (what the device tree says),
//! `interrupt`, `virtio` (transports and DMA), `arceos` (the platform traits), `mem` (comparing bytes fast).
//!
//! Interrupt handlers acknowledge the device and set a bit; everything else, wakers included, happens on
//! the one core outside interrupts. So nothing here needs a lock that interrupts must respect.
//!
//! On a host (`target_os` other than `none`) the crate is empty.
//!
//! See `DESIGN.md` for the reasons, the inventory of `unsafe` and the measured figures.
#![no_std]
#![cfg(target_os = "none")]

extern crate alloc;
// The runtime: its symbols call ours and are called from `_start`.
extern crate axstd as _;

mod arceos;
mod arch;
mod interrupt;
mod machine;
mod mem;
mod mmio;
mod signals;
mod virtio;

/// Those of [`signals`].
mod atomics {
    pub(crate) use core::sync::atomic::{AtomicU32, Ordering};
}

pub mod boot_file;
pub mod clock;
pub mod console;
pub mod disk;
pub mod entropy;
pub mod executor;
pub mod memory;
pub mod net;
pub mod power;

pub use arch::NAME as ARCH;
pub use machine::arguments;

/// Names the function that ArceOS starts once the machine is up: `fn() -> F`, where `F` is the system's
/// first task. The function runs with the heap in place and interrupts on.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn main() -> ! {
            $crate::start($main)
        }
    };
}

/// Finishes bringing up the machine and runs `main`'s future. Use [`entry!`].
pub fn start<F: Future<Output = ()> + 'static>(main: fn() -> F) -> ! {
    memory::init();
    arch::probe_failure_reporting();
    console::init();
    executor::run(main)
}
