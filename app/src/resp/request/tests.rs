//! Every input is parsed whole, byte by byte, and split at every place: the outcome must be the same.

use alloc::format;
use alloc::vec;

use super::*;

const LIMITS: Limits = Limits {
    inline_bytes_max: 64 * 1024,
    arguments_max: 1024 * 1024,
    bulk_bytes_max: 1024,
    unauthenticated: false,
};

type Outcome = (Vec<Vec<Vec<u8>>>, Option<ProtocolError>);

/// Parses `input` given in pieces that end at `splits`, as a session would.
fn run(input: &[u8], splits: impl IntoIterator<Item = usize>, limits: &Limits) -> Outcome {
    let mut parser = RequestParser::new();
    let mut requests = Vec::new();
    let mut start = 0;
    for end in splits.into_iter().chain([input.len()]) {
        loop {
            let filled = &input[start..end.max(start)];
            match parser.parse(filled, limits) {
                Err(error) => return (requests, Some(error)),
                Ok(Progress::Incomplete) => break,
                Ok(Progress::Request) => {
                    let args = parser.args(filled);
                    requests.push(args.from(0).map(<[u8]>::to_vec).collect());
                    start += parser.advance();
                }
            }
        }
    }
    (requests, None)
}

/// The outcome, after checking that it does not depend on splits.
fn parse_with(input: &[u8], limits: &Limits) -> Outcome {
    let whole = run(input, [], limits);
    assert_eq!(
        run(input, 0..input.len(), limits),
        whole,
        "byte by byte: {input:?}"
    );
    for split in 0..input.len() {
        assert_eq!(
            run(input, [split], limits),
            whole,
            "split at {split}: {input:?}"
        );
    }
    whole
}

fn parse(input: &[u8]) -> Outcome {
    parse_with(input, &LIMITS)
}

