//! The table of commands, and finding one by its name.
//!
//! Names are found through a hash table made at compile time: no allocation, no lower-cased copy.

use super::{Control, Outcome, client, config, connection, debug, introspect, object, server};

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

/// A command the session itself carries out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionCommand {
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
    Reset,
    Quit,
}

/// How a command is carried out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Run {
    Data(DataCommand),
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

const fn spec(
    name: &'static str,
    arity: i8,
    flags: Flags,
    run: Run,
    group: Group,
    summary: &'static str,
) -> Spec {
    Spec {
        name,
        arity,
        flags,
        keys: Keys {
            first: 0,
            last: 0,
            step: 0,
        },
        run,
        group,
        since: "1.0.0",
        complexity: "O(1)",
        summary,
        subcommands: &[],
    }
}

/// A command on one string key.
const fn string(
    name: &'static str,
    arity: i8,
    flags: Flags,
    command: DataCommand,
    summary: &'static str,
) -> Spec {
    spec(
        name,
        arity,
        flags,
        Run::Data(command),
        Group::String,
        summary,
    )
    .keys(1, 1, 1)
}

/// A command on one key of any type.
const fn generic(
    name: &'static str,
    arity: i8,
    flags: Flags,
    command: DataCommand,
    summary: &'static str,
) -> Spec {
    spec(
        name,
        arity,
        flags,
        Run::Data(command),
        Group::Generic,
        summary,
    )
    .keys(1, 1, 1)
}

