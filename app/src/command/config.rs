//! CONFIG.

use super::failure::{self, Failure};
use super::{Control, Outcome};
use crate::config::Limit;

pub(crate) fn get(control: &mut Control<'_>) -> Outcome {
    let found = control.env.config().get_matching(&control.args.from(2));
    control.reply.map(found.len());
    for (name, value) in found {
        control.reply.bulk(name.as_bytes());
        control.reply.bulk(&value);
    }
    Ok(())
}

pub(crate) fn set(control: &mut Control<'_>) -> Outcome {
    if control.args.len() % 2 == 1 {
        return Err(failure::SYNTAX);
    }
    let (maxmemory, scrub_rate, store) = {
        let mut config = control.env.config_mut();
        config
            .set_all(control.args.from(2))
            .map_err(|error| Failure::from(error.0))?;
        (
            config.limit_usize(Limit::MaxMemory),
            config.limit(Limit::ScrubBytesPerSecond),
            config.store_settings(),
        )
    };
    control.engine.set_store(&store);
    control.engine.set_maxmemory(maxmemory);
    control.engine.set_scrub_rate(scrub_rate);
    control.reply.ok();
    Ok(())
}

pub(crate) fn reset_stat(control: &mut Control<'_>) -> Outcome {
    control.env.stats.reset();
    control.env.clients.received.set(0);
    control.env.clients.rejected.set(0);
    control.reply.ok();
    Ok(())
}

pub(crate) fn rewrite(_: &mut Control<'_>) -> Outcome {
    Err(Failure::of(
        "ERR The server is running without a config file",
    ))
}

pub(crate) fn help(control: &mut Control<'_>) -> Outcome {
    super::introspect::help(
        control,
        "CONFIG",
        &[
            (
                "GET <pattern> [<pattern> ...]",
                "Parameters that match, and their values.",
            ),
            ("RESETSTAT", "Sets the counters of INFO to zero."),
            (
                "REWRITE",
                "There is no file of the configuration: an error.",
            ),
            (
                "SET <name> <value> [<name> <value> ...]",
                "Sets parameters, all or none.",
            ),
        ],
    )
}
