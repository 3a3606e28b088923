//! Off, with a status that QEMU hands to whoever started it.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::{arch, console, println};

/// What QEMU returns after a panic.
const PANIC_STATUS: u8 = 101;
/// Frames a backtrace shows at most.
const FRAMES_MAX: usize = 32;

/// Switches the machine off. QEMU exits with `status` (on aarch64 with 1 for anything but 0).
///
/// Nothing is flushed here: whoever calls it has shut the store down.
pub fn off(status: u8) -> ! {
    axhal::asm::disable_irqs();
    arch::power_off(status)
}

/// The end of a panic: the message has been printed, the callers follow.
pub(crate) fn off_after_panic() -> ! {
    static AGAIN: AtomicBool = AtomicBool::new(false);
    axhal::asm::disable_irqs();
    if !AGAIN.swap(true, Ordering::Relaxed) {
        console::show_boot_log();
        backtrace(arch::frame_pointer());
    }
    arch::power_off(PANIC_STATUS)
}

/// Where `arch` ends up, on another stack, when the one in use is full: in code at `pc`, with frames from `fp`.
pub(crate) extern "C" fn stack_overflowed(fp: usize, pc: usize) -> ! {
    println!("stack overflow at {pc:#x}");
    backtrace(fp);
    arch::power_off(PANIC_STATUS)
}

/// Prints the return addresses on the stack, to be looked up in the image's symbols.
fn backtrace(mut fp: usize) {
    unsafe extern "C" {
        static boot_stack: u8;
        static boot_stack_top: u8;
        static _stext: u8;
        static _etext: u8;
    }
    let stack = (&raw const boot_stack).addr()..(&raw const boot_stack_top).addr();
    let text = (&raw const _stext).addr()..(&raw const _etext).addr();
    let (fp_offset, return_offset) = arch::FRAME_LAYOUT;

    println!("backtrace:");
    for number in 0..FRAMES_MAX {
        if !fp.is_multiple_of(align_of::<usize>()) {
            break;
        }
        let (Some(caller_at), Some(return_at)) = (
            fp.checked_add_signed(fp_offset),
            fp.checked_add_signed(return_offset),
        ) else {
            break;
        };
        let inside = |address: usize| {
            stack.contains(&address)
                && stack.contains(&address.wrapping_add(size_of::<usize>() - 1))
        };
        if !inside(caller_at) || !inside(return_at) {
            break;
        }
        // SAFETY: aligned, and inside the stack this code runs on.
        let return_address = unsafe { (return_at as *const usize).read() };
        // SAFETY: as above.
        let caller_fp = unsafe { (caller_at as *const usize).read() };
        if !text.contains(&return_address) {
            break;
        }
        println!("  {number:2} {return_address:#018x}");
        if caller_fp <= fp {
            break;
        }
        fp = caller_fp;
    }
}
