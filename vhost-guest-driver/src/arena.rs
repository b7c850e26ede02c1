// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory for DMA that is there from the beginning, and handed out once.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::transport::DmaMemory;

/// What is handed out: whole pages.
const PAGE: u64 = 4096;

/// Memory that the device can access, from which parts are taken.
pub struct Arena {
    dma: DmaMemory,
    used: AtomicU64,
}

impl Arena {
    /// All of `dma`, of which nothing is taken yet.
    pub fn new(dma: DmaMemory) -> Self {
        let used = AtomicU64::new(0);
        Self { dma, used }
    }

    /// The next `len` bytes, in whole pages.
    pub fn allocate(&self, len: usize) -> Option<DmaMemory> {
        let len = u64::try_from(len).ok()?.checked_next_multiple_of(PAGE)?;
        let end = |used: u64| {
            let end = used.checked_add(len)?;
            (end <= self.dma.memory.len()).then_some(end)
        };
        let offset = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, end)
            .ok()?;
        Some(DmaMemory {
            memory: self.dma.memory.slice(offset, len).ok()?,
            address: self.dma.address.checked_add(offset)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::Window;

    #[test]
    fn hands_out_memory_once() {
        let arena = Arena::new(DmaMemory {
            memory: Window::allocate(0x4000).unwrap(),
            address: 0x1000_0000,
        });
        let first = arena.allocate(1).unwrap();
        let second = arena.allocate(0x3000).unwrap();
        assert_eq!((first.address, first.memory.len()), (0x1000_0000, 0x1000));
        assert_eq!((second.address, second.memory.len()), (0x1000_1000, 0x3000));
        assert!(arena.allocate(1).is_none());
        assert!(arena.allocate(usize::MAX).is_none());
    }
}
