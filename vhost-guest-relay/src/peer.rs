// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Where backends come from: a socket that one listens on, or that one
//! connects to.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    connect as connect_socket, socket_with, AddressFamily, SocketAddrUnix, SocketFlags, SocketType,
};

/// The longest pause between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The first one.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The way to a backend.
#[derive(Debug)]
pub enum Peer {
    /// It listens there.
    Connect(PathBuf),
    /// It connects there.
    Listen(Listener),
}

/// A socket that is ours, and is removed with it.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Peer {
    /// Listens at `path`, in place of a socket that nobody listens on any more.
    pub fn listen(path: &Path) -> io::Result<Self> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && is_stale(path)? => {
                fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                let text = match is_socket(path) {
                    true => "another process listens on it",
                    false => "it is there, and no socket",
                };
                return Err(io::Error::new(error.kind(), text));
            }
            other => other?,
        };
        listener.set_nonblocking(true)?;
        let path = path.to_owned();
        Ok(Self::Listen(Listener { listener, path }))
    }

    /// Where the socket is.
    pub fn path(&self) -> &Path {
        match self {
            Self::Connect(path) => path,
            Self::Listen(Listener { path, .. }) => path,
        }
    }

    /// Waits for a backend; tells `log` what for. `None`: `stop` is readable.
    ///
    /// # Errors
    ///
    /// The socket can never be used.
    pub fn wait(&self, stop: BorrowedFd<'_>, log: &dyn Fn(&str)) -> io::Result<Option<UnixStream>> {
        match self {
            Self::Connect(path) => connect(path, stop, log),
            Self::Listen(Listener { listener, path }) => {
                log(&format!(
                    "waiting for a backend to connect to {}",
                    path.display()
                ));
                accept(listener, stop)
            }
        }
    }
}

/// Why a backend cannot be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absent {
    NoSocket,
    NobodyListens,
    /// As many others wait as it lets wait.
    Busy,
}

impl Absent {
    fn describe(self, path: &Path) -> String {
        let path = path.display();
        match self {
            Self::NoSocket => format!("waiting for a backend: there is no socket {path} yet"),
            Self::NobodyListens => format!("waiting for a backend: nobody listens on {path}"),
            Self::Busy => format!("waiting for a backend: that on {path} is busy with others"),
        }
    }
}

/// One attempt, which does not block, be the backend ever so busy.
fn attempt(path: &Path) -> io::Result<Result<UnixStream, Absent>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let outcome = connect_socket(&socket, &SocketAddrUnix::new(path)?);
    Ok(match outcome {
        Ok(()) => {
            let stream = UnixStream::from(socket);
            stream.set_nonblocking(false)?;
            Ok(stream)
        }
        Err(Errno::NOENT) => Err(Absent::NoSocket),
        Err(Errno::CONNREFUSED) if !is_socket(path) => Err(Absent::NoSocket),
        Err(Errno::CONNREFUSED) => Err(Absent::NobodyListens),
        Err(Errno::AGAIN) => Err(Absent::Busy),
        Err(error) => return Err(error.into()),
    })
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It may be gone; nobody can do anything about anything else.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether `path` is a socket that its process has left behind.
///
/// To connect would be to be a backend, and to go away at once. So this asks
/// with a socket of another type: the kernel looks for the owner first
/// (`ECONNREFUSED`), and at the type then (`EPROTOTYPE`).
fn is_stale(path: &Path) -> io::Result<bool> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let outcome = connect_socket(&probe, &SocketAddrUnix::new(path)?);
    Ok(outcome == Err(Errno::CONNREFUSED))
}

