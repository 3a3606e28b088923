//! Backups of images and their restore, as users run them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::harness::Scratch;

/// An image with files of all sorts, and its full backup in `full`; the name of the snapshot.
fn backed_up() -> (Scratch, String) {
    let scratch = Scratch::with_image("64M");
    let tree = scratch.path("tree");
    fs::create_dir_all(tree.join("inner")).expect("made");
    let noise = (0..300_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8);
    fs::write(tree.join("noise"), noise.collect::<Vec<_>>()).expect("written");
    fs::write(tree.join("inner/small"), "small").expect("written");
    fs::hard_link(tree.join("noise"), tree.join("inner/other name")).expect("linked");
    symlink("small", tree.join("inner/link")).expect("linked");
    let sparse = fs::File::create(tree.join("sparse")).expect("made");
    sparse.set_len(10 << 20).expect("sized");
    scratch.siltstone(["cp", "-r", "tree", "disk:/"]).ok();
    let said = scratch.siltstone(["backup", "disk", "-o", "full"]).ok();
    let name = said.strip_prefix("snapshot: ").expect("its name").trim();
    (scratch, name.to_owned())
}

fn same_tree(scratch: &Scratch, image: &str) {
    let out = format!("out of {image}");
    scratch
        .siltstone(["cp", "-r", &format!("{image}:/tree"), &out])
        .ok();
    scratch
        .run("diff", ["-r", "--no-dereference", "tree", &out])
        .ok();
    scratch.siltstone(["fsck", "--data", image]).ok();
    // All that is said of each, but for where it lies.
    let listing = |image: &str| {
        let listed = scratch.siltstone(["ls", "-lR", image]).ok();
        listed.replace(image, "")
    };
    assert_eq!(listing("disk"), listing(image));
}

#[test]
fn full_and_incremental_backups_are_restored_to_smaller_and_larger_images() {
    let (scratch, first) = backed_up();
    fs::write(scratch.path("tree/inner/small"), "no longer so").expect("written");
    fs::remove_file(scratch.path("tree/inner/link")).expect("removed");
    scratch
        .siltstone(["cp", "tree/inner/small", "disk:/tree/inner/small"])
        .ok();
    scratch.siltstone(["rm", "disk", "/tree/inner/link"]).ok();
    let said = scratch
        .siltstone(["backup", "disk", "--since", &first, "-o", "one", "--json"])
        .ok();
    let said: serde_json::Value = serde_json::from_str(&said).expect("an object");
    let second = said["snapshot"].as_str().expect("its name").to_owned();
    assert_eq!(said["since"], first.as_str());
    assert!(fs::metadata(scratch.path("one")).expect("there").len() < 20_000);
    scratch.siltstone(["mkdir", "disk", "/tree/new"]).ok();
    fs::create_dir(scratch.path("tree/new")).expect("made");
    scratch
        .siltstone(["backup", "disk", "--since", &second, "-o", "two"])
        .ok();
    // A blank one, one that mkfs made, and one that is not there.
    let blank = fs::File::create(scratch.path("blank")).expect("made");
    blank.set_len(16 << 20).expect("sized");
    scratch.siltstone(["mkfs", "empty", "--size", "128M"]).ok();
    let restore = ["restore", "full", "one", "two"];
    scratch.siltstone(restore.into_iter().chain(["blank"])).ok();
    scratch.siltstone(restore.into_iter().chain(["empty"])).ok();
    scratch
        .siltstone(restore.into_iter().chain(["made", "--size", "32M"]))
        .ok();
    for image in ["blank", "empty", "made"] {
        same_tree(&scratch, image);
    }
    let said = scratch.siltstone(["diff", "disk", &first, &second]).ok();
    let expected = "M /tree/inner\nD /tree/inner/link\nM /tree/inner/small\n";
    assert_eq!(said, expected);
    let said = scratch.siltstone(["diff", "disk", &second]).ok();
    assert_eq!(said, "M /tree\nA /tree/new\n");
    let said = scratch.siltstone(["diff", "disk", &second, &first]).ok();
    assert_eq!(said, expected.replace('D', "A"));
}