fn words(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

#[test]
fn arrays_and_lines_mix() {
    let (requests, error) = parse(
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\n\r\n*1\r\nPING\r\n\r\n*1\r\n$0\r\n\r\nget 'a b'\n*0\r\n*-1\r\n*1\r\n$4\r\nQUIT\r\n",
    );
    assert_eq!(error, None);
    assert_eq!(
        requests,
        [
            words(&["SET", "k", "\r\n*1"]),
            words(&["PING"]),
            vec![],
            words(&[""]),
            words(&["get", "a b"]),
            vec![],
            vec![],
            words(&["QUIT"]),
        ]
    );
}

#[test]
fn hostile_inputs_are_refused() {
    use ProtocolError as E;
    for (input, expected) in [
        (b"*x\r\n".as_slice(), E::InvalidMultibulkLength),
        (b"*\r\n", E::InvalidMultibulkLength),
        (b"*+1\r\n", E::InvalidMultibulkLength),
        (b"*01\r\n", E::InvalidMultibulkLength),
        (b"*-\r\n", E::InvalidMultibulkLength),
        (b"*-0\r\n", E::InvalidMultibulkLength),
        (b"*1\rx", E::InvalidMultibulkLength),
        (b"*1048577\r\n", E::InvalidMultibulkLength),
        (b"*2147483648\r\n", E::InvalidMultibulkLength),
        (b"*99999999999999999999\r\n", E::InvalidMultibulkLength),
        (
            b"*0000000000000000000000000000000\r",
            E::InvalidMultibulkLength,
        ),
        (b"*1\r\n$-1\r\n", E::InvalidBulkLength),
        (b"*1\r\n$\r\n", E::InvalidBulkLength),
        (b"*1\r\n$1025\r\n", E::InvalidBulkLength),
        (b"*1\r\n$9223372036854775808\r\n", E::InvalidBulkLength),
        (b"*1\r\n$9223372036854775807\r\n", E::InvalidBulkLength),
        (b"*1\r\n$1x\r\n", E::InvalidBulkLength),
        (b"*1\r\n:1\r\n", E::ExpectedDollar(b':')),
        (b"*1\r\n*1\r\n", E::ExpectedDollar(b'*')),
        (b"*1\r\n\r\n", E::ExpectedDollar(b'\r')),
        (b"*1\r\n$1\r\nab\r\n", E::ExpectedCrLf),
        (b"*1\r\n$1\r\na\rb", E::ExpectedCrLf),
        (b"GET \"a\r\n", E::UnbalancedQuotes),
        (b"GET 'a'b\n", E::UnbalancedQuotes),
    ] {
        let (requests, error) = parse(input);
        assert_eq!(error, Some(expected), "{input:?}");
        assert!(requests.is_empty());
    }
}

#[test]
fn inline_lines_are_bounded() {
    let limits = Limits {
        inline_bytes_max: 16,
        ..LIMITS
    };
    let (requests, error) = parse_with(b"0123456789abcde\r\n", &limits);
    assert_eq!((requests.len(), error), (1, None));
    let (_, error) = parse_with(b"0123456789abcdefg\r\n", &limits);
    assert_eq!(error, Some(ProtocolError::InlineTooBig));
    let (_, error) = parse_with(b"0123456789abcdefg", &limits);
    assert_eq!(error, Some(ProtocolError::InlineTooBig));
}

#[test]
fn length_lines_are_bounded() {
    let limits = Limits {
        inline_bytes_max: 40,
        ..LIMITS
    };
    let digits = "1".repeat(41);
    for (prefix, error) in [
        ("*", ProtocolError::MultibulkLengthTooBig),
        ("*1\r\n$", ProtocolError::BulkLengthTooBig),
    ] {
        for end in ["", "\r\n"] {
            let line = format!("{prefix}{digits}{end}");
            assert_eq!(
                parse_with(line.as_bytes(), &limits),
                (vec![], Some(error)),
                "{line:?}"
            );
        }
        let line = format!("{prefix}{}", "1".repeat(40));
        assert_eq!(
            parse_with(line.as_bytes(), &limits),
            (vec![], None),
            "{line:?}"
        );
    }
}

#[test]
fn little_is_allowed_before_auth() {
    let limits = Limits {
        bulk_bytes_max: 1 << 20,
        unauthenticated: true,
        ..LIMITS
    };
    let (_, error) = parse_with(b"*11\r\n", &limits);
    assert_eq!(error, Some(ProtocolError::UnauthenticatedMultibulkLength));
    let (_, error) = parse_with(b"*1\r\n$16385\r\n", &limits);
    assert_eq!(error, Some(ProtocolError::UnauthenticatedBulkLength));
    let (requests, error) = parse_with(b"*2\r\n$4\r\nAUTH\r\n$1\r\np\r\n", &limits);
    assert_eq!((requests.len(), error), (1, None));
}

#[test]
fn announced_lengths_reserve_nothing() {
    let limits = Limits {
        bulk_bytes_max: usize::MAX / 4,
        ..LIMITS
    };
    let mut parser = RequestParser::new();
    let input = b"*1048576\r\n$1000000000000\r\nabc";
    assert_eq!(parser.parse(input, &limits), Ok(Progress::Incomplete));
    assert!(parser.memory_bytes() < 1024);
    assert!(parser.bytes_min() > 1_000_000_000_000);
}

#[test]
fn memory_of_a_large_request_is_given_back() {
    let mut input = b"*100000\r\n".to_vec();
    for _ in 0..100_000 {
        input.extend_from_slice(b"$1\r\nx\r\n");
    }
    let mut parser = RequestParser::new();
    assert_eq!(parser.parse(&input, &LIMITS), Ok(Progress::Request));
    assert_eq!(parser.args(&input).len(), 100_000);
    assert_eq!(parser.advance(), input.len());
    assert!(parser.memory_bytes() <= 1024);
}

#[test]
fn random_bytes_never_disagree_with_themselves() {
    // xorshift: a fixed seed, printed with the case that fails.
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let pieces: [&[u8]; 14] = [
        b"*1\r\n",
        b"*2\r\n",
        b"$1\r\n",
        b"$3\r\n",
        b"a",
        b"abc",
        b"\r\n",
        b"\n",
        b"*",
        b"$",
        b"-1",
        b"\"",
        b" ",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n",
    ];
    for case in 0..2000 {
        let mut input = Vec::new();
        for _ in 0..next() % 12 {
            input.extend_from_slice(pieces[(next() % 14) as usize]);
        }
        let whole = run(&input, [], &LIMITS);
        let bytewise = run(&input, 0..input.len(), &LIMITS);
        assert_eq!(whole, bytewise, "case {case}: {input:?}");
    }
}