fn connect(
    path: &Path,
    stop: BorrowedFd<'_>,
    log: &dyn Fn(&str),
) -> io::Result<Option<UnixStream>> {
    let mut pause = FIRST_PAUSE;
    let mut told = None;
    loop {
        // It was not started yet, or is being restarted, or has others to serve.
        match attempt(path)? {
            Ok(stream) => return Ok(Some(stream)),
            Err(absent) if told != Some(absent) => {
                log(&absent.describe(path));
                told = Some(absent);
            }
            Err(_) => {}
        }
        if sleep(stop, Some(pause))? {
            return Ok(None);
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn accept(listener: &UnixListener, stop: BorrowedFd<'_>) -> io::Result<Option<UnixStream>> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(Some(stream)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        let mut fds = [
            PollFd::from_borrowed_fd(stop, PollFlags::IN),
            PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
        ];
        wait(&mut fds, None)?;
        if fds.first().is_some_and(|stop| !stop.revents().is_empty()) {
            return Ok(None);
        }
    }
}

/// Sleeps; whether `stop` is readable.
pub fn sleep(stop: BorrowedFd<'_>, time: Option<Duration>) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(stop, PollFlags::IN)];
    wait(&mut fds, time)?;
    Ok(fds.iter().any(|stop| !stop.revents().is_empty()))
}

fn wait(fds: &mut [PollFd<'_>], time: Option<Duration>) -> io::Result<()> {
    let time = time.map(|time| Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    });
    match poll(fds, time.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::os::fd::OwnedFd;
    use std::thread;

    use super::*;

    fn path(name: &str) -> PathBuf {
        let process = std::process::id();
        std::env::temp_dir().join(format!("vhost-guest-relay-{process}-{name}.sock"))
    }

    fn stop() -> (OwnedFd, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (ours.into(), theirs)
    }

    #[test]
    fn waits_for_a_backend_that_is_started_later() {
        let path = path("later");
        let (stop, _other) = stop();
        let waiting = {
            let path = path.clone();
            thread::spawn(move || Peer::Connect(path).wait(stop.as_fd(), &|_| {}))
        };
        let listener = UnixListener::bind(&path).unwrap();
        listener.accept().unwrap();
        assert!(waiting.join().unwrap().unwrap().is_some());
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn stops_waiting_when_it_is_to_end() {
        let path = path("end");
        let (stop, other) = stop();
        drop(other);
        let peer = Peer::Connect(path.clone());
        assert!(peer.wait(stop.as_fd(), &|_| {}).unwrap().is_none());
        let peer = Peer::listen(&path).unwrap();
        assert!(peer.wait(stop.as_fd(), &|_| {}).unwrap().is_none());
        drop(peer);
        assert!(!path.exists());
    }

    #[test]
    fn takes_over_a_socket_that_was_left_behind_and_no_other() {
        let path = path("stale");
        let first = UnixListener::bind(&path).unwrap();
        first.set_nonblocking(true).unwrap();
        let busy = Peer::listen(&path).unwrap_err();
        assert_eq!(busy.to_string(), "another process listens on it");
        let noticed = first.accept().unwrap_err();
        assert_eq!(noticed.kind(), ErrorKind::WouldBlock, "it was asked");
        drop(first);
        drop(Peer::listen(&path).unwrap());
        fs::write(&path, "a file").unwrap();
        let file = Peer::listen(&path).unwrap_err();
        assert_eq!(file.to_string(), "it is there, and no socket");
        assert_eq!(fs::read(&path).unwrap(), b"a file");
        fs::remove_file(path).unwrap();
    }

    /// What is logged until `stop` is asked for, by the log itself.
    fn complaint(path: &Path) -> String {
        let (stop, other) = stop();
        let (other, said) = (Cell::new(Some(other)), RefCell::default());
        let log = |line: &str| {
            said.replace(line.to_owned());
            other.take();
        };
        let peer = Peer::Connect(path.to_owned());
        assert!(peer.wait(stop.as_fd(), &log).unwrap().is_none());
        said.into_inner()
    }

    #[test]
    fn says_why_there_is_no_backend() {
        let path = path("absent");
        let shown = path.display();
        let none = format!("waiting for a backend: there is no socket {shown} yet");
        assert_eq!(complaint(&path), none);
        fs::write(&path, "a file").unwrap();
        assert_eq!(complaint(&path), none);
        fs::remove_file(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _waits = UnixStream::connect(&path).unwrap();
        let busy = format!("waiting for a backend: that on {shown} is busy with others");
        assert_eq!(complaint(&path), busy);
        drop(listener);
        let nobody = format!("waiting for a backend: nobody listens on {shown}");
        assert_eq!(complaint(&path), nobody);
        fs::remove_file(path).unwrap();
    }
}
