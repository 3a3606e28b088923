//! One of something for each database.

use crate::{DATABASE_COUNT, DatabaseIndex};

pub(crate) struct PerDatabase<T>([T; DATABASE_COUNT]);

impl<T: Default> Default for PerDatabase<T> {
    fn default() -> Self {
        Self::from_fn(T::default)
    }
}

impl<T> PerDatabase<T> {
    pub(crate) fn from_fn(mut make: impl FnMut() -> T) -> Self {
        Self(core::array::from_fn(|_| make()))
    }

    #[expect(clippy::indexing_slicing, reason = "the remainder is in range")]
    pub(crate) fn of(&self, db: DatabaseIndex) -> &T {
        &self.0[usize::from(db.0) % DATABASE_COUNT]
    }

    #[expect(clippy::indexing_slicing, reason = "the remainder is in range")]
    pub(crate) fn of_mut(&mut self, db: DatabaseIndex) -> &mut T {
        &mut self.0[usize::from(db.0) % DATABASE_COUNT]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (DatabaseIndex, &T)> {
        (0..).map(DatabaseIndex).zip(&self.0)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut()
    }

    pub(crate) fn into_iter(self) -> impl Iterator<Item = (DatabaseIndex, T)> {
        (0..).map(DatabaseIndex).zip(self.0)
    }
}
