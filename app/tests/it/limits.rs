//! Limits, and clients that mean harm or do it without meaning to.
//!
//! Invariants: each hurts itself only; memory stays within what is configured; every client that breaks a limit hears
//! why, unless it does not listen.

use crate::support;

use std::rc::Rc;

use crate::support::value::Value;
use crate::support::{Client, World, request};
use lfs::Clock;

/// A number among the lines of INFO.
async fn info(client: &mut Client, name: &str) -> u64 {
    let text = client.call(&["INFO", "everything"]).await.text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {text}"))
        .parse()
        .unwrap()
}

#[test]
fn a_million_commands_in_one_pipeline() {
    const COMMANDS: i64 = 1_000_000;
    let mut world = World::new(support::seed(1), &[]);
    let (mut sender, mut watcher) = (world.connect(), world.connect());
    world.run(async move {
        let chunk = request(&["INCR", "n"]).repeat(1000);
        let mut expected = 0;
        let mut buffers_max = 0;
        while expected < COMMANDS {
            sender.send(&chunk).await;
            for _ in 0..1000 {
                expected += 1;
                assert_eq!(sender.receive().await, Value::Integer(expected));
            }
            if expected % 100_000 == 0 {
                buffers_max = buffers_max.max(info(&mut watcher, "clients_buffer_bytes").await);
            }
        }
        assert!(buffers_max < 256 << 10, "{buffers_max} bytes of buffers");
    });
}

/// Who had been admitted came again behind those who waited, for ever.
#[test]
fn all_who_write_more_than_there_is_room_for_get_on() {
    const COMMANDS: usize = 3000;
    let mut world = World::new(support::seed(17), &[("maxmemory", "4mb")]);
    let clients = [(); 5].map(|()| world.connect());
    world.run(async move {
        let mut number = 0;
        let writers = clients.map(|mut client| {
            number += 1;
            async move {
                for command in 0..COMMANDS {
                    let key = format!("{number}:{command}");
                    let put = client.call(&["SET", &key, &"x".repeat(400)]).await;
                    assert_eq!(put, Value::ok());
                }
            }
        });
        Box::pin(embassy_futures::join::join_array(writers)).await;
    });
}

/// A server with 60,000 keys of five digits, of which more is on the disk than a command may load at once.
fn with_many_keys() -> (World, Client) {
    const KEYS: u32 = 60_000;
    let mut world = World::new(support::seed(3), &[("maxmemory", "4mb")]);
    let mut client = world.connect();
    let client = world.run(async move {
        let value = "x".repeat(200);
        for first in (0..KEYS).step_by(100) {
            let mut words = vec!["MSET".to_owned()];
            for number in first..first + 100 {
                words.extend([format!("{number:05}"), value.clone()]);
            }
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            assert_eq!(client.call(&words).await, Value::ok());
        }
        client
    });
    (world, client)
}

