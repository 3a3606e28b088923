//! Replies as tests read them: parsed strictly, shown on one line.
//!
//! `+OK`, `-ERR ...`, `:1`, `"text"`, `[...]`, `{key => value, ...}`, `~[...]` for a set, `>[...]` for a push, `,1.5`,
//! `#t`, `(123` for a big number, `=txt:"..."`, `|{...} value` for an attribute; `nil` and `nil-array` of
//! version 2, `null` of version 3; `closed`.

use std::fmt;

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Line(char, String),
    Integer(i64),
    Bulk(Vec<u8>),
    Verbatim(Vec<u8>),
    List(char, Vec<Value>),
    Map(Vec<(Value, Value)>),
    Attribute(Vec<(Value, Value)>, Box<Value>),
    Nil,
    NilArray,
    Null,
    Closed,
}

impl Value {
    /// The value at the start of `bytes` and its length; `None` when it is not complete.
    ///
    /// # Panics
    /// When the bytes are no reply.
    pub fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut at = 0;
        let value = Self::parse_at(bytes, &mut at)?;
        Some((value, at))
    }

    fn parse_at(bytes: &[u8], at: &mut usize) -> Option<Self> {
        let rest = &bytes[*at..];
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let kind = char::from(rest[0]);
        let line = String::from_utf8_lossy(&rest[1..end]).into_owned();
        *at += end + 2;
        let number = || -> i64 {
            line.parse()
                .unwrap_or_else(|_| panic!("no length: {line:?}"))
        };
        Some(match kind {
            '+' | '-' | ',' | '#' | '(' => Self::Line(kind, line),
            ':' => Self::Integer(number()),
            '_' => Self::Null,
            '$' if number() == -1 => Self::Nil,
            '*' if number() == -1 => Self::NilArray,
            '$' | '=' => {
                let length = usize::try_from(number()).expect("a length");
                let body = bytes.get(*at..*at + length + 2)?;
                assert!(body.ends_with(b"\r\n"), "a bulk string ends with CR LF");
                *at += length + 2;
                let body = body[..length].to_vec();
                if kind == '$' {
                    Self::Bulk(body)
                } else {
                    Self::Verbatim(body)
                }
            }
            '*' | '~' | '>' => {
                let items = (0..number()).map(|_| Self::parse_at(bytes, at));
                Self::List(kind, items.collect::<Option<_>>()?)
            }
            '%' => Self::Map(Self::parse_pairs(bytes, at, number())?),
            '|' => {
                let pairs = Self::parse_pairs(bytes, at, number())?;
                Self::Attribute(pairs, Box::new(Self::parse_at(bytes, at)?))
            }
            _ => panic!(
                "no reply starts with {kind:?}: {:?}",
                String::from_utf8_lossy(rest)
            ),
        })
    }

    fn parse_pairs(bytes: &[u8], at: &mut usize, count: i64) -> Option<Vec<(Self, Self)>> {
        (0..count)
            .map(|_| Some((Self::parse_at(bytes, at)?, Self::parse_at(bytes, at)?)))
            .collect()
    }

    pub fn ok() -> Self {
        Self::Line('+', "OK".to_owned())
    }

    pub fn bulk(text: impl AsRef<[u8]>) -> Self {
        Self::Bulk(text.as_ref().to_vec())
    }

    /// The bytes of a bulk or verbatim string, as text.
    pub fn text(&self) -> String {
        match self {
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Verbatim(bytes) => String::from_utf8_lossy(&bytes[4..]).into_owned(),
            other => panic!("no text: {other}"),
        }
    }

    pub fn is_error(&self, start: &str) -> bool {
        matches!(self, Self::Line('-', text) if text.starts_with(start))
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, items: &[Self]| {
            f.write_str("[")?;
            for (index, item) in items.iter().enumerate() {
                write!(f, "{}{item}", if index > 0 { ", " } else { "" })?;
            }
            f.write_str("]")
        };
        let map = |f: &mut fmt::Formatter<'_>, pairs: &[(Self, Self)]| {
            f.write_str("{")?;
            for (index, (key, value)) in pairs.iter().enumerate() {
                write!(f, "{}{key} => {value}", if index > 0 { ", " } else { "" })?;
            }
            f.write_str("}")
        };
        match self {
            Self::Line(kind, text) => write!(f, "{kind}{text}"),
            Self::Integer(number) => write!(f, ":{number}"),
            Self::Bulk(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Self::Verbatim(bytes) => {
                write!(
                    f,
                    "={}\"{}\"",
                    bytes[..4].escape_ascii(),
                    bytes[4..].escape_ascii()
                )
            }
            Self::List('*', items) => list(f, items),
            Self::List(kind, items) => {
                write!(f, "{kind}")?;
                list(f, items)
            }
            Self::Map(pairs) => map(f, pairs),
            Self::Attribute(pairs, value) => {
                f.write_str("|")?;
                map(f, pairs)?;
                write!(f, " {value}")
            }
            Self::Nil => f.write_str("nil"),
            Self::NilArray => f.write_str("nil-array"),
            Self::Null => f.write_str("null"),
            Self::Closed => f.write_str("closed"),
        }
    }
}
