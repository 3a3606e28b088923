//! The fsck body without libFuzzer: seeded scripts of damage, with and without checksums made right.
//!
//! Beyond the body's own invariants: damage of either kind is found more often than not.

use fuzz_bodies::fsck;
use lfs::sim::Damage;
use tests::{root, seed};

const SCRIPTS: usize = 1500;

#[test]
fn an_undamaged_disk_is_clean() {
    for kind in [1, 2, 3] {
        let summary = fsck::run(&[kind]);
        assert!(summary.is_clean() && summary.mounts, "{kind}: {summary:?}");
        assert!(summary.inodes > 50 && summary.snapshots > 1, "{summary:?}");
    }
}

#[test]
fn corpus() {
    for (path, input) in seed::corpus(&root().join("fuzz/corpus/fsck")) {
        println!("{}", path.display());
        let _ = fsck::run(&input);
    }
}

#[test]
fn damage_is_found_and_survived() {
    let mut rng = seed::rng();
    for kind in [1, 2, 3] {
        let (mut found, mut mounted) = (0, 0);
        for _ in 0..SCRIPTS {
            let steps = rng.usize(1..6);
            let mut script = vec![0; 1 + steps * Damage::BYTES];
            rng.fill(&mut script);
            script[0] = kind;
            for step in script[1..].chunks_exact_mut(Damage::BYTES) {
                // Mostly bytes: blocks that move or vanish are found at once.
                if rng.u8(..) < 200 {
                    step[0] = 0;
                }
            }
            let summary = fsck::run(&script);
            found += usize::from(!summary.is_clean());
            mounted += usize::from(summary.mounts);
        }
        println!("kind {kind}: {found} of {SCRIPTS} found, {mounted} mount");
        assert!(found > SCRIPTS / 20 && mounted > SCRIPTS / 20);
    }
}

#[test]
fn noise_is_no_file_system() {
    let mut rng = seed::rng();
    for _ in 0..100 {
        let mut noise = vec![0; rng.usize(1..100_000)];
        rng.fill(&mut noise);
        noise[0] = 0;
        assert!(!fsck::run(&noise).mounts);
    }
}
