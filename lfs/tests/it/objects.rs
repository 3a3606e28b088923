//! Objects, chunk by chunk.
//!
//! Invariants:
//! - What was put is what is read, whatever its length and wherever it lies: by a scan, by itself, and before the mount has ended.
//! - A byte that changed costs the chunk that it is in, and that never goes unnoticed: neither does one of those that say where a
//!   segment's chunks end. What is not reported as lost can be read.
//! - No length or place, on the disk or asked for, leads outside the object.
//! - To read a chunk takes one request, as few blocks as it is in; to read all, one for each 128 KiB. Each block is written once.
//! - From a mirror, a chunk is mended, and what lies beside it is left as it is.

use crate::common;

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use crate::common::key::{self, choose};
use crate::common::{FORMAT, ID, SEGMENT_BLOCKS, TestFileSystem, mount, seed};
use lfs::sim::{Executor, Random, Request, SimDisk};
use lfs::{
    BLOCK_SIZE, BlockIndex, CHUNK_BYTES_MAX, CheckEvent, CheckOptions, ChunkRef, CommitNumber,
    DeviceError, FormatOptions, ObjectId, ObjectReadError, ObjectWriteError, Problem, Suite,
};

/// A disk, and what a key costs each chunk.
const KEYS: [(Option<Suite>, usize); 3] = [
    (None, 8),
    (Some(Suite::XChaCha20Poly1305), 48),
    (Some(Suite::Aes256GcmSiv), 48),
];
const SEGMENT_BYTES: usize = SEGMENT_BLOCKS * BLOCK_SIZE;
const DISK_BYTES: usize = 16 << 20;

/// Chunks, and what they hold.
type Chunks = Vec<(ChunkRef, Vec<u8>)>;

/// A file system with an object in its checkpoint.
struct Made {
    executor: Executor,
    disk: SimDisk,
    filesystem: Rc<TestFileSystem>,
    object: ObjectId,
    chunks: Chunks,
    /// Where the object's segments begin on the disk, in bytes.
    segments: Vec<usize>,
    segment_bytes: usize,
    head_bytes: usize,
    /// Blocks of each write.
    writes: Vec<(u64, usize)>,
}

fn noise(random: &mut Random, len: usize) -> Vec<u8> {
    (0..len).map(|_| random.next_u64() as u8).collect()
}

