//! Whether bytes are whole RESP replies, of either protocol version.

/// Deepest nesting a reply may have; COMMAND goes deepest.
const DEPTH_MAX: u32 = 12;

/// Passes over one reply and gives what follows it; none when there is no whole, well-formed reply.
pub(crate) fn skip_reply(bytes: &[u8]) -> Option<&[u8]> {
    skip_nested(bytes, DEPTH_MAX)
}

fn skip_nested(bytes: &[u8], depth: u32) -> Option<&[u8]> {
    let depth = depth.checked_sub(1)?;
    let (kind, bytes) = bytes.split_first()?;
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let (line, rest) = (bytes.get(..end)?, bytes.get(end + 2..)?);
    let text = str::from_utf8(line).unwrap_or_default();
    let count = || text.parse::<i64>().ok();
    match kind {
        b'+' | b'-' => (!line.contains(&b'\n')).then_some(rest),
        b':' => count().map(|_| rest),
        b',' => text.parse::<f64>().is_ok().then_some(rest),
        b'#' => matches!(line, b"t" | b"f").then_some(rest),
        b'_' => line.is_empty().then_some(rest),
        b'(' => line
            .iter()
            .all(|byte| byte.is_ascii_digit() || *byte == b'-')
            .then_some(rest),
        b'$' | b'!' | b'=' => match count()? {
            -1 => Some(rest),
            length => {
                let length = usize::try_from(length).ok()?;
                rest.get(length..)?.strip_prefix(b"\r\n")
            }
        },
        b'*' | b'~' | b'>' => match count()? {
            -1 => Some(rest),
            length => skip_many(rest, length, depth),
        },
        b'%' => skip_many(rest, count()?.checked_mul(2)?, depth),
        _ => None,
    }
}

fn skip_many(bytes: &[u8], count: i64, depth: u32) -> Option<&[u8]> {
    if count < 0 {
        return None;
    }
    (0..count).try_fold(bytes, |rest, _| skip_nested(rest, depth))
}
