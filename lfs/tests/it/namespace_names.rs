//! What each rule about names, links and paths comes to, one by one.

use std::collections::BTreeSet;

use lfs::sim::MemoryView;
use lfs::{
    BlockIndex, FileError, FileKind, InodeNumber, ItemKey, ItemKind, LINKS_MAX, Listing, Namespace,
    NewInode, ROOT, RenameFlags, SetAttributes, Structure, View,
};

const PLAIN: RenameFlags = RenameFlags {
    no_replace: false,
    exchange: false,
};
const EXCHANGE: RenameFlags = RenameFlags {
    no_replace: false,
    exchange: true,
};
const NO_REPLACE: RenameFlags = RenameFlags {
    no_replace: true,
    exchange: false,
};

fn view() -> MemoryView {
    let mut view = MemoryView::new(MemoryView::spread);
    Namespace::new(&mut view).create_root(0o755, 0, 0).unwrap();
    view
}

/// Shorter ways to say what most tests need. Paths begin at the root.
trait Shell {
    fn make(&mut self, path: &str, kind: FileKind) -> InodeNumber;
    fn symlink(&mut self, path: &str, target: &str);
    fn at(&mut self, path: &str) -> Result<InodeNumber, FileError>;
    fn mv(&mut self, from: &str, to: &str, flags: RenameFlags) -> Result<(), FileError>;
    fn links(&mut self, path: &str) -> u32;
    fn names(&mut self, path: &str) -> Vec<String>;
}

impl<V: View> Shell for Namespace<'_, V> {
    fn make(&mut self, path: &str, kind: FileKind) -> InodeNumber {
        let (directory, name) = self.resolve_parent(path.as_bytes()).unwrap();
        self.create(directory, name, &NewInode::new(kind, 0o644))
            .unwrap()
    }

    fn symlink(&mut self, path: &str, target: &str) {
        let (directory, name) = self.resolve_parent(path.as_bytes()).unwrap();
        let new = NewInode::symlink(target.as_bytes());
        self.create(directory, name, &new).unwrap();
    }

    fn at(&mut self, path: &str) -> Result<InodeNumber, FileError> {
        self.resolve(path.as_bytes(), true)
    }

    fn mv(&mut self, from: &str, to: &str, flags: RenameFlags) -> Result<(), FileError> {
        let (old, old_name) = self.resolve_parent(from.as_bytes())?;
        let (new, new_name) = self.resolve_parent(to.as_bytes())?;
        self.rename(old, old_name, new, new_name, flags)
    }

    fn links(&mut self, path: &str) -> u32 {
        let inode = self.at(path).unwrap();
        self.stat(inode).unwrap().links
    }

    fn names(&mut self, path: &str) -> Vec<String> {
        let directory = self.at(path).unwrap();
        let entries = self.read_dir(directory, 0, usize::MAX).unwrap().entries;
        let name = |entry: lfs::DirectoryEntry| String::from_utf8(entry.name).unwrap();
        let mut names: Vec<_> = entries.into_iter().map(name).collect();
        names.sort();
        names
    }
}

const DAMAGED: FileError = FileError::Damaged {
    structure: Structure::Item,
    block: BlockIndex(0),
};

#[test]
fn names_are_up_to_255_bytes_of_anything_but_slash_and_nul() {
    let mut view = view();
    let mut files = Namespace::new(&mut view);
    let new = NewInode::new(FileKind::File, 0o600);
    for good in [
        &b"a"[..],
        &[b'x'; 255],
        b"\xFF\xFE",
        b"...",
        b"\n \\",
        "größe".as_bytes(),
    ] {
        let inode = files.create(ROOT, good, &new).unwrap();
        assert_eq!(files.lookup(ROOT, good), Ok(inode));
    }
    for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b"] {
        assert_eq!(files.create(ROOT, bad, &new), Err(FileError::Invalid));
        assert_eq!(files.lookup(ROOT, bad), Err(FileError::Invalid));
        assert_eq!(files.unlink(ROOT, bad), Err(FileError::Invalid));
        assert_eq!(
            files.rename(ROOT, b"a", ROOT, bad, PLAIN),
            Err(FileError::Invalid)
        );
    }
    let long = [b'x'; 256];
    assert_eq!(files.create(ROOT, &long, &new), Err(FileError::NameTooLong));
    assert_eq!(files.resolve(&long, true), Err(FileError::NameTooLong));
}

