//! Connections: finding them, showing them to smoltcp one at a time, and their life.
//!
//! ```text
//! SYN -> Handshake -> Queued (to be accepted) -> Open (has a TcpStream) -> Closing -> freed, kept for reuse
//! ```
//!
//! Invariants:
//! - The table holds exactly the connections that are not free, by the peer's address and port.
//! - An `Open` connection is freed only by its stream, all others only here.
//! - Replies go to the Ethernet address the SYN came from, so no address has to be resolved.
//! - After [`Stack::poll`] the device knows of everything that could be sent.
//!
//! TIME-WAIT is not waited for: sequence numbers are random, and a peer whose last segment was lost is told
//! by a reset.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use hashbrown::HashTable;
use smoltcp::iface::{self, Interface, PollResult, SocketHandle, SocketSet, SocketStorage};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::{dhcpv4, tcp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Cidr};

use super::nic::{ETHERNET_HEADER_BYTES, FRAME_BYTES_MAX, IP_MTU, Nic};
use super::{Address, Config, OpenError};

/// Bytes a connection can receive and send ahead.
const BUFFER_BYTES: (usize, usize) = (8 * 1024, 16 * 1024);
/// The same for one of the many that probably only hear that they are too many.
const SMALL_BUFFER_BYTES: (usize, usize) = (1024, 1024);
/// Connections of the ordinary kind whose memory is kept for the next ones.
const POOLED_MAX: usize = 64;

/// From SYN to the end of the handshake.
const HANDSHAKE_US: u64 = 10_000_000;
/// From closing until the peer has everything and has closed too.
const LINGER_US: u64 = 10_000_000;
/// How long opening or closing may take when others wait for room.
const PATIENCE_US: u64 = 1_000_000;
/// The same when the peer has everything, and only has to close too.
const FAREWELL_US: u64 = 200_000;
/// When smoltcp asks to be polled at once and, polled, does nothing.
const AGAIN_US: u64 = 1000;
/// From finding no room to looking again.
const FULL_PAUSE_US: u64 = 10_000;
/// A silent peer is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// A peer that acknowledges nothing for so long is gone.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Frames taken in before the tasks they are for get to run.
const FRAMES_PER_POLL: usize = 128;
/// Segments a connection sends before it is another's turn.
const SEGMENTS_PER_TURN: usize = 16;

/// A peer: address and port.
type Peer = (Ipv4Addr, u16);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Handshake,
    Queued,
    Open,
    /// The stream is gone; what is left to send is sent until then.
    Closing,
}

pub(super) struct Connection {
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    peer: Peer,
    peer_mac: [u8; 6],
    is_small: bool,
    phase: Phase,
    /// When `phase` ends by force, if it does.
    phase_ends_us: u64,
    /// When smoltcp wants to be asked again.
    deadline_us: u64,
    /// Whether it is in `Stack::work`.
    queued_for_work: bool,
}

impl Connection {
    fn new(is_small: bool) -> Option<Box<Self>> {
        let (receive_bytes, transmit_bytes) = if is_small {
            SMALL_BUFFER_BYTES
        } else {
            BUFFER_BYTES
        };
        let buffer = |bytes| {
            let mut memory = Vec::new();
            memory.try_reserve_exact(bytes).ok()?;
            memory.resize(bytes, 0);
            Some(tcp::SocketBuffer::new(memory))
        };
        let mut storage = Vec::new();
        storage.try_reserve_exact(1).ok()?;
        storage.push(SocketStorage::EMPTY);
        let mut socket = tcp::Socket::new(buffer(receive_bytes)?, buffer(transmit_bytes)?);
        socket.set_nagle_enabled(false); // replies come in whole batches
        let mut sockets = SocketSet::new(storage);
        let handle = sockets.add(socket);
        Some(Box::new(Self {
            sockets,
            handle,
            peer: (Ipv4Addr::UNSPECIFIED, 0),
            peer_mac: [0; 6],
            is_small,
            phase: Phase::Handshake,
            phase_ends_us: u64::MAX,
            deadline_us: u64::MAX,
            queued_for_work: false,
        }))
    }

