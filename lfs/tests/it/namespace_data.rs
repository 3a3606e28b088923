//! What each rule about content, extended attributes and orphans comes to, one by one.

use lfs::sim::MemoryView;
use lfs::{
    FILE_BYTES_MAX, FileError, FileKind, InodeNumber, ItemKind, Namespace, NewInode, ROOT,
    SetAttributes, Sought, XattrMode,
};

const MIB: u64 = 1 << 20;

/// A file system with one file, `f`.
fn view() -> (MemoryView, InodeNumber) {
    let mut view = MemoryView::new(MemoryView::spread);
    let mut files = Namespace::new(&mut view);
    files.create_root(0o755, 0, 0).unwrap();
    let new = NewInode::new(FileKind::File, 0o644);
    let file = files.create(ROOT, b"f", &new).unwrap();
    (view, file)
}

/// The same with so many MiB in it, none of them zeros.
fn filled(mib: u64) -> (MemoryView, InodeNumber) {
    let (mut view, file) = view();
    let mut files = Namespace::new(&mut view);
    for number in 0..mib {
        let byte = u8::try_from(number % 250 + 1).unwrap();
        files
            .write(file, number * MIB, &vec![byte; MIB.try_into().unwrap()])
            .unwrap();
    }
    (view, file)
}

fn size(view: &mut MemoryView, file: InodeNumber) -> u64 {
    Namespace::new(view).stat(file).unwrap().size
}

fn byte_at(view: &mut MemoryView, file: InodeNumber, offset: u64) -> u8 {
    Namespace::new(view).read(file, offset, 1).unwrap()[0]
}

/// Reclaims in steps of so much; returns how many there were and the most blocks that one freed.
fn reclaim(view: &mut MemoryView, budget: u64) -> (u64, u64) {
    let (mut steps, mut most) = (0, 0);
    while let Some(orphan) = Namespace::new(view).orphans(0, 1).unwrap().pop() {
        let before = view.blocks_freed();
        Namespace::new(view)
            .reclaim_orphan(orphan.id, budget)
            .unwrap();
        most = most.max(view.blocks_freed() - before);
        steps += 1;
    }
    (steps, most)
}

#[test]
fn reading_ends_at_the_end_of_the_file() {
    let (mut view, file) = view();
    let mut files = Namespace::new(&mut view);
    files.write(file, 0, b"hello").unwrap();
    assert_eq!(files.read(file, 0, 100), Ok(b"hello".to_vec()));
    assert_eq!(files.read(file, 3, usize::MAX), Ok(b"lo".to_vec()));
    assert_eq!(files.read(file, 5, 1), Ok(vec![]));
    assert_eq!(files.read(file, u64::MAX, 1), Ok(vec![]));
}

#[test]
fn what_was_never_written_reads_as_zeros_and_takes_no_space() {
    let (mut view, file) = view();
    let mut files = Namespace::new(&mut view);
    files.write(file, FILE_BYTES_MAX - 1, b"x").unwrap();
    let stat = files.stat(file).unwrap();
    assert_eq!((stat.size, stat.allocated_bytes), (FILE_BYTES_MAX, 4096));
    assert_eq!(files.read(file, 1 << 40, 3), Ok(vec![0; 3]));
    let last = (FILE_BYTES_MAX - 1) / 4096 * 4096;
    assert_eq!(files.seek(file, 0, true), Ok(Sought::At(last)));
    assert_eq!(files.seek(file, 0, false), Ok(Sought::At(0)));
    assert_eq!(
        files.seek(file, last, false),
        Ok(Sought::At(FILE_BYTES_MAX))
    );
    assert_eq!(files.seek(file, FILE_BYTES_MAX, false), Ok(Sought::Nowhere));
}

#[test]
fn what_a_truncation_cut_off_does_not_come_back() {
    let (mut view, file) = view();
    let mut files = Namespace::new(&mut view);
    files.write(file, 0, &[7; 10_000]).unwrap();
    files.truncate(file, 100).unwrap();
    files.truncate(file, 10_000).unwrap();
    let bytes = files.read(file, 0, 10_000).unwrap();
    assert!(bytes[..100].iter().all(|&byte| byte == 7));
    assert!(bytes[100..].iter().all(|&byte| byte == 0));
    assert_eq!(files.stat(file).unwrap().allocated_bytes, 4096);
}

