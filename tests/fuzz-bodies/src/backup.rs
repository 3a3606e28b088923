//! Restoring arbitrary bytes as a backup.
//!
//! Invariants: whatever a stream says, taking it and carrying it out ends, without a panic; a stream is only complete when it ends as
//! one does. What was carried out can be checked, opened and read without a panic, whatever it holds.
//!
//! The input is either the stream itself, or, because checksums catch nearly all of that, what frames with right ones say: of a full backup, or of an incremental
//! one.

use std::rc::Rc;

use kvstore::{Options, RestoreError, Store};
use lfs::sim::{Executor, SimDisk};
use lfs::{
    BackupError, BackupFrame, BackupSection, BackupToken, BackupVerifier, CheckOptions,
    FRAME_HEADER_BYTES, FileSystemId, FormatOptions, encode_frame, frame_bytes,
};

const DISK_BLOCKS: usize = 640;

const OPTIONS: Options = Options {
    memory_bytes_max: 8 << 20,
    open_memory_bytes_max: 16 << 20,
    hash_seed: 1,
    history_ms: 0,
};

/// The body: see the module. Says whether the stream was complete and all of it carried out, for tests that know.
pub fn run(input: &[u8]) -> bool {
    let Some((&kind, rest)) = input.split_first() else {
        return false;
    };
    let _ = BackupToken::from_text(rest);
    let frames = if kind == 0 {
        parse(rest)
    } else {
        Ok(made(rest, kind % 2 == 0))
    };
    let Ok(frames) = frames else { return false };
    restore(frames).is_ok()
}

/// The frames of a whole stream.
fn parse(mut bytes: &[u8]) -> Result<Vec<BackupFrame>, BackupError> {
    let mut verifier = BackupVerifier::default();
    let mut frames = Vec::new();
    while !verifier.is_complete() {
        let header = bytes.first_chunk::<FRAME_HEADER_BYTES>();
        let whole = frame_bytes(header.ok_or(verifier.short())?)?;
        let (frame, rest) = bytes.split_at_checked(whole).ok_or(verifier.short())?;
        frames.push(verifier.accept(frame)?);
        bytes = rest;
    }
    Ok(frames)
}

/// Frames that say what `script` does: a byte for the section, two for the length, and so many bytes.
fn made(mut script: &[u8], is_incremental: bool) -> Vec<BackupFrame> {
    let id = lfs::BackupId {
        lineage: [1; 16],
        at: lfs::CommitNumber(9),
        since: lfs::CommitNumber(if is_incremental { 5 } else { 0 }),
    };
    let mut verifier = BackupVerifier::default();
    let mut frames = Vec::new();
    let mut add = |section, payload: &[u8]| {
        let bytes = encode_frame(
            &id,
            verifier.next(),
            section,
            payload,
            payload.get(..9).unwrap_or_default(),
        );
        // It may not be in order.
        if let Ok(frame) = verifier.accept(&bytes.unwrap_or_default()) {
            frames.push(frame);
        }
    };
    add(BackupSection::Header, b"");
    while let Some((&[section, low, high], rest)) = script.split_first_chunk() {
        let section = match section % 3 {
            0 => BackupSection::Layer,
            1 => BackupSection::Removals,
            _ => BackupSection::Contents,
        };
        let len = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        let (payload, rest) = rest.split_at(len);
        add(section, payload);
        script = rest;
    }
    add(BackupSection::Trailer, b"");
    frames
}

fn restore(frames: Vec<BackupFrame>) -> Result<(), RestoreError> {
    let disk = SimDisk::new(DISK_BLOCKS, 1);
    let (device, mut executor) = (disk.clone(), Executor::new(1));
    let store = Rc::new(executor.run(async move {
        let options = FormatOptions {
            segment_bytes: 32 << 10,
            log_segments: 16,
            created_ns: 0,
        };
        let id = FileSystemId([7; 16]);
        lfs::format_unfinished(&device, options, id)
            .await
            .expect("a disk that works");
        let store = Store::open_unfinished(device, OPTIONS, None).await;
        store.expect("what was just made")
    }));
    let (running, clock) = (Rc::clone(&store), executor.clock());
    executor.spawn(async move { running.run(&clock).await });
    let device = disk.clone();
    let restored = executor.run(async move {
        store.set_restoring(true);
        let mut restored = Ok(());
        for frame in &frames {
            restored = store.restore_frame(frame).await;
            if restored.is_err() {
                break;
            }
        }
        store.shutdown().await.expect("a disk that works");
        lfs::finish_format(&device)
            .await
            .expect("a disk that works");
        restored
    });
    drop(executor);
    let device = disk.snapshot(2);
    Executor::new(2).run(async move {
        let options = CheckOptions {
            data: true,
            ..CheckOptions::default()
        };
        lfs::check(&device, options, &mut |_| ()).await;
        let _ = Store::open(device, OPTIONS).await;
    });
    restored
}
