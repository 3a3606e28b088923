//! Walks: live keys in order, in steps between which others have their turn. However many keys there are, each step is bounded, and loads what it needs.
//!
//! What is walked does not change meanwhile: a snapshot, or what an open transaction sees, with its own writes laid over it. Of that each step is a part of one
//! statement: what was read is noted as it goes, so that a serializable transaction meets the same conflicts as if it had read all at once. Nothing of the
//! transaction is held between two steps; it may be ended by then.

use alloc::vec::Vec;

use lfs::BlockDevice;

use crate::fault::{LoadError, Loaded};
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::transactions::{Ended, OpenTransaction};
use crate::view::Seen;
use crate::{CommitError, DatabaseIndex, Key, Timestamp};

/// What is walked.
#[derive(Clone, Copy)]
pub enum View<'v> {
    /// What this one sees.
    Snapshot(&'v Snapshot),
    /// What a statement of this one sees that begins with the first step: with its own writes. Until the walk is over it has no other statement.
    Open(&'v OpenTransaction),
}

/// A walk through keys of a database.
pub struct Walk<'v> {
    view: View<'v>,
    db: DatabaseIndex,
    /// Where the next step begins; `None` at the end.
    next: Option<Vec<u8>>,
    /// The first key behind what is walked; without one it goes to the last key.
    end: Option<Vec<u8>>,
    has_begun: bool,
    depends_on: Timestamp,
}

/// Why a walk did not get further. It is over then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WalkError {
    /// Others have ended the open transaction.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// What it needs cannot be loaded, or is more than can be remembered.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// What the open transaction has read and written takes more memory than it may, or than all together may. It goes on without.
    #[error(transparent)]
    Refused(CommitError),
}

impl<'v> Walk<'v> {
    /// Of `view`, keys of `db` from `start` on, up to `end`, not included; without one to the last.
    pub fn new(view: View<'v>, db: DatabaseIndex, start: Vec<u8>, end: Option<Vec<u8>>) -> Self {
        Self {
            view,
            db,
            next: Some(start),
            end,
            has_begun: false,
            depends_on: Timestamp(0),
        }
    }

    /// The commit that what was found so far depends on.
    pub fn depends_on(&self) -> Timestamp {
        self.depends_on
    }
}

impl<D: BlockDevice> Store<D> {
    /// Appends the next live keys to `keys`, in order: up to `limit`, which is not 0, and what one step finds, which may be none. What has expired at `now_ms` (Unix
    /// milliseconds) is not alive. Whether there may be more.
    ///
    /// # Errors
    /// See [`WalkError`].
    pub async fn walk_step(
        &self,
        walk: &mut Walk<'_>,
        limit: usize,
        now_ms: i64,
        keys: &mut Vec<Key>,
    ) -> Result<bool, WalkError> {
        let Some(from) = walk.next.take() else {
            return Ok(false);
        };
        let next = match walk.view {
            View::Snapshot(snapshot) => {
                walk.depends_on = snapshot.timestamp();
                self.step_of_snapshot(snapshot, walk, &from, limit, now_ms, keys)
                    .await?
            }
            View::Open(open) => {
                self.step_of_open(open, walk, &from, limit, now_ms, keys)
                    .await?
            }
        };
        walk.next = next;
        Ok(walk.next.is_some())
    }

    async fn step_of_snapshot(
        &self,
        snapshot: &Snapshot,
        walk: &Walk<'_>,
        from: &[u8],
        limit: usize,
        now_ms: i64,
        keys: &mut Vec<Key>,
    ) -> Result<Option<Vec<u8>>, WalkError> {
        let seen = Seen {
            at: snapshot.timestamp(),
            since: None,
        };
        let is_within = |key: &[u8]| walk.end.as_ref().is_none_or(|end| key < &**end);
        let visible = self.visible(seen, walk.db, from, limit).await?;
        let rows = visible.rows.into_iter();
        let live = rows.filter(|(key, row)| is_within(key) && row.is_live_at(now_ms));
        keys.extend(live.map(|(key, _)| key));
        Ok(visible.next.filter(|next| is_within(next)))
    }

    async fn step_of_open(
        &self,
        open: &OpenTransaction,
        walk: &mut Walk<'_>,
        from: &[u8],
        limit: usize,
        now_ms: i64,
        keys: &mut Vec<Key>,
    ) -> Result<Option<Vec<u8>>, WalkError> {
        let (mut loaded, before) = (Loaded::default(), keys.len());
        loop {
            let mut statement = self.resume_at(open, walk.has_begun, now_ms, 0, &mut loaded)?;
            walk.has_begun = true;
            let found = statement.keys_step(walk.db, from, walk.end.as_deref(), limit, keys);
            match (statement.suspend(true), found) {
                (Ok(depends_on), Ok(next)) => {
                    walk.depends_on = walk.depends_on.max(depends_on);
                    return Ok(next.map(|key| key.to_vec()));
                }
                (Err(CommitError::Fault(faults)), _) => self.load_all(faults, &mut loaded).await?,
                (Err(error), _) => return Err(WalkError::Refused(error)),
                // It would have said what is missing: without that, trying again would not end.
                (Ok(_), Err(_)) => return Err(WalkError::Refused(CommitError::Busy)),
            }
            keys.truncate(before);
        }
    }
}
