//! Every command, a row each: name, arity, flags, how it is carried out, what it is for.

use super::super::{
    Control, Outcome, backup, client, config, connection, debug, introspect, object, scrub, server,
    snapshot,
};
use super::{
    ADMIN, BLOCKING, DANGEROUS, DENYOOM, DataCommand, FAST, FileCommand, Flags, Group, Keys,
    LOADING, NO_AUTH, NO_MULTI, NOSCRIPT, READONLY, Run, STALE, SessionCommand, Spec, WRITE,
};

use DataCommand as D;
use FileCommand as F;
use Group::{Connection, Files, Scripting, Server, Transactions};
use SessionCommand as S;

const WRITES: Flags = WRITE | DENYOOM;
/// For commands that work in every state of the server.
const ALWAYS: Flags = LOADING | STALE;
const ADMINS: Flags = ADMIN | DANGEROUS | NOSCRIPT | ALWAYS;

/// Every command.
#[rustfmt::skip]
pub(super) const TABLE: &[Spec] = &[
    // Strings.
    string("append", 3, WRITES | FAST, D::Append,
        "Appends to the value of a key; creates it if needed.")
        .since("2.0.0"),
    string("decr", 2, WRITES | FAST, D::Decr, "Subtracts one from the integer value of a key."),
    string("decrby", 3, WRITES | FAST, D::DecrBy,
        "Subtracts a number from the integer value of a key."),
    string("get", 2, READONLY | FAST, D::Get, "Returns the value of a key."),
    string("getdel", 2, WRITE | FAST, D::GetDel, "Returns the value of a key and deletes it.")
        .since("6.2.0"),
    string("getex", -2, WRITE | FAST, D::GetEx,
        "Returns the value of a key and sets its time to live.")
        .since("6.2.0"),
    string("getrange", 4, READONLY, D::GetRange, "Returns a part of the value of a key.")
        .since("2.4.0").complexity("O(N) in the length of the part"),
    string("getset", 3, WRITES | FAST, D::GetSet, "Sets a key and returns its previous value."),
    string("incr", 2, WRITES | FAST, D::Incr, "Adds one to the integer value of a key."),
    string("incrby", 3, WRITES | FAST, D::IncrBy, "Adds a number to the integer value of a key."),
    string("incrbyfloat", 3, WRITES | FAST, D::IncrByFloat, "Adds to the decimal value of a key.")
        .since("2.6.0"),
    string("mget", -2, READONLY | FAST, D::MGet, "Returns the values of several keys.")
        .keys(1, -1, 1).complexity("O(N) in the number of keys"),
    string("mset", -3, WRITES, D::MSet, "Sets several keys, all at once.")
        .since("1.0.1").keys(1, -1, 2).complexity("O(N) in the number of keys"),
    string("msetnx", -3, WRITES, D::MSetNx, "Sets several keys if none of them exists.")
        .since("1.0.1").keys(1, -1, 2).complexity("O(N) in the number of keys"),
    string("psetex", 4, WRITES, D::PSetEx, "Sets a key and its time to live in milliseconds.")
        .since("2.6.0"),
    string("set", -3, WRITES, D::Set,
        "Sets the value of a key, with conditions and time to live if wanted."),
    string("setex", 4, WRITES, D::SetEx, "Sets a key and its time to live in seconds.")
        .since("2.0.0"),
    string("setnx", 3, WRITES | FAST, D::SetNx, "Sets a key if it does not exist."),
    string("setrange", 4, WRITES, D::SetRange, "Overwrites a part of the value of a key.")
        .since("2.2.0").complexity("O(N) in the length of the value"),
    string("strlen", 2, READONLY | FAST, D::StrLen, "Returns the length of the value of a key.")
        .since("2.2.0"),
    string("substr", 4, READONLY, D::GetRange,
        "Returns a part of the value of a key (older name of GETRANGE).")
        .complexity("O(N) in the length of the part"),
    // Keys.
    generic("copy", -3, WRITES, D::Copy, "Copies a key to another.").since("6.2.0").keys(1, 2, 1),
    generic("del", -2, WRITE, D::Del, "Deletes keys.")
        .keys(1, -1, 1).complexity("O(N) in the number of keys"),
    generic("exists", -2, READONLY | FAST, D::Exists, "Counts which of the keys exist.")
        .keys(1, -1, 1).complexity("O(N) in the number of keys"),
    generic("expire", -3, WRITE | FAST, D::Expire, "Sets the time to live of a key in seconds."),
    generic("expireat", -3, WRITE | FAST, D::ExpireAt, "Sets when a key expires, in Unix seconds.")
        .since("1.2.0"),
    generic("expiretime", 2, READONLY | FAST, D::ExpireTime,
        "Returns when a key expires, in Unix seconds.")
        .since("7.0.0"),
    spec("keys", 2, READONLY | DANGEROUS, Run::Data(D::Keys), Group::Generic,
        "Returns all keys that match a pattern.")
        .complexity("O(N) in the number of keys of the database; other clients are served meanwhile"),
    generic("move", 3, WRITE | FAST, D::Move, "Moves a key to another database."),
    spec("object", -2, 0, Run::Container, Group::Generic, "Looks into how keys are kept.")
        .since("2.2.3").subcommands(OBJECT),
    generic("persist", 2, WRITE | FAST, D::Persist, "Lets a key live for ever.").since("2.2.0"),
    generic("pexpire", -3, WRITE | FAST, D::PExpire,
        "Sets the time to live of a key in milliseconds.")
        .since("2.6.0"),
    generic("pexpireat", -3, WRITE | FAST, D::PExpireAt,
        "Sets when a key expires, in Unix milliseconds.")
        .since("2.6.0"),
    generic("pexpiretime", 2, READONLY | FAST, D::PExpireTime,
        "Returns when a key expires, in Unix milliseconds.")
        .since("7.0.0"),
    generic("pttl", 2, READONLY | FAST, D::PTtl,
        "Returns the time to live of a key in milliseconds.")
        .since("2.6.0"),
    spec("range", -3, READONLY, Run::Data(D::Range), Group::Generic,
        "Returns keys in order, from the first on, up to the second, which is not included.")
        .since("7.4.0").complexity("O(N) in the number of keys returned"),
    spec("countrange", 3, READONLY, Run::Data(D::CountRange), Group::Generic,
        "Counts keys from the first on, up to the second, which is not included.")
        .since("7.4.0").complexity("O(N) in the number of keys counted"),
    spec("delrange", 3, WRITE, Run::Data(D::DelRange), Group::Generic,
        "Deletes keys from the first on, up to the second, which is not included.")
        .since("7.4.0").complexity("O(1)"),
    generic("history", -2, READONLY, D::History,
        "Returns what a key was, newest first, as far back as that is kept.")
        .since("7.4.0").complexity("O(N) in the number of versions returned"),
    spec("randomkey", 1, READONLY, Run::Data(D::RandomKey), Group::Generic,
        "Returns some key of the database."),
    generic("rename", 3, WRITE, D::Rename, "Renames a key, over an existing one if need be.")
        .keys(1, 2, 1),
    generic("renamenx", 3, WRITE | FAST, D::RenameNx, "Renames a key unless the new name exists.")
        .keys(1, 2, 1),
    spec("scan", -2, READONLY, Run::Data(D::Scan), Group::Generic,
        "Walks the keys of the database in steps.")
        .since("2.8.0").complexity("O(1) for one step"),
    generic("touch", -2, READONLY | FAST, D::Exists, "Counts which of the keys exist.")
        .since("3.2.1").keys(1, -1, 1).complexity("O(N) in the number of keys"),
    generic("ttl", 2, READONLY | FAST, D::Ttl, "Returns the time to live of a key in seconds."),
    generic("type", 2, READONLY | FAST, D::Type, "Returns the type of the value of a key."),
    generic("unlink", -2, WRITE | FAST, D::Del, "Deletes keys.")
        .since("4.0.0").keys(1, -1, 1).complexity("O(N) in the number of keys"),
    control("wait", 3, BLOCKING, server::wait, Group::Generic,
        "Waits for replicas, of which there are none.")
        .since("3.0.0"),
    control("waitaof", 4, BLOCKING, server::wait_aof, Group::Generic,
        "Waits until the connection's writes are durable.")
        .since("7.2.0"),
    // Connection.
    control("auth", -2, NOSCRIPT | ALWAYS | FAST | NO_AUTH, connection::auth, Connection,
        "Gives the password."),
    spec("client", -2, 0, Run::Container, Connection, "Looks at and changes connections.")
        .since("2.4.0").subcommands(CLIENT),
    control("echo", 2, ALWAYS | FAST, connection::echo, Connection, "Returns what it is given."),
    control("hello", -1, NOSCRIPT | ALWAYS | FAST | NO_AUTH, connection::hello, Connection,
        "Chooses the protocol version; gives password and name.")
        .since("6.0.0"),
    control("ping", -1, ALWAYS | FAST, connection::ping, Connection,
        "Answers PONG, or what it is given."),
    spec("quit", -1, ALWAYS | NOSCRIPT | FAST | NO_AUTH, Run::Session(S::Quit), Connection,
        "Closes the connection after all replies are sent."),
    spec("reset", 1, NOSCRIPT | ALWAYS | FAST | NO_AUTH, Run::Session(S::Reset), Connection,
        "Makes the connection as new.")
        .since("6.2.0"),
    control("select", 2, ALWAYS | FAST, connection::select, Connection, "Chooses the database."),
    // Transactions.
    spec("discard", 1, NOSCRIPT | ALWAYS | FAST, Run::Session(S::Discard), Transactions,
        "Drops the queued commands.")
        .since("2.0.0"),
    spec("exec", 1, NOSCRIPT | ALWAYS, Run::Session(S::Exec), Transactions,
        "Carries out the queued commands as one commit.")
        .since("1.2.0").complexity("That of the commands"),
    spec("begin", -1, NOSCRIPT | ALWAYS | FAST, Run::Session(S::Begin), Transactions,
        "Begins a transaction that stays open, with an isolation level, to read only, or of the past.")
        .since("7.4.0"),
    spec("commit", -1, NOSCRIPT | ALWAYS, Run::Session(S::Commit), Transactions,
        "Commits the open transaction, with a token just once; or asks for a token.")
        .since("7.4.0").complexity("O(N) in what it has read and written"),
    spec("lock", -2, NOSCRIPT | ALWAYS | BLOCKING, Run::Session(S::Lock), Transactions,
        "Locks keys until the open transaction ends.")
        .since("7.4.0").keys(1, -1, 1).complexity("O(N) in the number of keys"),
    spec("rollback", -1, NOSCRIPT | ALWAYS | FAST, Run::Session(S::Rollback), Transactions,
        "Takes back the open transaction, or what it did since a savepoint.")
        .since("7.4.0"),
    spec("savepoint", 2, NOSCRIPT | ALWAYS | FAST, Run::Session(S::Savepoint), Transactions,
        "Makes a savepoint in the open transaction.")
        .since("7.4.0"),
    spec("multi", 1, NOSCRIPT | ALWAYS | FAST, Run::Session(S::Multi), Transactions,
        "Starts to queue commands.")
        .since("1.2.0"),
    spec("unwatch", 1, NOSCRIPT | ALWAYS | FAST, Run::Session(S::Unwatch), Transactions,
        "Forgets the watched keys.")
        .since("2.2.0"),
    spec("watch", -2, NOSCRIPT | ALWAYS | FAST, Run::Session(S::Watch), Transactions,
        "Lets the next EXEC happen only if the keys stay as they are.")
        .since("2.2.0").keys(1, -1, 1).complexity("O(N) in the number of keys"),
    // Server.
    control("bgrewriteaof", 1, ADMINS, server::bg_rewrite_aof, Server,
        "Does nothing: the log tidies itself."),
    control("bgsave", -1, ADMINS, server::bg_save, Server, "Starts to make everything durable."),
    control("command", -1, ALWAYS, introspect::command, Server, "Describes the commands.")
        .since("2.8.13").complexity("O(N) in the number of commands").subcommands(COMMAND),
    spec("config", -2, 0, Run::Container, Server, "Looks at and changes the configuration.")
        .since("2.0.0").subcommands(CONFIG),
    spec("dbsize", 1, READONLY | FAST, Run::Data(D::DbSize), Server, "Returns the number of keys."),
    spec("debug", -2, 0, Run::Container, Server, "Helps to test clients.").subcommands(DEBUG),
    spec("flushall", -1, WRITE | DANGEROUS, Run::Data(D::FlushAll), Server,
        "Deletes all keys of all databases."),
    spec("flushdb", -1, WRITE | DANGEROUS, Run::Data(D::FlushDb), Server,
        "Deletes all keys of the database."),
    control("info", -1, ALWAYS | DANGEROUS, server::info, Server,
        "Tells how the server is and how it does."),
    control("lastsave", 1, ALWAYS | FAST | ADMIN | DANGEROUS, server::last_save, Server,
        "Returns when everything was last known durable, in Unix seconds."),
    control("lolwut", -1, READONLY | FAST, server::lolwut, Server, "Shows a stone.").since("5.0.0"),
    spec("memory", -2, 0, Run::Container, Server, "Tells of the memory of keys.")
        .since("4.0.0").subcommands(MEMORY),
    control("role", 1, NOSCRIPT | ALWAYS | FAST | ADMIN | DANGEROUS, server::role, Server,
        "Returns the role in replication.")
        .since("2.8.12"),
    control("save", 1, ADMIN | DANGEROUS | NOSCRIPT | NO_MULTI, server::save, Server,
        "Waits until everything is durable."),
    control("shutdown", -1, ADMINS | NO_MULTI, server::shutdown, Server,
        "Makes everything durable and ends."),
    control("time", 1, ALWAYS | FAST, server::time, Server, "Returns the server's time.")
        .since("2.6.0"),
    // Files.
    file("fs.append", 3, WRITES, F::Append, "Appends to a file; creates it if needed.")
        .complexity("O(N) in the length of the data"),
    file("fs.delxattr", -3, WRITE, F::DelXattr, "Removes extended attributes of a file."),
    file("fs.get", 2, READONLY, F::Get, "Returns the content of a file.")
        .complexity("O(N) in the size of the file"),
    file("fs.getxattr", 3, READONLY, F::GetXattr, "Returns an extended attribute of a file."),
    file("fs.link", 3, WRITE, F::Link, "Gives a file one name more."),
    file("fs.listxattr", 2, READONLY, F::ListXattr,
        "Returns the names of the extended attributes of a file.")
        .complexity("O(N) in the number of attributes"),
    file("fs.ls", -2, READONLY, F::List, "Lists a directory in steps.")
        .complexity("O(N) in the number of names of one step"),
    file("fs.mkdir", -2, WRITES, F::MakeDirectory,
        "Creates a directory, with those above it if wanted."),
    file("fs.mv", -3, WRITE, F::Move, "Renames a file or directory, over an existing one if need be."),
    file("fs.put", 3, WRITES, F::Put, "Sets the whole content of a file; creates it if needed.")
        .complexity("O(N) in the length of the data"),
    file("fs.read", 4, READONLY, F::Read, "Returns a part of the content of a file.")
        .complexity("O(N) in the length of the part"),
    file("fs.readlink", 2, READONLY, F::ReadLink, "Returns the target of a symbolic link."),
    file("fs.rm", -2, WRITE, F::Remove, "Removes a file or directory, with all in it if wanted."),
    file("fs.setattr", -4, WRITE, F::SetAttributes, "Sets mode, owner and times of a file."),
    file("fs.setxattr", -4, WRITES, F::SetXattr, "Sets an extended attribute of a file."),
    file("fs.stat", -2, READONLY, F::Stat, "Tells what a file is."),
    file("fs.symlink", 3, WRITES, F::Symlink, "Creates a symbolic link."),
    file("fs.truncate", 3, WRITE, F::Truncate, "Sets the size of a file."),
    file("fs.write", 4, WRITES, F::Write, "Overwrites a part of a file; creates it if needed.")
        .complexity("O(N) in the length of the data"),
    spec("backup", -2, 0, Run::Container, Files, "Reads keys and files as a stream.")
        .subcommands(BACKUP),
    control("scrub", -1, SCRUBS, scrub::start, Server, "Verifies all that is stored, in the background.")
        .complexity("O(1) for the reply").subcommands(SCRUB),
    spec("snapshot", -2, 0, Run::Container, Files, "Keeps states of all files and keys.")
        .subcommands(SNAPSHOT),
    // There are no scripts; these answer test suites and clients that tidy up.
    spec("function", -2, 0, Run::Container, Scripting, "There are no functions.")
        .since("7.0.0").subcommands(FUNCTION),
    spec("script", -2, 0, Run::Container, Scripting, "There are no scripts.")
        .since("2.6.0").subcommands(SCRIPT),
];

