// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the host must have, and where it is.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};
use crate::process::find;

/// What a guest loads to see the disk, in this order.
const MODULES: [&str; 6] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
];

/// The stock parts that a VM is made of.
pub struct Host {
    pub qemu: PathBuf,
    pub kernel: PathBuf,
    pub busybox: PathBuf,
    /// The modules of a disk that are not built into the kernel.
    pub modules: Vec<Module>,
    /// Where the kernel's modules are.
    modules_directory: PathBuf,
}

/// A program that not every test needs, and the package that has it.
#[derive(Clone, Copy)]
pub struct Program {
    pub name: &'static str,
    pub package: &'static str,
}

/// QEMU's own backend.
pub const STORAGE_DAEMON: Program = Program {
    name: "qemu-storage-daemon",
    package: "qemu-system-common",
};

/// Name and file of a module.
pub type Module = (&'static str, PathBuf);

impl Host {
    /// Finds all parts, and programs that only some tests need; or names the
    /// packages that bring all that is missing.
    pub fn find<const N: usize>(programs: [Program; N]) -> Result<(Self, [PathBuf; N])> {
        let qemu = find("qemu-system-x86_64");
        let busybox = find("busybox").filter(|path| is_static(path));
        let kernel = newest_kernel();
        let firmware = find_firmware();
        let paths = programs.map(|program| find_for_root(program.name));
        let (Some(qemu), Some(busybox), Some((kernel, modules)), true, true) = (
            &qemu,
            &busybox,
            &kernel,
            firmware,
            paths.iter().all(Option::is_some),
        ) else {
            let parts = [
                ("qemu-system-x86", qemu.is_some()),
                ("seabios", firmware),
                ("linux-image-cloud-amd64", kernel.is_some()),
                ("busybox-static", busybox.is_some()),
            ];
            let programs = programs.iter().zip(&paths);
            let programs = programs.map(|(program, path)| (program.package, path.is_some()));
            return Err(missing(parts.into_iter().chain(programs)).into());
        };
        let host = Self {
            qemu: qemu.clone(),
            kernel: kernel.clone(),
            busybox: busybox.clone(),
            modules: find_modules(modules, &MODULES)?,
            modules_directory: modules.clone(),
        };
        Ok((host, paths.map(Option::unwrap_or_default)))
    }

    /// What modules for the guests' kernel are built with, besides the programs
    /// for that.
    pub fn kernel_headers(&self) -> Result<PathBuf> {
        let headers = headers(&self.modules_directory);
        // If both are named, apt-get brings both to the same version.
        let there = headers.is_dir();
        let parts = [
            ("linux-headers-cloud-amd64", there),
            ("linux-image-cloud-amd64", there),
            ("make", find("make").is_some()),
            ("gcc", find("gcc").is_some()),
        ];
        match parts.iter().all(|(_, there)| *there) {
            true => Ok(headers),
            false => Err(missing(parts.into_iter()).into()),
        }
    }

    /// Those of the modules that are not built into the kernel, in this order.
    pub fn find_modules(&self, names: &[&'static str]) -> Result<Vec<Module>> {
        find_modules(&self.modules_directory, names)
    }
}

/// What to install, of packages and whether they are there.
pub fn missing(packages: impl Iterator<Item = (&'static str, bool)>) -> String {
    let missing: Vec<_> = packages
        .filter_map(|(package, there)| (!there).then_some(package))
        .collect();
    let missing = missing.join(" ");
    format!("missing packages: {missing}\n    apt-get install {missing}")
}

/// Looks a program up in PATH, and where root's are.
fn find_for_root(program: &str) -> Option<PathBuf> {
    let places = ["/usr/sbin", "/sbin"].map(|place| Path::new(place).join(program));
    find(program).or_else(|| places.into_iter().find(|path| path.is_file()))
}

/// Debian's cloud kernel of the highest version, and its modules.
fn newest_kernel() -> Option<(PathBuf, PathBuf)> {
    newest_kernel_in(Path::new("/boot"), Path::new("/lib/modules"))
}

/// Prefers kernels that modules can be built for: another one may have been
/// installed since, without its headers.
fn newest_kernel_in(boot: &Path, modules: &Path) -> Option<(PathBuf, PathBuf)> {
    fs::read_dir(boot)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix("vmlinuz-")?;
            let modules = modules.join(version);
            (version.ends_with("-cloud-amd64") && modules.is_dir()).then(|| {
                let rank = (headers(&modules).is_dir(), numbers(version));
                (rank, entry.path(), modules)
            })
        })
        .max()
        .map(|(_, kernel, modules)| (kernel, modules))
}

/// Where the headers of a kernel with these modules are, if they are installed.
fn headers(modules: &Path) -> PathBuf {
    modules.join("build")
}

/// "6.1.0-56-cloud" as [6, 1, 0, 56], which sorts as people count.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

fn find_modules(directory: &Path, names: &[&'static str]) -> Result<Vec<Module>> {
    let read = |name: &str| {
        let path = directory.join(name);
        fs::read_to_string(&path).path_context("cannot read", &path)
    };
    let built_in = read("modules.builtin")?;
    let loadable = read("modules.dep")?;
    let mut found = Vec::new();
    for module in names.iter().copied() {
        let file = format!("/{module}.ko");
        if built_in.lines().any(|line| line.ends_with(&file)) {
            continue;
        }
        let path = loadable
            .lines()
            .filter_map(|line| line.split(':').next())
            .find(|path| path.ends_with(&file))
            .ok_or_else(|| format!("no {module}.ko in {}", directory.display()))?;
        found.push((module, directory.join(path)));
    }
    Ok(found)
}

/// Whether a program runs without shared libraries: it names no loader.
fn is_static(path: &Path) -> bool {
    const LOADER: &[u8] = b"/lib64/ld-linux";
    fs::read(path).is_ok_and(|program| {
        !program
            .windows(LOADER.len())
            .take(0x2000)
            .any(|window| window == LOADER)
    })
}

fn find_firmware() -> bool {
    ["/usr/share/seabios", "/usr/share/qemu"]
        .iter()
        .any(|directory| Path::new(directory).join("bios-256k.bin").exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_versions_by_number() {
        assert!(numbers("6.1.0-9-cloud-amd64") < numbers("6.1.0-56-cloud-amd64"));
        assert!(numbers("6.1.0-56-cloud-amd64") < numbers("6.12.0-1-cloud-amd64"));
    }

    #[test]
    fn prefers_a_kernel_that_modules_can_be_built_for() {
        let scratch = std::env::temp_dir().join(format!("kernels-{}", std::process::id()));
        let (boot, modules) = (scratch.join("boot"), scratch.join("modules"));
        let newest = || newest_kernel_in(&boot, &modules).map(|(kernel, _)| kernel);
        let kernel = |version: &str| boot.join(format!("vmlinuz-{version}-cloud-amd64"));
        fs::create_dir_all(&boot).unwrap();
        for version in ["6.1.0-9", "6.1.0-56", "6.1.0-57"] {
            let modules = modules.join(format!("{version}-cloud-amd64"));
            fs::create_dir_all(modules).unwrap();
            fs::write(kernel(version), "").unwrap();
        }
        assert_eq!(newest(), Some(kernel("6.1.0-57")));
        for version in ["6.1.0-9", "6.1.0-56"] {
            let modules = modules.join(format!("{version}-cloud-amd64"));
            fs::create_dir(headers(&modules)).unwrap();
            assert_eq!(newest(), Some(kernel(version)));
        }
        fs::remove_dir_all(scratch).unwrap();
    }

    #[test]
    fn names_all_missing_packages() {
        let named = missing([("a", false), ("b", true), ("c", false)].into_iter());
        assert!(named.ends_with("apt-get install a c"), "{named}");
        let none = Program {
            name: "vhost-guest-none",
            package: "first",
        };
        let other = Program {
            package: "second",
            ..none
        };
        let error = Host::find([none, other]).err().unwrap().to_string();
        assert!(error.ends_with("first second"), "{error}");
    }

    #[test]
    fn rejects_a_program_with_a_loader() {
        let own = std::env::current_exe().unwrap();
        assert!(!is_static(&own) || cfg!(target_feature = "crt-static"));
    }
}