    pub(super) fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }
}

/// What [`Stack::poll`] did.
pub(super) struct Outcome {
    /// There are new connections to accept.
    pub(super) accepted: bool,
    /// There is more to do, after those have run for whom something came.
    pub(super) more: bool,
    /// There is no connection.
    pub(super) idle: bool,
    /// When to poll again if nothing happens; `u64::MAX` for never.
    pub(super) deadline_us: u64,
}

pub(super) struct Stack {
    nic: Nic,
    /// For everything but TCP: ARP, DHCP.
    ethernet: Interface,
    ethernet_sockets: SocketSet<'static>,
    dhcp: Option<SocketHandle>,
    ethernet_deadline_us: u64,
    /// For TCP and what else is answered to whoever asked: knows no Ethernet.
    ip: Interface,
    no_sockets: SocketSet<'static>,
    port: u16,
    connections: Vec<Option<Box<Connection>>>,
    free_indices: Vec<usize>,
    #[expect(clippy::vec_box, reason = "moves to and from `connections`")]
    pool: Vec<Box<Connection>>,
    table: HashTable<usize>,
    hash_key: u64,
    /// So many have buffers of the ordinary size.
    ordinary_max: usize,
    /// Indices from here on are free.
    used_end: usize,
    /// No room was found; there is no use in looking again before then.
    full_until_us: u64,
    accepted: VecDeque<usize>,
    /// Connections that were touched and have to be looked at.
    work: VecDeque<usize>,
    /// Not later than the earliest deadline of all connections.
    deadline_us: u64,
    /// The device had no buffer for something that wants to be sent.
    congested: bool,
}

fn instant(now_us: u64) -> Instant {
    Instant::from_micros(i64::try_from(now_us).unwrap_or(i64::MAX))
}

fn micros(instant: Option<Instant>) -> u64 {
    instant.map_or(u64::MAX, |instant| {
        u64::try_from(instant.total_micros()).unwrap_or(0)
    })
}

impl Stack {
    pub(super) fn new(mut nic: Nic, config: Config, seed: [u64; 2]) -> Result<Self, OpenError> {
        let mac = EthernetAddress(nic.mac());
        let mut port = Port {
            nic: &mut nic,
            frame: None,
            medium: Medium::Ethernet,
            peer_mac: [0; 6],
        };
        let mut ethernet_config = iface::Config::new(HardwareAddress::Ethernet(mac));
        let [random_seed, hash_key] = seed;
        ethernet_config.random_seed = random_seed;
        let ethernet = Interface::new(ethernet_config, &mut port, Instant::ZERO);
        port.medium = Medium::Ip;
        let mut ip_config = iface::Config::new(HardwareAddress::Ip);
        ip_config.random_seed = random_seed.rotate_left(32) ^ hash_key;
        let ip = Interface::new(ip_config, &mut port, Instant::ZERO);

        let mut ethernet_sockets = SocketSet::new(Vec::new());
        let dhcp =
            (config.address == Address::Dhcp).then(|| ethernet_sockets.add(dhcpv4::Socket::new()));
        let mut stack = Self {
            nic,
            ethernet,
            ethernet_sockets,
            dhcp,
            ethernet_deadline_us: if dhcp.is_some() { 0 } else { u64::MAX },
            ip,
            no_sockets: SocketSet::new(Vec::new()),
            port: config.port,
            connections: Vec::new(),
            free_indices: Vec::new(),
            pool: Vec::new(),
            table: HashTable::new(),
            hash_key: hash_key | 1,
            ordinary_max: config.connections_max,
            used_end: 0,
            full_until_us: 0,
            accepted: VecDeque::new(),
            work: VecDeque::new(),
            deadline_us: u64::MAX,
            congested: false,
        };
        stack
            .pool
            .try_reserve_exact(POOLED_MAX)
            .map_err(|_| OpenError::OutOfMemory)?;
        stack.reserve(
            config
                .connections_max
                .saturating_add(config.connections_small_max),
        )?;
        if let Address::Static(address, prefix) = config.address {
            stack.set_address(Some(Ipv4Cidr::new(address, prefix.min(32))));
        }
        Ok(stack)
    }

