//! The bootable image: owns the devices and joins the parts.
//!
//! Words on the machine's argument line (QEMU's `-append`) set what a running server could not change, or
//! should start with:
//!
//! - `ip=dhcp`, or `ip=192.0.2.7/24`; without it the address QEMU's user network expects, 10.0.2.15/24;
//! - any other `name=value` is a `CONFIG` parameter.
//!
//! The file that comes with the boot (QEMU's `-initrd`), if there is one, is the key file of the disk: a disk that is not encrypted
//! with it is refused, a blank one is formatted with it.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString as _};
use core::cell::RefCell;
use core::time::Duration;

use app::disks::{DiskKey, DisksError, NewIds, open_store};
use app::{Config, Limit, Server};
use embassy_futures::select::select;
use kvstore::Options;
use lfs::{BlockDevice as _, Clock as _, FileSystemId, MemberState, Mirror};
use platform::boot_file;
use platform::clock::Clock;
use platform::disk::Disk;
use platform::executor::{TaskPool, spawn};
use platform::net::{self, Address, Net, TcpStream};
use platform::{console, entropy, memory, power, println};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use zeroize::Zeroizing;

/// The address QEMU's user network forwards connections to.
const DEFAULT_ADDRESS: Address = Address::Static(core::net::Ipv4Addr::new(10, 0, 2, 15), 24);
/// Part of the memory that connections may have for their sockets.
const CONNECTION_MEMORY_SHARE: usize = 4;
/// Memory of one connection's socket.
const CONNECTION_BYTES: usize = 25 << 10;
/// The default `maxclients`.
const CONNECTIONS_MIN: usize = 512;
const CONNECTIONS_MAX: usize = 16_384;
/// So many more can be told at the same time that there are too many.
const CONNECTIONS_SMALL_MAX: usize = 4096;
/// From the end of the service to power-off, for peers to hear of it.
const GOODBYE_MS: u64 = 500;

type AnyError = Box<dyn core::error::Error>;

platform::entry!(run);

async fn run() {
    match serve().await {
        Ok(()) => power::off(0),
        Err(error) => {
            println!("siltstone: {error}");
            power::off(1)
        }
    }
}

/// The whole life of the service, from devices to its clean end.
async fn serve() -> Result<(), AnyError> {
    let mut random = Zeroizing::new([0; 120]);
    entropy::fill(&mut *random)?;
    let (server_seed, rest) = random.split_first_chunk::<32>().ok_or("no seed")?;
    let (disk_id, rest) = rest.split_first_chunk::<16>().ok_or("no seed")?;
    let (member_id, rest) = rest.split_first_chunk::<16>().ok_or("no seed")?;
    let (net_seed, rest) = rest.split_first_chunk::<16>().ok_or("no seed")?;
    let (hash_seed, rest) = rest.split_first_chunk::<8>().ok_or("no seed")?;
    let hash_seed = u64::from_le_bytes(*hash_seed);
    let secrets = RefCell::new(ChaCha20Rng::from_seed(
        *rest.first_chunk().ok_or("no seed")?,
    ));
    let entropy = |bytes: &mut [u8]| secrets.borrow_mut().fill_bytes(bytes);

    let clock = Clock::open();
    let heap_bytes = memory::usage().total_bytes;
    let (config, address) = configure(heap_bytes)?;
    let port = u16::try_from(config.limit(Limit::Port)).unwrap_or(6379);
    let disks = Disk::open_all()?;
    let options = Options {
        memory_bytes_max: config.limit_usize(Limit::MaxMemory),
        // More than clients may fill, so that a store that was full opens again.
        open_memory_bytes_max: heap_bytes - heap_bytes / 4,
        hash_seed,
        history_ms: config.history_ms(),
    };
    for disk in &disks {
        let disk = disk.clone();
        spawn(async move { disk.run().await });
    }
    let ids = NewIds {
        file_system: FileSystemId(*disk_id),
        member: *member_id,
    };
    let key_file = boot_file::take();
    let key = key_file.as_ref().map(|content| DiskKey {
        content,
        entropy: &entropy,
    });
    let say = |text: &str| println!("siltstone: {text}");
    let (store, mirror) = open_store(disks, options, ids, key, say)
        .await
        .map_err(|error| match error {
            DisksError::Foreign => {
                format!("{error}; `make mkfs DISK=…` with its file would erase it")
            }
            error => error.to_string(),
        })?;
    drop(key_file);
    let store = Rc::new(store);
    let connections = heap_bytes / CONNECTION_MEMORY_SHARE / CONNECTION_BYTES;
    let net = Net::open(
        net::Config {
            address,
            port,
            connections_max: connections.clamp(CONNECTIONS_MIN, CONNECTIONS_MAX),
            connections_small_max: CONNECTIONS_SMALL_MAX,
        },
        *net_seed,
    )?;
    let server = Server::new(Rc::clone(&store), clock, *server_seed, config);

    spawn({
        let store = Rc::clone(&store);
        // Large: on the heap once, not in every frame on the way.
        async move { Box::pin(store.run(&clock)).await }
    });
    spawn({
        let mirror = mirror.clone();
        async move { mirror.run(&clock).await }
    });
    spawn({
        let server = Rc::clone(&server);
        async move { server.background().await }
    });
    spawn({
        let net = net.clone();
        async move { net.run().await }
    });
    spawn(accept(net.clone(), Rc::clone(&server)));

    net.configured().await;
    println!(
        "siltstone ready on port {port}: version {}, {}, {} MiB of memory, disk of {} MiB{}, {} commits replayed",
        env!("CARGO_PKG_VERSION"),
        platform::ARCH,
        memory::machine_bytes() >> 20,
        (mirror.geometry().block_count * lfs::BLOCK_SIZE as u64) >> 20,
        describe(&mirror),
        store.stats().replayed_commits,
    );

    select(server.shutdown_requested(), console::interrupt()).await;
    println!("siltstone: shutting down");
    server.shutdown().await?;
    select(net.drained(), clock.sleep_ms(GOODBYE_MS)).await;
    println!("siltstone: clean");
    Ok(())
}

