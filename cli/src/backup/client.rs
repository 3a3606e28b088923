//! A client of the Redis protocol (RESP2) that can do what a backup takes, and no more: one request at a time, each
//! answered within a bounded time and with bounded memory.

use std::time::Duration;

use lfs::{BackupToken, FRAME_PAYLOAD_BYTES_MAX};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{FRAME_BYTES, Known};
use crate::error::{Error, Outcome, describe};

/// How long a server may take for one reply: reading a part passes over what did not change.
const REPLY_LIMIT: Duration = Duration::from_mins(1);
/// How long to reach a server.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);

/// Bytes of a line, and of a bulk string: a frame and some.
const LINE_BYTES_MAX: u64 = 64 << 10;
const BULK_BYTES_MAX: usize = FRAME_PAYLOAD_BYTES_MAX + (1 << 20);
/// Values in an array: all snapshots there can be.
const VALUES_MAX: usize = 100_000;
/// Arrays within arrays.
const DEPTH_MAX: usize = 4;

/// A connection to a server.
pub(crate) struct Client {
    stream: BufStream<TcpStream>,
    address: String,
}

/// A reply.
#[derive(Debug, PartialEq, Eq)]
enum Value {
    Text(Vec<u8>),
    Error(String),
    Integer(i64),
    Array(Vec<Value>),
    Nil,
}

impl Client {
    /// Connects to `address`, HOST:PORT, and gives the password in `REDISCLI_AUTH`, if there is one.
    pub(crate) async fn connect(address: &str) -> Outcome<Self> {
        let failed = |cause: &str| Error::new(address, cause);
        let connected = timeout(CONNECT_LIMIT, TcpStream::connect(address)).await;
        let stream = connected
            .map_err(|_| failed("no connection within 15 seconds"))?
            .map_err(|error| failed(&describe(&error)))?;
        let mut client = Self {
            stream: BufStream::new(stream),
            address: address.to_owned(),
        };
        if let Some(password) = std::env::var_os("REDISCLI_AUTH") {
            let password = password.into_encoded_bytes();
            client.call(&[b"AUTH", &password]).await?;
        }
        Ok(client)
    }

    pub(super) async fn snapshots(&mut self) -> Outcome<Vec<Known>> {
        let Value::Array(snapshots) = self.call(&[b"SNAPSHOT", b"LIST"]).await? else {
            return Err(self.nonsense());
        };
        let known = snapshots
            .iter()
            .map(|snapshot| self.known(snapshot, "name"));
        known.collect()
    }

    pub(super) async fn begin(&mut self, since: Option<&str>) -> Outcome<Known> {
        let mut words = vec![&b"BACKUP"[..], b"START"];
        if let Some(since) = since {
            words.extend([b"SINCE", since.as_bytes()]);
        }
        let begun = self.call(&words).await?;
        self.known(&begun, "snapshot")
    }

    pub(super) async fn frame(
        &mut self,
        snapshot: &str,
        since: Option<&str>,
        token: &BackupToken,
    ) -> Outcome<Vec<u8>> {
        let cursor = match token.sequence {
            0 => "0".to_owned(),
            _ => token.to_text(),
        };
        let count = FRAME_BYTES.to_string();
        let mut words = vec![
            &b"BACKUP"[..],
            b"READ",
            snapshot.as_bytes(),
            cursor.as_bytes(),
        ];
        words.extend([&b"COUNT"[..], count.as_bytes()]);
        if let Some(since) = since {
            words.extend([b"SINCE", since.as_bytes()]);
        }
        match self.call(&words).await? {
            Value::Array(reply) => match <[Value; 2]>::try_from(reply) {
                Ok([Value::Text(_), Value::Text(frame)]) => Ok(frame),
                _ => Err(self.nonsense()),
            },
            _ => Err(self.nonsense()),
        }
    }

    pub(super) async fn forget(&mut self, snapshot: &str) -> Outcome<()> {
        let words: [&[u8]; 3] = [b"SNAPSHOT", b"DELETE", snapshot.as_bytes()];
        self.call(&words).await.map(drop)
    }

    /// The name and commit in a map.
    fn known(&self, map: &Value, name_key: &str) -> Outcome<Known> {
        let Value::Array(pairs) = map else {
            return Err(self.nonsense());
        };
        let value = |key: &str| {
            let mut pairs = pairs.chunks_exact(2);
            let pair = pairs.find(|pair| pair.first() == Some(&Value::Text(key.into())))?;
            pair.get(1)
        };
        match (value(name_key), value("commit")) {
            (Some(Value::Text(name)), Some(Value::Integer(commit))) => {
                let name = String::from_utf8(name.clone()).map_err(|_| self.nonsense())?;
                let commit = u64::try_from(*commit).map_err(|_| self.nonsense())?;
                Ok(Known { name, commit })
            }
            _ => Err(self.nonsense()),
        }
    }

