//! What takes long shows on a terminal how far it is, and on nothing else.

use std::fs;

use crate::harness::Scratch;

/// Enough for something to be drawn on the way.
const CONTENT_BYTES: usize = 12 << 20;

#[test]
fn what_takes_long_shows_how_far_it_is() {
    let scratch = Scratch::with_image("64M");
    let mut content = vec![0; CONTENT_BYTES];
    fastrand::Rng::with_seed(1).fill(&mut content);
    fs::create_dir(scratch.path("files")).expect("new");
    for name in ["file", "files/one", "files/two"] {
        fs::write(scratch.path(name), &content).expect("written");
    }
    let bar = |line: &[&str]| {
        let output = scratch.on_terminal(line);
        assert!(output.status.success(), "{line:?}: {}", output.stderr);
        let drawn = output.stderr;
        assert!(drawn.contains("iB/s"), "{line:?}: {drawn:?}");
        // Nothing of it stays behind.
        let (_, rest) = drawn.rsplit_once("\x1b[2K").expect("a line is cleared");
        assert!(!rest.contains("B/s"), "{line:?}: {rest:?}");
        drawn
    };
    let is_bar = |drawn: &str| drawn.contains(['\u{2588}', '\u{2591}']);

    let quiet = ["fsck", "--data", "disk"];
    let known_end: [&[&str]; 6] = [
        &["cp", "file", "disk:/file"],
        &["cp", "disk:/file", "again"],
        // How far it is, is looked at now and then: it could be through before that.
        &["scrub", "disk", "--rate", "16M"],
        &["backup", "disk", "-o", "full"],
        &["restore", "full", "restored", "--size", "64M"],
        &quiet,
    ];
    for line in known_end {
        assert!(is_bar(&bar(line)), "{line:?}");
    }
    // How much there is in a directory nobody knows.
    assert!(!is_bar(&bar(&["cp", "-r", "files", "disk:/"])));
    let output = scratch.siltstone(quiet);
    assert!(output.status.success());
    assert_eq!(output.stderr, "", "no terminal, no bar");
}
