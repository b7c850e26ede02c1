// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A cpio archive in the "newc" form, which the kernel unpacks as its
//! initramfs (Documentation/driver-api/early-userspace/buffer-format).
//!
//! Written here and not by `cpio`, because a device node in an archive needs
//! no root when nobody has to make the node first.

/// Longer names than this are refused by the kernel.
const NAME_MAX: usize = 4096;
const ALIGNMENT: usize = 4;
const TRAILER: &str = "TRAILER!!!";

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive that grows by one entry per call.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[]);
    }

    pub fn file(&mut self, name: &str, permissions: u32, content: &[u8]) {
        self.entry(name, REGULAR | permissions, (0, 0), content);
    }

    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, CHARACTER_DEVICE | 0o600, (major, minor), &[]);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        assert!(name.len() < NAME_MAX, "a name of {} bytes", name.len());
        let size = u32::try_from(content.len()).expect("newc holds files below 4 GiB");
        self.entries += 1;
        let fields = [
            self.entries, // inode
            mode,
            0, // uid
            0, // gid
            1, // links
            0, // modification time: the same archive each time
            size,
            0, // the archive's device
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0, // no checksum in this form
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        let length = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(length, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Entry {
        name: String,
        mode: u32,
        device: (u32, u32),
        content: Vec<u8>,
    }

    /// Reads an archive back.
    fn read(mut bytes: &[u8]) -> Vec<Entry> {
        let whole = bytes.len();
        let mut entries = Vec::new();
        loop {
            let mut take = |length: usize| {
                let (head, tail) = bytes.split_at(length);
                bytes = tail;
                head.to_vec()
            };
            assert_eq!(take(6), b"070701");
            let fields: Vec<usize> = (0..13)
                .map(|_| {
                    let digits = String::from_utf8(take(8)).unwrap();
                    usize::from_str_radix(&digits, 16).unwrap()
                })
                .collect();
            let mut name = take(fields[11]);
            assert_eq!(name.pop(), Some(0));
            let at = whole - bytes.len();
            bytes = &bytes[at.next_multiple_of(4) - at..];
            let content = bytes[..fields[6]].to_vec();
            bytes = &bytes[fields[6].next_multiple_of(4)..];
            let name = String::from_utf8(name).unwrap();
            if name == TRAILER {
                assert!(bytes.is_empty());
                return entries;
            }
            entries.push(Entry {
                name,
                mode: fields[1] as u32,
                device: (fields[9] as u32, fields[10] as u32),
                content,
            });
        }
    }

    #[test]
    fn keeps_every_entry_at_every_alignment() {
        let mut archive = Archive::default();
        archive.directory("dev");
        archive.character_device("dev/console", 5, 1);
        for length in 0..9 {
            let name = "n".repeat(length + 1);
            archive.file(&name, 0o755, &vec![b'x'; length]);
        }
        let entries = read(&archive.finish());
        assert_eq!(entries.len(), 11);
        assert_eq!(entries[0].mode, 0o040_755);
        assert_eq!(entries[1].mode, 0o020_600);
        assert_eq!(entries[1].device, (5, 1));
        for (length, entry) in entries[2..].iter().enumerate() {
            assert_eq!(entry.name.len(), length + 1);
            assert_eq!(entry.mode, 0o100_755);
            assert_eq!(entry.content, vec![b'x'; length]);
        }
    }
}
