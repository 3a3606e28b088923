//! The command line: what `siltstone` takes, and the text of its help and manual pages.
#![expect(
    clippy::doc_markdown,
    reason = "what is written here is printed as it is, not as Markdown"
)]

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgGroup, Args, Parser, Subcommand};
use lfs::Compression;
use lfs::host::parse_size;

use crate::key::Origin;
use crate::location::{ImageName, ImagePath, Location};

/// Makes, examines, mounts and changes Siltstone images.
///
/// An image is a file or a block device that holds a Siltstone file system. It may be written as
/// IMAGE@SNAPSHOT to read what it held when that snapshot was made, and a path inside it as IMAGE:/path where
/// a command takes paths of the host as well; the first ":/" divides. Commands that read never change the
/// image. Commands that change it return when the change would survive a power cut. An image that a running
/// machine, a mount or another command has open is refused.
#[derive(Debug, Parser)]
#[command(
    name = "siltstone",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_long_help = "\
EXAMPLES
  Make an image, put a tree into it, look at it, and take a file out again:
      siltstone mkfs disk.img --size 256M
      siltstone cp -r photos disk.img:/
      siltstone ls -R -l disk.img /photos
      siltstone cp disk.img:/photos/cat.jpg .

EXIT STATUS
  0 done; 1 something failed, and was said on the standard error; 2 wrong usage; 130 interrupted; 141 the
  reader of the output went away."
)]
pub(crate) struct Arguments {
    /// The key of an encrypted image: a file of 32 bytes to 64 KiB, taken byte by byte. An image that is not encrypted
    /// is refused with it.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// The passphrase of an encrypted image: the first line of a file.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "key_file")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Ask on the terminal for the passphrase of an encrypted image.
    #[arg(long, global = true, conflicts_with_all = ["key_file", "passphrase_file"])]
    pub(crate) passphrase: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Mkfs(Mkfs),
    Fsck(Fsck),
    Scrub(Scrub),
    Grow(Grow),
    Dump(Dump),
    Info(Info),
    Compression(SetCompression),
    Ls(Ls),
    Cat(Cat),
    Stat(Stat),
    Cp(Cp),
    Mkdir(Mkdir),
    Rm(Rm),
    Mv(Mv),
    Snapshot(Snapshot),
    Diff(Diff),
    Backup(Backup),
    Restore(Restore),
    Key(Key),
    Mount(Mount),
    Completions(Completions),
    Man(Man),
}

/// Make an empty file system.
///
/// Makes an empty file system in IMAGE. An image file that does not exist is created, SIZE bytes large and
/// all holes. One that exists, or a block device, is used at the size it has, unless SIZE is given for a file. What is
/// not blank (a Siltstone file system or anything else, as far as its beginning, its end and places in between tell) is only
/// overwritten with --force. It takes a moment, whatever the size.
///
/// With --encrypt all of it is encrypted and authenticated, names and sizes of files included, and opens only with the
/// key file: every command, and the machine that boots with it, take --key-file (make run KEY_FILE=). Without the file nothing
/// brings the content back. A good one is made with: head -c 32 /dev/urandom > FILE. Instead of a key file there can be a passphrase
/// (--passphrase, --passphrase-file); a machine that is to boot with the image needs a key file besides (siltstone key add).
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone mkfs disk.img --size 1G
      siltstone mkfs --force /dev/sdx
      siltstone mkfs disk.img --size 4G --replay-window 8M
      siltstone mkfs disk.img --encrypt --key-file disk.key
      siltstone mkfs archive.img --size 4G --compress cold

EXIT STATUS
  0 made; 1 refused or failed, and then a file created for it is gone again; 2 wrong usage.")]
