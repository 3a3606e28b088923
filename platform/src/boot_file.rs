//! The file that came with the boot: what a boot loader calls the initial RAM disk (`linux,initrd-start` and `-end` in
//! the device tree's `/chosen`; QEMU's `-initrd`). It stays where the loader has put it, outside of the heap.

use core::ops::Deref;
use core::sync::atomic::{AtomicBool, Ordering};

use axplat::mem::{pa, phys_to_virt};
use zeroize::Zeroize as _;

use crate::machine;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// The content of the file. Wiped when it is dropped: it may be a key.
pub struct BootFile(&'static mut [u8]);

/// The file, if one came with the boot; once.
pub fn take() -> Option<BootFile> {
    let range = machine::boot_file()?;
    if TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    let start = phys_to_virt(pa!(range.start)).as_mut_ptr();
    // SAFETY: `machine` found the range within memory, `memory` keeps it out of the heap and maps it, and `TAKEN` makes
    // this the only reference to it ever.
    let content = unsafe { core::slice::from_raw_parts_mut(start, range.len()) };
    Some(BootFile(content))
}

impl Deref for BootFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl Drop for BootFile {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl core::fmt::Debug for BootFile {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "BootFile({} bytes)", self.0.len())
    }
}
