// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The listening socket, and its name in the file system.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::loopback::failure::{Context, Failure};

/// Removes the socket's name when dropped, if it is still the same socket. That
/// should be before the listener is closed: then nobody else takes it over.
#[derive(Debug)]
pub struct SocketName {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

/// Listens at `path`, in place of a socket that another program has left behind.
pub fn listen(path: &Path) -> Result<(UnixListener, SocketName), Failure> {
    let listener = vhost_guest_device::bind_socket(path).map_err(|error| explain(path, error))?;
    let name = path.display();
    let metadata = fs::symlink_metadata(path).context(format!("socket {name}"))?;
    let name = SocketName {
        path: path.to_owned(),
        identity: (metadata.dev(), metadata.ino()),
    };
    Ok((listener, name))
}

impl Drop for SocketName {
    fn drop(&mut self) {
        let metadata = fs::symlink_metadata(&self.path);
        if metadata.is_ok_and(|found| (found.dev(), found.ino()) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn explain(path: &Path, error: io::Error) -> Failure {
    let name = path.display();
    if error.kind() != io::ErrorKind::AddrInUse {
        return Failure::Socket(format!("{name}: {error}"));
    }
    let socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if !socket {
        return Failure::Socket(format!("{name}: exists and is not a socket"));
    }
    Failure::Socket(format!("{name}: busy, another program listens there"))
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    fn failure(path: &Path) -> String {
        listen(path).unwrap_err().to_string()
    }

    #[test]
    fn removes_its_name_but_not_that_of_another() {
        let dir = TempDir::new().unwrap();
        let path = dir.as_path().join("s");
        let (_listener, name) = listen(&path).unwrap();
        drop(name);
        assert!(!path.exists());

        let (_listener, name) = listen(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        drop(name);
        assert!(path.exists());
    }

    #[test]
    fn tells_busy_from_left_behind_from_foreign() {
        let dir = TempDir::new().unwrap();
        let path = dir.as_path().join("s");
        let (listener, name) = listen(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        assert!(failure(&path).contains("busy"));
        // The other program has not noticed.
        let error = listener.accept().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(listener);
        // As if it had been killed.
        std::mem::forget(name);
        let (_listener, name) = listen(&path).unwrap();
        drop(name);
        assert!(!path.exists());

        let path = dir.as_path().join("file");
        fs::write(&path, "").unwrap();
        assert!(failure(&path).contains("not a socket"));
        let path = dir.as_path().join("none/s");
        assert!(failure(&path).contains("No such file"));
    }
}
