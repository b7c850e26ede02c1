// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The VMM fails: all or nothing, and never a silent leak.

use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;

use vhost_guest_vmm_traits::RangeId;

use super::*;

/// A bench with a table of two files, and the table that is to replace it.
fn about_to_replace(files: &[TestFile; 4]) -> (Bench, Shared<'_>, Shared<'_>) {
    let mut bench = Bench::new();
    let [a, b, c, d] = files;
    let before = vec![(region(0, MIB, 0), a), (region(16 * MIB, MIB, 0), b)];
    let after = vec![
        (region(0, 2 * MIB, 0), a),
        (region(8 * MIB, MIB, MIB), c),
        (region(24 * MIB, MIB, 0), d),
    ];
    bench.replaced(&before);
    (bench, before, after)
}

fn four_files() -> [TestFile; 4] {
    [1, 2, 3, 4].map(|name| TestFile::new(name, 4 * MIB))
}

#[test]
fn a_failed_map_leaves_the_old_table_and_nothing_else() {
    let files = four_files();
    // Three ranges are opened, and then attached.
    for n in 0..6 {
        let (mut bench, before, after) = about_to_replace(&files);
        let mapped = bench.vmm.mappings();
        bench.vmm.fail_nth(n, ErrorKind::OutOfMemory);
        let error = bench.replace(&after).unwrap_err();
        assert!(matches!(error, MemoryError::Map(_)), "{error}");
        assert!(error.is_environment() && !error.is_fatal());
        assert_eq!(bench.vmm.mappings(), mapped);
        bench.check(&before);
        assert!(!bench.memory.is_pending());
        // And it works when the VMM does.
        bench.replaced(&after);
    }
}

#[test]
fn a_file_that_cannot_be_mapped_is_the_frontends_fault() {
    let files = four_files();
    let (mut bench, before, after) = about_to_replace(&files);
    bench.vmm.fail_nth(0, ErrorKind::PermissionDenied);
    let error = bench.replace(&after).unwrap_err();
    assert!(matches!(error, MemoryError::NotMappable(_)), "{error}");
    assert!(!error.is_environment() && !error.is_fatal());
    bench.check(&before);
}

#[test]
fn a_failed_unmap_is_fatal_and_revoking_tries_again() {
    let files = four_files();
    let (mut bench, _, after) = about_to_replace(&files);
    let (_, ticket) = bench.replace(&after).unwrap();
    bench.vmm.fail_nth(0, ErrorKind::Other);
    let error = bench.memory.settled(ticket, Outcome::Done).unwrap_err();
    assert!(matches!(error, MemoryError::Unmap(_)), "{error}");
    assert!(error.is_fatal() && error.is_environment());
    bench.check_books();

    let error = bench.replace(&after).unwrap_err();
    assert!(matches!(error, MemoryError::Dead), "{error}");
    assert!(error.is_fatal());
    bench.revoke().unwrap();
    assert_eq!(bench.vmm.mappings(), []);
    assert!(
        matches!(bench.replace(&after), Err(MemoryError::Dead)),
        "once is enough"
    );
}

#[test]
fn revoking_goes_on_after_a_failure() {
    let files = four_files();
    for n in 0..2 {
        let (mut bench, _, _) = about_to_replace(&files);
        bench.vmm.fail_nth(n, ErrorKind::Other);
        let error = bench.revoke().unwrap_err();
        assert!(error.is_fatal());
        assert_eq!(bench.vmm.mappings().len(), 1);
        bench.check_books();
        bench.revoke().unwrap();
        assert_eq!(bench.vmm.mappings(), []);
    }
}