impl Made {
    fn new(
        segment_bytes: usize,
        (suite, head_bytes): (Option<Suite>, usize),
        lens: &[usize],
    ) -> Self {
        choose(suite);
        let disk = SimDisk::new(DISK_BYTES / BLOCK_SIZE, 1);
        let target = disk.clone();
        let format = FormatOptions {
            segment_bytes: u32::try_from(segment_bytes).unwrap(),
            ..FORMAT
        };
        let formatting = async move { key::format(&target, format, ID).await.unwrap() };
        Executor::new(1).run(formatting);
        let mut executor = Executor::new(1);
        let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
        let mut random = Random::new(lens.len() as u64);
        let contents = lens.iter().map(|len| noise(&mut random, *len));
        let contents = contents.collect::<Vec<_>>();
        let writes = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&writes);
        disk.set_faults(move |request| {
            if let Request::Write(block, blocks) = request {
                seen.borrow_mut().push((block.0, blocks));
            }
            None
        });
        let (working, clock) = (Rc::clone(&filesystem), executor.clock());
        let noted = Rc::clone(&writes);
        let (object, chunks, writes) = executor.run(async move {
            let mut object = working.create_object().unwrap();
            let mut chunks = Vec::new();
            for content in contents {
                let chunk = object.put(&content).unwrap();
                assert_eq!(chunk.len as usize, content.len());
                assert_eq!(
                    object.len_bytes(),
                    chunk.offset + (head_bytes + content.len()) as u64
                );
                let room = object.segments() * segment_bytes as u64 - object.len_bytes();
                assert!(object.room_in_segment() == room && room < segment_bytes as u64);
                chunks.push((chunk, content));
                object.write_full().await.unwrap();
            }
            let object = object.finish().await.unwrap();
            let writes = noted.take();
            let kept = [object];
            let made = working.checkpoint(CommitNumber(0), &kept, b"manifest", &clock);
            made.await.unwrap();
            (object, chunks, writes)
        });
        disk.clear_faults();
        let segment_blocks = (segment_bytes / BLOCK_SIZE) as u64;
        let mut segments = writes
            .iter()
            .map(|(block, _)| (block / segment_blocks * segment_blocks) as usize * BLOCK_SIZE)
            .collect::<Vec<_>>();
        segments.dedup();
        Self {
            executor,
            disk,
            filesystem,
            object,
            chunks,
            segments,
            segment_bytes,
            head_bytes,
            writes,
        }
    }

    /// Where a byte of the object is on the disk.
    fn place(&self, at: u64) -> usize {
        let at = usize::try_from(at).unwrap();
        self.segments[at / self.segment_bytes] + at % self.segment_bytes
    }

    fn flip(&self, at: u64, bit: usize) {
        flip(&self.disk, self.place(at), bit);
    }

    fn read(&mut self, chunk: ChunkRef) -> Result<Vec<u8>, ObjectReadError> {
        let (filesystem, object) = (Rc::clone(&self.filesystem), self.object);
        self.executor
            .run(async move { filesystem.read_chunk(object, chunk).await })
    }

    /// What a scan finds before it meets its end or an error.
    fn scan(&mut self) -> (Chunks, Result<(), ObjectReadError>) {
        let (filesystem, object) = (Rc::clone(&self.filesystem), self.object);
        self.executor.run(async move {
            let mut scan = filesystem.scan_object(object).unwrap();
            let mut found = Vec::new();
            loop {
                let mut bytes = Vec::new();
                match scan.next(filesystem.device(), &mut bytes).await {
                    Ok(Some(chunk)) => found.push((chunk, bytes)),
                    Ok(None) => return (found, Ok(())),
                    Err(error) => {
                        assert!(bytes.is_empty());
                        // Nothing changes by asking again.
                        let again = scan.next(filesystem.device(), &mut bytes).await;
                        assert_eq!(again, Err(error));
                        return (found, Err(error));
                    }
                }
            }
        })
    }

    /// What a check says is lost of the object.
    fn lost(&self) -> Vec<Range<u64>> {
        lost(&self.disk)
    }

    /// Bytes that a chunk takes.
    fn range(&self, number: usize) -> Range<u64> {
        let chunk = self.chunks[number].0;
        chunk.offset..chunk.offset + (self.head_bytes + chunk.len as usize) as u64
    }

    /// Exactly these chunks cannot be read, and a scan finds all before the first of them.
    fn assert_damaged(&mut self, damaged: &[usize], what: &str) {
        for number in 0..self.chunks.len() {
            let (chunk, content) = self.chunks[number].clone();
            let read = self.read(chunk);
            if damaged.contains(&number) {
                let block = BlockIndex((self.place(chunk.offset) / BLOCK_SIZE) as u64);
                let object = self.object;
                let error = ObjectReadError::Damaged { object, block };
                assert_eq!(read, Err(error), "{what}: chunk {number}");
            } else {
                assert!(read == Ok(content), "{what}: chunk {number}");
            }
        }
    }
}

fn flip(disk: &SimDisk, at: usize, bit: usize) {
    disk.flip_bit(
        BlockIndex((at / BLOCK_SIZE) as u64),
        at % BLOCK_SIZE * 8 + bit,
    );
}

/// What a check says is lost of objects.
fn lost(disk: &SimDisk) -> Vec<Range<u64>> {
    let disk = disk.snapshot(0);
    Executor::new(0).run(async move {
        let mut lost = Vec::new();
        let options = CheckOptions {
            key: key::key(),
            data: true,
            ..CheckOptions::default()
        };
        let mut events = |event: CheckEvent<'_>| {
            if let CheckEvent::Finding(finding) = event {
                let of_object = matches!(finding.problem, Problem::ObjectDamaged { .. });
                assert!(of_object, "{finding}");
                lost.push(finding.bytes.clone().unwrap());
            }
        };
        let summary = lfs::check(&disk, options, &mut events).await;
        assert!(summary.mounts);
        lost
    })
}

