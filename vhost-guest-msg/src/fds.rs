// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The descriptors that came with a message.

use alloc::vec::{self, Vec};
use core::fmt;
use core::iter::Chain;
use core::option;

use crate::error::Reason;

/// The descriptors that travel next to a message's bytes, in order.
///
/// The crate never does anything with a descriptor but hold it, so the type
/// `F` is open: an `OwnedFd` on a socket, a wrapper with rules for closing, a
/// plain number in a test. None or one take no heap.
///
/// On a virtqueue messages have no descriptors, whatever the protocol says
/// about them; that is [`Fds::detached`].
///
/// ```
/// use vhost_guest_msg::Fds;
///
/// let mut fds: Fds<&str> = ["memory", "log"].into_iter().collect();
/// assert_eq!(fds.take_one(), Some("memory"));
/// assert_eq!(fds.len(), 1);
/// ```
pub struct Fds<F>(Held<F>);

enum Held<F> {
    None,
    One(F),
    Many(Vec<F>),
    /// Makes as many as a message's rule asks for.
    Detached(fn() -> F),
}

impl<F> Fds<F> {
    /// No descriptor.
    #[must_use]
    pub const fn new() -> Self {
        Self(Held::None)
    }

    /// One descriptor.
    #[must_use]
    pub const fn one(fd: F) -> Self {
        Self(Held::One(fd))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Held::None | Held::Detached(_) => 0,
            Held::One(_) => 1,
            Held::Many(fds) => fds.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes and returns the first one.
    pub fn take_one(&mut self) -> Option<F> {
        let mut fds = core::mem::take(self).into_iter();
        let first = fds.next();
        *self = fds.collect();
        first
    }

    /// Adds the descriptors of `other` behind these.
    pub fn append(&mut self, other: Self) {
        if !other.is_empty() {
            *self = core::mem::take(self).into_iter().chain(other).collect();
        }
    }

    /// Accepts no descriptor.
    pub(crate) fn expect_none(&mut self) -> Result<(), Reason> {
        self.expect_count(0, 0)
    }

    /// Takes the only descriptor. On an error nothing is taken.
    pub(crate) fn expect_one(&mut self) -> Result<F, Reason> {
        let (expected, actual) = (1, self.len());
        match core::mem::take(self).0 {
            Held::One(fd) => Ok(fd),
            Held::Detached(make) => Ok(make()),
            other => {
                *self = Self(other);
                Err(Reason::FdCount { expected, actual })
            }
        }
    }

    /// Takes the only descriptor if there is one.
    pub(crate) fn expect_at_most_one(&mut self) -> Result<Option<F>, Reason> {
        self.expect_count(0, 1)?;
        Ok(self.take_one())
    }

    /// Takes `count` descriptors, which have to be all.
    pub(crate) fn expect_exactly(&mut self, count: usize) -> Result<Vec<F>, Reason> {
        if let Held::Detached(make) = self.0 {
            return Ok((0..count).map(|_| make()).collect());
        }
        self.expect_count(count, count)?;
        Ok(match core::mem::take(self).0 {
            Held::Many(fds) => fds,
            other => Self(other).into_iter().collect(),
        })
    }

    fn expect_count(&self, least: usize, most: usize) -> Result<(), Reason> {
        let actual = self.len();
        if (least..=most).contains(&actual) {
            return Ok(());
        }
        let expected = most;
        Err(Reason::FdCount { expected, actual })
    }
}

impl Fds<()> {
    /// The descriptors of a message on a virtqueue: absent, and right for
    /// every message.
    #[must_use]
    pub const fn detached() -> Self {
        Self(Held::Detached(|| ()))
    }
}

impl<F> Default for Fds<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F> fmt::Debug for Fds<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fds({})", self.len())
    }
}

impl<F: PartialEq> PartialEq for Fds<F> {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl<F: Eq> Eq for Fds<F> {}

impl<F> Fds<F> {
    /// All of them, borrowed (to send them, say).
    #[must_use]
    pub fn as_slice(&self) -> &[F] {
        match &self.0 {
            Held::None | Held::Detached(_) => &[],
            Held::One(fd) => core::slice::from_ref(fd),
            Held::Many(fds) => fds,
        }
    }
}

impl<F> FromIterator<F> for Fds<F> {
    fn from_iter<I: IntoIterator<Item = F>>(fds: I) -> Self {
        let mut fds = fds.into_iter();
        Self(match (fds.next(), fds.next()) {
            (None, _) => Held::None,
            (Some(fd), None) => Held::One(fd),
            (Some(first), Some(second)) => {
                Held::Many([first, second].into_iter().chain(fds).collect())
            }
        })
    }
}

impl<F> IntoIterator for Fds<F> {
    type Item = F;
    type IntoIter = Chain<option::IntoIter<F>, vec::IntoIter<F>>;

    fn into_iter(self) -> Self::IntoIter {
        let (one, many) = match self.0 {
            Held::None | Held::Detached(_) => (None, Vec::new()),
            Held::One(fd) => (Some(fd), Vec::new()),
            Held::Many(fds) => (None, fds),
        };
        one.into_iter().chain(many)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_order() {
        let mut fds: Fds<u8> = (0..4).collect();
        assert_eq!(fds.take_one(), Some(0));
        fds.append(Fds::one(4));
        assert_eq!(fds.as_slice(), [1, 2, 3, 4]);
        assert_eq!(fds.expect_exactly(4).unwrap(), [1, 2, 3, 4]);
        assert!(fds.is_empty());
        assert_eq!(fds.take_one(), None);
    }

    #[test]
    fn rejects_a_wrong_count_and_takes_nothing() {
        for count in 0..4 {
            let mut fds: Fds<usize> = (0..count).collect();
            if count != 0 {
                assert!(fds.expect_none().is_err());
            }
            if count != 1 {
                let (expected, actual) = (1, count);
                let error = Reason::FdCount { expected, actual };
                assert_eq!(fds.expect_one(), Err(error));
            }
            if count > 1 {
                assert!(fds.expect_at_most_one().is_err());
            }
            assert!(fds.expect_exactly(count + 1).is_err());
            assert_eq!(fds.len(), count);
        }
    }

    #[test]
    fn detached_is_right_for_every_rule() {
        assert_eq!(Fds::detached().expect_none(), Ok(()));
        assert_eq!(Fds::detached().expect_one(), Ok(()));
        assert_eq!(Fds::detached().expect_at_most_one(), Ok(None));
        assert_eq!(Fds::detached().expect_exactly(3).unwrap().len(), 3);
        assert!(Fds::detached().is_empty());
    }
}
