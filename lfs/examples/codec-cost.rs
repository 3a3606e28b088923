//! What compression and seals save and cost: ratio and throughput on text, JSON, random and already
//! compressed data, in extents of 64, 16 and 4 KiB.
//!
//!     cargo run --release -p lfs --example codec-cost -- [--json] [FILE...]
//!
//! With files, their content is measured as well. Ratios are the same on every machine; throughput is not.
//! `--json` prints one object for each row.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use lfs::{Algorithm, CommitNumber, DataKey, ExtentIdentity, Sealer, Suite};

const CORPUS_BYTES: usize = 1 << 20;
const ROW_TIME_MIN: Duration = Duration::from_millis(60);

struct Row<'a> {
    data: &'a str,
    codec: &'a str,
    unit_bytes: usize,
    stored_bytes: usize,
    original_bytes: usize,
    encode_bytes_per_s: f64,
    decode_bytes_per_s: f64,
}

fn main() -> std::io::Result<()> {
    let mut json = false;
    let mut corpora = built_in();
    for argument in std::env::args().skip(1) {
        if argument == "--json" {
            json = true;
        } else {
            let content = std::fs::read(&argument)?;
            corpora.push((argument, content));
        }
    }
    if !json {
        println!(
            "{:12} {:22} {:>6} {:>7} {:>12} {:>12}",
            "data", "codec", "unit", "ratio", "encode MB/s", "decode MB/s"
        );
    }
    for (data, content) in &corpora {
        for unit_bytes in [65_536, 16_384, 4096] {
            for (codec, sealer, algorithm) in codecs() {
                let row = measure(data, content, unit_bytes, codec, &sealer, algorithm);
                print(&row, json);
            }
        }
    }
    Ok(())
}

fn codecs() -> [(&'static str, Sealer, Algorithm); 7] {
    let key = || DataKey::from_bytes([7; 32]);
    let chacha = || Sealer::keyed(Suite::XChaCha20Poly1305, &key());
    let siv = || Sealer::keyed(Suite::Aes256GcmSiv, &key());
    [
        ("crc", Sealer::Plain, Algorithm::None),
        ("lz4+crc", Sealer::Plain, Algorithm::Lz4),
        ("deflate+crc", Sealer::Plain, Algorithm::Deflate),
        ("xchacha20", chacha(), Algorithm::None),
        ("lz4+xchacha20", chacha(), Algorithm::Lz4),
        ("aes-256-gcm-siv", siv(), Algorithm::None),
        ("lz4+aes-256-gcm-siv", siv(), Algorithm::Lz4),
    ]
}

fn measure<'a>(
    data: &'a str,
    content: &[u8],
    unit_bytes: usize,
    codec: &'a str,
    sealer: &Sealer,
    algorithm: Algorithm,
) -> Row<'a> {
    let identity = ExtentIdentity {
        object: 1,
        offset: 0,
        birth: CommitNumber(1),
    };
    // Good enough for a measurement; a file system takes a cryptographic one.
    let mut state = 1;
    let mut random = |bytes: &mut [u8]| {
        for byte in bytes {
            let [low, ..] = next(&mut state).to_le_bytes();
            *byte = low;
        }
    };
    let (encode_bytes_per_s, stored) = timed(content.len(), || {
        content
            .chunks(unit_bytes)
            .map(|unit| {
                lfs::encode_extent(sealer, identity, unit, algorithm, &mut random)
                    .expect("a unit is an extent")
            })
            .collect::<Vec<_>>()
    });
    let (decode_bytes_per_s, ()) = timed(content.len(), || {
        for (stored, unit) in stored.iter().zip(content.chunks(unit_bytes)) {
            let prefix_len = stored.shape.prefix_len() as usize;
            let (prefix, rest) = stored.bytes.split_at(prefix_len);
            let wanted = 0..stored.shape.len();
            let bytes = stored.shape.decode(sealer, identity, prefix, rest, &wanted);
            assert_eq!(bytes.as_deref(), Ok(unit), "what was stored comes back");
        }
    });
    Row {
        data,
        codec,
        unit_bytes,
        stored_bytes: stored.iter().map(|stored| stored.bytes.len()).sum(),
        original_bytes: content.len(),
        encode_bytes_per_s,
        decode_bytes_per_s,
    }
}