/// A command of the connection, or of the server.
const fn control(
    name: &'static str,
    arity: i8,
    flags: Flags,
    run: fn(&mut Control<'_>) -> Outcome,
    group: Group,
    summary: &'static str,
) -> Spec {
    spec(name, arity, flags, Run::Control(run), group, summary)
}

use DataCommand as D;
use Group::{Connection, Scripting, Server, Transactions};
use SessionCommand as S;

const WRITES: Flags = WRITE | DENYOOM;
/// For commands that work in every state of the server.
const ALWAYS: Flags = LOADING | STALE;
const ADMINS: Flags = ADMIN | DANGEROUS | NOSCRIPT | ALWAYS;

/// Every command.
pub(crate) static COMMANDS: &[Spec] = TABLE;

const TABLE: &[Spec] = &[
    // Strings.
    string(
        "append",
        3,
        WRITES | FAST,
        D::Append,
        "Appends to the value of a key; creates it if needed.",
    )
    .since("2.0.0"),
    string(
        "decr",
        2,
        WRITES | FAST,
        D::Decr,
        "Subtracts one from the integer value of a key.",
    ),
    string(
        "decrby",
        3,
        WRITES | FAST,
        D::DecrBy,
        "Subtracts a number from the integer value of a key.",
    ),
    string(
        "get",
        2,
        READONLY | FAST,
        D::Get,
        "Returns the value of a key.",
    ),
    string(
        "getdel",
        2,
        WRITE | FAST,
        D::GetDel,
        "Returns the value of a key and deletes it.",
    )
    .since("6.2.0"),
    string(
        "getex",
        -2,
        WRITE | FAST,
        D::GetEx,
        "Returns the value of a key and sets its time to live.",
    )
    .since("6.2.0"),
    string(
        "getrange",
        4,
        READONLY,
        D::GetRange,
        "Returns a part of the value of a key.",
    )
    .since("2.4.0")
    .complexity("O(N) in the length of the part"),
    string(
        "getset",
        3,
        WRITES | FAST,
        D::GetSet,
        "Sets a key and returns its previous value.",
    ),
    string(
        "incr",
        2,
        WRITES | FAST,
        D::Incr,
        "Adds one to the integer value of a key.",
    ),
    string(
        "incrby",
        3,
        WRITES | FAST,
        D::IncrBy,
        "Adds a number to the integer value of a key.",
    ),
    string(
        "incrbyfloat",
        3,
        WRITES | FAST,
        D::IncrByFloat,
        "Adds to the decimal value of a key.",
    )
    .since("2.6.0"),
    string(
        "mget",
        -2,
        READONLY | FAST,
        D::MGet,
        "Returns the values of several keys.",
    )
    .keys(1, -1, 1)
    .complexity("O(N) in the number of keys"),
    string(
        "mset",
        -3,
        WRITES,
        D::MSet,
        "Sets several keys, all at once.",
    )
    .since("1.0.1")
    .keys(1, -1, 2)
    .complexity("O(N) in the number of keys"),
    string(
        "msetnx",
        -3,
        WRITES,
        D::MSetNx,
        "Sets several keys if none of them exists.",
    )
    .since("1.0.1")
    .keys(1, -1, 2)
    .complexity("O(N) in the number of keys"),
    string(
        "psetex",
        4,
        WRITES,
        D::PSetEx,
        "Sets a key and its time to live in milliseconds.",
    )
    .since("2.6.0"),
    string(
        "set",
        -3,
        WRITES,
        D::Set,
        "Sets the value of a key, with conditions and time to live if wanted.",
    ),
    string(
        "setex",
        4,
        WRITES,
        D::SetEx,
        "Sets a key and its time to live in seconds.",
    )
    .since("2.0.0"),
    string(
        "setnx",
        3,
        WRITES | FAST,
        D::SetNx,
        "Sets a key if it does not exist.",
    ),
    string(
        "setrange",
        4,
        WRITES,
        D::SetRange,
        "Overwrites a part of the value of a key.",
    )
    .since("2.2.0")
    .complexity("O(N) in the length of the value"),
    string(
        "strlen",
        2,
        READONLY | FAST,
        D::StrLen,
        "Returns the length of the value of a key.",
    )
    .since("2.2.0"),
    string(
        "substr",
        4,
        READONLY,
        D::GetRange,
        "Returns a part of the value of a key (older name of GETRANGE).",
    )
    .complexity("O(N) in the length of the part"),
    // Keys.
    generic("copy", -3, WRITES, D::Copy, "Copies a key to another.")
        .since("6.2.0")
        .keys(1, 2, 1),
    generic("del", -2, WRITE, D::Del, "Deletes keys.")
        .keys(1, -1, 1)
        .complexity("O(N) in the number of keys"),
    generic(
        "exists",
        -2,
        READONLY | FAST,
        D::Exists,
        "Counts which of the keys exist.",
    )
    .keys(1, -1, 1)
    .complexity("O(N) in the number of keys"),
    generic(
        "expire",
        -3,
        WRITE | FAST,
        D::Expire,
        "Sets the time to live of a key in seconds.",
    ),
    generic(
        "expireat",
        -3,
        WRITE | FAST,
        D::ExpireAt,
        "Sets when a key expires, in Unix seconds.",
    )
    .since("1.2.0"),
    generic(
        "expiretime",
        2,
        READONLY | FAST,
        D::ExpireTime,
        "Returns when a key expires, in Unix seconds.",
    )
    .since("7.0.0"),
    spec(
        "keys",
        2,
        READONLY | DANGEROUS,
        Run::Data(D::Keys),
        Group::Generic,
        "Returns all keys that match a pattern.",
    )
    .complexity("O(N) in the number of keys of the database; other clients are served meanwhile"),
    generic(
        "move",
        3,
        WRITE | FAST,
        D::Move,
        "Moves a key to another database.",
    ),
    spec(
        "object",
        -2,
        0,
        Run::Container,
        Group::Generic,
        "Looks into how keys are kept.",
    )
    .since("2.2.3")
    .subcommands(OBJECT),
    generic(
        "persist",
        2,
        WRITE | FAST,
        D::Persist,
        "Lets a key live for ever.",
    )
    .since("2.2.0"),
    generic(
        "pexpire",
        -3,
        WRITE | FAST,
        D::PExpire,
        "Sets the time to live of a key in milliseconds.",
    )
    .since("2.6.0"),
    generic(
        "pexpireat",
        -3,
        WRITE | FAST,
        D::PExpireAt,
        "Sets when a key expires, in Unix milliseconds.",
    )
    .since("2.6.0"),
    generic(
        "pexpiretime",
        2,
        READONLY | FAST,
        D::PExpireTime,
        "Returns when a key expires, in Unix milliseconds.",
    )
    .since("7.0.0"),
    generic(
        "pttl",
        2,
        READONLY | FAST,
        D::PTtl,
        "Returns the time to live of a key in milliseconds.",
    )
    .since("2.6.0"),
    spec(
        "randomkey",
        1,
        READONLY,
        Run::Data(D::RandomKey),
        Group::Generic,
        "Returns some key of the database.",
    ),
    generic(
        "rename",
        3,
        WRITE,
        D::Rename,
        "Renames a key, over an existing one if need be.",
    )
    .keys(1, 2, 1),
    generic(
        "renamenx",
        3,
        WRITE | FAST,
        D::RenameNx,
        "Renames a key unless the new name exists.",
    )
    .keys(1, 2, 1),
    spec(
        "scan",
        -2,
        READONLY,
        Run::Data(D::Scan),
        Group::Generic,
        "Walks the keys of the database in steps.",
    )
    .since("2.8.0")
    .complexity("O(1) for one step"),
    generic(
        "touch",
        -2,
        READONLY | FAST,
        D::Exists,
        "Counts which of the keys exist.",
    )
    .since("3.2.1")
    .keys(1, -1, 1)
    .complexity("O(N) in the number of keys"),
    generic(
        "ttl",
        2,
        READONLY | FAST,
        D::Ttl,
        "Returns the time to live of a key in seconds.",
    ),
    generic(
        "type",
        2,
        READONLY | FAST,
        D::Type,
        "Returns the type of the value of a key.",
    ),
    generic("unlink", -2, WRITE | FAST, D::Del, "Deletes keys.")
        .since("4.0.0")
        .keys(1, -1, 1)
        .complexity("O(N) in the number of keys"),
    control(
        "wait",
        3,
        BLOCKING,
        server::wait,
        Group::Generic,
        "Waits for replicas, of which there are none.",
    )
    .since("3.0.0"),
    control(
        "waitaof",
        4,
        BLOCKING,
        server::wait_aof,
        Group::Generic,
        "Waits until the connection's writes are durable.",
    )
    .since("7.2.0"),
    // Connection.
    control(
        "auth",
        -2,
        NOSCRIPT | ALWAYS | FAST | NO_AUTH,
        connection::auth,
        Connection,
        "Gives the password.",
    ),
    spec(
        "client",
        -2,
        0,
        Run::Container,
        Connection,
        "Looks at and changes connections.",
    )
    .since("2.4.0")
    .subcommands(CLIENT),
    control(
        "echo",
        2,
        ALWAYS | FAST,
        connection::echo,
        Connection,
        "Returns what it is given.",
    ),
    control(
        "hello",
        -1,
        NOSCRIPT | ALWAYS | FAST | NO_AUTH,
        connection::hello,
        Connection,
        "Chooses the protocol version; gives password and name.",
    )
    .since("6.0.0"),
    control(
        "ping",
        -1,
        ALWAYS | FAST,
        connection::ping,
        Connection,
        "Answers PONG, or what it is given.",
    ),
    spec(
        "quit",
        -1,
        ALWAYS | NOSCRIPT | FAST | NO_AUTH,
        Run::Session(S::Quit),
        Connection,
        "Closes the connection after all replies are sent.",
    ),
    spec(
        "reset",
        1,
        NOSCRIPT | ALWAYS | FAST | NO_AUTH,
        Run::Session(S::Reset),
        Connection,
        "Makes the connection as new.",
    )
    .since("6.2.0"),
    control(
        "select",
        2,
        ALWAYS | FAST,
        connection::select,
        Connection,
        "Chooses the database.",
    ),
    // Transactions.
    spec(
        "discard",
        1,
        NOSCRIPT | ALWAYS | FAST,
        Run::Session(S::Discard),
        Transactions,
        "Drops the queued commands.",
    )
    .since("2.0.0"),
    spec(
        "exec",
        1,
        NOSCRIPT | ALWAYS,
        Run::Session(S::Exec),
        Transactions,
        "Carries out the queued commands as one commit.",
    )
    .since("1.2.0")
    .complexity("That of the commands"),
    spec(
        "multi",
        1,
        NOSCRIPT | ALWAYS | FAST,
        Run::Session(S::Multi),
        Transactions,
        "Starts to queue commands.",
    )
    .since("1.2.0"),
    spec(
        "unwatch",
        1,
        NOSCRIPT | ALWAYS | FAST,
        Run::Session(S::Unwatch),
        Transactions,
        "Forgets the watched keys.",
    )
    .since("2.2.0"),
    spec(
        "watch",
        -2,
        NOSCRIPT | ALWAYS | FAST,
        Run::Session(S::Watch),
        Transactions,
        "Lets the next EXEC happen only if the keys stay as they are.",
    )
    .since("2.2.0")
    .keys(1, -1, 1)
    .complexity("O(N) in the number of keys"),
    // Server.
    control(
        "bgrewriteaof",
        1,
        ADMINS,
        server::bg_rewrite_aof,
        Server,
        "Does nothing: the log tidies itself.",
    ),
    control(
        "bgsave",
        -1,
        ADMINS,
        server::bg_save,
        Server,
        "Starts to make everything durable.",
    ),
    control(
        "command",
        -1,
        ALWAYS,
        introspect::command,
        Server,
        "Describes the commands.",
    )
    .since("2.8.13")
    .complexity("O(N) in the number of commands")
    .subcommands(COMMAND),
    spec(
        "config",
        -2,
        0,
        Run::Container,
        Server,
        "Looks at and changes the configuration.",
    )
    .since("2.0.0")
    .subcommands(CONFIG),
    spec(
        "dbsize",
        1,
        READONLY | FAST,
        Run::Data(D::DbSize),
        Server,
        "Returns the number of keys.",
    ),
    spec(
        "debug",
        -2,
        0,
        Run::Container,
        Server,
        "Helps to test clients.",
    )
    .subcommands(DEBUG),
    spec(
        "flushall",
        -1,
        WRITE | DANGEROUS,
        Run::Data(D::FlushAll),
        Server,
        "Deletes all keys of all databases.",
    ),
    spec(
        "flushdb",
        -1,
        WRITE | DANGEROUS,
        Run::Data(D::FlushDb),
        Server,
        "Deletes all keys of the database.",
    ),
    control(
        "info",
        -1,
        ALWAYS | DANGEROUS,
        server::info,
        Server,
        "Tells how the server is and how it does.",
    ),
    control(
        "lastsave",
        1,
        ALWAYS | FAST | ADMIN | DANGEROUS,
        server::last_save,
        Server,
        "Returns when everything was last known durable, in Unix seconds.",
    ),
    control(
        "lolwut",
        -1,
        READONLY | FAST,
        server::lolwut,
        Server,
        "Shows a stone.",
    )
    .since("5.0.0"),
    spec(
        "memory",
        -2,
        0,
        Run::Container,
        Server,
        "Tells of the memory of keys.",
    )
    .since("4.0.0")
    .subcommands(MEMORY),
    control(
        "role",
        1,
        NOSCRIPT | ALWAYS | FAST | ADMIN | DANGEROUS,
        server::role,
        Server,
        "Returns the role in replication.",
    )
    .since("2.8.12"),
    control(
        "save",
        1,
        ADMIN | DANGEROUS | NOSCRIPT | NO_MULTI,
        server::save,
        Server,
        "Waits until everything is durable.",
    ),
    control(
        "shutdown",
        -1,
        ADMINS | NO_MULTI,
        server::shutdown,
        Server,
        "Makes everything durable and ends.",
    ),
    control(
        "time",
        1,
        ALWAYS | FAST,
        server::time,
        Server,
        "Returns the server's time.",
    )
    .since("2.6.0"),
    // There are no scripts; these answer test suites and clients that tidy up.
    spec(
        "function",
        -2,
        0,
        Run::Container,
        Scripting,
        "There are no functions.",
    )
    .since("7.0.0")
    .subcommands(FUNCTION),
    spec(
        "script",
        -2,
        0,
        Run::Container,
        Scripting,
        "There are no scripts.",
    )
    .since("2.6.0")
    .subcommands(SCRIPT),
];

const OBJECT: &[Spec] = &[
    generic(
        "object|encoding",
        3,
        READONLY,
        D::ObjectEncoding,
        "Returns how Redis would keep the value.",
    )
    .keys(2, 2, 1)
    .since("2.2.3"),
    generic(
        "object|freq",
        3,
        READONLY,
        D::ObjectFreq,
        "Not tracked: an error.",
    )
    .keys(2, 2, 1)
    .since("4.0.0"),
    control(
        "object|help",
        2,
        ALWAYS,
        object::object_help,
        Group::Generic,
        "Lists the subcommands.",
    )
    .since("6.2.0"),
    generic(
        "object|idletime",
        3,
        READONLY,
        D::ObjectIdleTime,
        "Not tracked: 0.",
    )
    .keys(2, 2, 1)
    .since("2.2.3"),
    generic(
        "object|refcount",
        3,
        READONLY,
        D::ObjectRefCount,
        "Always 1.",
    )
    .keys(2, 2, 1)
    .since("2.2.3"),
];

const MEMORY: &[Spec] = &[
    control(
        "memory|help",
        2,
        ALWAYS,
        object::memory_help,
        Server,
        "Lists the subcommands.",
    )
    .since("4.0.0"),
    spec(
        "memory|usage",
        -3,
        READONLY,
        Run::Data(D::MemoryUsage),
        Server,
        "Returns the memory of a key.",
    )
    .keys(2, 2, 1)
    .since("4.0.0"),
];

const CLIENTS: Flags = NOSCRIPT | ALWAYS;

const CLIENT: &[Spec] = &[
    control(
        "client|caching",
        3,
        CLIENTS,
        client::caching,
        Connection,
        "There is no tracking: an error.",
    )
    .since("6.0.0"),
    control(
        "client|getname",
        2,
        CLIENTS,
        client::get_name,
        Connection,
        "Returns the connection's name.",
    )
    .since("2.6.9"),
    control(
        "client|getredir",
        2,
        CLIENTS,
        client::get_redir,
        Connection,
        "There is no tracking: -1.",
    )
    .since("6.0.0"),
    control(
        "client|help",
        2,
        ALWAYS,
        client::help,
        Connection,
        "Lists the subcommands.",
    )
    .since("5.0.0"),
    control(
        "client|id",
        2,
        CLIENTS,
        client::id,
        Connection,
        "Returns the connection's number.",
    )
    .since("5.0.0"),
    control(
        "client|info",
        2,
        CLIENTS,
        client::info,
        Connection,
        "Describes the connection.",
    )
    .since("6.2.0"),
    control(
        "client|kill",
        -3,
        ADMINS,
        client::kill,
        Connection,
        "Closes connections.",
    )
    .complexity("O(N) in the number of connections"),
    control(
        "client|list",
        -2,
        ADMINS,
        client::list,
        Connection,
        "Describes all connections.",
    )
    .since("2.4.0")
    .complexity("O(N) in the number of connections"),
    control(
        "client|no-evict",
        3,
        ADMINS,
        client::no_evict,
        Connection,
        "Marks the connection as important.",
    )
    .since("7.0.0"),
    control(
        "client|no-touch",
        3,
        CLIENTS,
        client::no_touch,
        Connection,
        "Accepted; access times are not kept.",
    )
    .since("7.2.0"),
    control(
        "client|pause",
        -3,
        ADMINS,
        client::pause,
        Connection,
        "Lets commands of all connections wait.",
    )
    .since("3.0.0"),
    control(
        "client|reply",
        3,
        CLIENTS,
        client::reply,
        Connection,
        "Switches replies off and on.",
    )
    .since("3.2.0"),
    control(
        "client|setinfo",
        4,
        CLIENTS,
        client::set_info,
        Connection,
        "Takes the name and version of a client library.",
    )
    .since("7.2.0"),
    control(
        "client|setname",
        3,
        CLIENTS,
        client::set_name,
        Connection,
        "Names the connection.",
    )
    .since("2.6.9"),
    control(
        "client|tracking",
        -3,
        CLIENTS,
        client::tracking,
        Connection,
        "There is no tracking; OFF is accepted.",
    )
    .since("6.0.0"),
    control(
        "client|trackinginfo",
        2,
        CLIENTS,
        client::tracking_info,
        Connection,
        "There is no tracking: says so.",
    )
    .since("6.2.0"),
    control(
        "client|unblock",
        -3,
        ADMINS,
        client::unblock,
        Connection,
        "Nothing blocks that could be unblocked: 0.",
    )
    .since("5.0.0"),
    control(
        "client|unpause",
        2,
        ADMINS,
        client::unpause,
        Connection,
        "Ends a pause.",
    )
    .since("6.2.0"),
];

const CONFIG: &[Spec] = &[
    control(
        "config|get",
        -3,
        ADMINS,
        config::get,
        Server,
        "Returns parameters by pattern.",
    )
    .since("2.0.0"),
    control(
        "config|help",
        2,
        ALWAYS,
        config::help,
        Server,
        "Lists the subcommands.",
    )
    .since("5.0.0"),
    control(
        "config|resetstat",
        2,
        ADMINS,
        config::reset_stat,
        Server,
        "Sets the counters of INFO to zero.",
    )
    .since("2.0.0"),
    control(
        "config|rewrite",
        2,
        ADMINS,
        config::rewrite,
        Server,
        "There is no file of the configuration: an error.",
    )
    .since("2.8.0"),
    control(
        "config|set",
        -4,
        ADMINS,
        config::set,
        Server,
        "Sets parameters, all or none.",
    )
    .since("2.0.0"),
];

const COMMAND: &[Spec] = &[
    control(
        "command|count",
        2,
        ALWAYS,
        introspect::count,
        Server,
        "Returns how many commands there are.",
    )
    .since("2.8.13"),
    control(
        "command|docs",
        -2,
        ALWAYS,
        introspect::docs,
        Server,
        "Returns what commands do.",
    )
    .since("7.0.0"),
    control(
        "command|getkeys",
        -4,
        ALWAYS,
        introspect::get_keys,
        Server,
        "Returns the keys of a command.",
    )
    .since("2.8.13"),
    control(
        "command|help",
        2,
        ALWAYS,
        introspect::command_help,
        Server,
        "Lists the subcommands.",
    )
    .since("5.0.0"),
    control(
        "command|info",
        -2,
        ALWAYS,
        introspect::command_info,
        Server,
        "Describes commands.",
    )
    .since("2.8.13"),
    control(
        "command|list",
        -2,
        ALWAYS,
        introspect::list,
        Server,
        "Returns the names of the commands.",
    )
    .since("7.0.0"),
];

const DEBUG: &[Spec] = &[
    control(
        "debug|help",
        2,
        ALWAYS,
        debug::help,
        Server,
        "Lists the subcommands.",
    ),
    control(
        "debug|protocol",
        3,
        ALWAYS,
        debug::protocol,
        Server,
        "Replies with a value of a type.",
    ),
    control(
        "debug|set-active-expire",
        3,
        ADMINS,
        debug::set_active_expire,
        Server,
        "Stops or starts the reclaiming of expired keys.",
    ),
    control(
        "debug|sleep",
        3,
        ADMINS,
        debug::sleep,
        Server,
        "Answers later; other connections go on.",
    ),
];

const FUNCTION: &[Spec] = &[control(
    "function|flush",
    -2,
    NOSCRIPT,
    server::flush_functions,
    Scripting,
    "There are no functions: OK.",
)
.since("7.0.0")];

const SCRIPT: &[Spec] = &[control(
    "script|flush",
    -2,
    NOSCRIPT,
    server::flush_scripts,
    Scripting,
    "There are no scripts: OK.",
)
.since("2.6.0")];

const SLOTS: usize = 512;
const EMPTY: u8 = u8::MAX;

#[expect(
    clippy::indexing_slicing,
    reason = "evaluated at compile time, or masked"
)]
const fn hash(name: &[u8]) -> usize {
    let mut hash: u32 = 0;
    let mut at = 0;
    while at < name.len() {
        hash = hash.wrapping_mul(31).wrapping_add((name[at] | 0x20) as u32);
        at += 1;
    }
    (hash ^ (hash >> 9)) as usize % SLOTS
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
        if name.eq_ignore_ascii_case(spec.name.as_bytes()) {
            return Some(index);
        }
        slot = (slot + 1) % SLOTS;
    }
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
            b"\xff\xff\xff",
            &[b'a'; 100],
        ] {
            assert_eq!(find(none), None);
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
