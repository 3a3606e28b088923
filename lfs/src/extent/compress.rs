//! Compression of byte strings (SPEC.md, "Compression"): which algorithms there are, when a result is
//! worth keeping, and how bytes from a disk are taken apart again.
//!
//! Invariants:
//! - What [`compress`] keeps saves at least an eighth, and [`decompress`] gives back the same bytes.
//! - The same input gives the same output on every machine: nothing here depends on time, chance,
//!   or what the processor can do.
//! - Input of [`decompress`] is hostile: it never panics, and the output is never longer than what
//!   the caller said, nor is more than that and a constant (about 12 KiB) allocated.
//!
//! Not here: checksums. A wrong byte may well decompress to something; whoever stores compressed
//! bytes checks them first.

use alloc::boxed::Box;
use alloc::vec::Vec;

use lz4_flex::block as lz4;
use miniz_oxide::DataFormat;
use miniz_oxide::deflate::core::{
    CompressorOxide, TDEFLFlush, TDEFLStatus, compress as deflate_step,
};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress as inflate_step};

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
#[non_exhaustive]
pub enum Algorithm {
    /// Not at all.
    #[default]
    None = 0,
    /// The LZ4 block format: for everything that is written while somebody waits.
    Lz4 = 1,
    /// Raw deflate (RFC 1951): a third smaller than LZ4 at a tenth of the speed; for cold data.
    Deflate = 2,
}

impl Algorithm {
    /// All of them, by their number.
    pub const ALL: [Self; 3] = [Self::None, Self::Lz4, Self::Deflate];

    /// The number on disk.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The algorithm with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::None,
            1 => Self::Lz4,
            2 => Self::Deflate,
            _ => return None,
        })
    }
}

/// Why bytes could not be decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecompressError {
    /// They are no such stream, or one of another length.
    #[error("the compressed data are damaged")]
    Damaged,
    /// Not enough memory for the output.
    #[error("not enough memory to decompress")]
    OutOfMemory,
}

/// Deflate's effort. Measured on 64 KiB of text and of JSON, 9 takes twice the time and saves 1 % more.
const DEFLATE_LEVEL: u8 = 6;

/// Bytes looked at to tell whether symbol coding can save anything.
const SAMPLE_BYTES: usize = 4096;

/// Compresses `input` into `output`, whose former content goes, and says whether that was worth it:
/// the result is at least an eighth shorter than `input`. If not, `output` is empty and `input` is to
/// be stored as it is. Input that cannot be compressed is found out early and costs little.
///
/// Deflate works in about 330 KiB of memory for the time of the call.
pub fn compress(algorithm: Algorithm, input: &[u8], output: &mut Vec<u8>) -> bool {
    output.clear();
    let limit = kept_bytes_max(input.len());
    // LZ4 starts only with room for the worst case.
    let room = lz4::get_maximum_output_size(input.len());
    if algorithm == Algorithm::None || limit == 0 || output.try_reserve_exact(room).is_err() {
        return false;
    }
    output.resize(room, 0);
    let len = match algorithm {
        Algorithm::None => None,
        // It skips ahead where nothing matches: random bytes cost a fraction of others.
        Algorithm::Lz4 => lz4::compress_into(input, output).ok(),
        Algorithm::Deflate if !deflate_pays(input, output) => None,
        Algorithm::Deflate => output
            .get_mut(..limit)
            .and_then(|output| deflate(input, output)),
    };
    let kept = len.filter(|len| *len <= limit);
    output.truncate(kept.unwrap_or(0));
    kept.is_some()
}

/// Bytes of input that a step of [`Pressing`] takes: about a millisecond on a slow machine.
const STEP_BYTES: usize = 4096;

/// Memory that deflate takes while it runs, at least.
const DEFLATE_STATE_BYTES: usize = 330 << 10;

/// Deflate in steps, for work in the background: what comes out is what [`compress`] would keep, or nothing.
pub(crate) struct Pressing<'i> {
    state: Box<CompressorOxide>,
    input: &'i [u8],
    /// As long as what is worth keeping; the first `len` bytes are done.
    output: Vec<u8>,
    len: usize,
    ended: Option<bool>,
}

