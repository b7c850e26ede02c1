// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The stock backend of a vsock, and the program that tells whether it works.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Context, Result};
use crate::process::run;
use crate::workspace;

const NAME: &str = "vhost-device-vsock";
/// Each version is installed in a place of its own.
const VERSION: &str = "0.3.0";

/// Installs the backend, unless it is there already: it takes minutes.
pub fn install() -> Result<PathBuf> {
    let root = workspace::target().join(format!("stock/{NAME}-{VERSION}"));
    let program = root.join("bin").join(NAME);
    if program.is_file() {
        return Ok(program);
    }
    let build = root.join("build");
    run(Command::new(workspace::cargo())
        .args(["install", "--quiet", "--locked", "--no-track"])
        .args([NAME, "--version", VERSION, "--root"])
        .arg(&root)
        .arg("--target-dir")
        .arg(&build))?;
    fs::remove_dir_all(&build).path_context("cannot remove", &build)?;
    Ok(program)
}

/// Builds what sends bytes and sends them back.
pub fn build_echo(program: &Path) -> Result<()> {
    let source = workspace::root().join("xtask/src/e2e/relay_lab/guest/echo_bytes.c");
    run(Command::new("gcc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(program)
        .arg(source))
}
