// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask confined`: the device's tests as the user that a careful host
//! gives a VMM, who is not root, has few descriptors, little to wait with, and no
//! room in the file system.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::arguments::Arguments;
use crate::error::{Context, Result};
use crate::process::{output, run as run_command};
use crate::workspace;

const PACKAGE: &str = "vhost-guest-device";
/// `nobody`, who owns nothing.
const USER: &str = "65534";
/// What a service has that asks for no more.
const DESCRIPTORS: u32 = 1024;
/// What a user may wait for with epoll; a host usually allows millions.
const WATCHES: u32 = 4096;
const MAX_USER_WATCHES: &str = "/proc/sys/fs/epoll/max_user_watches";
/// Tells the tests that there are few watches.
const FEW_WATCHES: &str = "VHOST_GUEST_FEW_WATCHES";

/// Tests that such a user cannot run, and why.
const IMPOSSIBLE: [(&str, &str); 10] = [
    (
        "fd::fuse_tests::a_jammed_pipe_holds_up_one_thread_and_nobody_else",
        MOUNTS,
    ),
    (
        "fd::channel::tests::one_that_somebody_else_reads_keeps_its_thread_waiting_and_nobody_else",
        MOUNTS,
    ),
    ("fd::fuse_tests::closing_waits_in_other_threads", MOUNTS),
    (
        "fd::fuse_tests::no_kind_check_waits_for_a_file_system",
        MOUNTS,
    ),
    (
        "memory::tests::watch::to_watch_a_file_asks_no_file_system",
        MOUNTS,
    ),
    (
        "tests::held_locks::a_record_whose_inode_is_locked_is_emptied_by_somebody_else",
        MOUNTS,
    ),
    (
        "tests::held_locks::memory_whose_inode_is_locked_holds_up_nobody",
        MOUNTS,
    ),
    (
        "tests::hostile_waits::no_message_makes_the_device_wait_for_a_file_system",
        MOUNTS,
    ),
    (
        "fd::signaller::tests::waiting_signals_are_one_and_their_number_has_an_end",
        "opens 1024 descriptors and more",
    ),
    (
        "tests::messages::two_hundred_and_fifty_six_vrings_at_once",
        "opens 1024 descriptors and more",
    ),
];
const MOUNTS: &str = "mounts a file system";

/// Fills the little file system at $1, and becomes the command behind it.
const SCRIPT: &str = r#"
mount -t tmpfs -o size=64k,mode=1777 confined "$1"
cat /dev/zero >"$1/full" 2>/dev/null || true
if echo >"$1/more" 2>/dev/null; then
    echo "$1 is not full" >&2
    exit 1
fi
export TMPDIR="$1"
shift
exec "$@"
"#;

const HELP: &str = "\
Runs the device's tests as a user who is not root, with 1024 descriptors, on a
tmpfs that is full, and, where that can be set, with few watches (the whole
machine has few until it is over). It needs root, or user namespaces.

Usage: cargo xtask confined [FILTER]
";

pub fn run(arguments: &mut Arguments) -> Result<()> {
    if arguments.flag("--help") {
        print!("{HELP}");
        return Ok(());
    }
    let filter = arguments.positional();
    arguments.finish()?;

    let built = build()?;
    let place = Place::new()?;
    let test = place.executable().join("test");
    fs::copy(&built, &test).path_context("cannot copy", &built)?;
    let watches = Watches::lower()?;
    for (name, why) in IMPOSSIBLE {
        println!("skipped: {name}: {why}");
    }
    let mut command = confined(&place)?;
    command.arg(&test);
    // They share the limits, and each is to have all of them.
    command.arg("--test-threads=1");
    for (name, _) in IMPOSSIBLE {
        command.arg(format!("--skip={name}"));
    }
    command.args(filter);
    command.current_dir(workspace::root().join(PACKAGE));
    // A test that skips itself, for want of a right, fails.
    command.env("CI", "true");
    if watches.is_some() {
        command.env(FEW_WATCHES, "1");
    }
    run_command(&mut command)
}

