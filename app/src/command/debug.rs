//! DEBUG: only what helps to test clients and harms nobody.

use super::failure::{self, Failure};
use super::{After, Control, Outcome, integer, is};
use crate::number::{self, Decimal};

/// DEBUG SLEEP seconds.
pub(crate) fn sleep(control: &mut Control<'_>) -> Outcome {
    let seconds = Decimal::parse(control.args.at(2)).ok_or(failure::NOT_A_FLOAT)?;
    *control.after = After::SleepMs(seconds.to_milliseconds().ok_or(failure::NOT_A_FLOAT)?);
    if control.in_exec {
        control.reply.ok();
    }
    Ok(())
}

pub(crate) fn set_active_expire(control: &mut Control<'_>) -> Outcome {
    control
        .env
        .active_expire
        .set(integer(control.args.at(2))? != 0);
    control.reply.ok();
    Ok(())
}

/// DEBUG PROTOCOL type: a value of each type of the protocol.
pub(crate) fn protocol(control: &mut Control<'_>) -> Outcome {
    let kind = control.args.at(2);
    let reply = &mut control.reply;
    match () {
        () if is(kind, "string") => reply.bulk(b"Hello World"),
        () if is(kind, "integer") => reply.integer(12345),
        () if is(kind, "double") => {
            #[expect(clippy::approx_constant, reason = "what Redis sends")]
            reply.double(3.141);
        }
        () if is(kind, "null") => reply.null(),
        () if is(kind, "array") => {
            reply.array(3);
            (0..3).for_each(|item| reply.integer(item));
        }
        () if is(kind, "set") => {
            reply.set(3);
            (0..3).for_each(|item| reply.integer(item));
        }
        () if is(kind, "map") => {
            reply.map(3);
            for item in 0..3 {
                reply.integer(item);
                reply.boolean(item == 1);
            }
        }
        () if is(kind, "attrib") => {
            // Only those who speak version 3 know attributes.
            if reply.is_resp3() {
                reply.attribute(1);
                reply.bulk(b"key-popularity");
                reply.array(2);
                reply.bulk(b"key:123");
                reply.integer(90);
            }
            reply.bulk(b"Some real reply following the attribute");
        }
        () if is(kind, "push") => {
            reply.push(2);
            reply.bulk(b"server-cpu-usage");
            reply.integer(42);
            reply.bulk(b"Some real reply following the push reply");
        }
        () if is(kind, "verbatim") => reply.verbatim(b"This is a verbatim\nstring"),
        () if is(kind, "true") => reply.boolean(true),
        () if is(kind, "false") => reply.boolean(false),
        () if is(kind, "bignum") => reply.big_number("1234567999999999999999999999999999999"),
        () => {
            return Err(Failure::of(
                "ERR Wrong protocol type name. Please use one of the following: \
                 string|integer|double|bignum|null|array|set|map|attrib|push|verbatim|true|false",
            ));
        }
    }
    Ok(())
}

pub(crate) fn help(control: &mut Control<'_>) -> Outcome {
    super::introspect::help(
        control,
        "DEBUG",
        &[
            ("PROTOCOL <type>", "A value of that type."),
            (
                "SET-ACTIVE-EXPIRE (0|1)",
                "Stops or starts the reclaiming of expired keys.",
            ),
            ("SLEEP <seconds>", "Answers later; other connections go on."),
        ],
    )
}

impl Decimal {
    /// This many seconds in milliseconds; `None` when negative or more than a day.
    fn to_milliseconds(self) -> Option<u64> {
        let text = self.format();
        let (whole, fraction) = text.split_once('.').unwrap_or((text.as_str(), ""));
        let seconds = u64::try_from(number::parse_i64(whole.as_bytes())?).ok()?;
        if seconds > 86_400 {
            return None;
        }
        let mut thousandths = 0;
        for digit in fraction.bytes().chain([b'0'; 3]).take(3) {
            thousandths = thousandths * 10 + u64::from(digit - b'0');
        }
        Some(seconds * 1000 + thousandths)
    }
}

#[cfg(test)]
mod tests {
    use super::Decimal;

    #[test]
    fn seconds_become_milliseconds() {
        for (text, expected) in [
            ("0.01", Some(10)),
            ("1", Some(1000)),
            ("2.5009", Some(2500)),
            ("-1", None),
            ("1e9", None),
        ] {
            let seconds = Decimal::parse(text.as_bytes()).unwrap();
            assert_eq!(seconds.to_milliseconds(), expected, "{text}");
        }
    }
}