impl<'i> Pressing<'i> {
    /// Begins; `None` if it is not worth it, or memory does not suffice.
    pub(crate) fn new(input: &'i [u8]) -> Option<Self> {
        let mut output = Vec::new();
        let room = lz4::get_maximum_output_size(input.len()).max(DEFLATE_STATE_BYTES);
        // As much as the state takes is free then, and nobody else asks for it in between.
        output.try_reserve_exact(room).ok()?;
        output.resize(room, 0);
        if !deflate_pays(input, &mut output) {
            return None;
        }
        output.truncate(kept_bytes_max(input.len()));
        output.shrink_to_fit();
        Some(Self {
            state: deflate_state(),
            input,
            output,
            len: 0,
            ended: None,
        })
    }

    /// Goes on for some bytes; true when there is nothing more to do.
    pub(crate) fn step(&mut self) -> bool {
        if self.ended.is_some() {
            return true;
        }
        let (chunk, rest) = self.input.split_at(STEP_BYTES.min(self.input.len()));
        let flush = if rest.is_empty() {
            TDEFLFlush::Finish
        } else {
            TDEFLFlush::None
        };
        let target = self.output.get_mut(self.len..).unwrap_or_default();
        let (status, consumed, written) = deflate_step(&mut self.state, chunk, target, flush);
        self.len += written;
        self.input = self.input.get(consumed..).unwrap_or_default();
        self.ended = match status {
            TDEFLStatus::Done => Some(true),
            // Going on without room for output makes no sense, nor without having moved on.
            TDEFLStatus::Okay if self.len < self.output.len() && consumed + written > 0 => None,
            _ => Some(false),
        };
        self.ended.is_some()
    }

    /// The result, if it is worth keeping.
    pub(crate) fn finish(self) -> Option<Vec<u8>> {
        let mut output = self.output;
        output.truncate(self.len);
        (self.ended == Some(true)).then_some(output)
    }
}

/// Takes apart what [`compress`] made of `len` bytes.
///
/// # Errors
/// If `input` is not a whole stream of exactly `len` bytes, or memory does not suffice.
pub fn decompress(
    algorithm: Algorithm,
    input: &[u8],
    len: usize,
) -> Result<Vec<u8>, DecompressError> {
    let mut output = Vec::new();
    output
        .try_reserve_exact(len)
        .map_err(|_| DecompressError::OutOfMemory)?;
    output.resize(len, 0);
    decompress_into(algorithm, input, &mut output)?;
    Ok(output)
}

/// As [`decompress`], filling `output` exactly.
///
/// # Errors
/// If `input` is not a whole stream of exactly as many bytes as `output` has. Its content is then arbitrary.
pub fn decompress_into(
    algorithm: Algorithm,
    input: &[u8],
    output: &mut [u8],
) -> Result<(), DecompressError> {
    let whole = match algorithm {
        Algorithm::None => {
            let same_len = input.len() == output.len();
            if same_len {
                output.copy_from_slice(input);
            }
            same_len
        }
        Algorithm::Lz4 => lz4::decompress_into(input, output).is_ok_and(|len| len == output.len()),
        Algorithm::Deflate => inflate(input, output),
    };
    whole.then_some(()).ok_or(DecompressError::Damaged)
}

/// Longest result that saves at least an eighth of `len`.
pub(crate) const fn kept_bytes_max(len: usize) -> usize {
    len - len.div_ceil(8)
}

/// Whether deflate may save an eighth. It does so in two ways: repeats, which LZ4 finds as well at a
/// hundredth of the cost, and shorter codes for frequent bytes. `scratch` has
/// room for LZ4's worst case.
fn deflate_pays(input: &[u8], scratch: &mut [u8]) -> bool {
    !looks_random(input)
        || lz4::compress_into(input, scratch).is_ok_and(|len| len <= input.len() / 16 * 15)
}

