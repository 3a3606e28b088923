//! A public POSIX test suite on a mounted image.
//!
//! `lfs/POSIX.md` names the tests that are expected to fail, and why. What fails has to be exactly that: an unexpected
//! success is as much a failure of this test as an unexpected failure.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::{Mount, Scratch, run};

/// Tests there are in the version that `scripts/setup-test` installs. Less would mean that something is left out.
const TESTS: usize = 398;

/// What the suite needs to know.
const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.001
allow_remount = REMOUNT

[dummy_auth]
entries = [["nobody", "nogroup"], ["games", "games"]]
"#;

/// Verdicts of a run.
#[derive(Default)]
struct Verdicts {
    passed: BTreeSet<String>,
    failed: BTreeSet<String>,
    skipped: BTreeSet<String>,
}

/// Runs what matches a pattern.
fn suite(scratch: &Scratch, mount: &Mount, remount: bool, pattern: &str) -> Verdicts {
    let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin/pjdfstest");
    assert!(
        program.exists(),
        "{} is missing: scripts/setup-test --cli installs it",
        program.display()
    );
    let configuration = scratch.path("pjdfstest.toml");
    let text = CONFIGURATION.replace("REMOUNT", if remount { "true" } else { "false" });
    fs::write(&configuration, text).expect("written");
    let second = scratch.path("second");
    fs::create_dir_all(&second).expect("made");
    let mut command = Command::new(program);
    command
        .arg("-c")
        .arg(configuration)
        .arg("-p")
        .arg(mount.root());
    command.arg("-s").arg(second);
    if !pattern.is_empty() {
        command.arg(pattern);
    }
    let output = run(command);
    let mut verdicts = Verdicts::default();
    for line in output.stdout.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(verdict), None) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let set = match verdict {
            "ok" => &mut verdicts.passed,
            "FAILED" => &mut verdicts.failed,
            "skipped" => &mut verdicts.skipped,
            _ => continue,
        };
        set.insert(name.to_owned());
    }
    assert!(
        verdicts.failed.is_empty() || !output.status.success(),
        "says both"
    );
    println!("{}", output.stdout);
    verdicts
}

/// The names in the table of `lfs/POSIX.md` under a heading: those in backquotes at the beginning of a row.
fn listed(heading: &str) -> BTreeSet<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../lfs/POSIX.md");
    let text = fs::read_to_string(path).expect("lfs/POSIX.md is there");
    let heading = format!("### {heading}");
    let section = text.split("\n### ").map(|section| format!("### {section}"));
    let section = section
        .into_iter()
        .find(|section| section.starts_with(&heading));
    section
        .expect("the heading is there")
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|row| row.split('`').next())
        .filter(|name| name.contains("::"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_public_suite() {
    let scratch = Scratch::with_image("256M");
    let mount = scratch.mount();
    // Its own users have to get in.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(mount.root(), mode).expect("set");
    let mut verdicts = suite(&scratch, &mount, false, "");
    // The tests that remount read-only find files still open that tests before them have left, on any file
    // system. In a process of their own they do not.
    let remounting = suite(&scratch, &mount, true, "erofs");
    for name in remounting.passed.iter().chain(&remounting.failed) {
        verdicts.skipped.remove(name);
    }
    verdicts.passed.extend(remounting.passed);
    verdicts.failed.extend(remounting.failed);

    assert_eq!(verdicts.failed, listed("Tests that fail"));
    assert_eq!(verdicts.skipped, listed("Tests that cannot run"));
    let ran = verdicts.passed.len() + verdicts.failed.len() + verdicts.skipped.len();
    assert_eq!(ran, TESTS);
    mount.unmount();
}
