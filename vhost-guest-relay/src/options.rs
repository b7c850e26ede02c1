// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::Failure;

/// Text of `--help`.
pub const HELP: &str = "\
Lets an unmodified vhost-user backend serve through a vhost-guest device of this
virtual machine. Needs the kernel driver vhost_guest, and the right to open its
device files.

Usage: vhost-guest-relay [--device DEVICE] --socket PATH [OPTIONS]
                         [--device DEVICE --socket PATH [OPTIONS]]...

  --device DEVICE  which device: its PCI address (0000:00:05.0), its UUID, or its
                   device file; if absent, the only one
  --socket PATH    the backend's socket, on which it listens
  --listen         listen on the socket, and let the backend connect to it
  --type TYPE      what the backend is, if the device does not say: net, blk,
                   console, rng, balloon, scsi, gpu, input, vsock, crypto, fs,
                   iommu, sound, i2c, scmi, gpio, can, or the number of a virtio
                   device type
  --allow-direct   serve with a backend that has files open with O_DIRECT; it is
                   refused otherwise, since that does not work from and into the
                   frontend's memory
  --help           this text
  --version        the version

What is behind --device is about this device, up to the next one.

The relay waits until the backend is there. When the backend ends, the frontend is
disconnected, and the relay waits for the next backend; when the frontend ends,
the backend is. End the relay with SIGINT or SIGTERM.

Exit code: 0 after a signal, 1 after a failure, 2 if the command line is wrong.
";

/// Names of device types (virtio, Device Types).
const TYPES: [(&str, u16); 17] = [
    ("net", 1),
    ("blk", 2),
    ("console", 3),
    ("rng", 4),
    ("balloon", 5),
    ("scsi", 8),
    ("gpu", 16),
    ("input", 18),
    ("vsock", 19),
    ("crypto", 20),
    ("iommu", 23),
    ("sound", 25),
    ("fs", 26),
    ("scmi", 32),
    ("i2c", 34),
    ("can", 36),
    ("gpio", 41),
];

/// What the user asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// The help text.
    Help,
    /// The version.
    Version,
    /// To serve.
    Serve(Vec<Link>),
}

/// A device and a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The device, as the user named it; the only one if not.
    pub device: Option<String>,
    /// The backend's socket.
    pub socket: PathBuf,
    /// Ours, to which it connects.
    pub listen: bool,
    /// What the backend is.
    pub device_type: Option<u16>,
    /// It may have files open with `O_DIRECT`.
    pub allow_direct: bool,
}

impl Request {
    /// Reads the arguments behind the program's name.
    pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, Failure> {
        let mut arguments = arguments.peekable();
        let mut links = Vec::new();
        loop {
            let mut link = Link {
                device: None,
                socket: PathBuf::new(),
                listen: false,
                device_type: None,
                allow_direct: false,
            };
            while let Some(argument) = arguments.next_if(|next| next != "--device" || is_new(&link))
            {
                let name = argument.to_string_lossy().into_owned();
                let mut value = || {
                    let value = arguments.next();
                    value.ok_or_else(|| Failure::Usage(format!("{name} needs a value")))
                };
                match &*name {
                    "--help" | "-h" => return Ok(Self::Help),
                    "--version" | "-V" => return Ok(Self::Version),
                    "--device" => link.device = Some(value()?.to_string_lossy().into_owned()),
                    "--socket" => link.socket = value()?.into(),
                    "--listen" => link.listen = true,
                    "--allow-direct" => link.allow_direct = true,
                    "--type" => link.device_type = Some(device_type(&value()?)?),
                    _ => return Err(Failure::Usage(format!("unknown option {name}"))),
                }
            }
            if link.socket.as_os_str().is_empty() {
                return Err(Failure::Usage("which --socket?".into()));
            }
            links.push(link);
            if arguments.peek().is_none() {
                return check(links).map(Self::Serve);
            }
        }
    }
}

fn is_new(link: &Link) -> bool {
    link.device.is_none() && link.socket.as_os_str().is_empty()
}

/// Two relays on one device or socket would be in each other's way.
fn check(links: Vec<Link>) -> Result<Vec<Link>, Failure> {
    for (position, link) in links.iter().enumerate() {
        let mut before = links.iter().take(position);
        if before.any(|other| other.device == link.device || other.socket == link.socket) {
            let text = "each device, and each socket, can be named once";
            return Err(Failure::Usage(text.into()));
        }
    }
    Ok(links)
}

fn device_type(value: &OsString) -> Result<u16, Failure> {
    let value = value.to_string_lossy();
    let named = TYPES.iter().find(|(name, _)| *name == value);
    let number = || value.parse().ok().filter(|number| *number != 0);
    named
        .map(|(_, number)| *number)
        .or_else(number)
        .ok_or_else(|| Failure::Usage(format!("--type {value}: not a type of device")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Request, Failure> {
        Request::parse(line.split_whitespace().map(OsString::from))
    }

    fn link(device: Option<&str>, socket: &str) -> Link {
        Link {
            device: device.map(str::to_owned),
            socket: socket.into(),
            listen: false,
            device_type: None,
            allow_direct: false,
        }
    }

    #[test]
    fn reads_one_device_and_several() {
        let one = parse("--socket s").unwrap();
        assert_eq!(one, Request::Serve(vec![link(None, "s")]));
        let line = "--device a --socket s --listen --type blk --device b --type 26 --socket t \
                    --allow-direct";
        let several = Request::Serve(vec![
            Link {
                listen: true,
                device_type: Some(2),
                ..link(Some("a"), "s")
            },
            Link {
                device_type: Some(26),
                allow_direct: true,
                ..link(Some("b"), "t")
            },
        ]);
        assert_eq!(parse(line).unwrap(), several);
        assert_eq!(parse("--device a --help").unwrap(), Request::Help);
        assert_eq!(parse("--version").unwrap(), Request::Version);
    }

    #[test]
    fn rejects_what_makes_no_sense() {
        for line in [
            "",
            "--device a",
            "--device a --device b --socket s",
            "--socket",
            "--socket s --type",
            "--socket s --type 0",
            "--socket s --type 65536",
            "--socket s --type disk",
            "--socket s --device a --socket s",
            "--device a --socket s --device a --socket t",
            "--verbose",
            "s",
        ] {
            assert!(matches!(parse(line), Err(Failure::Usage(_))), "{line}");
        }
    }

    #[test]
    fn the_help_text_names_all_types() {
        for (name, _) in TYPES {
            assert!(HELP.contains(name), "{name}");
        }
    }
}