/// What a transaction that stays open sees was counted in one step, and refused where that would have loaded too much.
#[test]
fn a_transaction_counts_and_lists_keys_however_many_there_are() {
    let (mut world, mut client) = with_many_keys();
    let mut other = world.connect();
    world.run(async move {
        for level in ["SERIALIZABLE", "SNAPSHOT", "READ COMMITTED", "READ ONLY"] {
            let begin: Vec<_> = ["BEGIN"].into_iter().chain(level.split(' ')).collect();
            assert_eq!(client.call(&begin).await, Value::ok());
            let mut expected = 60_000;
            if level != "READ ONLY" {
                let own: [(&[&str], i64); 6] = [
                    (&["MSET", "!", "1", "59999~", "1", "30000!", "1"], 3),
                    (&["SET", "00007", "again"], 0),
                    (&["DEL", "00000", "59999"], -2),
                    (&["DELRANGE", "10000", "20000"], -10_000),
                    (&["MSET", "15000", "again", "15000!", "1"], 2),
                    (&["DEL", "15000!"], -1),
                ];
                for (words, more) in own {
                    let done = client.call(words).await;
                    assert!(!done.is_error(""), "{words:?}: {done}");
                    expected += more;
                }
            }
            for words in [&["DBSIZE"][..], &["COUNTRANGE", "", "~"]] {
                client.send(&request(words)).await;
                // What is committed meanwhile, by one who has its turn, is not seen, and is taken back.
                for words in [&["SET", "59000!", "1"][..], &["DEL", "59000!"]] {
                    let done = other.call(words).await;
                    assert!(!done.is_error(""), "{done}");
                }
                let counted = client.receive().await;
                // Each statement of this level sees what was committed before it.
                let seen = expected..=expected + i64::from(level == "READ COMMITTED");
                let is_right = matches!(counted, Value::Integer(count) if seen.contains(&count));
                assert!(is_right, "{level}: {words:?}: {counted}, not {expected}");
            }
            let found = client.call(&["KEYS", "1?0??"]).await;
            let Value::List('*', mut found) = found else {
                panic!("{found}")
            };
            if level == "READ ONLY" {
                assert_eq!(found.len(), 1000);
                assert_eq!(found.pop(), Some(Value::bulk("19099")));
                let counted = client.call(&["COUNTRANGE", "20000", "10000"]).await;
                assert_eq!(counted, Value::Integer(0));
            } else {
                assert_eq!(found, [Value::bulk("15000")]);
                let found = client.call(&["KEYS", "*00*!"]).await;
                assert_eq!(found.to_string(), "[\"30000!\"]");
                let counted = client.call(&["COUNTRANGE", "09999", "20001"]).await;
                assert_eq!(counted, Value::Integer(3));
            }
            assert_eq!(client.call(&["ROLLBACK"]).await, Value::ok());
        }
        // Within EXEC it is one step.
        client.call(&["MULTI"]).await;
        client.call(&["COUNTRANGE", "", "~"]).await;
        let refused = client.call(&["EXEC"]).await;
        let text = "EXECABORT Transaction discarded because of: OOM the command reads more than";
        assert!(refused.is_error(text), "{refused}");
    });
}

#[test]
fn a_count_conflicts_with_a_key_that_comes_while_it_goes_on() {
    let (mut world, mut client) = with_many_keys();
    let mut other = world.connect();
    world.run(async move {
        let range = &["COUNTRANGE", "1", "5"][..];
        for (words, key, conflicts) in [
            (range, "10000!", true),
            (range, "49999!", true),
            (range, "5!", false),
            (&["KEYS", "1*"], "5!", true),
            (&["DBSIZE"], "5!", true),
        ] {
            assert_eq!(client.call(&["BEGIN"]).await, Value::ok());
            client.send(&request(words)).await;
            assert_eq!(other.call(&["SET", key, "1"]).await, Value::ok());
            assert!(!client.has_reply(), "{words:?} had its reply already");
            let found = client.receive().await;
            assert!(!found.is_error(""), "{found}");
            assert_eq!(client.call(&["SET", "own", "1"]).await, Value::ok());
            let committed = client.call(&["COMMIT"]).await;
            let conflict = format!("CONFLICT key \"{key}\" in database 0");
            if conflicts {
                assert!(
                    committed.is_error(&conflict),
                    "{words:?} {key}: {committed}"
                );
            } else {
                assert_eq!(committed, Value::ok());
            }
            assert_eq!(other.call(&["DEL", key]).await, Value::Integer(1));
        }
    });
}

#[test]
fn a_transaction_that_is_ended_while_it_counts_says_so() {
    let (mut world, mut client) = with_many_keys();
    let (store, mut other) = (Rc::clone(&world.store), world.connect());
    world.run(async move {
        for words in [&["COUNTRANGE", "", "~"][..], &["DBSIZE"], &["KEYS", "x"]] {
            assert_eq!(client.call(&["BEGIN"]).await, Value::ok());
            client.send(&request(words)).await;
            for _ in 0..3 {
                other.call(&["PING"]).await;
            }
            assert!(!client.has_reply(), "{words:?} had its reply already");
            store.expire_transactions(i64::MAX);
            let ended = client.receive().await;
            assert!(
                ended.is_error("TXEXPIRED the transaction was ended"),
                "{ended}"
            );
            let none = client.call(&["ROLLBACK"]).await;
            assert!(none.is_error("ERR there is no open transaction"), "{none}");
            // And what is on its own goes on as ever.
            let counted = client.call(&["COUNTRANGE", "", "~"]).await;
            assert_eq!(counted, Value::Integer(60_000));
        }
    });
}

