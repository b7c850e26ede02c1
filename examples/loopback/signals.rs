// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Ctrl-C, without a signal handler: a thread waits for it.

use std::io;
use std::thread;

use libc::{SIGHUP, SIGINT, SIGTERM, SIG_BLOCK, SIG_UNBLOCK};
use vmm_sys_util::signal::create_sigset;

use crate::loopback::failure::{Context, Failure};

const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Calls `ended`, in a thread, when the user wants the program to end.
///
/// Called before any other thread is started: threads and processes started
/// later inherit that the signals do not interrupt them.
pub fn watch(ended: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    mask(SIG_BLOCK)?;
    let set = create_sigset(&SIGNALS).context("signal set")?;
    let wait = move || {
        let mut signal = 0;
        // SAFETY: both pointers are to values of this thread's own.
        while unsafe { libc::sigwait(&set, &mut signal) } != 0 {}
        ended();
    };
    let thread = thread::Builder::new().name("signals".into());
    thread.spawn(wait).context("starting a thread")?;
    Ok(())
}

/// Undoes in a child process what it has inherited.
pub fn unblock() -> Result<(), Failure> {
    mask(SIG_UNBLOCK)
}

fn mask(how: i32) -> Result<(), Failure> {
    let set = create_sigset(&SIGNALS).context("signal set")?;
    // SAFETY: the set is initialised; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(how, &set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)).context("signal mask"),
    }
}
