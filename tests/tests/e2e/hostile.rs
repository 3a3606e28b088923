//! Clients that mean harm, or do it without meaning to: each hurts itself only.

use std::io::Write;
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use redis::{Commands, Value, cmd};
use rustix::net::sockopt::set_socket_linger;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tests::client::{self, RawClient};
use tests::machine::{Machine, Setup, Target};
use tests::seed;

on!([riscv64 aarch64 hosted] {
    malformed_requests,
    ten_thousand_silent_connections,
    a_client_that_never_reads,
    half_open_and_reset_connections,
    a_million_commands_in_one_pipeline,
    the_largest_binary_values,
    noise,
});

const SILENT_CONNECTIONS: usize = 10_000;

/// Each gets Redis's words for it, and the connection closes.
fn malformed_requests(target: Target) {
    let machine = Setup::new(target).boot();
    let long = vec![b'1'; 70_000];
    let after = |prefix: &[u8]| [prefix, &long].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"*x\r\n".into(), "invalid multibulk length"),
        (b"*99999999999\r\n".into(), "invalid multibulk length"),
        (
            b"*9223372036854775808\r\n".into(),
            "invalid multibulk length",
        ),
        (b"*1\r\n+PING\r\n".into(), "expected '$', got '+'"),
        (b"*1\r\n$-5\r\n".into(), "invalid bulk length"),
        (b"*1\r\n$x\r\n".into(), "invalid bulk length"),
        (b"*1\r\n$99999999999\r\n".into(), "invalid bulk length"),
        (b"SET \"open\r\n".into(), "unbalanced quotes in request"),
        (after(b""), "too big inline request"),
        (after(b"*"), "too big mbulk count string"),
        (after(b"*1\r\n$"), "too big bulk count string"),
    ];
    for (request, complaint) in cases {
        let mut client = RawClient::connect(machine.port());
        // It may have closed before it was told everything.
        let _ = client.try_send(&request);
        let answer = String::from_utf8_lossy(&client.until_closed()).into_owned();
        let start = String::from_utf8_lossy(&request[..request.len().min(30)]).into_owned();
        assert_eq!(
            answer,
            format!("-ERR Protocol error: {complaint}\r\n"),
            "to {start:?}"
        );
    }
    let mut client = RawClient::connect(machine.port());
    client.send(b"*0\r\n*-1\r\n\r\n\r\n*1\r\n$4\r\nPING\r\n");
    assert_eq!(client.bytes(7), b"+PONG\r\n", "empty requests are none");
    serves(&machine);
    machine.shutdown();
}

/// Who was there before them is served while they last, and newcomers once they are gone.
fn ten_thousand_silent_connections(target: Target) {
    raise_open_files_limit();
    let machine = Setup::new(target).boot();
    let mut early = machine.connect();
    let mut silent = Vec::with_capacity(SILENT_CONNECTIONS);
    for number in 0..SILENT_CONNECTIONS {
        silent.push(RawClient::connect(machine.port()));
        if number.is_multiple_of(500) {
            assert_eq!(early.incr("early", 1), Ok(number / 500 + 1));
        }
    }
    let used = client::info(&mut early, "used_memory");
    println!("with {SILENT_CONNECTIONS} silent connections: {used} bytes of memory");
    drop(silent);

    // How fast they go is the network's business; that they go is the service's.
    let deadline = Instant::now() + Duration::from_mins(1);
    let is_served = || {
        let connection = client::try_connect(machine.port());
        connection.is_ok_and(|mut new| cmd("PING").query::<String>(&mut new).is_ok())
    };
    while !is_served() {
        assert!(
            Instant::now() < deadline,
            "they keep newcomers out after their end"
        );
    }
    machine.shutdown();
}

/// Asks for far more than it reads; the service stops reading from it, or closes it, and serves the others.
fn a_client_that_never_reads(target: Target) {
    let machine = Setup::new(target).boot();
    let mut connection = machine.connect();
    connection
        .set::<_, _, ()>("large", vec![b'x'; 200_000])
        .unwrap();
    let mut deaf = RawClient::connect(machine.port());
    deaf.stream()
        .set_write_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let asked = (0..200_000)
        .take_while(|_| deaf.try_send(b"GET large\r\n").is_ok())
        .count();
    println!("it asked {asked} times for 200 kB without reading");
    serves(&machine);
    let used = client::info(&mut connection, "used_memory");
    println!("memory used meanwhile: {used} bytes");
    drop(deaf);
    serves(&machine);
    machine.shutdown();
}