    /// Makes room for `slots` connections: everything they need beside their own memory, so that nothing
    /// has to grow later.
    fn reserve(&mut self, slots: usize) -> Result<(), OpenError> {
        let out_of_memory = |_| OpenError::OutOfMemory;
        self.connections
            .try_reserve_exact(slots)
            .map_err(out_of_memory)?;
        self.free_indices
            .try_reserve_exact(slots)
            .map_err(out_of_memory)?;
        self.accepted
            .try_reserve_exact(slots)
            .map_err(out_of_memory)?;
        self.work.try_reserve_exact(slots).map_err(out_of_memory)?;
        self.table
            .try_reserve(slots, |_| 0)
            .map_err(|_| OpenError::OutOfMemory)?;
        self.connections.extend((0..slots).map(|_| None));
        self.free_indices.extend((0..slots).rev());
        Ok(())
    }

    fn set_address(&mut self, address: Option<Ipv4Cidr>) {
        for interface in [&mut self.ethernet, &mut self.ip] {
            interface.update_ip_addrs(|addresses| {
                addresses.clear();
                if let Some(address) = address {
                    // There is room for one after `clear`.
                    let _ = addresses.push(IpCidr::Ipv4(address));
                }
            });
        }
    }

    pub(super) fn address(&self) -> Option<Ipv4Addr> {
        self.ip.ipv4_addr()
    }

    /// Takes in frames, serves the connections they and the streams touched, and keeps time.
    pub(super) fn poll(&mut self, now_us: u64) -> Outcome {
        let now = instant(now_us);
        let had_accepted = self.accepted.len();
        self.nic.interrupt_on_receive(false);
        let mut frames = 0;
        // Every frame may need an answer, so none is taken without a buffer for that.
        while frames < FRAMES_PER_POLL && self.nic.sendable() > 0 {
            let Some(received) = self.nic.receive() else {
                break;
            };
            self.frame(now, now_us, received.frame());
            self.nic.recycle(received);
            frames += 1;
        }
        if self.nic.relieved() {
            self.congested = false;
        }
        self.expire(now_us);
        self.serve(now, now_us);
        self.poll_ethernet(now, now_us);
        if self.nic.sendable() == 0 {
            self.congested = true;
        }
        if self.congested {
            self.nic.wants_buffer();
        }
        self.nic.notify();

        self.nic.interrupt_on_receive(true);
        let more = (self.nic.has_received() && self.nic.sendable() > 0) || self.has_work();
        Outcome {
            accepted: self.accepted.len() > had_accepted,
            more,
            idle: self.is_idle(),
            // Without buffers there is nothing to do before one comes back.
            deadline_us: if self.congested {
                u64::MAX
            } else {
                self.deadline_us.min(self.ethernet_deadline_us)
            },
        }
    }

    /// Whether connections wait to be served, and can be.
    pub(super) fn has_work(&self) -> bool {
        !self.congested && !self.work.is_empty()
    }

