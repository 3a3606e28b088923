//! Commands whose keys are not in memory: reads of keys miss at random.
//!
//! Invariants: a command, EXEC or WATCH that had to be begun several times was carried out once and counted once; nobody
//! sees a part of an EXEC, and an EXEC sees one state; what an attempt in vain said is nowhere; what a command has
//! loaded is bounded. All other tests are run with reads that miss, too: `SILTSTONE_MISSES=seed cargo test -p app`.

use crate::support;

use std::cell::Cell;
use std::rc::Rc;

use crate::support::value::Value;
use crate::support::{Client, World, request};
use lfs::sim::Random;

async fn exec(client: &mut Client, commands: &[&[&str]]) -> Value {
    client.call(&["MULTI"]).await;
    for command in commands {
        let queued = client.call(command).await;
        assert_eq!(queued, Value::Line('+', "QUEUED".to_owned()), "{command:?}");
    }
    client.call(&["EXEC"]).await
}

#[test]
fn what_misses_is_loaded_and_the_command_carried_out_once() {
    const ROUNDS: i64 = 40;
    let mut world = World::missing(support::seed(1), &[]);
    let mut client = world.connect();
    world.run(async move {
        let c = &mut client;
        for round in 1..=ROUNDS {
            assert_eq!(c.call(&["SET", "text", "abc"]).await, Value::ok());
            assert_eq!(c.call(&["INCR", "n"]).await, Value::Integer(4 * round - 3));
            let wrong = c.call(&["INCR", "text"]).await;
            assert!(wrong.is_error("ERR value is not an integer"), "{wrong}");
            assert_eq!(c.call(&["APPEND", "text", "def"]).await, Value::Integer(6));
            let all = c.call(&["MGET", "text", "none", "n", "text"]).await;
            let expected = format!("[\"abcdef\", nil, \"{}\", \"abcdef\"]", 4 * round - 3);
            assert_eq!(all.to_string(), expected);
            assert_eq!(c.call(&["RENAME", "text", "other"]).await, Value::ok());
            assert_eq!(
                c.call(&["EXISTS", "text", "other"]).await,
                Value::Integer(1)
            );
            assert_eq!(c.call(&["WATCH", "n", "other", "none"]).await, Value::ok());
            // Keys alone, ...
            let commands: [&[&str]; 5] = [
                &["INCR", "n"],
                &["GETDEL", "other"],
                &["INCR", "n"],
                &["RENAME", "none", "other"],
                &["DBSIZE"],
            ];
            let reply = exec(c, &commands).await.to_string();
            let (first, second) = (4 * round - 2, 4 * round - 1);
            let expected = format!("[:{first}, \"abcdef\", :{second}, -ERR no such key, :1]");
            assert_eq!(reply, expected);
            // ... and with others, which choose another database.
            let commands: [&[&str]; 7] = [
                &["INCR", "n"],
                &["SELECT", "3"],
                &["INCR", "n"],
                &["EXISTS", "other"],
                &["PING"],
                &["SELECT", "0"],
                &["STRLEN", "n"],
            ];
            let reply = exec(c, &commands).await.to_string();
            let digits = (4 * round).to_string().len();
            let expected = format!("[:{}, +OK, :{round}, :0, +PONG, +OK, :{digits}]", 4 * round);
            assert_eq!(reply, expected);
        }
        let info = c.call(&["INFO", "commandstats"]).await.text();
        for (name, calls, failed) in [
            ("incr", 6, 1),
            ("append", 1, 0),
            ("mget", 1, 0),
            ("rename", 2, 1),
            ("exists", 2, 0),
            ("watch", 1, 0),
            ("getdel", 1, 0),
            ("dbsize", 1, 0),
            ("select", 2, 0),
            ("ping", 1, 0),
            ("exec", 2, 0),
        ] {
            let (calls, failed) = (calls * ROUNDS, failed * ROUNDS);
            let line =
                format!("cmdstat_{name}:calls={calls},rejected_calls=0,failed_calls={failed}\r\n");
            assert!(info.contains(&line), "{line}\n{info}");
        }
        let errors = c.call(&["INFO", "errorstats"]).await.text();
        let line = format!("errorstat_ERR:count={}\r\n", 2 * ROUNDS);
        assert!(errors.contains(&line), "{errors}");
    });
}

