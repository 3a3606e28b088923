//! The server as a binary uses it: made over an open store, given connections, told to end.

use alloc::rc::Rc;
use core::cell::{Cell, Ref};

use embassy_futures::join::{join, join4};
use embassy_futures::select::select;
use embassy_futures::yield_now;
use embedded_io_async::{Read, Write};
use kvstore::{Damage, DurabilityLost, KEY_BYTES_MAX, Stats as StoreStats, Store, Timestamp};
use lfs::{BlockDevice, Clock, ScrubOptions};

use crate::config::{AppendFsync, Config, Limit, StoreSettings};
use crate::env::{Engine, Env};
use crate::session;

/// Expired keys reclaimed in one commit.
const RECLAIM_STEP: usize = 64;
/// Pause between looks for expired keys.
const RECLAIM_INTERVAL_MS: u64 = 100;
/// How often commits become durable by themselves, and idle clients, stalled ones and old views of the past are looked for.
const TICK_MS: u64 = 1000;
/// With `appendfsync no`, ticks between two times that commits become durable by themselves.
const LAZY_SYNC_TICKS: u64 = 30;
/// What a commit of one key takes beyond key and value.
const COMMIT_OVERHEAD_BYTES: usize = 64;

/// The server: a store, a clock, and everything that sessions share.
pub struct Server<D: BlockDevice, C: Clock> {
    pub(crate) store: Rc<Store<D>>,
    pub(crate) clock: C,
    pub(crate) env: Env,
    /// Unix milliseconds at the last reading of the clock: the time of the commands being executed.
    now_ms: Cell<i64>,
}

impl<D: BlockDevice, C: Clock> Server<D, C> {
    /// A server over `store`. `seed` must come from a good source: it decides run ids and random keys.
    pub fn new(store: Rc<Store<D>>, clock: C, seed: [u8; 32], mut config: Config) -> Rc<Self> {
        let value_bytes_max = store
            .limits()
            .commit_bytes_max
            .saturating_sub(KEY_BYTES_MAX + COMMIT_OVERHEAD_BYTES);
        let maxmemory = config.limit_usize(Limit::MaxMemory);
        config.limit_values(value_bytes_max);
        let env = Env::new(config, seed, clock.monotonic_us());
        let server = Rc::new(Self {
            store,
            clock,
            env,
            now_ms: Cell::new(0),
        });
        server.read_clock();
        server
            .env
            .last_save_secs
            .set(server.now_ms().div_euclid(1000));
        server.set_maxmemory(maxmemory);
        let settings = server.env.config().store_settings();
        server.set_store(&settings);
        server
    }

    /// Serves one connection until it ends; then the binary closes the socket. `peer` is the client's address as
    /// CLIENT LIST shows it.
    ///
    /// Bytes written to `writer` must travel without a flush; `flush` is called once at the end, and should
    /// complete when the peer has what was written, or cannot be reached.
    pub async fn serve(&self, reader: impl Read, mut writer: impl Write, peer: &str) {
        let now_us = self.read_clock();
        let max = self.env.config().limit_usize(Limit::MaxClients);
        if let Some(registration) = self.env.clients.register(peer, now_us, max) {
            session::serve(self, &registration, reader, writer).await;
            drop(registration);
            let buffers = self.env.clients.buffer_bytes();
            self.store.set_connection_bytes(buffers);
        } else {
            // Small enough for any socket's buffer; one that is not even that is not waited for.
            let text = b"-ERR max number of clients reached\r\n";
            let _ = select(writer.write(text), yield_now()).await;
        }
    }

    /// What has to happen without being asked: expired keys are reclaimed, commits nobody waits for become
    /// durable, idle and stalled clients are closed. Runs for ever; run it exactly once.
    pub async fn background(&self) {
        join4(
            join(self.reclaim_expired(), self.expire_transactions()),
            self.sync(),
            self.close_idle(),
            self.scrub(),
        )
        .await;
    }

    /// Completes when a client has asked for SHUTDOWN.
    pub async fn shutdown_requested(&self) {
        self.env
            .shutdown
            .until(|| self.env.is_shutdown_requested().then_some(()))
            .await;
    }

    /// Ends: no further command is executed, replies already due are sent (for at most `shutdown-timeout`),
    /// connections are closed, the store is closed cleanly.
    ///
    /// # Errors
    /// When what was committed could not be made durable.
    pub async fn shutdown(&self) -> Result<(), DurabilityLost> {
        self.env.draining.set(true);
        let timeout_ms = self
            .env
            .config()
            .limit(Limit::ShutdownSecs)
            .saturating_mul(1000);
        select(
            self.env.sent.until(|| self.nothing_to_send().then_some(())),
            self.clock.sleep_ms(timeout_ms),
        )
        .await;
        for client in self.env.clients.all() {
            client.kill();
        }
        self.env.clients.all_gone().await;
        self.store.shutdown().await
    }

    /// Seconds between keep-alive probes that sockets should send; 0 for none.
    pub fn tcp_keepalive_secs(&self) -> u64 {
        self.env.config().limit(Limit::TcpKeepaliveSecs)
    }

    /// Unix milliseconds, as of the last reading of the clock.
    pub(crate) fn now_ms(&self) -> i64 {
        self.now_ms.get()
    }

    /// Unix nanoseconds now, as files are stamped with.
    pub(crate) fn now_ns(&self) -> i64 {
        self.clock.unix_us().saturating_mul(1000)
    }

