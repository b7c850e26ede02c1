// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The disk of those examples that serve one: its options, and the backend
//! that they make of an image.

use std::ffi::OsStr;
use std::fs::File;
use std::io;

use vhost_guest_driver::blk::{Blk, ID_LEN};

/// The part of a help text that is about these options.
macro_rules! disk_help {
    () => {
        "  --read-only           offer the disk read-only
  --queues N            request queues, 1 to 64
  --block-size BYTES    size of a block, which requests should be made of: a
                        power of two from 512 (default) to 2097152
  --serial TEXT         serial number of the disk, up to 20 bytes
"
    };
}
pub(crate) use disk_help;

/// What the user wants the disk to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// It is offered read-only.
    pub read_only: bool,
    /// Request queues.
    pub queues: u16,
    /// Bytes of a block.
    pub block_size: u32,
    /// The guest can read it.
    pub serial: Option<String>,
}

impl Disk {
    /// A disk with so many queues, if nothing else is said.
    pub fn new(queues: u16) -> Self {
        Self {
            read_only: false,
            queues,
            block_size: 512,
            serial: None,
        }
    }

    /// Whether `name` is an option of the disk's that has a value.
    pub fn has(name: &str) -> bool {
        matches!(name, "--queues" | "--block-size" | "--serial")
    }

    /// Takes the value of such an option; the error is for the user.
    pub fn set(&mut self, name: &str, value: &OsStr) -> Result<(), String> {
        match name {
            "--queues" => self.queues = number(name, value, 1, 64)? as u16,
            "--block-size" => {
                let size = number(name, value, 512, 2 << 20)? as u32;
                if !size.is_power_of_two() {
                    return Err(format!("{name} {size}: not a power of two"));
                }
                self.block_size = size;
            }
            _ => {
                let serial = value.to_string_lossy().into_owned();
                if serial.len() > ID_LEN {
                    return Err(format!("{name} {serial}: longer than {ID_LEN} bytes"));
                }
                self.serial = Some(serial);
            }
        }
        Ok(())
    }

    /// Opens a backend on an image that is open already.
    pub fn on(&self, image: File) -> io::Result<Blk> {
        let disk = Blk::new(image, self.read_only)?;
        let disk = disk.with_block_size(self.block_size)?;
        let disk = disk.with_queues(self.queues);
        Ok(match &self.serial {
            Some(serial) => disk.with_id(serial),
            None => disk,
        })
    }
}

/// The number that is the value of option `name`; the error is for the user.
pub fn number(name: &str, value: &OsStr, least: u64, most: u64) -> Result<u64, String> {
    let number = value.to_str().and_then(|text| text.parse().ok());
    number
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| {
            let value = value.to_string_lossy();
            format!("{name} {value}: not a number from {least} to {most}")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> Result<Disk, String> {
        let mut disk = Disk::new(2);
        disk.set(name, OsStr::new(value)).map(|()| disk)
    }

    #[test]
    fn reads_every_option() {
        assert_eq!(set("--queues", "64").unwrap().queues, 64);
        assert_eq!(set("--block-size", "4096").unwrap().block_size, 4096);
        let serial = set("--serial", "twenty bytes are it!").unwrap().serial;
        assert_eq!(serial.as_deref(), Some("twenty bytes are it!"));
        for (name, value) in [
            ("--queues", "0"),
            ("--queues", "65"),
            ("--queues", "none"),
            ("--block-size", "256"),
            ("--block-size", "1000"),
            ("--block-size", "4194304"),
            ("--serial", "twenty-one bytes: no!"),
        ] {
            let error = set(name, value).unwrap_err();
            assert!(error.starts_with(&format!("{name} {value}: ")), "{error}");
        }
    }

    #[test]
    fn has_a_line_of_help_for_every_option() {
        for line in disk_help!().lines() {
            assert!(line.len() <= 80);
            let Some(name) = line.split_whitespace().find(|word| word.starts_with("--")) else {
                continue;
            };
            assert!(name == "--read-only" || Disk::has(name), "{name}");
        }
    }

    #[test]
    fn makes_the_disk_that_was_asked_for() {
        use vhost_guest_driver::Backend;
        let dir = vmm_sys_util::tempdir::TempDir::new().unwrap();
        let path = dir.as_path().join("d");
        std::fs::write(&path, [0; 6000]).unwrap();
        let mut disk = Disk::new(3);
        disk.block_size = 4096;
        let mut blk = disk.on(File::open(path).unwrap()).unwrap();
        assert_eq!((blk.sectors(), blk.queues()), (8, 3));
        let mut size = [0; 4];
        assert!(blk.config_read(20, &mut size));
        assert_eq!(size, 4096u32.to_le_bytes());
    }
}
