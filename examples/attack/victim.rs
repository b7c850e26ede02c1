// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a VMM and its vCPUs do with a device.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;

/// A device as its VMM sees it.
pub trait Victim: Send + Sync {
    /// A vCPU reads a register.
    fn read_register(&self);

    /// A vCPU writes: it notifies a queue, stores at a doorbell, masks a vector,
    /// each in its turn.
    fn write_register(&self, turn: u64);

    /// The VMM asks what the device has done.
    fn statistics(&self);

    /// A vCPU moves a BAR.
    fn move_bar(&self, turn: u64);

    /// A vCPU could not access memory, and no frontend is at fault.
    fn innocent_fault(&self);

    /// A vCPU could not access memory of the frontend's, whose address is known
    /// or not. Tells whether the vCPU can try again.
    fn fault(&self, known: bool) -> bool;

    /// The VMM takes everything from the frontend.
    fn revoke(&self);

    /// Whether the device has given up for good.
    fn is_dead(&self) -> bool;
}

/// A listener in a directory of its own, for any user.
pub struct Place {
    directory: vmm_sys_util::tempdir::TempDir,
}

impl Place {
    /// A new one.
    pub fn new() -> std::io::Result<(Self, UnixListener)> {
        let prefix = std::env::temp_dir().join("attack-");
        let directory = vmm_sys_util::tempdir::TempDir::new_with_prefix(prefix)
            .map_err(std::io::Error::other)?;
        let place = Self { directory };
        let listener = UnixListener::bind(place.socket())?;
        Ok((place, listener))
    }

    /// The socket's path.
    pub fn socket(&self) -> PathBuf {
        self.directory.as_path().join("socket")
    }
}
