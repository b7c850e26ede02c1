// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The command line.

use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Text of `--help`.
pub const HELP: &str = "\
A small VMM on KVM: one vCPU, a serial console, vhost-guest devices.

Usage: kvm --kernel PATH [OPTIONS]

  --kernel PATH      Linux kernel (bzImage)
  --initramfs PATH   its initramfs
  --cmdline TEXT     kernel command line, behind what this VMM puts there
  --memory SIZE      RAM in bytes, or with K, M, G (default: 256M)
  --vhost-guest socket=PATH[,queues=N][,window=SIZE][,uuid=UUID][,migration=SIZE]
                     a vhost-guest device: the socket that its frontends
                     connect to, its vrings (default: 16), the size of its
                     window, a power of two (default: 1G), the UUID by which
                     the guest knows it (default: nil), in buffers of which
                     size it carries device state (default: it does not);
                     may be repeated
  --no-irqfd         a thread of the VMM raises the devices' interrupts
  --no-ioeventfd     doorbell stores of the guest go through the device
  --help             this text

The console is on standard input and output. The program ends when the guest
resets. Exit code: 0 then, 1 on a failure, 2 if the command line is wrong.
";

/// What a device can be told of migration.
const MIGRATION: RangeInclusive<u64> = 4 << 10..=1 << 20;

/// The command line makes no sense, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (try --help)", self.0)
    }
}

/// One vhost-guest device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Where frontends connect.
    pub socket: PathBuf,
    /// Number of vrings.
    pub queues: u16,
    /// Size of the window in bytes.
    pub window: u64,
    /// Tells the guest which device this is.
    pub uuid: [u8; 16],
    /// Most bytes of device state in one buffer.
    pub migration: Option<u32>,
}

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Only the help text.
    pub help: bool,
    /// The kernel.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initramfs: Option<PathBuf>,
    /// Its command line.
    pub cmdline: String,
    /// RAM in bytes.
    pub memory: u64,
    /// Eventfds raise interrupts without a thread of the VMM.
    pub irqfd: bool,
    /// Doorbell stores signal without the device.
    pub ioeventfd: bool,
    /// The devices, in the order of their PCI slots.
    pub devices: Vec<Device>,
}

impl Options {
    /// Reads the arguments behind the program's name.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, Usage> {
        let mut options = Self {
            help: false,
            kernel: PathBuf::new(),
            initramfs: None,
            cmdline: String::new(),
            memory: 256 << 20,
            irqfd: true,
            ioeventfd: true,
            devices: Vec::new(),
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let name = argument.to_string_lossy();
            let mut value = || {
                let value = arguments.next();
                value.ok_or_else(|| Usage(format!("{name} needs a value")))
            };
            match &*name {
                "--help" | "-h" => options.help = true,
                "--kernel" => options.kernel = value()?.into(),
                "--initramfs" => options.initramfs = Some(value()?.into()),
                "--cmdline" => options.cmdline = text(&name, value()?)?,
                "--memory" => options.memory = memory(&text(&name, value()?)?)?,
                "--no-irqfd" => options.irqfd = false,
                "--no-ioeventfd" => options.ioeventfd = false,
                "--vhost-guest" => options.devices.push(device(&text(&name, value()?)?)?),
                _ => return Err(Usage(format!("unknown option {name}"))),
            }
        }
        if options.kernel.as_os_str().is_empty() && !options.help {
            return Err(Usage("--kernel is missing".to_owned()));
        }
        Ok(options)
    }
}

fn text(name: &str, value: OsString) -> Result<String, Usage> {
    let text = value.into_string();
    text.map_err(|value| Usage(format!("{name} {}: not UTF-8", value.to_string_lossy())))
}

fn memory(text: &str) -> Result<u64, Usage> {
    let bytes = size_in_bytes(text);
    let bytes = bytes.filter(|bytes| bytes % 4096 == 0 && (16 << 20..=1 << 40).contains(bytes));
    bytes.ok_or_else(|| Usage(format!("--memory {text}: not a multiple of 4K from 16M on")))
}

