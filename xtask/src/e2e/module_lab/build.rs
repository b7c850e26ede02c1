// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Builds the Linux driver for the kernel of the guests, and the program that
//! tests it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::super::host::Host;
use crate::error::{Context, Result};
use crate::process::{output, run};
use crate::workspace;

/// What was built.
pub struct Built {
    pub module: PathBuf,
    pub test: PathBuf,
    /// The backend and the frontend of tests with both.
    pub peer: PathBuf,
}

/// Builds in `directory`, so that the sources stay as they are.
pub fn build(host: &Host, directory: &Path) -> Result<Built> {
    let sources = workspace::root().join("linux");
    copy_sources(&sources, directory)?;
    let mut make = Command::new("make");
    make.arg("--silent")
        .arg("-C")
        .arg(host.kernel_headers()?)
        .arg(format!("M={}", directory.display()))
        .args(["W=1", "KCFLAGS=-Werror", "modules"])
        .stdout(Stdio::null());
    output(&mut make)?;
    let program = |name: &str| {
        let program = directory.join(name);
        let source = sources.join("tests").join(format!("{name}.c"));
        let mut gcc = Command::new("gcc");
        gcc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-result"])
            .arg("-I")
            .arg(sources.join("include/uapi"))
            .arg("-o")
            .arg(&program)
            .arg(source);
        run(&mut gcc).map(|()| program)
    };
    Ok(Built {
        module: directory.join("vhost_guest.ko"),
        test: program("vhost_guest_test")?,
        peer: program("vhost_guest_peer")?,
    })
}

fn copy_sources(from: &Path, to: &Path) -> Result<()> {
    let header = "include/uapi/linux/vhost_guest.h";
    let headers = to.join("include/uapi/linux");
    fs::create_dir_all(&headers).path_context("cannot create", &headers)?;
    let mut names = vec![PathBuf::from("Kbuild"), PathBuf::from(header)];
    let files = from.read_dir().path_context("cannot read", from)?;
    for file in files {
        let name = file.path_context("cannot read", from)?.file_name();
        let text = name.to_string_lossy();
        let generated = text.ends_with(".mod.c");
        if (text.ends_with(".c") || text.ends_with(".h")) && !generated {
            names.push(name.into());
        }
    }
    for name in names {
        let file = from.join(&name);
        fs::copy(&file, to.join(&name)).path_context("cannot copy", &file)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_each_file_that_is_compiled() {
        let scratch = std::env::temp_dir().join(format!("module-build-{}", std::process::id()));
        copy_sources(&workspace::root().join("linux"), &scratch).unwrap();
        let kbuild = fs::read_to_string(scratch.join("Kbuild")).unwrap();
        let objects = kbuild
            .split_whitespace()
            .filter_map(|w| w.strip_suffix(".o"));
        let missing: Vec<_> = objects
            .filter(|object| *object != "vhost_guest")
            .filter(|object| !scratch.join(format!("{object}.c")).is_file())
            .collect();
        fs::remove_dir_all(&scratch).unwrap();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
