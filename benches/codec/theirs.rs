// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! With the types of the `vhost` crate.
//!
//! Its header type and its parser are private and take a socket, so the header
//! is read here, with the checks that it makes; the bodies are its own types,
//! checked as its request handler does. Descriptors are an `Option<Vec<_>>`,
//! as there. It does not compare regions with each other, nor check those of
//! ADD_MEM_REG.

use std::mem::size_of;

use vhost::vhost_user::message::{
    VhostUserMemory, VhostUserMemoryRegion, VhostUserMsgValidator, VhostUserSingleMemoryRegion,
    VhostUserU64, VhostUserVringAddr, VhostUserVringState,
};
use vhost_guest_msg::frontend;
use vm_memory::ByteValued;

use super::{place, Fd, Sample};

const HEADER: usize = 12;
const MAX_MSG_SIZE: usize = 0x1000;
/// Reserved flags, and the version: 1.
const VERSION_AND_RESERVED: u32 = !0xC;

/// Reads a message, moves it into the window, and writes it into `buffer`.
pub fn relay(sample: &Sample, buffer: &mut [u8]) -> Option<usize> {
    let bytes = &sample.bytes;
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (code, flags, size) = (word(0)?, word(4)?, word(8)? as usize);
    let valid = flags & VERSION_AND_RESERVED == 1 && size <= MAX_MSG_SIZE;
    if !valid || bytes.len() != HEADER + size {
        return None;
    }
    let files = (!sample.fds.is_empty()).then(|| sample.fds.clone());
    let body = bytes.get(HEADER..)?;
    let (header, out) = buffer.split_at_mut_checked(HEADER)?;
    header.copy_from_slice(&bytes[..HEADER]);
    let out = out.get_mut(..size)?;
    match code {
        frontend::SET_MEM_TABLE => mem_table(body, files, out)?,
        frontend::ADD_MEM_REG => {
            take_one(files)?;
            let region = read::<VhostUserSingleMemoryRegion>(body)?;
            let region = VhostUserSingleMemoryRegion::new(
                region.guest_phys_addr,
                region.memory_size,
                place(region.user_addr),
                region.mmap_offset,
            );
            out.copy_from_slice(region.as_slice());
        }
        frontend::SET_VRING_ADDR => {
            let mut addr = read::<VhostUserVringAddr>(body)?;
            addr.descriptor = place(addr.descriptor);
            addr.used = place(addr.used);
            addr.available = place(addr.available);
            out.copy_from_slice(addr.as_slice());
        }
        frontend::SET_VRING_KICK => {
            let value = read::<VhostUserU64>(body)?;
            if value.value & 0x100 == 0 {
                take_one(files)?;
            }
            out.copy_from_slice(value.as_slice());
        }
        _ => out.copy_from_slice(read::<VhostUserVringState>(body)?.as_slice()),
    }
    Some(HEADER + size)
}

/// A body of exactly this type that says of itself that it is valid.
fn read<T: ByteValued + Default + VhostUserMsgValidator>(body: &[u8]) -> Option<T> {
    let mut value = T::default();
    if body.len() != size_of::<T>() {
        return None;
    }
    value.as_mut_slice().copy_from_slice(body);
    value.is_valid().then_some(value)
}

fn take_one(files: Option<Vec<Fd>>) -> Option<Fd> {
    let mut files = files?;
    (files.len() == 1).then(|| files.remove(0))
}

fn mem_table(body: &[u8], files: Option<Vec<Fd>>, out: &mut [u8]) -> Option<()> {
    let (head, rest) = body.split_at_checked(size_of::<VhostUserMemory>())?;
    let memory = read::<VhostUserMemory>(head)?;
    let count = memory.num_regions as usize;
    if rest.len() != count * size_of::<VhostUserMemoryRegion>() || files?.len() != count {
        return None;
    }
    let (out_head, out) = out.split_at_mut_checked(head.len())?;
    out_head.copy_from_slice(head);
    let length = size_of::<VhostUserMemoryRegion>();
    for (body, out) in rest.chunks_exact(length).zip(out.chunks_exact_mut(length)) {
        let mut region = read::<VhostUserMemoryRegion>(body)?;
        region.user_addr = place(region.user_addr);
        out.copy_from_slice(region.as_slice());
    }
    Some(())
}
