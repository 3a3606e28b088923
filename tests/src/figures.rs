//! Figures of a benchmark, as lines of JSON.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use serde_json::json;

/// Figures in the order they were measured. Names are stable, so that runs can be compared.
#[derive(Debug, Default)]
pub struct Figures {
    lines: String,
}

impl Figures {
    /// Adds a figure: what was measured, and on what (a machine, or a file system), in the field `arch`.
    pub fn add(&mut self, name: &str, arch: &str, value: f64, unit: &str) {
        let line = json!({ "name": name, "arch": arch, "value": value, "unit": unit });
        let _ = writeln!(self.lines, "{line}");
    }

    /// Writes them to `file` in `target`, and says where that is.
    pub fn save(&self, file: &str) -> PathBuf {
        let path = crate::root().join("target").join(file);
        fs::write(&path, &self.lines).expect("target is writable");
        path
    }
}
