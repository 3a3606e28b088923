//! Conversations with the server, written down: what is said, and what is answered.
//!
//! Lines of a script (`tests/scripts/*.txt`):
//! - `> words` sends a request; quotes as in inline commands, and `"ab"*3` is `ababab`;
//! - `>> "bytes"` sends bytes as they are;
//! - `< reply` is what comes back, in the notation of `support/value.rs`; `*` stands for anything;
//! - `@name` goes on with another connection, made when first named;
//! - `name: words -> reply` is a request on that connection and its reply, in one line; either of them may be missing;
//! - `== title` begins anew, with a server of its own;
//! - `! wait ms` lets time go by; `! silent` checks that no reply is there;
//! - `! set name value` sets a parameter of the server, before the first request; before the first title, of all servers;
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

/// Makes a test of each script of a directory.
macro_rules! scripts {
    ($directory:literal: $($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                for misses in [false, true] {
                    play($directory, stringify!($name), false, misses);
                    play($directory, stringify!($name), true, misses);
                }
            }
        )*

        #[test]
        fn every_script_is_played() {
            let mut played = vec![$(stringify!($name)),*];
            played.sort_unstable();
            assert_eq!(scripts_in($directory), played);
        }
    };
}

scripts!(
    "":
    auth,
    client,
    command,
    config,
    connection,
    count,
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

/// The ten anomalies of Hermitage (github.com/ept/hermitage), of keys, of files and of both, at each level: that those do not
/// happen which the level forbids, and that those do which it permits.
mod hermitage {
    use super::{play, scripts_in};

    scripts!(
        "hermitage":
        files,
        g0,
        g1a,
        g1b,
        g1c,
        g2,
        g2_item,
        g_single,
        keys_and_files,
        locks,
        otv,
        p4,
        pmp,
    );
}

fn scripts_in(name: &str) -> Vec<String> {
    let entries = fs::read_dir(directory().join(name)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let scripts = paths.filter(|path| path.is_file());
    let names = scripts.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

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

fn play(directory_name: &str, name: &str, bytewise: bool, misses: bool) {
    let path = directory()
        .join(directory_name)
        .join(name)
        .with_extension("txt");
    let text = fs::read_to_string(&path).unwrap();
    let file = path.file_name().unwrap().to_str().unwrap();
    let lines: Vec<(String, &str)> = (1..)
        .zip(text.lines())
        .map(|(number, line)| (format!("{file}:{number}: {line}"), line))
        .collect();
    let mut sections = lines.split(|(_, line)| line.starts_with("== "));
    let first = sections.next().unwrap_or_default();
    let settings = settings(first);
    if first.iter().any(|(_, line)| !is_silent(line)) {
        play_section(first, &settings, bytewise, misses);
    }
    for section in sections {
        let settings = [&settings[..], &self::settings(section)].concat();
        play_section(section, &settings, bytewise, misses);
    }
}

/// Whether the line says nothing, to anybody.
fn is_silent(line: &str) -> bool {
    line.is_empty() || line.starts_with('#') || line.starts_with("! set ")
}

fn settings<'t>(lines: &[(String, &'t str)]) -> Vec<(&'t str, &'t str)> {
    let settings = lines
        .iter()
        .filter_map(|(_, line)| line.strip_prefix("! set "));
    settings
        .map(|setting| setting.split_once(' ').expect("a name and a value"))
        .collect()
}

fn play_section(lines: &[(String, &str)], settings: &[(&str, &str)], bytewise: bool, misses: bool) {
    let mut world = if misses {
        World::missing(support::seed(1), settings)
    } else {
        World::new(support::seed(1), settings)
    };
    let mut clients: BTreeMap<String, Client> = BTreeMap::new();
    let mut current = "first".to_owned();
    for (place, line) in lines {
        if let Some((name, said)) = on_one_line(line) {
            let client = clients.remove(name);
            let mut client = client.unwrap_or_else(|| world.connect());
            let (command, reply) = match said.rsplit_once("-> ") {
                Some((command, reply)) => (command.trim(), Some(reply.trim())),
                None => (said.trim(), None),
            };
            if !command.is_empty() {
                client = send(&mut world, client, request(&words(command)), bytewise);
            }
            if let Some(expected) = reply {
                client = expect(&mut world, client, expected, place);
            }
            clients.insert(name.to_owned(), client);
            continue;
        }
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
            client = expect(&mut world, client, expected, place);
        } else if let Some(duration) = line.strip_prefix("! wait ") {
            world.wait_ms(duration.parse().expect("milliseconds"));
        } else if *line == "! silent" {
            assert!(!client.has_reply(), "{place}");
        } else if let Some(other) = line.strip_prefix('@') {
            clients.insert(std::mem::replace(&mut current, other.to_owned()), client);
            continue;
        } else {
            assert!(is_silent(line), "{place}: not a line of a script");
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

/// `name: …`.
fn on_one_line(line: &str) -> Option<(&str, &str)> {
    let (name, said) = line.split_once(": ")?;
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric()) && !name.is_empty();
    is_name.then_some((name, said))
}

fn expect(world: &mut World, mut client: Client, expected: &str, place: &str) -> Client {
    let (back, reply) = world.run(async move {
        let reply = client.receive().await;
        (client, reply)
    });
    let reply = reply.to_string();
    assert!(like(expected, &reply), "{place}\nreplied {reply}");
    back
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
