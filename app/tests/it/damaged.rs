//! Damage on the only disk: a scrub tells whose it is, a read of it where it is, and everything else goes on.

use crate::support;

use std::rc::Rc;

use crate::support::value::Value;
use crate::support::{Client, World, request};
use lfs::sim::{Random, SimClock, SimDisk};
use lfs::{BLOCK_SIZE, BlockIndex, Clock as _, DumpEvent, DumpOptions};

/// How long (virtual) a scrub may take that nothing slows down, and how often it is asked whether it has ended.
const SCRUB_MS_MAX: u64 = 10_000;
const TICK_MS: u64 = 10;
/// Most bytes of a file that are stored together on a disk of this size.
const EXTENT_BYTES: usize = 16 << 10;

/// Bytes that do not compress.
fn noise(random: &mut Random, len: usize) -> Vec<u8> {
    (0..len).map(|_| random.next_u64() as u8).collect()
}

/// Sends words that need not be text.
async fn call(client: &mut Client, words: &[&[u8]]) -> Value {
    client.send(&request(words)).await;
    client.receive().await
}

/// Writes a file, each piece as an extent of its own.
async fn write(client: &mut Client, path: &[u8], content: &[u8]) {
    for (number, piece) in content.chunks(EXTENT_BYTES).enumerate() {
        let (at, end) = (number * EXTENT_BYTES, number * EXTENT_BYTES + piece.len());
        let written = call(
            client,
            &[b"FS.WRITE", path, at.to_string().as_bytes(), piece],
        )
        .await;
        assert_eq!(written, Value::Integer(i64::try_from(end).unwrap()));
    }
}

/// A server started anew on what `world` has on its disk, with nothing of it in memory.
fn restarted(world: &mut World, seed: u64) -> World {
    let server = Rc::clone(&world.server);
    world.run(async move { server.shutdown().await.unwrap() });
    World::on_disk(world.disk.snapshot(seed), None, seed, &[])
}

/// Where on the disk some bytes are.
fn place_of(bytes: &[u8], wanted: &[u8]) -> usize {
    let blocks = bytes.chunks_exact(BLOCK_SIZE).enumerate();
    let used = blocks.filter(|(_, block)| block.iter().any(|&byte| byte != 0));
    let mut places = used.flat_map(|(block, _)| block * BLOCK_SIZE..(block + 1) * BLOCK_SIZE);
    let place = places.find(|&at| bytes[at..].starts_with(wanted));
    place.expect("it is on the disk as it is")
}

/// Flips a bit of a byte.
fn flip(disk: &SimDisk, at: usize) {
    disk.flip_bit(BlockIndex((at / BLOCK_SIZE) as u64), at % BLOCK_SIZE * 8);
}

/// Damages the file with this content at one byte.
fn rot(disk: &SimDisk, content: &[u8], at: usize) {
    let place = place_of(&disk.to_bytes(), &content[at..at + 32]);
    flip(disk, place);
}

#[derive(Debug, PartialEq)]
struct Status {
    running: i64,
    done: i64,
    total: i64,
    repaired: i64,
    unrepairable: i64,
}

/// `SCRUB STATUS`, which has these fields and no others.
async fn status(client: &mut Client) -> Status {
    let reply = client.call(&["SCRUB", "STATUS"]).await;
    let Value::List('*', fields) = &reply else {
        panic!("{reply}")
    };
    let names = fields.iter().step_by(2).map(Value::text);
    let expected = ["running", "done", "total", "repaired", "unrepairable"];
    assert!(names.eq(expected), "{reply}");
    let values = fields.iter().skip(1).step_by(2).map(|value| match value {
        Value::Integer(value) => *value,
        other => panic!("{other}"),
    });
    let [running, done, total, repaired, unrepairable] = values.collect::<Vec<_>>()[..] else {
        panic!("{reply}")
    };
    Status {
        running,
        done,
        total,
        repaired,
        unrepairable,
    }
}

/// Waits for the scrub under way.
async fn scrubbed(client: &mut Client, clock: &SimClock, ms_max: u64) -> Status {
    let started = clock.monotonic_us();
    loop {
        let status = status(client).await;
        if status.running == 0 {
            assert_eq!(status.done, status.total, "{status:?}");
            return status;
        }
        let waited_ms = (clock.monotonic_us() - started) / 1000;
        assert!(waited_ms < ms_max, "{status:?}");
        clock.sleep_ms(TICK_MS).await;
    }
}

