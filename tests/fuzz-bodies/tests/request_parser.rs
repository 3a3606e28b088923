//! The request parser's body without libFuzzer: the committed corpus, and seeded mutations of it.
#![allow(clippy::indexing_slicing, reason = "tests")]

use fastrand::Rng;
use fuzz_bodies::request_parser;
use tests::{root, seed};

const MUTATIONS: usize = 20_000;

/// What a parser looks at.
const TOKENS: [&[u8]; 16] = [
    b"\r\n",
    b"\n",
    b"*",
    b"$",
    b"*1\r\n",
    b"$0\r\n\r\n",
    b"-1",
    b"9223372036854775807",
    b"*3\r\n$3\r\nSET\r\n",
    b"$3\r\nGET\r\n",
    b"\"",
    b"'",
    b"\\x0",
    b"\0",
    b"MULTI\r\n",
    b"EXEC\r\n",
];

#[test]
fn corpus_and_mutations() {
    let corpus = seed::corpus(&root().join("fuzz/corpus/request_parser"));
    for (path, input) in &corpus {
        println!("{}", path.display());
        request_parser::run(input);
    }
    let mut rng = seed::rng();
    for _ in 0..MUTATIONS {
        let (_, base) = &corpus[rng.usize(..corpus.len())];
        let input = mutate(base.clone(), &mut rng);
        println!("{}", input.escape_ascii());
        request_parser::run(&input);
    }
}

fn mutate(mut input: Vec<u8>, rng: &mut Rng) -> Vec<u8> {
    for _ in 0..rng.usize(1..6) {
        let at = rng.usize(..=input.len());
        match rng.u8(..4) {
            0 => input.truncate(at),
            1 => drop(input.splice(at..at, TOKENS[rng.usize(..TOKENS.len())].iter().copied())),
            2 if at < input.len() => input[at] = rng.u8(..),
            _ => {
                let end = rng.usize(at..=input.len());
                let piece = input[at..end].to_vec();
                let to = rng.usize(..=input.len());
                input.splice(to..to, piece);
            }
        }
        input.truncate(20_000);
    }
    input
}
