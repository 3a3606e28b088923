//! The standard output: buffered, quiet when its reader goes away, and safe for a terminal.
//!
//! Names in an image are bytes that anybody may have chosen. On a terminal, control characters in them are
//! shown as `?`, and in what is said on the standard error always; into a pipe or a file they go as they are. JSON is one object per line, in
//! which they are escaped; a name that is not UTF-8 is there
//! with replacement characters, and exactly, in hexadecimal digits, under a key that ends in `_hex`.

use std::fmt::{Arguments, Write as _};
use std::io::{self, BufWriter, IsTerminal as _, Write as _};

use serde_json::{Map, Value};

use crate::error::{Error, Outcome};

/// The standard output of one command.
pub(crate) struct Output {
    stream: BufWriter<io::StdoutLock<'static>>,
    terminal: bool,
}

impl Output {
    pub(crate) fn new() -> Self {
        Self {
            stream: BufWriter::with_capacity(64 << 10, io::stdout().lock()),
            terminal: io::stdout().is_terminal(),
        }
    }

    /// Writes text that is ours.
    pub(crate) fn text(&mut self, text: Arguments<'_>) -> Outcome<()> {
        self.stream
            .write_fmt(text)
            .map_err(|error| Error::output(&error))
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Outcome<()> {
        self.stream
            .write_all(bytes)
            .map_err(|error| Error::output(&error))
    }

    /// Writes a name or path.
    pub(crate) fn name(&mut self, name: &[u8]) -> Outcome<()> {
        if self.terminal {
            let safe = printable(name);
            self.bytes(safe.as_bytes())
        } else {
            self.bytes(name)
        }
    }

    /// Writes an object on a line of its own.
    pub(crate) fn json(&mut self, object: Map<String, Value>) -> Outcome<()> {
        let line = json_line(object);
        self.text(format_args!("{line}\n"))
    }

    /// Hands on what is buffered. Without it the end of a command may lose the end of its output.
    pub(crate) fn finish(&mut self) -> Outcome<()> {
        self.stream.flush().map_err(|error| Error::output(&error))
    }
}

/// `name` without anything a terminal would obey.
pub(crate) fn printable(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    text.chars()
        .map(|character| {
            if character.is_control() {
                '?'
            } else {
                character
            }
        })
        .collect()
}

/// An object in one line, without anything a terminal would obey: JSON lets the control characters above U+007E stand as they
/// are.
pub(crate) fn json_line(object: Map<String, Value>) -> String {
    let line = Value::Object(object).to_string();
    line.chars().fold(String::new(), |mut safe, character| {
        if character.is_control() {
            let _ = write!(safe, "\\u{:04x}", u32::from(character));
        } else {
            safe.push(character);
        }
        safe
    })
}

/// Puts `bytes`, which should be text, into an object.
pub(crate) fn put_text(object: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if text.as_bytes() != bytes {
        object.insert(format!("{key}_hex"), hexadecimal(bytes).into());
    }
    object.insert(key.to_owned(), text.into_owned().into());
}

/// Two digits for each byte.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A number of bytes for people.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10 / 1024;
    while tenths >= 10240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if tenths % 10 == 0 {
        format!("{} {name}", tenths / 10)
    } else {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (256 << 20, "256 MiB"),
            (1 << 40, "1 TiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn a_terminal_is_not_told_what_to_do() {
        assert_eq!(printable("a\x1b[2Jb\n\u{9b}".as_bytes()), "a?[2Jb??");
        assert_eq!(printable("Grüße".as_bytes()), "Grüße");
    }

    #[test]
    fn neither_in_json() {
        let mut object = Map::new();
        put_text(&mut object, "name", "a\x1bb\u{9b}c\u{7f}ü".as_bytes());
        let line = json_line(object.clone());
        assert_eq!(line, r#"{"name":"a\u001bb\u009bc\u007fü"}"#);
        let read: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(read, Value::Object(object));
    }

    #[test]
    fn names_survive_json() {
        let mut object = Map::new();
        put_text(&mut object, "name", b"ok");
        assert_eq!(Value::Object(object).to_string(), r#"{"name":"ok"}"#);
        let mut object = Map::new();
        put_text(&mut object, "name", b"a\xff");
        assert_eq!(object.get("name_hex"), Some(&Value::from("61ff")));
    }
}
