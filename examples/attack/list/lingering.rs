// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A descriptor whose last close sleeps: a TCP socket with unsent data and
//! SO_LINGER. Whoever drops the last reference waits for the peer.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

/// Longer than anybody waits.
const LINGER: Duration = Duration::from_secs(1 << 14);

/// The socket, and its peer: as long as that is there and does not read, the
/// close does not end.
pub fn socket() -> io::Result<(OwnedFd, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let socket = TcpStream::connect(listener.local_addr()?)?;
    let (peer, _) = listener.accept()?;
    socket.set_nonblocking(true)?;
    while (&socket).write(&[0; 1 << 16]).is_ok() {}
    // What does not sleep when it is closed does not linger either.
    socket.set_nonblocking(false)?;
    set_socket_linger(&socket, Some(LINGER))?;
    Ok((socket.into(), peer))
}

/// A descriptor that closes at once, in the place of one that does not.
pub fn harmless() -> io::Result<OwnedFd> {
    Ok(TcpListener::bind("127.0.0.1:0")?.into())
}

/// Either of them, and what keeps it from closing.
pub fn either(hostile: bool) -> io::Result<(OwnedFd, Option<TcpStream>)> {
    match hostile {
        true => socket().map(|(socket, peer)| (socket, Some(peer))),
        false => Ok((harmless()?, None)),
    }
}
