// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The threads of the device, and what each asks of the kernel.
//!
//! A VMM that confines its threads makes a seccomp filter for each of these,
//! of [`EVERY_THREAD`], of the thread's own [`syscalls`](Thread::syscalls) and,
//! for [`WORKER`], of what its implementations of the traits do. It installs
//! the filter in
//! [`ThreadHook::thread_started`](vhost_guest_vmm_traits::ThreadHook::thread_started),
//! which runs first in each thread and is given the thread's name:
//!
//! ```
//! use vhost_guest_device::threads::{Thread, ALL, EVERY_THREAD};
//!
//! /// The names for the filter of a thread.
//! fn allowed(thread: &str) -> Vec<&'static str> {
//!     let own = ALL.iter().find(|known| known.name == thread);
//!     let own = own.map_or(&[][..], |thread: &Thread| thread.syscalls);
//!     [EVERY_THREAD, own].concat()
//! }
//!
//! assert!(allowed("vhost-guest-fd").contains(&"close"));
//! assert!(!allowed("vhost-guest-fd").contains(&"sendmsg"));
//! ```
//!
//! All threads are started while the device is started, and none later.
//!
//! A test of the examples runs a full session with such filters on x86-64. It
//! may be that another C library, or another version of `rustix`, does the same
//! with other calls.

/// A kind of thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// The name of each, as a hook and `ps` see it.
    pub name: &'static str,
    /// How many there are.
    pub count: usize,
    /// The system calls of its own, besides those of [`EVERY_THREAD`].
    pub syscalls: &'static [&'static str],
}

/// Moves messages, and calls the VMM's traits: their system calls come on top.
/// A VMM whose event loop does this
/// ([`Builder::build_without_thread`](crate::Builder::build_without_thread))
/// does not have it.
pub const WORKER: Thread = Thread {
    name: "vhost-guest",
    count: 1,
    syscalls: &[
        // Sockets and the device's own events.
        "accept4",
        "epoll_ctl",
        "epoll_pwait",
        "read",
        "recvmsg",
        "sendmsg",
        "setsockopt",
        "timerfd_settime",
        "write",
        // What is a descriptor that a frontend sent?
        "fcntl",
        "fstatfs",
        "getpeername",
        "getsockopt",
        "readlinkat",
        "statx",
        // Eventfds of a frontend's: what waits behind a mask, and one that is
        // full and given up.
        "ppoll",
        "preadv2",
        // Memory that may be truncated.
        "inotify_add_watch",
        "inotify_rm_watch",
        // Records of requests under way.
        "fstat",
        "ftruncate",
        "memfd_create",
        // The device's own descriptors, and transfers of state.
        "close",
        "eventfd2",
    ],
};

/// Closes descriptors that a frontend sent, which may take for ever.
pub const REAPER: Thread = Thread {
    name: "vhost-guest-fd",
    count: 3,
    // Debug builds make sure of a descriptor (`fcntl`) before they close it.
    syscalls: &["close", "fallocate", "fcntl"],
};

/// Closes memory and eventfds that a frontend sent, which waits for nobody.
pub const PROMPT_REAPER: Thread = Thread {
    name: "vhost-guest-mem",
    count: 1,
    // `fcntl` as above.
    syscalls: &["close", "fcntl"],
};

/// Signals eventfds that a frontend sent, which may take until the frontend
/// hangs up.
pub const SIGNALLER: Thread = Thread {
    name: "vhost-guest-sig",
    count: 2,
    syscalls: &["clock_nanosleep", "ppoll", "preadv2", "write"],
};

/// Moves device state through pipes and sockets that a frontend sent. Only
/// with [`Builder::migration`](crate::Builder::migration).
pub const PUMP: Thread = Thread {
    name: "vhost-guest-mig",
    count: 4,
    // `fcntl` as above.
    syscalls: &[
        "close", "fcntl", "ppoll", "read", "recvfrom", "sendto", "write",
    ],
};

/// All kinds.
pub const ALL: [Thread; 5] = [WORKER, REAPER, PROMPT_REAPER, SIGNALLER, PUMP];

/// What every thread of a Rust program does after its hook: locks and memory,
/// signal handlers, and its end.
///
/// A thread that panics writes to the standard error, too.
pub const EVERY_THREAD: &[&str] = &[
    // Locks, and waiting for each other.
    "futex",
    "sched_yield",
    // The allocator. A thread has a heap of its own, or shares one.
    "brk",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    // Signals that the VMM handles.
    "restart_syscall",
    "rt_sigprocmask",
    "rt_sigreturn",
    // The end.
    "exit",
    "sigaltstack",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_lists_say_everything_once() {
        for thread in ALL {
            // Longer names are cut.
            assert!(thread.name.len() <= 15, "{}", thread.name);
            let mut all = [EVERY_THREAD, thread.syscalls].concat();
            all.sort_unstable();
            let count = all.len();
            all.dedup();
            assert_eq!(all.len(), count, "{}", thread.name);
        }
    }
}