#[rustfmt::skip]
const OBJECT: &[Spec] = &[
    generic("object|encoding", 3, READONLY, D::ObjectEncoding,
        "Returns how Redis would keep the value.")
        .keys(2, 2, 1).since("2.2.3"),
    generic("object|freq", 3, READONLY, D::ObjectFreq, "Not tracked: an error.")
        .keys(2, 2, 1).since("4.0.0"),
    control("object|help", 2, ALWAYS, object::object_help, Group::Generic, "Lists the subcommands.")
        .since("6.2.0"),
    generic("object|idletime", 3, READONLY, D::ObjectIdleTime, "Not tracked: 0.")
        .keys(2, 2, 1).since("2.2.3"),
    generic("object|refcount", 3, READONLY, D::ObjectRefCount, "Always 1.")
        .keys(2, 2, 1).since("2.2.3"),
];

const SCRUBS: Flags = ADMIN | DANGEROUS | NOSCRIPT;

#[rustfmt::skip]
const SCRUB: &[Spec] = &[
    control("scrub|damaged", 2, SCRUBS, scrub::damaged, Server, "Tells what a scrub found and could not repair.")
        .complexity("O(N) in the number of findings, of which at most 128 are kept"),
    control("scrub|help", 2, ALWAYS, scrub::help, Server, "Lists the subcommands."),
    control("scrub|status", 2, SCRUBS, scrub::status, Server, "Tells how far a scrub is."),
];