/// Runs `work` over `len` bytes until the clock says something: bytes per second, and the last result.
#[expect(clippy::cast_precision_loss, reason = "a figure to look at")]
fn timed<T>(len: usize, mut work: impl FnMut() -> T) -> (f64, T) {
    let begun = Instant::now();
    let mut rounds = 0usize;
    loop {
        let result = work();
        rounds += 1;
        if begun.elapsed() >= ROW_TIME_MIN {
            return (
                (len * rounds) as f64 / begun.elapsed().as_secs_f64(),
                result,
            );
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure to look at")]
fn print(row: &Row<'_>, json: bool) {
    let ratio = row.stored_bytes as f64 / row.original_bytes.max(1) as f64;
    if json {
        println!(
            "{{\"data\":{:?},\"codec\":{:?},\"unit_bytes\":{},\"original_bytes\":{},\"stored_bytes\":{},\
             \"ratio\":{ratio:.4},\"encode_bytes_per_s\":{:.0},\"decode_bytes_per_s\":{:.0}}}",
            row.data,
            row.codec,
            row.unit_bytes,
            row.original_bytes,
            row.stored_bytes,
            row.encode_bytes_per_s,
            row.decode_bytes_per_s
        );
    } else {
        println!(
            "{:12} {:22} {:>6} {ratio:>7.3} {:>12.1} {:>12.1}",
            row.data,
            row.codec,
            row.unit_bytes,
            row.encode_bytes_per_s / 1e6,
            row.decode_bytes_per_s / 1e6
        );
    }
}

/// The same bytes everywhere.
fn built_in() -> Vec<(String, Vec<u8>)> {
    let text = concat!(
        include_str!("../SPEC.md"),
        include_str!("../DESIGN.md"),
        include_str!("../DESIGN.md"),
        include_str!("../src/filesystem.rs"),
        include_str!("../src/log.rs"),
        include_str!("../src/recovery.rs"),
    );
    let mut state = 2;
    let mut random = Vec::with_capacity(CORPUS_BYTES);
    while random.len() < CORPUS_BYTES {
        random.extend(next(&mut state).to_le_bytes());
    }
    let mut packed = Vec::new();
    for piece in text.as_bytes().chunks(65_536) {
        let mut piece_packed = Vec::new();
        if lfs::compress(Algorithm::Deflate, piece, &mut piece_packed) {
            packed.extend(piece_packed);
        }
    }
    [
        ("text", text.as_bytes().to_vec()),
        ("json", json_lines()),
        ("random", random),
        ("compressed", packed),
    ]
    .map(|(name, content)| (name.to_owned(), content))
    .to_vec()
}

fn json_lines() -> Vec<u8> {
    let names = ["anna", "bob", "carla", "dmitri", "eve", "farid"];
    let mut state = 3;
    let mut json = String::new();
    while json.len() < CORPUS_BYTES {
        let draw = next(&mut state);
        let name = names.get((draw >> 20) as usize % 6).unwrap_or(&"nobody");
        let _ = writeln!(
            json,
            "{{\"id\":{},\"user\":\"{name}\",\"email\":\"{name}{}@example.org\",\"active\":{},\
             \"balance\":{}.{:02},\"tags\":[\"t{}\",\"t{}\"],\"at\":\"2026-{:02}-{:02}T{:02}:{:02}:{:02}Z\"}}",
            draw % 1_000_000,
            draw >> 50,
            draw.is_multiple_of(2),
            (draw >> 8) % 5000,
            (draw >> 9) % 100,
            (draw >> 30) % 40,
            (draw >> 34) % 40,
            1 + (draw >> 36) % 12,
            1 + (draw >> 40) % 28,
            (draw >> 41) % 24,
            (draw >> 42) % 60,
            (draw >> 43) % 60,
        );
    }
    json.into_bytes()
}

/// xorshift64*.
fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}
