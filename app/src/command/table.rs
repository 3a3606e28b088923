//! The table of commands, and finding one by its name.
//!
//! Names are found through a hash table made at compile time: no allocation, no lower-cased copy.

mod rows;

use super::{Control, Outcome};
use rows::TABLE;

/// A command on data: see [`super::Data::run`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataCommand {
    Get,
    Set,
    SetNx,
    SetEx,
    PSetEx,
    GetSet,
    GetDel,
    GetEx,
    MGet,
    MSet,
    MSetNx,
    Append,
    StrLen,
    GetRange,
    SetRange,
    Incr,
    Decr,
    IncrBy,
    DecrBy,
    IncrByFloat,
    Del,
    Exists,
    Type,
    Rename,
    RenameNx,
    Copy,
    Move,
    Keys,
    Scan,
    RandomKey,
    DbSize,
    Range,
    CountRange,
    DelRange,
    History,
    FlushDb,
    FlushAll,
    Expire,
    PExpire,
    ExpireAt,
    PExpireAt,
    Ttl,
    PTtl,
    ExpireTime,
    PExpireTime,
    Persist,
    ObjectEncoding,
    ObjectFreq,
    ObjectIdleTime,
    ObjectRefCount,
    MemoryUsage,
}

/// A command on files: see [`super::Data::run_file`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileCommand {
    Put,
    Get,
    Read,
    Write,
    Append,
    Truncate,
    Stat,
    SetAttributes,
    List,
    MakeDirectory,
    Remove,
    Move,
    Link,
    Symlink,
    ReadLink,
    SetXattr,
    GetXattr,
    ListXattr,
    DelXattr,
}

/// A command the session itself carries out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionCommand {
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
    Begin,
    Commit,
    Rollback,
    Savepoint,
    Lock,
    Reset,
    Quit,
}

/// How a command is carried out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Run {
    Data(DataCommand),
    /// May have to be carried out several times until all it needs is in memory.
    File(FileCommand),
    Control(fn(&mut Control<'_>) -> Outcome),
    Session(SessionCommand),
    /// Only its subcommands can be carried out.
    Container,
}

/// What a command is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    String,
    Generic,
    Connection,
    Server,
    Transactions,
    Scripting,
    Files,
}

impl Group {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Generic => "generic",
            Self::Connection => "connection",
            Self::Server => "server",
            Self::Transactions => "transactions",
            Self::Scripting => "scripting",
            Self::Files => "files",
        }
    }
}

/// Where keys are among the arguments; `first` 0 for none, `last` negative counted from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) first: i8,
    pub(crate) last: i8,
    pub(crate) step: i8,
}

/// Properties of a command, as bits.
pub(crate) type Flags = u16;
pub(crate) const WRITE: Flags = 1 << 0;
pub(crate) const READONLY: Flags = 1 << 1;
pub(crate) const DENYOOM: Flags = 1 << 2;
pub(crate) const ADMIN: Flags = 1 << 3;
pub(crate) const NOSCRIPT: Flags = 1 << 4;
pub(crate) const BLOCKING: Flags = 1 << 5;
pub(crate) const LOADING: Flags = 1 << 6;
pub(crate) const STALE: Flags = 1 << 7;
pub(crate) const FAST: Flags = 1 << 8;
pub(crate) const NO_AUTH: Flags = 1 << 9;
pub(crate) const NO_MULTI: Flags = 1 << 10;
/// Dangerous for those who share the server; shows only as an access category.
pub(crate) const DANGEROUS: Flags = 1 << 11;

/// Names of the flags as COMMAND INFO shows them.
pub(crate) const FLAG_NAMES: [(Flags, &str); 11] = [
    (WRITE, "write"),
    (READONLY, "readonly"),
    (DENYOOM, "denyoom"),
    (ADMIN, "admin"),
    (NOSCRIPT, "noscript"),
    (BLOCKING, "blocking"),
    (LOADING, "loading"),
    (STALE, "stale"),
    (FAST, "fast"),
    (NO_AUTH, "no_auth"),
    (NO_MULTI, "no_multi"),
];

/// A command as it is described to clients and checked before execution.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    /// In lower case; of a subcommand `container|name`.
    pub(crate) name: &'static str,
    /// Number of arguments with the name; negative: at least so many.
    pub(crate) arity: i8,
    pub(crate) flags: Flags,
    pub(crate) keys: Keys,
    pub(crate) run: Run,
    pub(crate) group: Group,
    pub(crate) since: &'static str,
    pub(crate) complexity: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) subcommands: &'static [Spec],
}

impl Spec {
    /// Whether `count` arguments are as many as it takes.
    pub(crate) fn takes(&self, count: usize) -> bool {
        let arity = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 {
            count >= arity
        } else {
            count == arity
        }
    }

    /// Whether all of `flags` are set.
    pub(crate) fn has(&self, flags: Flags) -> bool {
        self.flags & flags == flags
    }

    /// Indexes of the keys among `count` arguments.
    pub(crate) fn key_indexes(&self, count: usize) -> impl Iterator<Item = usize> + use<> {
        let first = usize::try_from(self.keys.first).unwrap_or(0);
        let last = match usize::try_from(self.keys.last) {
            Ok(last) => last,
            Err(_) => count.saturating_sub(usize::from(self.keys.last.unsigned_abs())),
        };
        let step = usize::try_from(self.keys.step).unwrap_or(1).max(1);
        let end = if first == 0 { 0 } else { (last + 1).min(count) };
        (first.min(end)..end).step_by(step)
    }