    /// One frame from the device.
    fn frame(&mut self, now: Instant, now_us: u64, frame: &[u8]) {
        let Some(segment) = Segment::parse(frame) else {
            if is_arp_or_udp(frame) {
                let mut port = Port {
                    nic: &mut self.nic,
                    frame: Some(frame),
                    medium: Medium::Ethernet,
                    peer_mac: [0; 6],
                };
                self.ethernet
                    .poll_ingress_single(now, &mut port, &mut self.ethernet_sockets);
                self.ethernet_deadline_us = 0;
            } else {
                self.answer_unknown(now, frame);
            }
            return;
        };
        if segment.destination_mac != self.nic.mac() || Some(segment.destination) != self.address()
        {
            return;
        }
        let index = if segment.destination_port == self.port {
            self.find(segment.peer).or_else(|| {
                if segment.is_syn {
                    self.begin(now_us, &segment)
                } else {
                    None
                }
            })
        } else {
            None
        };
        let Some((index, connection)) =
            index.and_then(|index| Some((index, self.connections.get_mut(index)?.as_mut()?)))
        else {
            if !(segment.is_syn && segment.destination_port == self.port) {
                self.answer_unknown(now, frame); // answers with a reset
            }
            // A SYN for which there is no room is not answered: the peer tries again.
            return;
        };
        let mut port = Port {
            nic: &mut self.nic,
            frame: Some(frame),
            medium: Medium::Ip,
            peer_mac: connection.peer_mac,
        };
        self.ip
            .poll_ingress_single(now, &mut port, &mut connection.sockets);
        self.touch(index);
    }

    /// A packet no connection is meant by: smoltcp answers pings and refuses segments.
    fn answer_unknown(&mut self, now: Instant, frame: &[u8]) {
        let Some(&peer_mac) = frame.get(6..).and_then(<[u8]>::first_chunk) else {
            return;
        };
        let mut port = Port {
            nic: &mut self.nic,
            frame: Some(frame),
            medium: Medium::Ip,
            peer_mac,
        };
        self.ip
            .poll_ingress_single(now, &mut port, &mut self.no_sockets);
    }

    fn find(&self, peer: Peer) -> Option<usize> {
        let connections = &self.connections;
        self.table
            .find(hash(self.hash_key, peer), |&index| {
                peer_at(connections, index) == peer
            })
            .copied()
    }

    /// Makes a connection for a SYN, if there is room and memory for one.
    fn begin(&mut self, now_us: u64, segment: &Segment) -> Option<usize> {
        if !self.make_room(now_us) {
            return None;
        }
        let is_small = self.table.len() >= self.ordinary_max;
        let pooled = if is_small { None } else { self.pool.pop() };
        let mut connection = pooled.or_else(|| Connection::new(is_small))?;
        let index = self.free_indices.pop()?;
        self.used_end = self.used_end.max(index + 1);
        connection.peer = segment.peer;
        connection.peer_mac = segment.source_mac;
        connection.phase = Phase::Handshake;
        connection.phase_ends_us = now_us + HANDSHAKE_US;
        connection.deadline_us = u64::MAX;
        connection.queued_for_work = false;
        let socket = connection.socket();
        socket.set_keep_alive(Some(KEEP_ALIVE));
        socket.set_timeout(Some(TIMEOUT));
        let listening = socket.listen(self.port).is_ok();
        if let Some(slot) = self.connections.get_mut(index)
            && listening
        {
            *slot = Some(connection);
        } else {
            self.free_indices.push(index);
            return None;
        }
        let (key, connections) = (self.hash_key, &self.connections);
        self.table
            .insert_unique(hash(key, segment.peer), index, |&index| {
                hash(key, peer_at(connections, index))
            });
        Some(index)
    }

    /// Frees the connections that matter least when all are taken: closed ones whose peer has everything and
    /// only does not close, and those that have been about to open or close for long. Whether there is room.
    fn make_room(&mut self, now_us: u64) -> bool {
        if !self.free_indices.is_empty() {
            return true;
        }
        // Looking at all of them for every SYN of a flood would be an attack on ourselves.
        if now_us < self.full_until_us {
            return false;
        }
        self.full_until_us = now_us + FULL_PAUSE_US;
        for index in 0..self.connections.len() {
            let Some(Some(connection)) = self.connections.get_mut(index) else {
                continue;
            };
            let peer_has_all = connection.socket().state() == tcp::State::FinWait2;
            let (limit_us, patience_us) = match connection.phase {
                Phase::Handshake => (HANDSHAKE_US, PATIENCE_US),
                Phase::Closing if peer_has_all => (LINGER_US, FAREWELL_US),
                Phase::Closing => (LINGER_US, PATIENCE_US),
                Phase::Queued | Phase::Open => continue,
            };
            let began_us = connection.phase_ends_us.saturating_sub(limit_us);
            if now_us > began_us + patience_us {
                self.free(index);
            }
        }
        !self.free_indices.is_empty()
    }

