//! The bytes of items are those of `SPEC.md`, whatever the code says.

use lfs::sim::MemoryView;
use lfs::{FileKind, ItemKey, ItemKind, Namespace, NewInode, ROOT, SetAttributes, View, XattrMode};

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}

#[test]
fn items_are_as_documented() {
    let mut view = MemoryView::new(|name| (name.len() as u64) << 13);
    view.set_now_ns(0x0102_0304);
    let mut files = Namespace::with_small_limits(&mut view);
    files.create_root(0o755, 1, 300).unwrap();
    let file = NewInode {
        uid: 5,
        gid: 6,
        ..NewInode::new(FileKind::File, 0o644)
    };
    let file = files.create(ROOT, b"ab", &file).unwrap();
    let device = NewInode {
        device: 0x0801,
        ..NewInode::new(FileKind::BlockDevice, 0o600)
    };
    files.create(ROOT, b"cd", &device).unwrap();
    files
        .set_xattr(file, b"x", b"small", XattrMode::Any)
        .unwrap();
    files
        .set_xattr(file, b"y", &[7; 1200], XattrMode::Any)
        .unwrap();
    files.write(file, 0, &[1; 16_384]).unwrap();
    files.truncate(file, 0).unwrap();
    files.write(file, 0, &[1; 16_384]).unwrap();
    files.truncate(file, 1).unwrap();
    let times = SetAttributes {
        atime_ns: Some(0x0102_0304 - 2),
        mtime_ns: Some(0x0102_0304 + 3),
        ..SetAttributes::default()
    };
    files.set_attributes(file, &times).unwrap();
    files.link(file, ROOT, b"e").unwrap();
    files.unlink(ROOT, b"cd").unwrap();
    let orphan = |number| ItemKey::new(0, ItemKind::Orphan, number);
    let inode = |number| ItemKey::new(number, ItemKind::Inode, 0);
    let named = |object, kind, position| ItemKey::new(object, kind, position);
    let expected = [
        // File 2 has cuts; device 3 has no name; object 5 is free up to 0 of what was file 2's data.
        (orphan(2), "03"),
        (orphan(3), "01"),
        (orphan(5), "04 02 808001 00"),
        // The root: mode 0o755, user 1, group 300, 2 links, 2 entries, in itself.
        (
            inode(1),
            "01 02 00 ed03 01 ac02 02 02 0403020100000000 00 00 00 01",
        ),
        (named(1, ItemKind::Entry, 0x1000), "01 65 01 02"),
        (named(1, ItemKind::Entry, 0x2000), "02 6162 01 02"),
        // File 2: data in object 6, two names of attributes, cut from 1 to 16,384, which still take 16,384 bytes.
        (
            inode(2),
            "01 01 1e a403 05 06 02 01 0403020100000000 06 05 03 06 04 01 01 ff7f 808001",
        ),
        (named(2, ItemKind::Attribute, 0x1000), "01 78 01 736d616c6c"),
        (named(2, ItemKind::Attribute, 0x1001), "01 79 02 04 b009"),
        // Device 3: 0o600, no links, number 0x801.
        (
            inode(3),
            "01 07 01 8003 00 00 00 00 0403020100000000 00 00 00 8110",
        ),
    ];
    let found: Vec<_> = view
        .items()
        .iter()
        .map(|(&key, value)| (key, hex(value)))
        .collect();
    let expected: Vec<_> = expected
        .map(|(key, bytes)| (key, bytes.replace(' ', "")))
        .into();
    assert_eq!(found, expected);
    let mut value = [0; 1200];
    view.read_data(4, 1200, 0, &mut value).unwrap();
    assert_eq!(value, [7; 1200], "the value of attribute y");
}
