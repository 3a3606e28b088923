//! QEMU's monitor protocol, as far as it counts what the disk was asked to do, and changes its size.

use std::io::{BufRead, BufReader, Write};
use std::ops::Sub;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// What was asked of a disk, or of all disks of a machine, since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlockCounts {
    /// Flush requests.
    pub flushes: u64,
    /// Write requests.
    pub writes: u64,
    /// Bytes in them.
    pub bytes_written: u64,
    /// Read requests.
    pub reads: u64,
    /// Bytes in them.
    pub bytes_read: u64,
}

impl Sub for BlockCounts {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            flushes: self.flushes - earlier.flushes,
            writes: self.writes - earlier.writes,
            bytes_written: self.bytes_written - earlier.bytes_written,
            reads: self.reads - earlier.reads,
            bytes_read: self.bytes_read - earlier.bytes_read,
        }
    }
}

/// Asks the monitor at `socket` for the counts of all disks together.
pub fn block_counts(socket: &Path) -> BlockCounts {
    let reply = command(socket, "query-blockstats", &Value::Null);
    let mut counts = BlockCounts::default();
    for device in reply.as_array().expect("query-blockstats answers a list") {
        let count = |name: &str| device["stats"][name].as_u64().expect("a counter");
        counts.flushes += count("flush_operations");
        counts.writes += count("wr_operations");
        counts.bytes_written += count("wr_bytes");
        counts.reads += count("rd_operations");
        counts.bytes_read += count("rd_bytes");
    }
    counts
}

/// Gives the drive with this name of `qemu/run` another size, the file below it included.
pub fn resize_drive(socket: &Path, drive: &str, size_bytes: u64) {
    let arguments = json!({ "device": drive, "size": size_bytes });
    command(socket, "block_resize", &arguments);
}

/// One command on a connection of its own.
fn command(socket: &Path, name: &str, arguments: &Value) -> Value {
    let stream = UnixStream::connect(socket)
        .unwrap_or_else(|error| panic!("no QMP at {}: {error}", socket.display()));
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a socket option");
    let mut replies = BufReader::new(&stream).lines();
    let _greeting = replies.next().expect("a greeting").expect("a greeting");
    let mut answer = Value::Null;
    for request in ["qmp_capabilities", name] {
        let mut message = json!({ "execute": request });
        if request == name && !arguments.is_null() {
            message["arguments"] = arguments.clone();
        }
        writeln!(&stream, "{message}").expect("QEMU reads its monitor");
        answer = loop {
            let line = replies.next().expect("a reply").expect("a reply");
            let mut message: Value = serde_json::from_str(&line).expect("QMP is JSON");
            if let Some(answer) = message.get_mut("return") {
                break answer.take();
            }
            // Events come in between.
            assert!(message.get("error").is_none(), "{request}: {message}");
        };
    }
    answer
}