pub(crate) struct Mkfs {
    /// The image file or block device.
    #[arg(value_name = "IMAGE")]
    pub(crate) image: PathBuf,
    /// Size of the image file, such as 64M or 10GiB; at least 8M. A file that does not exist gets 256M without it.
    #[arg(long, value_parser = parse_size)]
    pub(crate) size: Option<u64>,
    /// Overwrite what is there.
    #[arg(long, short)]
    pub(crate) force: bool,
    /// Encrypt it with the key in --key-file, or a passphrase.
    #[arg(long)]
    pub(crate) encrypt: bool,
    /// With --encrypt: the cipher. The first is fast on any processor; the second where there are instructions for AES, and
    /// it gives away less when a running machine is cloned.
    #[arg(long, value_enum, default_value_t = Cipher::Xchacha20Poly1305, requires = "encrypt")]
    pub(crate) cipher: Cipher,
    /// How what is written is compressed: see "siltstone help compression".
    #[arg(long, value_name = "SETTING", default_value = "lz4", value_parser = compression())]
    pub(crate) compress: Compression,
    /// Bytes in a segment, a power of two, best a multiple of the erase block: chosen by size without it.
    #[arg(long, value_parser = parse_size)]
    pub(crate) segment_size: Option<u64>,
    /// Log that a mount has to go through at most after a power cut, in whole segments: 16 to 1,024 of them, at most a third of
    /// the disk. Less mounts faster; more writes less in the long run, and allows larger transactions: up to an eighth of it. Without
    /// it an eighth of the disk, at most 32M.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) replay_window: Option<u64>,
}

/// Check an image, and mend what can be mended safely.
///
/// Goes through everything on the disk, compares what its parts say of each other, and prints what is wrong and what it
/// means, with the file and the bytes it hits. It only reads, unless with --repair; then it mends what loses nothing:
/// spare copies and counts. Nothing else needs it: after a power cut a mount recovers by itself.
///
/// Metadata are read once each, and memory stays bounded. With --data the content of all files is read and verified, too.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone fsck disk.img
      siltstone fsck --data --json disk.img | jq -r 'select(.severity == \"error\").path'

EXIT STATUS
  As e2fsck: 0 no errors; 1 errors were found and mended; 4 errors are left; 8 it could not be checked: there
  is no Siltstone file system, it is in use, or the disk does not read; 16 wrong usage.")]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub(crate) struct Fsck {
    #[command(flatten)]
    pub(crate) image: Image,
    /// Mend what can be mended safely.
    #[arg(long, short = 'y')]
    pub(crate) repair: bool,
    /// Read and verify the content of files, too.
    #[arg(long)]
    pub(crate) data: bool,
    /// Also print what is not wrong but worth knowing.
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// Print one JSON object for each finding, and one that sums up.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Read and verify everything, and repair what can be.
///
/// Reads everything in use, metadata and data, and verifies its checksums. What is in memory, or has a spare copy, is written
/// again where it is damaged; of a mirror, what is damaged on one disk is written again from the other. What is lost is told with the file and the bytes it hits; the rest stays usable. Unlike
/// fsck it does not compare what parts of the file system say of each other.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone scrub disk.img
      siltstone scrub --rate 50M --read-only /dev/sdx
      siltstone scrub disk.img mirror.img

EXIT STATUS
  0 all is well, or repaired; 1 something cannot be repaired, or the scrub did not get to its end; 2 wrong
  usage.")]
