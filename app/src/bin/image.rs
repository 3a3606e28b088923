//! The bootable image.
fn main() {}
