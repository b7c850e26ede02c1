// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every call of the host's that the device makes for itself fails once: when it
//! is made, and in the middle of a session. What is missing then costs a frontend
//! its connection at most; the device is never dead, and serves the next.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use vhost_guest_vmm_traits::test_utils::{Call, TestVmm};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::rig::{self, memory_file, message, words, Frontend, Rig};
use super::session::{assert_recovers, exchange};
use super::siege::{wait_for_turn, PLAIN, SIZE, USER};
use super::vmm_faults::{session, whole};
use crate::connection::carried;
use crate::error::BuildError;
use crate::function::Builder;
use crate::host::failure;
use crate::vmm::services::Services;

/// What a host says that is at its limits.
const LIMITS: [Errno; 3] = [Errno::NOMEM, Errno::NOSPC, Errno::MFILE];

/// Tells whether this is a process for `test` alone; else makes one, and waits for
/// its success. Which call fails is a matter of the whole process.
fn is_alone(test: &str) -> bool {
    const CHILD: &str = "VHOST_GUEST_TEST_HOST_FAULTS";
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let name = format!("tests::host_faults::{test}");
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", &name]).env(CHILD, "1").output();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
    false
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Makes a device whose `n`-th call fails. `false`: there are not so many.
fn is_refused(n: usize, errno: Errno) -> bool {
    let name = format!("vhost-guest-{}-host-{n}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let vmm = Arc::new(TestVmm::new());
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let services = Services {
        interrupts: vmm.clone(),
        doorbells: Some(vmm.clone()),
        window: vmm.clone(),
        memory: Arc::new(memory),
        translator: None,
        notifier: Some(vmm.clone()),
        thread_hook: None,
    };
    let builder = Builder::new(UnixListener::bind_addr(&address).unwrap());
    let builder = builder.queues(1).migration(4096);
    let limit = Duration::from_secs(1000);
    let builder = builder.reply_timeout(limit).orphan_timeout(limit);
    failure::after(n, errno);
    let outcome = builder.build_without_thread(services);
    if !failure::happened() {
        outcome.unwrap();
        return false;
    }
    let Err(BuildError::Environment(error)) = outcome else {
        panic!("call {n}: {outcome:?}");
    };
    assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()), "call {n}");
    assert_eq!(vmm.source_count(), 0, "call {n}: sources are left");
    true
}

#[test]
fn a_device_that_cannot_be_made_leaves_nothing() {
    if !is_alone("a_device_that_cannot_be_made_leaves_nothing") {
        return;
    }
    // Locks are timed in tests, which takes a descriptor for each thread.
    drop(Rig::new());
    let before = descriptors();
    for errno in LIMITS {
        let calls = (0..).take_while(|n| is_refused(*n, errno)).count();
        assert!(calls >= 20, "only {calls} calls");
    }
    assert_eq!(descriptors(), before);
}

/// Runs a session whose `n`-th call fails. `false`: there are not so many.
fn survives(n: usize, errno: Errno) -> bool {
    let mut rig = whole();
    rig.vmm_fails = true;
    let vmm = Arc::clone(&rig.vmm);
    failure::after(n, errno);
    session(&mut rig);
    let failed = failure::happened();
    let what = format!("{errno} in call {n}");
    assert!(!vmm.calls().contains(&Call::Dead), "{what}: dead");
    assert_eq!(vmm.mappings(), [], "{what}");
    assert_eq!(vmm.armed(), [], "{what}");
    assert!(vmm.doorbells().len() <= 6, "{what}");
    assert_recovers(&mut rig, &what);
    failed
}

#[test]
fn every_call_of_a_session_may_fail_once() {
    if !is_alone("every_call_of_a_session_may_fail_once") {
        return;
    }
    for errno in [Errno::NOMEM, Errno::NOSPC] {
        let calls = (0..).take_while(|n| survives(*n, errno)).count();
        assert!(calls > 40, "only {calls} calls");
    }
}

/// The driver resets the device, and a frontend comes.
fn another(rig: &mut Rig) -> Frontend {
    rig.start();
    rig.backend_up();
    let frontend = rig.connect();
    rig.run();
    frontend
}

/// The next frontend would meet the same limit, as fast as it can connect.
#[test]
fn a_device_rests_when_the_host_is_at_a_limit() {
    if !is_alone("a_device_rests_when_the_host_is_at_a_limit") {
        return;
    }
    let table = message(5, PLAIN, &words(&[1, 0, SIZE, USER, 0]));
    let record = message(31, PLAIN, &words(&[0, 0, 2 | 256 << 16]));
    // An instance of inotify; a watch; a file for a record of requests.
    for (calls, request) in [(0, &table), (1, &table), (0, &record)] {
        let (mut rig, mut frontend) = rig::connected();
        rig.negotiate(&mut frontend, carried());
        failure::after(calls, Errno::NOSPC);
        let fds = [memory_file(SIZE).into()];
        let fds = if request == &table { &fds[..] } else { &[] };
        exchange(&mut rig, &mut frontend, request, fds);
        assert!(failure::happened());
        assert!(rig.needs_reset(), "call {calls}");
        let _next = another(&mut rig);
        assert_eq!(rig.up(), 1, "it is accepted at once");
        wait_for_turn(&rig);
        rig.run();
        assert_eq!(rig.up(), 3, "it is never accepted");
    }
}
