//! The body of mirrors without libFuzzer: the committed corpus, and seeded scripts of damage.

use fuzz_bodies::mirror::{self, Ends, STEP_BYTES};
use tests::{root, seed};

const SCRIPTS: usize = 1000;

#[test]
fn undamaged_disks_are_a_mirror() {
    for kind in [1, 2] {
        let ends = mirror::run(&[kind]);
        let all = Ends {
            together: true,
            alone: [true, true],
        };
        assert_eq!(ends, all, "{kind}");
    }
}

#[test]
fn corpus() {
    for (path, input) in seed::corpus(&root().join("fuzz/corpus/mirror")) {
        println!("{}", path.display());
        let _ = mirror::run(&input);
    }
}

#[test]
fn damage_is_survived() {
    let mut rng = seed::rng();
    for kind in [1, 2] {
        let mut together = 0;
        for _ in 0..SCRIPTS {
            let mut script = vec![0; 1 + rng.usize(1..6) * STEP_BYTES];
            rng.fill(&mut script);
            script[0] = kind;
            for step in script[1..].chunks_exact_mut(STEP_BYTES) {
                // Mostly bytes, and often in the first blocks: sectors that move or vanish are found at once.
                if rng.u8(..) < 200 {
                    step[1] = 0;
                }
                if rng.bool() {
                    step[2..4].fill(0);
                }
            }
            together += usize::from(mirror::run(&script).together);
        }
        println!("kind {kind}: {together} of {SCRIPTS} mount together");
        assert!(together > SCRIPTS / 20 && together < SCRIPTS);
    }
}
