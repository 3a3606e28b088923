//! Damage on the only disk, as a client hears of it.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use redis::{Commands, Connection, RedisResult, cmd};
use tests::client;
use tests::machine::{Setup, Target};
use tests::seed;

on!([riscv64 aarch64 hosted] { rot_is_told_with_path_and_range });

/// For a scrub of a little data.
const LIMIT: Duration = Duration::from_mins(1);

fn rot_is_told_with_path_and_range(target: Target) {
    let mut rng = seed::rng();
    let setup = Setup::new(target).with("DISK_SIZE", "64M");
    let machine = setup.boot();
    let c = &mut machine.connect();
    let content: Vec<u8> = (0..100_000).map(|_| rng.u8(..)).collect();
    put(c, "/rotten", &content);
    put(c, "/whole", b"whole");
    c.set::<_, _, ()>("key", "value").unwrap();
    machine.shutdown();

    // Units of 4 KiB are stored as they are, wherever each may be.
    let start = 4096 * rng.usize(..content.len() / 4096);
    let at = start + rng.usize(..4096 - 32);
    let image = std::fs::read(setup.disk()).unwrap();
    let needle = &content[at..at + 32];
    let place = image.windows(32).position(|bytes| bytes == needle).unwrap();
    let file = OpenOptions::new().write(true).open(setup.disk()).unwrap();
    let bit = 1 << rng.u32(..8);
    file.write_all_at(&[image[place] ^ bit], place as u64)
        .unwrap();

    let machine = setup.boot();
    let c = &mut machine.connect();
    let status = client::scrub(c, LIMIT);
    assert_eq!(status["done"], status["total"], "{status:?}");
    assert_eq!((status["repaired"], status["unrepairable"]), (0, 1));
    let range = format!("bytes {start} to {}", start + 4096);
    let damaged: Vec<String> = cmd("SCRUB").arg("DAMAGED").query(c).unwrap();
    let [finding] = damaged.as_slice() else {
        panic!("{damaged:?}")
    };
    let is_it = finding.starts_with("error: file data of /rotten ") && finding.contains(&range);
    assert!(is_it, "{finding} instead of {range}");

    let refused: RedisResult<Vec<u8>> = cmd("FS.GET").arg("/rotten").query(c);
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Some("EIO"));
    assert!(refused.to_string().contains(&range), "{refused}");
    let before: Vec<u8> = cmd("FS.READ")
        .arg("/rotten")
        .arg(0)
        .arg(start)
        .query(c)
        .unwrap();
    assert_eq!(before, content[..start]);
    assert_eq!(cmd("FS.GET").arg("/whole").query(c), Ok("whole".to_owned()));
    assert_eq!(c.get("key"), Ok("value".to_owned()));
    put(c, "/rotten", b"anew");
    assert_eq!(cmd("FS.GET").arg("/rotten").query(c), Ok("anew".to_owned()));
    machine.shutdown();
}

fn put(c: &mut Connection, path: &str, content: &[u8]) {
    cmd("FS.PUT").arg(path).arg(content).exec(c).unwrap();
}
