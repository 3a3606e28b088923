//! The table of connections: what CLIENT LIST shows, and how a connection is told to end.
//!
//! A session owns its [`Client`] through a [`Registration`]; when that goes, the entry goes. Everything here is
//! `Cell`s: another session may look at, or kill, a connection between any two awaits.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt::Write as _;

use lfs::Notify;

/// One connection.
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) address: String,
    pub(crate) name: RefCell<Vec<u8>>,
    pub(crate) library_name: RefCell<Vec<u8>>,
    pub(crate) library_version: RefCell<Vec<u8>>,
    pub(crate) database: Cell<u8>,
    pub(crate) resp3: Cell<bool>,
    pub(crate) no_evict: Cell<bool>,
    pub(crate) no_touch: Cell<bool>,
    pub(crate) created_us: u64,
    /// When it last sent something.
    pub(crate) active_us: Cell<u64>,
    /// Whether it has sent anything at all.
    pub(crate) has_sent: Cell<bool>,
    /// Since when it has not taken any byte of waiting output; 0 when nothing waits for it.
    pub(crate) stalled_since_us: Cell<u64>,
    /// Commands queued by MULTI, or -1.
    pub(crate) queued_commands: Cell<i64>,
    pub(crate) watched_keys: Cell<usize>,
    pub(crate) last_command: Cell<&'static str>,
    /// Waits for something by its own wish (WAITAOF, CLIENT PAUSE), so it is not idle.
    pub(crate) blocked: Cell<bool>,
    pub(crate) input_bytes: Cell<usize>,
    pub(crate) input_capacity: Cell<usize>,
    pub(crate) output_bytes: Cell<usize>,
    pub(crate) multi_bytes: Cell<usize>,
    killed: Cell<bool>,
    wake: Notify,
    /// What of `Clients::buffer_bytes` is this one's.
    charged_bytes: Cell<usize>,
}

impl Client {
    /// Ends the connection; replies not yet sent are lost.
    pub(crate) fn kill(&self) {
        self.killed.set(true);
        self.wake.notify();
    }

    /// Whether the connection was told to end.
    pub(crate) fn is_killed(&self) -> bool {
        self.killed.get()
    }

    /// Completes when the connection is told to end.
    pub(crate) async fn killed(&self) {
        self.wake.until(|| self.killed.get().then_some(())).await;
    }

    /// One line of CLIENT LIST, without the line end.
    pub(crate) fn describe(&self, local: &str, now_us: u64, out: &mut String) {
        let seconds = |since: u64| now_us.saturating_sub(since) / 1_000_000;
        let lossy =
            |bytes: &RefCell<Vec<u8>>| String::from_utf8_lossy(&bytes.borrow()).into_owned();
        let mut flags = String::new();
        if self.queued_commands.get() >= 0 {
            flags.push('x');
        }
        if self.blocked.get() {
            flags.push('b');
        }
        if self.no_evict.get() {
            flags.push('e');
        }
        if self.no_touch.get() {
            flags.push('T');
        }
        if flags.is_empty() {
            flags.push('N');
        }
        let buffered = self.input_capacity.get() + self.output_bytes.get() + self.multi_bytes.get();
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "id={} addr={} laddr={local} fd={} name={} age={} idle={} flags={flags} db={} sub=0 psub=0 ssub=0 \
             multi={} watch={} qbuf={} qbuf-free={} argv-mem=0 multi-mem={} rbs=0 rbp=0 obl=0 oll=0 omem={} \
             tot-mem={buffered} events=r cmd={} user=default redir=-1 resp={} lib-name={} lib-ver={}",
            self.id,
            self.address,
            self.id,
            lossy(&self.name),
            seconds(self.created_us),
            seconds(self.active_us.get()),
            self.database.get(),
            self.queued_commands.get(),
            self.watched_keys.get(),
            self.input_bytes.get(),
            self.input_capacity
                .get()
                .saturating_sub(self.input_bytes.get()),
            self.multi_bytes.get(),
            self.output_bytes.get(),
            self.last_command.get(),
            if self.resp3.get() { 3 } else { 2 },
            lossy(&self.library_name),
            lossy(&self.library_version),
        );
    }
}

/// All connections.
#[derive(Default)]
pub(crate) struct Clients {
    /// In the order of their ids, which is the order they came in.
    table: RefCell<Vec<Rc<Client>>>,
    last_id: Cell<u64>,
    buffer_bytes: Cell<usize>,
    gone: Notify,
    pub(crate) received: Cell<u64>,
    pub(crate) rejected: Cell<u64>,
}

