// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is on the disk: a pseudo-random pattern, and in front of it, where a
//! writer was killed, numbered blocks.

use std::collections::BTreeSet;

use crate::error::Result;

/// The size of a numbered block.
pub const BLOCK: usize = 4096;
/// A write that nobody saw completed may have happened in part.
const SECTOR: usize = 512;

/// `size` pseudo-random bytes (xorshift64*), the same for the same seed.
pub fn generate(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let word = state.wrapping_mul(0x2545_F491_4F6C_DD1D);
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// The line that a numbered block repeats; the guest's scripts write the same.
pub fn numbered_line(seed: u64, number: u64) -> String {
    format!("block {number} of run {seed}\n")
}

/// What a guest writes as block `number`.
pub fn numbered_block(seed: u64, number: u64) -> Vec<u8> {
    let line = numbered_line(seed, number);
    line.bytes().cycle().take(BLOCK).collect()
}

/// The image must hold the pattern.
pub fn check_pattern(image: &[u8], pattern: &[u8]) -> Result<()> {
    check_length(image, pattern)?;
    match image.iter().zip(pattern).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(at) => Err(format!("the image differs from what was written, at byte {at}").into()),
    }
}

/// The image must hold the numbered blocks of `flushed`; every other sector is
/// the pattern's, or that of a numbered block whose flush was not seen.
/// Returns how many blocks were written beyond those seen.
pub fn check_numbered(
    image: &[u8],
    pattern: &[u8],
    seed: u64,
    flushed: &BTreeSet<u64>,
) -> Result<usize> {
    check_length(image, pattern)?;
    let mut unseen = 0;
    for (number, (found, before)) in image.chunks(BLOCK).zip(pattern.chunks(BLOCK)).enumerate() {
        let number = number as u64;
        if found == before && !flushed.contains(&number) {
            continue;
        }
        let written = numbered_block(seed, number);
        if flushed.contains(&number) {
            if found != written {
                return Err(format!("block {number} was flushed and is not on the disk").into());
            }
            continue;
        }
        unseen += 1;
        let sectors = found.chunks(SECTOR).zip(before.chunks(SECTOR));
        for ((found, before), written) in sectors.zip(written.chunks(SECTOR)) {
            if found != before && found != written {
                return Err(format!("block {number} holds what nobody wrote").into());
            }
        }
    }
    Ok(unseen)
}

fn check_length(image: &[u8], pattern: &[u8]) -> Result<()> {
    if image.len() == pattern.len() {
        Ok(())
    } else {
        Err(format!(
            "the image has {} bytes and should have {}",
            image.len(),
            pattern.len()
        )
        .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 7;
    const SIZE: usize = 4 * BLOCK;

    fn with_block(image: &mut [u8], number: u64) {
        let at = number as usize * BLOCK;
        image[at..at + BLOCK].copy_from_slice(&numbered_block(SEED, number));
    }

    #[test]
    fn generates_the_same_for_the_same_seed() {
        let pattern = generate(SEED, 1003);
        assert_eq!(pattern.len(), 1003);
        assert_eq!(pattern, generate(SEED, 1003));
        assert_ne!(pattern, generate(SEED + 2, 1003));
        assert!(pattern
            .chunks(100)
            .all(|part| part.iter().any(|byte| *byte != 0)));
    }

    #[test]
    fn rejects_one_wrong_byte() {
        let pattern = generate(SEED, SIZE);
        let mut image = pattern.clone();
        check_pattern(&image, &pattern).unwrap();
        image[SIZE - 1] ^= 1;
        assert!(check_pattern(&image, &pattern).is_err());
        assert!(check_pattern(&pattern[1..], &pattern).is_err());
    }

    #[test]
    fn rejects_a_lost_flushed_block() {
        let pattern = generate(SEED, SIZE);
        let mut image = pattern.clone();
        let flushed = BTreeSet::from([0, 2]);
        with_block(&mut image, 0);
        assert!(check_numbered(&image, &pattern, SEED, &flushed).is_err());
        with_block(&mut image, 2);
        assert_eq!(check_numbered(&image, &pattern, SEED, &flushed).unwrap(), 0);
        image[2 * BLOCK + 1] ^= 1;
        assert!(check_numbered(&image, &pattern, SEED, &flushed).is_err());
    }

    #[test]
    fn accepts_torn_blocks_only_where_no_flush_was_seen() {
        let pattern = generate(SEED, SIZE);
        let mut image = pattern.clone();
        with_block(&mut image, 1);
        image[BLOCK..BLOCK + SECTOR].copy_from_slice(&pattern[BLOCK..BLOCK + SECTOR]);
        let none = BTreeSet::new();
        assert_eq!(check_numbered(&image, &pattern, SEED, &none).unwrap(), 1);
        let flushed = BTreeSet::from([1]);
        assert!(check_numbered(&image, &pattern, SEED, &flushed).is_err());
        image[BLOCK] ^= 1;
        assert!(check_numbered(&image, &pattern, SEED, &none).is_err());
    }
}