    /// A request whose reply is no error.
    async fn call(&mut self, words: &[&[u8]]) -> Outcome<Value> {
        match self.request(words).await? {
            Value::Error(text) => Err(Error::new(&self.address, text)),
            value => Ok(value),
        }
    }

    async fn request(&mut self, words: &[&[u8]]) -> Outcome<Value> {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        let exchange = async {
            self.stream.write_all(&request).await?;
            self.stream.flush().await?;
            read_value(&mut self.stream).await
        };
        match timeout(REPLY_LIMIT, exchange).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(Error::new(&self.address, "the connection was closed"))
            }
            Ok(Err(error)) => Err(Error::new(&self.address, describe(&error))),
            Err(_) => Err(Error::new(&self.address, "no reply within a minute")),
        }
    }

    fn nonsense(&self) -> Error {
        Error::new(&self.address, "not a reply of Siltstone's")
    }
}

/// Reads one reply. Arrays are put together without recursion.
async fn read_value<S: tokio::io::AsyncBufRead + Unpin>(stream: &mut S) -> std::io::Result<Value> {
    // Arrays that are not full yet, each with how many values it lacks.
    let mut open: Vec<(Vec<Value>, usize)> = Vec::new();
    let mut values = 0;
    loop {
        let line = read_line(stream).await?;
        let (kind, text) = line.split_first().ok_or_else(malformed)?;
        let text = std::str::from_utf8(text).map_err(|_| malformed())?;
        let number = || text.parse::<i64>().map_err(|_| malformed());
        let mut value = match kind {
            b'+' => Value::Text(text.as_bytes().to_vec()),
            b'-' => Value::Error(text.to_owned()),
            b':' => Value::Integer(number()?),
            b'$' | b'*' if number()? == -1 => Value::Nil,
            b'$' => {
                let len = usize::try_from(number()?).map_err(|_| malformed())?;
                if len > BULK_BYTES_MAX {
                    return Err(malformed());
                }
                let mut bytes = vec![0; len + 2];
                stream.read_exact(&mut bytes).await?;
                bytes.truncate(len);
                Value::Text(bytes)
            }
            b'*' => {
                let len = usize::try_from(number()?).map_err(|_| malformed())?;
                values += len;
                if values > VALUES_MAX || open.len() >= DEPTH_MAX {
                    return Err(malformed());
                }
                if len > 0 {
                    open.push((Vec::new(), len));
                    continue;
                }
                Value::Array(Vec::new())
            }
            _ => return Err(malformed()),
        };
        loop {
            let Some((array, lacks)) = open.last_mut() else {
                return Ok(value);
            };
            array.push(value);
            *lacks -= 1;
            if *lacks > 0 {
                break;
            }
            let full = open.pop().map(|(array, _)| array);
            value = Value::Array(full.unwrap_or_default());
        }
    }
}

async fn read_line<S: tokio::io::AsyncBufRead + Unpin>(stream: &mut S) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    stream
        .take(LINE_BYTES_MAX)
        .read_until(b'\n', &mut line)
        .await?;
    match line.strip_suffix(b"\r\n") {
        Some(line) => Ok(line.to_vec()),
        None if line.len() as u64 >= LINE_BYTES_MAX => Err(malformed()),
        None => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

fn malformed() -> std::io::Error {
    std::io::Error::other("not a reply of the Redis protocol")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut bytes: &[u8]) -> Option<Value> {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let read = runtime.expect("a runtime").block_on(read_value(&mut bytes));
        read.ok()
    }

    #[test]
    fn replies_are_read() {
        let text = |text: &str| Value::Text(text.into());
        assert_eq!(read(b"+OK\r\n"), Some(text("OK")));
        assert_eq!(read(b"-ERR no\r\n"), Some(Value::Error("ERR no".into())));
        assert_eq!(read(b"$-1\r\n"), Some(Value::Nil));
        let nested = b"*3\r\n*2\r\n$2\r\na\n\r\n:5\r\n*0\r\n+x\r\n";
        let inner = Value::Array(vec![text("a\n"), Value::Integer(5)]);
        let outer = vec![inner, Value::Array(Vec::new()), text("x")];
        assert_eq!(read(nested), Some(Value::Array(outer)));
    }

    #[test]
    fn what_is_no_reply_or_too_large_is_refused() {
        let deep = b"*1\r\n".repeat(10);
        let long = [&b"+"[..], &vec![b'x'; 70_000], b"\r\n"].concat();
        for bad in [
            &b""[..],
            b"+OK",
            b"OK\r\n",
            b"$9999999999\r\n",
            b"$-2\r\n",
            b"*100001\r\n",
            b"$5\r\nabc",
            b":x\r\n",
            &deep,
            &long,
        ] {
            assert_eq!(read(bad), None);
        }
    }
}
