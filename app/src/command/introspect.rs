//! COMMAND: what the commands are, read off the table.

use alloc::format;
use alloc::vec::Vec;

use super::failure::{self, Failure};
use super::table::{
    self, ADMIN, COMMANDS, DANGEROUS, FAST, FLAG_NAMES, Group, READONLY, Spec, WRITE,
};
use super::{Control, Outcome, is};
use crate::glob;
use crate::number;
use crate::resp::Reply;

/// The reply of a HELP subcommand, laid out as Redis does.
pub(crate) fn help(control: &mut Control<'_>, name: &str, subcommands: &[(&str, &str)]) -> Outcome {
    let reply = &mut control.reply;
    reply.array(1 + 2 * subcommands.len() + 2);
    reply.simple(&format!(
        "{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    ));
    for (usage, meaning) in subcommands.iter().chain(&[("HELP", "Print this help.")]) {
        reply.simple(usage);
        reply.simple(&format!("    {meaning}"));
    }
    Ok(())
}

/// COMMAND: all of them.
pub(crate) fn command(control: &mut Control<'_>) -> Outcome {
    control.reply.array(COMMANDS.len());
    for spec in COMMANDS {
        describe(spec, &mut control.reply);
    }
    Ok(())
}

pub(crate) fn count(control: &mut Control<'_>) -> Outcome {
    control.reply.count(COMMANDS.len());
    Ok(())
}

/// `COMMAND INFO [name ...]`; a name nobody has gives a null.
pub(crate) fn command_info(control: &mut Control<'_>) -> Outcome {
    if control.args.len() == 2 {
        return command(control);
    }
    control.reply.array(control.args.len() - 2);
    for name in control.args.from(2) {
        match find(name) {
            Some(spec) => describe(spec, &mut control.reply),
            None => control.reply.null(),
        }
    }
    Ok(())
}

/// A command, or `container|subcommand`.
fn find(name: &[u8]) -> Option<&'static Spec> {
    let mut parts = name.splitn(2, |&byte| byte == b'|');
    let spec = COMMANDS.get(table::find(parts.next()?)?)?;
    match parts.next() {
        None => Some(spec),
        Some(subcommand) => table::find_subcommand(spec, subcommand),
    }
}

fn describe(spec: &Spec, reply: &mut Reply<'_>) {
    reply.array(10);
    reply.bulk(spec.name.as_bytes());
    reply.integer(i64::from(spec.arity));
    let flags = || FLAG_NAMES.iter().filter(|(flag, _)| spec.has(*flag));
    reply.set(flags().count());
    flags().for_each(|(_, name)| reply.simple(name));
    for position in [spec.keys.first, spec.keys.last, spec.keys.step] {
        reply.integer(i64::from(position));
    }
    let categories = categories(spec);
    reply.set(categories.len());
    for name in categories {
        reply.simple(name);
    }
    reply.array(0); // Tips.
    describe_keys(spec, reply);
    reply.array(spec.subcommands.len());
    spec.subcommands
        .iter()
        .for_each(|subcommand| describe(subcommand, reply));
}

/// Access categories: those of Redis that the table's properties imply.
fn categories(spec: &Spec) -> Vec<&'static str> {
    let mut names = Vec::new();
    if matches!(spec.group, Group::Generic)
        || spec.name.starts_with("flush")
        || spec.name == "dbsize"
    {
        names.push("@keyspace");
    }
    match () {
        () if spec.has(WRITE) => names.push("@write"),
        () if spec.has(READONLY) => names.push("@read"),
        () => {}
    }
    match spec.group {
        Group::String => names.push("@string"),
        Group::Connection => names.push("@connection"),
        Group::Transactions => names.push("@transaction"),
        Group::Scripting => names.push("@scripting"),
        Group::Generic | Group::Server | Group::Files => {}
    }
    if spec.has(ADMIN) {
        names.push("@admin");
    }
    if spec.has(ADMIN) || spec.has(DANGEROUS) {
        names.push("@dangerous");
    }
    names.push(if spec.has(FAST) { "@fast" } else { "@slow" });
    names
}

/// Key positions in the form clients of Redis 7 read.
fn describe_keys(spec: &Spec, reply: &mut Reply<'_>) {
    if spec.keys.first == 0 {
        reply.array(0);
        return;
    }
    reply.array(1);
    reply.map(3);
    reply.bulk(b"flags");
    let access = if spec.has(WRITE) { "RW" } else { "RO" };
    reply.set(2);
    reply.simple(access);
    reply.simple(if spec.has(WRITE) { "UPDATE" } else { "ACCESS" });
    reply.bulk(b"begin_search");
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(b"index");
    reply.bulk(b"spec");
    reply.map(1);
    reply.bulk(b"index");
    reply.integer(i64::from(spec.keys.first));
    reply.bulk(b"find_keys");
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(b"range");
    reply.bulk(b"spec");
    reply.map(3);
    reply.bulk(b"lastkey");
    // Counted from the first key, unless from the end.
    let last = spec.keys.last;
    reply.integer(i64::from(if last > 0 {
        last - spec.keys.first
    } else {
        last
    }));
    reply.bulk(b"keystep");
    reply.integer(i64::from(spec.keys.step));
    reply.bulk(b"limit");
    reply.integer(0);
}

/// `COMMAND DOCS [name ...]`; names nobody has are left out.
pub(crate) fn docs(control: &mut Control<'_>) -> Outcome {
    let specs: Vec<&Spec> = if control.args.len() == 2 {
        COMMANDS.iter().collect()
    } else {
        control.args.from(2).filter_map(find).collect()
    };
    control.reply.map(specs.len());
    for spec in specs {
        document(spec, &mut control.reply);
    }
    Ok(())
}

