//! Virtio transports and the memory devices may touch.

use core::alloc::Layout;
use core::ptr::NonNull;

use axplat::mem::{va, virt_to_phys};
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, Transport as _};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

use crate::arch::PHYS_VIRT_OFFSET;
use crate::machine;
use crate::mmio::Registers;

/// A device's transport.
pub(crate) type Transport = MmioTransport<'static>;

const MAGIC: usize = 0x00;
const VERSION: usize = 0x04;
const DEVICE_ID: usize = 0x08;
const MAGIC_VALUE: u32 = 0x7472_6976;
/// Virtio 1.x. The other one, 1, is the legacy interface, with other rules for nearly everything.
const VERSION_MODERN: u32 = 2;

/// Opens a device of a kind, `number` of which come before it, with the place its interrupts come from.
///
/// Only the slot that holds such a device is wrapped: dropping a wrapped transport resets its device.
pub(crate) fn open(kind: DeviceType, number: usize) -> Option<(Transport, machine::Transport)> {
    let mut before = number;
    machine::transports().iter().find_map(|slot| {
        // SAFETY: the device tree calls this a virtio transport, and all of them are mapped.
        let registers = unsafe { Registers::new(slot.paddr) };
        if registers.read32(MAGIC) != MAGIC_VALUE
            || registers.read32(VERSION) != VERSION_MODERN
            || registers.read32(DEVICE_ID) != kind as u32
        {
            return None;
        }
        if before > 0 {
            before -= 1;
            return None;
        }
        let header = NonNull::new((slot.paddr + PHYS_VIRT_OFFSET) as *mut VirtIOHeader)?;
        // SAFETY: a virtio transport of that size, mapped for ever; each is opened once (callers open one
        // device per kind, once).
        let transport = unsafe { MmioTransport::new(header, slot.size) }.ok()?;
        (transport.device_type() == kind).then_some((transport, *slot))
    })
}

/// Memory for devices: the heap, which the linear mapping makes contiguous in physical memory too.
#[derive(Debug)]
pub(crate) struct DmaHal;

fn layout(pages: usize) -> Option<Layout> {
    Layout::from_size_align(pages.checked_mul(PAGE_SIZE)?, PAGE_SIZE).ok()
}

// SAFETY: `dma_alloc` returns pages of the heap, zeroed and owned by the caller alone; physical addresses are
// those of the linear mapping.
unsafe impl Hal for DmaHal {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let allocated = layout(pages)
            .filter(|layout| layout.size() > 0)
            .and_then(|layout| {
                // SAFETY: the size is not zero.
                NonNull::new(unsafe { alloc::alloc::alloc_zeroed(layout) })
            });
        // The physical address 0 says that there is no memory; the pointer is not used then.
        allocated.map_or((0, NonNull::dangling()), |pages| {
            (physical(pages.addr().get()), pages)
        })
    }

    unsafe fn dma_dealloc(_paddr: PhysAddr, vaddr: NonNull<u8>, pages: usize) -> i32 {
        if let Some(layout) = layout(pages) {
            // SAFETY: the caller got these pages from `dma_alloc`.
            unsafe { alloc::alloc::dealloc(vaddr.as_ptr(), layout) }
        }
        0
    }

    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, _size: usize) -> NonNull<u8> {
        // Asked only by the PCI transport, which is not used.
        let address = usize::try_from(paddr)
            .unwrap_or(0)
            .wrapping_add(PHYS_VIRT_OFFSET);
        NonNull::new(address as *mut u8).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        physical(buffer.cast::<u8>().addr().get())
    }

    unsafe fn unshare(_paddr: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {
        // Nothing was copied or mapped, and both machines keep caches coherent with devices.
    }
}

/// The physical address of something in the linear mapping: heap, static or stack.
fn physical(vaddr: usize) -> PhysAddr {
    virt_to_phys(va!(vaddr)).as_usize() as PhysAddr
}
