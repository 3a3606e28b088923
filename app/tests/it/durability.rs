//! When replies leave: after the commit they depend on is durable, in order, and never as a success that is none.

use crate::support;

use std::cell::Cell;
use std::rc::Rc;

use crate::support::value::Value;
use crate::support::{Client, World, request};
use lfs::sim::{Request, SimDisk};
use lfs::{Clock, DeviceError};

const IO_ERROR: &str = "MISCONF Errors writing to the AOF file: Input/output error";

/// A disk that does not finish flushes until told to.
struct Gate {
    open: Rc<Cell<bool>>,
}

impl Gate {
    /// From now on every flush fails, as the simulated disk cannot hold one back.
    fn fail_flushes(world: &World) {
        world
            .disk
            .set_faults(|request| (request == Request::Flush).then_some(DeviceError::Io));
    }

    fn fail_writes(world: &World) -> Self {
        let open = Rc::new(Cell::new(false));
        let gate = Rc::clone(&open);
        world.disk.set_faults(move |request| {
            let fails = matches!(request, Request::Write(..)) && !gate.get();
            fails.then_some(DeviceError::Io)
        });
        Self { open }
    }
}

/// How many flushes a disk is asked for from here on.
fn flushes_of(disk: &SimDisk) -> Rc<Cell<u32>> {
    let flushes = Rc::new(Cell::new(0));
    let seen = Rc::clone(&flushes);
    disk.set_faults(move |request| {
        seen.set(seen.get() + u32::from(request == Request::Flush));
        None
    });
    flushes
}

fn client(world: &mut World) -> Client {
    world.connect()
}

#[test]
fn a_reply_to_a_write_leaves_after_its_flush() {
    let mut world = World::new(support::seed(1), &[]);
    let flushes = flushes_of(&world.disk);
    let mut client = client(&mut world);
    world.run(async move {
        for round in 1..=50 {
            let before = flushes.get();
            assert_eq!(client.call(&["SET", "k", "v"]).await, Value::ok());
            assert_eq!(
                flushes.get(),
                before + 1,
                "one flush for one SET (round {round})"
            );
            let before = flushes.get();
            assert_eq!(client.call(&["GET", "k"]).await, Value::bulk("v"));
            assert_eq!(flushes.get(), before, "none for a GET of what is durable");
        }
    });
}

#[test]
fn a_pipeline_shares_flushes() {
    // What has to be loaded ends a batch.
    let mut world = World::in_memory(support::seed(2), &[]);
    let flushes = flushes_of(&world.disk);
    let mut client = client(&mut world);
    world.run(async move {
        let before = flushes.get();
        let pipeline = request(&["INCR", "n"]).repeat(16);
        client.send(&pipeline).await;
        for number in 1..=16 {
            assert_eq!(client.receive().await, Value::Integer(number));
        }
        assert_eq!(flushes.get(), before + 1);
    });
}

#[test]
fn everysec_and_no_do_not_wait_and_waitaof_does() {
    for (mode, sync_ms) in [("everysec", 2_000), ("no", 31_000)] {
        let mut world = World::new(support::seed(3), &[("appendfsync", mode)]);
        let flushes = flushes_of(&world.disk);
        let mut client = client(&mut world);
        let clock = world.executor.clock();
        world.run(async move {
            let before = flushes.get();
            for _ in 0..10 {
                assert_eq!(client.call(&["SET", "k", "v"]).await, Value::ok());
            }
            assert_eq!(flushes.get(), before, "{mode} does not wait");
            assert_eq!(
                client.call(&["WAITAOF", "0", "0", "0"]).await.to_string(),
                "[:0, :0]",
                "{mode}"
            );
            assert_eq!(
                client.call(&["WAITAOF", "1", "0", "0"]).await.to_string(),
                "[:1, :0]"
            );
            assert_eq!(
                flushes.get(),
                before + 1,
                "WAITAOF waits and makes it happen"
            );
            client.call(&["SET", "k", "w"]).await;
            let before = flushes.get();
            clock.sleep_ms(sync_ms).await;
            assert!(flushes.get() > before, "{mode} becomes durable by itself");
            assert_eq!(
                client.call(&["WAITAOF", "0", "0", "0"]).await.to_string(),
                "[:1, :0]"
            );
        });
    }
}

