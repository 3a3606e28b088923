//! The format, byte by byte: an image made in a fixed way must stay as it is.
//!
//! `golden/version-1.txt` lists all bytes that are not zero. A change of the format moves SPEC.md,
//! the version number and this fixture in one commit. `SILTSTONE_BLESS=1` writes the fixture.

use std::fmt::Write;
use std::path::Path;

use crate::common::{self, formatted, mount, try_mount};
use lfs::sim::{Executor, SimDisk, forge};
use lfs::{BLOCK_SIZE, CommitNumber, MountError};

/// Two short commits in one group, an object of two chunks in two segments, one commit larger than a group, and a
/// checkpoint in between.
fn image() -> Vec<u8> {
    let disk = formatted(72, 1);
    let mut executor = Executor::new(1);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    executor.run(async move {
        filesystem.append(b"the first commit").unwrap();
        let second = filesystem.append(b"the second").unwrap();
        filesystem.wait_durable(second).await.unwrap();
        let mut object = filesystem.create_object().unwrap();
        common::put_all(&mut object, &[0x0B; 33_000]).await.unwrap();
        let object = object.finish().await.unwrap();
        let horizon = CommitNumber(1);
        filesystem
            .checkpoint(horizon, &[object], b"a manifest", &clock)
            .await
            .unwrap();
        let third = filesystem.append(&[0x0C; 20_000]).unwrap();
        filesystem.wait_durable(third).await.unwrap();
    });
    disk.to_bytes()
}

/// Lines of an address, how many rows from there are the same, and such a row.
fn dump(image: &[u8]) -> String {
    let mut text = String::new();
    let rows = image.chunks(16).collect::<Vec<_>>();
    let mut at = 0;
    for same in rows.chunk_by(|a, b| a == b) {
        if same[0].iter().any(|&byte| byte != 0) {
            write!(text, "{at:08x} {}", same.len()).unwrap();
            for byte in same[0] {
                write!(text, " {byte:02x}").unwrap();
            }
            text.push('\n');
        }
        at += same.len() * 16;
    }
    text
}

fn undump(text: &str, len: usize) -> Vec<u8> {
    let mut image = vec![0; len];
    for line in text.lines() {
        let mut words = line.split(' ');
        let at = usize::from_str_radix(words.next().unwrap(), 16).unwrap();
        let count: usize = words.next().unwrap().parse().unwrap();
        let row = words
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect::<Vec<_>>();
        image[at..at + count * 16].copy_from_slice(&row.repeat(count));
    }
    image
}

#[test]
fn the_format_is_as_it_was() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/version-1.txt");
    let image = image();
    let text = dump(&image);
    if std::env::var_os("SILTSTONE_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert!(text == golden, "the image differs from {}", path.display());

    let disk = SimDisk::from_bytes(&undump(&golden, image.len()), 0);
    let mounted = mount(&mut Executor::new(0), &disk).unwrap();
    assert_eq!(mounted.horizon, CommitNumber(1));
    assert_eq!(mounted.manifest, b"a manifest");
    let payloads = mounted
        .commits
        .iter()
        .map(|(number, payload)| (number.0, payload.as_slice()));
    let expected = [(2, &b"the second"[..]), (3, &[0x0C; 20_000])];
    assert_eq!(payloads.collect::<Vec<_>>(), expected);
}

#[test]
fn an_image_of_another_version_is_refused() {
    let image = image();
    for version in [0, 2, u32::MAX] {
        let mut other = image.clone();
        for copy in [0, 15] {
            let at = copy * BLOCK_SIZE + 12;
            other[at..at + 4].copy_from_slice(&version.to_le_bytes());
        }
        forge(&mut other);
        let mounted = try_mount(&SimDisk::from_bytes(&other, 0));
        let features = 0;
        let refused = MountError::Unknown { version, features };
        assert_eq!(mounted.err(), Some(refused));
    }
}
