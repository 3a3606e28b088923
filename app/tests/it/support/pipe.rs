//! A bounded pipe in memory: one direction of a connection.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;

use embedded_io_async::{ErrorType, Read, Write};
use lfs::Notify;

#[derive(Default)]
struct Shared {
    bytes: RefCell<VecDeque<u8>>,
    capacity: usize,
    ends: RefCell<Ends>,
    changed: Notify,
}

#[derive(Default)]
struct Ends {
    writer_gone: bool,
    reader_gone: bool,
}

/// Both ends of a pipe that holds up to `capacity` bytes.
pub fn pipe(capacity: usize) -> (PipeWriter, PipeReader) {
    let shared = Rc::new(Shared {
        capacity,
        ..Shared::default()
    });
    (PipeWriter(Rc::clone(&shared)), PipeReader(shared))
}

pub struct PipeWriter(Rc<Shared>);
pub struct PipeReader(Rc<Shared>);

impl PipeWriter {
    /// Writes as much as fits, at least one byte; 0 when nobody will read it.
    async fn put_some(&self, bytes: &[u8]) -> usize {
        self.0
            .changed
            .until(|| {
                if self.0.ends.borrow().reader_gone {
                    return Some(0);
                }
                let mut held = self.0.bytes.borrow_mut();
                let count = bytes.len().min(self.0.capacity - held.len());
                held.extend(&bytes[..count]);
                (count > 0 || bytes.is_empty()).then_some(count)
            })
            .await
    }

    /// Writes everything; false when nobody will read it.
    pub async fn put(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let count = self.write(bytes).await.unwrap();
            if count == 0 {
                return false;
            }
            bytes = &bytes[count..];
        }
        true
    }

    pub fn close(&mut self) {
        self.0.ends.borrow_mut().writer_gone = true;
        self.0.changed.notify();
    }
}

impl PipeReader {
    /// Appends what is there, at least one byte, to `bytes`; false at the end.
    pub async fn take(&mut self, bytes: &mut Vec<u8>) -> bool {
        let mut room = [0; 4096];
        let count = self.read(&mut room).await.unwrap();
        bytes.extend_from_slice(&room[..count]);
        count > 0
    }

    pub fn has_bytes(&self) -> bool {
        !self.0.bytes.borrow().is_empty()
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        self.close();
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        self.0.ends.borrow_mut().reader_gone = true;
        self.0.changed.notify();
    }
}

impl ErrorType for PipeWriter {
    type Error = Infallible;
}

impl ErrorType for PipeReader {
    type Error = Infallible;
}

impl Write for PipeWriter {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        let count = self.put_some(bytes).await;
        self.0.changed.notify();
        Ok(count)
    }

    /// Completes when the other side has taken everything, or is gone.
    async fn flush(&mut self) -> Result<(), Infallible> {
        let shared = &self.0;
        shared
            .changed
            .until(|| {
                let done = shared.bytes.borrow().is_empty() || shared.ends.borrow().reader_gone;
                done.then_some(())
            })
            .await;
        Ok(())
    }
}

impl Read for PipeReader {
    async fn read(&mut self, room: &mut [u8]) -> Result<usize, Infallible> {
        let shared = &self.0;
        let count = shared
            .changed
            .until(|| {
                let mut held = shared.bytes.borrow_mut();
                let count = held.len().min(room.len());
                for (place, byte) in room.iter_mut().zip(held.drain(..count)) {
                    *place = byte;
                }
                (count > 0 || shared.ends.borrow().writer_gone).then_some(count)
            })
            .await;
        shared.changed.notify();
        Ok(count)
    }
}
