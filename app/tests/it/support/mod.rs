//! A whole server in memory: the simulated disk and executor below, pipes as connections.

pub mod pipe;
pub mod value;

use std::rc::Rc;

use app::{Config, Server};
use kvstore::{Options, Store};
use lfs::sim::{Executor, SimClock, SimDisk, seed_from};
use lfs::{Clock, FileSystemId, FormatOptions};

use pipe::{PipeReader, PipeWriter, pipe};
use value::Value;

pub type TestServer = Server<SimDisk, SimClock>;

/// Bytes on their way in one direction of a connection.
const PIPE_BYTES: usize = 16 * 1024;

/// What the disk of a new server is like.
const FORMAT: FormatOptions = FormatOptions {
    segment_bytes: 256 << 10,
    log_segments: 16,
    created_ns: 0,
};

/// The seed, printed so that a failure can be replayed with `SILTSTONE_SEED`.
pub fn seed(default: u64) -> u64 {
    let seed = seed_from(std::env::var("SILTSTONE_SEED").ok().as_deref(), default);
    println!("SILTSTONE_SEED={seed}");
    seed
}

/// By which seed reads of keys miss at random, as if the keys were on the disk only: `SILTSTONE_MISSES`. None does
/// otherwise, but where a test says so.
fn misses() -> Option<u64> {
    let seed = std::env::var("SILTSTONE_MISSES").ok()?;
    println!("SILTSTONE_MISSES={seed}");
    Some(seed.parse().expect("a number"))
}

/// A server that is being run by an executor.
pub struct World {
    pub executor: Executor,
    pub server: Rc<TestServer>,
    pub store: Rc<Store<SimDisk>>,
    pub disk: SimDisk,
}

impl World {
    /// A new server over an empty disk of 32 MiB.
    pub fn new(seed: u64, settings: &[(&str, &str)]) -> Self {
        Self::on_disk(SimDisk::new(8192, seed), Some(FORMAT), seed, settings)
    }

    /// The same, of which no read of a key misses, whatever all others do.
    pub fn in_memory(seed: u64, settings: &[(&str, &str)]) -> Self {
        Self::with_misses(SimDisk::new(8192, seed), Some(FORMAT), seed, settings, None)
    }

    /// The same, of which reads of keys miss.
    pub fn missing(seed: u64, settings: &[(&str, &str)]) -> Self {
        let disk = SimDisk::new(8192, seed);
        Self::with_misses(disk, Some(FORMAT), seed, settings, misses().or(Some(seed)))
    }

    /// A server over `disk`, formatted if told to.
    pub fn on_disk(
        disk: SimDisk,
        format: Option<FormatOptions>,
        seed: u64,
        settings: &[(&str, &str)],
    ) -> Self {
        Self::with_misses(disk, format, seed, settings, misses())
    }

    fn with_misses(
        disk: SimDisk,
        format: Option<FormatOptions>,
        seed: u64,
        settings: &[(&str, &str)],
        misses: Option<u64>,
    ) -> Self {
        let mut config = Config::for_machine(128 << 20);
        for (name, value) in settings {
            config.set_at_start(name, value).unwrap();
        }
        let history_ms = config.history_ms();
        let mut executor = Executor::new(seed);
        let target = disk.clone();
        let store = executor.run(async move {
            if let Some(format) = format {
                lfs::format(&target, format, FileSystemId([7; 16]))
                    .await
                    .unwrap();
            }
            let options = Options {
                memory_bytes_max: 64 << 20,
                open_memory_bytes_max: 64 << 20,
                hash_seed: 1,
                history_ms,
            };
            Store::open(target, options).await.unwrap()
        });
        let store = Rc::new(store);
        if let Some(seed) = misses {
            store.miss_at_random(seed);
        }
        let server = Server::new(Rc::clone(&store), executor.clock(), [42; 32], config);
        let (running, clock) = (Rc::clone(&store), executor.clock());
        executor.spawn(async move { running.run(&clock).await });
        let background = Rc::clone(&server);
        executor.spawn(async move { background.background().await });
        Self {
            executor,
            server,
            store,
            disk,
        }
    }

    /// A new connection.
    pub fn connect(&mut self) -> Client {
        static NEXT_PORT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(10_000);
        let port = NEXT_PORT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (to_server, from_client) = pipe(PIPE_BYTES);
        let (to_client, from_server) = pipe(PIPE_BYTES);
        let server = Rc::clone(&self.server);
        self.executor.spawn(async move {
            server
                .serve(from_client, to_client, &format!("10.0.0.1:{port}"))
                .await;
        });
        Client {
            writer: to_server,
            reader: from_server,
            pending: Vec::new(),
        }
    }

    /// Runs `main` until it is done; everything else goes on meanwhile.
    pub fn run<T: 'static>(&mut self, main: impl Future<Output = T> + 'static) -> T {
        self.executor.run(main)
    }

    /// Lets so much (virtual) time go by.
    pub fn wait_ms(&mut self, duration_ms: u64) {
        let clock = self.executor.clock();
        self.run(async move { clock.sleep_ms(duration_ms).await });
    }

    /// Sends a request and takes its reply.
    pub fn call(&mut self, client: Client, words: &[&str]) -> (Client, Value) {
        let request = request(words);
        self.run(async move {
            let mut client = client;
            client.send(&request).await;
            let value = client.receive().await;
            (client, value)
        })
    }
}

/// Words as an array of bulk strings.
pub fn request(words: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        let word = word.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// The other end of a connection.
pub struct Client {
    writer: PipeWriter,
    reader: PipeReader,
    pending: Vec<u8>,
}

impl Client {
    /// Sends bytes; false when the server has closed the connection.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.writer.put(bytes).await
    }

    /// Sends nothing more.
    pub fn finish(&mut self) {
        self.writer.close();
    }

    /// The next reply; [`Value::Closed`] when there is none.
    pub async fn receive(&mut self) -> Value {
        loop {
            if let Some((value, length)) = Value::parse(&self.pending) {
                self.pending.drain(..length);
                return value;
            }
            if !self.reader.take(&mut self.pending).await {
                assert!(self.pending.is_empty(), "half a reply: {:?}", self.pending);
                return Value::Closed;
            }
        }
    }

    /// Takes some bytes, at least one unless the connection is closed.
    pub async fn take_some(&mut self, bytes: &mut Vec<u8>) {
        self.reader.take(bytes).await;
    }

    /// Everything until the server closes the connection.
    pub async fn receive_all(&mut self) -> Vec<u8> {
        while self.reader.take(&mut self.pending).await {}
        std::mem::take(&mut self.pending)
    }

    /// Sends a request and takes its reply.
    pub async fn call(&mut self, words: &[&str]) -> Value {
        self.send(&request(words)).await;
        self.receive().await
    }

    /// Whether a byte of reply is there to be taken.
    pub fn has_reply(&self) -> bool {
        !self.pending.is_empty() || self.reader.has_bytes()
    }
}