    /// Has a connection looked at in the next poll.
    pub(super) fn touch(&mut self, index: usize) {
        if let Some(Some(connection)) = self.connections.get_mut(index)
            && !connection.queued_for_work
        {
            connection.queued_for_work = true;
            self.work.push_back(index);
        }
    }

    /// Touches the connections whose time has come.
    fn expire(&mut self, now_us: u64) {
        if now_us < self.deadline_us {
            return;
        }
        self.deadline_us = u64::MAX;
        for index in 0..core::mem::take(&mut self.used_end) {
            let Some(Some(connection)) = self.connections.get_mut(index) else {
                continue;
            };
            self.used_end = index + 1;
            let next_us = connection.deadline_us.min(connection.phase_ends_us);
            if next_us <= now_us {
                self.touch(index);
            } else {
                self.deadline_us = self.deadline_us.min(next_us);
            }
        }
    }

    /// Serves every connection that was touched, once.
    fn serve(&mut self, now: Instant, now_us: u64) {
        for _ in 0..self.work.len() {
            if self.congested {
                return;
            }
            let Some(index) = self.work.pop_front() else {
                return;
            };
            self.serve_one(now, now_us, index);
        }
    }

    fn serve_one(&mut self, now: Instant, now_us: u64, index: usize) {
        let Some(Some(connection)) = self.connections.get_mut(index) else {
            return;
        };
        connection.queued_for_work = false;
        if now_us >= connection.phase_ends_us {
            connection.socket().abort();
        }
        if connection.phase == Phase::Closing {
            // Nobody reads it any more, and a peer must not wait for room.
            let socket = connection.socket();
            while socket.can_recv() && socket.recv(|bytes| (bytes.len(), ())).is_ok() {}
        }

        let mut port = Port {
            nic: &mut self.nic,
            frame: None,
            medium: Medium::Ip,
            peer_mac: connection.peer_mac,
        };
        let mut segments = 0;
        loop {
            // The last buffer is for answers to frames.
            if port.nic.sendable() <= 1 {
                self.congested = true;
                connection.queued_for_work = true;
                self.work.push_front(index);
                break;
            }
            if segments == SEGMENTS_PER_TURN {
                connection.queued_for_work = true;
                self.work.push_back(index);
                break;
            }
            if self.ip.poll_egress(now, &mut port, &mut connection.sockets) == PollResult::None {
                break;
            }
            segments += 1;
        }
        connection.deadline_us =
            micros(self.ip.poll_at(now, &connection.sockets)).max(now_us + AGAIN_US);
        let next_us = connection.deadline_us.min(connection.phase_ends_us);

        let state = connection.socket().state();
        let waits_to_send = connection.queued_for_work;
        match connection.phase {
            Phase::Handshake => match state {
                tcp::State::Established | tcp::State::CloseWait => {
                    connection.phase = Phase::Queued;
                    connection.phase_ends_us = u64::MAX;
                    self.accepted.push_back(index);
                }
                tcp::State::SynReceived => {}
                _ => return self.free(index),
            },
            Phase::Queued | Phase::Open => {}
            Phase::Closing => {
                if matches!(state, tcp::State::Closed | tcp::State::TimeWait) && !waits_to_send {
                    return self.free(index);
                }
            }
        }
        self.deadline_us = self.deadline_us.min(next_us);
    }

