//! Numbers as they travel: strict integers, and decimals for INCRBYFLOAT.
//!
//! Decimals are added exactly. Redis adds in the C type `long double`, whose digits depend on the
//! processor, and prints 17 places with trailing zeros cut; for numbers up to 21 digits before the
//! point the exact sum, rounded to 17 places, is what the widest of those would print. Larger ones fall back
//! to double precision. Hexadecimal floats, which C accepts, are refused.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

/// Parses an integer as Redis does: no leading zeros, plus sign or spaces.
pub(crate) fn parse_i64(bytes: &[u8]) -> Option<i64> {
    let (negative, digits) = match bytes {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [] | [b'0', _, ..] => return None,
        [b'0'] => return (!negative).then_some(0),
        _ if digits.len() > 19 => return None,
        _ => {}
    }
    let mut value: u64 = 0;
    for &digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    if negative {
        0i64.checked_sub_unsigned(value)
    } else {
        i64::try_from(value).ok()
    }
}

/// Appends the decimal digits of `value`.
pub(crate) fn push_i64(out: &mut Vec<u8>, value: i64) {
    // Counters, lengths and most replies are one digit.
    match u8::try_from(value) {
        Ok(digit @ 0..=9) => out.push(b'0' + digit),
        _ => out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
    }
}

/// Appends the decimal digits of `value`.
pub(crate) fn push_u64(out: &mut Vec<u8>, value: u64) {
    let mut buffer = itoa::Buffer::new();
    out.extend_from_slice(buffer.format(value).as_bytes());
}

/// Appends `value` in decimal.
pub(crate) fn push_usize(out: &mut Vec<u8>, value: usize) {
    match u8::try_from(value) {
        Ok(digit @ 0..=9) => out.push(b'0' + digit),
        _ => out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
    }
}

/// Decimal places that are kept.
const PLACES: usize = 17;
const SCALE: i128 = 10i128.pow(17);
/// Beyond this many digits before the point a decimal becomes a double.
const WHOLE_DIGITS_MAX: usize = 20;

/// A number with a fraction: exact where it fits, double precision beyond.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Decimal {
    /// In units of 10^-17.
    Exact(i128),
    /// Too large for exact units; never NaN.
    Double(f64),
}

impl Decimal {
    /// Parses `[+-]digits[.digits][e[+-]digits]`, `inf` and `infinity`. `None` for anything else.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        // Anything longer is refused, as in Redis: no sensible number needs it.
        if bytes.is_empty() || bytes.len() > 255 {
            return None;
        }
        let text = core::str::from_utf8(bytes).ok()?;
        let double: f64 = text.parse().ok()?;
        if double.is_nan() {
            return None;
        }
        Some(Self::parse_exact(bytes).map_or(Self::Double(double), Self::Exact))
    }

    /// The sum; `None` when it is infinite or not a number.
    pub(crate) fn checked_add(self, other: Self) -> Option<Self> {
        if let (Self::Exact(a), Self::Exact(b)) = (self, other)
            && let Some(sum) = a.checked_add(b)
        {
            return Some(Self::Exact(sum));
        }
        let sum = self.to_f64() + other.to_f64();
        sum.is_finite().then_some(Self::Double(sum))
    }

    /// Digits without an exponent, without trailing zeros after the point.
    pub(crate) fn format(self) -> String {
        let mut text = match self {
            Self::Exact(value) => {
                let mut text = String::new();
                if value < 0 {
                    text.push('-');
                }
                let magnitude = value.unsigned_abs();
                let scale = SCALE.unsigned_abs();
                // Writing to a String cannot fail.
                let _ = write!(text, "{}.{:017}", magnitude / scale, magnitude % scale);
                text
            }
            Self::Double(value) => format!("{value:.17}"),
        };
        if text.contains('.') {
            text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
        }
        if text == "-0" {
            String::from("0")
        } else {
            text
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "the fallback is double precision by design"
    )]
    fn to_f64(self) -> f64 {
        match self {
            Self::Exact(value) => value as f64 / SCALE as f64,
            Self::Double(value) => value,
        }
    }

    /// `bytes` is known to be a float as Rust spells it. `None` when it does not fit exact units.
    fn parse_exact(bytes: &[u8]) -> Option<i128> {
        let (negative, bytes) = match bytes {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] | rest => (false, rest),
        };
        let exponent_at = bytes.iter().position(|b| b.eq_ignore_ascii_case(&b'e'));
        let (digits, exponent) = match exponent_at {
            Some(at) => {
                let text = core::str::from_utf8(bytes.get(at + 1..)?).ok()?;
                (bytes.get(..at)?, text.parse::<i32>().ok()?)
            }
            None => (bytes, 0),
        };
        let point = digits
            .iter()
            .position(|&b| b == b'.')
            .unwrap_or(digits.len());
        // How far the decimal point is from the unit of 10^-17, counted from the first digit.
        let whole = i64::try_from(point).ok()? + i64::from(exponent);
        let keep = whole + i64::try_from(PLACES).ok()?;
        let mut value: i128 = 0;
        let mut taken: i64 = 0;
        let mut round_up = false;
        for &byte in digits.iter().filter(|&&b| b != b'.') {
            if !byte.is_ascii_digit() {
                return None;
            }
            if taken < keep {
                value = value
                    .checked_mul(10)?
                    .checked_add(i128::from(byte - b'0'))?;
            } else if taken == keep {
                round_up = byte >= b'5';
            }
            taken += 1;
        }
        while taken < keep {
            if value == 0 {
                break;
            }
            value = value.checked_mul(10)?;
            taken += 1;
        }
        value = value.checked_add(i128::from(round_up))?;
        if value >= SCALE.checked_mul(10i128.checked_pow(u32::try_from(WHOLE_DIGITS_MAX).ok()?)?)? {
            return None;
        }
        Some(if negative { -value } else { value })
    }
}