/// Scrubs, and tells how that ended and what is damaged.
async fn scrub(client: &mut Client, clock: &SimClock) -> (Status, Vec<String>) {
    assert_eq!(client.call(&["SCRUB"]).await, Value::ok());
    let status = scrubbed(client, clock, SCRUB_MS_MAX).await;
    (status, damaged(client).await)
}

/// `SCRUB DAMAGED`
async fn damaged(client: &mut Client) -> Vec<String> {
    match client.call(&["SCRUB", "DAMAGED"]).await {
        Value::List('*', items) => items.iter().map(Value::text).collect(),
        other => panic!("{other}"),
    }
}

async fn inode_of(client: &mut Client, path: &[u8]) -> i64 {
    match call(client, &[b"FS.STAT", path]).await {
        Value::List('*', fields) => match fields[3] {
            Value::Integer(inode) => inode,
            _ => panic!("{fields:?}"),
        },
        other => panic!("{other}"),
    }
}

/// What a scrub says of bytes of a file, but for the block.
fn expect_finding(finding: &str, path: &str, inode: i64, bytes: &str) {
    let start = format!("error: file data of {path} (inode {inode}), bytes {bytes}, block ");
    let end = ": bytes of the file are damaged";
    assert!(
        finding.starts_with(&start) && finding.ends_with(end),
        "{finding}"
    );
}

/// What a read says that meets damage, but for the block.
fn expect_refusal(reply: &Value, bytes: &str) {
    let start = format!(
        "EIO what is on the disk is not what was written: damaged file data, bytes {bytes}, block "
    );
    assert!(reply.is_error(&start), "{reply}");
}

#[test]
fn what_rots_is_told_with_path_and_range_and_the_rest_goes_on() {
    const HOSTILE: &[u8] = b"/d/\x1b[2J\xff\r\n";
    let seed = support::seed(1);
    let mut random = Random::new(seed);
    let [one, two, whole] = [200_000, 50_000, 30_000].map(|len| noise(&mut random, len));
    let mut world = World::new(seed, &[]);
    let mut client = world.connect();
    let contents = [one.clone(), two.clone(), whole.clone()];
    world.run(async move {
        client.call(&["FS.MKDIR", "/d"]).await;
        client.call(&["SET", "k", "v"]).await;
        for (path, content) in [b"/d/one", HOSTILE, b"/whole"].into_iter().zip(&contents) {
            let put = call(&mut client, &[b"FS.PUT", path, content]).await;
            assert_eq!(put, Value::ok());
        }
    });
    let mut world = restarted(&mut world, seed);
    // In the second extent of the one, and in the first and third unit of the other.
    rot(&world.disk, &one, 70_000);
    rot(&world.disk, &two, 4000);
    rot(&world.disk, &two, 8192);
    let clock = world.executor.clock();
    let mut client = world.connect();
    world.run(async move {
        let c = &mut client;
        let blank = Status {
            running: 0,
            done: 0,
            total: 0,
            repaired: 0,
            unrepairable: 0,
        };
        assert_eq!(status(c).await, blank);
        assert_eq!(damaged(c).await, [""; 0]);

        let (status, found) = scrub(c, &clock).await;
        assert_eq!((status.repaired, status.unrepairable), (0, 3));
        let [first, second, third] = found.as_slice() else {
            panic!("{found:?}")
        };
        let inodes = (inode_of(c, b"/d/one").await, inode_of(c, HOSTILE).await);
        expect_finding(first, "/d/one", inodes.0, "69632 to 73728");
        expect_finding(second, "/d/?[2J???", inodes.1, "0 to 4096");
        expect_finding(third, "/d/?[2J???", inodes.1, "8192 to 12288");

        expect_refusal(&c.call(&["FS.GET", "/d/one"]).await, "69632 to 73728");
        let part = ["FS.READ", "/d/one", "70001", "5"];
        expect_refusal(&c.call(&part).await, "69632 to 73728");
        let second = call(c, &[b"FS.READ", HOSTILE, b"4096", b"46000"]).await;
        expect_refusal(&second, "8192 to 12288");
        let append = call(c, &[b"FS.WRITE", HOSTILE, b"1", b"x"]).await;
        expect_refusal(&append, "0 to 4096");

        // All others as ever, of the same file as well.
        let before = c.call(&["FS.READ", "/d/one", "0", "69632"]).await;
        assert_eq!(before, Value::Bulk(one[..69_632].to_vec()));
        let behind = c.call(&["FS.READ", "/d/one", "73728", "200000"]).await;
        assert_eq!(behind, Value::Bulk(one[73_728..].to_vec()));
        assert_eq!(c.call(&["FS.GET", "/whole"]).await, Value::Bulk(whole));
        assert_eq!(c.call(&["GET", "k"]).await, Value::bulk("v"));
        assert_eq!(c.call(&["SET", "k", "w"]).await, Value::ok());
        assert_eq!(c.call(&["FS.PUT", "/d/new", "n"]).await, Value::ok());
        c.call(&["MULTI"]).await;
        c.call(&["FS.GET", "/d/new"]).await;
        c.call(&["FS.READ", "/d/one", "70000", "1"]).await;
        c.call(&["GET", "k"]).await;
        let exec = c.call(&["EXEC"]).await.to_string();
        let is_as_it_should = exec.starts_with("[\"n\", -EIO ") && exec.ends_with(", \"w\"]");
        assert!(is_as_it_should, "{exec}");

        // What was written anew or removed is damaged no more.
        assert_eq!(call(c, &[b"FS.PUT", b"/d/one", &two]).await, Value::ok());
        assert_eq!(call(c, &[b"FS.RM", HOSTILE]).await, Value::ok());
        let (status, found) = scrub(c, &clock).await;
        assert_eq!((status.repaired, status.unrepairable), (0, 0), "{found:?}");
        assert_eq!(found, [""; 0]);
        assert_eq!(c.call(&["FS.GET", "/d/one"]).await, Value::Bulk(two));
    });
}

