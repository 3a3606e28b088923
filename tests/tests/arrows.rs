//! The arrows between the crates of the workspace: what may depend on what.
//!
//! The table is the architecture's. A crate or an arrow that is not in it fails here, so that adding
//! one is a decision and not an accident.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Who may know whom. `app` is both the library, which knows only `kvstore` (and `lfs` for the device and clock
/// traits it passes through), and the binaries, which also join it to `platform`.
const ALLOWED: [(&str, &[&str]); 7] = [
    ("lfs", &[]),
    ("kvstore", &["lfs"]),
    ("app", &["kvstore", "lfs", "platform"]),
    ("cli", &["kvstore", "lfs"]),
    ("platform", &["lfs"]),
    ("fuzz-bodies", &["app", "kvstore", "lfs", "tests"]),
    ("tests", &["app", "kvstore", "lfs", "platform"]),
];

#[test]
fn crates_know_only_what_they_may() {
    let metadata = metadata();
    let allowed: BTreeMap<_, _> = ALLOWED.into_iter().collect();
    let packages = metadata["packages"].as_array().expect("packages");
    let ours: BTreeSet<_> = packages.iter().map(name).collect();
    for package in packages {
        let from = name(package);
        let may = allowed
            .get(from)
            .unwrap_or_else(|| panic!("{from} is not in the table"));
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let to = name(dependency);
            // A crate's tests may use its own simulation.
            let fine = !ours.contains(to) || may.contains(&to) || to == from;
            assert!(fine, "{from} -> {to} is forbidden");
        }
    }
}

/// The image's hardware must not leak into the library: only the `image` feature brings `platform` in.
#[test]
fn platform_is_optional_in_app() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let app = packages
        .iter()
        .find(|package| name(package) == "app")
        .expect("app");
    let dependencies = app["dependencies"].as_array().expect("dependencies");
    let platform = dependencies
        .iter()
        .find(|dependency| name(dependency) == "platform");
    assert_eq!(
        platform.expect("app -> platform")["optional"],
        Value::Bool(true)
    );
    assert!(
        app["features"]["default"]
            .as_array()
            .is_none_or(Vec::is_empty),
        "no default features"
    );
}

fn name(object: &Value) -> &str {
    object["name"].as_str().expect("a name")
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(tests::root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}
