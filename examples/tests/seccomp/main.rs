// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A full session while each thread of the device may only do what the crate
//! says that it does.
//!
//! Nearly all that is listed happens here. What does not: a signaller that a
//! frontend blocks in the moment between its look at an eventfd and its write,
//! and is freed (`clock_nanosleep`, `preadv2`); the worker's look at a kick that
//! waits behind a mask (`ppoll`); and what allocators and locks do when they
//! have more to do.

#![cfg(target_arch = "x86_64")]

mod filter;
mod frontend;
mod guest;

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use vhost_guest_device::threads::{ALL, REAPER};
use vhost_guest_examples::vmm::{Config, Machine};
use vhost_guest_msg::{Verdict, FRONTEND_ROWS};
use vhost_guest_vmm_traits::ThreadHook;
use vmm_sys_util::tempdir::TempDir;

use filter::{violations, Filters};
use frontend::{attack, jam, Frontend};
use guest::Word;

/// After this time something hangs.
const PATIENCE: Duration = Duration::from_secs(30);

const CONFIG: Config = Config {
    queues: 2,
    window_size: 64 << 20,
    device_type: 2,
    irqfd: true,
    // Stores reach the device, and it signals.
    ioeventfd: false,
    state_piece: Some(4096),
};

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < PATIENCE,
            "hangs: {what}; {:?}",
            violations()
        );
        thread::sleep(Duration::from_millis(1));
    }
}

fn wait_for(fd: &OwnedFd, what: &str) {
    let patience = Timespec {
        tv_sec: PATIENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&patience)), Ok(1), "hangs: {what}");
}

/// How many threads of the device exist.
fn threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm"));
    let names = tasks.filter_map(|task| name(task.unwrap()).ok());
    let known = |name: &String| ALL.iter().any(|thread| thread.name == name.trim());
    names.filter(known).count()
}

/// Everything that happens to a device, from its making to its end.
fn session(filters: Arc<Filters>) {
    let directory = TempDir::new_with_prefix(std::env::temp_dir().join("seccomp-")).unwrap();
    let socket = directory.as_path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let hook: Arc<dyn ThreadHook> = filters.clone();
    let hour = Duration::from_secs(3600);
    let machine = Machine::with(listener, &CONFIG, |builder, mut services| {
        services.thread_hook = Some(hook);
        let builder = builder.reply_timeout(hour).orphan_timeout(hour);
        builder.build(services)
    });
    let machine = machine.unwrap();
    // For messages, and for making others.
    assert_eq!((filters.installed(), threads()), (2, 2));
    let word = Arc::new(Word::default());
    let guest = guest::start(machine.platform().unwrap(), &word);

    let frontend = Frontend::connect(&socket);
    frontend.use_everything();
    wait_until("replies to the guest", || {
        *word.replies.lock().unwrap() == 2
    });
    assert_eq!(*word.loaded.lock().unwrap(), 200);
    drop(frontend);
    Frontend::connect(&socket).truncate();
    Frontend::connect(&socket).die();
    attack(&socket);
    let (frontend, call) = jam(&socket);
    word.ring.store(true, Ordering::SeqCst);
    wait_for(&call, "a call");
    // The guest resets the device while the frontend is there.
    word.reset.store(true, Ordering::SeqCst);
    frontend.expect_end();
    let frontend = Frontend::connect(&socket);
    frontend.share();
    machine.device().revoke();
    frontend.expect_end();

    let carried = FRONTEND_ROWS
        .iter()
        .filter(|row| !matches!(row.verdict, Verdict::Refuse(_)));
    let carried: BTreeSet<u32> = carried.map(|row| row.code).collect();
    assert_eq!(
        *word.requests.lock().unwrap(),
        carried,
        "some were not sent"
    );

    word.stop.store(true, Ordering::SeqCst);
    guest.join().unwrap();
    drop(machine);
    wait_until("the end of the threads", || threads() == 0);
}

#[test]
fn each_thread_does_what_the_crate_lists_and_nothing_else() {
    session(Arc::new(Filters::new(None)));
    assert_eq!(violations(), BTreeSet::new());

    // The filters do catch: one is made without a call that the thread makes.
    session(Arc::new(Filters::new(Some((REAPER.name, "fallocate")))));
    let fallocate = (REAPER.name, libc::SYS_fallocate as usize);
    assert_eq!(violations(), BTreeSet::from([fallocate]));
}
