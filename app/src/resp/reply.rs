//! Replies, written to the end of a byte vector; types of RESP3 become their nearest RESP2 kin.
//!
//! What is written is always well-formed: an error's or status's text cannot hold a line end.

use alloc::vec::Vec;

use crate::command::failure::MISSING;
use crate::number;

/// Payloads up to this size are appended without asking whether there is memory for them.
const SMALL_BYTES: usize = 4096;

/// Where replies go: bytes that may not become more than a limit.
///
/// A reply that would pass the limit, or that there is no memory for, is cut off and the sink says it has
/// overflowed; the client, who would not understand half a reply, must then be closed.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    bytes: Vec<u8>,
    limit: usize,
    overflowed: bool,
}

impl Sink {
    /// An empty sink for up to about `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            limit,
            overflowed: false,
        }
    }

    /// Changes the limit.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Whether something did not fit.
    pub(crate) fn has_overflowed(&self) -> bool {
        self.overflowed
    }

    /// What was written.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How much was written.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Memory taken.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Where it is now, to [`return_to`](Self::return_to).
    pub(crate) fn place(&self) -> Place {
        Place {
            len: self.bytes.len(),
            overflowed: self.overflowed,
        }
    }

    /// Takes back everything since, as if it had never been written: nor has it overflowed then.
    pub(crate) fn return_to(&mut self, place: Place) {
        self.bytes.truncate(place.len);
        self.overflowed = place.overflowed;
    }

    /// Takes back everything after `len`.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    /// Forgets what was written, and gives memory beyond `keep` bytes back.
    pub(crate) fn reset(&mut self, keep: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(keep);
        self.overflowed = false;
    }

    /// Appends a payload if it fits.
    fn payload(&mut self, bytes: &[u8]) {
        let fits = self.bytes.len().saturating_add(bytes.len()) <= self.limit;
        if fits && (bytes.len() <= SMALL_BYTES || self.bytes.try_reserve(bytes.len() + 2).is_ok()) {
            self.bytes.extend_from_slice(bytes);
        } else {
            self.overflowed = true;
        }
    }
}

/// Where a [`Sink`] was.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    len: usize,
    overflowed: bool,
}

impl Place {
    /// How much was written by then.
    pub(crate) fn len(self) -> usize {
        self.len
    }
}

/// Writes one reply, or the parts of one.
pub(crate) struct Reply<'a> {
    out: &'a mut Sink,
    resp3: bool,
}

impl<'a> Reply<'a> {
    /// Writes to the end of `out`.
    pub(crate) fn new(out: &'a mut Sink, resp3: bool) -> Self {
        Self { out, resp3 }
    }

    /// How much more may be written.
    pub(crate) fn room(&self) -> usize {
        self.out.limit.saturating_sub(self.out.bytes.len())
    }

    /// Says that the reply does not fit.
    pub(crate) fn overflow(&mut self) {
        self.out.overflowed = true;
    }

    /// From now on protocol version 3 (or 2).
    pub(crate) fn set_resp3(&mut self, resp3: bool) {
        self.resp3 = resp3;
    }

    /// Whether the client speaks protocol version 3.
    pub(crate) fn is_resp3(&self) -> bool {
        self.resp3
    }

    /// `+OK`
    pub(crate) fn ok(&mut self) {
        self.out.bytes.extend_from_slice(b"+OK\r\n");
    }

    /// A status line.
    pub(crate) fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// An error; `text` starts with its code, such as `ERR`.
    pub(crate) fn error(&mut self, text: &[u8]) {
        debug_assert!(
            *text != *MISSING.0,
            "an attempt that was in vain is replied to"
        );
        self.line(b'-', text);
    }

    /// An integer.
    pub(crate) fn integer(&mut self, value: i64) {
        if let Ok(small @ 0..=999) = usize::try_from(value) {
            self.head(b':', small);
        } else {
            self.out.bytes.push(b':');
            number::push_i64(&mut self.out.bytes, value);
            self.out.bytes.extend_from_slice(b"\r\n");
        }
    }

