//! The loop that sends replies, each once what it depends on is durable.

use embedded_io_async::Write;
use lfs::{BlockDevice, Clock};

use super::output::{Batch, Output};
use crate::clients::Registration;
use crate::env;
use crate::server::Server;

/// Sends until the queue has ended and is empty, or the client is gone.
pub(super) async fn run<D: BlockDevice, C: Clock>(
    server: &Server<D, C>,
    registration: &Registration<'_>,
    output: &Output,
    mut writer: impl Write,
) {
    while let Some(mut batch) = output.next().await {
        let (len, memory_bytes) = (batch.sink.len(), batch.memory_bytes());
        let newest = batch.newest();
        if newest > server.store.durable() && server.store.wait_durable(newest).await.is_err() {
            batch.withdraw(server.store.durable());
        }
        if !send(server, registration, &mut writer, &batch).await {
            // Reader and all: nobody listens any more.
            registration.kill();
            return;
        }
        env::add(&server.env.stats.output_bytes, batch.sink.len());
        output.sent(batch, len, memory_bytes);
        registration.output_bytes.set(output.bytes());
        if server.env.draining.get() && output.is_idle() {
            server.env.sent.notify();
        }
    }
    // The last bytes should reach the client before the connection is dropped; one that does not take
    // them is closed like any that stalls.
    registration
        .stalled_since_us
        .set(server.env.coarse_us.get().max(1));
    let _ = writer.flush().await;
    registration.stalled_since_us.set(0);
}

async fn send<D: BlockDevice, C: Clock>(
    server: &Server<D, C>,
    registration: &Registration<'_>,
    writer: &mut impl Write,
    batch: &Batch,
) -> bool {
    let mut rest = batch.sink.bytes();
    while !rest.is_empty() {
        registration
            .stalled_since_us
            .set(server.env.coarse_us.get().max(1));
        match writer.write(rest).await {
            Ok(count @ 1..) => rest = rest.get(count..).unwrap_or_default(),
            Ok(0) | Err(_) => return false,
        }
    }
    registration.stalled_since_us.set(0);
    true
}