fn device(text: &str) -> Result<Device, Usage> {
    let wrong = |part: &str| Usage(format!("--vhost-guest {text}: {part}"));
    let (mut socket, mut queues, mut window, mut uuid) = (None, 16, 1 << 30, [0; 16]);
    let mut migration = None;
    for part in text.split(',') {
        let Some((key, value)) = part.split_once('=') else {
            return Err(wrong("not a list of key=value"));
        };
        match key {
            "socket" => socket = Some(PathBuf::from(value)),
            "queues" => {
                let number = value.parse().ok().filter(|n| (1..=256).contains(n));
                queues = number.ok_or_else(|| wrong("queues is a number from 1 to 256"))?;
            }
            "window" => {
                let size = size_in_bytes(value).filter(|size| size.is_power_of_two());
                window = size.ok_or_else(|| wrong("window is a power of two"))?;
            }
            "migration" => {
                let size = size_in_bytes(value).filter(|size| MIGRATION.contains(size));
                let size = size.ok_or_else(|| wrong("migration is 4K to 1M"))?;
                migration = Some(size as u32);
            }
            "uuid" => uuid = parse_uuid(value).ok_or_else(|| wrong("uuid is 32 digits"))?,
            _ => return Err(wrong(&format!("unknown key {key}"))),
        }
    }
    Ok(Device {
        socket: socket.ok_or_else(|| wrong("socket is missing"))?,
        queues,
        window,
        uuid,
        migration,
    })
}

/// 32 hexadecimal digits; hyphens are for people.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Option<Vec<u32>> = text
        .chars()
        .filter(|character| *character != '-')
        .map(|character| character.to_digit(16))
        .collect();
    let digits = digits.filter(|digits| digits.len() == 32)?;
    let mut uuid = [0; 16];
    for (byte, pair) in uuid.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair.iter().fold(0, |byte, digit| byte << 4 | *digit as u8);
    }
    Some(uuid)
}

fn size_in_bytes(text: &str) -> Option<u64> {
    let shift = match text.chars().last()? {
        'K' | 'k' => 10,
        'M' | 'm' => 20,
        'G' | 'g' => 30,
        _ => 0,
    };
    let digits = if shift == 0 {
        text
    } else {
        text.get(..text.len() - 1)?
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, Usage> {
        Options::parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn reads_every_option() {
        let options = parse(&[
            "--kernel",
            "vmlinuz",
            "--initramfs",
            "initrd",
            "--cmdline",
            "quiet rdinit=/sbin/init",
            "--memory",
            "1G",
            "--no-irqfd",
            "--no-ioeventfd",
            "--vhost-guest",
            "socket=/run/a.sock,queues=4,window=8G,migration=16K",
            "--vhost-guest",
            "socket=b.sock,uuid=00112233-4455-6677-8899-AABBccddeeff",
        ]);
        let device = |socket: &str, queues, window, uuid: u128, migration| Device {
            socket: socket.into(),
            queues,
            window,
            uuid: uuid.to_be_bytes(),
            migration,
        };
        let expected = Options {
            help: false,
            kernel: "vmlinuz".into(),
            initramfs: Some("initrd".into()),
            cmdline: "quiet rdinit=/sbin/init".to_owned(),
            memory: 1 << 30,
            irqfd: false,
            ioeventfd: false,
            devices: vec![
                device("/run/a.sock", 4, 8 << 30, 0, Some(16 << 10)),
                device(
                    "b.sock",
                    16,
                    1 << 30,
                    0x00112233_44556677_8899aabb_ccddeeff,
                    None,
                ),
            ],
        };
        assert_eq!(options, Ok(expected));
        assert!(parse(&["--help"]).is_ok_and(|options| options.help));
    }

    #[test]
    fn rejects_what_makes_no_sense() {
        for arguments in [
            &[][..],
            &["--kernel"],
            &["--kernel", "k", "--memory", "1"],
            &["--kernel", "k", "--memory", "é"],
            &["--kernel", "k", "--vhost-guest", "queues=1"],
            &["--kernel", "k", "--vhost-guest", "socket=s,queues=0"],
            &["--kernel", "k", "--vhost-guest", "socket=s,queues=257"],
            &["--kernel", "k", "--vhost-guest", "socket=s,window=3G"],
            &["--kernel", "k", "--vhost-guest", "socket=s,migration=2M"],
            &["--kernel", "k", "--vhost-guest", "socket=s,uuid=0"],
            &["--kernel", "k", "--vhost-guest", "socket=s,uuid=+1-éé"],
            &["--kernel", "k", "--vhost-guest", "socket"],
            &["--kernel", "k", "disk.img"],
        ] {
            let usage = parse(arguments).unwrap_err().to_string();
            assert!(usage.ends_with("(try --help)"), "{arguments:?}: {usage}");
        }
    }
}
