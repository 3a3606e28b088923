//! The versions of one key in the arena, newest first.
//!
//! A version is `flags ‖ timestamp ‖ length ‖ room`, in one that has an older one `older ‖ jump ‖ depth`, and then what
//! it holds: an expiry if it has one, and its content. Length and room are those of what it holds: another can take its
//! place if it is not longer than the room.
//!
//! `jump` leads to some version further back, chosen by depth so that any is found in a logarithmic number of steps
//! (Myers, "An applicative random-access stack", 1983): a counter has very many versions within the history.

use super::arena::{Arena, Handle};
use crate::Timestamp;
use crate::engine::types::{Content, NEVER, VersionRef};

const KIND_BITS: u8 = 3;
const EXPIRES: u8 = 1 << 2;
const BELOW: u8 = 1 << 3;
const HAS_OLDER: u8 = 1 << 4;

const TIMESTAMP_AT: usize = 1;
const LEN_AT: usize = 9;
const HEADER_BYTES: usize = 13;
const OLDER_BYTES: usize = 12;

/// Bytes of a version beyond its content, at most.
pub(super) const VERSION_BYTES_MAX: usize = HEADER_BYTES + OLDER_BYTES + 8;

/// The fixed part of a version.
#[derive(Clone, Copy)]
struct Header {
    flags: u8,
    timestamp: Timestamp,
    len: u16,
    room: u16,
}

/// What comes before a version.
#[derive(Clone, Copy)]
struct Older {
    next: Handle,
    jump: Handle,
    depth: u32,
}

impl Header {
    fn read(arena: &Arena, version: Handle) -> Option<Self> {
        let [flags, t0, t1, t2, t3, t4, t5, t6, t7, l0, l1, r0, r1] =
            *arena.from(version).first_chunk::<HEADER_BYTES>()?;
        Some(Self {
            flags,
            timestamp: Timestamp(u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7])),
            len: u16::from_le_bytes([l0, l1]),
            room: u16::from_le_bytes([r0, r1]),
        })
    }

    fn write(&self, arena: &mut Arena, version: Handle) {
        arena.write(version, 0, &[self.flags]);
        arena.write(version, TIMESTAMP_AT, &self.timestamp.0.to_le_bytes());
        arena.write(version, LEN_AT, &self.len.to_le_bytes());
        arena.write(version, LEN_AT + 2, &self.room.to_le_bytes());
    }

    fn held_at(&self) -> usize {
        HEADER_BYTES
            + if self.flags & HAS_OLDER == 0 {
                0
            } else {
                OLDER_BYTES
            }
    }
}

fn older_of(arena: &Arena, version: Handle) -> Option<Older> {
    let header = Header::read(arena, version)?;
    let bytes = arena.from(version).get(HEADER_BYTES..)?;
    let [o0, o1, o2, o3, j0, j1, j2, j3, d0, d1, d2, d3] = *bytes.first_chunk::<OLDER_BYTES>()?;
    (header.flags & HAS_OLDER != 0).then_some(Older {
        next: Handle::from_bytes([o0, o1, o2, o3]),
        jump: Handle::from_bytes([j0, j1, j2, j3]),
        depth: u32::from_le_bytes([d0, d1, d2, d3]),
    })
}

/// Bytes of what a version holds.
fn held_bytes(version: &VersionRef<'_>) -> usize {
    let expiry = if version.expires_at_ms == NEVER { 0 } else { 8 };
    expiry + version.content.bytes().len()
}

/// Adds a version behind which `newest` is, if anything; the arena has room for it.
pub(super) fn push(arena: &mut Arena, newest: Option<Handle>, version: &VersionRef<'_>) -> Handle {
    let older = newest.map(|older| {
        let (jump, depth) = match older_of(arena, older) {
            None => (older, 1),
            Some(of_older) => {
                let far = older_of(arena, of_older.jump);
                let far_depth = far.map_or(0, |far| far.depth);
                let next_far = far.map_or(of_older.jump, |far| far.jump);
                let next_depth = older_of(arena, next_far).map_or(0, |next| next.depth);
                let same = of_older.depth - far_depth == far_depth - next_depth;
                let jump = if same && far.is_some() {
                    next_far
                } else {
                    older
                };
                (jump, of_older.depth + 1)
            }
        };
        Older {
            next: older,
            jump,
            depth,
        }
    });
    place(arena, older, version)
}

