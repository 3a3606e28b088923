//! Opening: the manifest says which tables there are, the log what came behind them. No table is read.
//!
//! Time and memory are bounded by the replay window: what the log says goes into memtables, of which there are as many as
//! when it was written; with a smaller budget than then it may not fit, and opening is refused before anything is written.
//!
//! Where history is kept, so is what commits of the log overwrote. It is as much as it was when they were made, unless none was kept then or there was more memory: if memtables
//! come to take more than they should, no more of it is kept, and history begins with the last commit. Whatever is left out here, the log still has, until a flush moves the
//! horizon and the floor in one checkpoint: the floor that a manifest says always holds.

use alloc::vec::Vec;

use lfs::{BlockDevice, Recovery};

use crate::engine::apply::{check, slots_end};
use crate::engine::budget::{Budget, Share};
use crate::engine::manifest::{Manifest, Place};
use crate::engine::state::{Engine, memtable_bytes_of};
use crate::store::Options;
use crate::{OpenError, Timestamp};

/// Bytes of commits that are replayed before others get a turn.
const STEP_BYTES: usize = 16 << 10;

/// Reads the manifest and replays the log, to its end or up to a commit: what is in memory then, and up to where runs have all.
pub(crate) async fn replay<D: BlockDevice>(
    recovery: &mut Recovery<D>,
    options: Options,
    up_to: Option<Timestamp>,
) -> Result<(Engine, Timestamp), OpenError> {
    let manifest = read_manifest(recovery).await?;
    let horizon = Timestamp(recovery.horizon().0);
    let oldest = Timestamp(recovery.oldest_state().0);
    let limit = options.open_memory_bytes_max;
    let engine = Engine::new(manifest, horizon, options.hash_seed);
    let memtables_bytes = Budget::new(limit).most(Share::Memtables);
    engine
        .memtable_bytes
        .set(memtable_bytes_of(memtables_bytes));
    engine.set_history(options.history_ms, engine.floor.get());
    let mut last = horizon;
    let (mut bytes, mut snapshots) = (0, 0);
    keep_snapshots(&engine, recovery, &mut snapshots);
    while up_to.is_none_or(|up_to| last < up_to) {
        let Some((number, payload)) = recovery.next_commit().await? else {
            break;
        };
        last = Timestamp(number.0);
        bytes += payload.len();
        check(payload).map_err(|_| OpenError::DamagedCommit(last))?;
        // While there was no room for a flush, memtables may have grown far beyond what is theirs.
        if engine.reserve(payload, limit).is_err() {
            return Err(OpenError::OutOfMemory { limit });
        }
        engine.apply(last, payload);
        if engine.pool.used_bytes() > memtables_bytes {
            engine.keeps_history.set(false);
        }
        let next_slot = engine.next_slot.get().max(slots_end(payload));
        engine.next_slot.set(next_slot);
        engine.freeze_if_full(last);
        // It may have made or deleted one.
        keep_snapshots(&engine, recovery, &mut snapshots);
        if bytes >= STEP_BYTES {
            bytes = 0;
            embassy_futures::yield_now().await;
        }
    }
    engine.last_removal.set(last);
    // That was before.
    engine.written_bytes.set(0);
    engine.set_history(options.history_ms, last);
    engine.forget_behind(last);
    match up_to {
        Some(up_to) if last != up_to || up_to < oldest => {
            while recovery.next_commit().await?.is_some() {}
            let newest = Timestamp(recovery.last_commit().0);
            Err(OpenError::NotRetained { oldest, newest })
        }
        _ => Ok((engine, horizon)),
    }
}

async fn read_manifest<D: BlockDevice>(recovery: &Recovery<D>) -> Result<Manifest, OpenError> {
    let bytes = recovery.manifest();
    if bytes.is_empty() {
        return Ok(Manifest::default());
    }
    let damaged = |_| OpenError::DamagedManifest;
    let manifest = match Place::decode(bytes).map_err(damaged)? {
        Place::Inline(body) => Manifest::decode(body),
        Place::Object(object, len) => {
            let len = usize::try_from(len).map_err(|_| OpenError::DamagedManifest)?;
            let mut body = Vec::new();
            let mut scan = recovery.scan_object(object)?;
            while body.len() <= len && scan.next(recovery.device(), &mut body).await?.is_some() {}
            Manifest::decode(if body.len() == len { &body } else { &[] })
        }
    };
    let manifest = manifest.map_err(|_| OpenError::DamagedManifest)?;
    let tables = manifest.runs.iter().flat_map(|run| &run.tables);
    for table in tables {
        if recovery.object_len_bytes(table.object) != Some(table.bytes) {
            return Err(OpenError::DamagedManifest);
        }
    }
    Ok(manifest)
}

/// Pins what snapshots show, of which there were `count` the last time.
fn keep_snapshots<D: BlockDevice>(engine: &Engine, recovery: &Recovery<D>, count: &mut usize) {
    let commits = recovery.snapshot_commits();
    if commits.len() != core::mem::replace(count, commits.len()) {
        engine.keep_snapshots(commits.map(|commit| Timestamp(commit.0)));
    }
}
