//! Files over the protocol, where scripts do not reach: what must be loaded first, clients side by side, power cuts,
//! failing disks.
//!
//! Invariants: a command or EXEC that had to be begun several times was carried out once; nobody sees a part of an
//! EXEC; keys and files of an EXEC survive together or not at all.

use crate::support;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::support::value::Value;
use crate::support::{Client, World, request};
use lfs::sim::{Random, Request, SimDisk};
use lfs::{DeviceError, FormatOptions};

async fn exec(client: &mut Client, commands: &[&[&str]]) -> Value {
    client.call(&["MULTI"]).await;
    for command in commands {
        let queued = client.call(command).await;
        assert_eq!(queued, Value::Line('+', "QUEUED".to_owned()), "{command:?}");
    }
    client.call(&["EXEC"]).await
}

/// A server that has just been started again on what `world` has on its disk.
fn restarted(world: &mut World, seed: u64) -> World {
    let mut client = world.connect();
    world.run(async move { client.call(&["WAITAOF", "1", "0", "0"]).await });
    World::on_disk(world.disk.snapshot(seed), None, seed, &[])
}

fn filled(seed: u64) -> World {
    let mut world = World::new(seed, &[]);
    let mut client = world.connect();
    world.run(async move {
        for directory in 0..20 {
            let directory = format!("/d{directory}");
            assert_eq!(client.call(&["FS.MKDIR", &directory]).await, Value::ok());
            for file in 0..60 {
                let path = format!("{directory}/f{file}");
                let content = format!("{path} ").repeat(1 + file * 20);
                client.send(&request(&["FS.PUT", &path, &content])).await;
            }
            for _ in 0..60 {
                assert_eq!(client.receive().await, Value::ok());
            }
        }
        client.call(&["SET", "k", "0"]).await;
    });
    restarted(&mut world, seed)
}

#[test]
fn what_is_not_in_memory_is_loaded_and_the_command_carried_out_once() {
    let mut world = filled(support::seed(1));
    let mut client = world.connect();
    world.run(async move {
        let expected = "/d3/f50 ".repeat(1001);
        assert_eq!(
            client.call(&["FS.GET", "/d3/f50"]).await,
            Value::bulk(&expected)
        );
        let size = client.call(&["FS.APPEND", "/d4/f50", "x"]).await;
        assert_eq!(size, Value::Integer(8009));
        for with_control in [false, true] {
            let (first, second) = if with_control {
                ("/d5", "/d6")
            } else {
                ("/d7", "/d8")
            };
            let (first, second) = (format!("{first}/f51"), format!("{second}/f52"));
            let mut commands = vec![
                vec!["INCR", "k"],
                vec!["FS.APPEND", &first, "tail"],
                vec!["FS.GET", &second],
                vec!["FS.STAT", "/nothing"],
                vec!["FS.MV", &second, &first],
                vec!["INCR", "k"],
            ];
            if with_control {
                commands.push(vec!["SELECT", "2"]);
                commands.push(vec!["INCR", "k"]);
                commands.push(vec!["SELECT", "0"]);
            }
            let commands = commands.iter().map(Vec::as_slice).collect::<Vec<_>>();
            let reply = exec(&mut client, &commands).await.to_string();
            let base = 2 * i64::from(with_control);
            let length = first.len() + 1;
            let expected = format!(
                "[:{}, :{}, \"{}\", -ENOENT no such file or directory, +OK, :{}",
                base + 1,
                length * 1021 + 4,
                format!("{second} ").repeat(1041),
                base + 2,
            );
            assert!(reply.starts_with(&expected), "{reply}\n{expected}");
            assert_eq!(reply.ends_with(", +OK, :1, +OK]"), with_control, "{reply}");
        }
        let info = client.call(&["INFO", "commandstats"]).await.text();
        for line in [
            "cmdstat_exec:calls=2,rejected_calls=0,failed_calls=0",
            "cmdstat_fs.append:calls=3,rejected_calls=0,failed_calls=0",
            "cmdstat_fs.get:calls=3,rejected_calls=0,failed_calls=0",
            "cmdstat_fs.stat:calls=2,rejected_calls=0,failed_calls=2",
            "cmdstat_incr:calls=5,rejected_calls=0,failed_calls=0",
        ] {
            assert!(info.contains(line), "{line}\n{info}");
        }
    });
}

