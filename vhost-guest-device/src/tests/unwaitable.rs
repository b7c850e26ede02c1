// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Sockets that the kernel lets nobody wait for: whose they are, that frontend
//! is disconnected, and the next one is served.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::epoll;
use vhost_guest_vmm_traits::test_utils::Call;

use super::rig::{message, STATUS};
use super::siege::{Siege, PLAIN};
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
/// that waits for the channel is one path too many.
#[test]
fn a_channel_that_nobody_can_wait_for_costs_its_frontend_alone() {
    let mut siege = Siege::new();
    let events = siege.rig.device.poller_fd().unwrap();
    let _event_loop = set_with(events.as_fd());
    let mut frontend = siege.frontend(carried());
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let inner = set_with(theirs.as_fd());
    let _paths: Vec<_> = (0..PATHS).map(|_| set_with(inner.as_fd())).collect();
    frontend.send(&message(21, PLAIN, &[]), &[theirs.as_fd()]);
    let rig = &mut siege.rig;
    assert!(rig.needs_reset());
    assert!(!rig.vmm.calls().contains(&Call::Dead));
    rig.write(STATUS, &[0]);
    drop(frontend);
    siege.serves_the_next();
}

#[test]
fn the_kernels_refusals_are_the_peers_and_its_limits_the_environments() {
    use rustix::io::Errno;
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
