// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The disk of the emulated host: programs with their libraries, kernels and
//! initramfs images for the machines that run on it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::cpio::Archive;
use super::super::host::{Host, Module};
use crate::error::{Context, Result};
use crate::process::{output, run};

/// Firmware that QEMU looks for when it boots a kernel.
const FIRMWARE: [&str; 7] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/seabios/bios.bin",
    "/usr/share/qemu/bios-256k.bin",
    "/usr/share/qemu/kvmvapic.bin",
    "/usr/share/qemu/linuxboot.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
    "/usr/share/qemu/pvh.bin",
];
/// What may be free on the disk.
const SPARE_MIB: u64 = 64;

/// A script for the init of a machine.
const INIT: &[u8] = include_bytes!("guest/init.sh");

/// An initramfs: a shell, modules, a role, and programs with their libraries.
pub fn initramfs(
    host: &Host,
    modules: &[Module],
    role: &str,
    programs: &[(&str, &Path)],
) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    let mut made = BTreeSet::new();
    for directory in ["bin", "dev", "lab", "modules"] {
        made.insert(PathBuf::from(directory));
        archive.directory(directory);
    }
    archive.character_device("dev/console", 5, 1);
    archive.file("bin/busybox", 0o755, &read(&host.busybox)?);
    for (name, path) in modules {
        archive.file(&format!("modules/{name}.ko"), 0o644, &read(path)?);
    }
    archive.file("modules/order", 0o644, order(modules).as_bytes());
    archive.file("init", 0o755, INIT);
    archive.file("role", 0o644, role.as_bytes());
    let mut libraries = BTreeSet::new();
    for (name, path) in programs {
        archive.file(&format!("lab/{name}"), 0o755, &read(path)?);
        libraries.extend(libraries_of(path)?);
    }
    for library in libraries {
        let name = library.strip_prefix("/").unwrap_or(&library).to_owned();
        let mut parents: Vec<_> = name.ancestors().skip(1).collect();
        parents.pop();
        for parent in parents.into_iter().rev() {
            if made.insert(parent.to_owned()) {
                archive.directory(&parent.to_string_lossy());
            }
        }
        archive.file(&name.to_string_lossy(), 0o755, &read(&library)?);
    }
    Ok(archive.finish())
}

/// The root directory of the emulated host.
pub struct Root {
    directory: PathBuf,
}

impl Root {
    pub fn new(directory: PathBuf) -> Result<Self> {
        for name in ["bin", "dev", "proc", "sys", "run", "tmp", "lab", "modules"] {
            let path = directory.join(name);
            fs::create_dir_all(&path).path_context("cannot create", &path)?;
        }
        Ok(Self { directory })
    }

    /// What the init of this machine needs.
    pub fn add_init(&self, host: &Host, modules: &[Module], role: &str) -> Result<()> {
        self.copy(&host.busybox, "bin/busybox")?;
        for (name, path) in modules {
            self.copy(path, &format!("modules/{name}.ko"))?;
        }
        self.write("modules/order", order(modules).as_bytes())?;
        self.write("role", role.as_bytes())?;
        self.write("init", INIT)?;
        run(Command::new("chmod")
            .arg("755")
            .arg(self.directory.join("init")))
    }

    /// A program, with the libraries that it is linked with.
    pub fn add_program(&self, name: &str, path: &Path) -> Result<()> {
        self.copy(path, &format!("lab/{name}"))?;
        for library in libraries_of(path)? {
            self.copy_to_same_place(&library)?;
        }
        Ok(())
    }

    pub fn add_firmware(&self) -> Result<()> {
        for path in FIRMWARE.map(Path::new) {
            if path.exists() {
                self.copy_to_same_place(path)?;
            }
        }
        Ok(())
    }

    fn copy_to_same_place(&self, path: &Path) -> Result<()> {
        let name = path.strip_prefix("/").unwrap_or(path);
        self.copy(path, &name.to_string_lossy())
    }

    pub fn copy(&self, from: &Path, name: &str) -> Result<()> {
        let to = self.place(name)?;
        fs::copy(from, &to)
            .map(drop)
            .path_context("cannot copy", from)
    }

    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let to = self.place(name)?;
        fs::write(&to, content).path_context("cannot write", &to)
    }

    fn place(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).path_context("cannot create", parent)?;
        }
        Ok(path)
    }

    /// Makes a file system of it, in a file.
    pub fn into_image(self, mke2fs: &Path, image: &Path) -> Result<()> {
        let used = output(Command::new("du").arg("-sm").arg(&self.directory))?;
        let used = used.split_whitespace().next().and_then(|n| n.parse().ok());
        let used: u64 = used.ok_or("du has not told the size of a directory")?;
        run(Command::new(mke2fs)
            .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"])
            .arg(&self.directory)
            .arg(image)
            .arg(format!("{}M", used + used / 4 + SPARE_MIB))
            .stdout(std::process::Stdio::null()))?;
        fs::remove_dir_all(&self.directory).path_context("cannot remove", &self.directory)
    }
}

fn order(modules: &[Module]) -> String {
    modules
        .iter()
        .map(|(name, _)| format!("{name}\n"))
        .collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).path_context("cannot read", path)
}

/// The shared libraries of a program, its loader among them.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let list = output(Command::new("ldd").arg(program))?;
    let libraries = parse_ldd(&list);
    if libraries.is_empty() {
        return Err(format!("ldd names no libraries of {}", program.display()).into());
    }
    Ok(libraries)
}

fn parse_ldd(list: &str) -> Vec<PathBuf> {
    list.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_library_and_the_loader() {
        let list = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        let expected = ["/lib/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse_ldd(list), expected.map(PathBuf::from));
        assert!(parse_ldd("\tstatically linked\n").is_empty());
    }
}
