// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A vhost-user socket in the file system.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{connect, socket_with, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Makes a listening socket at `path`, in place of one that an earlier process
/// has left behind.
///
/// One that somebody listens to stays, and does not notice the attempt; so
/// does any other file. Two processes that start at the same time may both find
/// the same old socket; the later one wins then.
///
/// # Errors
///
/// `AddrInUse` if something is there that stays, and what `bind` says.
pub fn bind_socket(path: impl AsRef<Path>) -> io::Result<UnixListener> {
    let path = path.as_ref();
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_behind(path)? => {
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        outcome => outcome,
    }
}

/// Whether a socket is at `path` that no process has any more.
///
/// To connect would be to be a frontend: the guest of a device that listens
/// there would serve it, and lose it. So this asks with a socket of another
/// type. The kernel looks for the owner first (`ECONNREFUSED`), and at the type
/// then (`EPROTOTYPE`).
fn is_left_behind(path: &Path) -> io::Result<bool> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let outcome = connect(&probe, &SocketAddrUnix::new(path)?);
    Ok(outcome == Err(Errno::CONNREFUSED))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;

    use super::*;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let name = format!("vhost-guest-{}-{name}.sock", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = fs::remove_file(&path);
            Self(path)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn replaces_a_socket_that_was_left_behind() {
        let place = Place::new("left");
        for _ in 0..3 {
            let listener = bind_socket(&place.0).unwrap();
            let _frontend = UnixStream::connect(&place.0).unwrap();
            listener.accept().unwrap();
        }
    }

    #[test]
    fn leaves_a_socket_alone_that_somebody_listens_to() {
        let place = Place::new("used");
        let listener = bind_socket(&place.0).unwrap();
        listener.set_nonblocking(true).unwrap();
        let error = bind_socket(&place.0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let noticed = listener.accept().unwrap_err();
        assert_eq!(noticed.kind(), io::ErrorKind::WouldBlock, "it was asked");
        let _frontend = UnixStream::connect(&place.0).unwrap();
        listener.accept().unwrap();
    }

    #[test]
    fn leaves_every_other_file_alone() {
        let (place, link) = (Place::new("file"), Place::new("link"));
        // Without contents, for which there may be no room.
        let file = fs::File::create(&place.0).unwrap().metadata().unwrap();
        std::os::unix::fs::symlink(&place.0, &link.0).unwrap();
        for path in [&place.0, &link.0] {
            let error = bind_socket(path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        }
        assert_eq!(fs::metadata(&link.0).unwrap().ino(), file.ino());
        // A link to a socket is not a socket that was left behind.
        fs::remove_file(&place.0).unwrap();
        drop(bind_socket(&place.0).unwrap());
        assert!(bind_socket(&link.0).is_err());
        assert!(place.0.exists());
        let error = bind_socket(Path::new("/nonexistent/socket")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