#[test]
fn keys_are_counted_however_many_there_are() {
    let (mut world, mut client) = with_many_keys();
    world.run(async move {
        let mut count = async |start: &str, end: &str| {
            let counted = client.call(&["COUNTRANGE", start, end]).await;
            assert!(matches!(counted, Value::Integer(_)), "{counted:?}");
            counted
        };
        assert_eq!(count("", ":").await, Value::Integer(60_000));
        assert_eq!(count("10000", "45001").await, Value::Integer(35_001));
        assert_eq!(count("59999", "9").await, Value::Integer(1));
        assert_eq!(count("6", "60").await, Value::Integer(0));
        assert_eq!(count("2", "1").await, Value::Integer(0));
        assert_eq!(count("5", "5").await, Value::Integer(0));
    });
}

/// A client that sends `words` for ever and takes no reply.
fn held_back(words: &[&str]) {
    let mut world = World::new(support::seed(2), &[("client-output-stall-timeout", "0")]);
    let (mut deaf, mut watcher) = (world.connect(), world.connect());
    let chunk = request(words).repeat(100);
    world.executor.spawn(async move {
        // Until the pipe is full in both directions: this never ends.
        while deaf.send(&chunk).await {}
    });
    world.run(async move {
        let value = "x".repeat(10_000);
        assert_eq!(watcher.call(&["SET", "k", &value]).await, Value::ok());
        let mut last = 0;
        for _ in 0..2000 {
            last = info(&mut watcher, "clients_buffer_bytes").await;
            assert!(last < 1 << 20, "{last} bytes of buffers");
        }
        assert!(
            last > 256 << 10,
            "{last} bytes: it was not held back by its replies"
        );
    });
}

#[test]
fn a_client_that_never_reads_large_replies_is_held_back() {
    held_back(&["GET", "k"]);
}

#[test]
fn a_client_that_never_reads_small_replies_is_held_back() {
    held_back(&["PING"]);
    held_back(&["SET", "other", "1"]);
}

#[test]
fn a_client_that_does_not_take_its_replies_is_closed() {
    let mut world = World::new(support::seed(3), &[("client-output-stall-timeout", "5")]);
    let (mut deaf, mut watcher) = (world.connect(), world.connect());
    let clock = world.executor.clock();
    world.run(async move {
        watcher.call(&["SET", "k", &"x".repeat(100_000)]).await;
        deaf.send(&request(&["GET", "k"])).await;
        assert_eq!(info(&mut watcher, "connected_clients").await, 2);
        clock.sleep_ms(3_000).await;
        assert_eq!(
            info(&mut watcher, "connected_clients").await,
            2,
            "too early"
        );
        clock.sleep_ms(4_000).await;
        assert_eq!(info(&mut watcher, "connected_clients").await, 1);
        assert_eq!(
            watcher.call(&["PING"]).await,
            Value::Line('+', "PONG".to_owned())
        );
        drop(deaf);
    });
}

#[test]
fn a_slow_client_gets_all_of_a_large_reply() {
    let mut world = World::new(support::seed(4), &[("client-output-stall-timeout", "5")]);
    let mut slow = world.connect();
    let clock = world.executor.clock();
    world.run(async move {
        let value = "x".repeat(300_000);
        slow.call(&["SET", "k", &value]).await;
        slow.send(&request(&["GET", "k"])).await;
        let mut taken = Vec::new();
        while taken.len() < value.len() + 11 {
            slow.take_some(&mut taken).await;
            clock.sleep_ms(1_000).await;
        }
        assert_eq!(Value::parse(&taken).unwrap().0, Value::bulk(&value));
    });
}

#[test]
fn idle_clients_are_closed_if_so_configured() {
    let mut world = World::new(support::seed(5), &[("timeout", "10")]);
    let (mut idle, mut busy) = (world.connect(), world.connect());
    let clock = world.executor.clock();
    world.run(async move {
        idle.call(&["PING"]).await;
        for _ in 0..15 {
            clock.sleep_ms(1_000).await;
            busy.call(&["PING"]).await;
        }
        assert_eq!(idle.receive().await, Value::Closed);
        assert_eq!(
            busy.call(&["PING"]).await,
            Value::Line('+', "PONG".to_owned())
        );
    });
}