#[test]
fn what_is_damaged_short_or_out_of_order_is_refused_and_touches_nothing() {
    let (scratch, first) = backed_up();
    let backup = |since: &str, file: &str| {
        scratch
            .siltstone(["mkdir", "disk", &format!("/{file}")])
            .ok();
        let said = scratch
            .siltstone(["backup", "disk", "--since", since, "-o", file])
            .ok();
        said.trim_start_matches("snapshot: ").trim().to_owned()
    };
    let second = backup(&first, "one");
    backup(&second, "two");
    let other = Scratch::with_image("16M");
    other.siltstone(["backup", "disk", "-o", "full"]).ok();
    fs::copy(other.path("full"), scratch.path("other")).expect("copied");
    scratch.siltstone(["mkfs", "target", "--size", "64M"]).ok();
    let before = fs::read(scratch.path("target")).expect("read");

    let full = fs::read(scratch.path("full")).expect("read");
    let refused = |files: &[&str], why: &str| {
        let arguments = ["restore"].into_iter().chain(files.iter().copied());
        let said = scratch.siltstone(arguments.chain(["target"])).fails(1);
        assert!(said.contains(why), "{files:?}: {said}");
        assert!(
            before == fs::read(scratch.path("target")).expect("read"),
            "{files:?}"
        );
    };
    for len in [0, 1, 79, 80, full.len() / 2, full.len() - 1] {
        fs::write(scratch.path("short"), &full[..len]).expect("written");
        refused(&["short"], "not complete");
    }
    for at in [4, 30, 62, 90, full.len() / 3, full.len() - 1] {
        let mut damaged = full.clone();
        damaged[at] ^= 0x10;
        fs::write(scratch.path("damaged"), &damaged).expect("written");
        refused(&["damaged"], "damaged");
    }
    fs::write(scratch.path("longer"), [&full[..], b"x"].concat()).expect("written");
    refused(&["longer"], "behind its last frame");
    refused(&["tree/noise"], "no backup");
    refused(&["one"], "incremental");
    refused(&["full", "two"], "goes behind");
    refused(&["full", "two", "one"], "goes behind");
    refused(&["full", "one", "one"], "goes behind");
    refused(&["full", "full"], "full backup");
    refused(&["full", "other"], "another file system");
    refused(&["none"], "No such file");

    // Neither what is in use nor what is something else is overwritten.
    let said = scratch.siltstone(["restore", "full", "disk"]).fails(1);
    assert!(said.contains("in use"), "{said}");
    fs::write(scratch.path("text"), vec![b'x'; 16 << 20]).expect("written");
    let said = scratch.siltstone(["restore", "full", "text"]).fails(1);
    assert!(said.contains("not Siltstone's"), "{said}");
    scratch.siltstone(["restore", "full", "missing"]).fails(1);
    assert!(!scratch.path("missing").exists());
    // Too small: it is gone again, or holds nothing.
    let mut large = vec![0; 7 << 20];
    fastrand::Rng::with_seed(1).fill(&mut large);
    fs::write(scratch.path("noise"), large).expect("written");
    scratch.siltstone(["cp", "noise", "disk:/tree/large"]).ok();
    scratch.siltstone(["backup", "disk", "-o", "large"]).ok();
    let restored = scratch.siltstone(["restore", "large", "small", "--size", "8M"]);
    assert!(restored.fails(1).contains("too small"));
    assert!(!scratch.path("small").exists());
    let said = scratch
        .siltstone(["restore", "large", "target", "--size", "8M"])
        .fails(1);
    assert!(said.contains("holds no file system"), "{said}");
    scratch.siltstone(["ls", "target"]).fails(1);
    // And can be used for another.
    scratch
        .siltstone(["restore", "full", "target", "--size", "64M"])
        .ok();
    scratch
        .siltstone(["ls", "target", "/tree/inner/small"])
        .ok();
}

