//! From the arm64 boot protocol to ArceOS's runtime: EL1, a stack, a coarse page table, high addresses.

use super::PHYS_VIRT_OFFSET;

/// A power of two; `platform/linker.lds` begins the stack at a multiple of twice that.
pub(super) const BOOT_STACK_BYTES: usize = 256 * 1024;

#[repr(C, align(4096))]
struct PageTable([u64; 512]);

#[repr(C, align(4096))]
struct Stack([u8; BOOT_STACK_BYTES]);

#[unsafe(link_section = ".bss.stack")]
static mut BOOT_STACK: Stack = Stack([0; BOOT_STACK_BYTES]);

/// Points at [`BOOT_L1`]; its physical address is not known to the compiler, so `_start` stores it.
#[unsafe(link_section = ".data.boot_page_table")]
static mut BOOT_L0: PageTable = PageTable([0; 512]);

/// One entry per GiB: device registers, then the first 4 GiB of RAM. Both halves of the address space use
/// it until `memory::protect` installs one that knows which page is what.
#[unsafe(link_section = ".data.boot_page_table")]
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
static BOOT_L1: PageTable = PageTable({
    const BLOCK: u64 = 0b01;
    const ACCESSED: u64 = 1 << 10;
    const NEVER_EXECUTE: u64 = 0b11 << 53;
    /// Attribute 1 (normal, write-back), inner shareable.
    const NORMAL: u64 = 1 << 2 | 0b11 << 8;
    let mut entries = [0; 512];
    entries[0] = BLOCK | ACCESSED | NEVER_EXECUTE;
    let mut gib = 1;
    while gib <= 4 {
        entries[gib] = (gib as u64) << 30 | BLOCK | ACCESSED | NORMAL;
        gib += 1;
    }
    entries
});

/// The boot protocol's header and the first instruction.
/// <https://docs.kernel.org/arch/arm64/booting.html>
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.boot")]
unsafe extern "C" fn _start() -> ! {
    /// 4 KiB pages, anywhere in memory.
    const FLAGS: usize = 0b1010;
    core::arch::naked_asm!("
        nop
        b       {entry}
        .quad   0                       // offset from a 2 MiB boundary
        .quad   _ekernel - _start       // memory the image takes, zeroed data and stack included
        .quad   {flags}
        .quad   0
        .quad   0
        .quad   0
        .ascii  \"ARM\\x64\"
        .long   0
        ",
        flags = const FLAGS,
        entry = sym start,
    )
}

/// Paging off, device tree in `x0`.
#[unsafe(naked)]
unsafe extern "C" fn start() -> ! {
    core::arch::naked_asm!("
        mov     x19, x0
        adrp    x8, {stack}
        mov     x9, {stack_bytes}
        add     x8, x8, x9
        mov     sp, x8
        bl      {switch_to_el1}

        adrp    x0, {l0}
        adrp    x1, {l1}
        orr     x1, x1, #3              // a table, valid
        str     x1, [x0]
        bl      {init_mmu}

        mov     x8, {offset}
        add     sp, sp, x8
        mov     x0, xzr                 // processor 0
        mov     x1, x19
        mov     x29, xzr                // ends the chain of frames
        mov     x30, xzr
        ldr     x8, ={entry}
        br      x8
        ",
        stack = sym BOOT_STACK,
        stack_bytes = const BOOT_STACK_BYTES,
        l0 = sym BOOT_L0,
        l1 = sym BOOT_L1,
        offset = const PHYS_VIRT_OFFSET,
        switch_to_el1 = sym axcpu::init::switch_to_el1,
        init_mmu = sym axcpu::init::init_mmu,
        entry = sym axplat::call_main,
    )
}
