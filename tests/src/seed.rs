//! Seeds: every random test prints its own, and `SILTSTONE_SEED` replays it. And seed corpora.

use std::fs;
use std::path::{Path, PathBuf};

use fastrand::Rng;

/// The variable that replays a seed.
pub const VARIABLE: &str = "SILTSTONE_SEED";

/// A generator for one test, from [`VARIABLE`] or fresh; prints how to replay it.
pub fn rng() -> Rng {
    let seed = match std::env::var(VARIABLE) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{VARIABLE}={text} is not a number")),
        Err(_) => fastrand::u64(..),
    };
    println!("random choices of this test: replay with {VARIABLE}={seed}");
    Rng::with_seed(seed)
}

/// The inputs in a directory, in a fixed order.
pub fn corpus(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("no corpus at {}: {error}", directory.display()));
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("a directory entry").path();
            let input = fs::read(&path).expect("a readable input");
            (path, input)
        })
        .collect();
    assert!(
        !inputs.is_empty(),
        "the corpus at {} is empty",
        directory.display()
    );
    inputs.sort();
    inputs
}