/// Puts `version` into the place of `old`, in the same bytes if they suffice; says where it is.
pub(super) fn replace(arena: &mut Arena, old: Handle, version: &VersionRef<'_>) -> Handle {
    let held = held_bytes(version);
    match Header::read(arena, old) {
        Some(header) if held <= usize::from(header.room) => {
            let kept = header.flags & HAS_OLDER;
            write(arena, old, kept, header.room, version);
            old
        }
        _ => {
            let older = older_of(arena, old);
            place(arena, older, version)
        }
    }
}

fn place(arena: &mut Arena, older: Option<Older>, version: &VersionRef<'_>) -> Handle {
    let held = held_bytes(version);
    let older_bytes = if older.is_some() { OLDER_BYTES } else { 0 };
    let place = arena.allocate(HEADER_BYTES + older_bytes + held);
    if let Some(older) = older {
        arena.write(place, HEADER_BYTES, &older.next.to_bytes());
        arena.write(place, HEADER_BYTES + 4, &older.jump.to_bytes());
        arena.write(place, HEADER_BYTES + 8, &older.depth.to_le_bytes());
    }
    let kept = if older.is_some() { HAS_OLDER } else { 0 };
    let room = u16::try_from(held).unwrap_or(u16::MAX);
    write(arena, place, kept, room, version);
    place
}

fn write(arena: &mut Arena, place: Handle, kept: u8, room: u16, version: &VersionRef<'_>) {
    let expires = version.expires_at_ms != NEVER;
    let header = Header {
        flags: kept
            | version.content.kind()
            | if expires { EXPIRES } else { 0 }
            | if version.below { BELOW } else { 0 },
        timestamp: version.timestamp,
        len: u16::try_from(held_bytes(version)).unwrap_or(u16::MAX),
        room,
    };
    header.write(arena, place);
    let mut at = header.held_at();
    if expires {
        arena.write(place, at, &version.expires_at_ms.to_le_bytes());
        at += 8;
    }
    arena.write(place, at, version.content.bytes());
}

/// The version at this handle.
pub(super) fn read(arena: &Arena, version: Handle) -> Option<VersionRef<'_>> {
    let header = Header::read(arena, version)?;
    let at = header.held_at();
    let mut held = arena.from(version).get(at..at + usize::from(header.len))?;
    let mut expires_at_ms = NEVER;
    if header.flags & EXPIRES != 0 {
        let (expiry, content) = held.split_first_chunk::<8>()?;
        (expires_at_ms, held) = (i64::from_le_bytes(*expiry), content);
    }
    Some(VersionRef {
        timestamp: header.timestamp,
        expires_at_ms,
        below: header.flags & BELOW != 0,
        content: Content::of_checked(header.flags & KIND_BITS, held),
    })
}

pub(super) fn timestamp_of(arena: &Arena, version: Handle) -> Timestamp {
    Header::read(arena, version).map_or(Timestamp(0), |header| header.timestamp)
}

/// The version before this one.
pub(super) fn older(arena: &Arena, version: Handle) -> Option<Handle> {
    older_of(arena, version).map(|older| older.next)
}

/// The newest version that is not newer than `at`.
pub(super) fn at(arena: &Arena, newest: Handle, at: Timestamp) -> Option<Handle> {
    let mut version = newest;
    while timestamp_of(arena, version) > at {
        let older = older_of(arena, version)?;
        version = if timestamp_of(arena, older.jump) > at {
            older.jump
        } else {
            older.next
        };
    }
    version.is_some().then_some(version)
}
