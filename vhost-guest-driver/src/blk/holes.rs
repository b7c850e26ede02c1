// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Holes in the image: parts that read as zeroes and take no space.

use std::fs::File;
use std::io;

/// Makes `len` bytes, not 0, at `position` a hole, or zeroes that keep their
/// space. `false` if the file system cannot do that.
#[cfg(target_os = "linux")]
pub(super) fn clear(file: &File, position: u64, len: u64, keep: bool) -> io::Result<bool> {
    use rustix::fs::{fallocate, FallocateFlags};
    use rustix::io::Errno;

    let flags = match keep {
        false => FallocateFlags::PUNCH_HOLE,
        true => FallocateFlags::ZERO_RANGE,
    };
    let flags = flags | FallocateFlags::KEEP_SIZE;
    loop {
        match fallocate(file, flags, position, len) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn clear(_: &File, _: u64, _: u64, _: bool) -> io::Result<bool> {
    Ok(false)
}
