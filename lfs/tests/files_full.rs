//! A disk that fills up: a clear error to whoever wanted more, deletes go on, and space comes back.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use lfs::sim::{Executor, Random, SimDisk};
use lfs::{FileError, FileKind, FormatOptions, NewInode, ROOT};

const MIB: u64 = 1 << 20;

#[test]
fn a_disk_filled_with_one_file_says_so_and_recovers() {
    let disk = SimDisk::new(16 * 256, 1);
    let mut executor = Executor::new(1);
    let target = disk.clone();
    let options = FormatOptions::for_device_bytes(16 * MIB);
    executor.run(async move {
        common::key::format(&target, options, common::ID)
            .await
            .unwrap();
    });
    let filesystem = common::mount(&mut executor, &disk).unwrap().filesystem;
    executor.run(async move {
        let new = NewInode::new(FileKind::File, 0o644);
        for round in 0..3 {
            let name = b"large";
            let create = filesystem.transact(0, |tx| tx.files().create(ROOT, name, &new));
            let (inode, _) = create.await.unwrap();
            let mut random = Random::new(round);
            let mut offset = 0;
            let error = loop {
                let mut piece = vec![0; 64 << 10];
                for chunk in piece.chunks_exact_mut(8) {
                    chunk.copy_from_slice(&random.next_u64().to_le_bytes());
                }
                let write = filesystem.transact(0, |tx| tx.files().write(inode, offset, &piece));
                match write.await {
                    Ok(_) => offset += piece.len() as u64,
                    Err(error) => break error,
                }
            };
            assert_eq!(error, FileError::NoSpace);
            assert!(offset > 8 * MIB, "round {round}: {offset} bytes fitted");
            let remove = filesystem.transact(0, |tx| tx.files().unlink(ROOT, name));
            remove.await.unwrap();
        }
    });
}
