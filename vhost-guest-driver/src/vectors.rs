// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A set of MSI-X vectors.

/// How many vectors a [`VectorSet`] can tell apart, more than a vhost-guest
/// device of 256 vhost queues has (263).
pub const MAX_VECTORS: u16 = 320;

const WORDS: usize = (MAX_VECTORS / 64) as usize;

/// A set of MSI-X vectors below [`MAX_VECTORS`].
///
/// ```
/// use vhost_guest_driver::VectorSet;
///
/// let mut raised = VectorSet::new();
/// raised.insert(3);
/// assert!(raised.contains(3) && !raised.contains(4));
/// assert_eq!(raised.iter().collect::<Vec<_>>(), [3]);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VectorSet {
    words: [u64; WORDS],
}

impl VectorSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self { words: [0; WORDS] }
    }

    /// Adds `vector`; one that is out of range is ignored.
    pub fn insert(&mut self, vector: u16) {
        if let Some(word) = self.words.get_mut(usize::from(vector / 64)) {
            *word |= 1 << (vector % 64);
        }
    }

    /// Whether `vector` is in the set.
    pub fn contains(&self, vector: u16) -> bool {
        self.words
            .get(usize::from(vector / 64))
            .is_some_and(|word| word & (1 << (vector % 64)) != 0)
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word |= other;
        }
    }

    /// The vectors in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..MAX_VECTORS).filter(|vector| self.contains(*vector))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_the_first_and_the_last_vector() {
        let mut set = VectorSet::new();
        assert!(set.is_empty());
        set.insert(0);
        set.insert(MAX_VECTORS - 1);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, MAX_VECTORS - 1]);
    }

    #[test]
    fn ignores_vectors_out_of_range() {
        let mut set = VectorSet::new();
        set.insert(MAX_VECTORS);
        set.insert(u16::MAX);
        assert!(set.is_empty());
        assert!(!set.contains(MAX_VECTORS) && !set.contains(u16::MAX));
    }

    #[test]
    fn merges() {
        let (mut a, mut b) = (VectorSet::new(), VectorSet::new());
        a.insert(1);
        b.insert(200);
        a.merge(&b);
        assert_eq!(a.iter().collect::<Vec<_>>(), [1, 200]);
    }
}
