// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use vhost_guest_driver::sysfs::Address;

use super::Failure;
use crate::disk::{disk_help, number, Disk};

/// Text of `--help`.
pub const HELP: &str = concat!(
    "\
A disk that this Linux guest serves to another virtual machine, through its
vhost-guest device, reached through sysfs, through VFIO, or with the kernel driver.

Through sysfs, it needs root, a huge page (echo 1 >/proc/sys/vm/nr_hugepages),
and a device that no kernel driver is bound to. It polls. End it with SIGINT or
SIGTERM, so that it resets the device: after SIGKILL the device could still write
into memory that is no longer its own.

Through VFIO, there must be an IOMMU in front of the device, vfio-pci must have
it, and the program needs the right to open /dev/vfio/GROUP. It sleeps when it has
nothing to do, and however it ends, the device is reset.

With the driver (linux/ in the sources), it needs the right to open
/dev/vhost-guest/ADDRESS, and sleeps when it has nothing to do.

A line on standard input makes it print its statistics. After SIGUSR1 the disk is
as large as its image is then: the image may become larger or smaller while it is
served.

Usage: backend --disk PATH [OPTIONS]

  --disk PATH           disk image or block device
",
    disk_help!(),
    "\
\x20 --device ADDRESS      PCI function (0000:00:05.0), or auto (default): the
                        only vhost-guest device
  --vfio                use VFIO
  --module              use the kernel driver vhost_guest
  --idle MICROSECONDS   how long it sleeps between two looks when there was
                        nothing to do for a while (default: 50); with 0 it
                        does not sleep. Only through sysfs
  --count-interrupts    let the device interrupt, with the vector that Linux
                        counts as PIN in /proc/interrupts. Only through sysfs
  --help                this text

Exit code: 0 after a signal, 1 after a failure, 2 if the command line is wrong.
"
);

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Only the help text.
    pub help: bool,
    /// The disk image.
    pub image: PathBuf,
    /// The disk on it.
    pub disk: Disk,
    /// The function, unless it is the only one.
    pub device: Option<Address>,
    /// Through VFIO.
    pub vfio: bool,
    /// Through the kernel driver.
    pub module: bool,
    /// Sleep between two looks.
    pub idle: Duration,
    /// Interrupts are raised, and counted.
    pub count_interrupts: bool,
}

impl Options {
    /// Reads the arguments behind the program's name.
    pub fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Self, Failure> {
        let mut options = Self {
            help: false,
            image: PathBuf::new(),
            disk: Disk::new(1),
            device: None,
            vfio: false,
            module: false,
            idle: sysfs_idle(),
            count_interrupts: false,
        };
        while let Some(argument) = arguments.next() {
            let name = argument.to_string_lossy().into_owned();
            let mut value = || {
                let value = arguments.next();
                value.ok_or_else(|| Failure::Usage(format!("{name} needs a value")))
            };
            match &*name {
                "--help" | "-h" => options.help = true,
                "--disk" => options.image = value()?.into(),
                "--module" => options.module = true,
                "--vfio" => options.vfio = true,
                "--read-only" => options.disk.read_only = true,
                "--count-interrupts" => options.count_interrupts = true,
                name if Disk::has(name) => {
                    options.disk.set(name, &value()?).map_err(Failure::Usage)?;
                }
                "--idle" => {
                    let micros = number(&name, &value()?, 0, 1_000_000).map_err(Failure::Usage)?;
                    options.idle = Duration::from_micros(micros);
                }
                "--device" => {
                    let value = value()?.to_string_lossy().into_owned();
                    options.device = match &*value {
                        "auto" => None,
                        address => Some(address.parse()?),
                    };
                }
                _ => return Err(Failure::Usage(format!("unknown option {name}"))),
            }
        }
        if options.image.as_os_str().is_empty() && !options.help {
            return Err(Failure::Usage("which --disk?".into()));
        }
        if options.vfio && options.module {
            return Err(Failure::Usage("--vfio or --module, not both".into()));
        }
        Ok(options)
    }
}

fn sysfs_idle() -> Duration {
    vhost_guest_driver::sysfs::Options::default().idle
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, Failure> {
        Options::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn reads_every_option() {
        let line = "--disk d --read-only --queues 4 --block-size 4096 --serial x --device 00:05.0 \
                    --idle 0 --count-interrupts";
        let options = parse(line).unwrap();
        assert_eq!(options.image, PathBuf::from("d"));
        assert!(options.count_interrupts && !options.help);
        let disk = Disk {
            read_only: true,
            queues: 4,
            block_size: 4096,
            serial: Some("x".into()),
        };
        assert_eq!((options.disk, options.idle), (disk, Duration::ZERO));
        assert_eq!(options.device, "0000:00:05.0".parse().ok());
        assert_eq!(parse("--disk d --device auto").unwrap().device, None);
        assert!(parse("--disk d --module").unwrap().module && !options.module);
        let vfio = parse("--disk d --vfio --device 00:05.0").unwrap();
        assert!(vfio.vfio && !vfio.module && !options.vfio);
        assert!(parse("--help").unwrap().help);
    }

    #[test]
    fn rejects_what_makes_no_sense() {
        for line in [
            "",
            "--disk",
            "disk.img",
            "--disk d --queues 0",
            "--disk d --queues 65",
            "--disk d --block-size 1000",
            "--disk d --serial",
            "--disk d --idle 1000001",
            "--disk d --idle -1",
            "--disk d --vfio --module",
        ] {
            assert!(matches!(parse(line), Err(Failure::Usage(_))), "{line}");
        }
        assert!(parse("--disk d --device 5").is_err());
    }
}
