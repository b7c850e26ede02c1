// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The guests: a shell, the modules of the disk, and one script each.

use std::fmt::Write;
use std::fs;

use super::cpio::Archive;
use super::host::Host;
use crate::error::{Context, Result};

/// What a guest does with the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Writes the pattern, flushes, and reads it back.
    Fill,
    /// Reads the pattern.
    Verify,
    /// Writes numbered blocks for as long as it lives.
    WriteNumbered,
    /// Reads the blocks that were flushed.
    CheckNumbered,
    /// Writes and reads while it is migrated.
    Migrate,
    /// Does what is typed.
    Shell,
}

impl Role {
    /// As it is called in file names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fill => "fill",
            Self::Verify => "verify",
            Self::WriteNumbered => "write-numbered",
            Self::CheckNumbered => "check-numbered",
            Self::Migrate => "migrate",
            Self::Shell => "shell",
        }
    }

    fn script(self) -> &'static str {
        match self {
            Self::Fill => include_str!("guest/fill.sh"),
            Self::Verify => include_str!("guest/verify.sh"),
            Self::WriteNumbered => include_str!("guest/write_numbered.sh"),
            Self::CheckNumbered => include_str!("guest/check_numbered.sh"),
            Self::Migrate => include_str!("guest/migrate.sh"),
            Self::Shell => include_str!("guest/shell.sh"),
        }
    }
}

/// Packs the initramfs of a guest: `settings` are variables for its scripts,
/// `files` are at its root.
pub fn pack(
    host: &Host,
    role: Role,
    settings: &[(&str, String)],
    files: &[(&str, &[u8])],
) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "modules"] {
        archive.directory(directory);
    }
    archive.character_device("dev/console", 5, 1);
    let busybox = fs::read(&host.busybox).path_context("cannot read", &host.busybox)?;
    archive.file("bin/busybox", 0o755, &busybox);
    let mut order = String::new();
    for (name, path) in &host.modules {
        let module = fs::read(path).path_context("cannot read", path)?;
        archive.file(&format!("modules/{name}.ko"), 0o644, &module);
        // Writing to a string cannot fail.
        let _ = writeln!(order, "{name}");
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    archive.file("init", 0o755, include_bytes!("guest/init.sh"));
    archive.file("role", 0o644, role.script().as_bytes());
    let settings: String = settings
        .iter()
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    archive.file("settings", 0o644, settings.as_bytes());
    for (name, content) in files {
        archive.file(name, 0o644, content);
    }
    Ok(archive.finish())
}
