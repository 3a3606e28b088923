//! From OpenSBI to ArceOS's runtime: a stack, a coarse page table, the jump to high addresses.

use super::PHYS_VIRT_OFFSET;

const BOOT_STACK_BYTES: usize = 256 * 1024;

#[repr(C, align(4096))]
struct PageTable([u64; 512]);

#[repr(C, align(4096))]
struct Stack([u8; BOOT_STACK_BYTES]);

#[unsafe(link_section = ".bss.stack")]
static mut BOOT_STACK: Stack = Stack([0; BOOT_STACK_BYTES]);

/// One entry per GiB: device registers and the first 4 GiB of RAM, at their physical addresses (until the
/// jump) and in the linear mapping. `memory::protect` replaces it with one that knows which page is what.
#[unsafe(link_section = ".data.boot_page_table")]
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
static BOOT_PAGE_TABLE: PageTable = PageTable({
    /// Valid, readable, writable, executable, global, accessed, dirty.
    const LEAF: u64 = 0b1110_1111;
    let mut entries = [0; 512];
    let gibs = [0, 2, 3, 4, 5];
    let mut i = 0;
    while i < gibs.len() {
        let gib = gibs[i];
        let entry = (gib as u64) << (30 - 12 + 10) | LEAF;
        entries[gib] = entry;
        entries[256 + gib] = entry;
        i += 1;
    }
    entries
});

/// OpenSBI starts here with the hart's number in `a0` and the device tree in `a1`, paging off.
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.boot")]
unsafe extern "C" fn _start() -> ! {
    core::arch::naked_asm!("
        la      sp, {stack}
        li      t0, {stack_bytes}
        add     sp, sp, t0

        la      t0, {page_table}        // Sv39
        srli    t0, t0, 12
        li      t1, 8
        slli    t1, t1, 60
        or      t0, t0, t1
        sfence.vma
        csrw    satp, t0
        sfence.vma

        li      t0, 1 << 13             // sstatus.FS = Initial: the compiler may use floating point
        csrs    sstatus, t0

        li      t0, {offset}
        add     sp, sp, t0
        la      t1, {entry}
        add     t1, t1, t0
        mv      s0, zero                // ends the chain of frames
        mv      ra, zero
        jr      t1                      // (hart, device tree)
        ",
        stack = sym BOOT_STACK,
        stack_bytes = const BOOT_STACK_BYTES,
        page_table = sym BOOT_PAGE_TABLE,
        offset = const PHYS_VIRT_OFFSET,
        entry = sym axplat::call_main,
    )
}