/// Builds the tests. Returns their program.
fn build() -> Result<PathBuf> {
    let mut cargo = Command::new(workspace::cargo());
    cargo.current_dir(workspace::root());
    cargo.args(["test", "--package", PACKAGE, "--all-features", "--lib"]);
    cargo.args(["--no-run", "--message-format=json"]);
    let messages = output(&mut cargo)?;
    executable(&messages).ok_or_else(|| "cargo built no tests".into())
}

/// The program that cargo's messages name.
fn executable(messages: &str) -> Option<PathBuf> {
    let (_, rest) = messages.split_once("\"executable\":\"")?;
    let (path, _) = rest.split_once('"')?;
    Some(path.into())
}

/// The beginning of a command that becomes the one behind it, confined.
fn confined(place: &Place) -> Result<Command> {
    let mut command = Command::new("unshare");
    let is_root = output(Command::new("id").arg("-u"))?.trim() == "0";
    if !is_root {
        // Root of a namespace, so that it may mount.
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "--propagation", "private"]);
    command.args(["sh", "-euc", SCRIPT, "sh"]);
    command.arg(place.full());
    command.arg("prlimit");
    command.arg(format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}"));
    match is_root {
        true => command
            .args(["setpriv", "--reuid", USER, "--regid", USER])
            .args([
                "--clear-groups",
                "--inh-caps=-all",
                "--bounding-set=-all",
                "--no-new-privs",
            ]),
        false => {
            let (user, group) = ("--map-user=65534", "--map-group=65534");
            command.args(["unshare", "--user", user, group])
        }
    };
    Ok(command)
}

/// Directories that are gone when this is.
struct Place(PathBuf);

impl Place {
    fn new() -> Result<Self> {
        let name = format!("vhost-guest-confined-{}", std::process::id());
        let place = Self(std::env::temp_dir().join(name));
        for path in [place.0.clone(), place.executable(), place.full()] {
            fs::create_dir(&path).path_context("cannot make", &path)?;
            // Another user has to get in.
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&path, mode).path_context("cannot open", &path)?;
        }
        // A test makes a file beside its program, on another file system.
        let (path, mode) = (place.executable(), fs::Permissions::from_mode(0o1777));
        fs::set_permissions(&path, mode).path_context("cannot open", &path)?;
        Ok(place)
    }

    fn executable(&self) -> PathBuf {
        self.0.join("executable")
    }

    /// Where the full file system is.
    fn full(&self) -> PathBuf {
        self.0.join("full")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The host's limit, which is what it was when this is dropped.
struct Watches(String);

impl Watches {
    /// Lowers the limit, if it can be set.
    fn lower() -> Result<Option<Self>> {
        let path = Path::new(MAX_USER_WATCHES);
        let usual = fs::read_to_string(path).path_context("cannot read", path)?;
        let usual = usual.trim().to_owned();
        if let Err(error) = fs::write(path, WATCHES.to_string()) {
            println!("skipped: few watches: {error}");
            return Ok(None);
        }
        println!("{MAX_USER_WATCHES}: {WATCHES} instead of {usual}");
        Ok(Some(Self(usual)))
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        if let Err(error) = fs::write(MAX_USER_WATCHES, &self.0) {
            eprintln!("{MAX_USER_WATCHES} was {}: {error}", self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_program_in_what_cargo_says() {
        let messages = "{\"executable\":null}\n{\"executable\":\"/target/x-1\",\"fresh\":true}\n";
        assert_eq!(executable(messages), Some("/target/x-1".into()));
        assert_eq!(executable("{\"executable\":null}"), None);
    }

    #[test]
    fn the_tests_that_are_skipped_exist() {
        for (name, why) in IMPOSSIBLE {
            let path: Vec<_> = name.split("::").collect();
            let (test, modules) = path.split_last().unwrap();
            let source = |modules: &[&str]| {
                let path = workspace::root().join(PACKAGE).join("src");
                let path = path.join(modules.join("/")).with_extension("rs");
                fs::read_to_string(path).unwrap_or_default()
            };
            // In a file of their own, or at the end of the code.
            let (inner, outer) = (source(modules), source(&modules[..modules.len() - 1]));
            let head = format!("fn {test}()");
            assert!(inner.contains(&head) || outer.contains(&head), "{name}");
            assert!(why.len() > 10, "{name}: {why}");
        }
    }
}
