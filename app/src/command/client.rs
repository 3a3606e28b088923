//! CLIENT: looking at connections and ending them.

use alloc::string::String;

use super::failure::{self, Failure};
use super::{Control, Outcome, integer, is};
use crate::clients::Client;
use crate::env::{Pause, PauseMode};
use crate::session::ReplyMode;

pub(crate) fn id(control: &mut Control<'_>) -> Outcome {
    control
        .reply
        .integer(i64::try_from(control.state.client.id).unwrap_or(i64::MAX));
    Ok(())
}

pub(crate) fn get_name(control: &mut Control<'_>) -> Outcome {
    let name = control.state.client.name.borrow();
    if name.is_empty() {
        control.reply.null();
    } else {
        control.reply.bulk(&name);
    }
    Ok(())
}

fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

/// Refuses names that would break the lines of CLIENT LIST.
pub(crate) fn check_name(name: &[u8]) -> Outcome {
    if is_plain(name) {
        return Ok(());
    }
    Err(Failure::of(
        "ERR Client names cannot contain spaces, newlines or special characters.",
    ))
}

pub(crate) fn set_name(control: &mut Control<'_>) -> Outcome {
    let name = control.args.at(2);
    check_name(name)?;
    control.state.client.name.replace(name.to_vec());
    control.reply.ok();
    Ok(())
}

/// CLIENT SETINFO lib-name|lib-ver value.
pub(crate) fn set_info(control: &mut Control<'_>) -> Outcome {
    let (option, value) = (control.args.at(2), control.args.at(3));
    let client = &control.state.client;
    let place = if is(option, "lib-name") {
        &client.library_name
    } else if is(option, "lib-ver") {
        &client.library_version
    } else {
        return Err(Failure::quoting(&[
            b"ERR Unrecognized option '",
            option,
            b"'",
        ]));
    };
    if !is_plain(value) {
        return Err(Failure::quoting(&[
            b"ERR ",
            option.to_ascii_lowercase().as_slice(),
            b" cannot contain spaces, newlines or special characters.",
        ]));
    }
    place.replace(value.to_vec());
    control.reply.ok();
    Ok(())
}

pub(crate) fn info(control: &mut Control<'_>) -> Outcome {
    let mut text = String::new();
    let local = control.env.config().local_address();
    control
        .state
        .client
        .describe(&local, control.engine.now_us(), &mut text);
    text.push('\n');
    control.reply.verbatim(text.as_bytes());
    Ok(())
}

/// Whether there can be clients of this type; only `normal` ones exist.
fn is_normal_type(name: &[u8]) -> Result<bool, Failure> {
    if is(name, "normal") {
        return Ok(true);
    }
    if ["master", "replica", "slave", "pubsub"]
        .iter()
        .any(|known| is(name, known))
    {
        return Ok(false);
    }
    Err(Failure::quoting(&[
        b"ERR Unknown client type '",
        name,
        b"'",
    ]))
}

/// `CLIENT LIST [TYPE type | ID id ...]`.
pub(crate) fn list(control: &mut Control<'_>) -> Outcome {
    let all = control.env.clients.all();
    let args = control.args;
    let chosen: alloc::vec::Vec<_> = match args.get(2) {
        None => all,
        Some(word) if is(word, "type") && args.len() == 4 => {
            if is_normal_type(args.at(3))? {
                all
            } else {
                alloc::vec::Vec::new()
            }
        }
        Some(word) if is(word, "id") && args.len() > 3 => {
            let mut chosen = alloc::vec::Vec::new();
            for id in args.from(3) {
                let id =
                    crate::number::parse_i64(id).ok_or(Failure::of("ERR Invalid client ID"))?;
                // In the order asked for, and looked up by bisection: ids only grow.
                if let Ok(id) = u64::try_from(id)
                    && let Ok(at) = all.binary_search_by_key(&id, |client| client.id)
                    && let Some(client) = all.get(at)
                {
                    chosen.push(client.clone());
                }
            }
            chosen
        }
        Some(_) => return Err(failure::SYNTAX),
    };
    let local = control.env.config().local_address();
    let now_us = control.engine.now_us();
    let mut text = String::new();
    for client in chosen {
        client.describe(&local, now_us, &mut text);
        text.push('\n');
        if text.len() > control.reply.room() {
            break;
        }
    }
    control.reply.verbatim(text.as_bytes());
    Ok(())
}

