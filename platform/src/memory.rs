//! The heap, which is all memory the machine has, and the page table that protects the rest.
//!
//! ArceOS would do both with its `alloc` and `paging` features. Its allocator ends in `handle_alloc_error`
//! when memory is short, so no `try_reserve` could ever return an error; and its page table takes the memory
//! from a constant. So here the same allocator crate (`rlsf`, TLSF: constant time, few fragments) and the
//! same page-table crate are used directly.

use core::alloc::{GlobalAlloc, Layout};
use core::ops::Range;
use core::ptr::{self, NonNull};

use axplat::mem::{PhysAddr, VirtAddr, pa, phys_to_virt, va, virt_to_phys};
use page_table_multiarch::{MappingFlags, PagingHandler, PagingResult};
use rlsf::Tlsf;
use spin::Mutex;

use crate::{arch, machine};

const PAGE_BYTES: usize = 4096;

/// Blocks up to 2^34 bytes, in classes 1/32 apart.
type Allocator = Tlsf<'static, u32, u32, 30, 32>;

/// The last of the memory is for small pieces: a caller that can be told "no" asks for large ones, and a node
/// of a tree or a waker's box, whose owner cannot, still finds room then.
const SMALL_BYTES: usize = 1024;
const RESERVE_SHARE: usize = 64;

struct State {
    allocator: Allocator,
    total_bytes: usize,
    used_bytes: usize,
}

impl State {
    /// Whether `more_bytes` may be taken in one piece.
    fn allows(&self, more_bytes: usize) -> bool {
        let free_bytes = self.total_bytes.saturating_sub(self.used_bytes);
        more_bytes <= SMALL_BYTES
            || more_bytes.saturating_add(self.total_bytes / RESERVE_SHARE) <= free_bytes
    }
}

struct Heap(Mutex<State>);

#[global_allocator]
static HEAP: Heap = Heap(Mutex::new(State {
    allocator: Allocator::new(),
    total_bytes: 0,
    used_bytes: 0,
}));

// SAFETY: the allocator underneath hands out blocks of the requested layout from memory that nothing else
// uses (`init`), each to one owner at a time. Interrupt handlers do not allocate, so the lock is always free.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut state = self.0.lock();
        if !state.allows(layout.size()) {
            return ptr::null_mut();
        }
        let Some(block) = state.allocator.allocate(layout) else {
            return ptr::null_mut();
        };
        state.used_bytes += layout.size();
        block.as_ptr()
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(block) = NonNull::new(block) else {
            return;
        };
        let mut state = self.0.lock();
        state.used_bytes -= layout.size();
        // SAFETY: the caller got `block` from `alloc` or `realloc` with this layout.
        unsafe { state.allocator.deallocate(block, layout.align()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Some(block) = NonNull::new(block) else {
            return ptr::null_mut();
        };
        let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else {
            return ptr::null_mut();
        };
        let mut state = self.0.lock();
        if new_size > layout.size() && !state.allows(new_size - layout.size()) {
            return ptr::null_mut();
        }
        // SAFETY: the caller got `block` from `alloc` or `realloc` with this alignment.
        let Some(moved) = (unsafe { state.allocator.reallocate(block, new_layout) }) else {
            return ptr::null_mut();
        };
        state.used_bytes += new_size;
        state.used_bytes -= layout.size();
        moved.as_ptr()
    }
}

/// How much memory there is for the heap, and how much of it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes the allocator was given.
    pub total_bytes: usize,
    /// Bytes allocated, as their owners asked for them.
    pub used_bytes: usize,
}

/// The state of the heap.
pub fn usage() -> Usage {
    let state = HEAP.0.lock();
    Usage {
        total_bytes: state.total_bytes,
        used_bytes: state.used_bytes,
    }
}

/// Bytes of memory the machine has, the image's own included.
pub fn machine_bytes() -> usize {
    machine::ram().iter().map(|&(_, size)| size).sum()
}

/// Gives all free memory to the heap, then switches to a page table that knows what is code, what is data
/// and what is neither. Called once, before the first allocation.
pub(crate) fn init() {
    let free = |paddr: Range<usize>| {
        let vaddr = phys_to_virt(pa!(paddr.start)).as_mut_ptr();
        let block = NonNull::slice_from_raw_parts(NonNull::new(vaddr)?, paddr.len());
        let mut state = HEAP.0.lock();
        // SAFETY: memory that the device tree lists, that is not part of the image or its firmware, and that
        // is mapped in the linear mapping for ever; `free_ranges` yields each byte once.
        let taken = unsafe { state.allocator.insert_free_block_ptr(block) };
        state.total_bytes += taken.map_or(0, core::num::NonZeroUsize::get);
        Some(())
    };
    // The page table comes out of memory that the first one already maps.
    free_ranges(|range| range.end <= BOOT_MAPPED_END, free);
    if let Err(error) = protect() {
        panic!("cannot build the page table: {error:?}");
    }
    free_ranges(|range| range.end > BOOT_MAPPED_END, free);
}

/// What the page table of `arch::boot` maps of the memory, on both machines.
const BOOT_MAPPED_END: usize = symbol_free_ram_base() + (4 << 30);

