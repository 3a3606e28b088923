//! Requests: arrays of bulk strings, or inline lines; parsed as the bytes arrive.
//!
//! Invariants:
//! - A request's arguments are places in the caller's input (inline ones, which lose their quotes, in a
//!   scratch of the parser): parsing copies nothing and allocates only the list of places.
//! - No byte is looked at twice except the few of an unfinished length line, so a request that trickles in
//!   costs no more than one that comes at once.
//! - The outcome depends on the bytes only, never on how they were split over reads.
//! - A length is checked against [`Limits`] before anything waits for, or makes room for, that many bytes.
//!
//! Once it fails, a parser is of no more use: what follows is not known to be the start of a request.
//!
//! Stricter than Redis where Redis does not look: a length line must end with CR LF and so must a bulk string.

use alloc::vec::Vec;

use super::inline;

/// A place in a request's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Requests are far shorter than 4 GiB (`client-query-buffer-limit`); a longer one would be cut, not wrap.
    pub(crate) fn new(start: usize, end: usize) -> Self {
        let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self {
            start: narrow(start),
            end: narrow(end),
        }
    }

    /// The bytes at this place.
    pub(crate) fn of(self, bytes: &[u8]) -> &[u8] {
        bytes
            .get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }
}

/// The arguments of one request, the command's name first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Args<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// Arguments at `spans` of `bytes`.
    pub(crate) fn new(bytes: &'a [u8], spans: &'a [Span]) -> Self {
        Self { bytes, spans }
    }

    /// How many there are, the name included.
    pub(crate) fn len(self) -> usize {
        self.spans.len()
    }

    /// Argument `index`; empty when there is none (arity was checked before).
    pub(crate) fn at(self, index: usize) -> &'a [u8] {
        self.get(index).unwrap_or_default()
    }

    /// Argument `index`, if there is one.
    pub(crate) fn get(self, index: usize) -> Option<&'a [u8]> {
        self.spans.get(index).map(|span| span.of(self.bytes))
    }

    /// All arguments from `index` on.
    pub(crate) fn from(self, index: usize) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone {
        let bytes = self.bytes;
        self.spans
            .get(index..)
            .unwrap_or_default()
            .iter()
            .map(move |span| span.of(bytes))
    }

    /// Total length of the arguments in bytes.
    pub(crate) fn total_bytes(self) -> usize {
        self.spans
            .iter()
            .map(|span| (span.end - span.start) as usize)
            .sum()
    }
}

/// What a request may be at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Longest inline line in bytes.
    pub(crate) inline_bytes_max: usize,
    /// Most arguments.
    pub(crate) arguments_max: usize,
    /// Longest argument in bytes.
    pub(crate) bulk_bytes_max: usize,
    /// The client has not given the password yet: much tighter limits hold.
    pub(crate) unauthenticated: bool,
}

/// Most arguments before AUTH.
const UNAUTHENTICATED_ARGUMENTS_MAX: usize = 10;
/// Longest argument, and longest inline line, before AUTH.
const UNAUTHENTICATED_BULK_BYTES_MAX: usize = 16_384;
/// Arguments whose places are kept without giving memory back between requests.
const SPANS_KEPT: usize = 64;
/// A scratch for inline words larger than this is given back.
const SCRATCH_KEPT_BYTES: usize = 1024;

/// Why the connection cannot go on: what comes next is no longer known to be the start of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProtocolError {
    InlineTooBig,
    MultibulkLengthTooBig,
    BulkLengthTooBig,
    UnbalancedQuotes,
    InvalidMultibulkLength,
    InvalidBulkLength,
    UnauthenticatedMultibulkLength,
    UnauthenticatedBulkLength,
    ExpectedDollar(u8),
    ExpectedCrLf,
    OutOfMemory,
}