    /// A count; beyond `i64` it saturates.
    pub(crate) fn count(&mut self, value: usize) {
        self.integer(i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// A bulk string.
    pub(crate) fn bulk(&mut self, bytes: &[u8]) {
        self.head(b'$', bytes.len());
        self.out.payload(bytes);
        self.out.bytes.extend_from_slice(b"\r\n");
    }

    /// No value: a null, in RESP2 a null bulk string.
    pub(crate) fn null(&mut self) {
        self.out
            .bytes
            .extend_from_slice(if self.resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// No list: a null, in RESP2 a null array.
    pub(crate) fn null_array(&mut self) {
        self.out
            .bytes
            .extend_from_slice(if self.resp3 { b"_\r\n" } else { b"*-1\r\n" });
    }

    /// Head of an array of `len` replies.
    pub(crate) fn array(&mut self, len: usize) {
        self.head(b'*', len);
    }

    /// Head of a map of `len` pairs; in RESP2 an array of twice as many.
    pub(crate) fn map(&mut self, len: usize) {
        if self.resp3 {
            self.head(b'%', len);
        } else {
            self.head(b'*', len * 2);
        }
    }

    /// Head of a set; in RESP2 an array.
    pub(crate) fn set(&mut self, len: usize) {
        self.head(if self.resp3 { b'~' } else { b'*' }, len);
    }

    /// Head of a push message; in RESP2 an array.
    pub(crate) fn push(&mut self, len: usize) {
        self.head(if self.resp3 { b'>' } else { b'*' }, len);
    }

    /// True or false; in RESP2 1 or 0.
    pub(crate) fn boolean(&mut self, value: bool) {
        let bytes: &[u8] = match (self.resp3, value) {
            (true, true) => b"#t\r\n",
            (true, false) => b"#f\r\n",
            (false, true) => b":1\r\n",
            (false, false) => b":0\r\n",
        };
        self.out.bytes.extend_from_slice(bytes);
    }

    /// A floating-point number; in RESP2 a bulk string.
    pub(crate) fn double(&mut self, value: f64) {
        let text = number::format_f64(value);
        if self.resp3 {
            self.line(b',', text.as_bytes());
        } else {
            self.bulk(text.as_bytes());
        }
    }

    /// A number of any size, given by its digits; in RESP2 a bulk string.
    pub(crate) fn big_number(&mut self, digits: &str) {
        if self.resp3 {
            self.line(b'(', digits.as_bytes());
        } else {
            self.bulk(digits.as_bytes());
        }
    }

    /// Text to be shown as it is; in RESP2 a bulk string.
    pub(crate) fn verbatim(&mut self, text: &[u8]) {
        if self.resp3 {
            self.head(b'=', text.len() + 4);
            self.out.bytes.extend_from_slice(b"txt:");
            self.out.payload(text);
            self.out.bytes.extend_from_slice(b"\r\n");
        } else {
            self.bulk(text);
        }
    }

    /// An attribute of `len` pairs before the reply proper; RESP3 only.
    pub(crate) fn attribute(&mut self, len: usize) {
        self.head(b'|', len);
    }

    /// Bytes that are well-formed replies already.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.out.payload(bytes);
    }

    /// A type byte and a length; nearly all lengths have one to three digits.
    fn head(&mut self, kind: u8, len: usize) {
        let out = &mut self.out.bytes;
        match u16::try_from(len) {
            Ok(len @ 0..=9) => out.extend_from_slice(&[kind, digit(len), b'\r', b'\n']),
            Ok(len @ 10..=99) => {
                out.extend_from_slice(&[kind, digit(len / 10), digit(len % 10), b'\r', b'\n']);
            }
            Ok(len @ 100..=999) => {
                let (hundreds, rest) = (len / 100, len % 100);
                let digits = [digit(hundreds), digit(rest / 10), digit(rest % 10)];
                out.extend_from_slice(&[kind, digits[0], digits[1], digits[2], b'\r', b'\n']);
            }
            _ => {
                out.push(kind);
                out.extend_from_slice(itoa::Buffer::new().format(len).as_bytes());
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// One line; line ends in `text`, which may quote a client, become blanks.
    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.bytes.push(kind);
        let start = self.out.bytes.len();
        self.out.bytes.extend_from_slice(text);
        for byte in self.out.bytes.iter_mut().skip(start) {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
        self.out.bytes.extend_from_slice(b"\r\n");
    }
}

/// The digit of a number below ten.
#[expect(clippy::cast_possible_truncation, reason = "below ten")]
fn digit(value: u16) -> u8 {
    b'0' + value as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_any_number_of_digits() {
        for len in [
            0, 9, 10, 42, 99, 100, 507, 999, 1000, 65_535, 65_536, 1_000_000,
        ] {
            let mut sink = Sink::new(10);
            Reply::new(&mut sink, false).array(len);
            assert_eq!(sink.bytes(), alloc::format!("*{len}\r\n").as_bytes());
        }
    }

    fn both(write: impl Fn(&mut Reply<'_>)) -> (Vec<u8>, Vec<u8>) {
        let mut sinks = (Sink::new(1000), Sink::new(1000));
        write(&mut Reply::new(&mut sinks.0, false));
        write(&mut Reply::new(&mut sinks.1, true));
        (sinks.0.bytes, sinks.1.bytes)
    }

    #[test]
    fn types_in_both_versions() {
        type Case = (fn(&mut Reply<'_>), &'static [u8], &'static [u8]);
        let cases: [Case; 12] = [
            (|r| r.null(), b"$-1\r\n", b"_\r\n"),
            (|r| r.null_array(), b"*-1\r\n", b"_\r\n"),
            (|r| r.integer(-12), b":-12\r\n", b":-12\r\n"),
            (|r| r.bulk(b"a\0b"), b"$3\r\na\0b\r\n", b"$3\r\na\0b\r\n"),
            (|r| r.map(2), b"*4\r\n", b"%2\r\n"),
            (|r| r.set(2), b"*2\r\n", b"~2\r\n"),
            (|r| r.boolean(true), b":1\r\n", b"#t\r\n"),
            (|r| r.double(1.5), b"$3\r\n1.5\r\n", b",1.5\r\n"),
            (
                |r| r.double(f64::NEG_INFINITY),
                b"$4\r\n-inf\r\n",
                b",-inf\r\n",
            ),
            (|r| r.verbatim(b"hi"), b"$2\r\nhi\r\n", b"=6\r\ntxt:hi\r\n"),
            (|r| r.big_number("123"), b"$3\r\n123\r\n", b"(123\r\n"),
            (
                |r| r.error(b"ERR a\r\nb"),
                b"-ERR a  b\r\n",
                b"-ERR a  b\r\n",
            ),
        ];
        for (write, resp2, resp3) in cases {
            assert_eq!(both(write), (resp2.to_vec(), resp3.to_vec()));
        }
    }

    #[test]
    fn a_sink_holds_no_more_than_its_limit() {
        let mut sink = Sink::new(100);
        let mut reply = Reply::new(&mut sink, false);
        reply.bulk(&[b'x'; 50]);
        assert_eq!(reply.room(), 100 - 57);
        reply.bulk(&[b'x'; 50]);
        assert!(sink.has_overflowed() && sink.len() < 100);
        sink.reset(0);
        assert!(!sink.has_overflowed() && sink.capacity() == 0);
        Reply::new(&mut sink, false).integer(1);
        let place = sink.place();
        Reply::new(&mut sink, false).bulk(&[b'x'; 200]);
        assert!(sink.has_overflowed());
        sink.return_to(place);
        assert!(!sink.has_overflowed() && sink.bytes() == b":1\r\n" && place.len() == 4);
    }
}
