// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Ctrl-C and others, without a signal handler: a thread waits for them.

use std::io;
use std::thread;

use libc::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIG_BLOCK, SIG_UNBLOCK};
use vmm_sys_util::signal::create_sigset;

use crate::loopback::failure::{Context, Failure};

const ENDS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];
const ALL: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGUSR1];

/// What the user wants of a program that serves a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C and its like.
    End,
    /// SIGUSR1: the disk's image is longer or shorter. SIGHUP would be usual
    /// for a daemon, but these also run in terminals, and end with them.
    Resize,
}

/// Calls `ended`, in a thread, when the user wants the program to end.
///
/// Called before any other thread is started: threads and processes started
/// later inherit that the signals do not interrupt them.
pub fn watch(ended: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let mut ended = Some(ended);
    wait_for(&ENDS, move |_| {
        if let Some(ended) = ended.take() {
            ended();
        }
    })
}

/// The same for a program that serves a disk; `told` is called for each signal.
pub fn watch_resizing(mut told: impl FnMut(Signal) + Send + 'static) -> Result<(), Failure> {
    wait_for(&ALL, move |signal| {
        told(match signal {
            SIGUSR1 => Signal::Resize,
            _ => Signal::End,
        });
    })
}

fn wait_for(
    signals: &'static [i32],
    mut told: impl FnMut(i32) + Send + 'static,
) -> Result<(), Failure> {
    mask(SIG_BLOCK, signals)?;
    let set = create_sigset(signals).context("signal set")?;
    let wait = move || loop {
        let mut signal = 0;
        // SAFETY: both pointers are to values of this thread's own.
        if unsafe { libc::sigwait(&set, &mut signal) } == 0 {
            told(signal);
        }
    };
    let thread = thread::Builder::new().name("signals".into());
    thread.spawn(wait).context("starting a thread")?;
    Ok(())
}

/// Undoes in a child process what it has inherited.
pub fn unblock() -> Result<(), Failure> {
    mask(SIG_UNBLOCK, &ALL)
}

fn mask(how: i32, signals: &[i32]) -> Result<(), Failure> {
    let set = create_sigset(signals).context("signal set")?;
    // SAFETY: the set is initialised; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(how, &set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)).context("signal mask"),
    }
}
