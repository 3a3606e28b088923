//! The bootable image: owns the devices and joins the parts.
#![no_std]
#![no_main]

extern crate alloc;

use embedded_io_async::{Read, Write};
use lfs::{BLOCK_SIZE, BlockDevice, BlockIndex, Buffer};
use platform::executor::{TaskPool, spawn};
use platform::net::{Address, Config, Net, TcpStream};
use platform::{clock::Clock, console, disk::Disk, entropy, memory, power, println};

platform::entry!(run);

async fn run() {
    if let Err(error) = start().await {
        println!("siltstone cannot start: {error}");
        power::off(1);
    }
}

async fn start() -> Result<(), alloc::boxed::Box<dyn core::error::Error>> {
    let mut seed = [0; 32];
    entropy::seed(&mut seed)?;
    let _clock = Clock::open();
    let disk = Disk::open()?;
    let runner = disk.clone();
    spawn(async move { runner.run().await });
    let address = Address::Static([10, 0, 2, 15].into(), 24);
    let net = Net::open(
        Config {
            address,
            port: 6379,
            connections_max: 512,
        },
        [1, 2],
    )?;
    let runner = net.clone();
    spawn(async move { runner.run().await });

    spawn(async {
        console::interrupt().await;
        println!("siltstone: shutting down");
        power::off(0);
    });
    let buffer = Buffer::zeroed(1)?;
    let (buffer, result) = disk.read(BlockIndex(0), buffer).await;
    result?;
    let _ = (buffer, BLOCK_SIZE);
    println!(
        "siltstone ready: {} {} MiB heap {} of {} disk {} MiB port 6379",
        platform::ARCH,
        memory::machine_bytes() >> 20,
        memory::usage().used_bytes,
        memory::usage().total_bytes,
        disk.size_bytes() >> 20,
    );
    let pool = TaskPool::default();
    loop {
        let stream = net.accept().await;
        let _ = pool.spawn(session(stream));
    }
}

async fn session(mut stream: TcpStream) {
    let over = stream.over_limit();
    let (mut reader, mut writer) = stream.split();
    if over {
        let _ = writer
            .write_all(b"-ERR max number of clients reached\r\n")
            .await;
        stream.close();
        return;
    }
    let mut buffer = alloc::vec![0; 4096];
    while let Ok(n @ 1..) = reader.read(&mut buffer).await {
        let mut reply = alloc::vec::Vec::new();
        for line in buffer.get(..n).unwrap_or_default().split(|&b| b == b'\n') {
            let l: alloc::vec::Vec<u8> = line.to_ascii_uppercase();
            if l.starts_with(b"PING") || l.starts_with(b"GET") || l.starts_with(b"SET") {
                reply.extend_from_slice(b"+PONG\r\n");
            } else if l.starts_with(b"CONFIG") {
                reply.extend_from_slice(b"*0\r\n");
            } else if l.starts_with(b"QUIT") {
                let _ = writer.write_all(b"+OK\r\n").await;
                stream.close();
                return;
            } else if l.starts_with(b"BOOM") {
                panic!("asked to");
            }
        }
        if writer.write_all(&reply).await.is_err() {
            return;
        }
    }
    stream.close();
}
