//! The server as a Linux process: a file as the disk, the host's sockets.
//!
//! A tool for profiling, tests and comparison; the image is the product. The server is the same one, single-threaded on
//! [`lfs::host`]'s executor.

mod sockets;

use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use app::disks::{DiskKey, DisksError, NewIds, make_file_system, open_store};
use app::{Config, Limit, Server};
use clap::Parser;
use kvstore::Options;
use lfs::FileSystemId;
use lfs::host::{
    Access, FileDevice, HostClock, entropy, interrupted, parse_size, random, read_secret,
};

/// For tests: a seed, by which reads of keys miss at random as if the keys were on the disk only.
const MISSES: &str = "SILTSTONE_MISSES";

/// When the host does not tell its memory.
const MEMORY_BYTES_DEFAULT: usize = 1 << 30;

/// Siltstone as a Linux process.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// File that is the disk; created when missing.
    #[arg(long)]
    disk: PathBuf,
    /// File that is a second disk, the mirror of the first; created when missing, as large as that.
    #[arg(long)]
    disk2: Option<PathBuf>,
    /// Size of a disk that is created, such as 256M.
    #[arg(long, visible_alias = "size", default_value = "256M", value_parser = parse_size)]
    disk_size: u64,
    /// The key of an encrypted disk: a file of 32 bytes to 64 KiB. A blank disk is encrypted with it; a disk that is not
    /// encrypted is refused with it.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Makes a new, empty file system on the disk, whatever it holds.
    #[arg(long, conflicts_with = "disk2")]
    format: bool,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    bind: String,
    /// Port to listen on; 0 for any that is free.
    #[arg(long, default_value_t = 6379)]
    port: u16,
    /// Memory for data, such as 1gb; half of the machine's unless given.
    #[arg(long)]
    maxmemory: Option<String>,
    /// A configuration parameter; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    config: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = lfs::host::run(run(arguments));
    match outcome.unwrap_or_else(|error| Err(format!("no runtime: {error}"))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("siltstone: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), String> {
    let memory_bytes = memory_bytes();
    let mut config = configure(&arguments, memory_bytes)?;
    let no_chance = |error: io::Error| format!("no random bytes from the kernel: {error}");
    let options = Options {
        memory_bytes_max: config.limit_usize(Limit::MaxMemory),
        // Room for data that was written under a larger limit than today's.
        open_memory_bytes_max: memory_bytes / 4 * 3,
        hash_seed: u64::from_le_bytes(random().map_err(no_chance)?),
        history_ms: config.history_ms(),
    };
    let ids = NewIds {
        file_system: FileSystemId(random().map_err(no_chance)?),
        member: random().map_err(no_chance)?,
    };
    let key_file = match &arguments.key_file {
        Some(path) => Some(read_key(path)?),
        None => None,
    };
    let key = key_file.as_deref().map(|content| DiskKey {
        content,
        entropy: &entropy,
    });
    let first = open_disk(&arguments.disk, arguments.disk_size)?;
    let size_bytes = first.size_bytes();
    let mut disks = vec![first];
    if let Some(second) = &arguments.disk2 {
        disks.push(open_disk(second, size_bytes)?);
    }
    let of_disk = |error: DisksError| {
        let hint = match error {
            DisksError::Foreign => "; --format would overwrite it",
            _ => "",
        };
        format!("{}: {error}{hint}", arguments.disk.display())
    };
    if arguments.format {
        let made = make_file_system(&disks, ids, key).await;
        made.map_err(of_disk)?;
        println!("siltstone: formatted");
    }
    let say = |text: &str| println!("siltstone: {text}");
    let opened = open_store(disks, options, ids, key, say).await;
    let (store, mirror) = opened.map_err(of_disk)?;
    drop(key_file);
    if let Ok(seed) = std::env::var(MISSES) {
        let seed = seed
            .parse()
            .map_err(|_| format!("{MISSES}={seed}: not a number"))?;
        store.miss_at_random(seed);
        println!("siltstone: reads of keys miss at random, {MISSES}={seed}");
    }
    let store = Rc::new(store);

    let listener = sockets::listen(&arguments.bind, arguments.port)?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    set(&mut config, "port", &address.port().to_string())?;
    let seed = random().map_err(no_chance)?;
    let server = Server::new(Rc::clone(&store), HostClock::new(), seed, config);

    let mut log =
        tokio::task::spawn_local(async move { Box::pin(store.run(&HostClock::new())).await });
    tokio::task::spawn_local(async move { mirror.run(&HostClock::new()).await });
    let background = Rc::clone(&server);
    tokio::task::spawn_local(async move { background.background().await });
    println!("siltstone ready on {address}");

    tokio::select! {
        () = sockets::accept(&listener, &server) => {}
        () = server.shutdown_requested() => {}
        () = interrupted() => println!("siltstone: interrupted"),
        // The log ends by itself only when the disk has failed; what is in memory can still be read.
        _ = &mut log => {
            eprintln!("siltstone: the disk has failed; the store is read-only until it is restarted");
            tokio::select! {
                () = sockets::accept(&listener, &server) => {}
                () = server.shutdown_requested() => {}
                () = interrupted() => println!("siltstone: interrupted"),
            }
        }
    }
    drop(listener);
    tokio::select! {
        outcome = server.shutdown() => outcome.map_err(|error| error.to_string())?,
        () = interrupted() => return Err("interrupted while shutting down".to_owned()),
    }
    println!("siltstone: bye");
    Ok(())
}

fn configure(arguments: &Arguments, memory_bytes: usize) -> Result<Config, String> {
    let mut config = Config::for_machine(memory_bytes);
    set(&mut config, "bind", &arguments.bind)?;
    set(&mut config, "port", &arguments.port.to_string())?;
    if let Some(maxmemory) = &arguments.maxmemory {
        set(&mut config, "maxmemory", maxmemory)?;
    }
    for setting in &arguments.config {
        let (name, value) = setting
            .split_once('=')
            .ok_or_else(|| format!("--config {setting}: no '='"))?;
        set(&mut config, name, value)?;
    }
    Ok(config)
}

fn set(config: &mut Config, name: &str, value: &str) -> Result<(), String> {
    config
        .set_at_start(name, value)
        .map_err(|error| error.to_string())
}

/// The disk at `path`: a file of `size_bytes` is made where there is none, or an empty one.
fn open_disk(path: &Path, size_bytes: u64) -> Result<FileDevice, String> {
    let open = || match FileDevice::open(path, Access::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            FileDevice::create(path, size_bytes)
        }
        opened => {
            let disk = opened?;
            if disk.is_empty()? {
                disk.resize(size_bytes)?;
            }
            Ok(disk)
        }
    };
    open().map_err(|error| format!("{}: {error}", path.display()))
}

fn read_key(path: &Path) -> Result<impl Deref<Target = Vec<u8>>, String> {
    read_secret(path).map_err(|error| format!("key file {}: {error}", path.display()))
}

/// Memory of the machine.
fn memory_bytes() -> usize {
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