#[test]
fn a_name_is_taken_once() {
    let mut view = view();
    let mut files = Namespace::new(&mut view);
    let file = files.make("/f", FileKind::File);
    files.make("/d", FileKind::Directory);
    for name in [b"f", b"d"] {
        for kind in [FileKind::File, FileKind::Directory, FileKind::Fifo] {
            let again = files.create(ROOT, name, &NewInode::new(kind, 0));
            assert_eq!(again, Err(FileError::Exists));
        }
        assert_eq!(files.link(file, ROOT, name), Err(FileError::Exists));
    }
}

#[test]
fn what_is_not_a_directory_holds_no_names() {
    let mut view = view();
    let mut files = Namespace::new(&mut view);
    let file = files.make("/f", FileKind::File);
    let new = NewInode::new(FileKind::File, 0);
    let expected = FileError::NotADirectory;
    assert_eq!(files.lookup(file, b"x"), Err(expected.clone()));
    assert_eq!(files.create(file, b"x", &new), Err(expected.clone()));
    assert_eq!(files.read_dir(file, 0, 1), Err(expected.clone()));
    assert_eq!(files.parent(file), Err(expected.clone()));
    assert_eq!(files.at("/f/x"), Err(expected.clone()));
    assert_eq!(files.at("/f/"), Err(expected.clone()));
    assert_eq!(files.at("/f/."), Err(expected.clone()));
    assert_eq!(files.at("/f/.."), Err(expected));
}

#[test]
fn a_directory_counts_itself_its_name_and_the_directories_in_it() {
    let mut view = view();
    let mut files = Namespace::new(&mut view);
    assert_eq!(files.links("/"), 2);
    files.make("/d", FileKind::Directory);
    files.make("/d/e", FileKind::Directory);
    files.make("/d/f", FileKind::File);
    assert_eq!((files.links("/"), files.links("/d")), (3, 3));
    files.mv("/d/e", "/e", PLAIN).unwrap();
    assert_eq!((files.links("/"), files.links("/d")), (4, 2));
    files.mv("/e", "/d/f", EXCHANGE).unwrap();
    assert_eq!((files.links("/"), files.links("/d")), (3, 3));
    files.rmdir(ROOT, b"e").unwrap_err();
    let directory = files.at("/d").unwrap();
    files.rmdir(directory, b"f").unwrap();
    assert_eq!((files.links("/"), files.links("/d")), (3, 2));
}

#[test]
fn unlink_is_not_for_directories_and_rmdir_only_for_empty_ones() {
    let mut view = view();
    let mut files = Namespace::new(&mut view);
    files.make("/d", FileKind::Directory);
    files.make("/d/f", FileKind::File);
    assert_eq!(files.unlink(ROOT, b"d"), Err(FileError::IsADirectory));
    assert_eq!(files.rmdir(ROOT, b"d"), Err(FileError::NotEmpty));
    let directory = files.at("/d").unwrap();
    assert_eq!(files.rmdir(directory, b"f"), Err(FileError::NotADirectory));
    files.unlink(directory, b"f").unwrap();
    files.rmdir(ROOT, b"d").unwrap();
    assert_eq!(files.rmdir(ROOT, b"d"), Err(FileError::NotFound));
}

#[test]
fn a_removed_directory_takes_nothing_and_shows_nothing() {
    let mut view = view();
    let mut files = Namespace::new(&mut view);
    let removed = files.make("/d", FileKind::Directory);
    let file = files.make("/f", FileKind::File);
    files.rmdir(ROOT, b"d").unwrap();
    assert_eq!(files.stat(removed).unwrap().links, 0);
    let new = NewInode::new(FileKind::File, 0);
    assert_eq!(files.create(removed, b"x", &new), Err(FileError::NotFound));
    assert_eq!(files.link(file, removed, b"x"), Err(FileError::NotFound));
    let moved = files.rename(ROOT, b"f", removed, b"x", PLAIN);
    assert_eq!(moved, Err(FileError::NotFound));
    assert_eq!(files.read_dir(removed, 0, 9), Ok(Listing::default()));
    assert_eq!(files.parent(removed), Err(FileError::NotFound));
    assert_eq!(
        files.resolve_from(removed, b"..", true),
        Err(FileError::NotFound)
    );
}

