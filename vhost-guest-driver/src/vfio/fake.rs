// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A kernel that says what the tests want it to say.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use super::abi::{Argument, Request};
use super::kernel::Calls;
use super::{Vfio, VfioError};
use crate::vectors::MAX_VECTORS;
use crate::window::Window;

pub const MIB: u64 = 1 << 20;

/// What `vfio_region_info` says; capabilities follow.
#[derive(Clone, Default)]
pub struct FakeRegion {
    pub flags: u32,
    pub offset: u64,
    pub size: u64,
    /// Bytes behind the structure, at 32.
    pub capabilities: Vec<u8>,
}

pub const READ_WRITE: u32 = 3;
pub const MMAP: u32 = 4;
pub const CAPS: u32 = 8;

/// What the kernel says and does.
pub struct State {
    pub device_flags: u32,
    pub regions: [FakeRegion; 8],
    pub num_regions: u32,
    /// Flags and count.
    pub msix: (u32, u32),
    pub num_irqs: u32,
    /// Flags, page sizes, capabilities.
    pub iommu: (u32, u64, Vec<u8>),
    /// What `argsz` comes back as.
    pub wanted: Option<u32>,
    pub refused: Option<Request>,
    pub refuse_reset: bool,
    /// Eventfds that can be had.
    pub most_vectors: usize,
    /// Whether that is told.
    pub tells_vectors: bool,
    pub answers: Vec<u32>,
    /// Calls for vectors.
    pub attempts: u32,
    pub eventfds: Vec<OwnedFd>,
    pub resets: u32,
    pub mapped: Vec<(u64, u64)>,
}

#[derive(Clone)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    pub file: Arc<File>,
}

/// A capability: its id, where the next one is, and 32-bit words.
pub fn capability(id: u16, next: u32, words: &[u32]) -> Vec<u8> {
    let mut bytes = [id.to_ne_bytes(), 1u16.to_ne_bytes()].concat();
    for word in [next].iter().chain(words) {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}

/// Halves of 64-bit numbers, for [`capability`].
fn halves(numbers: &[u64]) -> Vec<u32> {
    let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_ne_bytes()).collect();
    let words = bytes.chunks_exact(4);
    words
        .map(|word| u32::from_ne_bytes(word.try_into().unwrap()))
        .collect()
}

/// Words of a capability that lists pairs.
pub fn list(count: u32, pairs: &[u64]) -> Vec<u32> {
    [vec![count, 0], halves(pairs)].concat()
}