#[test]
fn silent_connections_make_way_and_others_do_not() {
    let mut world = World::new(support::seed(6), &[("maxclients", "3")]);
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(world.connect());
    }
    world.wait_ms(1);
    let mut talking = Vec::new();
    for _ in 0..3 {
        let client = world.connect();
        let (client, reply) = world.call(client, &["PING"]);
        assert_eq!(reply, Value::Line('+', "PONG".to_owned()));
        talking.push(client);
    }
    let mut late = world.connect();
    world.run(async move {
        let refused = late.receive().await;
        assert!(
            refused.is_error("ERR max number of clients reached"),
            "{refused}"
        );
        assert_eq!(late.receive().await, Value::Closed);
        for mut client in silent {
            assert_eq!(client.receive().await, Value::Closed);
        }
        assert_eq!(
            info(talking.first_mut().unwrap(), "connected_clients").await,
            3
        );
        assert_eq!(
            info(talking.first_mut().unwrap(), "rejected_connections").await,
            1
        );
        // One that goes makes room.
        drop(talking.pop());
    });
    world.wait_ms(1);
    let client = world.connect();
    let (_, reply) = world.call(client, &["PING"]);
    assert_eq!(reply, Value::Line('+', "PONG".to_owned()));
}

#[test]
fn all_buffers_together_are_bounded() {
    let mut world = World::new(support::seed(7), &[("maxmemory-clients", "1mb")]);
    let clients: Vec<Client> = (0..8).map(|_| world.connect()).collect();
    let mut watcher = world.connect();
    world.run(async move {
        watcher.call(&["PING"]).await;
        let mut clients = clients;
        let mut refused = 0;
        // Each begins a request of 300 kB and leaves it unfinished.
        for client in &mut clients {
            client
                .send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$300000\r\n")
                .await;
            for _ in 0..29 {
                if !client.send(&[b'x'; 10_000]).await {
                    break;
                }
            }
            assert!(info(&mut watcher, "clients_buffer_bytes").await <= 1 << 20);
        }
        for client in &mut clients {
            if client.has_reply() {
                let reply = client.receive().await;
                assert!(reply.is_error("ERR not enough memory"), "{reply}");
                refused += 1;
            }
        }
        assert!((1..8).contains(&refused), "{refused} were refused");
        assert_eq!(watcher.call(&["SET", "k", "v"]).await, Value::ok());
    });
}

#[test]
fn a_request_is_bounded() {
    let settings = [("client-query-buffer-limit", "64kb")];
    let mut world = World::new(support::seed(8), &settings);
    let (mut many, mut large) = (world.connect(), world.connect());
    world.run(async move {
        many.send(b"*100000\r\n").await;
        while many.send(&b"$1\r\nx\r\n".repeat(100)).await && !many.has_reply() {}
        let reply = many.receive().await;
        assert!(reply.is_error("ERR the request is larger than client-query-buffer-limit"));
        assert_eq!(many.receive().await, Value::Closed);
        // Known to be too large from its announced length.
        large.send(b"*2\r\n$3\r\nGET\r\n$100000\r\n").await;
        let reply = large.receive().await;
        assert!(reply.is_error("ERR the request is larger than client-query-buffer-limit"));
        assert_eq!(large.receive().await, Value::Closed);
    });
}

#[test]
fn a_reply_is_bounded() {
    let settings = [("client-output-buffer-limit", "normal 100kb 0 0")];
    let mut world = World::new(support::seed(9), &settings);
    let (mut greedy, mut other) = (world.connect(), world.connect());
    world.run(async move {
        greedy.call(&["SET", "k", &"x".repeat(10_000)]).await;
        assert_eq!(
            greedy.call(&["MGET", "k", "k"]).await.to_string().len(),
            20_008
        );
        let words = ["k"; 1000];
        greedy
            .send(&request(&[&["MGET"], words.as_slice()].concat()))
            .await;
        assert_eq!(greedy.receive().await, Value::Closed);
        // In a transaction, too, and for keys.
        assert_eq!(
            info(&mut other, "client_output_buffer_limit_disconnections").await,
            1
        );
        assert_eq!(other.call(&["STRLEN", "k"]).await, Value::Integer(10_000));
    });
}

