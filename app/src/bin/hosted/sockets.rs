//! The host's sockets.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use app::Server;
use embedded_io_adapters::tokio_1::FromTokio;
use lfs::BlockDevice;
use lfs::host::HostClock;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections the kernel holds until they are accepted.
const BACKLOG: u32 = 1024;
/// Pause after a connection could not be accepted, for example because all file descriptors are taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
pub(crate) async fn accept<D: BlockDevice + 'static>(
    listener: &TcpListener,
    server: &Rc<Server<D, HostClock>>,
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
