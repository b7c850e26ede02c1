// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which function it is, and what sysfs says about it.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{read, SysfsError};

/// The identity of a vhost-guest device, as in the files `vendor` and
/// `device`.
const IDENTITY: [(&str, u64); 2] = [("vendor", 0x1af4), ("device", 0x1075)];
/// BARs in the file `resource`; an expansion ROM and others come behind.
const BARS: usize = 6;
/// Flags of the kernel's in `resource`: memory, and not ports.
const IORESOURCE_MEM: u64 = 0x200;

/// The address of a PCI function: domain, bus, device, function.
///
/// ```
/// use vhost_guest_driver::sysfs::Address;
///
/// let address: Address = "0000:00:05.0".parse().unwrap();
/// assert_eq!("00:05.0".parse::<Address>().unwrap(), address);
/// assert_eq!(address.to_string(), "0000:00:05.0");
/// assert!("../00:05.0".parse::<Address>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl FromStr for Address {
    type Err = SysfsError;

    fn from_str(text: &str) -> Result<Self, SysfsError> {
        parse_address(text).ok_or_else(|| SysfsError::Address(text.into()))
    }
}

fn parse_address(text: &str) -> Option<Address> {
    // A sign is no digit, whatever `from_str_radix` says.
    let hex = |digits: &str, most: usize| {
        let valid = digits.len() <= most && digits.bytes().all(|b| b.is_ascii_hexdigit());
        valid.then(|| u32::from_str_radix(digits, 16).ok())?
    };
    let (rest, function) = text.rsplit_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
    let address = Address {
        domain: hex(domain, 8)?,
        bus: hex(bus, 2)? as u8,
        device: hex(device, 2)? as u8,
        function: hex(function, 1)? as u8,
    };
    (address.device < 32 && address.function < 8).then_some(address)
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

/// The only vhost-guest device below `devices`.
pub fn only_function(devices: &Path) -> Result<Address, SysfsError> {
    let entries = fs::read_dir(devices).map_err(|error| SysfsError::io(devices, error))?;
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let address = entry.file_name().to_str().and_then(parse_address);
        if let Some(address) = address.filter(|_| is_vhost_guest(&entry.path())) {
            found.push(address);
        }
    }
    found.sort_unstable();
    match found[..] {
        [] => Err(SysfsError::NoDevice),
        [address] => Ok(address),
        [first, second, ..] => Err(SysfsError::Several(first, second)),
    }
}

/// What cannot be read is no device of ours.
fn is_vhost_guest(directory: &Path) -> bool {
    IDENTITY
        .iter()
        .all(|(file, id)| read(&directory.join(file)).is_ok_and(|text| number(&text) == Some(*id)))
}

/// A function's directory, of which no kernel driver has hold.
pub fn directory(devices: &Path, address: Address) -> Result<PathBuf, SysfsError> {
    let directory = devices.join(address.to_string());
    if let Ok(driver) = fs::read_link(directory.join("driver")) {
        let driver = driver.file_name().unwrap_or_default().to_string_lossy();
        return Err(SysfsError::Bound(driver.into_owned()));
    }
    Ok(directory)
}

/// The lengths of the memory BARs; 0 where there is none.
///
/// The file `resource` has a line for each BAR: first and last address, flags.
pub fn bar_lengths(resource: &str) -> Result<[u64; BARS], SysfsError> {
    let mut lengths = [0; BARS];
    for (bar, (length, line)) in (0..).zip(lengths.iter_mut().zip(resource.lines())) {
        let mut numbers = line.split(' ').map(number);
        let (Some(Some(start)), Some(Some(end)), Some(Some(flags)), None) = (
            numbers.next(),
            numbers.next(),
            numbers.next(),
            numbers.next(),
        ) else {
            return Err(SysfsError::Resource(bar));
        };
        if flags & IORESOURCE_MEM == 0 {
            continue;
        }
        // One that the kernel found no place for begins at 0.
        *length = match end.checked_sub(start).and_then(|n| n.checked_add(1)) {
            Some(length) if start != 0 => length,
            _ => return Err(SysfsError::Unplaced(bar)),
        };
    }
    Ok(lengths)
}

fn number(text: &str) -> Option<u64> {
    let digits = text.trim_end().strip_prefix("0x")?;
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysfs::tests::{FakeSysfs, RESOURCE};

    #[test]
    fn rejects_addresses_that_are_none() {
        for text in [
            "",
            "auto",
            "0000:00:20.0",
            "00:05.8",
            "0:0:5",
            "-1:00:05.0",
            "123456789:00:05.0",
            "00:05.0/..",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        assert_eq!("10000:e1:1f.7".parse::<Address>().unwrap().domain, 0x10000);
    }

    #[test]
    fn finds_the_only_device_among_others() {
        let sysfs = FakeSysfs::new();
        assert!(matches!(
            only_function(sysfs.path()),
            Err(SysfsError::NoDevice)
        ));
        sysfs.function("0000:00:02.0", "0x1af4\n", "0x1041\n");
        sysfs.function("0000:00:03.0", "0x1af4\n", "0x1075\n");
        sysfs.function("not-a-function", "0x1af4\n", "0x1075\n");
        let address = only_function(sysfs.path()).unwrap();
        assert_eq!(address.to_string(), "0000:00:03.0");
        sysfs.function("0001:00:03.0", "0x1af4\n", "0x1075\n");
        let several = only_function(sysfs.path()).unwrap_err().to_string();
        assert!(several.contains("0000:00:03.0") && several.contains("0001:00:03.0"));
    }

    #[test]
    fn leaves_a_device_to_the_driver_that_has_it() {
        let sysfs = FakeSysfs::new();
        let place = sysfs.function("0000:00:03.0", "0x1af4\n", "0x1075\n");
        let address = only_function(sysfs.path()).unwrap();
        assert_eq!(directory(sysfs.path(), address).unwrap(), place);
        std::os::unix::fs::symlink("../../bus/virtio-pci", place.join("driver")).unwrap();
        let error = directory(sysfs.path(), address).unwrap_err();
        assert!(matches!(error, SysfsError::Bound(driver) if driver == "virtio-pci"));
    }

    #[test]
    fn reads_the_lengths_of_memory_bars_only() {
        let lengths = bar_lengths(RESOURCE).unwrap();
        assert_eq!(lengths, [0x4000, 0, 0x1000, 0, 0x20_0000, 0]);
        let ports = "0x000000000000c000 0x000000000000c01f 0x0000000000040101\n";
        assert_eq!(bar_lengths(ports).unwrap(), [0; 6]);
    }

    #[test]
    fn rejects_bars_without_a_place_and_nonsense() {
        let unplaced = "0x0000000000000000 0x0000000000000fff 0x0000000000040200\n";
        assert!(matches!(
            bar_lengths(unplaced),
            Err(SysfsError::Unplaced(0))
        ));
        let backwards = "0x0000000000002000 0x0000000000001000 0x0000000000040200\n";
        assert!(matches!(
            bar_lengths(backwards),
            Err(SysfsError::Unplaced(0))
        ));
        for line in ["", "0x1", "0x1 0x2 0x3 0x4", "1 2 3", "0x1 0x2 0xg"] {
            let text = format!("{line}\n");
            assert!(
                matches!(bar_lengths(&text), Err(SysfsError::Resource(0))),
                "{line}"
            );
        }
    }
}
