//! Conversations with the server, written down: what is said, and what is answered.
//!
//! Lines of a script (`tests/scripts/*.txt`):
//! - `> words` sends a request; quotes as in inline commands, and `"ab"*3` is `ababab`;
//! - `>> "bytes"` sends bytes as they are;
//! - `< reply` is what comes back, in the notation of `support/value.rs`; `*` stands for anything;
//! - `@name` goes on with another connection, made when first named;
//! - `! wait ms` lets time go by; `! silent` checks that no reply is there;
//! - `! set name value` sets a parameter of the server, before the first request;
//! - `#` starts a comment.
//!
//! Each script is played four times: request by request, and byte by byte; both with all keys in memory, and with reads of
//! keys that miss at random.

use crate::support;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::support::{Client, World, request};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scripts")
}

/// Makes a test of each script.
macro_rules! scripts {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                for misses in [false, true] {
                    play(stringify!($name), false, misses);
                    play(stringify!($name), true, misses);
                }
            }
        )*

        #[test]
        fn every_script_is_played() {
            let mut found: Vec<String> = fs::read_dir(directory())
                .unwrap()
                .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
                .collect();
            found.sort();
            let mut played = vec![$(stringify!($name)),*];
            played.sort_unstable();
            assert_eq!(found, played);
        }
    };
}

scripts!(
    auth,
    client,
    command,
    config,
    connection,
    expiry,
    files,
    generic,
    inline,
    interactive,
    keyspace,
    object,
    protocol,
    resp3,
    server,
    strings,
    transactions,
);

/// Splits a line into words as Redis's inline commands do.
fn words(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (word, after) = unquote(quoted);
            let (times, after) = match after.strip_prefix('*') {
                Some(times) => times.split_at(times.find(' ').unwrap_or(times.len())),
                None => ("1", after),
            };
            words.push(word.repeat(times.parse().expect("how often")));
            rest = after.trim_start();
        } else {
            let end = rest.find(' ').unwrap_or(rest.len());
            words.push(rest.as_bytes()[..end].to_vec());
            rest = rest[end..].trim_start();
        }
    }
    words
}

/// The bytes up to the closing quote, and what comes after it.
fn unquote(text: &str) -> (Vec<u8>, &str) {
    let mut bytes = Vec::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (bytes, &text[at + 1..]),
            '\\' => {
                let (_, escaped) = characters.next().expect("something is escaped");
                match escaped {
                    'r' => bytes.push(b'\r'),
                    'n' => bytes.push(b'\n'),
                    'x' => {
                        let mut digit = || {
                            characters
                                .next()
                                .and_then(|(_, c)| c.to_digit(16))
                                .expect("two digits")
                        };
                        bytes.push(u8::try_from(digit() * 16 + digit()).unwrap());
                    }
                    other => bytes.extend(other.to_string().into_bytes()),
                }
            }
            other => bytes.extend(other.to_string().into_bytes()),
        }
    }
    panic!("a quote is not closed: {text}");
}

/// Whether `text` is `pattern`, in which `*` stands for anything.
fn like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn play(name: &str, bytewise: bool, misses: bool) {
    let text = fs::read_to_string(directory().join(name).with_extension("txt")).unwrap();
    let settings: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("! set "))
        .map(|setting| setting.split_once(' ').expect("a name and a value"))
        .collect();
    let mut world = if misses {
        World::missing(support::seed(1), &settings)
    } else {
        World::new(support::seed(1), &settings)
    };
    let mut clients: BTreeMap<String, Client> = BTreeMap::new();
    let mut current = "first".to_owned();
    for (number, line) in text.lines().enumerate() {
        let place = format!("{name}.txt:{}: {line}", number + 1);
        let mut client = match clients.remove(&current) {
            Some(client) => client,
            None => world.connect(),
        };
        if let Some(raw) = line.strip_prefix(">> ") {
            let bytes = words(raw).concat();
            client = send(&mut world, client, bytes, bytewise);
        } else if let Some(command) = line.strip_prefix("> ") {
            client = send(&mut world, client, request(&words(command)), bytewise);
        } else if let Some(expected) = line.strip_prefix("< ") {
            let (back, reply) = world.run(async move {
                let reply = client.receive().await;
                (client, reply)
            });
            client = back;
            let reply = reply.to_string();
            assert!(like(expected, &reply), "{place}\nreplied {reply}");
        } else if let Some(duration) = line.strip_prefix("! wait ") {
            world.wait_ms(duration.parse().expect("milliseconds"));
        } else if line == "! silent" {
            assert!(!client.has_reply(), "{place}");
        } else if let Some(other) = line.strip_prefix('@') {
            clients.insert(std::mem::replace(&mut current, other.to_owned()), client);
            continue;
        } else {
            let ignored = line.is_empty() || line.starts_with('#') || line.starts_with("! set ");
            assert!(ignored, "{place}: not a line of a script");
        }
        clients.insert(current.clone(), client);
    }
    for (name, client) in &clients {
        assert!(
            !client.has_reply(),
            "a reply that the script does not expect, to {name}"
        );
    }
}

fn send(world: &mut World, mut client: Client, bytes: Vec<u8>, bytewise: bool) -> Client {
    world.run(async move {
        for piece in bytes.chunks(if bytewise { 1 } else { bytes.len().max(1) }) {
            client.send(piece).await;
            embassy_futures::yield_now().await;
        }
        client
    })
}

#[test]
fn patterns() {
    assert!(like("a*c", "abc") && like("*", "") && like("a", "a") && like("*b*", "abc"));
    assert!(!like("a*c", "ab") && !like("a", "ab") && !like("ab*ba", "aba"));
}