const SNAPSHOTS: Flags = ADMIN | DANGEROUS | NOSCRIPT | NO_MULTI;

#[rustfmt::skip]
const BACKUP: &[Spec] = &[
    control("backup|help", 2, ALWAYS, backup::help, Files, "Lists the subcommands."),
    control("backup|read", -4, SNAPSHOTS, backup::read, Files, "Returns a part of a backup.")
        .complexity("O(N) in the bytes asked for, and in what is passed over as unchanged"),
    control("backup|start", -2, SNAPSHOTS, backup::start, Files,
        "Keeps the state that keys and files have now, to be read."),
];

#[rustfmt::skip]
const SNAPSHOT: &[Spec] = &[
    control("snapshot|create", 3, SNAPSHOTS, snapshot::create, Files,
        "Keeps the state that all files and keys have now."),
    control("snapshot|delete", 3, SNAPSHOTS, snapshot::delete, Files, "Gives a kept state up."),
    control("snapshot|help", 2, ALWAYS, snapshot::help, Files, "Lists the subcommands."),
    control("snapshot|list", 2, SNAPSHOTS, snapshot::list, Files, "Lists the kept states.")
        .complexity("O(N) in the number of snapshots"),
];

#[rustfmt::skip]
const MEMORY: &[Spec] = &[
    control("memory|help", 2, ALWAYS, object::memory_help, Server, "Lists the subcommands.")
        .since("4.0.0"),
    spec("memory|usage", -3, READONLY, Run::Data(D::MemoryUsage), Server,
        "Returns the memory of a key.")
        .keys(2, 2, 1).since("4.0.0"),
];

