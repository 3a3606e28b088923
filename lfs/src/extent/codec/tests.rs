use alloc::collections::BTreeSet;
use alloc::vec;

use super::*;
use crate::seal::testing;
use crate::seal::{DataKey, Suite};

const IDENTITY: ExtentIdentity = ExtentIdentity {
    object: 77,
    offset: 0x12_3000,
    birth: CommitNumber(1234),
};

fn sealers() -> [Sealer; 3] {
    let key = DataKey::generate(&mut testing::random(1));
    [
        Sealer::Plain,
        Sealer::keyed(Suite::XChaCha20Poly1305, &key),
        Sealer::keyed(Suite::Aes256GcmSiv, &key),
    ]
}

/// Half of it compresses well, the other half does not at all.
fn content(len: usize, compressible: bool, random: &mut Random<'_>) -> Vec<u8> {
    let mut bytes = vec![0; len];
    if compressible {
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = b"all work and no play "[index % 21] + u8::from(index / 21 % 7 == 0);
        }
    } else {
        random(&mut bytes);
    }
    bytes
}

/// Reads `wanted` as a caller would: only the ranges named.
fn read(
    sealer: &Sealer,
    identity: ExtentIdentity,
    stored: &StoredExtent,
    wanted: &Range<u32>,
) -> Result<Vec<u8>, ExtentError> {
    let ranges = stored.shape.ranges_for(wanted).unwrap();
    let prefix = &stored.bytes[to_usize(&ranges.prefix)];
    let data = &stored.bytes[to_usize(&ranges.data)];
    stored.shape.decode(sealer, identity, prefix, data, wanted)
}