#[test]
fn queued_commands_are_bounded() {
    let mut world = World::new(support::seed(10), &[("multi-queue-limit", "10kb")]);
    let mut client = world.connect();
    world.run(async move {
        client.call(&["MULTI"]).await;
        let value = "x".repeat(3_000);
        for _ in 0..3 {
            let reply = client.call(&["SET", "k", &value]).await;
            assert_eq!(reply, Value::Line('+', "QUEUED".to_owned()));
        }
        let reply = client.call(&["SET", "k", &value]).await;
        assert!(
            reply.is_error("ERR the transaction holds more than multi-queue-limit"),
            "{reply}"
        );
        let reply = client.call(&["SET", "k", "small"]).await;
        assert_eq!(reply, Value::Line('+', "QUEUED".to_owned()));
        let reply = client.call(&["EXEC"]).await;
        assert!(reply.is_error("EXECABORT"), "{reply}");
        assert_eq!(client.call(&["EXISTS", "k"]).await, Value::Integer(0));
        let watch = client.call(&["WATCH", &"w".repeat(9_000)]).await;
        assert_eq!(watch, Value::ok());
        let watch = client.call(&["WATCH", &"v".repeat(9_000)]).await;
        assert!(watch.is_error("ERR the transaction holds more"), "{watch}");
    });
}

#[test]
fn data_larger_than_the_memory_limit_is_served() {
    let mut world = World::new(support::seed(12), &[("maxmemory", "2mb")]);
    let mut client = world.connect();
    world.run(async move {
        let value = |number: usize| format!("{number:07}").repeat(40);
        for number in 0..12_000 {
            let key = format!("key:{number}");
            let reply = client.call(&["SET", &key, &value(number)]).await;
            assert_eq!(reply, Value::ok());
        }
        for number in (0..12_000).step_by(97) {
            let key = format!("key:{number}");
            let reply = client.call(&["GET", &key]).await;
            assert_eq!(reply, Value::bulk(value(number)));
        }
        assert!(info(&mut client, "used_memory_dataset").await <= 2 << 20);
        client.call(&["MULTI"]).await;
        client.call(&["GET", "key:0"]).await;
        client.call(&["APPEND", "key:1", "x"]).await;
        let reply = client.call(&["EXEC"]).await;
        assert_eq!(reply.to_string(), format!("[\"{}\", :281]", value(0)));
        assert_eq!(
            client.call(&["DEL", "key:0", "key:1", "key:none"]).await,
            Value::Integer(2)
        );
    });
}

#[test]
fn memory_is_told_by_owner_and_clients_have_their_part_of_it() {
    let mut world = World::new(support::seed(16), &[("maxmemory", "4mb")]);
    let (mut large, mut client) = (world.connect(), world.connect());
    world.run(async move {
        for number in 0..2000 {
            let reply = client
                .call(&["SET", &format!("key:{number}"), &"v".repeat(300)])
                .await;
            assert_eq!(reply, Value::ok());
        }
        client.call(&["BEGIN"]).await;
        client.call(&["SET", "k", &"v".repeat(100_000)]).await;
        assert!(info(&mut client, "used_memory_transactions").await >= 100_000);
        client.call(&["ROLLBACK"]).await;
        assert_eq!(info(&mut client, "used_memory_transactions").await, 0);
        assert!(info(&mut client, "used_memory_memtables").await > 64 << 10);
        assert!(info(&mut client, "mem_pool_chunks_used").await > 0);
        // `maxmemory-clients` would allow it.
        large.send(b"*1001\r\n$4\r\nMSET\r\n").await;
        let argument = format!("$10000\r\n{}\r\n", "x".repeat(10_000));
        while !large.has_reply() && large.send(argument.as_bytes()).await {
            let used = info(&mut client, "used_memory").await;
            assert!(used <= 4 << 20, "{used}");
        }
        let reply = large.receive().await;
        assert!(reply.is_error("ERR not enough memory"), "{reply}");
        drop(large);
        client.call(&["PING"]).await;
        assert_eq!(
            client.call(&["GET", "key:7"]).await,
            Value::bulk("v".repeat(300))
        );
        for (value, error) in [("1mb", "ERR CONFIG SET failed"), ("2mb", ""), ("0", "")] {
            let reply = client.call(&["CONFIG", "SET", "maxmemory", value]).await;
            assert!(
                if error.is_empty() {
                    reply == Value::ok()
                } else {
                    reply.is_error(error)
                },
                "{value}: {reply}"
            );
        }
        for policy in ["lru", "lfu", "s3-fifo"] {
            let reply = client
                .call(&["CONFIG", "SET", "cache-policy", policy])
                .await;
            assert_eq!(reply, Value::ok());
            let text = client.call(&["INFO", "memory"]).await.text();
            assert!(
                text.contains(&format!("cache_policy:{policy}\r\n")),
                "{text}"
            );
        }
    });
}