#[test]
fn a_file_is_at_most_2_to_the_63_minus_1_bytes() {
    let (mut view, file) = view();
    let mut files = Namespace::new(&mut view);
    let too_large = Err(FileError::FileTooLarge);
    assert_eq!(files.write(file, FILE_BYTES_MAX, b"x"), too_large);
    assert_eq!(files.write(file, u64::MAX, b"x"), too_large);
    assert_eq!(files.truncate(file, FILE_BYTES_MAX + 1), too_large);
    assert_eq!(files.allocate(file, FILE_BYTES_MAX, 1, false), too_large);
    assert_eq!(files.punch(file, u64::MAX, 2), too_large);
    files.truncate(file, FILE_BYTES_MAX).unwrap();
    assert_eq!(files.punch(file, 0, 0), Err(FileError::Invalid));
    assert_eq!(files.allocate(file, 0, 0, true), Err(FileError::Invalid));
}

#[test]
fn only_regular_files_have_content() {
    let (mut view, _) = view();
    let mut files = Namespace::new(&mut view);
    let fifo = NewInode::new(FileKind::Fifo, 0o600);
    let fifo = files.create(ROOT, b"fifo", &fifo).unwrap();
    let link = files.create(ROOT, b"l", &NewInode::symlink(b"f")).unwrap();
    let size = SetAttributes {
        size: Some(0),
        ..SetAttributes::default()
    };
    for (inode, expected) in [
        (fifo, FileError::Invalid),
        (link, FileError::Invalid),
        (ROOT, FileError::IsADirectory),
        (InodeNumber(999), FileError::NotFound),
    ] {
        assert_eq!(files.read(inode, 0, 1), Err(expected.clone()));
        assert_eq!(files.write(inode, 0, b"x"), Err(expected.clone()));
        assert_eq!(files.truncate(inode, 0), Err(expected.clone()));
        assert_eq!(files.set_attributes(inode, &size), Err(expected.clone()));
        assert_eq!(files.seek(inode, 0, true), Err(expected));
    }
}

#[test]
fn truncating_a_large_file_to_nothing_is_a_small_step() {
    let (mut view, file) = filled(40);
    let before = view.accesses();
    Namespace::new(&mut view).truncate(file, 0).unwrap();
    assert!(view.accesses() - before < 100);
    assert_eq!(view.blocks_freed(), 0);
    let mut files = Namespace::new(&mut view);
    assert_eq!(files.stat(file).unwrap().allocated_bytes, 0);
    files.write(file, 30 * MIB, b"new").unwrap();
    assert_eq!(byte_at(&mut view, file, 5 * MIB), 0);
    let (steps, most) = reclaim(&mut view, MIB);
    assert!(
        steps >= 40 && most <= 256,
        "{steps} steps, {most} blocks at most"
    );
    assert_eq!(view.objects().map(|(_, bytes)| bytes).sum::<u64>(), 4096);
    assert_eq!(byte_at(&mut view, file, 30 * MIB), b'n');
}

#[test]
fn truncating_a_large_file_in_the_middle_is_a_small_step_and_takes_effect_at_once() {
    let (mut view, file) = filled(60);
    let middle = 10 * MIB + 100;
    Namespace::new(&mut view).truncate(file, middle).unwrap();
    assert_eq!(view.blocks_freed(), 0);
    assert_eq!(size(&mut view, file), middle);
    let mut files = Namespace::new(&mut view);
    files.truncate(file, 60 * MIB).unwrap();
    assert_eq!(files.seek(file, middle, true), Ok(Sought::Nowhere));
    assert_eq!(files.seek(file, 20 * MIB, true), Ok(Sought::Nowhere));
    assert_eq!(files.seek(file, 0, false), Ok(Sought::At(middle)));
    assert!(
        files
            .read(file, middle, 60 << 20)
            .unwrap()
            .iter()
            .all(|&byte| byte == 0)
    );
    // A write into what was cut off keeps its neighbourhood zero, now and when the rest is freed.
    files.write(file, 30 * MIB + 50, b"island").unwrap();
    let expected = [&[0; 50][..], b"island", &[0; 50]].concat();
    for _ in 0..2 {
        let mut files = Namespace::new(&mut view);
        assert_eq!(files.read(file, 30 * MIB, 106), Ok(expected.clone()));
        let data = files.seek(file, 20 * MIB, true).unwrap();
        let Sought::At(data) = data else {
            panic!("{data:?}");
        };
        assert!((30 * MIB..=30 * MIB + 50).contains(&data));
        let (_, most) = reclaim(&mut view, MIB);
        assert!(most <= 256 + 2, "{most} blocks at most");
    }
    assert_eq!(byte_at(&mut view, file, middle - 1), 11);
    let stored = Namespace::new(&mut view)
        .stat(file)
        .unwrap()
        .allocated_bytes;
    assert_eq!(stored, 10 * MIB + 2 * 4096);
}

