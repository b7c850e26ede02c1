// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The listening socket, and its name in the file system.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::loopback::failure::{Context, Failure};

/// Removes the socket's name when dropped, if it is still the same socket.
#[derive(Debug)]
pub struct SocketName {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

/// Listens at `path`.
///
/// A path that exists is an error, even if it is the socket of a program that
/// is gone: whether to remove it is the user's decision.
pub fn listen(path: &Path) -> Result<(UnixListener, SocketName), Failure> {
    let listener = UnixListener::bind(path).map_err(|error| explain(path, error))?;
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
    let socket = fs::metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if !socket {
        return Failure::Socket(format!("{name}: exists and is not a socket"));
    }
    Failure::Socket(match is_stale(path) {
        Ok(true) => format!(
            "{name}: left behind by a program that does not run any more; remove it: rm {name}"
        ),
        Ok(false) => format!("{name}: busy, another program listens there"),
        Err(error) => format!("{name}: exists ({error})"),
    })
}

/// Whether nobody has the socket open that `path` names.
///
/// Connecting as a client does would disturb the program that listens. A
/// connection of the wrong type is refused by the kernel in either case, with
/// different errors.
fn is_stale(path: &Path) -> io::Result<bool> {
    match UnixDatagram::unbound()?.connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::PROTOTYPE.raw_os_error()) => Ok(false),
        Ok(()) => Ok(false),
        Err(error) => Err(error),
    }
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
    fn tells_busy_from_stale_from_foreign() {
        let dir = TempDir::new().unwrap();
        let path = dir.as_path().join("s");
        let (listener, _name) = listen(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        assert!(failure(&path).contains("busy"));
        // The other program has not noticed.
        let error = listener.accept().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(listener);
        assert!(failure(&path).contains("left behind"));

        let path = dir.as_path().join("file");
        fs::write(&path, "").unwrap();
        assert!(failure(&path).contains("not a socket"));
        let path = dir.as_path().join("none/s");
        assert!(failure(&path).contains("No such file"));
    }
}