#[test]
fn keys_are_bounded() {
    let mut world = World::new(support::seed(13), &[]);
    let mut client = world.connect();
    world.run(async move {
        let (longest, longer) = ("k".repeat(65_535), "k".repeat(65_536));
        assert_eq!(client.call(&["SET", &longest, "v"]).await, Value::ok());
        assert_eq!(client.call(&["GET", &longest]).await, Value::bulk("v"));
        let complaint = "ERR key is longer than the maximum of 65535 bytes";
        for words in [
            vec!["SET", &longer, "v"],
            vec!["MSET", "a", "v", &longer, "v"],
            vec!["RENAME", &longest, &longer],
            vec!["APPEND", &longer, "v"],
        ] {
            assert!(client.call(&words).await.is_error(complaint));
        }
        assert_eq!(client.call(&["GET", &longer]).await, Value::Nil);
        assert_eq!(client.call(&["EXISTS", "a"]).await, Value::Integer(0));
    });
}

#[test]
fn connections_that_end_in_the_middle_leave_nothing_behind() {
    let mut world = World::new(support::seed(14), &[]);
    let whole = request(&["SET", "half", "0123456789"]);
    for length in 0..whole.len() {
        let mut client = world.connect();
        let part = whole.get(..length).unwrap().to_vec();
        world.run(async move {
            client.send(&part).await;
            if part.len() % 2 == 0 {
                client.finish();
                assert_eq!(client.receive().await, Value::Closed);
            }
        });
    }
    let mut client = world.connect();
    world.run(async move {
        assert_eq!(client.call(&["EXISTS", "half"]).await, Value::Integer(0));
        assert_eq!(info(&mut client, "connected_clients").await, 1);
        assert!(info(&mut client, "clients_buffer_bytes").await < 100 << 10);
    });
}

#[test]
fn a_client_that_sends_no_more_still_gets_its_replies() {
    let mut world = World::new(support::seed(15), &[]);
    let mut client = world.connect();
    world.run(async move {
        client.send(&request(&["INCR", "n"]).repeat(50)).await;
        client.finish();
        for number in 1..=50 {
            assert_eq!(client.receive().await, Value::Integer(number));
        }
        assert_eq!(client.receive().await, Value::Closed);
    });
}

#[test]
fn noise_hurts_nobody_else() {
    let mut random = lfs::sim::Random::new(support::seed(16));
    let mut world = World::new(16, &[]);
    let tokens: [&[u8]; 16] = [
        b"\r\n",
        b"*",
        b"$",
        b"-1",
        b"3",
        b"SET",
        b"\"",
        b" ",
        b"\0",
        b"\xff",
        b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n",
        b"MULTI\r\n",
        b"EXEC\r\n",
        b"SCAN 0\r\n",
        b"HELLO 3\r\n",
    ];
    for _ in 0..500 {
        let mut bytes = Vec::new();
        for _ in 0..random.index(100) {
            bytes.extend_from_slice(tokens.get(random.index(tokens.len())).unwrap());
        }
        let mut client = world.connect();
        world.run(async move {
            client.send(&bytes).await;
            client.finish();
            let mut replies = client.receive_all().await;
            // Whatever it was, what comes back is well-formed.
            while let Some((_, length)) = Value::parse(&replies) {
                replies.drain(..length);
            }
            assert!(replies.is_empty(), "{bytes:?}: {replies:?}");
        });
    }
    let client = world.connect();
    let (_, reply) = world.call(client, &["PING"]);
    assert_eq!(reply, Value::Line('+', "PONG".to_owned()));
}