#[test]
fn a_small_truncation_after_a_large_one_stays_small() {
    let (mut view, file) = filled(40);
    Namespace::new(&mut view).truncate(file, 10 * MIB).unwrap();
    Namespace::new(&mut view).truncate(file, 9 * MIB).unwrap();
    assert!(view.blocks_freed() <= 256, "{}", view.blocks_freed());
    Namespace::new(&mut view).truncate(file, 40 * MIB).unwrap();
    for place in [9 * MIB, 10 * MIB, 39 * MIB] {
        assert_eq!(byte_at(&mut view, file, place), 0);
    }
    reclaim(&mut view, MIB);
    let stored = Namespace::new(&mut view)
        .stat(file)
        .unwrap()
        .allocated_bytes;
    assert_eq!(stored, 9 * MIB);
}

#[test]
fn a_large_hole_is_a_small_step_and_keeps_the_size() {
    let (mut view, file) = filled(40);
    Namespace::new(&mut view)
        .punch(file, MIB / 2, 38 * MIB)
        .unwrap();
    assert_eq!(view.blocks_freed(), 0);
    for _ in 0..2 {
        assert_eq!(size(&mut view, file), 40 * MIB);
        assert_eq!(byte_at(&mut view, file, MIB / 2 - 1), 1);
        assert_eq!(byte_at(&mut view, file, MIB / 2), 0);
        assert_eq!(byte_at(&mut view, file, 38 * MIB), 0);
        assert_eq!(byte_at(&mut view, file, 39 * MIB), 40);
        reclaim(&mut view, MIB);
    }
}

#[test]
fn writing_all_over_a_large_cut_asks_for_it_to_be_freed_first() {
    let (mut view, file) = filled(50);
    // More than 32 ranges with 16 MiB of data each would be half a GiB: let few blocks count as much.
    let mut files = Namespace::with_small_limits(&mut view);
    files.truncate(file, MIB).unwrap();
    files.truncate(file, 50 * MIB).unwrap();
    let mut places = (1..50).map(|number| number * MIB + 7);
    let refused = places.find(|&place| files.write(file, place, b"x").is_err());
    let refused = refused.unwrap();
    assert_eq!(
        refused,
        33 * MIB + 7,
        "32 ranges, the first write makes two of one"
    );
    assert_eq!(
        files.write(file, refused, b"x"),
        Err(FileError::TransactionTooLarge)
    );
    while !files.free_cuts(file, MIB).unwrap() {}
    files.write(file, refused, b"x").unwrap();
    for number in 2..33 {
        assert_eq!(byte_at(&mut view, file, number * MIB + 7), b'x');
        assert_eq!(byte_at(&mut view, file, number * MIB + 8), 0);
    }
}

#[test]
fn what_is_unlinked_stays_until_it_is_reclaimed() {
    let (mut view, file) = filled(3);
    let mut files = Namespace::new(&mut view);
    files
        .set_xattr(file, b"user.a", &[1; 5000], XattrMode::Any)
        .unwrap();
    files.unlink(ROOT, b"f").unwrap();
    assert_eq!(files.stat(file).unwrap().links, 0);
    files.write(file, 0, b"still").unwrap();
    assert_eq!(files.read(file, 0, 5), Ok(b"still".to_vec()));
    let orphans = files.orphans(0, 10).unwrap();
    assert_eq!(orphans.len(), 1);
    assert_eq!((orphans[0].id, orphans[0].nameless), (file.0, Some(file)));
    let (steps, most) = reclaim(&mut view, MIB / 2);
    assert!(
        steps >= 6 && most <= 256,
        "{steps} steps, {most} blocks at most"
    );
    let left: Vec<_> = view.items().keys().map(|key| key.kind).collect();
    assert_eq!(left, [ItemKind::Inode], "the root");
    assert_eq!(view.objects().count(), 0);
    let mut files = Namespace::new(&mut view);
    assert_eq!(files.reclaim_orphan(file.0, 1), Ok(true), "it is not there");
    assert_eq!(files.stat(file), Err(FileError::NotFound));
}

#[test]
fn what_was_cut_and_then_unlinked_is_freed_in_small_steps_from_its_start() {
    let (mut view, file) = filled(60);
    let mut files = Namespace::new(&mut view);
    files.truncate(file, 40 * MIB).unwrap();
    files.unlink(ROOT, b"f").unwrap();
    let (_, most) = reclaim(&mut view, MIB);
    assert!(most <= 256, "{most} blocks at most");
    assert_eq!((view.objects().count(), view.items().len()), (0, 1));
}

#[test]
fn a_sparse_giant_is_reclaimed_in_few_steps() {
    let (mut view, file) = view();
    let mut files = Namespace::new(&mut view);
    for place in 0..10 {
        files.write(file, place << 58, b"x").unwrap();
    }
    files.unlink(ROOT, b"f").unwrap();
    let before = view.accesses();
    let (steps, _) = reclaim(&mut view, MIB);
    assert!(steps <= 4 && view.accesses() - before < 100);
}

