// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Encoding without heap.

use zerocopy::{Immutable, IntoBytes};

use crate::header::HEADER_SIZE;
use crate::{BufferTooSmall, Endian, Header, HeaderFlags};

/// Writes into a buffer as far as it goes, and counts on behind its end: the
/// length of a message is what writing it to an empty buffer counts.
pub(crate) struct Writer<'a> {
    buffer: &'a mut [u8],
    written: usize,
}

impl Writer<'_> {
    pub(crate) fn put(&mut self, value: &(impl IntoBytes + Immutable + ?Sized)) {
        let bytes = value.as_bytes();
        let end = self.written.saturating_add(bytes.len());
        if let Some(space) = self.buffer.get_mut(self.written..end) {
            space.copy_from_slice(bytes);
        }
        self.written = end;
    }
}

/// Writes a header and what `payload` writes behind it; returns the length.
pub(crate) fn message(
    buffer: &mut [u8],
    code: u32,
    flags: HeaderFlags,
    endian: Endian,
    payload: impl FnOnce(&mut Writer<'_>),
) -> Result<usize, BufferTooSmall> {
    let written = HEADER_SIZE;
    let mut writer = Writer { buffer, written };
    payload(&mut writer);
    let needed = writer.written;
    let available = writer.buffer.len();
    let too_small = BufferTooSmall { needed, available };
    let size = u32::try_from(needed - HEADER_SIZE).map_err(|_| too_small)?;
    match writer.buffer.first_chunk_mut() {
        Some(space) if needed <= available => {
            *space = Header { code, flags, size }.emit(endian);
            Ok(needed)
        }
        _ => Err(too_small),
    }
}
