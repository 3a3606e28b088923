//! The clients: redis-rs, Debian's command line tools, scripts in other languages, and raw sockets.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use redis::{Connection, Parser, Value};

use crate::process::Process;
use crate::root;

/// For one reply. Generous: two cores emulate machines under load.
const REPLY_LIMIT: Duration = Duration::from_mins(1);
/// For a command line client or a script.
const SCRIPT_LIMIT: Duration = Duration::from_mins(2);

/// Between two questions of [`ask_until`].
const ASK_INTERVAL: Duration = Duration::from_millis(50);

/// A connection of redis-rs, with limits on every wait.
pub fn connect(port: u16) -> Connection {
    try_connect(port).unwrap_or_else(|error| panic!("cannot connect to port {port}: {error}"))
}

/// Like [`connect`], for a service that may refuse.
///
/// # Errors
/// As redis-rs reports them.
pub fn try_connect(port: u16) -> redis::RedisResult<Connection> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
    let connection = client.get_connection_with_timeout(REPLY_LIMIT)?;
    connection.set_read_timeout(Some(REPLY_LIMIT))?;
    connection.set_write_timeout(Some(REPLY_LIMIT))?;
    Ok(connection)
}

/// A number that INFO tells.
pub fn info(connection: &mut Connection, field: &str) -> u64 {
    let text: String = redis::cmd("INFO").query(connection).expect("INFO");
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let value = value.unwrap_or_else(|| panic!("INFO has no {field}"));
    value
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("{field} is {value}"))
}

/// Runs redis-cli and returns what it prints.
pub fn redis_cli(port: u16, arguments: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    command
        .args(["-h", "127.0.0.1", "-p", &port.to_string()])
        .args(arguments);
    Process::run(command, SCRIPT_LIMIT)
}

/// One line of redis-benchmark's result.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchmarkRow {
    /// What was tested, in redis-benchmark's words.
    pub test: String,
    /// Throughput.
    pub requests_per_second: f64,
    /// Half of the requests were faster.
    pub p50_ms: f64,
    /// All but one in a hundred were faster.
    pub p99_ms: f64,
}

/// Runs redis-benchmark; it loops for ever on a refused connection, so it gets `limit`.
pub fn redis_benchmark(port: u16, arguments: &[&str], limit: Duration) -> Vec<BenchmarkRow> {
    let mut command = Command::new("redis-benchmark");
    command
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "--csv"])
        .args(arguments);
    let output = Process::run(command, limit);
    let rows: Vec<_> = output.lines().filter_map(parse_benchmark_row).collect();
    assert!(
        !rows.is_empty(),
        "redis-benchmark measured nothing:\n{output}"
    );
    rows
}

/// Runs a script of this crate's `clients` directory with the port as its argument.
pub fn script(interpreter: &str, name: &str, port: u16) -> String {
    let mut command = Command::new(interpreter);
    command
        .arg(root().join("tests/clients").join(name))
        .arg(port.to_string());
    Process::run(command, SCRIPT_LIMIT)
}

/// The Python of the environment that `make test` sets up, which has redis-py.
pub fn python() -> String {
    root()
        .join("target/python/bin/python")
        .display()
        .to_string()
}

fn parse_benchmark_row(line: &str) -> Option<BenchmarkRow> {
    let fields: Vec<_> = line
        .split("\",\"")
        .map(|field| field.trim_matches('"'))
        .collect();
    let number = |index: usize| fields.get(index).and_then(|field| field.parse().ok());
    Some(BenchmarkRow {
        test: (*fields.first()?).to_owned(),
        requests_per_second: number(1)?,
        p50_ms: number(4)?,
        p99_ms: number(6)?,
    })
}

/// The Node.js that `make test-clients` uses: one of its own where the system has none that is new enough.
pub fn node() -> String {
    let own = root().join("target/node/node_modules/node/bin/node");
    if own.exists() {
        own.display().to_string()
    } else {
        "node".to_owned()
    }
}

/// A socket without a client library: for a person at `telnet`, and for the ill-behaved.
///
/// Replies are taken either as bytes or parsed, not both on one connection: the parser reads ahead.
pub struct RawClient {
    stream: BufReader<TcpStream>,
    parser: Parser,
}

impl RawClient {
    /// Connects.
    pub fn connect(port: u16) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let stream = TcpStream::connect_timeout(&address, REPLY_LIMIT)
            .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
        stream
            .set_read_timeout(Some(REPLY_LIMIT))
            .expect("a socket option");
        stream
            .set_write_timeout(Some(REPLY_LIMIT))
            .expect("a socket option");
        Self {
            stream: BufReader::new(stream),
            parser: Parser::new(),
        }
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the service takes it");
    }

    /// Sends bytes to a service that may have closed the connection.
    ///
    /// # Errors
    /// As the socket reports them.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Exactly so many bytes of the answer.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).expect("an answer");
        bytes
    }

    /// The next reply.
    pub fn reply(&mut self) -> Value {
        self.parser.parse_value(&mut self.stream).expect("a reply")
    }

    /// Everything until the service closes the connection, which it must.
    pub fn until_closed(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            // What it had not read of ours turns an orderly close into a reset.
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => {
                panic!("the connection stays open: {error}")
            }
            _ => rest,
        }
    }
}

/// Asks again and again until there is an answer, which has to come within `limit`. For what a machine does in the background: the protocol
/// announces that to nobody.
///
/// # Panics
/// When it does not come in time.
pub fn ask_until<T, E: Debug>(limit: Duration, mut ask: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(instead) => assert!(Instant::now() < deadline, "{instead:?}"),
        }
        std::thread::sleep(ASK_INTERVAL);
    }
}

/// Has a machine verify all that it stores; what SCRUB STATUS says at the end, which has to come within `limit`.
///
/// # Panics
/// When it does not, or there is no scrub.
pub fn scrub(connection: &mut Connection, limit: Duration) -> HashMap<String, u64> {
    redis::cmd("SCRUB")
        .exec(connection)
        .expect("a scrub begins");
    ask_until(limit, || {
        let status: HashMap<String, u64> = redis::cmd("SCRUB")
            .arg("STATUS")
            .query(connection)
            .expect("it tells how far it is");
        match status.get("running") {
            Some(0) => Ok(status),
            _ => Err(status),
        }
    })
}