#[test]
fn nobody_sees_a_part_of_an_exec_whose_keys_miss() {
    let seed = support::seed(2);
    let mut world = World::missing(seed, &[]);
    let left = Rc::new(Cell::new(4));
    for writer in 0..4 {
        let mut client = world.connect();
        let mut random = Random::new(seed + writer);
        let left = Rc::clone(&left);
        world.executor.spawn(async move {
            for _ in 0..100 {
                let other = format!("k{}", random.below(20));
                let commands: [&[&str]; 4] = [
                    &["INCR", "a"],
                    &["APPEND", "b", "x"],
                    &["INCR", &other],
                    &["FS.APPEND", "/log", "x"],
                ];
                let commands = &commands[..3 + random.index(2)];
                let reply = exec(&mut client, commands).await;
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
            let both = reader.call(&["MGET", "a", "b"]).await;
            let apart = exec(&mut reader, &[&["GET", "a"], &["PING"], &["GET", "b"]]).await;
            for reply in [both, apart] {
                let Value::List('*', values) = &reply else {
                    panic!("{reply}")
                };
                let (count, log) = (&values[0], values.last().unwrap());
                let count = if *count == Value::Nil {
                    0
                } else {
                    count.text().parse().unwrap()
                };
                let length = if *log == Value::Nil {
                    0
                } else {
                    log.text().len()
                };
                assert_eq!(count, length);
                assert!(!done || length == 400, "{length}");
            }
            reads += 1;
            if done {
                break;
            }
        }
        assert!(reads > 10, "{reads}");
    });
}

#[test]
fn counting_with_watch_loses_nothing_when_keys_miss() {
    let seed = support::seed(3);
    let mut world = World::missing(seed, &[]);
    let (left, conflicts) = (Rc::new(Cell::new(4)), Rc::new(Cell::new(0)));
    for _ in 0..4 {
        let mut client = world.connect();
        let (left, conflicts) = (Rc::clone(&left), Rc::clone(&conflicts));
        world.executor.spawn(async move {
            let mut counted = 0;
            while counted < 50 {
                assert_eq!(client.call(&["WATCH", "x", "n"]).await, Value::ok());
                let before = client.call(&["GET", "n"]).await;
                let before = if before == Value::Nil {
                    0
                } else {
                    before.text().parse::<u32>().unwrap()
                };
                let next = (before + 1).to_string();
                let reply = exec(&mut client, &[&["SET", "n", &next], &["STRLEN", "n"]]).await;
                if reply == Value::NilArray {
                    conflicts.set(conflicts.get() + 1);
                } else {
                    let digits = next.len();
                    assert_eq!(reply.to_string(), format!("[+OK, :{digits}]"));
                    counted += 1;
                }
            }
            left.set(left.get() - 1);
        });
    }
    let clock = world.executor.clock();
    let mut client = world.connect();
    let lost = Rc::clone(&conflicts);
    world.run(async move {
        while left.get() > 0 {
            lfs::Clock::sleep_ms(&clock, 10).await;
        }
        assert_eq!(client.call(&["GET", "n"]).await, Value::bulk("200"));
    });
    assert!(lost.get() > 10, "{} conflicts", lost.get());
}

/// What an attempt in vain would have replied was held against the client's output limit: it was closed.
#[test]
fn an_attempt_in_vain_takes_nothing_of_the_output_limit() {
    let settings = [("client-output-buffer-limit", "normal 40kb 0 0")];
    let mut world = World::missing(support::seed(4), &settings);
    let mut client = world.connect();
    let large = "x".repeat(50_000);
    world.run(async move {
        for _ in 0..50 {
            assert_eq!(client.call(&["SET", "large", &large]).await, Value::ok());
            let reply = exec(&mut client, &[&["DEL", "large"], &["GET", "large"]]).await;
            assert_eq!(reply.to_string(), "[:1, nil]");
        }
    });
}

#[test]
fn what_a_command_loads_of_keys_is_bounded() {
    let mut world = World::missing(support::seed(5), &[]);
    let (mut client, mut other) = (world.connect(), world.connect());
    world.run(async move {
        let mut words = vec!["MGET".to_owned()];
        words.extend((0..200).map(|number| format!("{number:060000}")));
        client.send(&request(&words)).await;
        let refused = client.receive().await;
        let text = "OOM the command reads more than 8388608 bytes of keys that are not in memory";
        assert!(refused.is_error(text), "{refused}");
        let mut queued = vec![words[..2].to_vec(); 180];
        for (number, words) in queued.iter_mut().enumerate() {
            words[1] = format!("{number:060000}");
        }
        client.call(&["MULTI"]).await;
        for words in queued {
            client.send(&request(&words)).await;
            assert_eq!(client.receive().await.to_string(), "+QUEUED");
        }
        let refused = client.call(&["EXEC"]).await;
        let text = "EXECABORT Transaction discarded because of: OOM the command reads more than";
        assert!(refused.is_error(text), "{refused}");
        // It was theirs alone, and over with them.
        words.truncate(20);
        client.send(&request(&words)).await;
        assert_eq!(
            client.receive().await,
            Value::List('*', vec![Value::Nil; 19])
        );
        assert_eq!(other.call(&["SET", "k", "v"]).await, Value::ok());
        assert_eq!(other.call(&["GET", "k"]).await, Value::bulk("v"));
    });
}

#[test]
fn expired_keys_are_reclaimed_though_their_reads_miss() {
    let mut world = World::missing(support::seed(6), &[]);
    let mut client = world.connect();
    let clock = world.executor.clock();
    world.run(async move {
        for number in 0..300 {
            let key = number.to_string();
            let set = client.call(&["SET", &key, "v", "PX", "500"]).await;
            assert_eq!(set, Value::ok());
        }
        lfs::Clock::sleep_ms(&clock, 5000).await;
        assert_eq!(client.call(&["DBSIZE"]).await, Value::Integer(0));
        let info = client.call(&["INFO", "stats"]).await.text();
        assert!(info.contains("expired_keys:300\r\n"), "{info}");
    });
}