    fn poll_ethernet(&mut self, now: Instant, now_us: u64) {
        if now_us < self.ethernet_deadline_us {
            return;
        }
        let mut port = Port {
            nic: &mut self.nic,
            frame: None,
            medium: Medium::Ethernet,
            peer_mac: [0; 6],
        };
        self.ethernet
            .poll_egress(now, &mut port, &mut self.ethernet_sockets);
        let event = self.dhcp.and_then(|handle| {
            match self
                .ethernet_sockets
                .get_mut::<dhcpv4::Socket<'_>>(handle)
                .poll()?
            {
                dhcpv4::Event::Configured(config) => Some(Some(config.address)),
                dhcpv4::Event::Deconfigured => Some(None),
            }
        });
        if let Some(address) = event {
            self.set_address(address);
        }
        let next_us = micros(self.ethernet.poll_at(now, &self.ethernet_sockets));
        self.ethernet_deadline_us = next_us.max(now_us + AGAIN_US);
    }

    /// Takes a connection out of everything and keeps its memory for another.
    fn free(&mut self, index: usize) {
        let Some(mut connection) = self.connections.get_mut(index).and_then(Option::take) else {
            return;
        };
        let hash = hash(self.hash_key, connection.peer);
        if let Ok(entry) = self.table.find_entry(hash, |&other| other == index) {
            entry.remove();
        }
        if connection.queued_for_work {
            self.work.retain(|&other| other != index);
        }
        self.free_indices.push(index);
        if !connection.is_small && self.pool.len() < POOLED_MAX {
            // Closed for whoever may still hold a waker; `listen` begins a new life.
            connection.socket().abort();
            self.pool.push(connection);
        }
    }

    /// The next connection that nobody has a stream of.
    pub(super) fn take_accepted(&mut self) -> Option<usize> {
        let index = self.accepted.pop_front()?;
        if let Some(Some(connection)) = self.connections.get_mut(index) {
            connection.phase = Phase::Open;
        }
        Some(index)
    }

    pub(super) fn connection(&mut self, index: usize) -> Option<&mut Connection> {
        self.connections.get_mut(index)?.as_deref_mut()
    }

    /// Whether there is no connection any more.
    pub(super) fn is_idle(&self) -> bool {
        self.table.is_empty()
    }

    pub(super) fn peer(&self, index: usize) -> Peer {
        peer_at(&self.connections, index)
    }

    /// The stream of a connection is gone. What it wrote is sent, unless `abort`.
    pub(super) fn release(&mut self, index: usize, now_us: u64, abort: bool) {
        let Some(Some(connection)) = self.connections.get_mut(index) else {
            return;
        };
        connection.phase = Phase::Closing;
        connection.phase_ends_us = now_us + LINGER_US;
        let socket = connection.socket();
        if abort {
            socket.abort();
        } else {
            socket.close();
        }
        self.touch(index);
    }
}

fn peer_at(connections: &[Option<Box<Connection>>], index: usize) -> Peer {
    match connections.get(index) {
        Some(Some(connection)) => connection.peer,
        _ => (Ipv4Addr::UNSPECIFIED, 0),
    }
}

/// A universal hash: whoever does not know the key cannot choose peers that collide.
fn hash(key: u64, (address, port): Peer) -> u64 {
    let peer = u64::from(address.to_bits()) << 16 | u64::from(port);
    let product = u128::from(peer ^ key.rotate_left(17)) * u128::from(key);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "both halves are folded into one"
    )]
    let folded = (product >> 64) as u64 ^ product as u64;
    folded
}

/// What the demultiplexer needs to know of a TCP segment.
struct Segment {
    destination_mac: [u8; 6],
    source_mac: [u8; 6],
    destination: Ipv4Addr,
    peer: Peer,
    destination_port: u16,
    /// SYN and neither ACK nor RST nor FIN.
    is_syn: bool,
}

const ETHERTYPE: usize = 12;
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const FIN_SYN_RST_ACK: u8 = 0b1_0111;
const SYN: u8 = 0b10;

