//! One connection, from its first byte to its last.
//!
//! [`serve`] runs two loops side by side in one task: [`reader`] reads, parses and executes, and appends replies to
//! the [`output`] queue; [`writer`] sends them once what they depend on is durable. [`execute`] carries out one
//! command, [`transaction`] is MULTI, WATCH and EXEC, [`attempts`] carries out what works on keys and files.

mod attempts;
pub(crate) mod execute;
mod input;
mod interactive;
mod output;
mod reader;
mod transaction;
mod writer;

use alloc::rc::Rc;
use alloc::vec::Vec;

use embassy_futures::join::join;
use embassy_futures::select::select;
use embedded_io_async::{Read, Write};
use kvstore::{DatabaseIndex, LoadError, Loaded, OpenTransaction, Timestamp, Watch};
use lfs::{BlockDevice, Clock};

use crate::clients::{Client, Registration};
use crate::server::Server;
use output::Output;
use reader::Reader;
use transaction::{Queue, Watched};

/// Whether the client wants to hear replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplyMode {
    On,
    Off,
    /// The command after this one goes without a reply.
    SkipNext,
    /// This command goes without a reply.
    Skipping,
}

/// Whether a command has waited for room for its commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    None,
    Admitted,
}

/// What a connection has chosen and begun.
pub(crate) struct State {
    pub(crate) client: Rc<Client>,
    pub(crate) database: DatabaseIndex,
    pub(crate) authenticated: bool,
    pub(crate) resp3: bool,
    pub(crate) reply_mode: ReplyMode,
    /// Ends once all replies are sent.
    pub(crate) closing: bool,
    /// Of the command at hand.
    pub(crate) admission: Admission,
    /// The connection's newest write, for WAITAOF.
    pub(crate) last_write: Timestamp,
    queue: Option<Queue>,
    /// Between BEGIN and COMMIT.
    open: Option<OpenTransaction>,
    /// What tells when one of them is written.
    watch: Option<Watch>,
    watched: Vec<Watched>,
    watched_bytes: usize,
    /// What the command at hand needed from the disk so far, ...
    loaded: Loaded,
    /// ... and why it could not be read.
    load_failure: Option<LoadError>,
}

impl State {
    fn new(client: Rc<Client>, authenticated: bool) -> Self {
        Self {
            client,
            database: DatabaseIndex(0),
            authenticated,
            resp3: false,
            reply_mode: ReplyMode::On,
            closing: false,
            admission: Admission::None,
            last_write: Timestamp(0),
            queue: None,
            open: None,
            watch: None,
            watched: Vec::new(),
            watched_bytes: 0,
            loaded: Loaded::default(),
            load_failure: None,
        }
    }

    /// Chooses the database.
    pub(crate) fn select(&mut self, database: DatabaseIndex) {
        self.database = database;
        self.client.database.set(database.0);
    }

    /// Chooses the protocol version.
    pub(crate) fn set_resp3(&mut self, resp3: bool) {
        self.resp3 = resp3;
        self.client.resp3.set(resp3);
    }

    /// RESET: as if just connected. What CLIENT SETINFO said stays true.
    fn reset(&mut self, authenticated: bool) {
        self.end_transaction();
        self.roll_back();
        self.select(DatabaseIndex(0));
        self.set_resp3(false);
        self.authenticated = authenticated;
        self.reply_mode = ReplyMode::On;
        self.client.name.borrow_mut().clear();
        self.client.no_evict.set(false);
        self.client.no_touch.set(false);
    }
}

/// Serves one connection until it ends.
pub(crate) async fn serve<D: BlockDevice, C: Clock>(
    server: &Server<D, C>,
    registration: &Registration<'_>,
    reader: impl Read,
    writer: impl Write,
) {
    let output = Output::default();
    let loops = join(
        // In this order: what one poll of the reader queues, the writer's poll right after it sees.
        Reader::new(server, registration, &output).run(reader),
        writer::run(server, registration, &output, writer),
    );
    select(registration.killed(), loops).await;
}
