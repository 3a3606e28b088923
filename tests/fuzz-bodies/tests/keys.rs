//! The body of key slots without libFuzzer: the committed corpus, and seeded scripts.

use fuzz_bodies::keys;
use tests::{root, seed};

const SCRIPTS: usize = 1500;

#[test]
fn untouched_slots_open() {
    assert!(keys::run(&[]));
}

#[test]
fn corpus() {
    for (path, input) in seed::corpus(&root().join("fuzz/corpus/keys")) {
        println!("{}", path.display());
        let _ = keys::run(&input);
    }
}

#[test]
fn slots_that_were_tampered_with() {
    let mut rng = seed::rng();
    let mut opened = 0;
    for _ in 0..SCRIPTS {
        let mut script = vec![0; 3 * rng.usize(1..5)];
        rng.fill(&mut script);
        opened += usize::from(keys::run(&script));
    }
    println!("{opened} of {SCRIPTS} opened");
    // One copy that is intact serves.
    assert!(opened > SCRIPTS / 20 && opened < SCRIPTS);
}
