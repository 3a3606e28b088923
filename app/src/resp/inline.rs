//! Inline requests: a line of words, with quotes, as a person types them over telnet.
//!
//! Words are split as Redis does: `"..."` understands `\xHH \n \r \t \b \a` and `\` before any other
//! byte; `'...'` understands only `\'`; a closing quote must be followed by a blank or the end.

use alloc::vec::Vec;

use super::request::{ProtocolError, Span};

/// Splits `line` into words, appended to `words` without their quotes; `spans` says where each one is.
pub(crate) fn split(
    line: &[u8],
    words: &mut Vec<u8>,
    spans: &mut Vec<Span>,
) -> Result<(), ProtocolError> {
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        // Unlike the standard library, C counts the vertical tab as a blank.
        while let [b'\x0b', after @ ..] = rest {
            rest = after.trim_ascii_start();
        }
        if rest.is_empty() {
            return Ok(());
        }
        let start = words.len();
        rest = word(rest, words)?;
        spans.push(Span::new(start, words.len()));
    }
}

/// Takes one word off the front of `rest`.
fn word<'a>(mut rest: &'a [u8], words: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [] | [b' ' | b'\n' | b'\r' | b'\t' | b'\0', ..] => {
                return Ok(rest.get(1..).unwrap_or_default());
            }
            [b'"', after @ ..] => return double_quoted(after, words),
            [b'\'', after @ ..] => return single_quoted(after, words),
            [byte, after @ ..] => {
                words.push(*byte);
                rest = after;
            }
        }
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], words: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'"', after @ ..] => return end_of_quotes(after),
            [b'\\', b'x', high, low, after @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                words.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            [b'\\', escaped, after @ ..] => {
                words.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => b'\x08',
                    b'a' => b'\x07',
                    other => *other,
                });
                rest = after;
            }
            [byte, after @ ..] => {
                words.push(*byte);
                rest = after;
            }
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], words: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'\\', b'\'', after @ ..] => {
                words.push(b'\'');
                rest = after;
            }
            [b'\'', after @ ..] => return end_of_quotes(after),
            [byte, after @ ..] => {
                words.push(*byte);
                rest = after;
            }
        }
    }
}

fn end_of_quotes(rest: &[u8]) -> Result<&[u8], ProtocolError> {
    match rest {
        [] => Ok(rest),
        [byte, ..] if byte.is_ascii_whitespace() || *byte == b'\x0b' => Ok(rest),
        _ => Err(ProtocolError::UnbalancedQuotes),
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20).wrapping_sub(b'a' - 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[u8]) -> Result<Vec<Vec<u8>>, ProtocolError> {
        let (mut bytes, mut spans) = (Vec::new(), Vec::new());
        split(line, &mut bytes, &mut spans)?;
        Ok(spans.iter().map(|span| span.of(&bytes).to_vec()).collect())
    }

    #[test]
    fn splits_as_redis() {
        assert_eq!(
            words(b"  GET  a ").unwrap(),
            [b"GET".to_vec(), b"a".to_vec()]
        );
        assert_eq!(words(b"").unwrap(), Vec::<Vec<u8>>::new());
        assert_eq!(words(b" \t\x0b ").unwrap(), Vec::<Vec<u8>>::new());
        assert_eq!(
            words(br#"a "b c" d"#).unwrap(),
            [b"a".to_vec(), b"b c".to_vec(), b"d".to_vec()]
        );
        assert_eq!(
            words(br#""\x00\xfF\n\"\q""#).unwrap(),
            [b"\x00\xff\n\"q".to_vec()]
        );
        assert_eq!(words(br#""\xg1""#).unwrap(), [b"xg1".to_vec()]);
        assert_eq!(words(br"'a\'b\n'").unwrap(), [br"a'b\n".to_vec()]);
        assert_eq!(words(br#"foo"bar""#).unwrap(), [b"foobar".to_vec()]);
        assert_eq!(words(br#""""#).unwrap(), [b"".to_vec()]);
    }

    #[test]
    fn refuses_unbalanced_quotes() {
        for line in [
            br#"""#.as_slice(),
            br#""a"b"#,
            b"'a",
            b"'a'b",
            br#""\"#,
            br#"a "b"#,
        ] {
            assert_eq!(
                words(line),
                Err(ProtocolError::UnbalancedQuotes),
                "{line:?}"
            );
        }
    }
}
