//! Several futures at once, of which a bounded number is under way.
//!
//! For reads that are known together: one wait in place of one for each.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::pin::Pin;
use core::task::Poll;

/// Futures under way at most. With requests of one extent each that is a MiB in memory.
const UNDER_WAY_MAX: usize = 16;

/// Runs all futures to their end; what they give, in their order.
pub async fn together<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut rest = futures.into_iter();
    let mut under_way: Vec<(usize, Pin<Box<F>>)> = Vec::new();
    let mut outputs = Vec::new();
    poll_fn(|context| {
        loop {
            while under_way.len() < UNDER_WAY_MAX
                && let Some(future) = rest.next()
            {
                under_way.push((outputs.len(), Box::pin(future)));
                outputs.push(None);
            }
            let before = under_way.len();
            under_way.retain_mut(|(index, future)| match future.as_mut().poll(context) {
                Poll::Ready(output) => {
                    if let Some(place) = outputs.get_mut(*index) {
                        *place = Some(output);
                    }
                    false
                }
                Poll::Pending => true,
            });
            if under_way.is_empty() && before == 0 {
                return Poll::Ready(());
            }
            // Those that take the place of what has ended must be polled, too.
            if under_way.len() == before {
                return Poll::Pending;
            }
        }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;
    use crate::sim::{Executor, Random};

    #[test]
    fn all_are_run_a_bounded_number_at_once_and_what_they_give_is_in_order() {
        for count in [0, 1, UNDER_WAY_MAX, 5 * UNDER_WAY_MAX + 3] {
            let (given, most) = Executor::new(7).run(async move {
                let (now, most) = (Cell::new(0), Cell::new(0));
                let mut random = Random::new(3);
                let futures = (0..count).map(|number| {
                    let turns = random.index(9);
                    let (now, most) = (&now, &most);
                    async move {
                        now.set(now.get() + 1);
                        most.set(now.get().max(most.get()));
                        for _ in 0..turns {
                            embassy_futures::yield_now().await;
                        }
                        now.set(now.get() - 1);
                        number
                    }
                });
                (together(futures).await, most.get())
            });
            assert!(given.into_iter().eq(0..count));
            assert!(most <= UNDER_WAY_MAX && (count < 2 || most > 1), "{most}");
        }
    }
}
