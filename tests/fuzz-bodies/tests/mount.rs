//! The mount body without libFuzzer: the committed corpus, and seeded scripts of damage, with and without checksums made right.
//!
//! Beyond the body's own invariants: damage never invents. A store that opens holds exactly what some
//! number of commits had made of the keys, but for those of which it says that they cannot be read, however its disk was damaged.

use fuzz_bodies::mount::{self, COMMITS, Contents};
use lfs::sim::Damage;
use tests::{root, seed};

const SCRIPTS: usize = 10_000;
const FORGED_SCRIPTS: usize = 4000;

#[test]
fn an_undamaged_disk_has_everything() {
    assert_eq!(mount::run(&[1]), Ok(mount::contents_after(COMMITS)));
}

#[test]
fn corpus() {
    for (path, input) in seed::corpus(&root().join("fuzz/corpus/mount")) {
        println!("{}", path.display());
        let _ = mount::run(&input);
    }
}

#[test]
fn damage_never_invents() {
    let mut rng = seed::rng();
    let histories: Vec<Contents> = (0..=COMMITS).map(mount::contents_after).collect();
    let (mut opened, mut partly) = (0, 0);
    for _ in 0..SCRIPTS {
        let steps = rng.usize(1..8);
        let mut script = vec![0; 1 + steps * Damage::BYTES];
        rng.fill(&mut script);
        script[0] = 1;
        if let Ok(contents) = mount::run(&script) {
            opened += 1;
            let unreadable = contents.iter().filter(|held| held.is_err()).count();
            partly += usize::from(unreadable > 0);
            let was_so = |history: &Contents| {
                let mut held = contents.iter().zip(history);
                held.all(|(held, then)| held == then || held.is_err())
            };
            assert!(
                histories.iter().any(was_so),
                "{contents:?} was never so; script {script:?}"
            );
        }
    }
    println!("{opened} of {SCRIPTS} damaged disks opened, {partly} with keys that cannot be read");
    assert!(
        opened - partly > SCRIPTS / 20,
        "the damage is too gross to test anything"
    );
    assert!(
        opened < SCRIPTS,
        "the damage is too slight to test anything"
    );
}

/// Numbers and bytes that only sense can catch: it opens or says why not, and nothing runs in circles.
#[test]
fn forged_disks_open_or_are_refused() {
    let mut rng = seed::rng();
    for kind in [2, 3] {
        assert_eq!(mount::run(&[kind]), Ok(mount::contents_after(COMMITS)));
        let mut opened = 0;
        for _ in 0..FORGED_SCRIPTS {
            let steps = rng.usize(1..6);
            let mut script = vec![0; 1 + steps * Damage::BYTES];
            rng.fill(&mut script);
            script[0] = kind;
            for step in script[1..].chunks_exact_mut(Damage::BYTES) {
                // Mostly bytes, and half of them in the head of the disk.
                if rng.u8(..) < 220 {
                    step[0] = 0;
                }
                if rng.bool() {
                    step[1..3].fill(0);
                }
            }
            opened += usize::from(mount::run(&script).is_ok());
        }
        println!("kind {kind}: {opened} of {FORGED_SCRIPTS} opened");
        assert!(opened > FORGED_SCRIPTS / 20 && opened < FORGED_SCRIPTS);
    }
}

#[test]
fn noise_is_no_file_system() {
    let mut rng = seed::rng();
    for _ in 0..200 {
        let mut noise = vec![0; rng.usize(1..100_000)];
        rng.fill(&mut noise);
        noise[0] = 0;
        assert!(mount::run(&noise).is_err());
    }
}
