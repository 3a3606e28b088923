//! Arbitrary bytes from a client.
//!
//! Invariants: a connection that is given any bytes and then closed from the far side ends, without a
//! panic; what it was sent is a sequence of whole, well-formed replies; and how the bytes were split
//! over reads makes no difference to them (unless the client asks about time or itself).
//!
//! The bytes go through the whole way: parser, session, commands, store, on a simulated disk.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::OnceLock;

use app::{Config, Server};
use embassy_futures::select::select3;
use embedded_io_async::{ErrorType, Read, Write};
use lfs::sim::SimDisk;

use crate::resp::skip_reply;
use crate::store::{formatted_disk, with_store};

const MACHINE_MEMORY_BYTES: usize = 64 << 20;
/// Longest first reads of the split run; the rest comes at once, to keep a run short.
const SPLIT_BYTES: usize = 4096;
/// Commands with these words may answer differently at another time.
const ABOUT_TIME: [&[u8]; 12] = [
    b"TIME", b"INFO", b"CLIENT", b"TTL", b"PX", b"EXP", b"SLOWLOG", b"LATENCY", b"OBJECT",
    b"MEMORY", b"DEBUG", b"TOUCH",
];

/// The body: see the module.
pub fn run(input: &[u8]) {
    let whole = converse(input, usize::MAX);
    let mut rest = whole.as_slice();
    while !rest.is_empty() {
        let Some(next) = skip_reply(rest) else {
            panic!("no whole reply: {:?}", rest.escape_ascii().to_string());
        };
        rest = next;
    }
    let upper = input.to_ascii_uppercase();
    let about_time = |word: &&[u8]| upper.windows(word.len()).any(|window| window == *word);
    if !ABOUT_TIME.iter().any(about_time) {
        let split = converse(input, 1);
        assert!(
            split == whole,
            "byte by byte the answer is {:?}, at once {:?}",
            split.escape_ascii().to_string(),
            whole.escape_ascii().to_string()
        );
    }
}

/// What a server with an empty store answers to `input`, given in reads of at most `read_bytes_max`.
fn converse(input: &[u8], read_bytes_max: usize) -> Vec<u8> {
    static DISK: OnceLock<Vec<u8>> = OnceLock::new();
    let disk = DISK.get_or_init(|| formatted_disk().to_bytes());
    let disk = SimDisk::from_bytes(disk, 3);
    let reader = Client {
        bytes: input.to_vec(),
        at: 0,
        read_bytes_max,
    };
    let answer = Rc::new(RefCell::new(Vec::new()));
    let writer = Answer(Rc::clone(&answer));
    let session = with_store(&disk, async move |store, clock| {
        let config = Config::for_machine(MACHINE_MEMORY_BYTES);
        let server = Server::new(store, clock, [9; 32], config);
        let serve = server.serve(reader, writer, "127.0.0.1:1");
        select3(serve, server.background(), server.shutdown_requested()).await;
    });
    session.expect("a sound disk opens");
    answer.take()
}

/// A client that sends its bytes and closes.
struct Client {
    bytes: Vec<u8>,
    at: usize,
    read_bytes_max: usize,
}

impl ErrorType for Client {
    type Error = Infallible;
}

impl Read for Client {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let max = if self.at < SPLIT_BYTES {
            self.read_bytes_max
        } else {
            usize::MAX
        };
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let count = rest.len().min(buffer.len()).min(max);
        for (to, from) in buffer.iter_mut().zip(rest).take(count) {
            *to = *from;
        }
        self.at += count;
        Ok(count)
    }
}

/// What the client receives.
struct Answer(Rc<RefCell<Vec<u8>>>);

impl ErrorType for Answer {
    type Error = Infallible;
}

impl Write for Answer {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}