#[test]
fn hard_links_share_the_inode_and_are_not_for_directories() {
    let mut view = view();
    let mut files = Namespace::new(&mut view);
    let file = files.make("/f", FileKind::File);
    let directory = files.make("/d", FileKind::Directory);
    files.link(file, directory, b"g").unwrap();
    assert_eq!(files.at("/d/g"), Ok(file));
    assert_eq!(files.links("/f"), 2);
    assert_eq!(
        files.link(directory, ROOT, b"x"),
        Err(FileError::NotPermitted)
    );
    files.unlink(ROOT, b"f").unwrap();
    assert_eq!(files.links("/d/g"), 1);
    files.unlink(directory, b"g").unwrap();
    assert_eq!(
        files.link(file, ROOT, b"h"),
        Err(FileError::NotFound),
        "no name to link"
    );
}

#[test]
fn links_are_limited_to_65000() {
    let mut view = view();
    let mut files = Namespace::new(&mut view);
    let file = files.make("/f", FileKind::File);
    let directory = files.make("/d", FileKind::Directory);
    for number in 1..LINKS_MAX {
        files
            .link(file, directory, number.to_string().as_bytes())
            .unwrap();
    }
    assert_eq!(files.link(file, ROOT, b"x"), Err(FileError::TooManyLinks));
    assert_eq!(files.stat(file).unwrap().links, LINKS_MAX);
    let parent = files.make("/p", FileKind::Directory);
    let new = NewInode::new(FileKind::Directory, 0);
    for number in 2..LINKS_MAX {
        files
            .create(parent, number.to_string().as_bytes(), &new)
            .unwrap();
    }
    assert_eq!(
        files.create(parent, b"x", &new),
        Err(FileError::TooManyLinks)
    );
    assert_eq!(files.mv("/d", "/p/x", PLAIN), Err(FileError::TooManyLinks));
    files.make("/e", FileKind::Directory);
    files.mv("/e", "/p/2", PLAIN).unwrap();
    files.mv("/p/2", "/p/x", PLAIN).unwrap();
    files.make("/p/file", FileKind::File);
    assert_eq!(
        files.mv("/d", "/p/file", EXCHANGE),
        Err(FileError::TooManyLinks)
    );
    files.mv("/d", "/p/3", EXCHANGE).unwrap();
}

#[test]
fn rename_replaces_a_file_by_a_file_and_an_empty_directory_by_a_directory() {
    let mut view = view();
    let mut files = Namespace::new(&mut view);
    let f = files.make("/f", FileKind::File);
    files.make("/g", FileKind::Fifo);
    files.mv("/f", "/g", PLAIN).unwrap();
    assert_eq!(
        (files.at("/g"), files.at("/f")),
        (Ok(f), Err(FileError::NotFound))
    );
    let d = files.make("/d", FileKind::Directory);
    files.make("/d/x", FileKind::File);
    files.make("/e", FileKind::Directory);
    files.mv("/d", "/e", PLAIN).unwrap();
    assert_eq!(files.at("/e"), Ok(d));
    assert_eq!(files.names("/e"), ["x"]);
    files.make("/d", FileKind::Directory);
    assert_eq!(files.mv("/d", "/e", PLAIN), Err(FileError::NotEmpty));
    assert_eq!(files.mv("/d", "/g", PLAIN), Err(FileError::NotADirectory));
    assert_eq!(files.mv("/g", "/d", PLAIN), Err(FileError::IsADirectory));
    assert_eq!(files.mv("/none", "/d", PLAIN), Err(FileError::NotFound));
}

#[test]
fn renaming_to_the_same_inode_does_nothing() {
    let mut view = view();
    let mut files = Namespace::new(&mut view);
    let file = files.make("/f", FileKind::File);
    files.link(file, ROOT, b"g").unwrap();
    for flags in [PLAIN, EXCHANGE] {
        files.mv("/f", "/f", flags).unwrap();
        files.mv("/f", "/g", flags).unwrap();
    }
    assert_eq!(files.names("/"), ["f", "g"]);
    assert_eq!(files.mv("/f", "/g", NO_REPLACE), Err(FileError::Exists));
}