/// What keys may load is bounded, what files may is not: a large file, and an EXEC over several.
#[test]
fn a_command_reads_more_of_cold_files_than_keys_may_load() {
    const BYTES: usize = 17 << 19;
    const { assert!(BYTES > kvstore::LOADED_KEY_BYTES_MAX) };
    let seed = support::seed(7);
    let format = FormatOptions {
        segment_bytes: 1 << 20,
        log_segments: 72,
        created_ns: 0,
    };
    let settings = [("proto-max-bulk-len", "9mb")];
    let disk = SimDisk::new(400 << 8, seed);
    let mut world = World::on_disk(disk, Some(format), seed, &settings);
    let mut random = Random::new(seed);
    let contents = [0; 2].map(|_| {
        let words = (0..BYTES / 16).map(|_| format!("{:016x}", random.next_u64()));
        words.collect::<String>()
    });
    let (mut client, written) = (world.connect(), contents.clone());
    world.run(async move {
        for (path, content) in ["/a", "/b"].into_iter().zip(&written) {
            assert_eq!(client.call(&["FS.PUT", path, content]).await, Value::ok());
        }
        client.call(&["SET", "k", "v"]).await;
        client.call(&["WAITAOF", "1", "0", "0"]).await;
    });
    for whole in [false, true] {
        let disk = world.disk.snapshot(seed);
        let mut world = World::on_disk(disk, None, seed, &settings);
        let (mut client, [first, second]) = (world.connect(), contents.clone());
        world.run(async move {
            if whole {
                let found = client.call(&["FS.GET", "/a"]).await;
                assert!(found == Value::bulk(&first), "not what was written");
                return;
            }
            let commands: [&[&str]; 4] = [
                &["FS.GET", "/b"],
                &["INCR", "n"],
                &["GET", "k"],
                &["FS.GET", "/a"],
            ];
            let found = exec(&mut client, &commands).await;
            let expected = [
                Value::bulk(&second),
                Value::Integer(1),
                Value::bulk("v"),
                Value::bulk(&first),
            ];
            assert!(
                found == Value::List('*', expected.to_vec()),
                "not what was written"
            );
        });
    }
}

#[test]
fn a_directory_is_listed_in_steps_while_it_changes() {
    let mut world = filled(support::seed(2));
    let (mut client, mut other) = (world.connect(), world.connect());
    world.run(async move {
        let mut names = Vec::new();
        let mut cursor = "0".to_owned();
        let mut steps = 0;
        loop {
            let reply = client
                .call(&["FS.LS", "/d9", "CURSOR", &cursor, "COUNT", "7"])
                .await;
            let Value::List('*', reply) = reply else {
                panic!("{reply}")
            };
            let [next, Value::List('*', found)] = reply.as_slice() else {
                panic!("{reply:?}")
            };
            assert!(found.len() <= 7);
            names.extend(found.iter().map(Value::text));
            // Odd ones go, new ones come: neither hides the even ones nor shows them twice.
            let gone = format!("/d9/f{}", 2 * steps + 1);
            other.call(&["FS.RM", &gone]).await;
            other
                .call(&["FS.PUT", &format!("/d9/new{steps}"), "x"])
                .await;
            steps += 1;
            cursor = next.text();
            if cursor == "0" {
                break;
            }
        }
        assert!(steps >= 6, "{steps}");
        for number in (0..60).step_by(2) {
            let count = names
                .iter()
                .filter(|name| **name == format!("f{number}"))
                .count();
            assert_eq!(count, 1, "f{number}");
        }
    });
}