#[test]
fn an_open_file_that_was_cut_and_unlinked_is_freed_as_a_whole() {
    let (mut view, file) = filled(40);
    let mut files = Namespace::new(&mut view);
    files.truncate(file, MIB).unwrap();
    files.unlink(ROOT, b"f").unwrap();
    files.truncate(file, 20 * MIB).unwrap();
    assert_eq!(files.orphans(0, 10).unwrap()[0].nameless, Some(file));
    files.truncate(file, 0).unwrap();
    assert_eq!(files.read(file, 0, 1), Ok(vec![]));
    reclaim(&mut view, MIB);
    assert_eq!((view.objects().count(), view.items().len()), (0, 1));
}

#[test]
fn attributes_are_set_created_and_replaced() {
    let (mut view, file) = view();
    let mut files = Namespace::new(&mut view);
    let name = b"user.a";
    let replace = files.set_xattr(file, name, b"1", XattrMode::Replace);
    assert_eq!(replace, Err(FileError::NoAttribute));
    files
        .set_xattr(file, name, b"1", XattrMode::Create)
        .unwrap();
    let create = files.set_xattr(file, name, b"2", XattrMode::Create);
    assert_eq!(create, Err(FileError::Exists));
    files
        .set_xattr(file, name, b"3", XattrMode::Replace)
        .unwrap();
    assert_eq!(files.get_xattr(file, name), Ok(b"3".to_vec()));
    files.set_xattr(file, name, b"", XattrMode::Any).unwrap();
    assert_eq!(files.get_xattr(file, name), Ok(vec![]));
    files.remove_xattr(file, name).unwrap();
    assert_eq!(files.get_xattr(file, name), Err(FileError::NoAttribute));
    assert_eq!(files.remove_xattr(file, name), Err(FileError::NoAttribute));
}

#[test]
fn attributes_of_any_size_up_to_64_kib_leave_nothing_behind() {
    let (mut view, file) = view();
    for size in [0, 1, 1191, 1192, 1193, 1200, 4096, 65_535, 65_536] {
        let value: Vec<u8> = (0..size)
            .map(|at: u32| (at % 251).to_le_bytes()[0])
            .collect();
        let mut files = Namespace::new(&mut view);
        files
            .set_xattr(file, b"user.a", &value, XattrMode::Any)
            .unwrap();
        assert_eq!(files.get_xattr(file, b"user.a"), Ok(value));
        let objects = view.objects().count();
        assert_eq!(objects, usize::from(size > 1192), "{size}");
    }
    let mut files = Namespace::new(&mut view);
    let too_large = files.set_xattr(file, b"user.a", &vec![0; 65_537], XattrMode::Any);
    assert_eq!(too_large, Err(FileError::AttributeTooLarge));
    files.remove_xattr(file, b"user.a").unwrap();
    assert_eq!(view.objects().count(), 0);
}

#[test]
fn names_of_attributes_are_limited_each_and_together() {
    let (mut view, file) = view();
    let mut files = Namespace::new(&mut view);
    let mut set = |name: &[u8]| files.set_xattr(file, name, b"v", XattrMode::Any);
    assert_eq!(set(b""), Err(FileError::Invalid));
    assert_eq!(set(b"a\0"), Err(FileError::Invalid));
    assert_eq!(set(&[b'x'; 256]), Err(FileError::AttributeTooLarge));
    for number in 0..256 {
        set(format!("{number:0255}").as_bytes()).unwrap();
    }
    assert_eq!(set(b"x"), Err(FileError::NoSpace));
    set(format!("{:0255}", 5).as_bytes()).unwrap();
    assert_eq!(files.list_xattrs(file).unwrap().len(), 256);
    files
        .remove_xattr(file, format!("{:0255}", 7).as_bytes())
        .unwrap();
    files
        .set_xattr(file, b"x", b"v", XattrMode::Create)
        .unwrap();
    assert!(files.list_xattrs(file).unwrap().contains(&b"x".to_vec()));
}

#[test]
fn every_kind_of_inode_has_attributes() {
    let (mut view, _) = view();
    let mut files = Namespace::new(&mut view);
    let link = files
        .create(ROOT, b"l", &NewInode::symlink(b"none"))
        .unwrap();
    for inode in [ROOT, link] {
        files
            .set_xattr(inode, b"trusted.a", b"1", XattrMode::Any)
            .unwrap();
        assert_eq!(files.list_xattrs(inode), Ok(vec![b"trusted.a".to_vec()]));
    }
}