/// A connection's place in the table, for as long as it lives.
pub(crate) struct Registration<'c> {
    clients: &'c Clients,
    client: Rc<Client>,
}

impl core::ops::Deref for Registration<'_> {
    type Target = Rc<Client>;
    fn deref(&self) -> &Rc<Client> {
        &self.client
    }
}

impl Registration<'_> {
    /// Says what memory the connection's buffers take now. False when all together take too much and this
    /// one has just asked for more.
    pub(crate) fn charge(&self, bytes: usize, limit: usize) -> bool {
        let before = self.client.charged_bytes.replace(bytes);
        let total = self
            .clients
            .buffer_bytes
            .get()
            .saturating_sub(before)
            .saturating_add(bytes);
        self.clients.buffer_bytes.set(total);
        bytes <= before || total <= limit
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.charge(0, 0);
        self.clients
            .table
            .borrow_mut()
            .retain(|other| other.id != self.client.id);
        self.clients.gone.notify();
    }
}

impl Clients {
    /// Adds a connection. With `max` of them the oldest that has never sent a byte gives way;
    /// `None` when there is no such one.
    pub(crate) fn register(
        &self,
        address: &str,
        now_us: u64,
        max: usize,
    ) -> Option<Registration<'_>> {
        self.received.set(self.received.get() + 1);
        let mut table = self.table.borrow_mut();
        if table.iter().filter(|client| !client.is_killed()).count() >= max {
            let silent = table
                .iter()
                .find(|client| !client.has_sent.get() && !client.is_killed());
            let Some(silent) = silent else {
                self.rejected.set(self.rejected.get() + 1);
                return None;
            };
            silent.kill();
        }
        let id = self.last_id.get() + 1;
        self.last_id.set(id);
        let client = Rc::new(Client {
            id,
            address: String::from(address),
            name: RefCell::default(),
            library_name: RefCell::default(),
            library_version: RefCell::default(),
            database: Cell::new(0),
            resp3: Cell::new(false),
            no_evict: Cell::new(false),
            no_touch: Cell::new(false),
            created_us: now_us,
            active_us: Cell::new(now_us),
            has_sent: Cell::new(false),
            stalled_since_us: Cell::new(0),
            queued_commands: Cell::new(-1),
            watched_keys: Cell::new(0),
            last_command: Cell::new("NULL"),
            blocked: Cell::new(false),
            input_bytes: Cell::new(0),
            input_capacity: Cell::new(0),
            output_bytes: Cell::new(0),
            multi_bytes: Cell::new(0),
            killed: Cell::new(false),
            wake: Notify::default(),
            charged_bytes: Cell::new(0),
        });
        table.push(Rc::clone(&client));
        Some(Registration {
            clients: self,
            client,
        })
    }

    /// All connections that were not told to end, in the order they came.
    pub(crate) fn all(&self) -> Vec<Rc<Client>> {
        self.table
            .borrow()
            .iter()
            .filter(|client| !client.is_killed())
            .cloned()
            .collect()
    }

    /// Memory of all connections' buffers.
    pub(crate) fn buffer_bytes(&self) -> usize {
        self.buffer_bytes.get()
    }

    /// Completes when no connection is left.
    pub(crate) async fn all_gone(&self) {
        self.gone
            .until(|| self.table.borrow().is_empty().then_some(()))
            .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_connections_give_way_and_busy_ones_do_not() {
        let clients = Clients::default();
        let first = clients.register("a", 0, 2).unwrap();
        let second = clients.register("b", 0, 2).unwrap();
        first.has_sent.set(true);
        let third = clients.register("c", 0, 2).unwrap();
        assert!(second.is_killed() && !first.is_killed());
        third.has_sent.set(true);
        assert!(clients.register("d", 0, 2).is_none());
        assert_eq!((clients.rejected.get(), clients.received.get()), (1, 4));
        drop(first);
        assert!(clients.register("e", 0, 2).is_some());
    }

    #[test]
    fn buffers_are_charged_and_returned() {
        let clients = Clients::default();
        let first = clients.register("a", 0, 9).unwrap();
        let second = clients.register("b", 0, 9).unwrap();
        assert!(first.charge(100, 150));
        assert!(!second.charge(60, 150), "together they are over the limit");
        assert!(first.charge(90, 100), "asking for less is always allowed");
        drop(first);
        assert_eq!(clients.buffer_bytes(), 60);
        drop(second);
        assert_eq!(clients.buffer_bytes(), 0);
    }
}