const CLIENTS: Flags = NOSCRIPT | ALWAYS;

#[rustfmt::skip]
const CLIENT: &[Spec] = &[
    control("client|caching", 3, CLIENTS, client::caching, Connection,
        "There is no tracking: an error.")
        .since("6.0.0"),
    control("client|getname", 2, CLIENTS, client::get_name, Connection,
        "Returns the connection's name.")
        .since("2.6.9"),
    control("client|getredir", 2, CLIENTS, client::get_redir, Connection,
        "There is no tracking: -1.")
        .since("6.0.0"),
    control("client|help", 2, ALWAYS, client::help, Connection, "Lists the subcommands.")
        .since("5.0.0"),
    control("client|id", 2, CLIENTS, client::id, Connection, "Returns the connection's number.")
        .since("5.0.0"),
    control("client|info", 2, CLIENTS, client::info, Connection, "Describes the connection.")
        .since("6.2.0"),
    control("client|kill", -3, ADMINS, client::kill, Connection, "Closes connections.")
        .complexity("O(N) in the number of connections"),
    control("client|list", -2, ADMINS, client::list, Connection, "Describes all connections.")
        .since("2.4.0").complexity("O(N) in the number of connections"),
    control("client|no-evict", 3, ADMINS, client::no_evict, Connection,
        "Marks the connection as important.")
        .since("7.0.0"),
    control("client|no-touch", 3, CLIENTS, client::no_touch, Connection,
        "Accepted; access times are not kept.")
        .since("7.2.0"),
    control("client|pause", -3, ADMINS, client::pause, Connection,
        "Lets commands of all connections wait.")
        .since("3.0.0"),
    control("client|reply", 3, CLIENTS, client::reply, Connection, "Switches replies off and on.")
        .since("3.2.0"),
    control("client|setinfo", 4, CLIENTS, client::set_info, Connection,
        "Takes the name and version of a client library.")
        .since("7.2.0"),
    control("client|setname", 3, CLIENTS, client::set_name, Connection, "Names the connection.")
        .since("2.6.9"),
    control("client|tracking", -3, CLIENTS, client::tracking, Connection,
        "There is no tracking; OFF is accepted.")
        .since("6.0.0"),
    control("client|trackinginfo", 2, CLIENTS, client::tracking_info, Connection,
        "There is no tracking: says so.")
        .since("6.2.0"),
    control("client|unblock", -3, ADMINS, client::unblock, Connection,
        "Nothing blocks that could be unblocked: 0.")
        .since("5.0.0"),
    control("client|unpause", 2, ADMINS, client::unpause, Connection, "Ends a pause.")
        .since("6.2.0"),
];

