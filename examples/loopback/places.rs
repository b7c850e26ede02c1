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
    /// Decides where the files are, and makes the disk image if it is absent.
    pub fn new(options: &Options) -> Result<Self, Failure> {
        let temporary = match (&options.disk, &options.socket) {
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
        let places = Self {
            disk: place(&options.disk, "disk.img"),
            socket: place(&options.socket, "socket"),
            _temporary: temporary,
        };
        if !places.disk.exists() {
            make_image(&places.disk, options.size)?;
        }
        Ok(places)
    }
}

fn make_image(path: &Path, size: u64) -> Result<(), Failure> {
    let name = path.display();
    let file = File::create_new(path).context(format!("disk {name}"))?;
    let sized = file.set_len(size);
    sized.context(format!("disk {name} of {size} bytes"))
}

/// Opens the disk image.
pub fn open_image(path: &Path, read_only: bool) -> Result<File, Failure> {
    let name = path.display();
    let file = File::options().read(true).write(!read_only).open(path);
    file.context(format!("disk {name}"))
}
