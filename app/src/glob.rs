//! Glob patterns as Redis understands them: `*`, `?`, `[abc]`, `[^a-z]`, `\` to escape.
//!
//! Every element but `*` matches exactly one byte, so going back to the last `*` is enough: the cost is
//! bounded by pattern length times text length, whatever a client sends.

/// Whether `text` as a whole matches `pattern`.
pub(crate) fn matches(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
    let mut pattern_at = 0;
    let mut text_at = 0;
    // Where to go on after the last star: the pattern behind it, and the text it has swallowed so far.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let rest = pattern.get(pattern_at..).unwrap_or_default();
        if rest.first() == Some(&b'*') {
            pattern_at += 1;
            if pattern_at == pattern.len() {
                return true;
            }
            retry = Some((pattern_at, text_at));
            continue;
        }
        match text.get(text_at) {
            None if rest.is_empty() => return true,
            None => return false,
            Some(&byte) => {
                if let Some(length) = match_one(rest, byte, ignore_case) {
                    pattern_at += length;
                    text_at += 1;
                    continue;
                }
            }
        }
        match retry {
            None => return false,
            Some((after_star, swallowed)) => {
                pattern_at = after_star;
                text_at = swallowed + 1;
                retry = Some((after_star, text_at));
            }
        }
    }
}

/// Whether a pattern is the same as "everything".
pub(crate) fn matches_all(pattern: &[u8]) -> bool {
    pattern == b"*"
}

/// Matches one byte against the element at the start of `pattern`; its length when it matches.
fn match_one(pattern: &[u8], byte: u8, ignore_case: bool) -> Option<usize> {
    let same = |a: u8| a == byte || (ignore_case && a.eq_ignore_ascii_case(&byte));
    match *pattern.first()? {
        b'?' => Some(1),
        b'[' => match_class(pattern, byte, ignore_case),
        b'\\' if pattern.len() > 1 => same(*pattern.get(1)?).then_some(2),
        literal => same(literal).then_some(1),
    }
}

/// `pattern` starts with `[`. A class without its `]` ends with the pattern, as in Redis.
fn match_class(pattern: &[u8], byte: u8, ignore_case: bool) -> Option<usize> {
    let fold = |b: u8| {
        if ignore_case {
            b.to_ascii_lowercase()
        } else {
            b
        }
    };
    let byte = fold(byte);
    let mut at = 1;
    let negated = pattern.get(at) == Some(&b'^');
    if negated {
        at += 1;
    }
    let mut found = false;
    loop {
        match (pattern.get(at), pattern.get(at + 1), pattern.get(at + 2)) {
            (None, ..) => break,
            (Some(b'\\'), Some(&escaped), _) => {
                found |= fold(escaped) == byte;
                at += 2;
            }
            (Some(b']'), ..) => {
                at += 1;
                break;
            }
            (Some(&first), Some(b'-'), Some(&last)) => {
                let (first, last) = (fold(first), fold(last));
                found |= (first.min(last)..=first.max(last)).contains(&byte);
                at += 3;
            }
            (Some(&single), ..) => {
                found |= fold(single) == byte;
                at += 1;
            }
        }
    }
    (found != negated).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn follows_redis() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "anything", true),
            ("", "", true),
            ("", "a", false),
            ("a", "", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("a\\", "a\\", true),
            ("[abc", "b", true),
            ("[\\]]", "]", true),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxbxxcx", false),
            ("a**b", "ab", true),
            ("*ab", "aab", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes(), false),
                expected,
                "pattern {pattern:?}, text {text:?}"
            );
        }
        assert!(matches(b"FOO[A-C]\\X", b"foobx", true));
        assert!(!matches(b"FOO", b"foo", false));
    }

    #[test]
    fn many_stars_cost_little() {
        let pattern = b"a*".repeat(200);
        let mut pattern_no = pattern.clone();
        pattern_no.push(b'b');
        let text = b"a".repeat(5000);
        assert!(matches(&pattern, &text, false));
        assert!(!matches(&pattern_no, &text, false));
    }
}