#[rustfmt::skip]
const CONFIG: &[Spec] = &[
    control("config|get", -3, ADMINS, config::get, Server, "Returns parameters by pattern.")
        .since("2.0.0"),
    control("config|help", 2, ALWAYS, config::help, Server, "Lists the subcommands.")
        .since("5.0.0"),
    control("config|resetstat", 2, ADMINS, config::reset_stat, Server,
        "Sets the counters of INFO to zero.")
        .since("2.0.0"),
    control("config|rewrite", 2, ADMINS, config::rewrite, Server,
        "There is no file of the configuration: an error.")
        .since("2.8.0"),
    control("config|set", -4, ADMINS, config::set, Server, "Sets parameters, all or none.")
        .since("2.0.0"),
];

#[rustfmt::skip]
const COMMAND: &[Spec] = &[
    control("command|count", 2, ALWAYS, introspect::count, Server,
        "Returns how many commands there are.")
        .since("2.8.13"),
    control("command|docs", -2, ALWAYS, introspect::docs, Server, "Returns what commands do.")
        .since("7.0.0"),
    control("command|getkeys", -4, ALWAYS, introspect::get_keys, Server,
        "Returns the keys of a command.")
        .since("2.8.13"),
    control("command|help", 2, ALWAYS, introspect::command_help, Server, "Lists the subcommands.")
        .since("5.0.0"),
    control("command|info", -2, ALWAYS, introspect::command_info, Server, "Describes commands.")
        .since("2.8.13"),
    control("command|list", -2, ALWAYS, introspect::list, Server,
        "Returns the names of the commands.")
        .since("7.0.0"),
];