#[test]
fn a_directory_does_not_move_into_itself() {
    let mut view = view();
    let mut files = Namespace::new(&mut view);
    files.make("/a", FileKind::Directory);
    files.make("/a/b", FileKind::Directory);
    files.make("/a/b/c", FileKind::Directory);
    for to in ["/a/x", "/a/b/x", "/a/b/c/x", "/a/b/c"] {
        assert_eq!(files.mv("/a", to, PLAIN), Err(FileError::Invalid), "{to}");
    }
    assert_eq!(files.mv("/a/b/c", "/a", PLAIN), Err(FileError::NotEmpty));
    assert_eq!(files.mv("/a/b/c", "/a", EXCHANGE), Err(FileError::Invalid));
    assert_eq!(files.mv("/a", "/a/b/c", EXCHANGE), Err(FileError::Invalid));
    files.mv("/a/b", "/b", PLAIN).unwrap();
    files.mv("/a", "/b/c/a", PLAIN).unwrap();
    let b = files.at("/b").unwrap();
    assert_eq!(files.at("/b/c/a/../.."), Ok(b));
}

#[test]
fn exchange_swaps_whatever_two_names_stand_for() {
    let mut view = view();
    let mut files = Namespace::new(&mut view);
    let a = files.make("/a", FileKind::Directory);
    let (d, e) = (
        files.make("/a/d", FileKind::Directory),
        files.make("/e", FileKind::File),
    );
    assert_eq!(
        files.mv("/a/d", "/none", EXCHANGE),
        Err(FileError::NotFound)
    );
    files.mv("/a/d", "/e", EXCHANGE).unwrap();
    assert_eq!((files.at("/e"), files.at("/a/d")), (Ok(d), Ok(e)));
    assert_eq!(files.parent(d), Ok(ROOT));
    files.mv("/a", "/e", EXCHANGE).unwrap();
    assert_eq!((files.at("/e"), files.at("/a")), (Ok(a), Ok(d)));
    let both = RenameFlags {
        no_replace: true,
        exchange: true,
    };
    assert_eq!(files.mv("/a", "/e", both), Err(FileError::Invalid));
}

#[test]
fn parents_that_go_in_a_circle_are_damage() {
    let mut view = view();
    let mut files = Namespace::new(&mut view);
    let a = files.make("/a", FileKind::Directory);
    files.make("/a/b", FileKind::Directory);
    let c = files.make("/a/b/c", FileKind::Directory);
    files.make("/x", FileKind::Directory);
    // /a says that it is in /a/b/c. The parent is the last byte of so small an inode.
    let key = ItemKey::new(a.0, ItemKind::Inode, 0);
    let mut bytes = view.get(key).unwrap().unwrap();
    *bytes.last_mut().unwrap() = u8::try_from(c.0).unwrap();
    view.put(key, bytes);
    let mut files = Namespace::new(&mut view);
    assert_eq!(files.parent(a), Ok(c));
    assert_eq!(files.mv("/x", "/a/b/y", PLAIN), Err(DAMAGED));
}

#[test]
fn a_path_follows_symbolic_links_up_to_forty() {
    let mut view = view();
    let mut files = Namespace::new(&mut view);
    let d = files.make("/d", FileKind::Directory);
    let f = files.make("/d/f", FileKind::File);
    files.symlink("/absolute", "/d");
    files.symlink("/d/relative", "../d/./f");
    files.symlink("/dangling", "none");
    files.symlink("/self", "self");
    assert_eq!(files.at("/absolute/relative"), Ok(f));
    assert_eq!(
        files.at("absolute"),
        Ok(d),
        "a path begins at the root anyway"
    );
    assert_eq!(files.at("/dangling"), Err(FileError::NotFound));
    assert_eq!(files.at("/self"), Err(FileError::LinkLoop));
    let link = files.resolve(b"/absolute", false).unwrap();
    assert_eq!(files.stat(link).unwrap().kind, FileKind::Symlink);
    assert_eq!(files.read_link(link), Ok(b"/d".to_vec()));
    assert_eq!(files.read_link(f), Err(FileError::Invalid));
    files.symlink("/l1", "d/f");
    for number in 2..=41 {
        files.symlink(&format!("/l{number}"), &format!("l{}", number - 1));
    }
    assert_eq!(files.at("/l40"), Ok(f));
    assert_eq!(files.at("/l41"), Err(FileError::LinkLoop));
}