fn document(spec: &Spec, reply: &mut Reply<'_>) {
    reply.bulk(spec.name.as_bytes());
    let fields = [
        ("summary", spec.summary),
        ("since", spec.since),
        ("group", spec.group.name()),
        ("complexity", spec.complexity),
    ];
    reply.map(fields.len() + usize::from(!spec.subcommands.is_empty()));
    for (name, text) in fields {
        reply.bulk(name.as_bytes());
        reply.bulk(text.as_bytes());
    }
    if !spec.subcommands.is_empty() {
        reply.bulk(b"subcommands");
        reply.map(spec.subcommands.len());
        spec.subcommands
            .iter()
            .for_each(|subcommand| document(subcommand, reply));
    }
}

/// `COMMAND LIST [FILTERBY MODULE name | ACLCAT category | PATTERN pattern]`.
pub(crate) fn list(control: &mut Control<'_>) -> Outcome {
    let args = control.args;
    let all = COMMANDS
        .iter()
        .flat_map(|spec| core::iter::once(spec).chain(spec.subcommands));
    let chosen: Vec<&Spec> = match args.len() {
        2 => COMMANDS.iter().collect(),
        5 if is(args.at(2), "filterby") => {
            let value = args.at(4);
            match args.at(3) {
                kind if is(kind, "module") => Vec::new(),
                kind if is(kind, "aclcat") => all
                    .filter(|spec| {
                        categories(spec)
                            .iter()
                            .any(|name| is(value, name.trim_start_matches('@')))
                    })
                    .collect(),
                kind if is(kind, "pattern") => all
                    .filter(|spec| glob::matches(value, spec.name.as_bytes(), true))
                    .collect(),
                _ => return Err(failure::SYNTAX),
            }
        }
        _ => return Err(failure::SYNTAX),
    };
    control.reply.array(chosen.len());
    for spec in chosen {
        control.reply.bulk(spec.name.as_bytes());
    }
    Ok(())
}

/// COMMAND GETKEYS command argument ...
pub(crate) fn get_keys(control: &mut Control<'_>) -> Outcome {
    let args = control.args;
    let invalid = Failure::of("ERR Invalid command specified");
    let top = table::find(args.at(2))
        .and_then(|index| COMMANDS.get(index))
        .ok_or(invalid)?;
    let spec = match args.get(3) {
        Some(name) if !top.subcommands.is_empty() => {
            table::find_subcommand(top, name).ok_or(Failure::of("ERR Invalid command specified"))?
        }
        _ => top,
    };
    let count = args.len() - 2;
    if spec.keys.first == 0 {
        return Err(Failure::of("ERR The command has no key arguments"));
    }
    if !spec.takes(count) {
        return Err(Failure::of(
            "ERR Invalid number of arguments specified for command",
        ));
    }
    control.reply.array(spec.key_indexes(count).count());
    for index in spec.key_indexes(count) {
        control.reply.bulk(args.at(index + 2));
    }
    Ok(())
}

pub(crate) fn command_help(control: &mut Control<'_>) -> Outcome {
    help(
        control,
        "COMMAND",
        &[
            ("(no subcommand)", "Describes all commands."),
            ("COUNT", "How many commands there are."),
            ("DOCS [<command> ...]", "What commands do."),
            ("GETKEYS <full-command>", "The keys of a command."),
            ("INFO [<command> ...]", "Describes commands."),
            (
                "LIST [FILTERBY (MODULE|ACLCAT|PATTERN) <value>]",
                "The names of the commands.",
            ),
        ],
    )
}

/// The error for a name nobody has: it quotes the first arguments, up to 128 bytes.
pub(crate) fn unknown_command(args: crate::resp::Args<'_>) -> Failure {
    const QUOTED_BYTES_MAX: usize = 128;
    let cut = |bytes: &[u8], max: usize| -> Vec<u8> {
        bytes
            .iter()
            .copied()
            .take(max)
            .take_while(|&byte| byte != 0)
            .collect()
    };
    let mut quoted = Vec::new();
    for argument in args.from(1) {
        if quoted.len() >= QUOTED_BYTES_MAX {
            break;
        }
        let room = QUOTED_BYTES_MAX - quoted.len();
        quoted.push(b'\'');
        quoted.extend_from_slice(&cut(argument, room));
        quoted.extend_from_slice(b"' ");
    }
    Failure::quoting(&[
        b"ERR unknown command '",
        &cut(args.at(0), QUOTED_BYTES_MAX),
        b"', with args beginning with: ",
        &quoted,
    ])
}

/// The error for a subcommand its container does not have.
pub(crate) fn unknown_subcommand(container: &Spec, name: &[u8]) -> Failure {
    let name: Vec<u8> = name
        .iter()
        .copied()
        .take(128)
        .take_while(|&byte| byte != 0)
        .collect();
    Failure::quoting(&[
        b"ERR unknown subcommand '",
        &name,
        b"'. Try ",
        container.name.to_ascii_uppercase().as_bytes(),
        b" HELP.",
    ])
}

/// The error for more bytes between MULTI and EXEC than are allowed.
pub(crate) fn queue_full(limit: usize) -> Failure {
    let mut text = b"ERR the transaction holds more than multi-queue-limit (".to_vec();
    number::push_usize(&mut text, limit);
    text.extend_from_slice(b" bytes)");
    Failure::from(text)
}
