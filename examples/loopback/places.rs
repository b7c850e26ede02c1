// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The disk image and the socket's path: given, or temporary.

use std::fs::File;
use std::path::{Path, PathBuf};

use vmm_sys_util::tempdir::TempDir;

use crate::loopback::failure::{Context, Failure};
use crate::loopback::options::Options;

/// Files that a run uses.
pub struct Places {
    /// The disk image.
    pub disk: PathBuf,
    /// The vhost-user socket.
    pub socket: PathBuf,
    /// Removes the temporary ones in the end.
    _temporary: Option<TempDir>,
}

impl Places {
    /// Decides where the files are.
    pub fn new(options: &Options) -> Result<Self, Failure> {
        let temporary = match (&options.image, &options.socket) {
            (Some(_), Some(_)) => None,
            _ => {
                let prefix = std::env::temp_dir().join("loopback-");
                Some(TempDir::new_with_prefix(prefix).context("temporary directory")?)
            }
        };
        let place = |given: &Option<PathBuf>, name| match (given, &temporary) {
            (Some(given), _) => given.clone(),
            (None, Some(directory)) => directory.as_path().join(name),
            (None, None) => PathBuf::from(name),
        };
        Ok(Self {
            disk: place(&options.image, "disk.img"),
            socket: place(&options.socket, "socket"),
            _temporary: temporary,
        })
    }

    /// Opens the disk image, which is made if it is absent.
    pub fn open_image(&self, options: &Options) -> Result<File, Failure> {
        if !self.disk.exists() {
            make_image(&self.disk, options.size)?;
        }
        let name = self.disk.display();
        let writes = !options.disk.read_only;
        let file = File::options().read(true).write(writes).open(&self.disk);
        file.context(format!("disk {name}"))
    }
}

fn make_image(path: &Path, size: u64) -> Result<(), Failure> {
    let name = path.display();
    let file = File::create_new(path).context(format!("disk {name}"))?;
    let sized = file.set_len(size);
    sized.context(format!("disk {name} of {size} bytes"))
}