#[test]
fn a_slash_at_the_end_asks_for_a_directory_and_follows_links() {
    let mut view = view();
    let mut files = Namespace::new(&mut view);
    let d = files.make("/d", FileKind::Directory);
    files.make("/f", FileKind::File);
    files.symlink("/to-d", "d");
    files.symlink("/to-f", "f");
    assert_eq!(files.resolve(b"/to-d/", false), Ok(d));
    assert_eq!(
        files.resolve(b"/to-f/", false),
        Err(FileError::NotADirectory)
    );
    assert_eq!(files.resolve_parent(b"//d//"), Ok((ROOT, &b"d"[..])));
    assert_eq!(files.resolve_parent(b"/new/"), Ok((ROOT, &b"new"[..])));
    for path in [&b"/f/"[..], b"/to-d/"] {
        assert_eq!(files.resolve_parent(path), Err(FileError::NotADirectory));
    }
    for path in [&b"/"[..], b"//", b"/d/.", b"/d/..", b"."] {
        assert_eq!(files.resolve_parent(path), Err(FileError::Invalid));
    }
    assert_eq!(files.resolve(b"///", false), Ok(ROOT));
    assert_eq!(files.resolve(b"/../..//d/..", false), Ok(ROOT));
}

#[test]
fn paths_and_targets_are_limited() {
    let mut view = view();
    let mut files = Namespace::new(&mut view);
    let d = files.make("/d", FileKind::Directory);
    let long = [&b"/.".repeat(2046)[..], b"/d"].concat();
    assert_eq!(long.len(), 4094);
    assert_eq!(files.resolve(&[&long[..], b"/"].concat(), true), Ok(d));
    let longer = [&long[..], b"//"].concat();
    assert_eq!(files.resolve(&longer, true), Err(FileError::NameTooLong));
    assert_eq!(files.resolve(b"", true), Err(FileError::NotFound));
    assert_eq!(files.resolve(b"/d\0", true), Err(FileError::Invalid));
    let mut link = |target: &[u8]| files.create(ROOT, b"l", &NewInode::symlink(target));
    assert_eq!(link(b""), Err(FileError::NotFound));
    assert_eq!(link(b"a\0"), Err(FileError::Invalid));
    assert_eq!(link(&[b'x'; 4096]), Err(FileError::NameTooLong));
    let target = [b'/'; 4095];
    let inode = link(&target).unwrap();
    assert_eq!(files.read_link(inode), Ok(target.to_vec()));
    assert_eq!(files.stat(inode).unwrap().size, 4095);
}

#[test]
fn listing_goes_on_behind_a_cookie_while_the_directory_changes() {
    for hash in [MemoryView::spread, MemoryView::colliding] {
        let mut view = MemoryView::new(hash);
        let mut files = Namespace::new(&mut view);
        files.create_root(0o755, 0, 0).unwrap();
        for number in 0..300 {
            files.make(&format!("/{number}"), FileKind::File);
        }
        let mut seen = BTreeSet::new();
        let mut after = Some(0);
        for round in 0.. {
            let Some(cookie) = after else { break };
            let some = files.read_dir(ROOT, cookie, 7).unwrap();
            after = some.next;
            for entry in some.entries {
                assert!(entry.cookie >= 4096 && entry.cookie < 1 << 63);
                let name = String::from_utf8(entry.name).unwrap();
                assert!(seen.insert(name), "listed twice");
            }
            // Odd numbers go and others come; even ones are there all the time.
            if round < 20 {
                let odd = round * 14 + 1;
                files.unlink(ROOT, odd.to_string().as_bytes()).unwrap();
                files.make(&format!("/new{round}"), FileKind::File);
            }
        }
        for number in (0..300).step_by(2) {
            assert!(
                seen.contains(&number.to_string()),
                "{number} was never listed"
            );
        }
    }
}

#[test]
fn a_directory_holds_4096_names_with_the_same_hash() {
    let mut view = MemoryView::new(|_| 7);
    let mut files = Namespace::new(&mut view);
    files.create_root(0o755, 0, 0).unwrap();
    let new = NewInode::new(FileKind::File, 0);
    let name = |number: u32| number.to_string().into_bytes();
    let first = files.create(ROOT, &name(0), &new).unwrap();
    for number in 1..4096 {
        files.link(first, ROOT, &name(number)).unwrap();
    }
    assert_eq!(files.create(ROOT, b"x", &new), Err(FileError::NoSpace));
    assert_eq!(
        files.rename(ROOT, b"0", ROOT, b"x", PLAIN),
        Err(FileError::NoSpace)
    );
    assert_eq!(files.lookup(ROOT, b"x"), Err(FileError::NotFound));
    files.unlink(ROOT, &name(2000)).unwrap();
    assert_eq!(files.lookup(ROOT, &name(4095)), Ok(first));
    files.create(ROOT, b"x", &new).unwrap();
}