/// A reply to FS.LS: where to go on, and the names.
fn listing(reply: &Value) -> (String, Vec<String>) {
    let Value::List('*', reply) = reply else {
        panic!("{reply}")
    };
    let [next, Value::List('*', names)] = reply.as_slice() else {
        panic!("{reply:?}")
    };
    (next.text(), names.iter().map(Value::text).collect())
}

/// As SCAN does: what is there from the first step to the last is listed exactly once, what is not there all the time never,
/// whatever else comes and goes, changes its name, takes the place of others, and also if the server is started again in between.
#[test]
fn a_listing_shows_what_stays_once_whatever_else_changes() {
    let first = support::seed(20);
    let mut others = 0;
    for round in 0..6 {
        let mut random = Random::new(first + round);
        let mut world = World::new(first + round, &[]);
        let mut client = world.connect();
        world.run(async move {
            client.call(&["FS.MKDIR", "/d"]).await;
            for number in 0..150 {
                let path = format!("/d/stays{number}");
                assert_eq!(client.call(&["FS.PUT", &path, "x"]).await, Value::ok());
            }
        });
        let mut loose = Vec::new();
        let mut ever = BTreeSet::new();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut cursor = "0".to_owned();
        for step in 0.. {
            assert!(step < 1000, "it comes to an end");
            let count = (1 + random.below(25)).to_string();
            let mut client = world.connect();
            let question = ["FS.LS", "/d", "CURSOR", &cursor, "COUNT", &count].map(str::to_owned);
            let reply = world.run(async move {
                let question = question.each_ref().map(String::as_str);
                client.call(&question).await
            });
            let (next, names) = listing(&reply);
            assert!(names.len() <= count.parse().unwrap());
            for name in names {
                *seen.entry(name).or_default() += 1;
            }
            if next == "0" {
                break;
            }
            cursor = next;
            for change in 0..random.below(8) {
                let new = format!("/d/{}-{step}-{change}", random.below(1000));
                let stays = format!("/d/stays{}", random.below(150));
                let old = (!loose.is_empty()).then(|| loose.swap_remove(random.index(loose.len())));
                let mut commands = Vec::new();
                match (random.below(6), old) {
                    (0, Some(old)) => commands.push(vec!["FS.RM".into(), old]),
                    (1, Some(old)) => {
                        commands.push(vec!["FS.MV".into(), old, new.clone()]);
                        loose.push(new.clone());
                    }
                    (2, Some(old)) => commands.push(vec!["FS.MV".into(), old, stays]),
                    (3, Some(old)) => {
                        let exchange = "EXCHANGE".to_owned();
                        commands.push(vec!["FS.MV".into(), old.clone(), stays, exchange]);
                        loose.push(old);
                    }
                    (4, Some(old)) => {
                        commands.push(vec!["FS.LINK".into(), stays, new.clone()]);
                        loose.extend([old, new.clone()]);
                    }
                    (_, old) => {
                        commands.push(vec!["FS.PUT".into(), new.clone(), "x".into()]);
                        loose.extend(old);
                        loose.push(new.clone());
                    }
                }
                ever.insert(new.strip_prefix("/d/").unwrap().to_owned());
                let mut client = world.connect();
                world.run(async move {
                    for command in commands {
                        let command = command.iter().map(String::as_str).collect::<Vec<_>>();
                        assert_eq!(client.call(&command).await, Value::ok(), "{command:?}");
                    }
                });
            }
            if random.one_in(10) {
                world = restarted(&mut world, first + step);
            }
        }
        for number in 0..150 {
            let name = format!("stays{number}");
            assert_eq!(seen.remove(&name), Some(1), "{name}, round {round}");
        }
        others += seen.len();
        assert!(seen.keys().all(|name| ever.contains(name)), "{seen:?}");
        assert!(seen.values().all(|&times| times == 1), "{seen:?}");
    }
    println!("{others} others");
    assert!(others > 3, "{others} others");
}