/// CLIENT KILL address, or CLIENT KILL filter value ...
pub(crate) fn kill(control: &mut Control<'_>) -> Outcome {
    let args = control.args;
    if args.len() == 3 {
        let address = args.at(2);
        let found = control
            .env
            .clients
            .all()
            .into_iter()
            .find(|c| c.address.as_bytes() == address);
        let client = found.ok_or(Failure::of("ERR No such client"))?;
        control.reply.ok();
        end(control, &client);
        return Ok(());
    }
    let filter = KillFilter::parse(control)?;
    let mut killed = 0;
    for client in control.env.clients.all() {
        if filter.matches(&client, control.state.client.id) {
            killed += 1;
            end(control, &client);
        }
    }
    control.reply.integer(killed);
    Ok(())
}

/// Its own connection a client may end too, once the reply is sent.
fn end(control: &mut Control<'_>, client: &Client) {
    if client.id == control.state.client.id {
        control.state.closing = true;
    } else {
        client.kill();
    }
}

struct KillFilter<'a> {
    id: Option<u64>,
    address: Option<&'a [u8]>,
    local: Option<bool>,
    is_normal: bool,
    skip_me: bool,
}

impl<'a> KillFilter<'a> {
    fn parse(control: &Control<'a>) -> Result<Self, Failure> {
        let mut filter = Self {
            id: None,
            address: None,
            local: None,
            is_normal: true,
            skip_me: true,
        };
        let mut index = 2;
        while let Some(word) = control.args.get(index) {
            let value = control.args.get(index + 1).ok_or(failure::SYNTAX)?;
            if is(word, "id") {
                let id = crate::number::parse_i64(value).filter(|&id| id > 0);
                let id = id.and_then(|id| u64::try_from(id).ok());
                filter.id = Some(id.ok_or(Failure::of("ERR client-id should be greater than 0"))?);
            } else if is(word, "type") {
                filter.is_normal = is_normal_type(value)?;
            } else if is(word, "addr") {
                filter.address = Some(value);
            } else if is(word, "laddr") {
                filter.local = Some(control.env.config().local_address().as_bytes() == value);
            } else if is(word, "user") {
                if value != b"default" {
                    return Err(Failure::quoting(&[b"ERR No such user '", value, b"'"]));
                }
            } else if is(word, "skipme") && is(value, "yes") {
                filter.skip_me = true;
            } else if is(word, "skipme") && is(value, "no") {
                filter.skip_me = false;
            } else {
                return Err(failure::SYNTAX);
            }
            index += 2;
        }
        Ok(filter)
    }

    fn matches(&self, client: &Client, own_id: u64) -> bool {
        self.is_normal
            && self.id.is_none_or(|id| client.id == id)
            && self
                .address
                .is_none_or(|address| client.address.as_bytes() == address)
            && self.local.unwrap_or(true)
            && !(self.skip_me && client.id == own_id)
    }
}

fn switch(argument: &[u8]) -> Result<bool, Failure> {
    match () {
        () if is(argument, "on") => Ok(true),
        () if is(argument, "off") => Ok(false),
        () => Err(failure::SYNTAX),
    }
}

pub(crate) fn no_evict(control: &mut Control<'_>) -> Outcome {
    control
        .state
        .client
        .no_evict
        .set(switch(control.args.at(2))?);
    control.reply.ok();
    Ok(())
}

pub(crate) fn no_touch(control: &mut Control<'_>) -> Outcome {
    control
        .state
        .client
        .no_touch
        .set(switch(control.args.at(2))?);
    control.reply.ok();
    Ok(())
}

/// CLIENT REPLY ON|OFF|SKIP.
pub(crate) fn reply(control: &mut Control<'_>) -> Outcome {
    let mode = control.args.at(2);
    if is(mode, "on") {
        control.state.reply_mode = ReplyMode::On;
        control.reply.ok();
    } else if is(mode, "off") {
        control.state.reply_mode = ReplyMode::Off;
    } else if is(mode, "skip") {
        if control.state.reply_mode != ReplyMode::Off {
            control.state.reply_mode = ReplyMode::SkipNext;
        }
    } else {
        return Err(failure::SYNTAX);
    }
    Ok(())
}