/// Which of mtime and ctime an operation changes.
fn changed(
    files: &mut MemoryView,
    inode: InodeNumber,
    operation: impl FnOnce(&mut Namespace<'_, MemoryView>) -> Result<(), FileError>,
) -> (bool, bool) {
    let before = Namespace::new(files).stat(inode).unwrap();
    files.set_now_ns(before.ctime_ns.max(before.mtime_ns) + 1);
    let mut namespace = Namespace::new(files);
    operation(&mut namespace).unwrap();
    let after = namespace.stat(inode).unwrap();
    assert_eq!(after.atime_ns, before.atime_ns);
    assert_eq!(after.btime_ns, before.btime_ns);
    (
        after.mtime_ns != before.mtime_ns,
        after.ctime_ns != before.ctime_ns,
    )
}

#[test]
fn times_change_as_posix_says() {
    const BOTH: (bool, bool) = (true, true);
    const CTIME: (bool, bool) = (false, true);
    const NONE: (bool, bool) = (false, false);
    let mut view = view();
    let mut files = Namespace::new(&mut view);
    let f = files.make("/f", FileKind::File);
    let d = files.make("/d", FileKind::Directory);
    let view = &mut view;
    assert_eq!(changed(view, d, |files| files.link(f, d, b"g")), BOTH);
    assert_eq!(changed(view, f, |files| files.link(f, d, b"h")), CTIME);
    assert_eq!(changed(view, f, |files| files.unlink(d, b"h")), CTIME);
    assert_eq!(changed(view, d, |files| files.unlink(d, b"g")), BOTH);
    assert_eq!(changed(view, f, |files| files.mv("/f", "/g", PLAIN)), CTIME);
    assert_eq!(
        changed(view, ROOT, |files| files.mv("/g", "/f", PLAIN)),
        BOTH
    );
    assert_eq!(changed(view, f, |files| files.write(f, 0, b"x")), BOTH);
    assert_eq!(changed(view, f, |files| files.write(f, 0, b"")), NONE);
    assert_eq!(changed(view, f, |files| files.truncate(f, 1)), BOTH);
    assert_eq!(changed(view, f, |files| files.punch(f, 0, 1)), BOTH);
    assert_eq!(
        changed(view, f, |files| files.read(f, 0, 1).map(drop)),
        NONE
    );
    assert_eq!(
        changed(view, d, |files| files.read_dir(d, 0, 1).map(drop)),
        NONE
    );
    let mode = SetAttributes {
        mode: Some(0o600),
        ..SetAttributes::default()
    };
    assert_eq!(
        changed(view, f, |files| files.set_attributes(f, &mode)),
        CTIME
    );
    let nothing = SetAttributes::default();
    assert_eq!(
        changed(view, f, |files| files.set_attributes(f, &nothing)),
        NONE
    );
    let set = |files: &mut Namespace<'_, MemoryView>| {
        files.set_xattr(f, b"user.a", b"1", lfs::XattrMode::Any)
    };
    assert_eq!(changed(view, f, set), CTIME);
    assert_eq!(
        changed(view, f, |files| files.remove_xattr(f, b"user.a")),
        CTIME
    );
    assert_eq!(changed(view, d, |files| files.rmdir(ROOT, b"d")), CTIME);
}

/// Reclaims until nothing is left to.
fn reclaim(files: &mut Namespace<'_, MemoryView>) {
    loop {
        let orphans = files.orphans(0, 10).unwrap();
        if orphans.is_empty() {
            return;
        }
        for orphan in orphans {
            files.reclaim_orphan(orphan.id, 1 << 20).unwrap();
        }
    }
}