#[test]
fn gives_back_every_range_of_every_size() {
    let mut random = testing::random(2);
    let mut sizes = vec![
        1usize, 2, 100, 4095, 4096, 4097, 8191, 8192, 8193, 61_440, 61_441, 65_535, 65_536,
    ];
    for _ in 0..12 {
        let mut pick = [0; 2];
        random(&mut pick);
        sizes.push(usize::from(u16::from_le_bytes(pick)).max(1));
    }
    for sealer in sealers() {
        for &len in &sizes {
            for (algorithm, compressible) in [
                (Algorithm::None, false),
                (Algorithm::Lz4, true),
                (Algorithm::Lz4, false),
                (Algorithm::Deflate, true),
            ] {
                let bytes = content(len, compressible, &mut random);
                let stored = encode(&sealer, IDENTITY, &bytes, algorithm, &mut random).unwrap();
                let shape = stored.shape;
                assert_eq!(shape.stored_len() as usize, stored.bytes.len());
                assert_eq!(
                    ExtentShape::new(shape.encoding(), 0, shape.len(), shape.stored_len()),
                    Some(shape)
                );
                assert_eq!(
                    Encoding::from_number(shape.encoding().number()),
                    Some(shape.encoding())
                );
                if len >= 4096 {
                    let expected = if compressible {
                        algorithm
                    } else {
                        Algorithm::None
                    };
                    assert_eq!(shape.encoding().algorithm, expected);
                }
                let end = len as u32;
                let mut ranges = vec![0..end, 0..1, end - 1..end, end / 2..end / 2 + 1];
                for _ in 0..8 {
                    let mut pick = [0; 4];
                    random(&mut pick);
                    let start = u32::from_le_bytes(pick) % end;
                    ranges.push(start..start + 1 + (u32::from(pick[0]) * 97) % (end - start));
                }
                for wanted in ranges {
                    assert_eq!(
                        read(&sealer, IDENTITY, &stored, &wanted).as_deref(),
                        Ok(&bytes[to_usize(&wanted)]),
                        "{len} {wanted:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_page_is_read_without_the_rest() {
    let mut random = testing::random(3);
    for (sealer, prefix_len) in sealers().iter().zip([64, 276, 276]) {
        let bytes = content(65_536, false, &mut random);
        let stored = encode(sealer, IDENTITY, &bytes, Algorithm::Lz4, &mut random).unwrap();
        assert_eq!(
            stored.shape.ranges_for(&(8192..12_288)),
            Some(ExtentRanges {
                prefix: 0..prefix_len,
                data: prefix_len + 8192..prefix_len + 12_288,
            })
        );
        // Bytes outside do not matter to it.
        let mut bent = stored.clone();
        for index in (prefix_len as usize + 12_288..bent.bytes.len()).step_by(100) {
            bent.bytes[index] ^= 1;
        }
        assert!(read(sealer, IDENTITY, &bent, &(8192..12_288)).is_ok());
        assert_eq!(
            read(sealer, IDENTITY, &bent, &(0..65_536)),
            Err(ExtentError::Damaged { unit: 3 })
        );
    }
}

#[test]
fn every_flipped_bit_shows_in_its_unit() {
    let mut random = testing::random(4);
    for sealer in sealers() {
        for algorithm in [Algorithm::None, Algorithm::Lz4, Algorithm::Deflate] {
            let bytes = content(8200, true, &mut random);
            let stored = encode(&sealer, IDENTITY, &bytes, algorithm, &mut random).unwrap();
            let prefix_len = stored.shape.prefix_len() as usize;
            let (shared, check) = check_bytes(stored.shape.encoding());
            let step = if sealer.is_keyed() { 13 } else { 1 };
            let prefix_bits = 0..prefix_len * 8;
            let data_bits = (prefix_len * 8..stored.bytes.len() * 8).step_by(step);
            let mut bent = stored.clone();
            for bit in prefix_bits.chain(data_bits) {
                let place = bit / 8;
                bent.bytes[place] ^= 1 << (bit % 8);
                let unit = if algorithm != Algorithm::None || place < shared as usize {
                    0
                } else if place < prefix_len {
                    (place - shared as usize) / check as usize
                } else {
                    (place - prefix_len) / UNIT_BYTES
                };
                assert_eq!(
                    read(&sealer, IDENTITY, &bent, &(0..8200)),
                    Err(ExtentError::Damaged { unit: unit as u32 }),
                    "bit {bit}"
                );
                bent.bytes[place] ^= 1 << (bit % 8);
            }
        }
    }
}

#[test]
fn bytes_of_another_place_time_or_length_show() {
    let mut random = testing::random(5);
    for sealer in sealers() {
        for algorithm in [Algorithm::None, Algorithm::Lz4] {
            let bytes = content(20_000, true, &mut random);
            let stored = encode(&sealer, IDENTITY, &bytes, algorithm, &mut random).unwrap();
            for other in [
                ExtentIdentity {
                    object: 78,
                    ..IDENTITY
                },
                ExtentIdentity {
                    offset: IDENTITY.offset + 4096,
                    ..IDENTITY
                },
                ExtentIdentity {
                    birth: CommitNumber(1233),
                    ..IDENTITY
                },
            ] {
                assert_eq!(
                    read(&sealer, other, &stored, &(0..1)),
                    Err(ExtentError::Damaged { unit: 0 })
                );
            }
            let mut claimed = stored.clone();
            if algorithm == Algorithm::None {
                // The same bytes said to be other units of the extent.
                claimed.shape.first_unit = 1;
            } else {
                claimed.shape.len -= 1;
            }
            assert!(read(&sealer, IDENTITY, &claimed, &(0..1)).is_err());
        }
        // Two units of one extent change places, with their checks.
        let bytes = content(8192, false, &mut random);
        let stored = encode(&sealer, IDENTITY, &bytes, Algorithm::None, &mut random).unwrap();
        let mut swapped = stored.clone();
        let (shared, check) = check_bytes(stored.shape.encoding());
        let (shared, check) = (shared as usize, check as usize);
        swapped.bytes[shared..shared + 2 * check].rotate_left(check);
        swapped.bytes[shared + 2 * check..].rotate_left(UNIT_BYTES);
        assert_eq!(
            read(&sealer, IDENTITY, &swapped, &(0..8192)),
            Err(ExtentError::Damaged { unit: 0 })
        );
    }
}

#[test]
fn pieces_are_cut_without_a_key_and_read_with_it() {
    let mut random = testing::random(6);
    for sealer in sealers() {
        let bytes = content(40_000, false, &mut random);
        let stored = encode(&sealer, IDENTITY, &bytes, Algorithm::None, &mut random).unwrap();
        for start in 0..10 {
            for end in start + 1..=10 {
                let cut = stored.shape.cut(&(start..end)).unwrap();
                let piece = StoredExtent {
                    bytes: cut.copy_from(&stored.bytes).unwrap(),
                    shape: cut.shape,
                };
                assert_eq!(piece.bytes.len(), piece.shape.stored_len() as usize);
                let (from, to) = (start * UNIT, (end * UNIT).min(40_000));
                assert_eq!(
                    read(&sealer, IDENTITY, &piece, &(0..to - from)).as_deref(),
                    Ok(&bytes[to_usize(&(from..to))])
                );
                // A piece of a piece.
                let last = end - start - 1;
                let cut = piece.shape.cut(&(last..last + 1)).unwrap();
                let inner = StoredExtent {
                    bytes: cut.copy_from(&piece.bytes).unwrap(),
                    shape: cut.shape,
                };
                assert_eq!(u32::from(inner.shape.first_unit()), end - 1);
                assert!(read(&sealer, IDENTITY, &inner, &(0..inner.shape.len())).is_ok());
                assert!(
                    cut.copy_from(&piece.bytes[..piece.bytes.len() - 1])
                        .is_none()
                );
            }
        }
        assert_eq!(stored.shape.cut(&(3..3)), None);
        assert_eq!(stored.shape.cut(&(0..11)), None);
        let text = content(40_000, true, &mut random);
        let packed = encode(&sealer, IDENTITY, &text, Algorithm::Lz4, &mut random).unwrap();
        assert_eq!(packed.shape.cut(&(0..1)), None);
    }
}

#[test]
fn checksums_do_not_pass_where_there_is_a_key_nor_the_other_way() {
    let mut random = testing::random(7);
    let bytes = content(5000, false, &mut random);
    for writer in sealers() {
        let stored = encode(&writer, IDENTITY, &bytes, Algorithm::None, &mut random).unwrap();
        let readers = sealers();
        let able = readers
            .iter()
            .filter(|reader| read(reader, IDENTITY, &stored, &(0..5000)).is_ok());
        assert_eq!(able.count(), 1);
    }
    let stranger = Sealer::keyed(Suite::default(), &DataKey::from_bytes([3; 32]));
    let stored = encode(
        &sealers()[1],
        IDENTITY,
        &bytes,
        Algorithm::None,
        &mut random,
    )
    .unwrap();
    assert!(read(&stranger, IDENTITY, &stored, &(0..5000)).is_err());
}

#[test]
fn no_two_units_share_a_nonce() {
    // A generator that never gives the same 20 bytes twice but is as close to it as can be.
    let mut drawn = 0u64;
    let mut random = |bytes: &mut [u8]| {
        drawn += 1;
        bytes.fill(0);
        let at = bytes.len() - 8;
        bytes[at..].copy_from_slice(&drawn.to_le_bytes());
    };
    let sealer = &sealers()[1];
    let mut seen = BTreeSet::new();
    let mut units = 0;
    for index in 0..600u32 {
        let bytes = vec![0; 1 + (index as usize * 997) % 65_536];
        let algorithm = Algorithm::ALL[index as usize % 2];
        let stored = encode(sealer, IDENTITY, &bytes, algorithm, &mut random).unwrap();
        let messages = (stored.shape.prefix_len() - NONCE_BASE_BYTES) / TAG_BYTES;
        for unit in 0..messages {
            assert!(seen.insert(unit_nonce(&stored.bytes[..20], unit)));
            units += 1;
        }
    }
    assert_eq!(seen.len(), units);
    assert!(units > 2000);
}

#[test]
fn numbers_from_a_disk_never_panic() {
    let mut random = testing::random(8);
    let mut accepted = 0;
    for round in 0..30_000u32 {
        let mut pick = [0; 16];
        random(&mut pick);
        let Some(encoding) = Encoding::from_number(pick[0] & 0x83) else {
            continue;
        };
        let mut len = u32::from_le_bytes([pick[1], pick[2], pick[3] & 1, 0]);
        let mut stored_len = u32::from_le_bytes([pick[4], pick[5], pick[6] & 1, 0]);
        if round % 3 == 0 {
            // Numbers that nearly fit.
            stored_len = prefix_len(encoding, len) + len + u32::from(pick[6] & 1);
        } else if round % 3 == 1 {
            (len, stored_len) = (u32::MAX - len, u32::MAX - stored_len);
        }
        let first_unit = if pick[7] < 128 { 0 } else { pick[7] };
        let Some(shape) = ExtentShape::new(encoding, first_unit, len, stored_len) else {
            continue;
        };
        accepted += 1;
        assert!(shape.len() as usize <= EXTENT_BYTES_MAX);
        assert!(shape.stored_len() <= shape.len() + 276);
        let wanted = u32::from(pick[8]) * 200..u32::from(pick[9]) * 300;
        let Some(ranges) = shape.ranges_for(&wanted) else {
            continue;
        };
        let mut prefix = vec![0; ranges.prefix.len()];
        let mut data = vec![0; ranges.data.len()];
        random(&mut prefix);
        random(&mut data);
        if round % 5 == 0 {
            data.truncate(usize::from(pick[10]) * 10);
            prefix.truncate(usize::from(pick[11]));
        }
        for sealer in sealers() {
            assert!(
                shape
                    .decode(&sealer, IDENTITY, &prefix, &data, &wanted)
                    .is_err()
            );
        }
    }
    assert!(accepted > 500, "{accepted}");
    for (len, stored_len) in [
        (0, 0),
        (0, 4),
        (65_537, 65_605),
        (u32::MAX, u32::MAX),
        (1, 6),
    ] {
        let encoding = Encoding::from_number(0).unwrap();
        assert_eq!(ExtentShape::new(encoding, 0, len, stored_len), None);
    }
    assert_eq!(Encoding::from_number(0x7f), None);
}

/// Compressed bytes that are intact by their check but do not decompress to the length claimed.
#[test]
fn intact_bytes_that_do_not_decompress_are_damage() {
    let mut random = testing::random(9);
    for sealer in sealers() {
        let encoding = Encoding {
            algorithm: Algorithm::Lz4,
            sealed: sealer.is_keyed(),
        };
        let len = 6000;
        let stored_len = prefix_len(encoding, len) + 500;
        let shape = ExtentShape::new(encoding, 0, len, stored_len).unwrap();
        let mut bytes = vec![0; stored_len as usize];
        random(&mut bytes);
        let (prefix, data) = bytes.split_at_mut(shape.prefix_len() as usize);
        shape.seal_units(&sealer, IDENTITY, prefix, data, &mut random);
        assert_eq!(
            shape.decode(&sealer, IDENTITY, prefix, data, &(0..6000)),
            Err(ExtentError::Damaged { unit: 0 })
        );
    }
}

#[test]
fn lengths_out_of_bounds_are_refused() {
    let mut random = testing::random(10);
    for len in [0, 65_537] {
        assert_eq!(
            encode(
                &Sealer::Plain,
                IDENTITY,
                &vec![0; len],
                Algorithm::None,
                &mut random
            ),
            Err(ExtentError::OutOfBounds)
        );
    }
    let stored = encode(
        &Sealer::Plain,
        IDENTITY,
        &[1; 100],
        Algorithm::None,
        &mut random,
    )
    .unwrap();
    let backwards = Range { start: 3, end: 2 };
    for wanted in [0..0, 100..100, 0..101, backwards] {
        assert_eq!(stored.shape.ranges_for(&wanted), None);
    }
}

#[test]
fn the_stored_form_is_pinned() {
    // Computed by another implementation (Python's `cryptography` and `zlib.crc32`).
    let key = DataKey::from_bytes(core::array::from_fn(|index| index as u8));
    let mut count = |bytes: &mut [u8]| {
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = 100 + index as u8;
        }
    };
    let bytes: Vec<u8> = (0..4100u32).map(|index| (index % 251) as u8).collect();
    for (sealer, expected) in [
        (Sealer::Plain, 0xd9d9_6a0e),
        (Sealer::keyed(Suite::XChaCha20Poly1305, &key), 0x6910_3fba),
        (Sealer::keyed(Suite::Aes256GcmSiv, &key), 0xb648_b9e3),
    ] {
        let stored = encode(&sealer, IDENTITY, &bytes, Algorithm::None, &mut count).unwrap();
        assert_eq!(crc32fast::hash(&stored.bytes), expected);
    }
}