/// Whether the bytes of a sample are so evenly spread that codes for single bytes save less than an
/// eighth. Two bytes picked from it are equal with probability sum(c(c-1)) / n(n-1); entropy is at least
/// minus the logarithm of that, so at most 2^-7 means at least 7 bits in a byte.
fn looks_random(input: &[u8]) -> bool {
    let stride = input.len().div_ceil(SAMPLE_BYTES).max(1);
    let mut counts = [0u32; 256];
    for byte in input.iter().step_by(stride) {
        if let Some(count) = counts.get_mut(usize::from(*byte)) {
            *count += 1;
        }
    }
    let pairs = |n: u64| n * n.saturating_sub(1);
    let sampled = counts.iter().map(|count| u64::from(*count)).sum();
    let equal: u64 = counts.iter().map(|count| pairs(u64::from(*count))).sum();
    equal * 128 <= pairs(sampled)
}

/// Never inlined: the state passes over the stack when it is made.
#[inline(never)]
fn deflate_state() -> Box<CompressorOxide> {
    let mut state = Box::<CompressorOxide>::default();
    state.set_format_and_level(DataFormat::Raw, DEFLATE_LEVEL);
    state
}

fn deflate(input: &[u8], output: &mut [u8]) -> Option<usize> {
    let mut state = deflate_state();
    let (status, _, len) = deflate_step(&mut state, input, output, TDEFLFlush::Finish);
    (status == TDEFLStatus::Done).then_some(len)
}

