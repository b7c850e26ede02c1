// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Sockets that the kernel lets nobody wait for: whose they are, that frontend
//! is disconnected, and the next one is served.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::epoll;
use rustix::io::Errno;
use vhost_guest_vmm_traits::test_utils::Call;

use super::rig::{event, message, Frontend, NEEDS_RESET};
use super::siege::{wait_for_turn, Siege, NEED_REPLY, PLAIN};
use crate::connection::carried;
use crate::error::{EnvironmentFault, Fault, FrontendFault};
use crate::event_loop::poller::Unwaitable;

/// Paths of wake-ups that the kernel allows from one file through another epoll
/// set (`path_limits` of `fs/eventpoll.c`).
const PATHS: usize = 500;

fn set_with(fd: BorrowedFd<'_>) -> OwnedFd {
    let set = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let data = epoll::EventData::new_u64(0);
    epoll::add(&set, fd, data, epoll::EventFlags::IN).unwrap();
    set
}

/// In a VMM's event loop, the device's epoll set is in another one, so one more
/// that waits for the channel would be one path too many. None does.
#[test]
fn a_channel_that_no_epoll_set_can_wait_for_is_one_like_any_other() {
    let mut siege = Siege::new();
    let events = siege.rig.device.poller_fd().unwrap();
    let _event_loop = set_with(events.as_fd());
    let mut frontend = siege.frontend(carried());
    let (ours, theirs) = UnixStream::pair().unwrap();
    let inner = set_with(theirs.as_fd());
    let _paths: Vec<_> = (0..PATHS).map(|_| set_with(inner.as_fd())).collect();
    frontend.send(&message(21, PLAIN, &[]), &[theirs.as_fd()]);
    let rig = &mut siege.rig;
    assert!(rig.receive(0).is_some());
    let request = message(2, NEED_REPLY, &[]);
    rig.send(3, &request);
    let mut channel = Frontend { stream: ours };
    assert_eq!(channel.receive(), Some(request));
    drop(frontend);
    siege.serves_the_next();
}

/// Everything that the user of this process may wait for, held by somebody else.
struct Watches {
    files: Vec<OwnedFd>,
    sets: Vec<OwnedFd>,
}

impl Watches {
    fn none() -> Self {
        Self {
            files: (0..256).map(|_| event()).collect(),
            sets: Vec::new(),
        }
    }

    /// Takes what is left.
    fn take(&mut self) {
        loop {
            let set = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
            let wait_for = |file| {
                let data = epoll::EventData::new_u64(0);
                epoll::add(&set, file, data, epoll::EventFlags::IN)
            };
            let outcome = self.files.iter().try_for_each(wait_for);
            self.sets.push(set);
            match outcome {
                Ok(()) => {}
                Err(error) => return assert_eq!(error, Errno::NOSPC),
            }
        }
    }
}

/// Another process of the same user may have them (`fs.epoll.max_user_watches`).
#[test]
fn without_a_watch_for_its_frontend_the_device_rests_and_tries_again() {
    if std::env::var_os("VHOST_GUEST_FEW_WATCHES").is_none() {
        // There are millions of them, each with memory of the kernel's.
        eprintln!("SKIPPED: this is for cargo xtask confined");
        return;
    }
    let mut siege = Siege::new();
    let frontend = siege.frontend(carried());
    drop(frontend);
    siege.rig.run();
    siege.rig.start();
    siege.rig.backend_up();
    siege.rig.run();
    let mut frontend = siege.rig.connect();
    let mut watches = Watches::none();
    for _ in 0..3 {
        // The one for the listener too, which is not waited for in a rest.
        watches.take();
        siege.rig.run();
        assert!(siege.rig.device.server().connection.is_none());
        assert!(siege.rig.status() & NEEDS_RESET != 0, "nobody noticed");
        assert!(frontend.is_disconnected());
        // The next one waits until the device has rested, and is lost too.
        siege.rig.start();
        siege.rig.backend_up();
        frontend = siege.rig.connect();
        siege.rig.run();
        assert_eq!(siege.rig.status() & NEEDS_RESET, 0, "no rest");
        wait_for_turn(&siege.rig);
    }
    assert!(!siege.rig.vmm.calls().contains(&Call::Dead));
    drop((frontend, watches));
    siege.rig.run();
    siege.serves_the_next();
}

#[test]
fn the_kernels_refusals_are_the_peers_and_its_limits_the_environments() {
    for errno in [Errno::INVAL, Errno::LOOP, Errno::PERM] {
        let fault = Fault::from(Unwaitable(errno));
        let told = matches!(
            fault,
            Fault::Frontend(FrontendFault::Unwaitable(Unwaitable(told))) if told == errno
        );
        assert!(told, "{errno}: {fault}");
    }
    for errno in [Errno::NOSPC, Errno::NOMEM] {
        let fault = Fault::from(Unwaitable(errno));
        let told = matches!(
            fault,
            Fault::Environment(EnvironmentFault::Unwaitable(Unwaitable(told))) if told == errno
        );
        assert!(told, "{errno}: {fault}");
    }
}