/// The server's configuration and the machine's address, from the argument line.
fn configure(heap_bytes: usize) -> Result<(Config, Address), AnyError> {
    let mut config = Config::for_machine(heap_bytes);
    let mut address = DEFAULT_ADDRESS;
    for word in platform::arguments() {
        match word.split_once('=') {
            Some(("ip", "dhcp")) => address = Address::Dhcp,
            Some(("ip", value)) => {
                address = parse_address(value).ok_or_else(|| {
                    format!("argument {word:?}: not dhcp and not like 192.0.2.7/24")
                })?;
            }
            Some((name, value)) => config
                .set_at_start(name, value)
                .map_err(|error| format!("argument {word:?}: {error}"))?,
            None => return Err(format!("argument {word:?}: not name=value").into()),
        }
    }
    Ok((config, address))
}

fn parse_address(text: &str) -> Option<Address> {
    let (address, prefix) = text.split_once('/')?;
    let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
    Some(Address::Static(address.parse().ok()?, prefix))
}

/// How a mirror stands, for the line that says that the service is ready.
fn describe(mirror: &Mirror<Disk>) -> &'static str {
    match mirror.mirror_status().map(|status| status.members) {
        None => "",
        Some([MemberState::In, MemberState::In]) => ", mirrored",
        Some([MemberState::Absent, _] | [_, MemberState::Absent]) => {
            ", the other disk of its mirror is away"
        }
        Some(_) => ", the other disk of its mirror is brought up to date",
    }
}

type ThisServer = Rc<Server<Mirror<Disk>, Clock>>;

async fn accept(net: Net, server: ThisServer) {
    let sessions = TaskPool::default();
    loop {
        let stream = net.accept().await;
        let keep_alive_secs = server.tcp_keepalive_secs();
        stream.set_keep_alive((keep_alive_secs > 0).then(|| Duration::from_secs(keep_alive_secs)));
        // Without memory for another task the stream is dropped, which resets the connection.
        let _ = sessions.spawn(session(Rc::clone(&server), stream));
    }
}

async fn session(server: ThisServer, mut stream: TcpStream) {
    let peer: String = format!("{}", stream.peer());
    let (reader, writer) = stream.split();
    server.serve(reader, writer, &peer).await;
    stream.close();
}
