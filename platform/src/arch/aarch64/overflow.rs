//! A stack that is too deep ends the machine with a message.
//!
//! It runs into a page that is not mapped, and the exception handler of ArceOS would push its registers right
//! there, and cause the same exception again, for ever. So the vectors are these, of which the one for such
//! exceptions looks at the stack pointer first.

use aarch64_cpu::registers::{VBAR_EL1, Writeable};

use crate::power;

const EMERGENCY_STACK_BYTES: usize = 16 * 1024;

#[repr(C, align(16))]
struct Stack([u8; EMERGENCY_STACK_BYTES]);

static mut EMERGENCY_STACK: Stack = Stack([0; EMERGENCY_STACK_BYTES]);

/// Puts the vectors in place; ArceOS's have been before.
pub(super) fn init() {
    VBAR_EL1.set(vectors as *const () as u64);
}

/// Sixteen entries of 128 bytes. The stack begins at a multiple of twice its size, so one bit of the stack
/// pointer (less the room a handler needs) tells whether it is inside.
#[unsafe(naked)]
#[unsafe(link_section = ".text.trap")]
unsafe extern "C" fn vectors() -> ! {
    core::arch::naked_asm!("
        .balign 2048
    .set entry, 0
    .rept 16
        .balign 128
        .if entry == 4                  // synchronous, on the stack in use
        msr     tpidrro_el0, x0         // nobody else uses it
        sub     x0, sp, #{room}
        tbnz    x0, #{bit}, 1f
        mrs     x0, tpidrro_el0
        .endif
        b       exception_vector_base + entry * 128
    .set entry, entry + 1
    .endr
    1:
        mov     x0, x29
        mrs     x1, elr_el1
        adrp    x2, {stack}
        add     x2, x2, :lo12:{stack}
        mov     x3, {stack_bytes}
        add     sp, x2, x3
        b       {overflowed}
        ",
        room = const ROOM_BYTES,
        bit = const super::boot::BOOT_STACK_BYTES.ilog2(),
        stack = sym EMERGENCY_STACK,
        stack_bytes = const EMERGENCY_STACK_BYTES,
        overflowed = sym power::stack_overflowed,
    )
}

/// Less than this below the stack pointer, and an exception is not handled as usual.
const ROOM_BYTES: usize = 1024;
