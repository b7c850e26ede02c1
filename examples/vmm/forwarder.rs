// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Interrupts for a VMM without irqfds.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use vhost_guest_vmm_traits::{Arming, InterruptManager, MsiMessage, SourceId};

use super::sources::{Events, Sources};

/// A thread that waits for armed eventfds, and raises what they stand for in
/// whatever way the VMM has.
pub struct Forwarder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    sources: Mutex<Sources>,
    events: Events,
    raise: Box<dyn Fn(MsiMessage) + Send + Sync>,
    stop: AtomicBool,
    forwarded: AtomicU64,
}

impl Forwarder {
    /// Starts the thread, which ends with the object.
    pub fn start(raise: impl Fn(MsiMessage) + Send + Sync + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            sources: Mutex::new(Sources::new()),
            events: Events::new()?,
            raise: Box::new(raise),
            stop: AtomicBool::new(false),
            forwarded: AtomicU64::new(0),
        });
        let forwarding = Arc::clone(&shared);
        let thread = thread::Builder::new().name("irq-forwarder".to_owned());
        let thread = Some(thread.spawn(move || forwarding.run())?);
        Ok(Self { shared, thread })
    }

    /// How many signals the thread has forwarded.
    pub fn forwarded(&self) -> u64 {
        self.shared.forwarded.load(Ordering::Relaxed)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.events.wake();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        while !self.stop.load(Ordering::SeqCst) {
            for token in self.events.wait(None) {
                // Locked until it is raised: once a source is disarmed, nothing
                // of it is on its way.
                let sources = self.sources();
                if let Some(message) = sources.take(token) {
                    (self.raise)(message);
                    self.forwarded.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

impl InterruptManager for Forwarder {
    fn create_source(&self) -> io::Result<SourceId> {
        self.shared.sources().create()
    }

    fn arm(&self, sources: &[Arming<'_>]) -> io::Result<()> {
        let shared = &self.shared;
        shared.sources().arm_all(&shared.events, sources)
    }

    fn disarm(&self, sources: &[Arming<'_>]) -> io::Result<()> {
        let mut books = self.shared.sources();
        for arming in sources {
            let signalled = books.disarm(&self.shared.events, arming.source);
            // Nobody saw it before.
            signalled.into_iter().for_each(&self.shared.raise);
        }
        Ok(())
    }

    fn destroy_source(&self, source: SourceId) {
        self.shared.sources().destroy(source);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};
    use std::sync::mpsc::{channel, Receiver};

    use rustix::event::{eventfd, EventfdFlags};

    use super::*;

    const MESSAGE: MsiMessage = MsiMessage {
        address: 0xFEE0_0000,
        data: 5,
    };

    fn forwarder() -> (Forwarder, Receiver<MsiMessage>, OwnedFd) {
        let (raise, raised) = channel();
        let forwarder = Forwarder::start(move |message| {
            let _ = raise.send(message);
        });
        let fd = eventfd(0, EventfdFlags::empty()).unwrap();
        (forwarder.unwrap(), raised, fd)
    }

    fn signal(fd: &OwnedFd) {
        rustix::io::write(fd, &1_u64.to_ne_bytes()).unwrap();
    }

    #[test]
    fn raises_what_an_armed_eventfd_stands_for() {
        let (forwarder, raised, fd) = forwarder();
        let source = forwarder.create_source().unwrap();
        let arming = Arming {
            source,
            eventfd: fd.as_fd(),
            message: MESSAGE,
        };
        signal(&fd);
        forwarder.arm(&[arming]).unwrap();
        assert_eq!(raised.recv(), Ok(MESSAGE));
        // The thread counts when it has raised.
        forwarder.disarm(&[arming]).unwrap();
        assert_eq!(forwarder.forwarded(), 1);
        signal(&fd);
        assert!(raised.try_recv().is_err());
        forwarder.destroy_source(source);
    }

    #[test]
    fn raises_once_what_is_signalled_before_it_is_disarmed() {
        let (forwarder, raised, fd) = forwarder();
        let source = forwarder.create_source().unwrap();
        let arming = Arming {
            source,
            eventfd: fd.as_fd(),
            message: MESSAGE,
        };
        for _ in 0..100 {
            forwarder.arm(&[arming]).unwrap();
            signal(&fd);
            forwarder.disarm(&[arming]).unwrap();
            // Whoever saw it has raised it by now.
            assert_eq!(raised.try_recv(), Ok(MESSAGE));
            assert!(raised.try_recv().is_err());
        }
    }
}