#[test]
fn any_number_is_a_cursor_and_only_numbers_are() {
    let mut world = filled(support::seed(21));
    let mut client = world.connect();
    world.run(async move {
        let end = u64::MAX.to_string();
        for (cursor, at_most) in [("1", 60), ("4096", 60), (end.as_str(), 0)] {
            let reply = client.call(&["FS.LS", "/d9", "CURSOR", cursor]).await;
            let (next, names) = listing(&reply);
            assert!(next == "0" && names.len() <= at_most, "{cursor}");
        }
        // No more than is there: then it is the end at once.
        for (count, end) in [
            ("59", false),
            ("60", true),
            ("4096", true),
            ("1000000", true),
        ] {
            let reply = client.call(&["FS.LS", "/d9", "COUNT", count]).await;
            let (next, names) = listing(&reply);
            assert_eq!((next == "0", names.len()), (end, if end { 60 } else { 59 }));
        }
        for cursor in ["-1", "x", "", "18446744073709551616"] {
            let reply = client.call(&["FS.LS", "/d9", "CURSOR", cursor]).await;
            assert!(reply.is_error("ERR invalid cursor"), "{cursor}: {reply}");
        }
    });
}

#[test]
fn nobody_sees_a_part_of_an_exec() {
    let seed = support::seed(3);
    let mut world = filled(seed);
    let writers = 4;
    let left = Rc::new(Cell::new(writers));
    for writer in 0..writers {
        let mut client = world.connect();
        let mut random = Random::new(seed + writer);
        let left = Rc::clone(&left);
        world.executor.spawn(async move {
            for _ in 0..100 {
                // Something cold among it, now and then.
                let cold = format!("/d{}/f{}", random.below(20), random.below(60));
                let commands: [&[&str]; 4] = [
                    &["INCR", "k"],
                    &["FS.READ", &cold, "100", "10"],
                    &["FS.APPEND", "/log", "x"],
                    &["FS.APPEND", &cold, "y"],
                ];
                let reply = exec(&mut client, &commands).await;
                assert!(!reply.to_string().contains("EXECABORT"), "{reply}");
            }
            left.set(left.get() - 1);
        });
    }
    let mut reader = world.connect();
    world.run(async move {
        let mut reads = 0;
        loop {
            let done = left.get() == 0;
            let reply = exec(&mut reader, &[&["GET", "k"], &["FS.GET", "/log"]]).await;
            let Value::List('*', values) = &reply else {
                panic!("{reply}")
            };
            let [count, log] = values.as_slice() else {
                panic!("{reply}")
            };
            let length = if *log == Value::Nil {
                0
            } else {
                log.text().len()
            };
            assert_eq!(count.text(), length.to_string());
            reads += 1;
            if done {
                assert_eq!(length, 400);
                break;
            }
        }
        assert!(reads > 10, "{reads}");
    });
}

#[test]
fn keys_and_files_survive_a_power_cut_together() {
    let seed = support::seed(4);
    let mut world = World::new(seed, &[]);
    let mut client = world.connect();
    let disk = world.disk.clone();
    // How many were acknowledged, and how far the disk was by then.
    let acknowledged = world.run(async move {
        let mut acknowledged = vec![(0, disk.event_count())];
        for number in 1..=60 {
            let text = number.to_string();
            let content = text.repeat(500);
            let commands: [&[&str]; 3] = [
                &["SET", "n", &text],
                &["FS.PUT", "/n", &content],
                &["FS.APPEND", "/log", "x"],
            ];
            let reply = exec(&mut client, &commands).await;
            assert!(!reply.to_string().contains("ERR"), "{reply}");
            acknowledged.push((number, disk.event_count()));
        }
        acknowledged
    });
    let mut random = Random::new(seed);
    let first = acknowledged.first().unwrap().1;
    for _ in 0..150 {
        let events = first + random.index(world.disk.event_count() + 1 - first);
        let crash = world.disk.crash_at(events);
        let after = crash.disk(|_| random.one_in(2), seed);
        let least = acknowledged
            .iter()
            .rev()
            .find(|(_, at)| *at <= events)
            .unwrap()
            .0;
        let mut again = World::on_disk(after, None, seed, &[]);
        let mut client = again.connect();
        again.run(async move {
            let n = client.call(&["GET", "n"]).await;
            let number: usize = if n == Value::Nil {
                0
            } else {
                n.text().parse().unwrap()
            };
            assert!(
                number >= least,
                "{least} was acknowledged, {number} is there"
            );
            let (file, log) = (
                client.call(&["FS.GET", "/n"]).await,
                client.call(&["FS.GET", "/log"]).await,
            );
            if number == 0 {
                assert_eq!((file, log), (Value::Nil, Value::Nil));
            } else {
                assert_eq!(file.text(), number.to_string().repeat(500));
                assert_eq!(log.text().len(), number);
            }
        });
    }
}