impl Fake {
    /// A function as vfio-pci shows it: three BARs that can be mapped.
    pub fn new() -> Self {
        let file = rustix::fs::memfd_create("vfio", rustix::fs::MemfdFlags::CLOEXEC);
        let file = File::from(file.unwrap());
        file.set_len(9 << 40).unwrap();
        let mut regions: [FakeRegion; 8] = Default::default();
        for (index, size) in [(0, 0x4000), (2, 0x1000), (4, 4 * MIB)] {
            regions[index] = FakeRegion {
                flags: READ_WRITE | MMAP,
                offset: (index as u64) << 40,
                size,
                capabilities: Vec::new(),
            };
        }
        regions[7] = FakeRegion {
            flags: READ_WRITE,
            offset: 7 << 40,
            size: 256,
            ..FakeRegion::default()
        };
        let ranges = [0, 0xfedf_ffff, 0xfef0_0000, u64::MAX];
        let state = State {
            device_flags: 3,
            regions,
            num_regions: 9,
            msix: (9, 9),
            num_irqs: 5,
            iommu: (3, 0x4020_1000, capability(1, 0, &list(2, &ranges))),
            wanted: None,
            refused: None,
            refuse_reset: false,
            most_vectors: usize::MAX,
            tells_vectors: true,
            answers: Vec::new(),
            attempts: 0,
            eventfds: Vec::new(),
            resets: 0,
            mapped: Vec::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            file: Arc::new(file),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn open(&self) -> Result<Vfio, VfioError> {
        Vfio::new(Box::new(self.clone()))
    }

    /// What the transport says to what the kernel says after `change`.
    pub fn with(change: impl FnOnce(&mut State)) -> Result<Vfio, VfioError> {
        let fake = Self::new();
        change(&mut fake.state());
        fake.open()
    }

    pub fn raise(&self, vector: usize) {
        rustix::io::write(&self.state().eventfds[vector], &1u64.to_ne_bytes()).unwrap();
    }
}

impl State {
    fn answer(&self, request: Request, argument: &mut Argument) -> io::Result<()> {
        if self.refused == Some(request) {
            return Err(ErrorKind::Unsupported.into());
        }
        let index = argument.u32(8).unwrap() as usize;
        let words: &[(usize, u32)] = match request {
            Request::DeviceInfo => &[
                (4, self.device_flags),
                (8, self.num_regions),
                (12, self.num_irqs),
            ],
            Request::RegionInfo => {
                let region = &self.regions[index];
                argument.answer(16, &region.size.to_ne_bytes());
                argument.answer(24, &region.offset.to_ne_bytes());
                argument.answer(32, &region.capabilities);
                let first = u32::from(!region.capabilities.is_empty()) * 32;
                &[(4, region.flags), (12, first)]
            }
            Request::IrqInfo if index == 2 => &[(4, self.msix.0), (12, self.msix.1)],
            Request::IommuInfo => {
                let (flags, sizes, capabilities) = &self.iommu;
                argument.answer(8, &sizes.to_ne_bytes());
                argument.answer(24, capabilities);
                &[(4, *flags), (16, 24)]
            }
            _ => panic!("{request:?}"),
        };
        for (at, word) in words {
            argument.answer(*at, &word.to_ne_bytes());
        }
        if let Some(wanted) = self.wanted {
            argument.answer(0, &wanted.to_ne_bytes());
        }
        Ok(())
    }
}

impl Calls for Fake {
    fn device(&self, request: Request, argument: &mut Argument) -> io::Result<()> {
        self.state().answer(request, argument)
    }

    fn iommu(&self, request: Request, argument: &mut Argument) -> io::Result<()> {
        self.state().answer(request, argument)
    }

    fn map_dma(&self, memory: &Window, address: u64) -> io::Result<()> {
        let mut state = self.state();
        if state.refused == Some(Request::MapDma) {
            return Err(ErrorKind::OutOfMemory.into());
        }
        state.mapped.push((address, memory.len()));
        Ok(())
    }

    fn set_vectors(&self, eventfds: &[OwnedFd]) -> io::Result<u32> {
        let mut state = self.state();
        state.attempts += 1;
        if state.refused == Some(Request::SetIrqs) {
            return Err(ErrorKind::Unsupported.into());
        }
        if let Some(answer) = state.answers.pop() {
            return Ok(answer);
        }
        if eventfds.len() > state.most_vectors {
            return match state.tells_vectors {
                true => Ok(state.most_vectors as u32),
                false => Err(rustix::io::Errno::NOSPC.into()),
            };
        }
        let copies = eventfds.iter().map(|eventfd| eventfd.try_clone().unwrap());
        state.eventfds = copies.collect();
        Ok(0)
    }

    fn reset(&self) -> io::Result<()> {
        let mut state = self.state();
        state.resets += 1;
        match state.refuse_reset {
            true => Err(ErrorKind::ResourceBusy.into()),
            false => Ok(()),
        }
    }

    fn file(&self) -> &File {
        &self.file
    }
}

/// A kernel that says anything, mostly small numbers.
pub struct Noise {
    state: Cell<u64>,
    file: File,
}

impl Noise {
    pub fn new(seed: u64, file: File) -> Self {
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).into();
        Self { state, file }
    }

    fn next(&self) -> u64 {
        // xorshift64
        let mut x = self.state.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.state.set(x);
        x
    }

    fn word(&self) -> u32 {
        match self.next() % 8 {
            0 => self.next() as u32,
            1 => 0x1000 << (self.next() % 20),
            2 => u32::MAX - (self.next() % 16) as u32,
            3 => 0,
            _ => (self.next() % 64) as u32,
        }
    }

    fn answer(&self, argument: &mut Argument) -> io::Result<()> {
        if self.next().is_multiple_of(64) {
            return Err(ErrorKind::Unsupported.into());
        }
        for at in (4..200).step_by(4) {
            argument.answer(at, &self.word().to_ne_bytes());
        }
        // Now and then what is good enough to come further.
        if !self.next().is_multiple_of(16) {
            let flags = [3u32, 7, 7, 7, 7, 7, 7, 15][self.next() as usize % 8];
            argument.answer(4, &flags.to_ne_bytes());
            argument.answer(8, &9u32.to_ne_bytes());
            let offset = (self.next() % 1024) << 12;
            argument.answer(16, &0x1000u64.to_ne_bytes());
            argument.answer(24, &offset.to_ne_bytes());
        }
        Ok(())
    }
}

impl Calls for Noise {
    fn device(&self, _: Request, argument: &mut Argument) -> io::Result<()> {
        self.answer(argument)
    }

    fn iommu(&self, _: Request, argument: &mut Argument) -> io::Result<()> {
        self.answer(argument)?;
        for (at, word) in [(4, 3u32), (8, 0x1000), (12, 0), (16, 24), (24, 1), (32, 2)] {
            if !self.next().is_multiple_of(16) {
                argument.answer(at, &word.to_ne_bytes());
            }
        }
        Ok(())
    }

    fn map_dma(&self, memory: &Window, address: u64) -> io::Result<()> {
        assert!(address != 0 && address.checked_add(memory.len()).is_some());
        Ok(())
    }

    fn set_vectors(&self, eventfds: &[OwnedFd]) -> io::Result<u32> {
        assert!(eventfds.len() <= usize::from(MAX_VECTORS));
        Ok(self.word() % 2)
    }

    fn reset(&self) -> io::Result<()> {
        Ok(())
    }

    fn file(&self) -> &File {
        &self.file
    }
}