impl ProtocolError {
    /// The error reply, without its type byte and line end.
    pub(crate) fn text(self) -> Vec<u8> {
        let what: &[u8] = match self {
            Self::InlineTooBig => b"too big inline request",
            Self::MultibulkLengthTooBig => b"too big mbulk count string",
            Self::BulkLengthTooBig => b"too big bulk count string",
            Self::UnbalancedQuotes => b"unbalanced quotes in request",
            Self::InvalidMultibulkLength => b"invalid multibulk length",
            Self::InvalidBulkLength => b"invalid bulk length",
            Self::UnauthenticatedMultibulkLength => b"unauthenticated multibulk length",
            Self::UnauthenticatedBulkLength => b"unauthenticated bulk length",
            Self::ExpectedDollar(_) => b"expected '$', got '",
            Self::ExpectedCrLf => b"expected CR LF after a bulk string",
            Self::OutOfMemory => b"not enough memory for the request",
        };
        let mut text = b"ERR Protocol error: ".to_vec();
        text.extend_from_slice(what);
        if let Self::ExpectedDollar(got) = self {
            text.extend_from_slice(&[got, b'\'']);
        }
        text
    }
}

/// How far parsing got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More bytes are needed.
    Incomplete,
    /// A whole request is there (perhaps an empty one, which asks for nothing).
    Request,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the first byte of a request.
    Start,
    /// Within an array: this many arguments are still to come, and the length of the next one when known.
    Array {
        left: usize,
        bulk_bytes: Option<usize>,
    },
    /// Within an inline line whose first `scanned` bytes hold no line end.
    Inline { scanned: usize },
    /// The request is complete; its arguments are in the input or, of an inline line, in the scratch.
    Complete { inline: bool },
}

/// Parses one request after the other.
#[derive(Debug)]
pub(crate) struct RequestParser {
    state: State,
    /// Bytes of the current request that are parsed.
    position: usize,
    /// So many bytes from `position` on are known to hold no end of a length line that is not a number.
    scanned: usize,
    spans: Vec<Span>,
    scratch: Vec<u8>,
}