#[test]
fn a_disk_that_cannot_be_read_fails_the_command_and_nothing_else() {
    let mut world = filled(support::seed(5));
    let (mut client, mut other) = (world.connect(), world.connect());
    let broken = Rc::new(Cell::new(true));
    let fails = Rc::clone(&broken);
    world.disk.set_faults(move |request| {
        let read = matches!(request, Request::Read(..));
        (read && fails.get()).then_some(DeviceError::Io)
    });
    world.run(async move {
        let refused = client.call(&["FS.GET", "/d3/f50"]).await;
        assert!(refused.is_error("EIO"), "{refused}");
        let refused = exec(&mut client, &[&["SET", "k", "1"], &["FS.GET", "/d3/f50"]]).await;
        assert!(
            refused.is_error("EXECABORT Transaction discarded because of: EIO"),
            "{refused}"
        );
        assert_eq!(other.call(&["GET", "k"]).await, Value::bulk("0"));
        assert_eq!(other.call(&["SET", "k", "2"]).await, Value::ok());
        broken.set(false);
        let found = client.call(&["FS.READ", "/d3/f50", "0", "7"]).await;
        assert_eq!(found, Value::bulk("/d3/f50"));
        assert_eq!(client.call(&["GET", "k"]).await, Value::bulk("2"));
    });
}

#[test]
fn files_that_fill_the_disk_are_refused_and_can_be_removed() {
    let seed = support::seed(6);
    let mut world = World::new(seed, &[]);
    let mut client = world.connect();
    let mut random = Random::new(seed);
    world.run(async move {
        client.call(&["SET", "k", "v"]).await;
        let noise = |random: &mut Random| -> String {
            let words = (0..20_000).map(|_| format!("{:016x}", random.next_u64()));
            words.collect::<Vec<_>>().concat()
        };
        let mut count = 0;
        loop {
            let path = format!("/f{count}");
            let reply = client.call(&["FS.PUT", &path, &noise(&mut random)]).await;
            if reply != Value::ok() {
                assert!(reply.is_error("ENOSPC no space left on device"), "{reply}");
                break;
            }
            count += 1;
        }
        assert!(count > 10, "{count}");
        let path = format!("/f{count}");
        let data = noise(&mut random);
        let refused = exec(
            &mut client,
            &[&["SET", "k", "w"], &["FS.PUT", &path, &data]],
        )
        .await;
        assert!(
            refused.is_error("EXECABORT Transaction discarded because of: ENOSPC"),
            "{refused}"
        );
        assert_eq!(client.call(&["GET", "k"]).await, Value::bulk("v"));
        assert_eq!(client.call(&["FS.GET", &path]).await, Value::Nil);
        assert_eq!(client.call(&["SET", "k", "w"]).await, Value::ok());
        for number in 0..count {
            let path = format!("/f{number}");
            assert_eq!(client.call(&["FS.RM", &path]).await, Value::ok());
        }
        // The space comes back in the background.
        let mut tries = 0;
        while client.call(&["FS.PUT", "/f0", &noise(&mut random)]).await != Value::ok() {
            tries += 1;
            assert!(tries < 1000);
        }
    });
}