fn bytes<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..)?.first_chunk().copied()
}

impl Segment {
    /// Reads addresses and flags; smoltcp checks everything else later. `None` for what is not an
    /// unfragmented TCP segment over IPv4.
    fn parse(frame: &[u8]) -> Option<Self> {
        let ip = ETHERNET_HEADER_BYTES;
        if bytes(frame, ETHERTYPE)? != IPV4 {
            return None;
        }
        let [version_and_length] = bytes(frame, ip)?;
        let [protocol] = bytes(frame, ip + 9)?;
        let fragment = u16::from_be_bytes(bytes(frame, ip + 6)?) & 0x3fff;
        if version_and_length >> 4 != 4 || protocol != PROTOCOL_TCP || fragment != 0 {
            return None;
        }
        let tcp = ip + usize::from(version_and_length & 0xf) * 4;
        let [flags] = bytes(frame, tcp + 13)?;
        Some(Self {
            destination_mac: bytes(frame, 0)?,
            source_mac: bytes(frame, 6)?,
            destination: Ipv4Addr::from(bytes::<4>(frame, ip + 16)?),
            peer: (
                Ipv4Addr::from(bytes::<4>(frame, ip + 12)?),
                u16::from_be_bytes(bytes(frame, tcp)?),
            ),
            destination_port: u16::from_be_bytes(bytes(frame, tcp + 2)?),
            is_syn: flags & FIN_SYN_RST_ACK == SYN,
        })
    }
}

fn is_arp_or_udp(frame: &[u8]) -> bool {
    match bytes(frame, ETHERTYPE) {
        Some(ARP) => true,
        Some(IPV4) => bytes(frame, ETHERNET_HEADER_BYTES + 9) == Some([PROTOCOL_UDP]),
        _ => false,
    }
}

/// The device as smoltcp sees it: at most one frame to take in, and Ethernet only if it asks for it.
struct Port<'a> {
    nic: &'a mut Nic,
    frame: Option<&'a [u8]>,
    medium: Medium,
    peer_mac: [u8; 6],
}

struct Taken<'a>(&'a [u8]);

struct Sender<'a> {
    nic: &'a mut Nic,
    /// Whom to send packets to; `None` when smoltcp writes whole frames.
    peer_mac: Option<[u8; 6]>,
}

impl Port<'_> {
    fn sender(&mut self) -> Sender<'_> {
        let peer_mac = (self.medium == Medium::Ip).then_some(self.peer_mac);
        Sender {
            nic: self.nic,
            peer_mac,
        }
    }
}

impl Device for Port<'_> {
    type RxToken<'b>
        = Taken<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Sender<'b>
    where
        Self: 'b;

    fn receive(&mut self, _now: Instant) -> Option<(Taken<'_>, Sender<'_>)> {
        let frame = self.frame.take()?;
        let taken = match self.medium {
            Medium::Ethernet => frame,
            Medium::Ip => frame.get(ETHERNET_HEADER_BYTES..)?,
        };
        Some((Taken(taken), self.sender()))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sender<'_>> {
        (self.nic.sendable() > 0).then(|| self.sender())
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = self.medium;
        capabilities.max_transmission_unit = match self.medium {
            Medium::Ethernet => FRAME_BYTES_MAX,
            Medium::Ip => IP_MTU,
        };
        capabilities
    }
}

impl phy::RxToken for Taken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl phy::TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let Some(peer_mac) = self.peer_mac else {
            return self.nic.send(len, f);
        };
        let mac = self.nic.mac();
        self.nic.send(ETHERNET_HEADER_BYTES + len, |frame| {
            let Some((header, packet)) = frame.split_at_mut_checked(ETHERNET_HEADER_BYTES) else {
                return f(&mut []);
            };
            for (place, byte) in header
                .iter_mut()
                .zip(peer_mac.into_iter().chain(mac).chain(IPV4))
            {
                *place = byte;
            }
            f(packet)
        })
    }
}
