//! What the host gives: sockets, signals, memory, randomness.

pub(crate) mod clock;
pub(crate) mod disk;

use std::io::Read as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use app::Server;
use embedded_io_adapters::tokio_1::FromTokio;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

use clock::HostClock;
use disk::FileDisk;
use lfs::Mirror;

/// Connections the kernel holds until they are accepted.
const BACKLOG: u32 = 1024;
/// Pause after a connection could not be accepted, for example because all file descriptors are taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// When the host does not tell its memory.
const MEMORY_BYTES_DEFAULT: usize = 1 << 30;

/// A size such as `4096`, `64K`, `256M`, `1G`, in powers of two.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match text
        .get(digits.len()..)
        .unwrap_or_default()
        .to_ascii_uppercase()
        .as_str()
    {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        unit => return Err(format!("'{unit}' is no unit of size")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("'{digits}' is no number"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too large".to_owned())
}

/// Memory of the machine.
pub(crate) fn memory_bytes() -> usize {
    let kibibytes = |text: String| -> Option<usize> {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(kibibytes)
        .map_or(MEMORY_BYTES_DEFAULT, |kibibytes| {
            kibibytes.saturating_mul(1024)
        })
}

/// Random bytes from the kernel.
pub(crate) fn seed() -> Result<[u8; 32], String> {
    let mut seed = [0; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut seed))
        .map_err(|error| format!("/dev/urandom: {error}"))?;
    Ok(seed)
}

/// Listens on `bind:port`.
pub(crate) fn listen(bind: &str, port: u16) -> Result<TcpListener, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{bind}:{port}: {error}");
    let ip = bind.parse().map_err(|error| failed(&error))?;
    let address = SocketAddr::new(ip, port);
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    };
    let socket = socket.map_err(|error| failed(&error))?;
    socket.set_reuseaddr(true).map_err(|error| failed(&error))?;
    socket.bind(address).map_err(|error| failed(&error))?;
    socket.listen(BACKLOG).map_err(|error| failed(&error))
}

/// Accepts connections for ever, each served by a task of its own.
pub(crate) async fn accept(
    listener: &TcpListener,
    server: &Rc<Server<Mirror<FileDisk>, HostClock>>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                prepare(&stream, server.tcp_keepalive_secs());
                let server = Rc::clone(server);
                tokio::task::spawn_local(async move {
                    let (reader, writer) = stream.into_split();
                    server
                        .serve(
                            FromTokio::new(reader),
                            FromTokio::new(writer),
                            &peer.to_string(),
                        )
                        .await;
                });
            }
            Err(error) => {
                eprintln!("siltstone: accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Options that make a connection quicker or notice its end; a connection without them works too.
fn prepare(stream: &TcpStream, keepalive_secs: u64) {
    let _ = stream.set_nodelay(true);
    if keepalive_secs > 0 {
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(keepalive_secs));
        let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
    }
}

/// Completes on Ctrl-C or a request to terminate.
pub(crate) async fn interrupted() {
    let signals = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    );
    match signals {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        // Without handlers the signals end the process, which the store survives.
        _ => std::future::pending().await,
    }
}
