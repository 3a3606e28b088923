//! The backup body without libFuzzer: the committed corpus, and seeded scripts.

use fuzz_bodies::backup;
use tests::{root, seed};

const SCRIPTS: usize = 300;

#[test]
fn corpus() {
    for (path, input) in seed::corpus(&root().join("fuzz/corpus/backup")) {
        println!("{}", path.display());
        let _ = backup::run(&input);
    }
}

#[test]
fn records_of_all_kinds_that_say_anything() {
    let mut rng = seed::rng();
    let mut carried_out = 0;
    for _ in 0..SCRIPTS {
        let mut script = vec![1];
        for _ in 0..rng.usize(1..6) {
            let mut payload = Vec::new();
            for _ in 0..rng.usize(1..4) {
                record(&mut rng, &mut payload);
            }
            let len = u16::try_from(payload.len()).expect("short");
            script.push(rng.u8(1..3));
            script.extend_from_slice(&len.to_le_bytes());
            script.extend_from_slice(&payload);
        }
        carried_out += usize::from(backup::run(&script));
    }
    println!("{carried_out} of {SCRIPTS} carried out");
    assert!(carried_out > SCRIPTS / 20, "they say nothing");
    assert!(carried_out < SCRIPTS, "none says what it cannot");
}

#[test]
fn records_of_keys_that_say_anything() {
    let mut rng = seed::rng();
    let mut carried_out = 0;
    for _ in 0..SCRIPTS {
        let mut script = vec![rng.u8(1..3)];
        for _ in 0..rng.usize(1..4) {
            let mut payload = Vec::new();
            for _ in 0..rng.usize(1..4) {
                key_record(&mut rng, &mut payload);
            }
            let len = u16::try_from(payload.len()).expect("short");
            script.push(0);
            script.extend_from_slice(&len.to_le_bytes());
            script.extend_from_slice(&payload);
        }
        carried_out += usize::from(backup::run(&script));
    }
    println!("{carried_out} of {SCRIPTS} carried out");
    assert!(carried_out > SCRIPTS / 20, "they say nothing");
    assert!(carried_out < SCRIPTS, "none says what it cannot");
}

/// A record of a key, nearly always whole, of any kind, in a database that there is, or the one with tokens, or hardly ever another one.
fn key_record(rng: &mut fastrand::Rng, payload: &mut Vec<u8>) {
    let kind = if rng.u8(..) < 250 {
        rng.u8(1..9)
    } else {
        rng.u8(..)
    };
    let db = match rng.u8(0..20) {
        0 => rng.u8(..),
        1..=4 => 255,
        db => db % 3,
    };
    let key = if db == 255 { &b"tid"[..] } else { b"k" };
    let key = if kind == 7 { b"" } else { key };
    payload.extend([kind, db, u8::try_from(key.len()).expect("short"), 0]);
    if matches!(kind, 2 | 5) {
        payload.extend(i64::from(rng.i8(..)).to_le_bytes());
    }
    let value = [b'm'; 8];
    let value = if kind == 8 {
        value.get(..rng.usize(0..2)).unwrap_or_default()
    } else {
        &value
    };
    if matches!(kind, 1 | 2 | 4 | 8) {
        payload.extend(u32::try_from(value.len()).expect("short").to_le_bytes());
    }
    payload.extend_from_slice(key);
    if matches!(kind, 1 | 2 | 4 | 8) {
        payload.extend_from_slice(value);
    }
    if rng.u8(0..60) == 0 {
        payload.pop();
    }
}

/// A record with small numbers, which mean something to each other.
fn record(rng: &mut fastrand::Rng, payload: &mut Vec<u8>) {
    let object = rng.u8(0..6);
    let name = [1, rng.u8(b'a'..b'd')];
    match rng.u8(0..6) {
        // An inline item, and one of names that may say too little.
        0 => payload.extend([1, 2, object, 0, 3, 1, 2, 3]),
        1 => payload.extend([
            1,
            3,
            object,
            0,
            4,
            name[0],
            name[1],
            rng.u8(0..3),
            rng.u8(0..6),
        ]),
        2 => payload.extend([2, rng.u8(0..8), object, rng.u8(0..2)]),
        3 => payload.extend([3, rng.u8(3..5), object, name[0], name[1]]),
        // Data at the first or second block.
        4 => payload.extend([4, object, 0x80, 0x20 * rng.u8(1..3), 2, 9, 9]),
        _ => payload.extend([5, object, rng.u8(0..100), 0x80, 0x20]),
    }
}

#[test]
fn noise_is_no_backup() {
    let mut rng = seed::rng();
    for _ in 0..500 {
        let mut noise = vec![0; rng.usize(1..5000)];
        rng.fill(&mut noise);
        noise[0] = 0;
        assert!(!backup::run(&noise));
    }
}
