// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the guest's writers report, and what it means for the disk.

use super::super::pattern::{numbered_block, BLOCK};
use crate::error::Result;

/// One writer takes the even numbers, one the odd ones.
const WRITERS: usize = 2;

/// How far the writers are, by what they report.
#[derive(Debug, Default)]
pub struct Progress {
    last: [Option<u64>; WRITERS],
    /// One line may be missing: it was printed while the VM went from one
    /// console to the other, half on each.
    torn: bool,
    /// Reports of each since the last [`restart`](Self::restart).
    since: [usize; WRITERS],
}

impl Progress {
    /// Takes note of a line; an error if a writer skips or repeats a number.
    pub fn note(&mut self, line: &str) -> Result<()> {
        let number = line.strip_prefix("flushed ");
        let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) else {
            return Ok(());
        };
        let writer = number as usize % WRITERS;
        let step = WRITERS as u64;
        let next = self.last[writer].map_or(writer as u64, |last| last + step);
        if number == next + step && self.torn {
            self.torn = false;
        } else if number != next {
            return Err(format!("the guest wrote block {number} when {next} was next").into());
        }
        self.last[writer] = Some(number);
        self.since[writer] += 1;
        Ok(())
    }

    /// The VM has another console from now on.
    pub fn migrated(&mut self) {
        self.torn = true;
        self.restart();
    }

    /// Counts anew.
    pub fn restart(&mut self) {
        self.since = [0; WRITERS];
    }

    /// How many blocks each writer has reported since then.
    pub fn since(&self) -> usize {
        self.since.into_iter().min().unwrap_or(0)
    }

    /// How many blocks have been written altogether.
    pub fn total(&self) -> u64 {
        self.last.iter().flatten().map(|last| last / 2 + 1).sum()
    }

    /// Whether the numbers that the writers would take next go with what they
    /// reported. The last report may be the one that was torn.
    pub fn agrees_with(&self, next: &[u64]) -> bool {
        let step = WRITERS as u64;
        let goes_on = |(last, next): (&Option<u64>, &u64)| {
            last.is_some_and(|last| *next == last + step || (self.torn && *next == last + 2 * step))
        };
        next.len() == WRITERS && self.last.iter().zip(next).all(goes_on)
    }
}

/// Puts the numbered blocks below the `next` one of each writer on a disk; they
/// have `blocks` places, in turn.
pub fn put_numbered(disk: &mut [u8], blocks: u64, seed: u64, next: &[u64]) {
    for (first, next) in (0u64..).zip(next) {
        // Later ones overwrite earlier ones.
        let from = next.saturating_sub(blocks);
        let from = from + (first + from) % 2;
        for number in (from..*next).step_by(WRITERS) {
            let at = (number % blocks) as usize * BLOCK;
            let place = disk.get_mut(at..at + BLOCK);
            if let Some(place) = place {
                place.copy_from_slice(&numbered_block(seed, number));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(progress: &mut Progress, numbers: &[u64]) -> Result<()> {
        let mut note = |number| progress.note(&format!("flushed {number}"));
        numbers.iter().try_for_each(|number| note(*number))
    }

    #[test]
    fn rejects_numbers_that_are_skipped_or_repeated() {
        for numbers in [&[0, 2, 2], &[0, 2, 6], &[1, 3, 1], &[0, 1, 5]] {
            assert!(note(&mut Progress::default(), numbers).is_err());
        }
        let mut progress = Progress::default();
        note(&mut progress, &[0, 2, 1, 4, 3]).unwrap();
        assert_eq!((progress.since(), progress.total()), (2, 5));
        assert!(progress.agrees_with(&[6, 5]) && !progress.agrees_with(&[8, 5]));
        assert!(!progress.agrees_with(&[6]));
    }

    #[test]
    fn accepts_one_torn_line_where_the_vm_was_migrated() {
        let mut progress = Progress::default();
        note(&mut progress, &[0, 1, 2, 3]).unwrap();
        progress.migrated();
        assert_eq!(progress.since(), 0);
        note(&mut progress, &[4, 7]).unwrap();
        assert!(note(&mut progress, &[8]).is_err(), "6 is missing");
    }

    #[test]
    fn later_blocks_overwrite_earlier_ones() {
        let mut disk = vec![0; 5 * BLOCK];
        put_numbered(&mut disk, 4, 7, &[6, 3]);
        let numbers = [4, 1, 2];
        for (place, number) in disk.chunks(BLOCK).zip(numbers) {
            assert_eq!(place, numbered_block(7, number));
        }
        assert!(disk[3 * BLOCK..].iter().all(|byte| *byte == 0));
    }
}
