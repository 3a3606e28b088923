//! Links the image with the platform's linker script, which `platform`'s build script puts on the search path.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo:rustc-link-arg-bin=image=-Tsiltstone.lds");
        println!("cargo:rustc-link-arg-bin=image=-no-pie");
    }
}
