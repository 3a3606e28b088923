//! Every command there is, with any arguments: alone, in MULTI, in a pipeline. None may end the server, none may
//! reply with what is no reply, each is answered exactly once.

use crate::support;

use crate::support::value::Value;
use crate::support::{Client, World, request};
use lfs::sim::Random;

/// Names of all commands and subcommands, as words; but for those that end the connection or the server, wait for
/// ever, or switch replies off.
async fn commands(client: &mut Client) -> Vec<Vec<String>> {
    let Value::List(_, names) = client
        .call(&["COMMAND", "LIST", "FILTERBY", "PATTERN", "*"])
        .await
    else {
        panic!("no list of commands")
    };
    let left_out = [
        "quit",
        "shutdown",
        "client|kill",
        "client|reply",
        "client|pause",
        "debug|sleep",
    ];
    let names = names
        .iter()
        .map(Value::text)
        .filter(|name| !left_out.contains(&name.as_str()));
    names
        .map(|name| name.split('|').map(str::to_owned).collect())
        .collect()
}

/// Arguments of all kinds, favouring those that mean something to some command.
fn arguments(random: &mut Random) -> Vec<String> {
    const WORDS: [&str; 42] = [
        "k",
        "l",
        "m",
        "0",
        "1",
        "-1",
        "10",
        "9223372036854775807",
        "-9223372036854775808",
        "1.5",
        "1e400",
        "abc",
        "",
        "ex",
        "px",
        "exat",
        "nx",
        "xx",
        "gt",
        "get",
        "keepttl",
        "match",
        "count",
        "type",
        "*",
        "replace",
        "db",
        "everysec",
        "timeout",
        "maxmemory",
        "100mb",
        "on",
        "2",
        "\r\n",
        "/",
        "/k/l",
        "../m",
        "parents",
        "recursive",
        "cursor",
        "mode",
        "exchange",
    ];
    (0..random.index(7))
        .map(|_| WORDS[random.index(WORDS.len())].to_owned())
        .collect()
}

#[test]
fn every_command_with_any_arguments() {
    any_arguments(World::new(1, &[]));
}

#[test]
fn every_command_with_any_arguments_whose_keys_miss() {
    any_arguments(World::missing(1, &[]));
}

fn any_arguments(mut world: World) {
    let mut random = Random::new(support::seed(1));
    let (mut client, mut witness) = (world.connect(), world.connect());
    world.run(async move {
        let commands = commands(&mut witness).await;
        assert!(commands.len() > 100);
        for round in 0..20_000 {
            let words = random.index(commands.len());
            let mut words = commands.get(words).unwrap().clone();
            words.extend(arguments(&mut random));
            client.send(&request(&words)).await;
            let reply = client.receive().await;
            assert_ne!(reply, Value::Closed, "after {words:?}");
            if round % 100 == 0 {
                // Whatever was set up: back to a state where commands do something.
                client.call(&["RESET"]).await;
                client
                    .call(&["CONFIG", "SET", "maxmemory", "0", "requirepass", ""])
                    .await;
                client
                    .call(&["CONFIG", "SET", "timeout", "0", "proto-max-bulk-len", "1mb"])
                    .await;
                assert_eq!(
                    witness.call(&["PING"]).await,
                    Value::Line('+', "PONG".to_owned())
                );
            }
        }
    });
}

#[test]
fn every_command_within_multi() {
    within_multi(World::new(support::seed(2), &[]));
}

#[test]
fn every_command_within_multi_whose_keys_miss() {
    within_multi(World::missing(support::seed(2), &[]));
}

fn within_multi(mut world: World) {
    let (mut client, mut witness) = (world.connect(), world.connect());
    world.run(async move {
        let commands = commands(&mut witness).await;
        for write_first in [false, true] {
            for command in &commands {
                for count in 0..4 {
                    let mut words = command.clone();
                    words.extend(["k", "10", "v"].iter().take(count).map(ToString::to_string));
                    client.call(&["RESET"]).await;
                    client.call(&["MULTI"]).await;
                    if write_first {
                        client.call(&["SET", "k", "5"]).await;
                    }
                    client.send(&request(&words)).await;
                    let queued = client.receive().await;
                    let reply = client.call(&["EXEC"]).await;
                    assert_ne!(reply, Value::Closed, "after {words:?}");
                    assert!(!reply.is_error("EXECABORT Transaction discarded because of: "));
                    if queued == Value::Line('+', "QUEUED".to_owned()) {
                        let Value::List('*', replies) = &reply else {
                            panic!("{words:?}: {reply}")
                        };
                        assert_eq!(replies.len(), 1 + usize::from(write_first), "{words:?}");
                    }
                }
            }
        }
    });
}
