//! Which algorithms a file system uses: the setting, and where it is kept (SPEC.md, "Property").
//!
//! The setting says how things are written from here on. How something was written stands with it, so everything that
//! is there stays readable whatever the setting is, and nothing is written anew for its sake.

use crate::tree::ItemKey;
use crate::{BlockDevice, FileError, FileSystem, ItemKind, View};

/// The property that says how things are compressed.
pub(crate) const COMPRESSION_PROPERTY: ItemKey = ItemKey {
    object: 0,
    kind: ItemKind::Property,
    position: 1,
};

/// How a file system compresses what it writes. Only what saves at least an eighth is kept compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all: lengths tell nothing about content.
    Off = 0,
    /// With LZ4, when it is written.
    #[default]
    Lz4 = 1,
    /// With LZ4 when it is written, and with deflate what has been moved by the cleaner again and again.
    Cold = 2,
}

impl Compression {
    /// All settings.
    pub const ALL: [Self; 3] = [Self::Off, Self::Lz4, Self::Cold];

    /// The name that users know it by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Lz4 => "lz4",
            Self::Cold => "cold",
        }
    }

    /// The setting with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|setting| setting.name() == name)
    }

    /// The value of the property.
    pub(crate) const fn number(self) -> u8 {
        self as u8
    }

    /// The setting in a property's value; `None` if it says none.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let [number] = value else {
            return None;
        };
        Self::ALL
            .into_iter()
            .find(|setting| setting.number() == *number)
    }
}

impl core::fmt::Display for Compression {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

impl<D: BlockDevice> FileSystem<D> {
    /// How this file system compresses what it writes.
    pub fn compression(&self) -> Compression {
        self.vault.compression()
    }

    /// Sets how it does from here on, in this mount and those to come. Durable on return.
    ///
    /// # Errors
    /// [`FileError::NoSpace`], [`FileError::ReadOnly`]; what it does then is what it did.
    pub async fn set_compression(&self, setting: Compression) -> Result<(), FileError> {
        if self.compression() == setting {
            return Ok(());
        }
        let set = self.transact(0, |transaction| {
            transaction.put(COMPRESSION_PROPERTY, [setting.number()].to_vec());
            Ok(())
        });
        let ((), commit) = set.await?;
        self.wait_durable(commit).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_names_and_numbers_and_nothing_else_does() {
        for setting in Compression::ALL {
            assert_eq!(Compression::from_name(setting.name()), Some(setting));
            assert_eq!(Compression::decode(&[setting.number()]), Some(setting));
        }
        assert_eq!(Compression::from_name("LZ4"), None);
        for value in [&[][..], &[3], &[255], &[1, 0]] {
            assert_eq!(Compression::decode(value), None);
        }
    }
}