/// `CLIENT PAUSE milliseconds [WRITE|ALL]`.
pub(crate) fn pause(control: &mut Control<'_>) -> Outcome {
    let mode = match control.args.get(3) {
        None => PauseMode::All,
        Some(word) if is(word, "all") => PauseMode::All,
        Some(word) if is(word, "write") => PauseMode::Write,
        Some(_) => return Err(Failure::of("ERR CLIENT PAUSE mode must be WRITE or ALL")),
    };
    if control.args.len() > 4 {
        return Err(Failure::of(
            "ERR unknown subcommand or wrong number of arguments for 'pause'. Try CLIENT HELP.",
        ));
    }
    let timeout_ms = timeout_ms(control.args.at(2))?;
    let until_us = control
        .engine
        .now_us()
        .saturating_add(timeout_ms.saturating_mul(1000));
    control.env.set_pause(Some(Pause { until_us, mode }));
    control.reply.ok();
    Ok(())
}

/// A time to wait, in milliseconds.
pub(crate) fn timeout_ms(argument: &[u8]) -> Result<u64, Failure> {
    let timeout = crate::number::parse_i64(argument)
        .ok_or(Failure::of("ERR timeout is not an integer or out of range"))?;
    u64::try_from(timeout).map_err(|_| Failure::of("ERR timeout is negative"))
}

pub(crate) fn unpause(control: &mut Control<'_>) -> Outcome {
    control.env.set_pause(None);
    control.reply.ok();
    Ok(())
}

/// `CLIENT UNBLOCK id [TIMEOUT|ERROR]`: no command blocks in a way that could be undone.
pub(crate) fn unblock(control: &mut Control<'_>) -> Outcome {
    match control.args.get(3) {
        None => {}
        Some(word) if is(word, "timeout") || is(word, "error") => {}
        Some(_) => {
            return Err(Failure::of(
                "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR",
            ));
        }
    }
    integer(control.args.at(2))?;
    control.reply.integer(0);
    Ok(())
}

pub(crate) fn tracking(control: &mut Control<'_>) -> Outcome {
    if switch(control.args.at(2))? {
        return Err(Failure::of(
            "ERR Client tracking is not supported by this server",
        ));
    }
    control.reply.ok();
    Ok(())
}

pub(crate) fn caching(_: &mut Control<'_>) -> Outcome {
    Err(Failure::of(
        "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or \
         OPTOUT mode enabled",
    ))
}

pub(crate) fn get_redir(control: &mut Control<'_>) -> Outcome {
    control.reply.integer(-1);
    Ok(())
}

pub(crate) fn tracking_info(control: &mut Control<'_>) -> Outcome {
    let reply = &mut control.reply;
    reply.map(3);
    reply.bulk(b"flags");
    reply.set(1);
    reply.bulk(b"off");
    reply.bulk(b"redirect");
    reply.integer(-1);
    reply.bulk(b"prefixes");
    reply.array(0);
    Ok(())
}

pub(crate) fn help(control: &mut Control<'_>) -> Outcome {
    super::introspect::help(
        control,
        "CLIENT",
        &[
            ("GETNAME", "The connection's name."),
            ("GETREDIR", "There is no tracking: -1."),
            ("ID", "The connection's number."),
            ("INFO", "A description of the connection."),
            ("KILL <ip:port>", "Closes the connection from there."),
            (
                "KILL <filter> <value> [...]",
                "Closes those that match: ID, TYPE, USER, ADDR, LADDR, SKIPME (yes|no).",
            ),
            (
                "LIST [TYPE <type> | ID <id> [<id> ...]]",
                "A description of each connection.",
            ),
            ("NO-EVICT (ON|OFF)", "Marks the connection as important."),
            ("NO-TOUCH (ON|OFF)", "Accepted; access times are not kept."),
            (
                "PAUSE <ms> [WRITE|ALL]",
                "Lets commands wait, all or those that write.",
            ),
            ("REPLY (ON|OFF|SKIP)", "Switches replies off and on."),
            (
                "SETINFO <lib-name|lib-ver> <value>",
                "Takes name and version of a client library.",
            ),
            ("SETNAME <name>", "Names the connection."),
            ("TRACKING OFF", "There is no tracking."),
            ("TRACKINGINFO", "There is no tracking: says so."),
            (
                "UNBLOCK <id> [TIMEOUT|ERROR]",
                "Nothing can be unblocked: 0.",
            ),
            ("UNPAUSE", "Ends a pause."),
        ],
    )
}
