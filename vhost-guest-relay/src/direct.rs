// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Backends that cannot work here: those that read and write files past the page
//! cache (`O_DIRECT`), from and into the frontend's memory.
//!
//! For that the kernel would have to lend the pages of the window to the file's
//! device. They are memory of a PCI device, which it does not: each request would
//! fail with `EFAULT`, and the frontend's guest would see a broken disk. It is
//! better to say so in the beginning.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::net::sockopt::socket_peercred;

/// A file that the backend has open with `O_DIRECT`, if it may be asked: the
/// processes of another user keep that to themselves.
pub fn find(backend: &UnixStream) -> Option<PathBuf> {
    let process = socket_peercred(backend).ok()?.pid.as_raw_nonzero();
    find_in(&Path::new("/proc").join(process.to_string()))
}

fn find_in(process: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(process.join("fdinfo")).ok()?;
    files.flatten().find_map(|file| {
        let information = fs::read_to_string(file.path()).ok()?;
        if !is_direct(&information) {
            return None;
        }
        // It may have been closed by now; then it is of no interest.
        fs::read_link(process.join("fd").join(file.file_name())).ok()
    })
}

/// Whether an entry of fdinfo (proc(5)) tells of `O_DIRECT`.
fn is_direct(information: &str) -> bool {
    let flags = information
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & OFlags::DIRECT.bits() != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_file_that_is_open_past_the_page_cache() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert_eq!(find(&theirs), None);
        // A pipe in packet mode has the flag, too, on every file system.
        let flags = rustix::pipe::PipeFlags::DIRECT;
        let pipe = rustix::pipe::pipe_with(flags).unwrap();
        let found = find(&theirs).unwrap();
        assert!(found.to_string_lossy().starts_with("pipe:"), "{found:?}");
        drop((pipe, ours));
        assert_eq!(find(&theirs), None);
    }

    #[test]
    fn reads_what_the_kernel_tells_of_a_file() {
        assert!(!is_direct("pos:\t0\nflags:\t02100002\nmnt_id:\t9\n"));
        let flags = OFlags::DIRECT.bits() | 2;
        assert!(is_direct(&format!("pos:\t0\nflags:\t{flags:o}\n")));
        assert!(!is_direct("flags:\tnone"));
        assert!(!is_direct(""));
    }
}
