// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Filters for the device's threads, made of the crate's lists, and what they
//! caught.
//!
//! A call that is not listed is not made: it fails with `ENOSYS`, and is
//! written down. A VMM would rather end.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::c_int;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use libc::{c_void, siginfo_t, ucontext_t};
use seccompiler::{apply_filter, compile_from_json, BpfProgram, TargetArch};
use vhost_guest_device::threads::{Thread, ALL, EVERY_THREAD, LAUNCHER, WORKER};
use vhost_guest_vmm_traits::ThreadHook;
use vmm_sys_util::signal::register_signal_handler;

/// What the emulated VMM's implementations of the traits do, in the worker:
/// arming looks at an eventfd, duplicates and waits for it; disarming drains
/// it; the window is mapped.
const VMM: &[&str] = &["openat", "preadv2"];

/// What this hook does, to install a filter.
const HOOK: &[&str] = &["prctl", "seccomp"];

/// System calls have smaller numbers.
const NUMBERS: usize = 1024;

/// Where `si_syscall` is in a `siginfo_t` (64-bit): behind three numbers,
/// padding, and the address of the instruction.
const SI_SYSCALL: usize = 24;

#[allow(clippy::declare_interior_mutable_const)]
const NOT_SEEN: AtomicBool = AtomicBool::new(false);
/// Calls that were caught, by kind of thread and number.
static CAUGHT: [[AtomicBool; NUMBERS]; ALL.len()] = [const { [NOT_SEEN; NUMBERS] }; ALL.len()];

thread_local! {
    /// Which kind of thread this is: an index in `ALL`.
    static KIND: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Runs in the thread that made the call, which is over with an error.
extern "C" fn caught(_: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a whole siginfo_t, and for SIGSYS the number
    // is at this place.
    let number = unsafe { info.cast::<u8>().add(SI_SYSCALL).cast::<c_int>().read() };
    let seen = CAUGHT.get(KIND.get()).zip(usize::try_from(number).ok());
    if let Some(seen) = seen.and_then(|(kind, number)| kind.get(number)) {
        seen.store(true, Ordering::SeqCst);
    }
    let result = -i64::from(libc::ENOSYS);
    // SAFETY: with SA_SIGINFO the third argument is the interrupted context,
    // and nobody else refers to it while the handler runs.
    unsafe { (*context.cast::<ucontext_t>()).uc_mcontext.gregs[libc::REG_RAX as usize] = result };
}

/// Installs filters in the device's threads.
pub struct Filters {
    programs: Vec<BpfProgram>,
    installed: AtomicUsize,
}

impl Filters {
    /// Filters of the crate's lists; without `missing`, a call of a thread's.
    pub fn new(missing: Option<(&str, &str)>) -> Self {
        register_signal_handler(libc::SIGSYS, caught).unwrap();
        CAUGHT
            .iter()
            .flatten()
            .for_each(|seen| seen.store(false, Ordering::SeqCst));
        let program = |thread: &Thread| {
            let mut names = [EVERY_THREAD, thread.syscalls].concat();
            if thread.name == WORKER.name {
                names.extend(VMM);
            }
            if thread.name == LAUNCHER.name {
                // The others inherit its filter.
                let others = ALL.iter().filter(|other| other.name != WORKER.name);
                names.extend(others.flat_map(|other| other.syscalls));
                names.extend(HOOK);
            }
            names.sort_unstable();
            names.dedup();
            names.retain(|name| missing != Some((thread.name, *name)));
            compile(&names)
        };
        Self {
            programs: ALL.iter().map(program).collect(),
            installed: AtomicUsize::new(0),
        }
    }

    /// How many threads have one.
    pub fn installed(&self) -> usize {
        self.installed.load(Ordering::SeqCst)
    }
}

impl ThreadHook for Filters {
    fn thread_started(&self, name: &str) -> io::Result<()> {
        let kind = ALL.iter().position(|thread| thread.name == name);
        let kind = kind.ok_or_else(|| io::Error::other(format!("unknown thread {name}")))?;
        KIND.set(kind);
        apply_filter(&self.programs[kind]).map_err(io::Error::other)?;
        self.installed.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// The filter that lets these calls pass and catches all others.
fn compile(names: &[&str]) -> BpfProgram {
    let calls: Vec<_> = names
        .iter()
        .map(|name| format!("{{\"syscall\": \"{name}\"}}"))
        .collect();
    let json = format!(
        "{{\"thread\": {{\"mismatch_action\": \"trap\", \"match_action\": \"allow\", \
         \"filter\": [{}]}}}}",
        calls.join(",")
    );
    let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let mut programs = compile_from_json(json.as_bytes(), arch).unwrap();
    programs.remove("thread").unwrap()
}

/// Calls that were made and are not listed: thread, number.
pub fn violations() -> BTreeSet<(&'static str, usize)> {
    let kinds = ALL.iter().zip(&CAUGHT);
    let all = kinds.flat_map(|(thread, numbers)| {
        let numbers = numbers.iter().enumerate();
        let seen = numbers.filter(|(_, seen)| seen.load(Ordering::SeqCst));
        seen.map(|(number, _)| (thread.name, number))
    });
    all.collect()
}