/// Lengths at which something ends or begins.
fn edges() -> Vec<usize> {
    let mut lens = vec![1, 2, CHUNK_BYTES_MAX];
    for end in [
        BLOCK_SIZE,
        2 * BLOCK_SIZE,
        32 << 10,
        64 << 10,
        CHUNK_BYTES_MAX,
    ] {
        for before in [0, 8, 16, 48, 96] {
            lens.extend(
                (end - before - 1..=end - before + 1).filter(|len| *len <= CHUNK_BYTES_MAX),
            );
        }
    }
    lens
}

#[test]
fn what_was_put_is_read_whatever_its_length() {
    let seed = seed(700);
    for (round, key) in KEYS.into_iter().enumerate() {
        for segment_bytes in [32 << 10, 64 << 10, 128 << 10, 256 << 10] {
            let mut lens = edges();
            let mut random = Random::new(seed + round as u64);
            for shuffled in [false, true] {
                if shuffled {
                    for at in (1..lens.len()).rev() {
                        lens.swap(at, random.index(at + 1));
                    }
                }
                let mut made = Made::new(segment_bytes, key, &lens);
                let what = format!("{key:?}, {segment_bytes}, {shuffled}");
                let (found, ended) = made.scan();
                assert!(ended == Ok(()) && found == made.chunks, "{what}");
                made.assert_damaged(&[], &what);
                assert_eq!(made.lost(), [], "{what}");
                let (object, chunks) = (made.object, made.chunks.clone());
                let disk = made.disk.snapshot(2);
                Executor::new(2).run(async move {
                    let recovery = key::open(disk).await.unwrap();
                    let mut scan = recovery.scan_object(object).unwrap();
                    for (chunk, content) in chunks.iter().rev() {
                        let read = recovery.read_chunk(object, *chunk).await;
                        assert!(read.as_ref() == Ok(content), "{chunk:?}");
                        scan.seek(*chunk);
                        let mut bytes = Vec::new();
                        let found = scan.next(recovery.device(), &mut bytes).await;
                        assert!(found == Ok(Some(*chunk)) && bytes == *content, "{chunk:?}");
                    }
                    let other = ObjectId(object.0 + 1);
                    let read = recovery.read_chunk(other, chunks[0].0).await;
                    assert_eq!(read, Err(ObjectReadError::NotFound));
                });
            }
        }
    }
}

#[test]
fn a_chunk_takes_one_request_and_a_scan_one_for_each_128_kib() {
    let lens = [
        5000, 1, 4088, 70_000, 12_345, 100_000, 4096, 4096, 130_000, 90_000,
    ];
    for key in KEYS {
        let mut made = Made::new(256 << 10, key, &lens);
        let reads = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&reads);
        made.disk.set_faults(move |request| {
            if let Request::Read(block, blocks) = request {
                seen.borrow_mut().push((block.0, blocks));
            }
            None
        });
        for number in 0..made.chunks.len() {
            let (chunk, _) = made.chunks[number];
            made.read(chunk).unwrap();
            let range = made.range(number);
            let first = (made.place(range.start) / BLOCK_SIZE) as u64;
            let last = (made.place(range.end - 1) / BLOCK_SIZE) as u64;
            assert_eq!(reads.take(), [(first, (last - first + 1) as usize)]);
        }
        let (found, _) = made.scan();
        assert_eq!(found.len(), lens.len());
        let end = made.range(lens.len() - 1).end;
        let count = reads.borrow().len() as u64;
        assert_eq!(count, end.div_ceil(128 << 10), "{reads:?}");
        // Nothing is written twice, nor more than the chunks take, in requests of 128 KiB.
        let written: usize = made.writes.iter().map(|(_, blocks)| blocks).sum();
        let gaps = lens.len() * 2;
        assert!(written * BLOCK_SIZE <= lens.iter().sum::<usize>() + gaps * BLOCK_SIZE);
        let mut blocks = made
            .writes
            .iter()
            .flat_map(|(block, blocks)| *block..block + *blocks as u64);
        let mut seen = std::collections::BTreeSet::new();
        assert!(blocks.all(|block| seen.insert(block)));
        assert!(made.writes.len() as u64 <= end.div_ceil(128 << 10));
    }
}