pub(crate) struct Scrub {
    #[command(flatten)]
    pub(crate) image: Image,
    /// The other disk of the mirror that IMAGE is one of, or a copy of IMAGE: both are verified, and what is damaged on
    /// one is written again from the other.
    #[arg(value_name = "MIRROR", conflicts_with = "read_only")]
    pub(crate) mirror: Option<PathBuf>,
    /// Read no more than so many bytes in a second, such as 50M.
    #[arg(long, value_parser = parse_size)]
    pub(crate) rate: Option<u64>,
    /// Only tell; write nothing.
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Print one JSON object for each finding, and one that sums up.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Make a file system larger.
///
/// Takes in what IMAGE has more than the file system on it. With --size an image file is made that large first, all
/// holes; a block device, and a file that something else made larger, has the size it has. Whatever opens an image for
/// writing, this tool or a machine, takes in new space by itself, a running machine as soon as its disk grows; this is for
/// doing it here and now, and for the size of the file.
///
/// What is on it stays as it is, and it takes a moment, whatever the size. A power cut on the way leaves the old size or the
/// new one. A file system becomes at most sixteen times as large as it was made. It never becomes smaller: for that, restore
/// a backup. Of the two disks of a mirror both are made larger, by other means, and the machine that has both grows.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone grow disk.img --size 1G
      siltstone grow /dev/sdx

EXIT STATUS
  0 it takes all the space it can have, which may be no more than before; 1 refused or failed; 2 wrong
  usage.")]
pub(crate) struct Grow {
    #[command(flatten)]
    pub(crate) image: Image,
    /// Size of the image file, such as 64M or 10GiB; not smaller than it is.
    #[arg(long, value_parser = parse_size)]
    pub(crate) size: Option<u64>,
    /// Print a JSON object: sizes before and now.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Print what is on the disk, record by record.
///
/// Prints the structures of an image as they lie on the disk: superblocks, checkpoints, segments, and the log, group by group,
/// commit by commit, record by record. For whoever looks into a damaged image, or learns the format (lfs/SPEC.md).
/// It works on damaged images as far as they can be read, and judges nothing; fsck does.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone dump disk.img | less
      siltstone dump --log --json disk.img | jq -r 'select(.kind == \"commit\").commit'

EXIT STATUS
  0 printed; 1 there is no Siltstone file system, or it is in use; 2 wrong usage.")]
pub(crate) struct Dump {
    #[command(flatten)]
    pub(crate) image: Image,
    /// Only the log since the last checkpoint: what a mount would replay.
    #[arg(long)]
    pub(crate) log: bool,
    /// Print one JSON object per line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Tell what an image is and how full it is.
///
/// Prints what can be said of the file system in IMAGE as a whole: its identity, its size, how much is used and free,
/// how long a replay of its log was, and how many snapshots it has.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone info disk.img
      siltstone info --json disk.img | jq .free_bytes

EXIT STATUS
  0 told; 1 there is no intact Siltstone file system, or it cannot be read; 2 wrong usage.")]
pub(crate) struct Info {
    #[command(flatten)]
    pub(crate) image: Image,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Tell or set how what is written is compressed.
///
/// Without SETTING it is printed. With one, what is written from then on is compressed so, also by a machine that boots with IMAGE;
/// what is there already stays as it is, and readable. In every setting only what becomes smaller by an eighth is kept compressed.
///
/// off: nothing is. For data that are compressed already, and where an encrypted image must not tell by lengths how
/// compressible its content is. lz4: when it is written. cold: that, and what the cleaner has moved again and again is compressed better, with
/// deflate, while nobody waits: a third smaller, for more work when it is read.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone compression disk.img
      siltstone compression disk.img cold

EXIT STATUS
  0 told, or set durably; 1 the image cannot be opened, or is full; 2 wrong usage.")]
pub(crate) struct SetCompression {
    #[command(flatten)]
    pub(crate) image: Image,
    /// What it is to be.
    #[arg(value_name = "SETTING", value_parser = compression())]
    pub(crate) setting: Option<Compression>,
}

/// List a directory.
///
/// Lists the entries of the directory PATH, or PATH itself when it is something else, one per line, sorted by the bytes
/// of the names. With -R everything below it, as paths. The long form has the mode, links, owner, group,
/// size in bytes (of a device its numbers), time of the last change and name.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone ls disk.img
      siltstone ls -lR disk.img@monday /etc
      siltstone ls -R --json disk.img | jq -r 'select(.size_bytes > 1e6).path'

EXIT STATUS
  0 the listing is complete; 1 it is not, or PATH does not exist; 2 wrong usage.")]
pub(crate) struct Ls {
    #[command(flatten)]
    pub(crate) image: Image,
    /// What to list.
    #[arg(value_name = "PATH", default_value = "/", value_parser = image_path())]
    pub(crate) path: ImagePath,
    /// List what is below directories, too.
    #[arg(long, short = 'R')]
    pub(crate) recursive: bool,
    /// Print more than the name.
    #[arg(long, short)]
    pub(crate) long: bool,
    /// Print one JSON object per line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Print files.
///
/// Writes the content of the files at PATH to the standard output, one after another. Symbolic links are followed.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone cat disk.img /etc/motd

EXIT STATUS
  0 all printed; 1 one of them could not be read; 2 wrong usage.")]
pub(crate) struct Cat {
    #[command(flatten)]
    pub(crate) image: Image,
    /// What to print.
    #[arg(value_name = "PATH", required = true, value_parser = image_path())]
    pub(crate) paths: Vec<ImagePath>,
}

/// Tell all about files.
///
/// Prints what the file system knows of the file, directory or other thing at each PATH: kind, size and space on the disk, mode,
/// owner, links, times, the target of a symbolic link, and the names of extended attributes. A symbolic
/// link at the end of PATH is not followed, unless with -L.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone stat disk.img /etc/motd
      siltstone stat --json disk.img /a /b | jq .size_bytes

EXIT STATUS
  0 told; 1 a PATH does not exist or cannot be read; 2 wrong usage.")]
pub(crate) struct Stat {
    #[command(flatten)]
    pub(crate) image: Image,
    /// What to tell about.
    #[arg(value_name = "PATH", required = true, value_parser = image_path())]
    pub(crate) paths: Vec<ImagePath>,
    /// Follow a symbolic link at the end of PATH.
    #[arg(long, short = 'L')]
    pub(crate) dereference: bool,
    /// Print one JSON object per line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Copy files into an image, out of one, or within.
///
/// Copies each SOURCE to DESTINATION, of which at least one side is in an image, written IMAGE:/path. When
/// DESTINATION is a directory, or there are several SOURCEs, they go into it under their own
/// names; otherwise DESTINATION becomes the copy. Directories need -r.
///
/// Mode, time of modification, symbolic links (as links), holes, and extended attributes in the user
/// namespace are kept. So are, with -r, hard links among what is copied, FIFOs, sockets and
/// devices. The owner is kept on the way into an image and within; on the way out as far as the user may.
///
/// A file is copied in pieces to a name that begins with ".siltstone-" in the same directory, and takes its own name
/// when it is whole: a name never shows half a file, neither to others nor after a power cut. After a power
/// cut such a leftover may be there and can be removed. A tree is not copied as one: of an interrupted copy
/// some files are there and others not. Memory does not grow with the size of files.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone cp -r photos notes.txt disk.img:/
      siltstone cp -r disk.img@monday:/etc ./etc-of-monday
      siltstone cp disk.img:/a disk.img:/b

EXIT STATUS
  0 all copied, and durable where it went into an image; 1 something was not; 2 wrong usage.")]
pub(crate) struct Cp {
    /// What to copy: paths of the host, or IMAGE:/path.
    #[arg(value_name = "SOURCE", required = true, value_parser = location())]
    pub(crate) sources: Vec<Location>,
    /// Where to: a path of the host, or IMAGE:/path.
    #[arg(value_name = "DESTINATION", value_parser = location())]
    pub(crate) destination: Location,
    /// Copy directories and all that is in them.
    #[arg(long, short, visible_short_alias = 'R')]
    pub(crate) recursive: bool,
}

/// Make directories.
///
/// Makes the directories PATH in IMAGE. All of them are made, or none.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone mkdir -p disk.img /srv/data/in

EXIT STATUS
  0 made, durably; 1 none was made; 2 wrong usage.")]
pub(crate) struct Mkdir {
    /// The image file or block device.
    #[command(flatten)]
    pub(crate) image: Image,
    /// What to make.
    #[arg(value_name = "PATH", required = true, value_parser = image_path())]
    pub(crate) paths: Vec<ImagePath>,
    /// Make missing directories above it, too; one that is there is fine.
    #[arg(long, short)]
    pub(crate) parents: bool,
    /// Its mode, in octal digits.
    #[arg(long, short, default_value = "755", value_parser = parse_mode)]
    pub(crate) mode: u32,
}

/// Remove files and directories.
///
/// Removes what is at each PATH in IMAGE: names of anything but directories, and with -r directories with all
/// that is in them. A tree is not removed as one: when it is interrupted, some of it is gone.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone rm disk.img /etc/motd
      siltstone rm -r disk.img /srv/old

EXIT STATUS
  0 removed, durably; 1 something was not; 2 wrong usage.")]
pub(crate) struct Rm {
    #[command(flatten)]
    pub(crate) image: Image,
    /// What to remove.
    #[arg(value_name = "PATH", required = true, value_parser = image_path())]
    pub(crate) paths: Vec<ImagePath>,
    /// Remove directories and all that is in them.
    #[arg(long, short, visible_short_alias = 'R')]
    pub(crate) recursive: bool,
    /// A PATH that does not exist is fine.
    #[arg(long, short)]
    pub(crate) force: bool,
}

/// Move or rename.
///
/// Gives what is at FROM in IMAGE the name TO, or moves it into TO when that is a directory. It happens as a
/// whole. A file that is at TO is replaced, unless with -n.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone mv disk.img /etc/motd.new /etc/motd

EXIT STATUS
  0 moved, durably; 1 not moved; 2 wrong usage.")]
pub(crate) struct Mv {
    #[command(flatten)]
    pub(crate) image: Image,
    /// What to move.
    #[arg(value_name = "FROM", value_parser = image_path())]
    pub(crate) from: ImagePath,
    /// Its new name, or the directory to move it into.
    #[arg(value_name = "TO", value_parser = image_path())]
    pub(crate) to: ImagePath,
    /// Replace nothing.
    #[arg(long, short)]
    pub(crate) no_clobber: bool,
    /// Take TO as a name, also when it is a directory.
    #[arg(long, short = 'T')]
    pub(crate) no_target_directory: bool,
}

/// Make, list and remove snapshots.
///
/// A snapshot keeps all files and keys as they are at one moment, at the cost of what changes afterwards. It is made at once, whatever
/// the size. IMAGE@NAME reads its files, in every command that only reads; a server shows its keys, too (BEGIN AS OF).
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone snapshot create disk.img monday
      siltstone cat disk.img@monday /etc/motd
      siltstone snapshot rm disk.img monday

EXIT STATUS
  0 done; 1 not done; 2 wrong usage.")]
pub(crate) struct Snapshot {
    #[command(subcommand)]
    pub(crate) command: SnapshotCommand,
}

/// What to do with snapshots.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Make a snapshot of all files and keys as they are now.
    Create(SnapshotName),
    /// List the snapshots, oldest first: when each was made, the last commit it shows, its name.
    List(SnapshotList),
    /// Remove a snapshot. The space that only it needed is freed later, while the image is in use.
    Rm(SnapshotName),
}

/// A snapshot to make or to remove.
#[derive(Debug, Args)]
pub(crate) struct SnapshotName {
    #[command(flatten)]
    pub(crate) image: Image,
    /// The snapshot's name: 1 to 255 bytes without '/' and '@'.
    #[arg(value_name = "NAME")]
    pub(crate) snapshot: String,
}

/// Which snapshots to list.
#[derive(Debug, Args)]
pub(crate) struct SnapshotList {
    #[command(flatten)]
    pub(crate) image: Image,
    /// Print one JSON object per line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Tell which files differ between two snapshots.
///
/// Prints the paths that SNAPSHOT OTHER has (A), has not any more (D), or has changed (M) when compared with SNAPSHOT FROM; without
/// OTHER, those of what IMAGE holds now. A file is changed when anything of it is: content, attributes, times, owner, mode,
/// number of names; a directory when entries came or went. What was renamed is there under both names.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone diff disk.img monday tuesday
      siltstone diff --json disk.img monday | jq -r 'select(.change == \"changed\").path'

EXIT STATUS
  0 told, whether they differ or not; 1 a snapshot does not exist, or something cannot be read; 2 wrong
  usage.")]
pub(crate) struct Diff {
    #[command(flatten)]
    pub(crate) image: Image,
    /// The snapshot to compare with.
    #[arg(value_name = "FROM")]
    pub(crate) from: String,
    /// The snapshot that is compared.
    #[arg(value_name = "OTHER")]
    pub(crate) to: Option<String>,
    /// Print one JSON object per line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Back up an image, or a running server.
///
/// Pins a snapshot of SOURCE, an image or the HOST:PORT of a server, writes what it shows, keys and files of one moment, to FILE or
/// the standard output, and prints the snapshot's name (beside a backup on the standard output: on the standard error). The source
/// goes on meanwhile, and needs no more room than the snapshot does.
///
/// With --since, only what changed in files and keys since that snapshot goes into the backup. The
/// snapshot stays until it is removed: keep the newest one for the next --since. restore puts them together.
///
/// FILE is there when the backup is whole, not before. A backup that is cut short leaves FILE.partial, and the same command goes on from
/// there; a FILE.partial that is anything else is overwritten. Each part is verified on the way.
///
/// With --at, an image is backed up as it was after COMMIT. That can be any commit since the image's last checkpoint, which the log
/// has (siltstone dump --log): after a crash that is what happened in the last moments before it, after an orderly end nothing but
/// the newest state. Nothing is pinned then.
///
/// A backup is not encrypted, also one of an encrypted image. A server's password is taken from the environment variable REDISCLI_AUTH.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone backup disk.img -o full
      siltstone backup 10.0.0.7:6379 -o full
      siltstone backup 10.0.0.7:6379 --since backup-1767225600000 -o monday
      siltstone backup disk.img --at 4711 -o before

EXIT STATUS
  0 FILE is whole and durable; 1 it is not; 2 wrong usage; 130 interrupted.")]
pub(crate) struct Backup {
    /// The image file or block device, or HOST:PORT of a server.
    #[arg(value_name = "SOURCE")]
    pub(crate) source: PathBuf,
    /// Only what changed since this snapshot.
    #[arg(long, value_name = "NAME", conflicts_with = "at")]
    pub(crate) since: Option<String>,
    /// Where to write it: the standard output without this.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// The state after this commit, instead of a new snapshot.
    #[arg(long, value_name = "COMMIT")]
    pub(crate) at: Option<u64>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Restore backups to an image.
///
/// Makes IMAGE of a full backup and the incremental ones that follow it, in their order. IMAGE is blank, or an empty file system that
/// mkfs made, or does not exist and is made with --size. It may be smaller or larger than the one that was backed up.
///
/// All files are read and verified first: one that is damaged, not complete, of another file system, or not the next one is refused, and
/// nothing is touched. With --key-file IMAGE is encrypted with that. Until the end IMAGE holds no file system; a restore that is cut short can be begun again.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone restore full disk.img --size 1G
      siltstone restore full monday tuesday /dev/sdx

EXIT STATUS
  0 IMAGE holds what the last backup shows, durably; 1 it does not; 2 wrong usage; 130 interrupted.")]
pub(crate) struct Restore {
    /// The full backup, those that follow it, and the image file or block device.
    #[arg(value_names = ["FULL", "INCREMENTAL... IMAGE"], num_args = 2.., required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Size of the image file, such as 64M or 10GiB; at least 8M.
    #[arg(long, value_parser = parse_size)]
    pub(crate) size: Option<u64>,
}

/// Add, rotate, list and remove the keys of an encrypted image.
///
/// All that is in an encrypted image is encrypted with one key, drawn when it was made. That is kept in up to eight slots, each of which
/// one key file or passphrase opens. So keys come and go without anything being written but the slots; whoever had a copy of the image and
/// an old key can read that copy still. --key-file names a key that opens the image now, or --passphrase and
/// --passphrase-file say a passphrase that does. The last key cannot be removed.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone key rotate disk.img new.key --key-file old.key
      siltstone key add disk.img spare.key --key-file disk.key
      siltstone key add disk.img --new-passphrase --key-file disk.key

EXIT STATUS
  0 done, durably; 1 not done; 2 wrong usage.")]
pub(crate) struct Key {
    #[command(subcommand)]
    pub(crate) command: KeyCommand,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Let another key file or passphrase open the image as well; prints its slot.
    #[command(
        override_usage = "siltstone key add [OPTIONS] <IMAGE> <NEW_KEY_FILE|--new-passphrase-file <FILE>|--new-passphrase>"
    )]
    Add(KeyNew),
    /// Put another key file or passphrase into the place of the one that is given, which opens the image no more.
    #[command(
        override_usage = "siltstone key rotate [OPTIONS] <IMAGE> <NEW_KEY_FILE|--new-passphrase-file <FILE>|--new-passphrase>"
    )]
    Rotate(KeyNew),
    /// List the slots in use. Needs no key.
    List(KeyList),
    /// Take a slot away: its key opens the image no more.
    Rm(KeyRm),
}

/// A key to come.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("new").required(true).args(["new_key_file", "new_passphrase_file", "new_passphrase"]))]
pub(crate) struct KeyNew {
    #[command(flatten)]
    pub(crate) image: Image,
    /// The new key file.
    #[arg(value_name = "NEW_KEY_FILE")]
    new_key_file: Option<PathBuf>,
    /// The new passphrase: the first line of a file.
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
    /// Ask for the new passphrase on the terminal, twice.
    #[arg(long)]
    new_passphrase: bool,
}

impl KeyNew {
    /// Where the new key comes from.
    pub(crate) fn origin(&self) -> Option<Origin> {
        origin(
            self.new_key_file.as_ref(),
            self.new_passphrase_file.as_ref(),
            self.new_passphrase,
        )
    }
}

impl Arguments {
    /// Where the key comes from that opens the image.
    pub(crate) fn origin(&self) -> Option<Origin> {
        origin(
            self.key_file.as_ref(),
            self.passphrase_file.as_ref(),
            self.passphrase,
        )
    }
}

fn origin(
    key_file: Option<&PathBuf>,
    passphrase_file: Option<&PathBuf>,
    passphrase: bool,
) -> Option<Origin> {
    let key_file = key_file.cloned().map(Origin::KeyFile);
    let passphrase_file = passphrase_file.cloned().map(Origin::PassphraseFile);
    let typed = passphrase.then_some(Origin::Terminal);
    key_file.or(passphrase_file).or(typed)
}

/// Which keys to list.
#[derive(Debug, Args)]
pub(crate) struct KeyList {
    #[command(flatten)]
    pub(crate) image: Image,
    /// Print one JSON object per line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A key to go.
#[derive(Debug, Args)]
pub(crate) struct KeyRm {
    #[command(flatten)]
    pub(crate) image: Image,
    /// Its slot, as listed.
    #[arg(value_name = "SLOT")]
    pub(crate) slot: usize,
}

/// Names of ciphers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Cipher {
    #[value(name = "xchacha20-poly1305")]
    Xchacha20Poly1305,
    #[value(name = "aes-256-gcm-siv")]
    Aes256GcmSiv,
}

impl From<Cipher> for lfs::Suite {
    fn from(cipher: Cipher) -> Self {
        match cipher {
            Cipher::Xchacha20Poly1305 => Self::XChaCha20Poly1305,
            Cipher::Aes256GcmSiv => Self::Aes256GcmSiv,
        }
    }
}

/// Mount an image as a directory of the host (FUSE).
///
/// Makes the files in IMAGE appear in the directory DIR, and stays in the foreground until DIR is unmounted, or SIGTERM
/// or SIGINT comes; a line on the standard output says when the mount is ready. Then everything is made durable
/// and the image closed: it can be used again when the command has ended.
///
/// Files have their owners and modes, which the kernel enforces. Mounted by root, all users may
/// use it; others need fusermount3 and mount for themselves only. Programs on it are not set-user-ID and devices
/// are not devices, unless with -o suid,dev. fsync makes everything durable that was done before. Reading does
/// not change access times. IMAGE@SNAPSHOT is mounted read-only.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone mount disk.img /mnt &
      cp file /mnt && umount /mnt && wait

EXIT STATUS
  0 unmounted, and everything is durable; 1 it could not be mounted, or the disk failed; 2 wrong usage.")]
pub(crate) struct Mount {
    #[command(flatten)]
    pub(crate) image: Image,
    /// Where it appears.
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Refuse changes.
    #[arg(long, short)]
    pub(crate) read_only: bool,
    /// Options as for mount(8), with commas: ro, rw, suid, nosuid, dev, nodev, exec, noexec.
    #[arg(
        long = "options",
        short = 'o',
        value_name = "OPTION",
        value_delimiter = ','
    )]
    pub(crate) options: Vec<MountSwitch>,
}

/// What mount(8) would call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum MountSwitch {
    Ro,
    Rw,
    Suid,
    Nosuid,
    Dev,
    Nodev,
    Exec,
    Noexec,
}

/// Print a completion script for a shell.
///
/// Prints what the shell needs to complete siltstone's commands and options.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone completions bash > /etc/bash_completion.d/siltstone")]
pub(crate) struct Completions {
    /// For which shell.
    pub(crate) shell: clap_complete::Shell,
}

/// Print or write the manual pages.
///
/// Prints the manual page of siltstone, or writes that and one for each command into DIR.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES
      siltstone man | man -l -
      siltstone man /usr/local/share/man/man1")]
pub(crate) struct Man {
    /// Where to write siltstone.1, siltstone-mkfs.1 and so on.
    #[arg(value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
}

/// The image a command works on.
#[derive(Debug, Args)]
pub(crate) struct Image {
    /// The image file or block device; IMAGE@SNAPSHOT where it is only read.
    #[arg(value_name = "IMAGE", value_parser = image_name())]
    pub(crate) name: ImageName,
}

fn image_name() -> impl TypedValueParser<Value = ImageName> {
    OsStringValueParser::new().try_map(|text: OsString| ImageName::parse(&text))
}

/// Names of settings of compression.
fn compression() -> impl TypedValueParser<Value = Compression> {
    let names = Compression::ALL.map(Compression::name);
    clap::builder::PossibleValuesParser::new(names)
        .try_map(|name| Compression::from_name(&name).ok_or("no such setting"))
}

fn image_path() -> impl TypedValueParser<Value = ImagePath> {
    OsStringValueParser::new().try_map(|text: OsString| ImagePath::parse(&text))
}

fn location() -> impl TypedValueParser<Value = Location> {
    OsStringValueParser::new().try_map(|text: OsString| Location::parse(&text))
}

fn parse_mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| "a mode is up to four octal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Command, ErrorKind> {
        let words = std::iter::once("siltstone").chain(line.split_whitespace());
        let parsed = Arguments::try_parse_from(words);
        parsed.map(|found| found.command).map_err(|e| e.kind())
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_has_a_page() {
        for command in Arguments::command().get_subcommands() {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name}: about");
            assert!(command.get_long_about().is_some(), "{name}: description");
            let after = command.get_after_long_help().map(ToString::to_string);
            assert!(
                after.is_some_and(|text| text.contains("EXAMPLES")),
                "{name}"
            );
        }
    }

    #[test]
    fn the_stable_forms() {
        for line in [
            "mkfs disk --size 256M",
            "mkfs disk --size 256M --replay-window 8M",
            "mkfs disk --size 256M --encrypt --key-file key",
            "mkfs disk --encrypt --key-file key --cipher aes-256-gcm-siv",
            "ls -R disk / --key-file key",
            "--key-file key fsck disk",
            "key add disk new --key-file old",
            "key rotate disk new --key-file old",
            "key list disk --json",
            "key rm disk 1 --key-file old",
            "info disk --json",
            "ls disk /",
            "ls -R disk /a",
            "ls -lR disk@then",
            "cat disk /a",
            "stat disk /a --json",
            "rm disk /a",
            "rm -r disk /a",
            "mkdir disk /a",
            "mkdir -p disk /a/b",
            "mv disk /a /b",
            "fsck disk",
            "fsck --repair --data --json disk",
            "scrub disk",
            "scrub disk --rate 10M --read-only --json",
            "dump disk",
            "dump --log --json disk",
            "snapshot create disk monday",
            "snapshot list disk --json",
            "snapshot rm disk monday",
            "diff disk monday tuesday",
            "diff disk monday --json",
            "backup disk",
            "backup disk --json -o full",
            "backup localhost:6379 --since monday -o tuesday",
            "backup disk --at 17 -o before",
            "restore full disk",
            "restore full one two disk --size 64M",
            "cp a disk:/a",
            "cp -r a b disk:/",
            "cp disk:/a disk:/b",
            "mount disk /mnt",
            "mount -o ro,suid disk@then /mnt",
            "completions bash",
            "man",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn wrong_usage() {
        use ErrorKind::{
            InvalidSubcommand, InvalidValue, MissingRequiredArgument, UnknownArgument,
            ValueValidation,
        };
        for (line, kind) in [
            ("format disk", InvalidSubcommand),
            ("mkfs", MissingRequiredArgument),
            ("mkfs disk --size big", ValueValidation),
            ("cp a", MissingRequiredArgument),
            ("diff disk", MissingRequiredArgument),
            ("backup", MissingRequiredArgument),
            ("backup disk --at 1 --since a", ErrorKind::ArgumentConflict),
            ("restore full", ErrorKind::TooFewValues),
            ("cat disk", MissingRequiredArgument),
            ("ls disk@", ValueValidation),
            ("ls --sort disk /", UnknownArgument),
            ("mkdir -m 8 disk /a", ValueValidation),
            ("mkdir -m 17777 disk /a", ValueValidation),
            ("mount -o sync disk /mnt", InvalidValue),
        ] {
            assert_eq!(parse(line).expect_err(line), kind, "{line}");
        }
    }
}
