// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Changes of files that are mapped.

use std::os::fd::AsRawFd;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::*;
use crate::fd::fuse_tests::Mount;
use crate::memory::watch::blame;

fn is_readable(watch: &Watch) -> bool {
    let fd = watch.as_fd().unwrap();
    let at_once = Timespec::default();
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&at_once)).unwrap() > 0
}

/// Who changes files without end would never let go of one who wants to know
/// of all changes first.
#[test]
fn so_many_changes_are_taken_at_once_and_no_more() {
    let bench = Bench::new();
    let files: Vec<_> = (0..100).map(|name| TestFile::new(name, PAGE)).collect();
    let check = |file| MemoryFd::check(bench.send(file), MemoryPolicy::default()).unwrap();
    let mapped: Vec<_> = files.iter().map(check).map(Arc::new).collect();
    let mut watch = Watch::default();
    watch.keep(watch.add_all(&mapped, &bench.reaper).unwrap());
    assert!(!is_readable(&watch));
    for file in &files {
        ftruncate(&file.fd, 0).unwrap();
    }
    for _ in 0..2 {
        assert!(is_readable(&watch));
        watch.take();
    }
    assert!(!is_readable(&watch));
}

#[test]
fn whose_fault_it_is_that_a_file_cannot_be_watched() {
    for error in [Errno::ACCESS, Errno::PERM] {
        assert!(!blame(error).is_environment(), "{error}");
    }
    for error in [Errno::NOSPC, Errno::NOMEM, Errno::MFILE, Errno::NOENT] {
        let error = blame(error);
        assert!(error.is_environment() && !error.is_fatal(), "{error}");
    }
}

/// What is not mapped is not watched either, neither after a change nor after
/// one that failed: a watch keeps a file's memory as a descriptor does.
#[test]
fn watched_is_what_is_mapped() {
    let mut bench = Bench::new();
    let watches = |bench: &Bench| {
        let Some(changes) = bench.memory.changes() else {
            return 0;
        };
        let fd = changes.as_raw_fd();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        info.lines()
            .filter(|line| line.starts_with("inotify"))
            .count()
    };
    let files = [1, 2, 3].map(|name| TestFile::new(name, MIB));
    let table = [
        (region(0, MIB, 0), &files[0]),
        (region(MIB, MIB, 0), &files[1]),
    ];
    for n in 0..4 {
        bench.vmm.fail_nth(n, std::io::ErrorKind::OutOfMemory);
        assert!(bench.replace(&table).is_err());
        assert_eq!(watches(&bench), 0);
    }
    bench.replaced(&table);
    assert_eq!(watches(&bench), 2);
    bench.replaced(&[(region(0, MIB, 0), &files[2])]);
    assert_eq!(watches(&bench), 1);
    bench.revoke().unwrap();
    assert_eq!(watches(&bench), 0);
}

#[test]
fn to_watch_a_file_asks_no_file_system() {
    let Some(mount) = Mount::new("watch") else {
        return;
    };
    let bench = Bench::new();
    let lax = MemoryPolicy {
        any_file_system: true,
        ..Default::default()
    };
    let file = mount.dead_files(1, &bench.reaper).remove(0);
    let file = Arc::new(MemoryFd::check(file, lax).expect("the VMM wanted it so"));
    let mut watch = Watch::default();
    watch.keep(watch.add_all(&[file], &bench.reaper).unwrap());
    assert_eq!(mount.questions(), 0);
    drop(mount);
}