#[test]
fn every_byte_that_changes_is_noticed_and_costs_its_chunk_alone() {
    let mut random = Random::new(seed(710));
    for key in KEYS {
        // The second one's length has one bit; the third one does not fit behind it.
        let mut made = Made::new(SEGMENT_BYTES, key, &[100, 4096, 28_600, 9, 70]);
        let head = made.head_bytes as u64;
        let first_end = made.range(1).end;
        assert_eq!(made.chunks[2].0.offset, SEGMENT_BYTES as u64);
        let ends = (0..5).flat_map(|number| {
            let Range { start, end } = made.range(number);
            [start.saturating_sub(60)..start + 60, end - 60..end + 60]
        });
        let mut places = ends.flatten().collect::<Vec<_>>();
        places.extend(0..first_end + head + 100);
        places.retain(|at| *at < made.range(4).end.next_multiple_of(BLOCK_SIZE as u64));
        places.retain(|at| *at < 2 * BLOCK_SIZE as u64 || *at >= SEGMENT_BYTES as u64);
        places.sort_unstable();
        places.dedup();
        assert!(places.len() > 4500, "{}", places.len());
        for at in places {
            let hit = (0..5).find(|number| made.range(*number).contains(&at));
            let is_end = (first_end..first_end + head).contains(&at);
            let is_head = is_end || hit.is_some_and(|number| at < made.range(number).start + head);
            let bits = if is_head {
                (0..8).collect::<Vec<_>>()
            } else {
                vec![random.index(8)]
            };
            for bit in bits {
                let what = format!("{key:?}, byte {at}, bit {bit}");
                made.flip(at, bit);
                let (found, ended) = made.scan();
                let upto = hit.unwrap_or(if is_end { 2 } else { 5 });
                assert!(found == made.chunks[..upto], "{what}: {}", found.len());
                let is_damage = matches!(ended, Err(ObjectReadError::Damaged { .. }));
                assert_eq!(is_damage, hit.is_some() || is_end, "{what}");
                let few = is_head && at % 3 == 0 && bit < 2;
                if few {
                    made.assert_damaged(hit.as_slice(), &what);
                    let lost = made.lost();
                    let [lost] = &lost[..] else {
                        panic!("{what}: {lost:?}");
                    };
                    let start = hit.map_or(first_end, |number| made.range(number).start);
                    // Whether the length changed or not: not beyond its segment.
                    let segment_end = (start / SEGMENT_BYTES as u64 + 1) * SEGMENT_BYTES as u64;
                    let end = made.range(4).end;
                    assert!(
                        lost.start == start && lost.end <= segment_end.min(end),
                        "{what}: {lost:?}"
                    );
                    let behind = (0..5).map(|number| made.range(number));
                    let cut = |range: Range<u64>| range.start < lost.end && range.end > lost.end;
                    assert!(!behind.into_iter().any(cut), "{what}: {lost:?}");
                    let is_length = hit.is_some_and(|number| at < made.range(number).start + 4);
                    if let Some(number) = hit.filter(|_| !is_length) {
                        assert_eq!(*lost, made.range(number), "{what}");
                    }
                }
                made.flip(at, bit);
            }
        }
        made.assert_damaged(&[], "mended");
    }
}

/// 4,096 has one bit, and 0 stands for the end of a segment.
#[test]
fn a_length_that_rots_to_nothing_hides_no_chunk() {
    for key in KEYS {
        let mut made = Made::new(SEGMENT_BYTES, key, &[10, 4096, 20, 30_000, 5]);
        let (chunk, _) = made.chunks[1];
        made.flip(chunk.offset + 1, 4);
        let (found, ended) = made.scan();
        assert!(found.len() == 1 && ended.is_err());
        // To the end of the segment: nothing says where the next chunk is.
        let to_the_end = chunk.offset..SEGMENT_BYTES as u64;
        assert_eq!(made.lost().as_slice(), std::slice::from_ref(&to_the_end));
        made.assert_damaged(&[1], "length 0");
    }
}

