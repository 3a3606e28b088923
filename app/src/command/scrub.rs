//! SCRUB: verifies everything on the disk in the background.

use alloc::format;

use super::failure::Failure;
use super::{Control, Outcome, introspect};

/// `SCRUB`
pub(crate) fn start(control: &mut Control<'_>) -> Outcome {
    if !control.engine.start_scrub() {
        return Err(Failure::of("ERR a scrub is under way already"));
    }
    control.reply.simple("OK");
    Ok(())
}

/// `SCRUB STATUS`
pub(crate) fn status(control: &mut Control<'_>) -> Outcome {
    let status = control.engine.store_stats().scrub;
    let running = control.engine.is_scrubbing();
    let integer = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let fields = [
        ("running", i64::from(running)),
        ("done", integer(status.done_bytes)),
        ("total", integer(status.total_bytes)),
        ("repaired", integer(status.repaired)),
        ("unrepairable", integer(status.unrepairable)),
    ];
    let reply = &mut control.reply;
    reply.map(fields.len());
    for (name, value) in fields {
        reply.bulk(name.as_bytes());
        reply.integer(value);
    }
    Ok(())
}

/// `SCRUB DAMAGED`
pub(crate) fn damaged(control: &mut Control<'_>) -> Outcome {
    let damage = control.engine.damage();
    let reply = &mut control.reply;
    reply.array(damage.findings.len() + usize::from(damage.left_out > 0));
    for finding in &damage.findings {
        reply.bulk(format!("{finding}").as_bytes());
    }
    if damage.left_out > 0 {
        reply.bulk(format!("and {} more", damage.left_out).as_bytes());
    }
    Ok(())
}

pub(crate) fn help(control: &mut Control<'_>) -> Outcome {
    introspect::help(
        control,
        "SCRUB",
        &[
            (
                "",
                "Verify everything in use in the background, and repair what can be repaired.",
            ),
            (
                "DAMAGED",
                "What the newest one found damaged and could not repair.",
            ),
            ("STATUS", "How far it is, or how the last one ended."),
        ],
    )
}