/// What is written over a file of more than a transaction frees at once goes under another number than the inode's; damage to it
/// was told as that of an inode that does not exist, without a path.
#[test]
fn damage_to_a_file_that_was_large_before_is_told_with_its_path() {
    let seed = support::seed(2);
    let mut random = Random::new(seed);
    let content = noise(&mut random, 20_000);
    let mut world = World::new(seed, &[]);
    let mut client = world.connect();
    let put = content.clone();
    world.run(async move {
        for chunk in 0..70 {
            let at = (chunk * (256 << 10)).to_string();
            let block = noise(&mut random, BLOCK_SIZE);
            call(
                &mut client,
                &[b"FS.WRITE", b"/large", at.as_bytes(), &block],
            )
            .await;
        }
        let put = call(&mut client, &[b"FS.PUT", b"/large", &put]).await;
        assert_eq!(put, Value::ok());
    });
    let mut world = restarted(&mut world, seed);
    rot(&world.disk, &content, 5000);
    let clock = world.executor.clock();
    let mut client = world.connect();
    world.run(async move {
        let (_, found) = scrub(&mut client, &clock).await;
        let inode = inode_of(&mut client, b"/large").await;
        let [finding] = found.as_slice() else {
            panic!("{found:?}")
        };
        expect_finding(finding, "/large", inode, "4096 to 8192");
        expect_refusal(&client.call(&["FS.GET", "/large"]).await, "4096 to 8192");
    });
}

#[test]
fn of_much_damage_the_first_is_told_and_how_much_there_is() {
    const EXTENTS: usize = 80;
    let seed = support::seed(3);
    let content = noise(&mut Random::new(seed), EXTENTS * EXTENT_BYTES);
    let mut world = World::new(seed, &[]);
    let mut client = world.connect();
    let put = content.clone();
    world.run(async move {
        write(&mut client, b"/many", &put).await;
    });
    let mut world = restarted(&mut world, seed);
    // Every other unit.
    let bytes = world.disk.to_bytes();
    for extent in content.chunks(EXTENT_BYTES) {
        let place = place_of(&bytes, &extent[..32]);
        for unit in (0..EXTENT_BYTES).step_by(2 * BLOCK_SIZE) {
            flip(&world.disk, place + unit);
        }
    }
    let clock = world.executor.clock();
    let mut client = world.connect();
    world.run(async move {
        let (status, found) = scrub(&mut client, &clock).await;
        let count = EXTENTS * EXTENT_BYTES / BLOCK_SIZE / 2;
        assert_eq!(status.unrepairable, i64::try_from(count).unwrap());
        let (last, found) = found.split_last().unwrap();
        assert_eq!(last, &format!("and {} more", count - 128));
        assert_eq!(found.len(), 128);
        let inode = inode_of(&mut client, b"/many").await;
        for (number, finding) in found.iter().enumerate() {
            let start = number * 2 * BLOCK_SIZE;
            let bytes = format!("{start} to {}", start + BLOCK_SIZE);
            expect_finding(finding, "/many", inode, &bytes);
        }
    });
}