#[test]
fn lengths_that_lie_lead_nowhere() {
    let mut random = Random::new(seed(720));
    for key in [KEYS[0], KEYS[1]] {
        let lens = [3000, 20_000, 7, 31_000, CHUNK_BYTES_MAX, 600, 32_768, 40, 9];
        let mut made = Made::new(SEGMENT_BYTES, key, &lens);
        let mut said = vec![
            0,
            1,
            7,
            4096,
            32_768,
            131_071,
            131_072,
            131_073,
            1 << 31,
            u32::MAX,
        ];
        said.extend((0..30).map(|_| random.next_u64() as u32 % (1 << (5 + random.index(14)))));
        for number in 0..lens.len() {
            let start = made.range(number).start;
            for said in &said {
                let what = format!("{key:?}: chunk {number} says {said}");
                let change = made.chunks[number].0.len ^ said;
                if change == 0 {
                    continue;
                }
                let bits = (0..32).filter(|bit| change >> bit & 1 == 1);
                let bits = bits.collect::<Vec<u64>>();
                let flip = |made: &Made| {
                    for bit in &bits {
                        made.flip(start + bit / 8, (bit % 8) as usize);
                    }
                };
                flip(&made);
                made.assert_damaged(&[number], &what);
                let (found, ended) = made.scan();
                assert!(found == made.chunks[..number] && ended.is_err(), "{what}");
                let lost = made.lost();
                assert_eq!(lost.first().map(|lost| lost.start), Some(start), "{what}");
                // What is in other segments is not lost, but for where a chunk goes on that is larger than they are and begins behind one
                // that is lost.
                let behind = if (3..6).contains(&number) { 6 } else { number };
                let segment = |at: u64| at / SEGMENT_BYTES as u64;
                let own = segment(start)..=segment(made.range(behind).end - 1);
                for lost in &lost {
                    let places = [lost.start, lost.end - 1].map(segment);
                    assert!(
                        places.iter().all(|place| own.contains(place)),
                        "{what}: {lost:?}"
                    );
                }
                flip(&made);
            }
        }
        assert_eq!(made.lost(), []);
    }
}

#[test]
fn a_chunk_that_cannot_be_is_not_looked_for() {
    let mut random = Random::new(seed(730));
    for key in [KEYS[0], KEYS[1]] {
        let lens = [3000, 20_000, 7, 31_000, CHUNK_BYTES_MAX, 600];
        let mut made = Made::new(SEGMENT_BYTES, key, &lens);
        let end = made.range(lens.len() - 1).end;
        let some = [
            0,
            1,
            4096,
            end - 1,
            end,
            end + 1,
            1 << 40,
            u64::MAX - 8,
            u64::MAX,
        ];
        let mut places = some.to_vec();
        places.extend((0..200).map(|_| random.below(end + 100)));
        for offset in places {
            let max = u32::try_from(CHUNK_BYTES_MAX).unwrap();
            for len in [0, 1, 7, 600, 3000, 31_000, max, max + 1, u32::MAX] {
                let chunk = ChunkRef { offset, len };
                let read = made.read(chunk);
                if let Some((_, content)) = made.chunks.iter().find(|(there, _)| *there == chunk) {
                    assert!(read.as_ref() == Ok(content));
                    continue;
                }
                let head = made.head_bytes as u64;
                let beyond = offset >= end || offset + head + u64::from(len) > end;
                let error = read.unwrap_err();
                let no_chunk = error == ObjectReadError::NoChunk;
                assert!(no_chunk || matches!(error, ObjectReadError::Damaged { .. }));
                assert!(no_chunk || !(beyond || len == 0 || len > max), "{chunk:?}");
            }
        }
    }
}

