// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is written to the disk, and what must come back.

use crate::loopback::failure::Failure;

/// The workload's unit: requests are made of whole blocks.
pub const BLOCK: usize = 4096;

/// Deterministic random numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each (seed, stream).
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        Self(random.next())
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Fills a block with random data that begins with its number, so that a block
/// in the wrong place is seen.
pub fn fill(block: &mut [u8], number: u64, random: &mut Random) {
    let mut words = block.chunks_exact_mut(8);
    if let Some(first) = words.next() {
        first.copy_from_slice(&number.to_le_bytes());
    }
    for word in words {
        word.copy_from_slice(&random.next().to_le_bytes());
    }
}

/// A 64-bit sum of a block; 0 does not occur.
pub fn checksum(block: &[u8]) -> u64 {
    let mut sum = 0x243F_6A88_85A3_08D3_u64;
    for word in block.chunks_exact(8) {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(word);
        let mixed = (sum ^ u64::from_le_bytes(bytes)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        sum = mixed ^ (mixed >> 29);
    }
    sum.max(1)
}

/// The checksum that each block of a part of the disk must have.
///
/// A block that was never written has the checksum of its first read.
#[derive(Clone, Debug)]
pub struct Model {
    first: u64,
    checksums: Vec<u64>,
}

impl Model {
    /// Knows nothing yet about the blocks from `first` on.
    pub fn new(first: u64, blocks: u64) -> Self {
        Self {
            first,
            checksums: vec![0; blocks as usize],
        }
    }

    /// The number of the first block.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The number of blocks.
    pub fn len(&self) -> u64 {
        self.checksums.len() as u64
    }

    /// Notes that a block was written.
    pub fn written(&mut self, number: u64, data: &[u8]) {
        self.checksums[(number - self.first) as usize] = checksum(data);
    }

    /// Notes that a block may hold anything.
    pub fn forget(&mut self, number: u64) {
        self.checksums[(number - self.first) as usize] = 0;
    }

    /// Whether the block's content is known.
    pub fn knows(&self, number: u64) -> bool {
        self.checksums[(number - self.first) as usize] != 0
    }

    /// The number of blocks with known content.
    pub fn known(&self) -> u64 {
        let known = self.checksums.iter().filter(|sum| **sum != 0);
        known.count() as u64
    }

    /// Checks a block that was read.
    pub fn verify(&mut self, number: u64, data: &[u8]) -> Result<(), Failure> {
        let expected = &mut self.checksums[(number - self.first) as usize];
        let found = checksum(data);
        if *expected == 0 {
            *expected = found;
        }
        if *expected == found {
            return Ok(());
        }
        let mut label = [0; 8];
        label.copy_from_slice(&data[..8]);
        let label = u64::from_le_bytes(label);
        Err(Failure::Mismatch(format!(
            "block {number} (of {BLOCK} bytes) has {found:#018x}, must have {:#018x}; its data \
             is labelled as block {label}",
            *expected
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(number: u64, seed: u64) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        fill(&mut block, number, &mut Random::new(seed, 0));
        block
    }

    #[test]
    fn remembers_the_first_read_and_the_last_write() {
        let mut model = Model::new(10, 2);
        assert!(!model.knows(11));
        model.verify(11, &block(11, 1)).unwrap();
        assert!(model.knows(11));
        model.verify(11, &block(11, 1)).unwrap();
        model.verify(11, &block(11, 2)).unwrap_err();
        model.written(11, &block(11, 2));
        model.verify(11, &block(11, 2)).unwrap();
        model.forget(11);
        assert!(!model.knows(11));
        model.verify(11, &block(11, 3)).unwrap();
    }

    #[test]
    fn sees_one_wrong_bit() {
        let mut model = Model::new(0, 1);
        let mut data = block(0, 1);
        model.written(0, &data);
        data[4095] ^= 0x80;
        let failure = model.verify(0, &data).unwrap_err();
        assert!(matches!(failure, Failure::Mismatch(_)));
    }
}
