//! Seeds: every random test prints its own, and `SILTSTONE_SEED` replays it.

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
