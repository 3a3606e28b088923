//! `memcmp` and `bcmp`, by words.
//!
//! The compiler's own versions for these targets go byte by byte; a store compares keys all the time.
//! These are used instead because the compiler's are weak symbols.

/// Bytes compared at once.
const WORD: usize = size_of::<usize>();

/// How the first `len` bytes at `a` and `b` compare: negative, zero, positive.
///
/// # Safety
/// Both point to `len` readable bytes (C11 7.24.4.1).
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: the caller's promise.
    let at = unsafe { first_difference(a, b, len) };
    if at == len {
        return 0;
    }
    // SAFETY: at < len.
    let of_a = unsafe { a.wrapping_add(at).read() };
    // SAFETY: at < len.
    let of_b = unsafe { b.wrapping_add(at).read() };
    i32::from(of_a) - i32::from(of_b)
}

/// Zero when the first `len` bytes at `a` and `b` are the same.
///
/// # Safety
/// As [`memcmp`].
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: the caller's promise.
    let at = unsafe { first_difference(a, b, len) };
    i32::from(at != len)
}

/// Index of the first byte that differs, or `len`.
///
/// # Safety
/// Both point to `len` readable bytes.
#[inline]
#[expect(
    clippy::cast_ptr_alignment,
    reason = "both are aligned when a word is read"
)]
unsafe fn first_difference(a: *const u8, b: *const u8, len: usize) -> usize {
    let mut at = 0;
    // Words can be read where both are aligned alike; the machines need not allow other reads.
    if (a.addr() ^ b.addr()).is_multiple_of(WORD) {
        let head = a.align_offset(WORD).min(len);
        // SAFETY: head <= len.
        at = unsafe { first_difference_bytewise(a, b, 0, head) };
        if at < head {
            return at;
        }
        while len - at >= WORD {
            let word_a = a.wrapping_add(at).cast::<usize>();
            let word_b = b.wrapping_add(at).cast::<usize>();
            // SAFETY: a whole word is within `len`, and aligned since `at` began so.
            let of_a = unsafe { word_a.read() };
            // SAFETY: the same; `b` is aligned as `a` is.
            let of_b = unsafe { word_b.read() };
            if of_a != of_b {
                // Both machines are little-endian: the first byte is the lowest.
                return at + (of_a ^ of_b).trailing_zeros() as usize / 8;
            }
            at += WORD;
        }
    }
    // SAFETY: at <= len.
    unsafe { first_difference_bytewise(a, b, at, len) }
}

/// # Safety
/// Both point to `len` readable bytes.
#[inline]
unsafe fn first_difference_bytewise(a: *const u8, b: *const u8, from: usize, len: usize) -> usize {
    let mut at = from;
    while at < len {
        // SAFETY: at < len.
        let of_a = unsafe { a.wrapping_add(at).read() };
        // SAFETY: at < len.
        let of_b = unsafe { b.wrapping_add(at).read() };
        if of_a != of_b {
            break;
        }
        at += 1;
    }
    at
}