#[test]
fn damaged_runs_of_keys_are_told() {
    let seed = support::seed(4);
    let mut world = World::new(seed, &[]);
    let mut client = world.connect();
    world.run(async move { client.call(&["SET", "k", "v"]).await });
    let mut world = restarted(&mut world, seed);
    let disk = world.disk.clone();
    let segments = world.run(async move {
        let mut segments = Vec::new();
        lfs::dump(&disk, DumpOptions::default(), &mut |event| {
            if let DumpEvent::Segment { block, kind, .. } = event
                && kind == "object"
            {
                segments.push(usize::try_from(block.0).unwrap());
            }
        })
        .await;
        segments
    });
    let [segment] = segments[..] else {
        panic!("the shutdown has written a run: {segments:?}");
    };
    // What the first chunk holds.
    flip(&world.disk, segment * BLOCK_SIZE + 9);
    let clock = world.executor.clock();
    let mut client = world.connect();
    world.run(async move {
        let (status, found) = scrub(&mut client, &clock).await;
        assert_eq!((status.repaired, status.unrepairable), (0, 1), "{found:?}");
        let finding = found.first().unwrap();
        let is_of_object = finding.starts_with("error: objects, bytes 0 to ");
        let place = format!(", block {segment}: object ");
        assert!(
            is_of_object && finding.contains(&place) && finding.ends_with(" is damaged"),
            "{finding}"
        );
        // In memory they are as they were.
        assert_eq!(client.call(&["GET", "k"]).await, Value::bulk("v"));
        assert_eq!(client.call(&["SET", "k", "w"]).await, Value::ok());
    });
}

/// A second one was refused, and began all the same when the first had ended.
#[test]
fn one_scrub_at_a_time_as_fast_as_its_rate_says() {
    const RATE: u64 = 256 << 10;
    let seed = support::seed(5);
    let content = noise(&mut Random::new(seed), 2 << 20);
    let mut world = World::new(seed, &[]);
    let mut client = world.connect();
    let clock = world.executor.clock();
    world.run(async move {
        let c = &mut client;
        write(c, b"/f", &content).await;
        let rate = RATE.to_string();
        let set = c.call(&["CONFIG", "SET", "scrub-rate", &rate]).await;
        assert_eq!(set, Value::ok());
        let started = clock.monotonic_us();
        assert_eq!(c.call(&["SCRUB"]).await, Value::ok());
        for wait_ms in [0, 3000] {
            clock.sleep_ms(wait_ms).await;
            let refused = c.call(&["SCRUB"]).await;
            let text = "ERR a scrub is under way already";
            assert_eq!(refused, Value::Line('-', text.to_owned()));
            assert_eq!(status(c).await.running, 1);
        }
        let ended = scrubbed(c, &clock, 60_000).await;
        let took_us = clock.monotonic_us() - started;
        let expected_us = ended.total.unsigned_abs() * 1_000_000 / RATE;
        assert!(
            took_us > expected_us * 9 / 10 && took_us < expected_us * 3 / 2,
            "{took_us} us instead of {expected_us}"
        );

        // The next one is told to hurry when it has hardly begun.
        assert_eq!(c.call(&["SCRUB"]).await, Value::ok());
        clock.sleep_ms(1000).await;
        let slow = status(c).await;
        assert!(
            slow.running == 1 && slow.done < 2 * RATE.cast_signed(),
            "{slow:?}"
        );
        let set = c.call(&["CONFIG", "SET", "scrub-rate", "0"]).await;
        assert_eq!(set, Value::ok());
        scrubbed(c, &clock, 2000).await;
    });
}