#[test]
fn nothing_is_acknowledged_that_a_failed_flush_left_open() {
    let mut world = World::new(support::seed(4), &[]);
    let (writer, reader) = (client(&mut world), client(&mut world));
    let (mut writer, mut reader) = world.run(async move {
        let (mut writer, reader) = (writer, reader);
        assert_eq!(writer.call(&["SET", "old", "1"]).await, Value::ok());
        (writer, reader)
    });
    Gate::fail_flushes(&world);
    world.run(async move {
        // In one pipeline: clean reads keep their replies, writes and reads of them become errors.
        let mut pipeline = Vec::new();
        for words in [
            vec!["GET", "old"],
            vec!["SET", "new", "1"],
            vec!["GET", "old"],
            vec!["GET", "new"],
            vec!["PING"],
            vec!["MULTI"],
            vec!["SET", "other", "1"],
            vec!["GET", "old"],
            vec!["EXEC"],
            vec!["PING", "last"],
        ] {
            pipeline.extend(request(&words));
        }
        writer.send(&pipeline).await;
        let mut replies = Vec::new();
        for _ in 0..10 {
            replies.push(writer.receive().await);
        }
        let error = |index: usize| {
            replies
                .get(index)
                .is_some_and(|reply| reply.is_error(IO_ERROR))
        };
        assert_eq!(replies.first(), Some(&Value::bulk("1")));
        assert!(error(1), "{replies:?}");
        assert_eq!(replies.get(2), Some(&Value::bulk("1")));
        assert!(error(3), "{replies:?}");
        assert_eq!(replies.get(4), Some(&Value::Line('+', "PONG".to_owned())));
        assert_eq!(replies.get(6), Some(&Value::Line('+', "QUEUED".to_owned())));
        assert!(error(8), "{replies:?}");
        assert_eq!(replies.get(9), Some(&Value::bulk("last")));

        // The connection and the others go on with reads; writes say why they cannot.
        for client in [&mut writer, &mut reader] {
            assert_eq!(client.call(&["GET", "old"]).await, Value::bulk("1"));
            let refused = client.call(&["SET", "more", "1"]).await;
            assert!(refused.is_error(IO_ERROR), "{refused}");
            let refused = client.call(&["WAITAOF", "1", "0", "0"]).await;
            assert!(!refused.is_error("ERR"), "{refused}");
            client.call(&["MULTI"]).await;
            client.call(&["DEL", "old"]).await;
            let refused = client.call(&["EXEC"]).await;
            assert!(refused.is_error("EXECABORT"), "{refused}");
            let info = client.call(&["INFO", "persistence"]).await.text();
            assert!(info.contains("aof_last_write_status:err"), "{info}");
            let refused = client.call(&["SHUTDOWN"]).await;
            assert!(
                refused.is_error("ERR Errors trying to SHUTDOWN"),
                "{refused}"
            );
        }
    });
}

#[test]
fn a_failed_write_is_no_success_either() {
    let mut world = World::new(support::seed(5), &[]);
    let gate = Gate::fail_writes(&world);
    let mut client = client(&mut world);
    world.run(async move {
        let refused = client.call(&["SET", "k", "v"]).await;
        assert!(refused.is_error(IO_ERROR), "{refused}");
        // A disk that works again changes nothing before the next start: what it holds is not known.
        gate.open.set(true);
        let refused = client.call(&["SET", "k", "v"]).await;
        assert!(refused.is_error(IO_ERROR), "{refused}");
        assert_eq!(
            client.call(&["PING"]).await,
            Value::Line('+', "PONG".to_owned())
        );
    });
}

#[test]
fn what_was_acknowledged_is_there_after_shutdown_and_start() {
    let seed = support::seed(6);
    let mut world = World::new(seed, &[("appendfsync", "no")]);
    let mut client = client(&mut world);
    let server = Rc::clone(&world.server);
    world.run(async move {
        for number in 0..100 {
            let number = number.to_string();
            assert_eq!(client.call(&["SET", &number, &number]).await, Value::ok());
        }
        client.send(&request(&["SHUTDOWN"])).await;
        server.shutdown_requested().await;
        server.shutdown().await.unwrap();
        assert_eq!(client.receive().await, Value::Closed);
    });
    let disk = world.disk.snapshot(seed);
    let mut world = World::on_disk(disk, None, seed, &[]);
    let mut client = world.connect();
    world.run(async move {
        assert_eq!(client.call(&["DBSIZE"]).await, Value::Integer(100));
        assert_eq!(client.call(&["GET", "99"]).await, Value::bulk("99"));
    });
}

#[test]
fn history_goes_back_over_a_restart_that_it_is_given_to() {
    let seed = support::seed(8);
    let keep = [("history-retention", "3600")];
    let mut world = World::new(seed, &keep);
    let mut client = world.connect();
    world.run(async move {
        for value in ["1", "2", "3"] {
            assert_eq!(client.call(&["SET", "k", value]).await, Value::ok());
        }
    });
    let disk = world.disk.snapshot(seed);
    for (settings, expected) in [(&keep[..], &["3", "2", "1"][..]), (&[], &["3"])] {
        let mut world = World::on_disk(disk.snapshot(seed), None, seed, settings);
        let mut client = world.connect();
        let history = world.run(async move { client.call(&["HISTORY", "k"]).await });
        let Value::List(_, pairs) = &history else {
            panic!("{history}")
        };
        let values = pairs.iter().map(|pair| match pair {
            Value::List(_, pair) => pair[1].text(),
            other => panic!("{other}"),
        });
        assert!(values.eq(expected.iter().copied()), "{history}");
    }
}

#[test]
fn replies_that_are_due_are_sent_before_a_shutdown_closes() {
    let mut world = World::new(support::seed(7), &[]);
    let (mut writer, mut other) = (client(&mut world), client(&mut world));
    let server = Rc::clone(&world.server);
    let main = async move {
        writer.call(&["PING"]).await;
        writer.send(&request(&["INCR", "n"]).repeat(200)).await;
        other.send(&request(&["SHUTDOWN"])).await;
        server.shutdown_requested().await;
        let (outcome, replies) =
            embassy_futures::join::join(server.shutdown(), writer.receive_all()).await;
        outcome.unwrap();
        // As many as were executed, in order, none cut off.
        let mut rest = replies.as_slice();
        let mut count = 0;
        while let Some((value, length)) = Value::parse(rest) {
            count += 1;
            assert_eq!(value, Value::Integer(count));
            rest = rest.get(length..).unwrap();
        }
        assert!(rest.is_empty());
    };
    world.run(main);
}