fn inflate(input: &[u8], output: &mut [u8]) -> bool {
    let mut state = Box::<DecompressorOxide>::default();
    let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let (status, consumed, len) = inflate_step(&mut state, input, output, 0, flags);
    status == TINFLStatus::Done && consumed == input.len() && len == output.len()
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use alloc::string::String;
    use alloc::vec;
    use core::fmt::Write;

    use super::*;

    fn random_bytes(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let mut bytes = Vec::new();
        while bytes.len() < len {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend(state.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    fn text(len: usize) -> Vec<u8> {
        let mut text = String::new();
        for line in 1u64.. {
            if text.len() >= len {
                break;
            }
            let squared = line * line;
            writeln!(text, "{line}: the quick brown fox jumps over dog {squared}").unwrap();
        }
        text.truncate(len);
        text.into_bytes()
    }

    #[test]
    fn gives_back_what_was_compressed_at_every_kind_and_size() {
        let sizes = [
            0usize, 1, 2, 7, 8, 9, 63, 64, 255, 1000, 4095, 4096, 4097, 65_535, 65_536, 300_000,
        ];
        for algorithm in Algorithm::ALL {
            for len in sizes {
                for input in [text(len), vec![0; len], random_bytes(len as u64, len)] {
                    let mut output = vec![1, 2, 3];
                    let kept = compress(algorithm, &input, &mut output);
                    if kept {
                        assert!(output.len() <= len - len.div_ceil(8));
                        assert_eq!(decompress(algorithm, &output, len), Ok(input));
                    } else {
                        assert!(output.is_empty());
                    }
                }
                let mut output = Vec::new();
                if len >= 255 {
                    let pays = algorithm != Algorithm::None;
                    assert_eq!(compress(algorithm, &text(len), &mut output), pays, "{len}");
                }
                assert!(!compress(algorithm, &random_bytes(9, len), &mut output));
            }
        }
    }

    #[test]
    fn deflate_is_tried_where_only_repeats_or_only_codes_save() {
        let half = random_bytes(5, 16_384);
        let repeated = [half.clone(), half].concat();
        let mut output = Vec::new();
        assert!(looks_random(&repeated));
        assert!(compress(Algorithm::Deflate, &repeated, &mut output));
        assert_eq!(
            decompress(Algorithm::Deflate, &output, repeated.len()).as_ref(),
            Ok(&repeated)
        );

        let hexadecimal: Vec<u8> = random_bytes(6, 32_768)
            .iter()
            .map(|byte| b"0123456789abcdef"[usize::from(byte % 16)])
            .collect();
        assert!(!compress(Algorithm::Lz4, &hexadecimal, &mut output));
        assert!(compress(Algorithm::Deflate, &hexadecimal, &mut output));
    }

    #[test]
    fn pressing_in_steps_keeps_what_pays_and_gives_it_back() {
        let random = random_bytes(3, 65_536);
        let mixed = [text(20_000), random_bytes(4, 4000), text(30_000)].concat();
        let zeros = vec![0; 65_536];
        for input in [
            &text(1)[..],
            &text(4096),
            &text(65_536),
            &mixed,
            &zeros,
            &random,
        ] {
            let mut at_once = Vec::new();
            let pays = compress(Algorithm::Deflate, input, &mut at_once);
            let pressed = Pressing::new(input).and_then(|mut pressing| {
                let steps = (0..100).position(|_| pressing.step()).unwrap();
                assert!(steps <= input.len() / STEP_BYTES);
                pressing.finish()
            });
            assert_eq!(pressed.is_some(), pays);
            if let Some(pressed) = pressed {
                assert!(pressed.len() <= kept_bytes_max(input.len()));
                let back = decompress(Algorithm::Deflate, &pressed, input.len());
                assert_eq!(back.as_deref(), Ok(input));
            }
        }
        // Repeats promise much; what comes out does not fit.
        let hard = [random_bytes(5, 40_000), random_bytes(5, 4500)].concat();
        let mut pressing = Pressing::new(&[&hard[..], &hard[..2000]].concat().leak()[..]);
        if let Some(pressing) = &mut pressing {
            while !pressing.step() {}
        }
        assert_eq!(pressing.and_then(Pressing::finish), None);
    }

    #[test]
    fn another_length_is_damage() {
        let input = text(5000);
        for algorithm in Algorithm::ALL {
            let mut stored = input.clone();
            if algorithm != Algorithm::None {
                assert!(compress(algorithm, &input, &mut stored));
            }
            for len in [0, 1, 4999, 5001, 70_000] {
                assert_eq!(
                    decompress(algorithm, &stored, len),
                    Err(DecompressError::Damaged),
                    "{algorithm:?} {len}"
                );
            }
            for cut in 0..stored.len() {
                assert!(decompress(algorithm, &stored[..cut], 5000).is_err());
            }
            stored.push(0);
            assert!(
                decompress(algorithm, &stored, 5000).is_err(),
                "{algorithm:?}"
            );
        }
    }

    #[test]
    fn hostile_input_never_panics_and_never_overflows_the_length() {
        let good: Vec<Vec<u8>> = [Algorithm::Lz4, Algorithm::Deflate]
            .into_iter()
            .map(|algorithm| {
                let mut output = Vec::new();
                assert!(compress(algorithm, &text(3000), &mut output));
                output
            })
            .collect();
        for seed in 1..4000u64 {
            let bytes = random_bytes(seed, (seed % 300) as usize);
            for (algorithm, good) in [Algorithm::Lz4, Algorithm::Deflate].into_iter().zip(&good) {
                let mut bent = good.clone();
                for (index, byte) in bytes.iter().take(3).enumerate() {
                    let place = (seed as usize * (index * 7 + 1)) % bent.len();
                    bent[place] ^= byte;
                }
                for input in [&bytes, &bent] {
                    for len in [0, 1, 100, 3000, 65_536] {
                        if let Ok(output) = decompress(algorithm, input, len) {
                            assert_eq!(output.len(), len);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn output_is_pinned() {
        // Stored data must stay readable: streams made by other implementations of both formats.
        let lz4 = [0x17, b'a', 0x01, 0x00, 0x50, b'a', b'a', b'a', b'a', b'a'];
        assert_eq!(decompress(Algorithm::Lz4, &lz4, 17), Ok(vec![b'a'; 17]));
        // zlib's raw deflate of 40 times "ab".
        let deflate = [0x4b, 0x4c, 0x4a, 0xa4, 0x2a, 0x04, 0x00];
        let expected: Vec<u8> = b"ab".repeat(40);
        assert_eq!(decompress(Algorithm::Deflate, &deflate, 80), Ok(expected));
    }
}
