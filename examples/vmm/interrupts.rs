// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What `KVM_IRQFD` does, for an emulated guest.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vhost_guest_driver::emulated::Interrupts;
use vhost_guest_driver::{MsiMessage as GuestMessage, VectorSet, MAX_VECTORS};
use vhost_guest_vmm_traits::{Arming, InterruptManager, MsiMessage, SourceId};

use super::sources::{Events, Sources};

/// Where message-signalled interrupts go, as on a PC.
const MSI_ADDRESS: u64 = 0xfee0_0000;

/// The interrupt controller of a guest with one vCPU.
///
/// The vCPU itself waits for the eventfds of armed sources while it has
/// nothing to do, as the kernel does for a halted vCPU with irqfds: no other
/// thread of the VMM is involved.
pub struct InterruptController {
    sources: Mutex<Sources>,
    /// Interrupts that the vCPU has not taken yet, other than from eventfds.
    raised: Mutex<VectorSet>,
    /// What the vCPU waits for.
    vcpu: Events,
    delivered: AtomicU64,
}

impl InterruptController {
    /// No sources yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            sources: Mutex::new(Sources::new()),
            raised: Mutex::default(),
            vcpu: Events::new()?,
            delivered: AtomicU64::new(0),
        })
    }

    /// Another thread than the vCPU raises an interrupt.
    pub fn raise(&self, message: MsiMessage) {
        let vectors = vector_of(message);
        if !vectors.is_empty() {
            lock(&self.raised).merge(&vectors);
            self.vcpu.wake();
        }
    }

    /// Interrupts that the vCPU took from eventfds itself.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// How many sources exist.
    pub fn sources(&self) -> usize {
        lock(&self.sources).len()
    }

    /// How many of them are armed.
    pub fn armed(&self) -> usize {
        lock(&self.sources).armed()
    }

    /// Takes the messages of what was signalled.
    fn take(&self, tokens: &[u64], vectors: &mut VectorSet) {
        if tokens.is_empty() {
            return;
        }
        let sources = lock(&self.sources);
        let messages = tokens.iter().filter_map(|token| sources.take(*token));
        for message in messages {
            vectors.merge(&vector_of(message));
            self.delivered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A message to another address, or of a vector that there is not, is lost.
fn vector_of(message: MsiMessage) -> VectorSet {
    let mut vectors = VectorSet::new();
    if let (MSI_ADDRESS, Ok(vector)) = (message.address, u16::try_from(message.data)) {
        vectors.insert(vector);
    }
    vectors
}

impl InterruptManager for InterruptController {
    fn create_source(&self) -> io::Result<SourceId> {
        lock(&self.sources).create()
    }

    fn arm(&self, sources: &[Arming<'_>]) -> io::Result<()> {
        lock(&self.sources).arm_all(&self.vcpu, sources)
    }

    fn disarm(&self, sources: &[Arming<'_>]) -> io::Result<()> {
        let mut books = lock(&self.sources);
        for arming in sources {
            let signalled = books.disarm(&self.vcpu, arming.source);
            signalled
                .into_iter()
                .for_each(|message| self.raise(message));
        }
        Ok(())
    }

    fn destroy_source(&self, source: SourceId) {
        lock(&self.sources).destroy(source);
    }
}

impl Interrupts for InterruptController {
    fn message(&self, vector: u16) -> GuestMessage {
        debug_assert!(vector < MAX_VECTORS);
        GuestMessage {
            address: MSI_ADDRESS,
            data: vector.into(),
        }
    }

    fn wait(&self, timeout: Option<Duration>) -> VectorSet {
        let tokens = self.vcpu.wait(timeout);
        let mut vectors = std::mem::take(&mut *lock(&self.raised));
        self.take(&tokens, &mut vectors);
        vectors
    }

    fn wake(&self) {
        self.vcpu.wake();
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{eventfd, EventfdFlags};
    use std::os::fd::{AsFd, OwnedFd};

    use super::*;

    const SOON: Option<Duration> = Some(Duration::ZERO);

    fn new_eventfd(value: u32) -> OwnedFd {
        eventfd(value, EventfdFlags::empty()).unwrap()
    }

    fn message(vector: u32) -> MsiMessage {
        MsiMessage {
            address: MSI_ADDRESS,
            data: vector,
        }
    }

    fn arming(fd: &OwnedFd, source: SourceId, vector: u32) -> Arming<'_> {
        Arming {
            source,
            eventfd: fd.as_fd(),
            message: message(vector),
        }
    }

    fn signal(fd: &OwnedFd) {
        rustix::io::write(fd, &1_u64.to_ne_bytes()).unwrap();
    }

    fn vectors(set: VectorSet) -> Vec<u16> {
        set.iter().collect()
    }

    #[test]
    fn raises_at_once_what_was_signalled_before_arming() {
        let controller = InterruptController::new().unwrap();
        let (fd, source) = (new_eventfd(1), controller.create_source().unwrap());
        controller.arm(&[arming(&fd, source, 5)]).unwrap();
        assert_eq!(vectors(controller.wait(SOON)), [5]);
        assert!(controller.wait(SOON).is_empty());
        signal(&fd);
        assert_eq!(vectors(controller.wait(SOON)), [5]);
        assert_eq!(controller.delivered(), 2);
    }

    #[test]
    fn raises_what_was_signalled_before_disarming_and_drains_it() {
        let controller = InterruptController::new().unwrap();
        let (fd, source) = (new_eventfd(0), controller.create_source().unwrap());
        controller.arm(&[arming(&fd, source, 5)]).unwrap();
        signal(&fd);
        controller.disarm(&[arming(&fd, source, 5)]).unwrap();
        assert_eq!(vectors(controller.wait(SOON)), [5]);
        signal(&fd);
        assert!(controller.wait(SOON).is_empty());
    }

    #[test]
    fn keeps_sources_on_one_vector_apart() {
        let controller = InterruptController::new().unwrap();
        let fds = [new_eventfd(0), new_eventfd(0)];
        let ids = [(); 2].map(|()| controller.create_source().unwrap());
        let both = [arming(&fds[0], ids[0], 9), arming(&fds[1], ids[1], 9)];
        controller.arm(&both).unwrap();
        controller.disarm(&both[..1]).unwrap();
        signal(&fds[1]);
        assert_eq!(vectors(controller.wait(SOON)), [9]);
    }

    #[test]
    fn can_be_disarmed_when_one_descriptor_is_not_an_eventfd() {
        let controller = InterruptController::new().unwrap();
        let fds = [
            new_eventfd(0),
            std::fs::File::open("/dev/null").unwrap().into(),
        ];
        let ids = [(); 2].map(|()| controller.create_source().unwrap());
        let both = [arming(&fds[0], ids[0], 1), arming(&fds[1], ids[1], 2)];
        let error = controller.arm(&both).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        controller.disarm(&both).unwrap();
        signal(&fds[0]);
        assert!(controller.wait(SOON).is_empty());
        // What can be armed can be armed again.
        controller.arm(&both[..1]).unwrap();
        assert_eq!(vectors(controller.wait(SOON)), [1]);
    }

    #[test]
    fn an_eventfd_raises_one_message() {
        let controller = InterruptController::new().unwrap();
        let fd = new_eventfd(0);
        let duplicate = fd.try_clone().unwrap();
        let ids = [(); 2].map(|()| controller.create_source().unwrap());
        controller.arm(&[arming(&fd, ids[0], 1)]).unwrap();
        let second = [arming(&duplicate, ids[1], 2)];
        let error = controller.arm(&second).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        signal(&fd);
        assert_eq!(vectors(controller.wait(SOON)), [1]);
        // Once the first one is disarmed, it is free.
        controller.disarm(&[arming(&fd, ids[0], 1)]).unwrap();
        controller.arm(&second).unwrap();
        signal(&fd);
        assert_eq!(vectors(controller.wait(SOON)), [2]);
    }

    #[test]
    fn takes_what_another_thread_raises() {
        let controller = InterruptController::new().unwrap();
        controller.raise(message(5));
        assert_eq!(vectors(controller.wait(None)), [5]);
        assert_eq!(controller.delivered(), 0);
    }

    #[test]
    fn ends_the_next_wait_when_woken_before() {
        let controller = InterruptController::new().unwrap();
        controller.wake();
        assert!(controller.wait(None).is_empty());
        assert!(controller.wait(SOON).is_empty());
    }

    #[test]
    fn does_not_spin_on_a_semaphore_that_stays_readable() {
        let controller = InterruptController::new().unwrap();
        let fd = eventfd(1000, EventfdFlags::SEMAPHORE).unwrap();
        let source = controller.create_source().unwrap();
        controller.arm(&[arming(&fd, source, 5)]).unwrap();
        assert_eq!(vectors(controller.wait(SOON)), [5]);
        assert!(controller.wait(SOON).is_empty());
    }
}