    /// The part of the name after the container's.
    pub(crate) fn own_name(&self) -> &'static str {
        self.name.rsplit('|').next().unwrap_or(self.name)
    }

    const fn since(mut self, version: &'static str) -> Self {
        self.since = version;
        self
    }

    const fn keys(mut self, first: i8, last: i8, step: i8) -> Self {
        self.keys = Keys { first, last, step };
        self
    }

    const fn complexity(mut self, text: &'static str) -> Self {
        self.complexity = text;
        self
    }

    const fn subcommands(mut self, subcommands: &'static [Self]) -> Self {
        self.subcommands = subcommands;
        self
    }
}

/// Every command.
pub(crate) static COMMANDS: &[Spec] = TABLE;

const SLOTS: usize = 512;
const EMPTY: u8 = u8::MAX;

/// Four letters and the length tell nearly all names apart.
#[expect(
    clippy::indexing_slicing,
    reason = "evaluated at compile time, or within the length"
)]
const fn hash(name: &[u8]) -> usize {
    let len = name.len();
    if len == 0 {
        return 0;
    }
    let first = (name[0] | 0x20) as usize;
    let second = (name[len / 4] | 0x20) as usize;
    let middle = (name[len / 2] | 0x20) as usize;
    let last = (name[len - 1] | 0x20) as usize;
    (len + first * 5 + second * 41 + middle * 23 + last * 97) % SLOTS
}

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "evaluated at compile time: a mistake does not compile"
)]
const fn build_slots() -> [u8; SLOTS] {
    assert!(TABLE.len() < EMPTY as usize);
    let mut slots = [EMPTY; SLOTS];
    let mut index = 0;
    while index < TABLE.len() {
        let mut slot = hash(TABLE[index].name.as_bytes());
        while slots[slot] != EMPTY {
            slot = (slot + 1) % SLOTS;
        }
        slots[slot] = index as u8;
        index += 1;
    }
    slots
}

static SLOT_TABLE: [u8; SLOTS] = build_slots();

/// Longer names are not looked up.
const NAME_BYTES_MAX: usize = 16;

/// The index in [`COMMANDS`] of the command called `name`, in any case.
pub(crate) fn find(name: &[u8]) -> Option<usize> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let mut slot = hash(name);
    loop {
        let index = usize::from(*SLOT_TABLE.get(slot)?);
        let spec = COMMANDS.get(index)?;
        if is_name(name, spec.name.as_bytes()) {
            return Some(index);
        }
        slot = (slot + 1) % SLOTS;
    }
}

/// Whether `given` is `name`, which consists of lower-case letters, in any case: setting the bit that tells the
/// cases apart makes a letter of a letter only. The point after `fs` is looked at once more.
fn is_name(given: &[u8], name: &[u8]) -> bool {
    given.len() == name.len()
        && given
            .iter()
            .zip(name)
            .all(|(given, name)| given | 0x20 == *name)
        && (name.get(2) != Some(&b'.') || given.get(2) == Some(&b'.'))
}

/// The subcommand called `name`, in any case.
pub(crate) fn find_subcommand(container: &'static Spec, name: &[u8]) -> Option<&'static Spec> {
    container
        .subcommands
        .iter()
        .find(|subcommand| name.eq_ignore_ascii_case(subcommand.own_name().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_in_any_case() {
        for (index, spec) in COMMANDS.iter().enumerate() {
            assert_eq!(find(spec.name.as_bytes()), Some(index));
            assert_eq!(find(spec.name.to_ascii_uppercase().as_bytes()), Some(index));
            assert!(spec.name.len() <= NAME_BYTES_MAX);
            assert!(
                spec.name
                    .trim_start_matches("fs.")
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase()),
                "{}",
                spec.name
            );
            for subcommand in spec.subcommands {
                let own = subcommand.own_name().as_bytes();
                assert_eq!(find_subcommand(spec, own).unwrap().name, subcommand.name);
                assert_eq!(subcommand.name.split('|').next(), Some(spec.name));
            }
        }
        for none in [
            b"".as_slice(),
            b"gett",
            b"ge",
            b"GET ",
            b"fs\x0eput",
            b"\xff\xff\xff",
            &[b'a'; 100],
        ] {
            assert_eq!(find(none), None);
        }
    }

    #[test]
    fn names_are_found_quickly() {
        for name in [
            "get", "set", "del", "incr", "mget", "mset", "ping", "exec", "multi", "hello",
        ] {
            let index = usize::from(SLOT_TABLE[hash(name.as_bytes())]);
            assert_eq!(
                COMMANDS.get(index).map(|spec| spec.name),
                Some(name),
                "at the first look"
            );
        }
    }

    #[test]
    fn keys_are_where_the_table_says() {
        let indexes = |name: &str, count| {
            let spec = &COMMANDS[find(name.as_bytes()).unwrap()];
            spec.key_indexes(count).collect::<alloc::vec::Vec<_>>()
        };
        assert_eq!(indexes("get", 2), [1]);
        assert_eq!(indexes("mset", 5), [1, 3]);
        assert_eq!(indexes("del", 4), [1, 2, 3]);
        assert_eq!(indexes("ping", 2), []);
        assert_eq!(indexes("rename", 3), [1, 2]);
    }
}
