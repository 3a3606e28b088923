//! The input buffer of a connection: starts small, grows with what arrives, gives memory back.

use alloc::vec::Vec;

/// To start with; enough for a pipeline of small commands.
const START_BYTES: usize = 4096;
/// Kept between requests.
const KEPT_BYTES: usize = 16 * 1024;
/// The least room worth reading into.
const ROOM_BYTES: usize = 1024;

/// Bytes received and not yet executed.
#[derive(Debug, Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

/// There is no memory for a larger buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoMemory;

impl Input {
    /// What is there.
    pub(super) fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Where more can be put; see [`Input::has_room`].
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// Says that `count` bytes were put into the room.
    pub(super) fn received(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    /// Drops `count` bytes at the front.
    pub(super) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Makes room to read into as long as that takes no more memory; gives some back when nothing is left.
    /// False when a larger buffer is needed: see [`Input::grow`].
    pub(super) fn has_room(&mut self) -> bool {
        if self.start == self.end && self.bytes.len() > KEPT_BYTES {
            self.bytes.truncate(KEPT_BYTES);
            self.bytes.shrink_to_fit();
        }
        if self.bytes.len() - self.end >= ROOM_BYTES {
            return true;
        }
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        self.bytes.len() - self.end >= ROOM_BYTES
    }

    /// How large the buffer should be next, for a request of at least `request_bytes`. Doubles, so that a
    /// request that trickles in reserves no more than twice what has arrived.
    pub(super) fn next_len(&self, request_bytes: usize) -> usize {
        let doubled = (self.bytes.len() * 2).max(START_BYTES);
        // Not beyond what the request needs, if it is known to need more than there is.
        match request_bytes {
            enough if enough > START_BYTES.max(self.bytes.len()) => {
                doubled.min(enough + ROOM_BYTES)
            }
            _ => doubled,
        }
    }

    /// Makes the buffer `len` bytes long.
    pub(super) fn grow(&mut self, len: usize) -> Result<(), NoMemory> {
        let more = len.saturating_sub(self.bytes.len());
        self.bytes.try_reserve_exact(more).map_err(|_| NoMemory)?;
        self.bytes.resize(len, 0);
        Ok(())
    }

    /// Gets ready for a burst: the last read has filled all the room there was.
    pub(super) fn widen(&mut self) {
        let len = self.bytes.len();
        if (START_BYTES..KEPT_BYTES).contains(&len)
            && self.bytes.try_reserve_exact(KEPT_BYTES - len).is_ok()
        {
            self.bytes.resize(KEPT_BYTES, 0);
        }
    }

    /// Memory taken.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(input: &mut Input, bytes: &[u8], request_bytes: usize) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if !input.has_room() {
                input.grow(input.next_len(request_bytes)).unwrap();
            }
            let room = input.room();
            let count = room.len().min(rest.len());
            room[..count].copy_from_slice(&rest[..count]);
            input.received(count);
            rest = &rest[count..];
        }
    }

    #[test]
    fn grows_with_what_arrives_and_shrinks_when_empty() {
        let mut input = Input::default();
        let large: Vec<u8> = (0..1_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
        put(&mut input, &large[..10], 1 << 30);
        assert!(input.memory_bytes() <= START_BYTES);
        put(&mut input, &large[10..], 1_000_000);
        assert_eq!(input.filled(), large);
        assert!(input.memory_bytes() < 1_100_000);
        input.consume(999_999);
        assert_eq!(input.filled(), &large[999_999..]);
        input.consume(1);
        assert!(input.has_room());
        assert!(input.memory_bytes() <= KEPT_BYTES);
    }

    #[test]
    fn room_is_found_by_moving_before_growing() {
        let mut input = Input::default();
        for _ in 0..1000 {
            put(&mut input, &[7; 3000], 1);
            input.consume(2990);
            put(&mut input, &[7; 20], 1);
            assert_eq!(input.filled(), [7; 30]);
            input.consume(30);
        }
        assert!(input.memory_bytes() <= KEPT_BYTES);
    }
}