fn half_open_and_reset_connections(target: Target) {
    let mut rng = seed::rng();
    let machine = Setup::new(target).boot();
    for _ in 0..500 {
        let mut client = RawClient::connect(machine.port());
        let request = b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$1000\r\nxxxxx";
        client.send(&request[..rng.usize(..=request.len())]);
        match rng.u8(..3) {
            0 => client.stream().shutdown(Shutdown::Write).unwrap(),
            // Closing without lingering resets the connection.
            1 => set_socket_linger(client.stream(), Some(Duration::ZERO)).unwrap(),
            _ => {}
        }
    }
    assert_eq!(
        machine.connect().exists("half"),
        Ok(false),
        "half a request is none"
    );
    serves(&machine);
    machine.shutdown();
}

fn a_million_commands_in_one_pipeline(target: Target) {
    const COMMANDS: i64 = 1_000_000;
    let machine = Setup::new(target).boot();
    let mut client = RawClient::connect(machine.port());
    let mut sender = client.stream().try_clone().unwrap();
    let sending = thread::spawn(move || {
        let chunk = b"INCR counter\r\n".repeat(1_000);
        (0..COMMANDS / 1_000).try_for_each(|_| sender.write_all(&chunk))
    });
    for number in 1..=COMMANDS {
        assert_eq!(client.reply(), Value::Int(number));
    }
    sending.join().unwrap().unwrap();
    machine.shutdown();
}

fn the_largest_binary_values(target: Target) {
    let mut rng = seed::rng();
    let setup = Setup::new(target)
        .with("DISK_SIZE", "256M")
        .with("MEM", "256M");
    let mut machine = setup.boot();
    let mut connection = machine.connect();
    let (_, limit): (String, usize) = cmd("CONFIG")
        .arg(&["GET", "proto-max-bulk-len"])
        .query(&mut connection)
        .unwrap();
    let random = |rng: &mut fastrand::Rng, bytes: usize| {
        let mut content = vec![0; bytes];
        rng.fill(&mut content);
        content
    };
    let (key, value) = (random(&mut rng, 65_535), random(&mut rng, limit));
    connection.set::<_, _, ()>(&key, &value).unwrap();
    let too_long = connection
        .set::<_, _, ()>(random(&mut rng, 65_536), "v")
        .unwrap_err();
    assert!(too_long.code() == Some("ERR"), "{too_long}");

    let mut client = RawClient::connect(machine.port());
    client.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", limit + 1).as_bytes());
    assert_eq!(
        client.until_closed(),
        b"-ERR Protocol error: invalid bulk length\r\n"
    );
    machine.power_cut();

    let machine = setup.boot();
    let kept: Vec<u8> = machine.connect().get(&key).unwrap();
    assert!(kept == value, "{} of {} bytes", kept.len(), value.len());
    machine.shutdown();
}

/// Random bytes, with a bias to what a parser cares about.
fn noise(target: Target) {
    let mut rng = seed::rng();
    let machine = Setup::new(target).boot();
    let tokens: [&[u8]; 10] = [
        b"\r\n",
        b"*",
        b"$",
        b"-1",
        b"3",
        b"SET",
        b"\"",
        b" ",
        b"\0",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$",
    ];
    for _ in 0..300 {
        let mut bytes = Vec::new();
        for _ in 0..rng.usize(..200) {
            match rng.u8(..4) {
                0 => bytes.push(rng.u8(..)),
                _ => bytes.extend(tokens[rng.usize(..tokens.len())]),
            }
        }
        let mut client = RawClient::connect(machine.port());
        let _ = client.try_send(&bytes);
    }
    serves(&machine);
    machine.shutdown();
}

/// A client that behaves is served, and promptly.
fn serves(machine: &Machine) {
    let mut connection = machine.connect();
    connection.set::<_, _, ()>("well", "behaved").unwrap();
    assert_eq!(connection.get("well"), Ok("behaved".to_owned()));
}

fn raise_open_files_limit() {
    let needed = SILENT_CONNECTIONS as u64 + 1_000;
    let now = getrlimit(Resource::Nofile);
    if now.current.is_some_and(|current| current < needed) {
        let maximum = now.maximum.map(|maximum| maximum.max(needed));
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(needed),
                maximum,
            },
        )
        .expect("10,000 connections need as many open files: `ulimit -Hn` must allow 11,000");
    }
}
