//! What unit tests share.

extern crate std;

use lfs::sim::{Random, seed_from};

/// A generator whose seed is printed, so that a failure can be replayed with `SILTSTONE_SEED`.
pub(crate) fn random(default: u64) -> Random {
    let seed = seed_from(std::env::var("SILTSTONE_SEED").ok().as_deref(), default);
    std::println!("SILTSTONE_SEED={seed}");
    Random::new(seed)
}

/// Up to `longest` letters of an alphabet of three: so few that keys collide, and are prefixes of others.
pub(crate) fn short_key(random: &mut Random, longest: usize) -> alloc::vec::Vec<u8> {
    (0..random.index(longest + 1))
        .map(|_| b"abc"[random.index(3)])
        .collect()
}
