//! Hands the linker script of the image's architecture to whoever links against this crate.

use std::path::PathBuf;
use std::{env, fs};

fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-changed=linker.lds");
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return Ok(());
    }
    // Where QEMU's loaders (OpenSBI's `fw_jump`, the arm64 boot protocol) put the image, seen through the
    // linear mapping; `arch::PHYS_VIRT_OFFSET` is the difference.
    let (output_arch, base) = match env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("riscv64") => ("riscv", "0xffffffc080200000"),
        Ok("aarch64") => ("aarch64", "0xffff000040200000"),
        other => panic!("no platform for {other:?}"),
    };
    let script = fs::read_to_string("linker.lds")?
        .replace("%ARCH%", output_arch)
        .replace("%BASE%", base);
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("siltstone.lds"), script)?;
    println!("cargo:rustc-link-search={}", out.display());
    // `app` does the same for the image.
    println!("cargo:rustc-link-arg-examples=-Tsiltstone.lds");
    println!("cargo:rustc-link-arg-examples=-no-pie");
    Ok(())
}