/// Where RAM starts on the machine.
const fn symbol_free_ram_base() -> usize {
    if cfg!(target_arch = "riscv64") {
        0x8000_0000
    } else {
        0x4000_0000
    }
}

/// Calls `take` with the parts of memory that are free and that `which` wants.
fn free_ranges(which: impl Fn(&Range<usize>) -> bool, take: impl Fn(Range<usize>) -> Option<()>) {
    let image = image();
    for &(start, size) in machine::ram() {
        let end = (start + size) & !(PAGE_BYTES - 1);
        // Below the image is the firmware (riscv64) or QEMU's first instructions and a gap (aarch64).
        let start = if image.start >= start && image.start < end {
            image.end
        } else {
            start
        };
        // The file that came with the boot stays where it is.
        let file = machine::boot_file().unwrap_or(end..end);
        let file_start = (file.start & !(PAGE_BYTES - 1)).clamp(start, end);
        let file_end = file.end.next_multiple_of(PAGE_BYTES).clamp(start, end);
        for part in [start..file_start, file_end..end] {
            for range in [
                part.start..part.end.min(BOOT_MAPPED_END),
                part.start.max(BOOT_MAPPED_END)..part.end,
            ] {
                if range.len() > PAGE_BYTES && which(&range) {
                    take(range);
                }
            }
        }
    }
}

unsafe extern "C" {
    static _skernel: u8;
    static _stext: u8;
    static _etext: u8;
    static _srodata: u8;
    static _erodata: u8;
    static _sdata: u8;
    static _edata: u8;
    static boot_stack: u8;
    static _ekernel: u8;
}

/// Where the image lies in physical memory.
fn image() -> Range<usize> {
    physical(&raw const _skernel)..physical(&raw const _ekernel)
}

fn physical(symbol: *const u8) -> usize {
    virt_to_phys(va!(symbol.addr())).as_usize()
}

struct Frames;

impl PagingHandler for Frames {
    fn alloc_frames(num: usize, align: usize) -> Option<PhysAddr> {
        let layout = Layout::from_size_align(num * PAGE_BYTES, align).ok()?;
        // SAFETY: the size is not zero: nobody asks for no frames.
        let block = unsafe { HEAP.alloc(layout) };
        (!block.is_null()).then(|| virt_to_phys(va!(block.addr())))
    }

    fn dealloc_frames(paddr: PhysAddr, num: usize) {
        if let Ok(layout) = Layout::from_size_align(num * PAGE_BYTES, PAGE_BYTES) {
            // SAFETY: `alloc_frames` returned these frames; an alignment above a page is not asked for.
            unsafe { HEAP.dealloc(Self::phys_to_virt(paddr).as_mut_ptr(), layout) }
        }
    }

    fn phys_to_virt(paddr: PhysAddr) -> VirtAddr {
        phys_to_virt(paddr)
    }
}

/// Builds the final page table and switches to it: code can be executed but not written, constants only
/// read, nothing else executed; no page below the stack, none at address zero.
fn protect() -> PagingResult {
    let mut table = arch::PageTable::<Frames>::try_new()?;
    let mut map = |paddr: Range<usize>, flags: MappingFlags| {
        table.cursor().map_region(
            phys_to_virt(pa!(paddr.start)),
            virt_to_phys,
            paddr.len(),
            flags,
            true,
        )
    };
    let (read, write) = (MappingFlags::READ, MappingFlags::READ | MappingFlags::WRITE);

    map(
        physical(&raw const _stext)..physical(&raw const _etext),
        read | MappingFlags::EXECUTE,
    )?;
    map(
        physical(&raw const _srodata)..physical(&raw const _erodata),
        read,
    )?;
    map(
        physical(&raw const _sdata)..physical(&raw const _edata),
        write,
    )?;
    map(
        physical(&raw const boot_stack)..physical(&raw const _ekernel),
        write,
    )?;

    let image = image();
    for &(start, size) in machine::ram() {
        let end = (start + size) & !(PAGE_BYTES - 1);
        let start = if image.start >= start && image.start < end {
            image.end
        } else {
            start
        };
        map(start..end, write)?;
    }

    let device = write | MappingFlags::DEVICE;
    for (start, size) in arch::MMIO_RANGES {
        map(start..start + size, device)?;
    }
    // Transports may share a page, and follow each other.
    let mut mapped_end = 0;
    let mut transports = [0; 64];
    let mut count = 0;
    for (slot, transport) in transports.iter_mut().zip(machine::transports()) {
        *slot = transport.paddr & !(PAGE_BYTES - 1);
        count += 1;
    }
    let pages = transports.get_mut(..count).unwrap_or_default();
    pages.sort_unstable();
    for &mut page in pages {
        if page >= mapped_end {
            mapped_end = page + PAGE_BYTES;
            map(page..mapped_end, device)?;
        }
    }

    let root = table.root_paddr();
    core::mem::forget(table); // in use until power-off
    // SAFETY: the table maps the code that runs, its stack and data at the addresses they have now.
    unsafe { axhal::asm::write_kernel_page_table(root) };
    axhal::asm::flush_tlb(None);
    Ok(())
}
