//! The network: virtio-net, smoltcp, one TCP port.
//!
//! smoltcp looks at every socket of a set for every packet, and knows no backlog: a SYN that finds no
//! listening socket is refused. Both are avoided by giving it one connection at a time. `stack` finds the
//! connection of a segment by its addresses and shows smoltcp a set with only that one socket; for a SYN of
//! an unknown peer it makes one. So a packet costs the same however many connections there are, and the
//! backlog is as long as the number of connections allowed.
//!
//! | module | what |
//! |---|---|
//! | `nic` | frames to and from the device |
//! | `stack` | connections, timers, the smoltcp interfaces |
//! | `stream` | a connection as its user sees it |
//!
//! Not here: more than one port, outgoing connections, IPv6, names.

mod nic;
mod stack;
mod stream;

use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::net::Ipv4Addr;
use core::pin::pin;
use core::task::{Poll, Waker};

use virtio_drivers::transport::DeviceType;

use self::nic::Nic;
use self::stack::Stack;
use crate::clock::{Sleep, monotonic_us, sleep_until_us};
use crate::interrupt::Source;
use crate::virtio;

pub use self::stream::{ReadHalf, TcpError, TcpStream, WriteHalf};

/// How the machine gets its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// As given: address and length of the network's prefix.
    Static(Ipv4Addr, u8),
    /// From a DHCP server; connections are accepted once it has answered.
    Dhcp,
}

/// What to listen to.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The machine's address.
    pub address: Address,
    /// TCP port.
    pub port: u16,
    /// Connections there can be at once, handshakes included.
    pub connections_max: usize,
    /// So many more, with buffers just large enough to say that there are too many. Beyond them a client's
    /// SYN is not answered; the client repeats it.
    pub connections_small_max: usize,
}

/// Why there is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// The machine has no virtio-net device.
    Missing,
    /// It does not do what virtio 1.x asks of it.
    Broken,
    /// Not enough memory for its buffers.
    OutOfMemory,
}

impl core::fmt::Display for OpenError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Missing => {
                "no virtio-net device (QEMU: -netdev user,id=net -device virtio-net-device,netdev=net)"
            }
            Self::Broken => "the network device does not behave as a virtio 1.x network device",
            Self::OutOfMemory => "not enough memory for the network",
        })
    }
}

impl core::error::Error for OpenError {}

/// The machine's network. Clones are handles of the same one.
#[derive(Clone)]
pub struct Net {
    shared: Rc<Shared>,
}

struct Shared {
    stack: RefCell<Stack>,
    source: Source,
    /// The task in [`Net::run`], when it waits.
    runner: Cell<Option<Waker>>,
    /// The task in [`Net::accept`], when it waits.
    acceptor: Cell<Option<Waker>>,
    /// The task in [`Net::configured`], when it waits.
    configured: Cell<Option<Waker>>,
    /// The task in [`Net::drained`], when it waits.
    drainer: Cell<Option<Waker>>,
}

impl Net {
    /// Opens the first virtio-net device and listens. `seed` decides what an attacker must not guess:
    /// sequence numbers and where connections lie in the table.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(config: Config, seed: [u8; 16]) -> Result<Self, OpenError> {
        let (transport, slot) = virtio::open(DeviceType::Network, 0).ok_or(OpenError::Missing)?;
        let (first, second) = seed.split_at(8);
        let seed = [first, second]
            .map(|half| half.iter().fold(0, |key, &byte| key << 8 | u64::from(byte)));
        let nic = Nic::new(transport, seed)?;
        let stack = Stack::new(nic, config, seed)?;
        let source = Source::new(&slot).ok_or(OpenError::Broken)?;
        Ok(Self {
            shared: Rc::new(Shared {
                stack: RefCell::new(stack),
                source,
                runner: Cell::default(),
                acceptor: Cell::default(),
                configured: Cell::default(),
                drainer: Cell::default(),
            }),
        })
    }

    /// Moves packets and keeps time, for ever. Nothing does while this future is not polled; spawn it once.
    pub async fn run(&self) -> ! {
        let mut timer: Option<Sleep> = None;
        let mut timer_us = u64::MAX;
        loop {
            let outcome = self.shared.stack.borrow_mut().poll(monotonic_us());
            if outcome.accepted
                && let Some(acceptor) = self.shared.acceptor.take()
            {
                acceptor.wake();
            }
            if self.address().is_some()
                && let Some(configured) = self.shared.configured.take()
            {
                configured.wake();
            }
            if outcome.idle
                && let Some(drainer) = self.shared.drainer.take()
            {
                drainer.wake();
            }
            if outcome.more {
                yield_now().await; // to those whom the packets were for
                continue;
            }
            if timer_us != outcome.deadline_us {
                timer_us = outcome.deadline_us;
                timer = (timer_us != u64::MAX).then(|| sleep_until_us(timer_us));
            }
            let mut interrupt = pin!(self.shared.source.wait());
            poll_fn(|context| {
                let work = self.shared.stack.borrow().has_work();
                let interrupted = interrupt.as_mut().poll(context).is_ready();
                let due = timer
                    .as_mut()
                    .is_some_and(|timer| pin!(timer).poll(context).is_ready());
                if work || interrupted || due {
                    return Poll::Ready(());
                }
                self.shared.runner.set(Some(context.waker().clone()));
                Poll::Pending
            })
            .await;
        }
    }

    /// The next connection. For one task.
    pub async fn accept(&self) -> TcpStream {
        poll_fn(|context| {
            if let Some(index) = self.shared.stack.borrow_mut().take_accepted() {
                return Poll::Ready(TcpStream::new(&self.shared, index));
            }
            self.shared.acceptor.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await
    }

    /// The machine's address, once it has one.
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.shared.stack.borrow().address()
    }

    /// Completes when the machine has an address.
    pub async fn configured(&self) {
        poll_fn(|context| {
            if self.address().is_some() {
                return Poll::Ready(());
            }
            self.shared.configured.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Completes when no connection is left.
    pub async fn drained(&self) {
        poll_fn(|context| {
            if self.shared.stack.borrow().is_idle() {
                return Poll::Ready(());
            }
            self.shared.drainer.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

impl Shared {
    /// Makes [`Net::run`] look at what was changed.
    fn wake_runner(&self) {
        if let Some(runner) = self.runner.take() {
            runner.wake();
        }
    }
}

/// Lets the other tasks run once.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if core::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