/// A float as RESP shows it: the shortest digits that read back the same, `inf`, `-inf`, `nan`.
pub(crate) fn format_f64(value: f64) -> String {
    if value.is_nan() {
        return String::from("nan");
    }
    if value.is_infinite() {
        return String::from(if value > 0.0 { "inf" } else { "-inf" });
    }
    format!("{value}")
}

/// Parses an amount of memory: digits and an optional unit `b k kb m mb g gb t tb` (k = 1000, kb = 1024).
pub(crate) fn parse_memory(bytes: &[u8]) -> Option<u64> {
    let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    let (number, unit) = bytes.split_at_checked(digits)?;
    if number.is_empty() {
        return None;
    }
    let number: u64 = core::str::from_utf8(number).ok()?.parse().ok()?;
    let factor: u64 = match unit.to_ascii_lowercase().as_slice() {
        b"" | b"b" => 1,
        b"k" => 1000,
        b"kb" => 1 << 10,
        b"m" => 1_000_000,
        b"mb" => 1 << 20,
        b"g" => 1_000_000_000,
        b"gb" => 1 << 30,
        b"t" => 1_000_000_000_000,
        b"tb" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_strict() {
        for (text, expected) in [
            ("0", Some(0)),
            ("-0", None),
            ("00", None),
            ("01", None),
            ("+1", None),
            (" 1", None),
            ("1 ", None),
            ("", None),
            ("-", None),
            ("12a", None),
            ("-17", Some(-17)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("-9223372036854775808", Some(i64::MIN)),
            ("-9223372036854775809", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(parse_i64(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn integers_are_written() {
        for value in [0, 1, 9, 10, -1, -10, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            push_i64(&mut out, value);
            assert_eq!(out, format!("{value}").into_bytes());
        }
    }

    fn add(a: &str, b: &str) -> Option<String> {
        let sum = Decimal::parse(a.as_bytes())?.checked_add(Decimal::parse(b.as_bytes())?)?;
        Some(sum.format())
    }

    #[test]
    fn decimals_add_exactly() {
        for (a, b, sum) in [
            ("10.50", "0.1", "10.6"),
            ("10.6", "-5", "5.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("1", "-1.1", "-0.1"),
            ("1.5", "17179869184", "17179869185.5"),
            ("17179869184", "17179869184", "34359738368"),
            ("0", "0", "0"),
            ("-0.0", "0", "0"),
            ("3", "1.000000000000000005", "4.00000000000000001"),
            ("1e-18", "0", "0"),
            ("5e-18", "0", "0.00000000000000001"),
            (".5", "1.", "1.5"),
            ("+1", "2", "3"),
            ("1e25", "0", "10000000000000000905969664"),
        ] {
            assert_eq!(add(a, b).as_deref(), Some(sum), "{a} + {b}");
        }
    }

    #[test]
    fn decimals_refuse_what_is_none() {
        for text in ["", " 1", "1 ", "abc", "0x10", "1e", "--1", "nan", "1\0"] {
            assert_eq!(Decimal::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(add("inf", "1"), None);
        assert_eq!(add("1e308", "1e308"), None);
        assert_eq!(add("1e400", "1"), None);
    }

    #[test]
    fn memory_units() {
        assert_eq!(parse_memory(b"100"), Some(100));
        assert_eq!(parse_memory(b"1k"), Some(1000));
        assert_eq!(parse_memory(b"1KB"), Some(1024));
        assert_eq!(parse_memory(b"2gb"), Some(2 << 30));
        assert_eq!(parse_memory(b"-1"), None);
        assert_eq!(parse_memory(b"mb"), None);
        assert_eq!(parse_memory(b"1xb"), None);
        assert_eq!(parse_memory(b"99999999999tb"), None);
    }
}
