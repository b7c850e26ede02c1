// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A device and its backends, one after the other.
//!
//! ```text
//!   wait for a backend ─▶ type, BACKEND_UP ─▶ session ─▶ reset ─▶ and again
//! ```
//!
//! The device accepts a frontend only while a backend is there. When one of the
//! two leaves, the other is left: a backend begins each session as new, as it
//! does with a frontend of its own machine.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::account::Account;
use crate::device::Device;
use crate::direct;
use crate::error::{needs_reset, End, Failure};
use crate::peer::{sleep, Peer};
use crate::session::Session;

/// The pause after a session without a single message.
const BACKOFF: Duration = Duration::from_millis(100);
/// The pause after a backend that cannot work here, until it may be another.
const PAUSE: Duration = Duration::from_secs(5);

/// What a service is for.
pub struct Service<'a, D> {
    /// The device.
    pub device: &'a D,
    /// The way to backends.
    pub peer: &'a Peer,
    /// Their virtio type, if the user has named it.
    pub device_type: Option<u16>,
    /// Takes backends that have files open with `O_DIRECT`.
    pub allow_direct: bool,
    /// Readable when the relay is to end.
    pub stop: BorrowedFd<'a>,
    /// What happens is told there.
    pub log: &'a dyn Fn(&str),
}

impl<D: Device> Service<'_, D> {
    /// Serves until the relay is to end.
    ///
    /// # Errors
    ///
    /// The device or the socket cannot be used. Neither a frontend nor a
    /// backend can do that.
    pub fn run(&self) -> Result<(), Failure> {
        let device_type = self.device_type()?;
        loop {
            let socket = |error| Failure::Socket(self.peer.path().display().to_string(), error);
            let backend = self.peer.wait(self.stop, self.log).map_err(socket)?;
            let Some(backend) = backend else {
                return Ok(());
            };
            let (end, pause) = self.serve(backend, device_type)?;
            match end {
                End::Stopped => return Ok(()),
                End::System(call, error) if is_gone(&error) => {
                    return Err(Failure::Device(call, error));
                }
                _ => {}
            }
            let stopped = pause.is_some() && sleep(self.stop, pause).unwrap_or(false);
            if stopped {
                return Ok(());
            }
        }
    }

    /// Serves with one backend: how that ended, and how long to wait before the
    /// next one.
    fn serve(
        &self,
        backend: UnixStream,
        device_type: u16,
    ) -> Result<(End, Option<Duration>), Failure> {
        if let Some(path) = direct::find(&backend).filter(|_| !self.allow_direct) {
            let end = End::Direct(path);
            (self.log)(&end.to_string());
            return Ok((end, Some(PAUSE)));
        }
        self.offer(device_type)?;
        (self.log)("a backend is connected");
        let (end, account) = match Session::new(self.device, backend, self.log) {
            Ok(mut session) => {
                let ended = (session.run(self.stop), session.account());
                session.leave();
                ended
            }
            Err(end) => (end, Account::default()),
        };
        self.withdraw()?;
        if !matches!(end, End::Stopped) {
            (self.log)(&format!("{end}; {account}"));
        }
        // Whoever comes and goes without a word does not get all our time.
        Ok((end, account.last.is_none().then_some(BACKOFF)))
    }

    fn device_type(&self) -> Result<u16, Failure> {
        match (self.device.device_type(), self.device_type) {
            (0, None) => Err(Failure::NoType),
            (0, Some(backend)) => Ok(backend),
            (device, Some(backend)) if device != backend => {
                Err(Failure::WrongType { device, backend })
            }
            (device, _) => Ok(device),
        }
    }

    /// Lets the device accept a frontend. It was reset before.
    fn offer(&self, device_type: u16) -> Result<(), Failure> {
        let typed = self.device.set_device_type(device_type);
        let offered = typed.and_then(|()| self.device.set_backend_up(true));
        match offered {
            // The session will see, and the next reset helps.
            Err(error) if needs_reset(&error) => Ok(()),
            other => other.map_err(failed("offering the backend")),
        }
    }

    /// Disconnects the frontend, whose memory leaves the window; none is
    /// accepted without a backend.
    fn withdraw(&self) -> Result<(), Failure> {
        self.device.reset().map_err(failed("reset"))
    }
}

fn failed(call: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::Device(call, error)
}

/// Whether the device was unplugged, or its driver is gone.
fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}
