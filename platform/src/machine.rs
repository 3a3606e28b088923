//! What the device tree says about the machine: memory and virtio transports.
//!
//! Read once, before there is a heap, and copied: the tree itself lies in memory that becomes heap.
//! Whatever in it makes no sense is left out.

use core::ops::Range;

use axplat::mem::RawRange;
use spin::Once;

use crate::arch;

/// Transports that are considered; `virt` machines have 8 (riscv64) or 32 (aarch64).
const TRANSPORTS_MAX: usize = 32;
const RAM_RANGES_MAX: usize = 8;

/// A virtio transport in memory.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Transport {
    pub(crate) paddr: usize,
    pub(crate) size: usize,
    pub(crate) irq: usize,
}

/// A list that needs no heap.
#[derive(Debug)]
struct List<T, const N: usize> {
    items: [T; N],
    len: usize,
}

impl<T: Copy, const N: usize> List<T, N> {
    const fn new(empty: T) -> Self {
        Self {
            items: [empty; N],
            len: 0,
        }
    }

    /// Appends, or does nothing when full.
    fn push(&mut self, item: T) {
        if let Some(slot) = self.items.get_mut(self.len) {
            *slot = item;
            self.len += 1;
        }
    }

    fn as_slice(&self) -> &[T] {
        self.items.get(..self.len).unwrap_or_default()
    }
}

/// Longest argument line that is kept.
const ARGUMENT_BYTES_MAX: usize = 1024;

#[derive(Debug)]
struct Machine {
    ram: List<RawRange, RAM_RANGES_MAX>,
    transports: List<Transport, TRANSPORTS_MAX>,
    arguments: List<u8, ARGUMENT_BYTES_MAX>,
    boot_file: Option<Range<usize>>,
}

static MACHINE: Once<Machine> = Once::new();

/// Reads the device tree. Called once, before anything else here.
pub(crate) fn init() {
    MACHINE.call_once(|| {
        let mut machine = Machine {
            ram: List::new((0, 0)),
            transports: List::new(Transport::default()),
            arguments: List::new(0),
            boot_file: None,
        };
        let Some(tree) = axhal::dtb::get_fdt() else {
            return machine;
        };
        for byte in axhal::dtb::get_chosen_bootargs()
            .unwrap_or_default()
            .bytes()
        {
            machine.arguments.push(byte);
        }
        let mut boot_file = [None; 2];
        for node in tree.all_nodes() {
            if node.name() == "chosen" {
                let names = ["linux,initrd-start", "linux,initrd-end"];
                boot_file = names.map(|name| address_of(node.find_property(name)?.raw_value()));
            } else if node.name().starts_with("memory@") {
                for region in node.reg().into_iter().flatten() {
                    let size = region.size.unwrap_or(0);
                    if let Ok(start) = usize::try_from(region.address) {
                        machine.ram.push((start, size));
                    }
                }
            } else if node.name().starts_with("virtio_mmio@") {
                let Some(region) = node.reg().and_then(|mut regions| regions.next()) else {
                    continue;
                };
                let Some(mut cells) = node.interrupts().and_then(|mut all| all.next()) else {
                    continue;
                };
                let cells = [(); 3].map(|()| cells.next().unwrap_or(0));
                let Ok(paddr) = usize::try_from(region.address) else {
                    continue;
                };
                machine.transports.push(Transport {
                    paddr,
                    size: region.size.unwrap_or(0x200),
                    irq: arch::irq_of_cells(cells),
                });
            }
        }
        if let [Some(start), Some(end)] = boot_file {
            let within = |&&(ram, size): &&RawRange| ram <= start && end - ram <= size;
            // Whatever else it says is no place where a file can be.
            if start <= end && machine.ram.as_slice().iter().any(|ram| within(&ram)) {
                machine.boot_file = Some(start..end);
            }
        }
        machine
    });
}

/// The machine's memory, as (physical address, size); empty before [`init`].
pub(crate) fn ram() -> &'static [RawRange] {
    MACHINE.get().map_or(&[], |machine| machine.ram.as_slice())
}

/// An address in the device tree, of one cell or two.
fn address_of(cells: &[u8]) -> Option<usize> {
    let address = match cells.len() {
        4 => u64::from(u32::from_be_bytes(cells.try_into().ok()?)),
        8 => u64::from_be_bytes(cells.try_into().ok()?),
        _ => return None,
    };
    usize::try_from(address).ok()
}

/// Where the file is that came with the boot. Not part of the heap.
pub(crate) fn boot_file() -> Option<Range<usize>> {
    MACHINE.get()?.boot_file.clone()
}

/// The machine's virtio transports, in the order of the device tree.
pub(crate) fn transports() -> &'static [Transport] {
    MACHINE
        .get()
        .map_or(&[], |machine| machine.transports.as_slice())
}

/// The words the machine was started with: QEMU's `-append`. Empty when there are none, or when the line
/// is not text.
pub fn arguments() -> impl Iterator<Item = &'static str> {
    let line = MACHINE
        .get()
        .map_or(&[][..], |machine| machine.arguments.as_slice());
    core::str::from_utf8(line)
        .unwrap_or_default()
        .split_whitespace()
}
