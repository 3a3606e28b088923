//! A connection as its user sees it.

use alloc::rc::Rc;
use core::cell::RefMut;
use core::future::poll_fn;
use core::net::SocketAddrV4;
use core::task::{Context, Poll};
use core::time::Duration;

use embedded_io_async::{ErrorKind, ErrorType, Read, Write};
use smoltcp::socket::tcp;

use super::Shared;
use super::stack::{Connection, Stack};
use crate::clock::monotonic_us;

/// Why nothing more can be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TcpError {
    /// The peer reset the connection, or has not answered for too long.
    Reset,
}

impl core::fmt::Display for TcpError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("connection reset")
    }
}

impl core::error::Error for TcpError {}

impl embedded_io_async::Error for TcpError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::ConnectionReset
    }
}

/// An accepted connection. Dropped without [`close`](Self::close) it is reset.
pub struct TcpStream {
    shared: Rc<Shared>,
    index: usize,
    closed: bool,
}

impl TcpStream {
    pub(super) fn new(shared: &Rc<Shared>, index: usize) -> Self {
        Self {
            shared: Rc::clone(shared),
            index,
            closed: false,
        }
    }

    /// The other end.
    pub fn peer(&self) -> SocketAddrV4 {
        let (address, port) = self.shared.stack.borrow().peer(self.index);
        SocketAddrV4::new(address, port)
    }

    /// Asks a peer that is silent for so long whether it is still there; `None` does not ask.
    pub fn set_keep_alive(&self, interval: Option<Duration>) {
        let interval =
            interval.map(|interval| smoltcp::time::Duration::from_secs(interval.as_secs()));
        self.with(|socket| socket.set_keep_alive(interval));
    }

    /// A half to read from and one to write to, for two parts of one task.
    pub fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        (ReadHalf { stream: self }, WriteHalf { stream: self })
    }

    /// Ends the connection: what was written still reaches the peer, if it takes it within ten seconds.
    pub fn close(mut self) {
        self.closed = true;
    }

    fn with<R>(&self, f: impl FnOnce(&mut tcp::Socket<'static>) -> R) -> Option<R> {
        let stack: RefMut<'_, Stack> = self.shared.stack.borrow_mut();
        let mut connection: RefMut<'_, Connection> =
            RefMut::filter_map(stack, |stack| stack.connection(self.index)).ok()?;
        Some(f(connection.socket()))
    }

    /// Has the stack send what a read or write changed.
    fn touch(&self) {
        self.shared.stack.borrow_mut().touch(self.index);
        self.shared.wake_runner();
    }

    fn poll_read(&self, context: &Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, TcpError>> {
        let polled = self.with(|socket| {
            if !socket.can_recv() {
                if socket.may_recv() {
                    socket.register_recv_waker(context.waker());
                    return (Poll::Pending, false);
                }
                // The end after the peer's FIN; anything else is a connection that broke.
                return match socket.recv(|_| (0, ())) {
                    Err(tcp::RecvError::Finished) => (Poll::Ready(Ok(0)), false),
                    _ => (Poll::Ready(Err(TcpError::Reset)), false),
                };
            }
            // Only a window that was half closed is worth a word to the peer.
            let reopen = socket.recv_queue() >= socket.recv_capacity() / 2;
            (
                Poll::Ready(socket.recv_slice(buffer).map_err(|_| TcpError::Reset)),
                reopen,
            )
        });
        let Some((polled, reopen)) = polled else {
            return Poll::Ready(Err(TcpError::Reset));
        };
        if reopen {
            self.touch();
        }
        polled
    }

    fn poll_write(&self, context: &Context<'_>, bytes: &[u8]) -> Poll<Result<usize, TcpError>> {
        let polled = self.with(|socket| {
            if !socket.may_send() {
                return Poll::Ready(Err(TcpError::Reset));
            }
            if !socket.can_send() {
                socket.register_send_waker(context.waker());
                return Poll::Pending;
            }
            Poll::Ready(socket.send_slice(bytes).map_err(|_| TcpError::Reset))
        });
        let Some(polled) = polled else {
            return Poll::Ready(Err(TcpError::Reset));
        };
        if polled.is_ready() {
            self.touch();
        }
        polled
    }

    fn poll_flush(&self, context: &Context<'_>) -> Poll<Result<(), TcpError>> {
        let polled = self.with(|socket| {
            if socket.send_queue() == 0 {
                return Poll::Ready(Ok(()));
            }
            if !socket.is_active() {
                return Poll::Ready(Err(TcpError::Reset));
            }
            socket.register_send_waker(context.waker());
            Poll::Pending
        });
        polled.unwrap_or(Poll::Ready(Err(TcpError::Reset)))
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        self.shared
            .stack
            .borrow_mut()
            .release(self.index, monotonic_us(), !self.closed);
        self.shared.wake_runner();
    }
}

/// The half of a [`TcpStream`] to read from.
pub struct ReadHalf<'a> {
    stream: &'a TcpStream,
}

/// The half of a [`TcpStream`] to write to.
pub struct WriteHalf<'a> {
    stream: &'a TcpStream,
}

impl ErrorType for ReadHalf<'_> {
    type Error = TcpError;
}

impl ErrorType for WriteHalf<'_> {
    type Error = TcpError;
}

impl Read for ReadHalf<'_> {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, TcpError> {
        if buffer.is_empty() {
            return Ok(0);
        }
        poll_fn(|context| self.stream.poll_read(context, buffer)).await
    }
}

impl Write for WriteHalf<'_> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, TcpError> {
        if bytes.is_empty() {
            return Ok(0);
        }
        poll_fn(|context| self.stream.poll_write(context, bytes)).await
    }

    /// Waits until the peer has acknowledged everything, or cannot be reached. What was written is on its
    /// way without being asked.
    async fn flush(&mut self) -> Result<(), TcpError> {
        poll_fn(|context| self.stream.poll_flush(context)).await
    }
}