#[test]
fn a_chunk_in_another_place_or_of_an_earlier_object_is_not_taken() {
    for key in KEYS {
        let mut made = Made::new(SEGMENT_BYTES, key, &[1000, 1000, 1000]);
        // One in the place of the next one, of the same length.
        let image = made.disk.to_bytes();
        let [one, two] = [0, 1].map(|number| made.place(made.chunks[number].0.offset));
        let len = 1000 + made.head_bytes;
        for at in 0..len {
            for bit in 0..8 {
                if (image[one + at] ^ image[two + at]) >> bit & 1 == 1 {
                    flip(&made.disk, two + at, bit);
                }
            }
        }
        assert!(made.disk.to_bytes()[two..two + len] == image[one..one + len]);
        made.assert_damaged(&[1], "misdirected");
        assert_eq!(made.lost(), [made.range(1)]);

        // A write that did not happen: what is there is the same chunk of an object that is gone.
        let mut made = Made::new(SEGMENT_BYTES, key, &[1000, 20]);
        let before = made.disk.to_bytes();
        let (filesystem, clock) = (Rc::clone(&made.filesystem), made.executor.clock());
        let content = made.chunks[0].1.clone();
        let (older, first) = (made.object, made.chunks[0].0);
        let writes = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&writes);
        made.disk.set_faults(move |request| {
            if let Request::Write(block, _) = request {
                seen.borrow_mut().push(block.0);
            }
            None
        });
        let segment = (made.segments[0] / BLOCK_SIZE) as u64;
        let object = made.executor.run(async move {
            let made = filesystem.checkpoint(CommitNumber(0), &[], &[], &clock);
            made.await.unwrap();
            let read = filesystem.read_chunk(older, first).await;
            assert_eq!(read, Err(ObjectReadError::NotFound));
            loop {
                writes.borrow_mut().clear();
                let mut object = filesystem.create_object().unwrap();
                assert_eq!(object.put(&content), Ok(first));
                let object = object.finish().await.unwrap();
                if writes.borrow()[0] == segment {
                    return object;
                }
                filesystem.discard_object(object);
            }
        });
        made.object = object;
        made.chunks.truncate(1);
        made.assert_damaged(&[], "in the same place");
        let after = made.disk.to_bytes();
        let block = made.segments[0]..made.segments[0] + BLOCK_SIZE;
        for at in block {
            for bit in 0..8 {
                if (before[at] ^ after[at]) >> bit & 1 == 1 {
                    flip(&made.disk, at, bit);
                }
            }
        }
        made.assert_damaged(&[0], "stale");
    }
}

#[test]
fn a_block_that_cannot_be_read_costs_what_is_in_it() {
    for key in [KEYS[0], KEYS[1]] {
        let lens = [3000; 100];
        let mut made = Made::new(256 << 10, key, &lens);
        // In the middle of what one request reads.
        let bad = (made.place(made.chunks[50].0.offset + 1500) / BLOCK_SIZE) as u64;
        let faults = move |request| match request {
            Request::Read(block, blocks) => (block.0..block.0 + blocks as u64)
                .contains(&bad)
                .then_some(DeviceError::Io),
            Request::Write(..) | Request::Flush => None,
        };
        made.disk.set_faults(faults);
        let hit = |number: &usize| {
            let range = made.range(*number);
            let [first, last] = [range.start, range.end - 1].map(|at| made.place(at) / BLOCK_SIZE);
            (first as u64..=last as u64).contains(&bad)
        };
        let hit = (0..100).filter(hit).collect::<Vec<_>>();
        assert!(hit.len() >= 2 && hit.contains(&50));
        for number in 0..100 {
            let read = made.read(made.chunks[number].0);
            let error = ObjectReadError::Device(DeviceError::Io);
            assert_eq!(read.is_err(), hit.contains(&number));
            assert!(read.is_ok() || read == Err(error));
        }
        let (found, ended) = made.scan();
        assert!(found == made.chunks[..hit[0]]);
        assert_eq!(ended, Err(ObjectReadError::Device(DeviceError::Io)));
    }
}