#[rustfmt::skip]
const DEBUG: &[Spec] = &[
    control("debug|help", 2, ALWAYS, debug::help, Server, "Lists the subcommands."),
    control("debug|protocol", 3, ALWAYS, debug::protocol, Server,
        "Replies with a value of a type."),
    control("debug|set-active-expire", 3, ADMINS, debug::set_active_expire, Server,
        "Stops or starts the reclaiming of expired keys."),
    control("debug|sleep", 3, ADMINS, debug::sleep, Server,
        "Answers later; other connections go on."),
];

#[rustfmt::skip]
const FUNCTION: &[Spec] = &[control(
    "function|flush",
    -2,
    NOSCRIPT,
    server::flush_functions,
    Scripting,
    "There are no functions: OK.").since("7.0.0")];

#[rustfmt::skip]
const SCRIPT: &[Spec] = &[control(
    "script|flush",
    -2,
    NOSCRIPT,
    server::flush_scripts,
    Scripting,
    "There are no scripts: OK.").since("2.6.0")];

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

/// A command on files. Its paths are no keys.
const fn file(
    name: &'static str,
    arity: i8,
    flags: Flags,
    command: FileCommand,
    summary: &'static str,
) -> Spec {
    spec(name, arity, flags, Run::File(command), Files, summary)
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
