#![allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used)]
mod common;
use std::rc::Rc;
use std::time::{Duration, Instant};
use common::{ID, TestFileSystem, mount};
use lfs::sim::{Executor, SimDisk};
use lfs::{FileKind, FormatOptions, InodeNumber, NewInode, ROOT, Transaction, FileError};
fn timed<T>(best: &std::cell::Cell<Duration>, mut body: impl FnMut(&mut Transaction<'_>) -> Result<T, FileError>) -> impl FnMut(&mut Transaction<'_>) -> Result<T, FileError> {
    move |tx| { let t = Instant::now(); let r = body(tx); best.set(best.get().max(t.elapsed())); r }
}
async fn pieces(fs: &TestFileSystem, inode: InodeNumber, n: u64) {
    for phase in 0..2 {
        let numbers = (0..n).filter(|x| x % 2 == phase).collect::<Vec<_>>();
        for some in numbers.chunks(16) {
            fs.transact(0, |tx| some.iter().try_for_each(|x| tx.files().write(inode, x * 4096, &x.to_le_bytes().repeat(512)))).await.unwrap();
        }
    }
}
#[test]
fn bench() {
    let bytes = 256u64 << 20;
    let disk = SimDisk::new((bytes / 4096) as usize, 1);
    let mut executor = Executor::new(1);
    let (t, o) = (disk.clone(), FormatOptions::for_device_bytes(bytes));
    executor.run(async move { common::key::format(&t, o, ID).await.unwrap() });
    let fs = mount(&mut executor, &disk).unwrap().filesystem;
    executor.run(async move {
        let new = NewInode::new(FileKind::File, 0o644);
        for round in 0..5 {
            let name = format!("f{round}").into_bytes();
            let (inode, _) = fs.transact(0, |tx| tx.files().create(ROOT, &name, &new)).await.unwrap();
            pieces(&fs, inode, 4096).await;
            let c = std::cell::Cell::new(Duration::ZERO);
            fs.read(timed(&c, |tx| tx.files().seek(inode, 0, false))).await.unwrap();
            let seek = c.replace(Duration::ZERO);
            fs.read(timed(&c, |tx| tx.files().read(inode, 0, 1 << 20))).await.unwrap();
            let read = c.replace(Duration::ZERO);
            fs.read(timed(&c, |tx| tx.files().stat(inode))).await.unwrap();
            let stat = c.replace(Duration::ZERO);
            let t = Instant::now();
            fs.transact(0, timed(&c, |tx| tx.files().truncate(inode, 4096))).await.unwrap();
            println!("seek {seek:?} read1M {read:?} stat {stat:?} truncate closure {:?} all {:?}", c.get(), t.elapsed());
        }
        for first in (0..8000).step_by(20) {
            fs.transact(0, |tx| (first..first + 20).try_for_each(|n| tx.files().create(ROOT, format!("name-of-a-file-{n}").as_bytes(), &new).map(drop))).await.unwrap();
        }
        for _ in 0..5 {
            let c = std::cell::Cell::new(Duration::ZERO);
            let l = fs.read(timed(&c, |tx| tx.files().read_dir(ROOT, 0, 4096))).await.unwrap();
            println!("list {} {:?}", l.entries.len(), c.get());
        }
        let _ = Rc::strong_count(&fs);
    });
}
