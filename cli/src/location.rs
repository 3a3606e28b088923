//! How images, snapshots and paths inside images are named on the command line.
//!
//! | written | means |
//! |---|---|
//! | `IMAGE` | an image file or block device |
//! | `IMAGE@SNAPSHOT` | what the image held when the snapshot was made; for reading |
//! | `IMAGE:/path`, `IMAGE@SNAPSHOT:/path` | a path inside; the first `:/` divides |
//! | anything without `:/` | a path of the host |
//!
//! A file that exists under the whole name is the image: an image's own name may contain `@`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// An image, or a snapshot in one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageName {
    /// Where the image is.
    pub(crate) path: PathBuf,
    /// The snapshot, if not what the image holds now.
    pub(crate) snapshot: Option<String>,
}

impl ImageName {
    /// Takes an argument apart.
    pub(crate) fn parse(text: &OsStr) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the name of an image is empty".to_owned());
        }
        let bytes = text.as_bytes();
        let whole = Self {
            path: PathBuf::from(text),
            snapshot: None,
        };
        let mut parts = bytes.rsplitn(2, |&byte| byte == b'@');
        let (Some(snapshot), Some(path)) = (parts.next(), parts.next()) else {
            return Ok(whole);
        };
        // A '@' in a directory's name says nothing of snapshots.
        if snapshot.contains(&b'/') || whole.path.exists() {
            return Ok(whole);
        }
        let snapshot = std::str::from_utf8(snapshot)
            .map_err(|_| "the name of a snapshot is not UTF-8".to_owned())?;
        if snapshot.is_empty() || path.is_empty() {
            return Err("write IMAGE@SNAPSHOT".to_owned());
        }
        Ok(Self {
            path: PathBuf::from(OsStr::from_bytes(path)),
            snapshot: Some(snapshot.to_owned()),
        })
    }
}

impl std::fmt::Display for ImageName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path.display())?;
        match &self.snapshot {
            Some(snapshot) => write!(f, "@{snapshot}"),
            None => Ok(()),
        }
    }
}

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// On the host.
    Host(PathBuf),
    /// Inside an image.
    Image(ImageName, ImagePath),
}

impl Location {
    /// Takes an argument apart.
    pub(crate) fn parse(text: &OsStr) -> Result<Self, String> {
        let bytes = text.as_bytes();
        let divide = bytes.windows(2).position(|pair| pair == b":/");
        match divide.and_then(|at| bytes.split_at_checked(at)) {
            Some((image, [_, path @ ..])) => Ok(Self::Image(
                ImageName::parse(OsStr::from_bytes(image))?,
                ImagePath::parse(OsStr::from_bytes(path))?,
            )),
            _ if text.is_empty() => Err("a path is empty".to_owned()),
            _ => Ok(Self::Host(PathBuf::from(text))),
        }
    }
}

/// A path inside an image, from its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImagePath(Vec<u8>);

impl ImagePath {
    /// Takes an argument; one without a leading `/` begins at the root, too.
    pub(crate) fn parse(text: &OsStr) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a path inside the image is empty; the root is /".to_owned());
        }
        let mut bytes = Vec::with_capacity(text.len() + 1);
        if text.as_bytes().first() != Some(&b'/') {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(text.as_bytes());
        Ok(Self(bytes))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it ends with a slash: what it names must be a directory.
    pub(crate) fn is_written_as_directory(&self) -> bool {
        self.0.last() == Some(&b'/')
    }

    /// Its last component; none for the root and for paths that end in `..`.
    pub(crate) fn file_name(&self) -> Option<&[u8]> {
        let path = Path::new(OsStr::from_bytes(&self.0));
        path.file_name().map(OsStr::as_bytes)
    }

    /// What is before the last component: the path of the directory it is in, as it is written.
    pub(crate) fn parent(&self) -> Self {
        let path = Path::new(OsStr::from_bytes(&self.0));
        let parent = path.parent().unwrap_or(path);
        Self(parent.as_os_str().as_bytes().to_vec())
    }

    /// The path of an entry of this directory.
    pub(crate) fn join(&self, name: &[u8]) -> Self {
        let mut bytes = self.0.clone();
        if !self.is_written_as_directory() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self(bytes)
    }
}

impl std::fmt::Display for ImagePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", OsString::from_vec(self.0.clone()).display())
    }
}

/// Whether two names are of one file of the host; of files that are not there, whether they are one name.
pub(crate) fn same_file(one: &Path, other: &Path) -> bool {
    match (std::fs::metadata(one), std::fs::metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> (String, Option<String>) {
        let name = ImageName::parse(text.as_ref()).expect("a name");
        (name.path.display().to_string(), name.snapshot)
    }

    #[test]
    fn images_and_snapshots() {
        assert_eq!(image("disk.img"), ("disk.img".to_owned(), None));
        assert_eq!(
            image("disk.img@monday"),
            ("disk.img".to_owned(), Some("monday".to_owned()))
        );
        assert_eq!(
            image("a@b@c"),
            ("a@b".to_owned(), Some("c".to_owned())),
            "the last one divides"
        );
        assert_eq!(image("home@work/disk"), ("home@work/disk".to_owned(), None));
        for bad in ["", "@", "disk@", "@monday"] {
            ImageName::parse(bad.as_ref()).expect_err(bad);
        }
        ImageName::parse(OsStr::from_bytes(b"disk@\xff")).expect_err("not UTF-8");
    }

    #[test]
    fn a_file_of_that_name_is_the_image() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("disk@home");
        std::fs::write(&path, "").expect("written");
        let name = ImageName::parse(path.as_os_str()).expect("a name");
        assert_eq!((name.path, name.snapshot), (path, None));
    }

    #[test]
    fn ends_of_a_copy() {
        let parse = |text: &str| Location::parse(text.as_ref());
        let inside = |name: &str, path: &str| {
            let image = ImageName::parse(name.as_ref()).expect("a name");
            Ok(Location::Image(image, ImagePath(path.into())))
        };
        assert_eq!(parse("disk:/a/b"), inside("disk", "/a/b"));
        assert_eq!(parse("disk@then:/"), inside("disk@then", "/"));
        assert_eq!(parse("/dev/sdb:/a:/b"), inside("/dev/sdb", "/a:/b"));
        for host in ["a", "./a:b", "/tmp/x", "C:"] {
            assert_eq!(parse(host), Ok(Location::Host(host.into())));
        }
        for bad in ["", ":/a", "disk@:/a"] {
            parse(bad).expect_err(bad);
        }
    }

    #[test]
    fn paths_begin_at_the_root() {
        let parse = |text: &str| ImagePath::parse(text.as_ref()).expect("a path");
        assert_eq!(parse("a/b"), parse("/a/b"));
        assert_eq!(parse("/a/b/").file_name(), Some(b"b".as_slice()));
        assert_eq!(parse("/").file_name(), None);
        assert_eq!(parse("/a/..").file_name(), None);
        assert_eq!(parse("/").join(b"x"), parse("/x"));
        assert_eq!(parse("/a").join(b"x"), parse("/a/x"));
        assert_eq!(parse("/a/b").parent(), parse("/a"));
        assert_eq!(parse("/a").parent(), parse("/"));
        ImagePath::parse("".as_ref()).expect_err("empty");
    }
}
