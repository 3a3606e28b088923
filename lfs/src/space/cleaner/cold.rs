//! Cold data are compressed better (DESIGN.md, "Compression").
//!
//! What the cleaner moves for the third time or later has proved that it stays. On its way it is compressed again, with
//! deflate, if the file system is set to do so and that saves an eighth of what it takes. The result is an extent of
//! its own: object, first byte and birth are those of what was moved.
//!
//! Bounds: a step of the work is a few KiB, and others have their turn after each. As soon as somebody waits for the
//! cleaner the work is given up, and the extent moves as it is.
//!
//! Not here: what is moved, and when.

use super::survivors::Survivor;
use crate::extent::codec::{ExtentIdentity, StoredExtent, store};
use crate::extent::{Algorithm, Compression, Piece, Pressing, kept_bytes_max};
use crate::space::heads::SURVIVOR_HEADS;
use crate::{BlockDevice, CommitNumber, FileSystem};

impl<D: BlockDevice> FileSystem<D> {
    /// Whether survivors that go to this head are compressed better.
    pub(crate) fn presses(&self, generation: usize) -> bool {
        generation + 1 == SURVIVOR_HEADS && self.compression() == Compression::Cold
    }

    /// Compresses a survivor better, if that pays and nobody waits.
    pub(crate) async fn press(&self, survivor: &mut Survivor) {
        let Some(bytes) = self.opened_whole(survivor) else {
            return;
        };
        let Some(mut pressing) = Pressing::new(&bytes) else {
            return;
        };
        loop {
            if !self.pace() {
                return;
            }
            if pressing.step() {
                break;
            }
            embassy_futures::yield_now().await;
        }
        let Some(stored) = self.stored_anew(survivor, &bytes, pressing) else {
            return;
        };
        let (before, after) = (survivor.stored.len(), stored.bytes.len());
        if after > kept_bytes_max(before) {
            return;
        }
        let record = &mut survivor.record;
        record.encoding = stored.shape.encoding().number();
        record.stored_len = stored.shape.stored_len();
        record.unit_first = 0;
        survivor.stored = stored.bytes;
        self.log
            .count(|counters| counters.bytes_saved_cold += (before - after) as u64);
    }

    /// The bytes of a survivor that is not compressed as well as can be. Damage moves as it is, to show where it is read.
    fn opened_whole(&self, survivor: &Survivor) -> Option<alloc::vec::Vec<u8>> {
        let record = &survivor.record;
        let piece = Piece::whole(record, survivor.from);
        if piece.shape()?.encoding().algorithm == Algorithm::Deflate {
            return None;
        }
        let birth = record.birth;
        let identity = piece.identity(record.object, record.offset, birth);
        let whole = 0..u64::from(record.len);
        piece
            .read(self.vault.sealer(), identity, &survivor.stored, &whole)
            .ok()
    }

    fn stored_anew(
        &self,
        survivor: &Survivor,
        bytes: &[u8],
        pressing: Pressing<'_>,
    ) -> Option<StoredExtent> {
        let identity = ExtentIdentity {
            object: survivor.record.object,
            offset: survivor.record.offset,
            birth: CommitNumber(survivor.record.birth),
        };
        let pressed = pressing.finish()?;
        store(
            self.vault.sealer(),
            identity,
            bytes.len(),
            (Algorithm::Deflate, &pressed),
            &mut |bytes| self.vault.draw(bytes),
        )
        .ok()
    }
}