#[test]
fn a_walk_over_many_keys_lets_others_go_on() {
    let mut world = World::new(support::seed(17), &[("appendfsync", "no")]);
    let (mut walker, mut other) = (world.connect(), world.connect());
    let done = Rc::new(std::cell::Cell::new(false));
    let finished = Rc::clone(&done);
    world.run(async move {
        for chunk in 0..100 {
            let mut words = vec!["MSET".to_owned()];
            for number in 0..200 {
                words.push(format!("key:{chunk}:{number}"));
                words.push("v".to_owned());
            }
            other.send(&request(&words)).await;
            assert_eq!(other.receive().await, Value::ok());
        }
        walker.send(&request(&["KEYS", "*:7"])).await;
        let walk = async {
            let Value::List(_, keys) = walker.receive().await else {
                panic!("no list")
            };
            assert_eq!(keys.len(), 100);
            finished.set(true);
        };
        let meanwhile = async {
            let mut count = 0;
            while !done.get() {
                other.call(&["SET", "another", "v"]).await;
                other.call(&["DEL", "another"]).await;
                count += 1;
            }
            assert!(count > 10, "only {count} commands while the walk went on");
        };
        embassy_futures::join::join(walk, meanwhile).await;
    });
}

/// One who waited was noticed to be gone when it was its turn, and kept its own locks until then.
#[test]
fn who_waits_for_a_lock_and_goes_away_gives_up() {
    let mut world = World::new(support::seed(6), &[]);
    let [mut holder, mut waiting, mut other] = [(); 3].map(|()| world.connect());
    let clock = world.executor.clock();
    world.run(async move {
        for (client, key) in [(&mut holder, "held"), (&mut waiting, "own")] {
            assert_eq!(client.call(&["BEGIN"]).await, Value::ok());
            assert_eq!(client.call(&["LOCK", key]).await, Value::ok());
        }
        waiting.send(&request(&["LOCK", "held"])).await;
        clock.sleep_ms(10).await;
        assert!(!waiting.has_reply());
        // What it sends meanwhile is taken as well.
        waiting.send(&request(&["PING"])).await;
        other.send(&request(&["SET", "own", "1"])).await;
        clock.sleep_ms(10).await;
        assert!(!other.has_reply());
        waiting.finish();
        assert_eq!(other.receive().await, Value::ok());
        assert_eq!(holder.call(&["COMMIT"]).await, Value::ok());
        assert_eq!(other.call(&["SET", "held", "1"]).await, Value::ok());
        assert_eq!(waiting.receive_all().await, b"");
    });
}

#[test]
fn what_is_sent_while_a_lock_is_waited_for_is_carried_out_after_it() {
    let mut world = World::new(support::seed(7), &[]);
    let [mut holder, mut waiting] = [(); 2].map(|()| world.connect());
    let clock = world.executor.clock();
    world.run(async move {
        holder.call(&["BEGIN"]).await;
        assert_eq!(holder.call(&["LOCK", "held"]).await, Value::ok());
        waiting.send(&request(&["SET", "held", "1"])).await;
        // Little by little, and in the end more than there is room for.
        let mut expected = Vec::new();
        for len in [1, 100, 1000, 2000, 3000, 5000] {
            let text = "x".repeat(len);
            waiting.send(&request(&["ECHO", &text])).await;
            expected.push(text);
            clock.sleep_ms(1).await;
        }
        assert!(!waiting.has_reply());
        assert_eq!(holder.call(&["COMMIT"]).await, Value::ok());
        assert_eq!(waiting.receive().await, Value::ok());
        for text in expected {
            assert_eq!(waiting.receive().await, Value::bulk(text));
        }
        assert_eq!(waiting.call(&["GET", "held"]).await, Value::bulk("1"));
    });
}