    /// Reads the clock for what is executed next; returns the monotonic microseconds.
    pub(crate) fn read_clock(&self) -> u64 {
        let now_us = self.clock.monotonic_us();
        self.env.coarse_us.set(now_us);
        self.now_ms.set(self.clock.unix_ms());
        now_us
    }

    fn nothing_to_send(&self) -> bool {
        self.env
            .clients
            .all()
            .iter()
            .all(|client| client.output_bytes.get() == 0)
    }

    /// Ends transactions that are past their limits.
    async fn expire_transactions(&self) {
        loop {
            self.clock.sleep_ms(TICK_MS).await;
            self.read_clock();
            self.store.expire_transactions(self.now_ms());
        }
    }

    async fn reclaim_expired(&self) {
        loop {
            if self.env.active_expire.get() && !self.env.draining.get() {
                self.reclaim_due().await;
            }
            self.clock.sleep_ms(RECLAIM_INTERVAL_MS).await;
        }
    }

    /// Reclaims what is due now, a small commit at a time.
    async fn reclaim_due(&self) {
        loop {
            self.store.admit().await;
            self.read_clock();
            match self
                .store
                .reclaim_expired(self.now_ms(), RECLAIM_STEP)
                .await
            {
                Ok(count) if count >= RECLAIM_STEP => yield_now().await,
                _ => return,
            }
        }
    }

    async fn sync(&self) {
        for tick in 1u64.. {
            self.clock.sleep_ms(TICK_MS).await;
            let lazy = self.env.config().appendfsync() == AppendFsync::No;
            if lazy && !tick.is_multiple_of(LAZY_SYNC_TICKS) {
                continue;
            }
            // On failure every waiting reply learns of it; there is nobody to tell here.
            if self
                .store
                .wait_durable(self.store.committed())
                .await
                .is_ok()
            {
                self.read_clock();
                self.env.last_save_secs.set(self.now_ms().div_euclid(1000));
            }
        }
    }

    /// Scrubs when somebody asks for it.
    async fn scrub(&self) {
        loop {
            let wanted = || self.env.scrub_wanted.get().then_some(());
            self.env.scrub.until(wanted).await;
            let rate = self.env.config().limit(Limit::ScrubBytesPerSecond);
            let options = ScrubOptions {
                bytes_per_second: scrub_rate(rate),
                read_only: false,
            };
            let scrub = self.store.scrub(&self.clock, options);
            self.env.scrub_wanted.set(false);
            // What came of it is asked for with SCRUB STATUS and SCRUB DAMAGED.
            let _ = scrub.await;
        }
    }

    async fn close_idle(&self) {
        loop {
            self.clock.sleep_ms(TICK_MS).await;
            let now_us = self.read_clock();
            let (idle_secs, stall_secs) = {
                let config = self.env.config();
                (
                    config.limit(Limit::IdleSecs),
                    config.limit(Limit::ClientOutputStallSecs),
                )
            };
            let is_over = |since_us: u64, limit_secs: u64| {
                limit_secs > 0 && now_us.saturating_sub(since_us) / 1_000_000 >= limit_secs
            };
            for client in self.env.clients.all() {
                let stalled_since_us = client.stalled_since_us.get();
                let stalled = stalled_since_us > 0 && is_over(stalled_since_us, stall_secs);
                let idle = !client.blocked.get()
                    && client.output_bytes.get() == 0
                    && is_over(client.active_us.get(), idle_secs);
                if stalled || idle {
                    client.kill();
                }
            }
        }
    }
}

impl<D: BlockDevice, C: Clock> Engine for Server<D, C> {
    fn set_store(&self, settings: &StoreSettings) {
        self.store.set_transaction_limits(settings.transactions);
        self.store.set_history_retention(settings.history_ms);
        self.store.set_history_bytes_max(settings.history_bytes);
        self.store
            .set_garbage_percent_max(settings.garbage_percent_max);
        self.store.set_large_value_bytes(settings.large_value_bytes);
        self.store.set_cache_policy(settings.cache_policy);
    }

    fn now_us(&self) -> u64 {
        self.clock.monotonic_us()
    }

    fn unix_us(&self) -> i64 {
        self.clock.unix_us()
    }

    fn store_stats(&self) -> StoreStats {
        self.store.stats()
    }

    fn durable(&self) -> Timestamp {
        self.store.durable()
    }

    fn start_scrub(&self) -> bool {
        let begins = !self.is_scrubbing();
        if begins {
            self.env.scrub_wanted.set(true);
            self.env.scrub.notify();
        }
        begins
    }

    fn is_scrubbing(&self) -> bool {
        self.env.scrub_wanted.get() || self.store.stats().scrub.running
    }

    fn damage(&self) -> Ref<'_, Damage> {
        self.store.damage()
    }

    fn set_maxmemory(&self, bytes: usize) {
        let bytes = if bytes == 0 {
            self.env.config().machine_maxmemory()
        } else {
            bytes
        };
        self.store.set_memory_bytes_max(bytes);
    }

    fn set_scrub_rate(&self, bytes_per_second: u64) {
        self.store.set_scrub_rate(scrub_rate(bytes_per_second));
    }
}

/// `scrub-rate`, as a scrub takes it.
fn scrub_rate(bytes_per_second: u64) -> Option<u64> {
    (bytes_per_second > 0).then_some(bytes_per_second)
}
