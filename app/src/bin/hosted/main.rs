//! The server as a Linux process: a file as the disk, the host's sockets.
//!
//! A tool for profiling, tests and comparison; the image is the product. The server is the same one: single-threaded
//! on tokio's current-thread runtime, with the runtime's blocking threads for the disk.

mod host;

use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

use app::{Config, Limit, Server};
use clap::Parser;
use host::clock::HostClock;
use host::disk::FileDisk;
use kvstore::{Options, Store};
use lfs::{BlockDevice as _, CommonPart, FileSystemId, Mirror, MirrorError};
use tokio::task::LocalSet;

/// Siltstone as a Linux process.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// File that is the disk; created when missing.
    #[arg(long)]
    disk: PathBuf,
    /// File that is a second disk, the mirror of the first; created when missing.
    #[arg(long)]
    disk2: Option<PathBuf>,
    /// Size of a disk that is created, such as 256M.
    #[arg(long, visible_alias = "size", default_value = "256M", value_parser = host::parse_size)]
    disk_size: u64,
    /// Makes a new, empty file system on the disk, whatever it holds.
    #[arg(long)]
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = runtime
        .map_err(|error| format!("no runtime: {error}"))
        .and_then(|runtime| LocalSet::new().block_on(&runtime, run(arguments)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("siltstone: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), String> {
    let memory_bytes = host::memory_bytes();
    let mut config = configure(&arguments, memory_bytes)?;
    let seed = host::seed()?;
    let disk = open_disks(&arguments, &seed).await?;
    let mirror = disk.clone();
    let options = Options {
        memory_bytes_max: config.limit_usize(Limit::MaxMemory),
        // Room for data that was written under a larger limit than today's.
        open_memory_bytes_max: memory_bytes / 4 * 3,
        hash_seed: u64::from_le_bytes(*host::seed()?.first_chunk().ok_or("no seed")?),
    };
    let store = Store::open(disk, options)
        .await
        .map_err(|error| format!("{}: {error}", arguments.disk.display()))?;
    let store = Rc::new(store);

    let listener = host::listen(&arguments.bind, arguments.port)?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    set(&mut config, "port", &address.port().to_string())?;
    let server = Server::new(Rc::clone(&store), HostClock::new(), seed, config);

    let mut log =
        tokio::task::spawn_local(async move { Box::pin(store.run(&HostClock::new())).await });
    tokio::task::spawn_local(async move { mirror.run(&HostClock::new()).await });
    let background = Rc::clone(&server);
    tokio::task::spawn_local(async move { background.background().await });
    println!("siltstone ready on {address}");

    tokio::select! {
        () = host::accept(&listener, &server) => {}
        () = server.shutdown_requested() => {}
        () = host::interrupted() => println!("siltstone: interrupted"),
        // The log ends by itself only when the disk has failed; what is in memory can still be read.
        _ = &mut log => {
            eprintln!("siltstone: the disk has failed; the store is read-only until it is restarted");
            tokio::select! {
                () = host::accept(&listener, &server) => {}
                () = server.shutdown_requested() => {}
                () = host::interrupted() => println!("siltstone: interrupted"),
            }
        }
    }
    drop(listener);
    tokio::select! {
        outcome = server.shutdown() => outcome.map_err(|error| error.to_string())?,
        () = host::interrupted() => return Err("interrupted while shutting down".to_owned()),
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

/// Opens one disk or two, and makes a file system where there is nothing or where told to.
async fn open_disks(arguments: &Arguments, seed: &[u8; 32]) -> Result<Mirror<FileDisk>, String> {
    let (id, rest) = seed.split_first_chunk::<16>().ok_or("no seed")?;
    let member_id = *rest.first_chunk::<16>().ok_or("no seed")?;
    let open = |path: &PathBuf| {
        let disk = FileDisk::open(path, arguments.disk_size);
        disk.map_err(|error| format!("{}: {error}", path.display()))
    };
    let mut disks = vec![open(&arguments.disk)?];
    if let Some(second) = &arguments.disk2 {
        disks.push(open(second)?);
    }
    let id = FileSystemId(*id);
    let [disk] = disks.as_slice() else {
        return open_two(disks, arguments.format, id, member_id).await;
    };
    let place = arguments.disk.display();
    let content = lfs::probe(disk).await;
    match content.map_err(|error| format!("{place}: {error}"))? {
        lfs::Content::FileSystem if !arguments.format => {}
        lfs::Content::Unknown if !arguments.format => {
            return Err(format!(
                "{place} holds something that is not Siltstone's; --format would overwrite it"
            ));
        }
        _ => {
            format(&disks, id).await?;
            println!("siltstone: {place} formatted");
        }
    }
    let opened = Mirror::open(disks, member_id).await;
    opened.map_err(|error| format!("{place}: {error}"))
}

async fn open_two(
    disks: Vec<FileDisk>,
    anew: bool,
    id: FileSystemId,
    member_id: [u8; 16],
) -> Result<Mirror<FileDisk>, String> {
    if anew {
        return Err("--format is for one disk; make the other one blank".to_owned());
    }
    match Mirror::open(disks.clone(), member_id).await {
        Err(MirrorError::Blank) => {}
        opened => return opened.map_err(|error| error.to_string()),
    }
    format(&disks, id).await?;
    println!("siltstone: the first disk formatted");
    let opened = Mirror::open(disks, member_id).await;
    opened.map_err(|error| error.to_string())
}

/// Makes a file system on the first disk that fits on all.
async fn format(disks: &[FileDisk], id: FileSystemId) -> Result<(), String> {
    let part = CommonPart::of(disks).ok_or("no disk")?;
    let bytes = part.geometry().block_count * lfs::BLOCK_SIZE as u64;
    let options = lfs::FormatOptions::for_device_bytes(bytes);
    let formatted = lfs::format(&part, options, id).await;
    formatted.map_err(|error| error.to_string())
}
