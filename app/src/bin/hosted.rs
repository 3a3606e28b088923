//! The server as a Linux process.
fn main() {}
