// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The guest's memory, by the addresses that its driver gives.
//!
//! They are guest physical addresses, unless the VMM has a virtual IOMMU in
//! front of the device and the driver has accepted `VIRTIO_F_ACCESS_PLATFORM`:
//! then they are I/O virtual ones, of the rings and of the buffers, and the
//! VMM's [`AddressTranslator`] knows what they mean. Neighbours need not stay
//! neighbours, so an access is translated piece by piece.

use std::io;
use std::iter::FusedIterator;
use std::ops::Deref;
use std::sync::Arc;
use std::vec;

use vhost_guest_vmm_traits::{Access, AddressTranslator, Translation};
use vm_memory::bitmap::{BitmapSlice, BS};
use vm_memory::guest_memory::{Error, GuestMemorySliceIterator, Result};
use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemory, Permissions, VolatileSlice};

use crate::guest::virtio::feature;

/// Pieces that a range may consist of. It bounds the time that one descriptor
/// of a guest's takes: 4 MiB of pages that are translated one by one.
const MAX_PIECES: usize = 1024;

/// The guest's memory, and how the driver's addresses are translated.
#[derive(Clone)]
pub(crate) struct DriverMemory<M> {
    space: M,
    translator: Option<Arc<dyn AddressTranslator>>,
}

impl<M: GuestAddressSpace> DriverMemory<M> {
    /// The memory of a device for life: a reset changes neither.
    pub(crate) fn new(space: M, translator: Option<Arc<dyn AddressTranslator>>) -> Self {
        Self { space, translator }
    }

    /// The memory as it is now, for a driver that has accepted `features`.
    pub(crate) fn view(&self, features: u64) -> View<M::T> {
        let translated = features & feature::ACCESS_PLATFORM != 0;
        View {
            memory: self.space.memory(),
            translator: self.translator.clone().filter(|_| translated),
        }
    }
}

/// A snapshot of the memory as the driver addresses it.
pub(crate) struct View<T> {
    memory: T,
    translator: Option<Arc<dyn AddressTranslator>>,
}

/// A contiguous piece of guest physical memory.
type Piece = (GuestAddress, usize);

/// Translates a whole range, if all of it is mapped for `access`.
fn translate(
    translator: &dyn AddressTranslator,
    address: GuestAddress,
    count: usize,
    access: Permissions,
) -> Result<Vec<Piece>> {
    let refused = |rule: Untranslated| Error::IOError(io::Error::other(rule));
    let access = match access {
        Permissions::Write => Access::Write,
        // Nobody here asks for both at once.
        _ => Access::Read,
    };
    let (mut iova, mut rest) = (address.0, count as u64);
    if iova.checked_add(rest).is_none() {
        return Err(refused(Untranslated::Overflow));
    }
    let mut pieces = Vec::new();
    while rest > 0 && pieces.len() < MAX_PIECES {
        let translated = translator.translate(iova, rest, access);
        let Translation {
            guest_address,
            length,
        } = translated.map_err(|error| refused(Untranslated::Unmapped(error)))?;
        let length = length.min(rest);
        if length == 0 {
            return Err(refused(Untranslated::Nothing));
        }
        pieces.push((GuestAddress(guest_address), length as usize));
        // Both stay within the range that was checked above.
        iova += length;
        rest -= length;
    }
    match rest {
        0 => Ok(pieces),
        _ => Err(refused(Untranslated::Pieces)),
    }
}

/// Why a range of I/O virtual addresses is no memory.
#[derive(Debug, thiserror::Error)]
enum Untranslated {
    /// It runs over the end of the address space.
    #[error("the range has no end")]
    Overflow,
    /// The driver has not mapped it for the access.
    #[error("not mapped: {0}")]
    Unmapped(#[source] io::Error),
    /// The VMM's translator says where it is, but of no byte.
    #[error("translated to nothing")]
    Nothing,
    /// It is scattered over too many places.
    #[error("in too many pieces")]
    Pieces,
}

impl<T> GuestMemory for View<T>
where
    T: Deref,
    T::Target: GuestMemory + Sized,
{
    type PhysicalMemory = <T::Target as GuestMemory>::PhysicalMemory;
    type Bitmap = <T::Target as GuestMemory>::Bitmap;

    fn check_range(&self, address: GuestAddress, count: usize, access: Permissions) -> bool {
        let Some(translator) = &self.translator else {
            return self.memory.check_range(address, count, access);
        };
        let pieces = translate(&**translator, address, count, access).unwrap_or_default();
        let mut all = pieces.iter();
        let found = all.all(|(address, length)| self.memory.check_range(*address, *length, access));
        found && (count == 0 || !pieces.is_empty())
    }

    fn get_slices<'a>(
        &'a self,
        address: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> Result<impl GuestMemorySliceIterator<'a, BS<'a, Self::Bitmap>>> {
        let Some(translator) = &self.translator else {
            let direct = self.memory.get_slices(address, count, access)?;
            return Ok(Slices::Direct(direct));
        };
        let pieces = translate(&**translator, address, count, access)?;
        let mut slices = Vec::new();
        for (address, length) in pieces {
            slices.extend(self.memory.get_slices(address, length, access)?);
        }
        Ok(Slices::Translated(slices.into_iter()))
    }

    fn physical_memory(&self) -> Option<&Self::PhysicalMemory> {
        match self.translator {
            None => self.memory.physical_memory(),
            Some(_) => None,
        }
    }
}

/// The slices of a range.
enum Slices<I, S> {
    Direct(I),
    Translated(vec::IntoIter<S>),
}

impl<I: Iterator> Iterator for Slices<I, I::Item> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        match self {
            Self::Direct(slices) => slices.next(),
            Self::Translated(slices) => slices.next(),
        }
    }
}

impl<I: FusedIterator> FusedIterator for Slices<I, I::Item> {}

impl<'a, B, I> GuestMemorySliceIterator<'a, B> for Slices<I, Result<VolatileSlice<'a, B>>>
where
    B: BitmapSlice,
    I: GuestMemorySliceIterator<'a, B>,
{
}

#[cfg(test)]
mod tests;
