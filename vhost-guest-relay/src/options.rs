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
       vhost-guest-relay (--device DEVICE --socket PATH [OPTIONS])...

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

With several devices, an option that one has already is about the next one; the
order does not matter otherwise.

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

/// An export as far as it has been read.
#[derive(Default)]
struct Draft {
    device: Option<String>,
    socket: Option<PathBuf>,
    listen: Option<()>,
    device_type: Option<u16>,
    allow_direct: Option<()>,
}

impl Request {
    /// Reads the arguments behind the program's name.
    pub fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Self, Failure> {
        let mut drafts = vec![Draft::default()];
        while let Some(argument) = arguments.next() {
            let name = argument.to_string_lossy().into_owned();
            let mut value = || {
                let value = arguments.next().filter(|value| !value.is_empty());
                value.ok_or_else(|| Failure::Usage(format!("{name} needs a value")))
            };
            match &*name {
                "--help" | "-h" => return Ok(Self::Help),
                "--version" | "-V" => return Ok(Self::Version),
                "--device" => {
                    let device = value()?.to_string_lossy().into_owned();
                    put(&mut drafts, |draft| &mut draft.device, device);
                }
                "--socket" => {
                    let socket = value()?.into();
                    put(&mut drafts, |draft| &mut draft.socket, socket);
                }
                "--type" => {
                    let named = value()?;
                    let named = named.to_string_lossy();
                    let unknown =
                        || Failure::Usage(format!("--type {named}: not a type of device"));
                    let number = device_type(&named).ok_or_else(unknown)?;
                    put(&mut drafts, |draft| &mut draft.device_type, number);
                }
                "--listen" => put(&mut drafts, |draft| &mut draft.listen, ()),
                "--allow-direct" => put(&mut drafts, |draft| &mut draft.allow_direct, ()),
                _ => return Err(Failure::Usage(format!("unknown option {name}"))),
            }
        }
        let several = drafts.len() > 1;
        let links = drafts.into_iter().map(|draft| draft.finish(several));
        check(links.collect::<Result<_, _>>()?).map(Self::Serve)
    }
}

/// What an export has already is about the next one.
fn put<T>(drafts: &mut Vec<Draft>, field: impl Fn(&mut Draft) -> &mut Option<T>, value: T) {
    if let Some(place) = drafts
        .last_mut()
        .map(&field)
        .filter(|place| place.is_none())
    {
        *place = Some(value);
        return;
    }
    let mut next = Draft::default();
    *field(&mut next) = Some(value);
    drafts.push(next);
}

impl Draft {
    fn finish(self, several: bool) -> Result<Link, Failure> {
        let Some(socket) = self.socket else {
            let device = self.device.map(|device| format!("--device {device}: "));
            let text = format!("{}--socket is missing", device.unwrap_or_default());
            return Err(Failure::Usage(text));
        };
        if several && self.device.is_none() {
            let text = format!("--socket {}: --device is missing", socket.display());
            return Err(Failure::Usage(text));
        }
        Ok(Link {
            device: self.device,
            socket,
            listen: self.listen.is_some(),
            device_type: self.device_type,
            allow_direct: self.allow_direct.is_some(),
        })
    }
}

/// Two relays on one device or socket would be in each other's way.
fn check(links: Vec<Link>) -> Result<Vec<Link>, Failure> {
    for (position, link) in links.iter().enumerate() {
        for other in links.iter().take(position) {
            let twice = match &link.device {
                _ if other.socket == link.socket => format!("--socket {}", link.socket.display()),
                Some(device) if other.device == link.device => format!("--device {device}"),
                _ => continue,
            };
            return Err(Failure::Usage(format!("{twice}: is there already")));
        }
    }
    Ok(links)
}

/// The virtio device type that `--type` names, by name or by number.
pub fn device_type(name: &str) -> Option<u16> {
    let named = TYPES.iter().find(|(known, _)| *known == name);
    let number = || name.parse().ok().filter(|number| *number != 0);
    named.map(|(_, number)| *number).or_else(number)
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
    fn the_order_of_device_and_socket_does_not_matter() {
        let expected = parse("--device a --socket s --type blk --device b --socket t").unwrap();
        for line in [
            "--socket s --device a --type blk --socket t --device b",
            "--type blk --socket s --device a --device b --socket t",
            "--device a --type blk --socket s --socket t --device b",
        ] {
            assert_eq!(parse(line).unwrap(), expected, "{line}");
        }
        let one = parse("--device a --socket s").unwrap();
        assert_eq!(parse("--socket s --device a").unwrap(), one);
        // Each has its own.
        let both = parse("--type blk --device a --socket s --type fs --device b --socket t");
        let Request::Serve(links) = both.unwrap() else {
            panic!("no links")
        };
        let types: Vec<_> = links.iter().map(|link| link.device_type).collect();
        assert_eq!(types, [Some(2), Some(26)]);
    }

    #[test]
    fn rejects_what_makes_no_sense_and_names_the_option() {
        for (line, named) in [
            ("", "--socket is missing"),
            ("--device a", "--device a: --socket is missing"),
            (
                "--device a --device b --socket s",
                "--device a: --socket is missing",
            ),
            (
                "--socket s --device a --socket t",
                "--socket t: --device is missing",
            ),
            ("--socket s --socket t", "--socket s: --device is missing"),
            ("--socket", "--socket needs a value"),
            ("--socket s --type", "--type needs a value"),
            ("--socket s --type 0", "--type 0: "),
            ("--socket s --type 65536", "--type 65536: "),
            ("--socket s --type disk", "--type disk: "),
            (
                "--socket s --device a --socket s --device b",
                "--socket s: is there already",
            ),
            (
                "--device a --socket s --device a --socket t",
                "--device a: is there already",
            ),
            (
                "--device a --socket s --listen --listen",
                "--socket is missing",
            ),
            ("--verbose", "--verbose"),
            ("s", "unknown option s"),
        ] {
            let failure = parse(line).unwrap_err();
            assert!(matches!(failure, Failure::Usage(_)), "{line}");
            assert!(failure.to_string().contains(named), "{line}: {failure}");
        }
    }

    #[test]
    fn the_help_text_names_all_types() {
        for (name, _) in TYPES {
            assert!(HELP.contains(name), "{name}");
        }
    }
}
