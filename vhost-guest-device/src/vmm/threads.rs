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
//! An idle device has its worker, and nothing else. The others are made when there
//! is work for them, by a thread that is there for nothing else ([`LAUNCHER`]), and
//! end when there has been none for a second. The VMM's own threads that call the
//! device make none.
//!
//! A test of the examples runs a full session with such filters on x86-64. It
//! may be that another C library, or another version of `rustix`, does the same
//! with other calls.

/// A kind of thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// The name of each, as a hook and `ps` see it.
    pub name: &'static str,
    /// How many there are at most, in one device.
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
        "ioctl",
        "read",
        "recvmsg",
        "sendmsg",
        "setsockopt",
        "shutdown",
        "timerfd_settime",
        "write",
        // What is a descriptor that a frontend sent?
        "fcntl",
        "getpeername",
        "getsockopt",
        "readlinkat",
        "statx",
        // Eventfds of a frontend's: what waits behind a mask.
        "ppoll",
        // Memory that may be truncated.
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

/// Makes the other threads but [`WORKER`], when there is work for them. It exists
/// from the start of the first device on, once for all devices of a process that
/// have the same hook, and touches nothing of anybody's. The others inherit its
/// filter: that has to let pass what is listed for them as well, and what their
/// hook does.
pub const LAUNCHER: Thread = Thread {
    name: "vhost-guest-new",
    count: 1,
    syscalls: &[
        "clone3",
        // The beginning of a thread, before its hook.
        "prctl",
        "rseq",
        "sched_getaffinity",
        "set_robust_list",
    ],
};

/// Closes descriptors that a frontend sent, which may take for ever. Two are one
/// frontend's.
pub const REAPER: Thread = Thread {
    name: "vhost-guest-fd",
    count: 8,
    // Debug builds make sure of a descriptor (`fcntl`) before they close it.
    syscalls: &["close", "fallocate", "fcntl"],
};

/// Closes memory that a frontend sent, and sockets in which nothing is left: one
/// thread each, which waits for nobody.
pub const PROMPT_REAPER: Thread = Thread {
    name: "vhost-guest-mem",
    count: 2,
    // `fcntl` as above.
    syscalls: &["close", "fcntl"],
};

/// Asks a frontend's files what they are and how large, and has the VMM open and
/// close ranges of them: each may take for as long as that frontend likes. Three are
/// one frontend's.
pub const FILES: Thread = Thread {
    name: "vhost-guest-map",
    count: 16,
    syscalls: &[
        // What is a descriptor that a frontend sent, and how large?
        "fcntl",
        "fstatfs",
        "statx",
        // Does it shrink?
        "inotify_add_watch",
        "inotify_init1",
        "inotify_rm_watch",
        // It is done.
        "write",
    ],
};

/// Signals eventfds that a frontend sent, which may take for as long as that
/// frontend likes. Two are one frontend's.
pub const SIGNALLER: Thread = Thread {
    name: "vhost-guest-sig",
    count: 8,
    // The last to have an eventfd closes nothing, but hands it on.
    syscalls: &["ppoll", "write"],
};

/// Frees signallers that a frontend which is gone has blocked.
pub const RESCUER: Thread = Thread {
    name: "vhost-guest-res",
    count: 1,
    syscalls: &["clock_nanosleep", "ppoll", "preadv2"],
};

/// Speaks over backend channels: one for each, and four of one frontend's, which
/// can keep it for as long as that frontend likes.
pub const CHANNEL: Thread = Thread {
    name: "vhost-guest-chn",
    count: 8,
    // `fcntl` as above.
    syscalls: &[
        "close", "fcntl", "ppoll", "read", "recvmsg", "sendto", "write",
    ],
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
pub const ALL: [Thread; 9] = [
    WORKER,
    LAUNCHER,
    REAPER,
    PROMPT_REAPER,
    FILES,
    SIGNALLER,
    RESCUER,
    CHANNEL,
    PUMP,
];

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
