//! The connection itself: AUTH, HELLO, PING, ECHO, SELECT.

use kvstore::DatabaseIndex;
use subtle::ConstantTimeEq as _;

use super::failure::{self, Failure};
use super::{Control, Outcome, Spec, client, database, is};
use crate::env::Env;
use crate::number;
use crate::resp::Args;
use crate::{REDIS_VERSION, SERVER_NAME};

/// The one user there is.
const USER: &[u8] = b"default";

pub(crate) fn ping(control: &mut Control<'_>) -> Outcome {
    match control.args.len() {
        1 => control.reply.simple("PONG"),
        2 => control.reply.bulk(control.args.at(1)),
        _ => return Err(failure::arity("ping")),
    }
    Ok(())
}

pub(crate) fn echo(control: &mut Control<'_>) -> Outcome {
    control.reply.bulk(control.args.at(1));
    Ok(())
}

pub(crate) fn select(control: &mut Control<'_>) -> Outcome {
    control.state.select(database(control.args.at(1))?);
    control.reply.ok();
    Ok(())
}

/// The database that a command chooses for those that come after it.
pub(crate) fn selects(spec: &Spec, args: Args<'_>) -> Option<DatabaseIndex> {
    let chosen = (spec.name == "select").then(|| database(args.at(1)))?;
    chosen.ok()
}

/// AUTH password, or AUTH user password.
pub(crate) fn auth(control: &mut Control<'_>) -> Outcome {
    let (user, password) = match control.args.len() {
        2 if control.env.config().requirepass().is_empty() => {
            return Err(Failure::of(
                "ERR AUTH <password> called without any password configured for the default user. \
                 Are you sure your configuration is correct?",
            ));
        }
        2 => (USER, control.args.at(1)),
        3 => (control.args.at(1), control.args.at(2)),
        _ => return Err(failure::SYNTAX),
    };
    if !may_enter(control.env, user, password) {
        return Err(failure::WRONGPASS);
    }
    control.state.authenticated = true;
    control.reply.ok();
    Ok(())
}

/// Compares without telling by its duration how much of the password was right.
fn may_enter(env: &Env, user: &[u8], password: &[u8]) -> bool {
    let config = env.config();
    let expected = config.requirepass();
    // Like Redis, the default user without a password takes any.
    let right: bool = expected.ct_eq(password).into();
    user == USER && (expected.is_empty() || right)
}

/// `HELLO [version [AUTH user password] [SETNAME name]]`.
pub(crate) fn hello(control: &mut Control<'_>) -> Outcome {
    let mut resp3 = control.reply.is_resp3();
    if let Some(version) = control.args.get(1) {
        resp3 = match number::parse_i64(version) {
            Some(2) => false,
            Some(3) => true,
            Some(_) => return Err(Failure::of("NOPROTO unsupported protocol version")),
            None => {
                return Err(Failure::of(
                    "ERR Protocol version is not an integer or out of range",
                ));
            }
        };
    }
    let mut name = None;
    let mut index = 2;
    while let Some(word) = control.args.get(index) {
        let left = control.args.len() - index - 1;
        if is(word, "auth") && left >= 2 {
            let (user, password) = (control.args.at(index + 1), control.args.at(index + 2));
            if !may_enter(control.env, user, password) {
                return Err(failure::WRONGPASS);
            }
            control.state.authenticated = true;
            index += 3;
        } else if is(word, "setname") && left >= 1 {
            name = Some(control.args.at(index + 1));
            client::check_name(control.args.at(index + 1))?;
            index += 2;
        } else {
            return Err(Failure::quoting(&[
                b"ERR Syntax error in HELLO option '",
                word,
                b"'",
            ]));
        }
    }
    if !control.state.authenticated {
        return Err(Failure::of(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
             HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and \
             select the RESP protocol version at the same time",
        ));
    }
    if let Some(name) = name {
        control.state.client.name.replace(name.to_vec());
    }
    control.state.set_resp3(resp3);
    let reply = &mut control.reply;
    reply.set_resp3(resp3);
    reply.map(7);
    reply.bulk(b"server");
    reply.bulk(SERVER_NAME.as_bytes());
    reply.bulk(b"version");
    reply.bulk(REDIS_VERSION.as_bytes());
    reply.bulk(b"proto");
    reply.integer(if resp3 { 3 } else { 2 });
    reply.bulk(b"id");
    reply.integer(i64::try_from(control.state.client.id).unwrap_or(i64::MAX));
    reply.bulk(b"mode");
    reply.bulk(b"standalone");
    reply.bulk(b"role");
    reply.bulk(b"master");
    reply.bulk(b"modules");
    reply.array(0);
    Ok(())
}