impl RequestParser {
    /// A parser at the start of a request.
    pub(crate) fn new() -> Self {
        Self {
            state: State::Start,
            position: 0,
            scanned: 0,
            spans: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Goes on parsing. `input` starts with the first byte of the current request and holds at
    /// least what it held at the last call.
    pub(crate) fn parse(
        &mut self,
        input: &[u8],
        limits: &Limits,
    ) -> Result<Progress, ProtocolError> {
        match self.state {
            State::Complete { .. } => Ok(Progress::Request),
            State::Inline { scanned } => self.parse_inline(input, scanned, limits),
            State::Array { left, bulk_bytes } => self.parse_array(input, left, bulk_bytes, limits),
            State::Start => self.start(input, limits),
        }
    }

    fn start(&mut self, input: &[u8], limits: &Limits) -> Result<Progress, ProtocolError> {
        match *input {
            [] => Ok(Progress::Incomplete),
            // Nearly all requests have fewer than ten arguments; no limit is that low.
            [b'*', digit @ b'1'..=b'9', b'\r', b'\n', ..] => {
                self.position = 4;
                self.parse_array(input, usize::from(digit - b'0'), None, limits)
            }
            [b'*', ..] => match self.read_length(input, 1, limits) {
                Length::Incomplete => Ok(Progress::Incomplete),
                Length::Invalid => Err(ProtocolError::InvalidMultibulkLength),
                Length::TooBig => Err(ProtocolError::MultibulkLengthTooBig),
                Length::Number { value, next } => {
                    self.position = next;
                    self.start_array(input, value, limits)
                }
            },
            _ => self.parse_inline(input, 0, limits),
        }
    }

    /// The arguments of the complete request at the start of `input`.
    pub(crate) fn args<'a>(&'a self, input: &'a [u8]) -> Args<'a> {
        match self.state {
            State::Complete { inline: true } => Args::new(&self.scratch, &self.spans),
            State::Complete { inline: false } => Args::new(input, &self.spans),
            _ => Args::new(input, &[]),
        }
    }

    /// Goes on to the next request; returns the length of the one that was complete.
    pub(crate) fn advance(&mut self) -> usize {
        self.spans.clear();
        if self.spans.capacity() > SPANS_KEPT {
            self.spans.shrink_to(SPANS_KEPT);
        }
        self.scratch.clear();
        if self.scratch.capacity() > SCRATCH_KEPT_BYTES {
            self.scratch.shrink_to(0);
        }
        self.state = State::Start;
        self.scanned = 0;
        core::mem::take(&mut self.position)
    }

    /// How many bytes the current request has at the least, as far as is known.
    pub(crate) fn bytes_min(&self) -> usize {
        match self.state {
            State::Array {
                bulk_bytes: Some(length),
                ..
            } => self.position + length + 2,
            _ => self.position + 1,
        }
    }

    /// Memory of the parser's own.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.spans.capacity() * size_of::<Span>() + self.scratch.capacity()
    }

    fn start_array(
        &mut self,
        input: &[u8],
        count: i64,
        limits: &Limits,
    ) -> Result<Progress, ProtocolError> {
        // Like Redis, zero or fewer arguments are a request for nothing.
        let count = usize::try_from(count).unwrap_or(0);
        if limits.unauthenticated && count > UNAUTHENTICATED_ARGUMENTS_MAX {
            return Err(ProtocolError::UnauthenticatedMultibulkLength);
        }
        if count > limits.arguments_max {
            return Err(ProtocolError::InvalidMultibulkLength);
        }
        self.parse_array(input, count, None, limits)
    }

    fn parse_array(
        &mut self,
        input: &[u8],
        mut left: usize,
        mut bulk_bytes: Option<usize>,
        limits: &Limits,
    ) -> Result<Progress, ProtocolError> {
        while left > 0 {
            if bulk_bytes.is_none() {
                bulk_bytes = self.parse_bulk_length(input, limits)?;
            }
            let Some(length) = bulk_bytes else {
                self.state = State::Array { left, bulk_bytes };
                return Ok(Progress::Incomplete);
            };
            let end = self.position + length;
            match input.get(end..end + 2) {
                Some(b"\r\n") => {}
                Some(_) => return Err(ProtocolError::ExpectedCrLf),
                None => {
                    self.state = State::Array { left, bulk_bytes };
                    // Said as soon as it is certain, so that the outcome does not depend on splits.
                    return match input.get(end) {
                        Some(byte) if *byte != b'\r' => Err(ProtocolError::ExpectedCrLf),
                        _ => Ok(Progress::Incomplete),
                    };
                }
            }
            if self.spans.len() == self.spans.capacity() {
                self.make_room_for_spans()?;
            }
            self.spans.push(Span::new(self.position, end));
            self.position = end + 2;
            bulk_bytes = None;
            left -= 1;
        }
        self.state = State::Complete { inline: false };
        Ok(Progress::Request)
    }

    /// Grows with what has arrived, not with what was announced.
    #[cold]
    fn make_room_for_spans(&mut self) -> Result<(), ProtocolError> {
        let more = self.spans.len().max(4);
        self.spans
            .try_reserve(more)
            .map_err(|_| ProtocolError::OutOfMemory)
    }

    /// `$length`; `None` when its line is not complete yet.
    fn parse_bulk_length(
        &mut self,
        input: &[u8],
        limits: &Limits,
    ) -> Result<Option<usize>, ProtocolError> {
        let rest = input.get(self.position..).unwrap_or_default();
        // Nearly all lengths have one or two digits; no limit is that low.
        match *rest {
            [b'$', digit @ b'0'..=b'9', b'\r', b'\n', ..] => {
                self.position += 4;
                return Ok(Some(usize::from(digit - b'0')));
            }
            [b'$', ten @ b'1'..=b'9', one @ b'0'..=b'9', b'\r', b'\n', ..] => {
                self.position += 5;
                return Ok(Some(usize::from(ten - b'0') * 10 + usize::from(one - b'0')));
            }
            [] => return Ok(None),
            [b'$', ..] => {}
            [other, ..] => return Err(ProtocolError::ExpectedDollar(other)),
        }
        let (value, next) = match self.read_length(input, self.position + 1, limits) {
            Length::Incomplete => return Ok(None),
            Length::Invalid => return Err(ProtocolError::InvalidBulkLength),
            Length::TooBig => return Err(ProtocolError::BulkLengthTooBig),
            Length::Number { value, next } => (value, next),
        };
        let length = usize::try_from(value).map_err(|_| ProtocolError::InvalidBulkLength)?;
        if length > limits.bulk_bytes_max {
            return Err(ProtocolError::InvalidBulkLength);
        }
        if limits.unauthenticated && length > UNAUTHENTICATED_BULK_BYTES_MAX {
            return Err(ProtocolError::UnauthenticatedBulkLength);
        }
        self.position = next;
        Ok(Some(length))
    }

    /// The number on the length line from `start` on. Like Redis, a line that is none is complained
    /// about at its end, or when it is longer than an inline request may be.
    fn read_length(&mut self, input: &[u8], start: usize, limits: &Limits) -> Length {
        let length = read_number(input, start);
        if !matches!(length, Length::Invalid) {
            return length;
        }
        let line = input.get(start..).unwrap_or_default();
        let fresh = line.get(self.scanned..).unwrap_or_default();
        let end = fresh
            .iter()
            .position(|&byte| byte == b'\r')
            .map(|at| self.scanned + at);
        self.scanned = line.len();
        match end {
            Some(end) if end <= limits.inline_bytes_max => Length::Invalid,
            None if line.len() <= limits.inline_bytes_max => Length::Incomplete,
            _ => Length::TooBig,
        }
    }

    fn parse_inline(
        &mut self,
        input: &[u8],
        scanned: usize,
        limits: &Limits,
    ) -> Result<Progress, ProtocolError> {
        let bytes_max = if limits.unauthenticated {
            limits.inline_bytes_max.min(UNAUTHENTICATED_BULK_BYTES_MAX)
        } else {
            limits.inline_bytes_max
        };
        let fresh = input.get(scanned..).unwrap_or_default();
        let Some(end) = fresh
            .iter()
            .position(|&byte| byte == b'\n')
            .map(|at| scanned + at)
        else {
            if input.len() > bytes_max {
                return Err(ProtocolError::InlineTooBig);
            }
            self.state = State::Inline {
                scanned: input.len(),
            };
            return Ok(Progress::Incomplete);
        };
        if end > bytes_max {
            return Err(ProtocolError::InlineTooBig);
        }
        let line = input.get(..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.scratch
            .try_reserve(line.len())
            .map_err(|_| ProtocolError::OutOfMemory)?;
        inline::split(line, &mut self.scratch, &mut self.spans)?;
        self.position = end + 1;
        self.state = State::Complete { inline: true };
        Ok(Progress::Request)
    }
}

enum Length {
    Incomplete,
    Invalid,
    TooBig,
    Number { value: i64, next: usize },
}

/// Reads digits, perhaps after a minus sign, up to CR LF.
fn read_number(input: &[u8], start: usize) -> Length {
    let rest = input.get(start..).unwrap_or_default();
    let negative = rest.first() == Some(&b'-');
    let first = usize::from(negative);
    let mut value: i64 = 0;
    let mut at = first;
    loop {
        let Some(&byte) = rest.get(at) else {
            return Length::Incomplete;
        };
        let digit = byte.wrapping_sub(b'0');
        if digit <= 9 {
            let leading_zero = at > first && value == 0;
            match value
                .checked_mul(10)
                .and_then(|v| v.checked_add(i64::from(digit)))
            {
                Some(next) if !leading_zero => value = next,
                _ => return Length::Invalid,
            }
            at += 1;
            continue;
        }
        if byte != b'\r' || at == first || (negative && value == 0) {
            return Length::Invalid;
        }
        return match rest.get(at + 1) {
            None => Length::Incomplete,
            Some(b'\n') => Length::Number {
                value: if negative { -value } else { value },
                next: start + at + 2,
            },
            Some(_) => Length::Invalid,
        };
    }
}

#[cfg(test)]
mod tests;
