//! The reader of `examples/dump.rs`, written from SPEC.md alone, and the library see the same in the same images: so
//! SPEC.md says what is on the disk.

use crate::common::images::{Contents, Recipe, contents_at, image};
use crate::common::{mount, seed};
use crate::dump::Reader;
use lfs::FileKind;
use lfs::sim::Executor;

fn read(reader: &Reader, commit: Option<u64>) -> Contents {
    let state = reader.state(commit);
    let kind = |number: u8| {
        [FileKind::File, FileKind::Directory, FileKind::Symlink][usize::from(number) - 1]
    };
    let files = reader.files(&state).unwrap();
    let files = files.into_iter().map(|found| {
        let allocated = reader.inode(&state, found.inode).unwrap().allocated;
        let room = reader.room(&state, found.inode).unwrap();
        assert_eq!(allocated, room, "inode {}", found.inode);
        let content = match kind(found.kind) {
            FileKind::Directory => Vec::new(),
            _ => reader.content(&state, found.inode).unwrap(),
        };
        (found.path, kind(found.kind), content)
    });
    files.collect()
}

#[test]
fn the_reader_written_from_the_spec_sees_what_the_library_sees() {
    let first = seed(400);
    let (mut groups, mut snapshots, mut files) = (0, 0, 0);
    for round in 0..10 {
        let recipe = Recipe {
            segments: 320,
            steps: 80 + 60 * round,
            orderly: round % 2 == 0,
            seed: first + round as u64,
        };
        let (disk, contents) = image(recipe);
        let reader = Reader::open(disk.to_bytes()).unwrap();
        groups += reader.groups;
        assert!(read(&reader, None) == contents, "{recipe:?}");
        files += contents.len();

        let mut executor = Executor::new(0);
        let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
        for info in filesystem.snapshots() {
            snapshots += 1;
            let filesystem = filesystem.clone();
            let commit = info.commit.0;
            assert!(
                reader
                    .snapshots()
                    .contains(&(commit, info.name.clone().into_bytes()))
            );
            let expected =
                executor.run(async move { contents_at(&filesystem, Some(info.id)).await });
            assert!(
                read(&reader, Some(commit)) == expected,
                "{recipe:?}, commit {commit}"
            );
        }
    }
    println!("{files} files, {snapshots} snapshots, {groups} groups");
    assert!(files > 100 && snapshots > 5 && groups > 5);
}