#[test]
fn what_cannot_be_undone_is_still_in_the_books() {
    struct Stubborn(Arc<TestVmm>);
    impl SharedMemoryMapper for Stubborn {
        fn open(&self, fd: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<RangeId> {
            self.0.open(fd, offset, length)
        }
        fn attach(&self, range: RangeId, at: u64) -> io::Result<()> {
            self.0.attach(range, at)
        }
        fn detach(&self, _: RangeId) -> io::Result<()> {
            Err(io::Error::other("no"))
        }
        fn close(&self, range: RangeId) {
            self.0.close(range);
        }
        fn place(&self, _: Option<u64>) -> io::Result<()> {
            Ok(())
        }
    }
    let vmm = Arc::new(TestVmm::new());
    let limits = Bench::new().memory.limits;
    let mut bench = Bench::on(Arc::new(Stubborn(vmm.clone())), vmm.clone(), limits);
    vmm.fail_nth(3, ErrorKind::OutOfMemory);
    let [a, b, ..] = &four_files();
    let error = bench
        .replace(&[(region(0, MIB, 0), a), (region(MIB, MIB, 0), b)])
        .unwrap_err();
    assert!(error.is_fatal(), "{error}");
    assert_eq!(vmm.mappings().len(), 1);
    assert_eq!(bench.attached_bytes(), MIB);
    assert!(bench.revoke().unwrap_err().is_fatal());
    assert_eq!(bench.attached_bytes(), MIB);
}

#[test]
fn truncated_memory_is_withdrawn() {
    let files = four_files();
    let (mut bench, before, after) = about_to_replace(&files);
    assert!(!bench.withdraw_truncated().unwrap(), "all is well");
    ftruncate(&files[1].fd, MIB / 2).unwrap();
    assert!(bench.withdraw_truncated().unwrap());
    assert_eq!(bench.vmm.mappings().len(), 1);
    bench.check_books();
    assert!(!bench.withdraw_truncated().unwrap(), "it is gone already");

    let error = bench.replace(&after).unwrap_err();
    assert!(matches!(error, MemoryError::Withdrawn), "{error}");
    bench.revoke().unwrap();
    ftruncate(&files[1].fd, 4 * MIB).unwrap();
    bench.replaced(&before);
}

#[test]
fn memory_that_faulted_is_withdrawn_whatever_its_size() {
    let files = four_files();
    let (bench, before, _) = about_to_replace(&files);
    let place = bench
        .memory
        .translate(before[0].0.user_address(), 1)
        .unwrap();
    assert!(!bench.withdraw(Missing::At(0)).unwrap());
    assert!(!bench.withdraw(Missing::At(place + MIB)).unwrap());
    assert!(!bench.withdraw(Missing::At(u64::MAX)).unwrap());
    assert!(bench.withdraw(Missing::At(place + MIB - 1)).unwrap());
    assert_eq!(bench.vmm.mappings().len(), 1);
}

#[test]
fn the_page_of_a_last_byte_is_not_withdrawn() {
    let mut bench = Bench::new();
    let log = TestFile::new(1, 0x1001);
    let (_, ticket) = bench.area(Area::Log, &log, 0, 0x1001).unwrap();
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    assert!(!bench.withdraw_truncated().unwrap());
    ftruncate(&log.fd, 0x1000).unwrap();
    assert!(bench.withdraw_truncated().unwrap());
}

#[test]
fn memory_can_be_withdrawn_while_a_change_is_pending() {
    let files = four_files();
    let (mut bench, _, after) = about_to_replace(&files);
    let (_, ticket) = bench.replace(&after).unwrap();
    ftruncate(&files[1].fd, 0).unwrap();
    ftruncate(&files[2].fd, 0).unwrap();
    assert!(bench.withdraw_truncated().unwrap());
    bench.memory.settled(ticket, Outcome::Refused).unwrap();
    bench.check_books();
    bench.revoke().unwrap();
    assert_eq!(bench.vmm.mappings(), []);
}

#[test]
fn a_withdrawal_that_fails_is_fatal() {
    let files = four_files();
    let (bench, ..) = about_to_replace(&files);
    ftruncate(&files[0].fd, 0).unwrap();
    bench.vmm.fail_nth(0, ErrorKind::Other);
    assert!(bench.withdraw_truncated().unwrap_err().is_fatal());
    bench.check_books();
}
