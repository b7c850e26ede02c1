// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Requests of the backend, and their replies.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use vhost_guest_msg::{Endian, Limits};

use crate::error::End;
use crate::socket::Socket;

/// The channel of SET_BACKEND_REQ_FD.
pub struct Channel {
    /// Our end; the backend has the other.
    pub socket: Socket,
    /// A request that the device has no room for.
    pub request: Option<Vec<u8>>,
}

impl Channel {
    /// A channel over `stream`.
    pub fn new(stream: UnixStream, limits: &Limits) -> Self {
        Self {
            socket: Socket::new(stream, limits),
            request: None,
        }
    }

    /// Passes on what can be passed on. The backend may close its end at any
    /// time, and that is the end of the channel only.
    pub fn step(&mut self, file: &File, limits: &Limits) -> Result<(), End> {
        self.pass_requests(file)?;
        self.pass_replies(file, limits)
    }

    fn pass_requests(&mut self, mut file: &File) -> Result<(), End> {
        loop {
            if self.request.is_none() {
                self.request = self.socket.receive(|frame| {
                    // A guest has no descriptors to send; the features that
                    // come with some are taken out.
                    let mut bytes = frame.header.emit(Endian::NATIVE).to_vec();
                    bytes.extend_from_slice(frame.body);
                    Ok(bytes)
                })?;
            }
            let Some(request) = &self.request else {
                return Ok(());
            };
            match file.write(request) {
                Ok(_) => self.request = None,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(End::device("passing on a request")(error)),
            }
        }
    }

    fn pass_replies(&mut self, mut file: &File, limits: &Limits) -> Result<(), End> {
        self.socket.flush()?;
        while !self.socket.is_sending() {
            let mut reply = vec![0; limits.max_message_size];
            match file.read(&mut reply) {
                Ok(read) => {
                    let reply = reply.get(..read).unwrap_or_default();
                    self.socket.send(reply, Vec::new())?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(End::device("reading a reply")(error)),
            }
        }
        Ok(())
    }
}
