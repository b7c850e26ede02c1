// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Changes of files that are mapped.

use rustix::event::{poll, PollFd, PollFlags, Timespec};

use super::*;
use crate::memory::watch::Watch;

fn is_readable(watch: &Watch) -> bool {
    let fd = watch.as_fd();
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
    let mapped = files.iter().map(check).map(|file| (file.identity(), file));
    let mut watch = Watch::new().unwrap();
    watch.follow(&mapped.collect());
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
