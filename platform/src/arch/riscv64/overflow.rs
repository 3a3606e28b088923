//! A stack that is too deep ends the machine with a message.
//!
//! It runs into a page that is not mapped, and the trap handler of ArceOS would push its registers right
//! there, and trap again, for ever. So the trap vector is this one, which looks at the stack pointer first.

use riscv::register::stvec;

use crate::power;

const EMERGENCY_STACK_BYTES: usize = 16 * 1024;

#[repr(C, align(16))]
struct Stack([u8; EMERGENCY_STACK_BYTES]);

static mut EMERGENCY_STACK: Stack = Stack([0; EMERGENCY_STACK_BYTES]);

/// Puts the vector in place; ArceOS's has been before.
pub(super) fn init() {
    let vector = vector as *const () as usize;
    // SAFETY: `vector` handles what it knows and leaves the rest to ArceOS, whose conditions it keeps.
    unsafe { stvec::write(stvec::Stvec::new(vector, stvec::TrapMode::Direct)) };
}

/// Less than this below the stack pointer, and a trap is not handled as usual.
const ROOM_BYTES: usize = 1024;

#[unsafe(naked)]
#[unsafe(link_section = ".text.trap")]
unsafe extern "C" fn vector() -> ! {
    core::arch::naked_asm!("
        .balign 4
        csrw    sscratch, t0
        la      t0, boot_stack
        addi    t0, t0, {room}
        bltu    sp, t0, 1f
        csrrw   t0, sscratch, zero      // as ArceOS expects it
        j       trap_vector_base        // not `tail`, which needs a register
    1:
        mv      a0, s0
        csrr    a1, sepc
        la      sp, {stack}
        li      t0, {stack_bytes}
        add     sp, sp, t0
        call    {overflowed}
        ",
        room = const ROOM_BYTES,
        stack = sym EMERGENCY_STACK,
        stack_bytes = const EMERGENCY_STACK_BYTES,
        overflowed = sym power::stack_overflowed,
    )
}
