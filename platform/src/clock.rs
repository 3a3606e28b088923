//! Time: the counter of the processor, the machine's wall clock, and timers.
//!
//! Timers are one-shot: the processor is interrupted when the next one is due and not before, so an idle
//! machine sleeps until then.

use alloc::collections::BTreeMap;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use crate::arch;
use crate::interrupt::OneCore;

const NANOS_PER_MICRO: u64 = 1000;
const MICROS_PER_MILLI: u64 = 1000;

/// Timers that are set, by (deadline in microseconds, a number that tells equal deadlines apart).
struct Timers {
    waiting: BTreeMap<(u64, u64), Waker>,
    next_number: u64,
    /// The deadline the processor's timer is set to.
    armed_us: Option<u64>,
}

static TIMERS: OneCore<Timers> = OneCore::new(Timers {
    waiting: BTreeMap::new(),
    next_number: 0,
    armed_us: None,
});

/// Microseconds since some moment before the machine started; never goes back.
pub fn monotonic_us() -> u64 {
    arch::ticks_to_nanos(arch::ticks()) / NANOS_PER_MICRO
}

/// Wakes the tasks whose time has come. `fired`: the processor's timer went off, and is not set any more.
pub(crate) fn wake_due(fired: bool) {
    TIMERS.with(|timers| {
        if fired {
            timers.armed_us = None;
        }
        if timers.waiting.is_empty() {
            return;
        }
        let now_us = monotonic_us();
        while let Some(entry) = timers.waiting.first_entry() {
            let &(deadline_us, _) = entry.key();
            if deadline_us > now_us {
                break;
            }
            entry.remove().wake();
        }
    });
}

/// Sets the processor's timer to the earliest deadline.
pub(crate) fn arm() {
    TIMERS.with(|timers| {
        let next_us = timers
            .waiting
            .first_key_value()
            .map(|(&(deadline_us, _), _)| deadline_us);
        // A timer that fires for nothing costs less than setting it again and again.
        let earlier = match (next_us, timers.armed_us) {
            (Some(next_us), Some(armed_us)) => next_us < armed_us,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if let (true, Some(next_us)) = (earlier, next_us) {
            timers.armed_us = Some(next_us);
            arch::set_timer(next_us.saturating_mul(NANOS_PER_MICRO));
        }
    });
}

/// Completes once [`monotonic_us`] has reached `deadline_us`.
pub fn sleep_until_us(deadline_us: u64) -> Sleep {
    Sleep {
        deadline_us,
        number: None,
    }
}

/// A timer; forgotten when dropped.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct Sleep {
    deadline_us: u64,
    number: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if monotonic_us() >= self.deadline_us {
            return Poll::Ready(());
        }
        TIMERS.with(|timers| {
            let number = *self.number.get_or_insert_with(|| {
                timers.next_number += 1;
                timers.next_number
            });
            timers
                .waiting
                .entry((self.deadline_us, number))
                .and_modify(|waker| waker.clone_from(context.waker()))
                .or_insert_with(|| context.waker().clone());
        });
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            TIMERS.with(|timers| timers.waiting.remove(&(self.deadline_us, number)));
        }
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Unix time when the monotonic clock was 0.
    unix_epoch_us: i64,
}

impl Clock {
    /// Reads the wall clock; from then on it goes as the monotonic one does.
    pub fn open() -> Self {
        let rtc_us = arch::rtc_unix_ns() / NANOS_PER_MICRO;
        // A clock that is off by less than 292,000 years fits.
        let unix_epoch_us = rtc_us.cast_signed().wrapping_sub_unsigned(monotonic_us());
        Self { unix_epoch_us }
    }
}

impl lfs::Clock for Clock {
    fn monotonic_us(&self) -> u64 {
        monotonic_us()
    }

    fn unix_us(&self) -> i64 {
        self.unix_epoch_us.saturating_add_unsigned(monotonic_us())
    }

    fn sleep_ms(&self, duration_ms: u64) -> impl Future<Output = ()> {
        let deadline_us =
            monotonic_us().saturating_add(duration_ms.saturating_mul(MICROS_PER_MILLI));
        sleep_until_us(deadline_us)
    }
}
