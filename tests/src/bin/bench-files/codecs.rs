//! What compression and seals save and cost: ratio and throughput on text, JSON, random and already compressed data.
//!
//! Ratios are the same on every machine, throughput is not.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use lfs::sim::Random;
use lfs::{Algorithm, CommitNumber, DataKey, ExtentIdentity, Sealer, Suite};

use crate::simulated::random_bytes;
use tests::report::{Report, Table, figure};

const CORPUS_BYTES: u64 = 1 << 20;
/// A whole extent, and the units that shorter writes make.
const UNITS: [usize; 3] = [65_536, 16_384, 4096];
const ROW_TIME_MIN: Duration = Duration::from_millis(60);

struct Measured {
    ratio: f64,
    encode_bytes_per_s: f64,
    decode_bytes_per_s: f64,
}

/// Measures the built-in data, and the content of `files`.
pub fn measure(report: &mut Report, files: &[String]) {
    let mut corpora = built_in();
    for path in files {
        let content = fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        corpora.push((path.clone(), content));
    }
    let mut table = Table::new("Compression of extents", &COLUMNS);
    for (data, content) in &corpora {
        for (codec, algorithm) in [("lz4", Algorithm::Lz4), ("deflate", Algorithm::Deflate)] {
            let name = format!("{data}, {codec}");
            let cells = row(report, &name, content, &Sealer::Plain, algorithm);
            table.row([name].into_iter().chain(cells));
        }
    }
    table.note("ratio: bytes stored, with checks, per byte; kept only where an eighth is saved");
    table.note("MB/s: of units of 64 KiB, on this machine, one thread");
    report.show(&table);

    let mut table = Table::new("Checks and seals", &COLUMNS);
    let (_, random) = &corpora[RANDOM];
    for (name, sealer) in sealers() {
        let cells = row(report, name, random, &sealer, Algorithm::None);
        table.row([name.to_owned()].into_iter().chain(cells));
    }
    table.note("random data");
    report.show(&table);
}

const COLUMNS: [&str; 6] = [
    "",
    "ratio, 64 KiB",
    "16 KiB",
    "4 KiB",
    "encode MB/s",
    "decode MB/s",
];

fn sealers() -> [(&'static str, Sealer); 3] {
    let key = DataKey::from_bytes([7; 32]);
    [
        ("crc-32", Sealer::Plain),
        (
            "xchacha20-poly1305",
            Sealer::keyed(Suite::XChaCha20Poly1305, &key),
        ),
        ("aes-256-gcm-siv", Sealer::keyed(Suite::Aes256GcmSiv, &key)),
    ]
}

fn row(
    report: &mut Report,
    name: &str,
    content: &[u8],
    sealer: &Sealer,
    algorithm: Algorithm,
) -> [String; 5] {
    let measured = UNITS.map(|unit| measure_unit(content, unit, sealer, algorithm));
    for (unit, measured) in UNITS.iter().zip(&measured) {
        let name = format!("codec_{}_{unit}", name.replace(", ", "_"));
        let mut add = |quantity: &str, value, unit| {
            report
                .figures
                .add(&format!("{name}_{quantity}"), "host", value, unit);
        };
        add("ratio", measured.ratio, "bytes/byte");
        add("encode", measured.encode_bytes_per_s, "bytes/s");
        add("decode", measured.decode_bytes_per_s, "bytes/s");
    }
    let [whole, shorter, page] = measured;
    [
        figure(whole.ratio),
        figure(shorter.ratio),
        figure(page.ratio),
        figure(whole.encode_bytes_per_s / 1e6),
        figure(whole.decode_bytes_per_s / 1e6),
    ]
}

fn measure_unit(content: &[u8], unit: usize, sealer: &Sealer, algorithm: Algorithm) -> Measured {
    let identity = ExtentIdentity {
        object: 1,
        offset: 0,
        birth: CommitNumber(1),
    };
    // Good enough for a measurement; a file system takes a cryptographic one.
    let mut draws = Random::new(1);
    let mut random =
        |bytes: &mut [u8]| bytes.copy_from_slice(&random_bytes(&mut draws, bytes.len() as u64));
    let (encode_bytes_per_s, stored) = timed(content.len(), || {
        let units = content.chunks(unit);
        let encoded = units.map(|bytes| {
            lfs::encode_extent(sealer, identity, bytes, algorithm, &mut random)
                .expect("a unit is an extent")
        });
        encoded.collect::<Vec<_>>()
    });
    let (decode_bytes_per_s, ()) = timed(content.len(), || {
        for (stored, bytes) in stored.iter().zip(content.chunks(unit)) {
            let prefix_len = stored.shape.prefix_len() as usize;
            let (prefix, rest) = stored.bytes.split_at(prefix_len);
            let wanted = 0..stored.shape.len();
            let decoded = stored.shape.decode(sealer, identity, prefix, rest, &wanted);
            assert_eq!(decoded.as_deref(), Ok(bytes), "what was stored comes back");
        }
    });
    let stored_bytes = stored
        .iter()
        .map(|stored| stored.bytes.len())
        .sum::<usize>();
    Measured {
        ratio: stored_bytes as f64 / content.len().max(1) as f64,
        encode_bytes_per_s,
        decode_bytes_per_s,
    }
}

/// Runs `work` over `len` bytes until the clock says something: bytes per second, and the last result.
fn timed<T>(len: usize, mut work: impl FnMut() -> T) -> (f64, T) {
    let begun = Instant::now();
    let mut rounds = 0;
    loop {
        let result = work();
        rounds += 1;
        if begun.elapsed() >= ROW_TIME_MIN {
            let rate = (len * rounds) as f64 / begun.elapsed().as_secs_f64();
            return (rate, result);
        }
    }
}

/// Where random data is among those built in.
const RANDOM: usize = 2;

/// The same bytes everywhere, but that the text is this project's own and grows with it.
fn built_in() -> Vec<(String, Vec<u8>)> {
    let text = [
        "lfs/SPEC.md",
        "lfs/DESIGN.md",
        "lfs/src/mount/filesystem.rs",
        "lfs/src/log/mod.rs",
        "lfs/src/mount/recovery.rs",
    ];
    let text = text.map(|path| fs::read(tests::root().join(path)).expect("a source file"));
    let text = text.concat();
    let mut packed = Vec::new();
    for piece in text.chunks(65_536) {
        let mut piece_packed = Vec::new();
        if lfs::compress(Algorithm::Deflate, piece, &mut piece_packed) {
            packed.extend(piece_packed);
        }
    }
    let random = random_bytes(&mut Random::new(2), CORPUS_BYTES);
    [
        ("text", text),
        ("json", json_lines()),
        ("random", random),
        ("compressed", packed),
    ]
    .map(|(name, content)| (name.to_owned(), content))
    .to_vec()
}

fn json_lines() -> Vec<u8> {
    let names = ["anna", "bob", "carla", "dmitri", "eve", "farid"];
    let mut random = Random::new(3);
    let mut json = String::new();
    while (json.len() as u64) < CORPUS_BYTES {
        let draw = random.next_u64();
        let name = names[random.index(names.len())];
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
