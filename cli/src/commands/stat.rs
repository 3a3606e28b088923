//! `siltstone stat`, and how anything about a file is written.

use lfs::{FileKind, Stat};
use serde_json::{Map, Value};

use crate::arguments::Stat as Arguments;
use crate::clock::iso8601;
use crate::error::{About as _, Error, Outcome, complain};
use crate::image::{Tree, reading};
use crate::location::ImagePath;
use crate::output::{Output, hexadecimal, human, put_text};

/// What there is to tell.
struct Told {
    stat: Stat,
    target: Option<Vec<u8>>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

pub(crate) async fn stat(arguments: Arguments) -> Outcome<()> {
    reading(&arguments.image.name, async |_, tree| {
        let mut output = Output::new();
        let mut failed = false;
        for path in &arguments.paths {
            match look(tree, path, arguments.dereference).await {
                Ok(told) if arguments.json => output.json(full_object(path, &told))?,
                Ok(told) => print(&mut output, path, &told)?,
                Err(error) => {
                    output.finish()?;
                    complain(error.message().unwrap_or_default());
                    failed = true;
                }
            }
        }
        output.finish()?;
        if failed { Err(Error::Reported) } else { Ok(()) }
    })
    .await
}

async fn look(tree: &Tree, path: &ImagePath, follow: bool) -> Outcome<Told> {
    tree.read(|tx| {
        let inode = tx.files().resolve(path.bytes(), follow)?;
        let stat = tx.files().stat(inode)?;
        let target = match stat.kind {
            FileKind::Symlink => Some(tx.files().read_link(inode)?),
            _ => None,
        };
        let names = tx.files().list_xattrs(inode)?;
        let attributes = names
            .into_iter()
            .map(|name| {
                let value = tx.files().get_xattr(inode, &name)?;
                Ok((name, value))
            })
            .collect::<Result<_, lfs::FileError>>()?;
        Ok(Told {
            stat,
            target,
            attributes,
        })
    })
    .await
    .about(path)
}

fn print(output: &mut Output, path: &ImagePath, told: &Told) -> Outcome<()> {
    let stat = &told.stat;
    output.text(format_args!("path:      "))?;
    output.name(path.bytes())?;
    if let Some(target) = &told.target {
        output.text(format_args!(" -> "))?;
        output.name(target)?;
    }
    output.text(format_args!("\nkind:      {}\n", stat.kind.name()))?;
    match stat.kind {
        FileKind::CharDevice | FileKind::BlockDevice => {
            let (major, minor) = device_numbers(stat.device);
            output.text(format_args!("device:    {major}, {minor}\n"))?;
        }
        FileKind::Directory => output.text(format_args!("entries:   {}\n", stat.size))?,
        _ => {
            let people = human(stat.size);
            output.text(format_args!("size:      {} ({people})\n", stat.size))?;
        }
    }
    output.text(format_args!(
        "allocated: {} ({})\ninode:     {}\nlinks:     {}\nmode:      {:04o} ({})\nowner:     {}:{}\n\
         accessed:  {}\nmodified:  {}\nchanged:   {}\ncreated:   {}\n",
        stat.allocated_bytes,
        human(stat.allocated_bytes),
        stat.inode.0,
        stat.links,
        stat.mode,
        mode_text(stat),
        stat.uid,
        stat.gid,
        iso8601(stat.atime_ns),
        iso8601(stat.mtime_ns),
        iso8601(stat.ctime_ns),
        iso8601(stat.btime_ns),
    ))?;
    for (name, value) in &told.attributes {
        output.text(format_args!("attribute: "))?;
        output.name(name)?;
        output.text(format_args!(" = "))?;
        output.name(value)?;
        output.text(format_args!("\n"))?;
    }
    Ok(())
}

/// What `ls` and `stat` tell of a file in JSON.
pub(crate) fn object_of(
    path: &ImagePath,
    stat: &Stat,
    target: Option<&[u8]>,
) -> Map<String, Value> {
    let mut object = Map::new();
    put_text(&mut object, "path", path.bytes());
    if let Some(target) = target {
        put_text(&mut object, "target", target);
    }
    let mut put = |key: &str, value: Value| {
        object.insert(key.to_owned(), value);
    };
    put("kind", stat.kind.name().into());
    put("inode", stat.inode.0.into());
    put("mode", format!("{:04o}", stat.mode).into());
    put("uid", stat.uid.into());
    put("gid", stat.gid.into());
    put("links", stat.links.into());
    put("size_bytes", stat.size.into());
    put("allocated_bytes", stat.allocated_bytes.into());
    put("accessed_ns", stat.atime_ns.into());
    put("modified_ns", stat.mtime_ns.into());
    put("changed_ns", stat.ctime_ns.into());
    put("created_ns", stat.btime_ns.into());
    put("modified", iso8601(stat.mtime_ns).into());
    if matches!(stat.kind, FileKind::CharDevice | FileKind::BlockDevice) {
        let (major, minor) = device_numbers(stat.device);
        put("device_major", major.into());
        put("device_minor", minor.into());
    }
    object
}

fn full_object(path: &ImagePath, told: &Told) -> Map<String, Value> {
    let mut object = object_of(path, &told.stat, told.target.as_deref());
    let mut attributes = Map::new();
    for (name, value) in &told.attributes {
        let name = String::from_utf8_lossy(name).into_owned();
        attributes.insert(name, hexadecimal(value).into());
    }
    object.insert("attributes_hex".to_owned(), attributes.into());
    object
}

/// A kind as `ls -l` begins a line.
pub(crate) fn kind_letter(kind: FileKind) -> char {
    match kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::CharDevice => 'c',
        FileKind::BlockDevice => 'b',
    }
}

/// Kind and mode as in `drwxr-xr-x`.
pub(crate) fn mode_text(stat: &Stat) -> String {
    let mode = stat.mode;
    let mut text = String::from(kind_letter(stat.kind));
    // Of each class: its bits, the special bit, and how that shows with and without execution.
    for (shift, special, both, alone) in [
        (6, 0o4000, 's', 'S'),
        (3, 0o2000, 's', 'S'),
        (0, 0o1000, 't', 'T'),
    ] {
        let bits = mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => both,
            (true, false) => alone,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Major and minor number of a device.
pub(crate) fn device_numbers(device: u64) -> (u32, u32) {
    (rustix::fs::major(device), rustix::fs::minor(device))
}

#[cfg(test)]
mod tests {
    use lfs::InodeNumber;

    use super::*;

    fn stat(kind: FileKind, mode: u16) -> Stat {
        Stat {
            inode: InodeNumber(7),
            kind,
            mode,
            uid: 0,
            gid: 0,
            links: 1,
            size: 3,
            device: 0,
            atime_ns: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            btime_ns: 0,
            allocated_bytes: 0,
        }
    }

    #[test]
    fn modes_as_ls_shows_them() {
        for (kind, mode, text) in [
            (FileKind::File, 0o644, "-rw-r--r--"),
            (FileKind::Directory, 0o1777, "drwxrwxrwt"),
            (FileKind::Symlink, 0o777, "lrwxrwxrwx"),
            (FileKind::File, 0o4755, "-rwsr-xr-x"),
            (FileKind::File, 0o6644, "-rwSr-Sr--"),
            (FileKind::Directory, 0o1000, "d--------T"),
        ] {
            assert_eq!(mode_text(&stat(kind, mode)), text);
        }
    }
}