#[test]
fn a_chunk_of_nothing_or_too_much_is_refused_and_a_writer_gives_back_what_it_took() {
    let mut made = Made::new(SEGMENT_BYTES, KEYS[0], &[1]);
    let filesystem = Rc::clone(&made.filesystem);
    let free = filesystem.usage().object_bytes_free;
    made.executor.run(async move {
        let mut object = filesystem.create_object().unwrap();
        assert_eq!((object.segments(), object.room_in_segment()), (0, 0));
        for len in [0, CHUNK_BYTES_MAX + 1] {
            let put = object.put(&vec![1; len]);
            assert_eq!(put, Err(ObjectWriteError::ChunkLength));
            assert_eq!(object.len_bytes(), 0);
        }
        // Unasked, nothing is written, nor room taken.
        for _ in 0..8 {
            object.put(&[2; 30_000]).unwrap();
        }
        assert_eq!(object.segments(), 8);
        assert_eq!(filesystem.usage().object_bytes_free, free);
        object.write_full().await.unwrap();
        let taken = 7 * SEGMENT_BYTES as u64;
        assert_eq!(filesystem.usage().object_bytes_free, free - taken);
        drop(object);
        assert_eq!(filesystem.usage().object_bytes_free, free);
        // One without chunks takes nothing either, and is read as that.
        let object = filesystem.create_object().unwrap();
        let object = object.finish().await.unwrap();
        assert_eq!(filesystem.usage().object_bytes_free, free);
        assert_eq!(
            common::read_object(&filesystem, object).await,
            Ok(Vec::new())
        );
    });
}

/// As long as no checkpoint names it, an object is nothing, however much of it was written.
#[test]
fn a_power_cut_leaves_of_an_unnamed_object_nothing() {
    let mut random = Random::new(seed(740));
    for key in [KEYS[0], KEYS[1]] {
        let mut made = Made::new(SEGMENT_BYTES, key, &[5000, 31_000]);
        let named = (made.object, made.chunks.clone());
        let begun = made.disk.event_count();
        let (filesystem, clock) = (Rc::clone(&made.filesystem), made.executor.clock());
        let free = filesystem.usage().object_bytes_free;
        let keep = made.object;
        let disk = made.disk.clone();
        let (other, before) = made.executor.run(async move {
            let mut object = filesystem.create_object().unwrap();
            let content = vec![7; 200_000];
            common::put_all(&mut object, &content).await.unwrap();
            let object = object.finish().await.unwrap();
            let before = disk.event_count();
            let both = [keep, object];
            let made = filesystem.checkpoint(CommitNumber(0), &both, b"both", &clock);
            made.await.unwrap();
            (object, before)
        });
        let end = made.disk.event_count();
        assert!(before > begun + 5 && end > before);
        for events in begun..=end {
            for sample in 0..4 {
                let crash = made.disk.crash_at(events);
                let left = match sample {
                    0 => crash.disk(|_| false, 0),
                    1 => crash.disk(|_| true, 0),
                    _ => crash.disk(|_| random.one_in(2), 0),
                };
                let what = format!("{key:?}, event {events}, sample {sample}");
                let mut executor = Executor::new(events as u64);
                let mounted = mount(&mut executor, &left).unwrap();
                let is_named = mounted.manifest == b"both";
                assert!(is_named || events < end, "{what}");
                assert!(!is_named || events > before, "{what}");
                assert_eq!(lost(&left), [], "{what}");
                let filesystem = mounted.filesystem;
                if !is_named {
                    assert_eq!(filesystem.usage().object_bytes_free, free, "{what}");
                }
                let (object, chunks) = named.clone();
                executor.run(async move {
                    for (chunk, content) in chunks {
                        assert!(filesystem.read_chunk(object, chunk).await == Ok(content));
                    }
                    let there = common::read_object(&filesystem, other).await;
                    let expected = vec![7; 200_000];
                    assert!(!is_named || there.as_ref() == Ok(&expected));
                    assert!(is_named || there == Err(ObjectReadError::NotFound));
                });
            }
        }
    }
}