#[test]
fn a_tree_of_any_depth_is_removed_at_once_and_freed_bit_by_bit() {
    let mut view = view();
    let mut files = Namespace::new(&mut view);
    let outside = files.make("/outside", FileKind::File);
    let top = files.make("/top", FileKind::Directory);
    let mut here = top;
    let directory = NewInode::new(FileKind::Directory, 0o755);
    for number in 0..20_000_u32 {
        files.link(outside, here, b"link").unwrap();
        let file = files
            .create(here, b"file", &NewInode::new(FileKind::File, 0))
            .unwrap();
        files.write(file, 0, &number.to_le_bytes()).unwrap();
        here = files.create(here, b"next", &directory).unwrap();
    }
    let before = view.accesses();
    let mut files = Namespace::new(&mut view);
    files.remove_tree(ROOT, b"top").unwrap();
    assert!(view.accesses() - before < 20, "one step");
    let mut files = Namespace::new(&mut view);
    assert_eq!(files.names("/"), ["outside"]);
    assert_eq!(files.read_dir(top, 0, 10), Ok(Listing::default()));
    let moved = files.rename(ROOT, b"outside", here, b"x", PLAIN);
    assert_eq!(moved, Err(FileError::NotFound), "it would be lost there");
    reclaim(&mut files);
    assert_eq!(files.stat(outside).unwrap().links, 1);
    let left = view
        .items()
        .keys()
        .filter(|key| key.kind == ItemKind::Inode);
    assert_eq!(left.count(), 2, "the root and what is outside");
    assert_eq!(view.objects().count(), 0);
}

#[test]
fn remove_some_takes_at_most_its_budget_of_names_away() {
    let mut view = view();
    let mut files = Namespace::new(&mut view);
    files.make("/d", FileKind::Directory);
    for number in 0..10 {
        files.make(&format!("/d/{number}"), FileKind::Directory);
        files.make(&format!("/d/{number}/f"), FileKind::File);
    }
    let mut calls = 1;
    while !files.remove_some(ROOT, b"d", 4).unwrap() {
        calls += 1;
    }
    assert_eq!(calls, 6, "21 names");
    assert_eq!(files.names("/"), Vec::<String>::new());
    assert_eq!(files.remove_some(ROOT, b"d", 4), Err(FileError::NotFound));
}

#[test]
fn any_change_of_a_byte_is_reported_or_does_no_harm() {
    let mut view = view();
    let mut files = Namespace::new(&mut view);
    files.make("/d", FileKind::Directory);
    let f = files.make("/d/f", FileKind::File);
    files.write(f, 0, &vec![1; 100_000]).unwrap();
    files
        .set_xattr(f, b"user.a", &[2; 3000], lfs::XattrMode::Any)
        .unwrap();
    files
        .set_xattr(f, b"user.b", b"small", lfs::XattrMode::Any)
        .unwrap();
    files.symlink("/l", "d/f");
    let gone = files.make("/gone", FileKind::File);
    files.write(gone, 0, &vec![1; 100_000]).unwrap();
    files.unlink(ROOT, b"gone").unwrap();
    let mut reported = 0;
    for (key, bytes) in view.items().clone() {
        for place in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = view.clone();
                damaged.allow_damage();
                let mut bytes = bytes.clone();
                bytes[place] ^= 1 << bit;
                damaged.put(key, bytes);
                reported += u32::from(walk(&mut damaged).is_err());
            }
        }
    }
    assert!(reported > 100, "{reported}");
}

/// Does a bit of everything; no step may panic or go on for ever.
fn walk(view: &mut MemoryView) -> Result<(), FileError> {
    let mut files = Namespace::with_small_limits(view);
    let mut first = Ok(());
    let mut note = |result: Result<(), FileError>| {
        if first.is_ok() {
            first = result;
        }
    };
    for path in ["/d/f", "/l", "/d"] {
        match files.resolve(path.as_bytes(), true) {
            Ok(inode) => {
                note(files.stat(inode).map(drop));
                note(files.list_xattrs(inode).map(drop));
                note(files.get_xattr(inode, b"user.a").map(drop));
                note(files.read_dir(inode, 0, 100).map(drop));
            }
            Err(error) => note(Err(error)),
        }
    }
    note(files.mv("/d", "/e", PLAIN));
    note(files.mv("/l", "/e/l", PLAIN));
    note(files.remove_some(ROOT, b"e", 2).map(drop));
    note(files.remove_tree(ROOT, b"e"));
    for _ in 0..100 {
        match files.orphans(0, 100) {
            Ok(orphans) => {
                for orphan in orphans {
                    note(files.reclaim_orphan(orphan.id, 1 << 16).map(drop));
                }
            }
            Err(error) => note(Err(error)),
        }
    }
    first
}
