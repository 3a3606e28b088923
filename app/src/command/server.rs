//! The server as a whole: INFO, TIME, durability on request, SHUTDOWN.

use alloc::format;

use super::failure::{self, Failure};
use super::{After, Control, Outcome, client, integer, is};
use crate::info;

pub(crate) fn info(control: &mut Control<'_>) -> Outcome {
    let text = info::text(control.env, control.engine, &control.args.from(1));
    control.reply.verbatim(text.as_bytes());
    Ok(())
}

/// TIME: Unix seconds, and microseconds within the second.
pub(crate) fn time(control: &mut Control<'_>) -> Outcome {
    let now_us = control.engine.unix_us();
    control.reply.array(2);
    for part in [now_us.div_euclid(1_000_000), now_us.rem_euclid(1_000_000)] {
        control
            .reply
            .bulk(itoa::Buffer::new().format(part).as_bytes());
    }
    Ok(())
}

pub(crate) fn role(control: &mut Control<'_>) -> Outcome {
    control.reply.array(3);
    control.reply.bulk(b"master");
    control.reply.integer(0);
    control.reply.array(0);
    Ok(())
}

pub(crate) fn last_save(control: &mut Control<'_>) -> Outcome {
    control.reply.integer(control.env.last_save_secs.get());
    Ok(())
}

pub(crate) fn save(control: &mut Control<'_>) -> Outcome {
    *control.after = After::Durable("OK");
    Ok(())
}

/// `BGSAVE [SCHEDULE]`: the log is written in the background all the time.
pub(crate) fn bg_save(control: &mut Control<'_>) -> Outcome {
    match control.args.get(1) {
        None => {}
        Some(word) if is(word, "schedule") && control.args.len() == 2 => {}
        Some(_) => return Err(failure::SYNTAX),
    }
    control.reply.simple("Background saving started");
    Ok(())
}

pub(crate) fn bg_rewrite_aof(control: &mut Control<'_>) -> Outcome {
    control
        .reply
        .simple("Background append only file rewriting started");
    Ok(())
}

/// WAIT replicas timeout: there are none, so there is nothing to wait for.
pub(crate) fn wait(control: &mut Control<'_>) -> Outcome {
    integer(control.args.at(1))?;
    client::timeout_ms(control.args.at(2))?;
    control.reply.integer(0);
    Ok(())
}

/// WAITAOF local replicas timeout: waits for the connection's own writes, whatever `appendfsync` says.
pub(crate) fn wait_aof(control: &mut Control<'_>) -> Outcome {
    let local = integer(control.args.at(1))?;
    if !(0..=1).contains(&local) {
        return Err(Failure::of(
            "ERR value is out of range, value must between 0 and 1",
        ));
    }
    if integer(control.args.at(2))? < 0 {
        return Err(Failure::of("ERR value is out of range, must be positive"));
    }
    let timeout_ms = client::timeout_ms(control.args.at(3))?;
    let timestamp = control.state.last_write;
    if local == 0 || control.in_exec || timestamp <= control.engine.durable() {
        control.reply.array(2);
        control
            .reply
            .integer(i64::from(timestamp <= control.engine.durable()));
        control.reply.integer(0);
    } else {
        *control.after = After::WaitAof {
            timestamp,
            timeout_ms,
        };
    }
    Ok(())
}

/// `SHUTDOWN [NOSAVE|SAVE] [NOW] [FORCE] [ABORT]`: everything is made durable either way.
pub(crate) fn shutdown(control: &mut Control<'_>) -> Outcome {
    let (mut save, mut no_save, mut force, mut abort) = (false, false, false, false);
    for word in control.args.from(1) {
        match () {
            () if is(word, "nosave") => no_save = true,
            () if is(word, "save") => save = true,
            () if is(word, "now") => {}
            () if is(word, "force") => force = true,
            () if is(word, "abort") => abort = true,
            () => return Err(failure::SYNTAX),
        }
    }
    if (abort && control.args.len() > 2) || (save && no_save) {
        return Err(failure::SYNTAX);
    }
    if abort {
        return Err(Failure::of("ERR No shutdown in progress."));
    }
    if control.engine.store_stats().read_only && !(force || no_save) {
        return Err(Failure::of("ERR Errors trying to SHUTDOWN. Check logs."));
    }
    control.env.request_shutdown();
    *control.after = After::Close;
    Ok(())
}

/// `FUNCTION FLUSH [ASYNC|SYNC]`.
pub(crate) fn flush_functions(control: &mut Control<'_>) -> Outcome {
    nothing_to_flush(
        control,
        "ERR FUNCTION FLUSH only supports SYNC|ASYNC option",
    )
}

/// `SCRIPT FLUSH [ASYNC|SYNC]`.
pub(crate) fn flush_scripts(control: &mut Control<'_>) -> Outcome {
    nothing_to_flush(control, "ERR SCRIPT FLUSH only support SYNC|ASYNC option")
}

fn nothing_to_flush(control: &mut Control<'_>, complaint: &'static str) -> Outcome {
    match control.args.get(2) {
        None => {}
        Some(word) if (is(word, "async") || is(word, "sync")) && control.args.len() == 3 => {}
        Some(_) => return Err(Failure::of(complaint)),
    }
    control.reply.ok();
    Ok(())
}

pub(crate) fn lolwut(control: &mut Control<'_>) -> Outcome {
    let stone = "\
      ______________\n   \
    _/ . . . . . .  \\__\n \
   /_.___.____.__.__.__\\\n \
  |__ . __ .  ___ . __ _|\n \
   \\____.______.______/\n";
    let text = format!("{stone}\nSiltstone ver. {}\n", crate::VERSION);
    control.reply.verbatim(text.as_bytes());
    Ok(())
}