#[test]
fn a_backup_goes_on_where_it_was_cut_short() {
    let (scratch, first) = backed_up();
    let full = fs::read(scratch.path("full")).expect("read");
    let snapshots = || {
        scratch
            .siltstone(["snapshot", "list", "disk"])
            .ok()
            .lines()
            .count()
    };
    // Also among its keys.
    for len in [full.len(), full.len() - 1, full.len() / 2, 700, 150] {
        fs::write(scratch.path("again.partial"), &full[..len]).expect("written");
        let said = scratch.siltstone(["backup", "disk", "-o", "again"]).ok();
        assert!(!scratch.path("again.partial").exists());
        assert!(said.contains(&first), "{len}: {said}");
        assert!(
            fs::read(scratch.path("again")).expect("read") == full,
            "{len}"
        );
        assert_eq!(snapshots(), 1);
    }
    // What snapshot it is of is not there yet.
    fs::write(scratch.path("again.partial"), &full[..50]).expect("written");
    let said = scratch.siltstone(["backup", "disk", "-o", "again"]).ok();
    assert!(!said.contains(&first), "{said}");
    assert_eq!(snapshots(), 2);
    // Of another kind, or nonsense.
    let second = said.trim_start_matches("snapshot: ").trim().to_owned();
    scratch
        .siltstone(["backup", "disk", "--since", &second, "-o", "one"])
        .ok();
    for left in ["again", "tree/noise"] {
        fs::copy(scratch.path(left), scratch.path("one.partial")).expect("copied");
        scratch
            .siltstone(["backup", "disk", "--since", &second, "-o", "one"])
            .ok();
        scratch
            .siltstone(["restore", "again", "one", "target", "--size", "64M"])
            .ok();
        fs::remove_file(scratch.path("target")).expect("removed");
    }
}

#[test]
fn wrong_usage_and_the_standard_output() {
    let (scratch, _) = backed_up();
    let said = scratch.siltstone(["backup", "disk", "-o", "disk"]).fails(2);
    assert!(said.contains("its image"), "{said}");
    scratch
        .siltstone(["backup", "disk", "--since", "none", "-o", "x"])
        .fails(1);
    scratch.siltstone(["backup", "none", "-o", "x"]).fails(1);
    scratch
        .siltstone(["backup", "localhost:6379", "--at", "3", "-o", "x"])
        .fails(2);
    scratch.siltstone(["restore", "full"]).fails(2);
    scratch.siltstone(["diff", "disk", "none"]).fails(1);
    scratch.siltstone(["diff", "disk@a", "b"]).fails(2);
    let command = format!("{} backup disk > piped", env!("CARGO_BIN_EXE_siltstone"));
    let output = scratch.run("sh", ["-c", &command]);
    assert!(
        output.stderr.contains("snapshot: backup-"),
        "{}",
        output.stderr
    );
    output.ok();
    scratch
        .siltstone(["restore", "piped", "target", "--size", "64M"])
        .ok();
    same_tree(&scratch, "target");
}

#[test]
fn the_states_that_the_log_has_are_backed_up() {
    let scratch = Scratch::with_image("64M");
    let mount = scratch.mount();
    let image = scratch.path("crashed");
    for number in 0..5 {
        fs::write(mount.path("file"), format!("{number}")).expect("written");
        fs::File::open(mount.path("file"))
            .expect("opens")
            .sync_all()
            .expect("synced");
    }
    // As if the power failed now.
    fs::copy(scratch.path("disk"), &image).expect("copied");
    mount.unmount();
    let said = scratch
        .siltstone(["backup", "crashed", "--at", "9999", "-o", "x"])
        .fails(1);
    let range = said.split("commit ").nth(1).expect("a range");
    let mut numbers = range
        .split_whitespace()
        .filter_map(|word| word.parse::<u64>().ok());
    let (oldest, newest) = (numbers.next().expect("one"), numbers.next().expect("two"));
    let mut seen = Vec::new();
    for commit in oldest.max(1)..=newest {
        let commit = commit.to_string();
        let said = scratch
            .siltstone(["backup", "crashed", "--at", &commit, "-o", "x"])
            .ok();
        assert_eq!(said, format!("commit: {commit}\n"));
        scratch
            .siltstone(["restore", "x", "target", "--size", "16M"])
            .ok();
        let output = scratch.siltstone(["cat", "target", "/file"]);
        if output.status.success() {
            seen.push(output.stdout);
        }
        fs::remove_file(scratch.path("target")).expect("removed");
    }
    seen.dedup();
    seen.retain(|content| !content.is_empty());
    assert_eq!(seen, ["0", "1", "2", "3", "4"]);
    assert!(Path::new(&image).exists());
}
