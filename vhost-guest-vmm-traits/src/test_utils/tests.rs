// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::os::fd::AsFd;

use super::*;

const MESSAGE: MsiMessage = MsiMessage {
    address: 0xFEE0_0000,
    data: 5,
};

fn file() -> File {
    File::open("/dev/null").unwrap()
}

#[test]
fn keeps_books_of_interrupts() {
    let (vmm, file) = (TestVmm::new(), file());
    let source = vmm.create_source().unwrap();
    let arming = Arming {
        source,
        eventfd: file.as_fd(),
        message: MESSAGE,
    };
    vmm.arm(&[arming]).unwrap();
    assert_eq!(vmm.armed(), [(source, MESSAGE)]);
    assert_eq!(vmm.armed_with(MESSAGE).len(), 1);
    // Disarming twice is allowed, and recorded once.
    vmm.disarm(&[arming]).unwrap();
    vmm.disarm(&[arming]).unwrap();
    vmm.destroy_source(source);
    assert_eq!(vmm.source_count(), 0);
    assert_eq!(vmm.calls().len(), 4);
}

#[test]
fn fails_at_the_calls_it_is_told_and_changes_nothing_then() {
    let (vmm, file) = (TestVmm::new(), file());
    vmm.fail_nth(2, io::ErrorKind::OutOfMemory);
    let first = vmm.open(file.as_fd(), 0, 4096).unwrap();
    vmm.attach(first, 0).unwrap();
    let error = vmm.open(file.as_fd(), 0, 4096).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
    assert_eq!(vmm.open_ranges(), 1);
    let second = vmm.open(file.as_fd(), 0, 4096).unwrap();
    for _ in 0..2 {
        vmm.fail_nth(0, io::ErrorKind::Other);
        assert!(vmm.attach(second, 4096).is_err());
        assert_eq!(vmm.mappings(), [(0, 0, 4096)]);
    }
    vmm.attach(second, 4096).unwrap();
    vmm.fail_nth(0, io::ErrorKind::Other);
    assert!(vmm.detach(first).is_err());
    vmm.fail_nth(0, io::ErrorKind::Other);
    assert!(vmm.clear_failure() && !vmm.clear_failure());
    vmm.detach(first).unwrap();
    assert_eq!(vmm.mappings(), [(4096, 0, 4096)]);
    vmm.close(first);
    assert_eq!(vmm.open_ranges(), 1);
    vmm.fail_calls(1..3, io::ErrorKind::Other);
    let outcomes = [(); 4].map(|()| vmm.create_source().is_ok());
    assert_eq!(outcomes, [true, false, false, true]);
}

#[test]
fn has_one_doorbell_at_an_address() {
    let (vmm, file) = (TestVmm::new(), file());
    vmm.register(file.as_fd(), 0x1000).unwrap();
    let error = vmm.register(file.as_fd(), 0x1000).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(vmm.doorbells(), [0x1000]);
    vmm.unregister(file.as_fd(), 0x1000).unwrap();
    assert!(vmm.unregister(file.as_fd(), 0x1000).is_err());
    assert!(vmm.doorbell(0x1000).is_none());
}

#[test]
fn attaches_a_range_where_another_was_and_elsewhere() {
    let (vmm, file) = (TestVmm::new(), file());
    let [one, other] = [(); 2].map(|()| vmm.open(file.as_fd(), 0, 4096).unwrap());
    assert_ne!(one, other);
    vmm.attach(one, 0).unwrap();
    vmm.detach(one).unwrap();
    // Not closed yet: that comes when it comes.
    vmm.attach(other, 0).unwrap();
    vmm.attach(one, 4096).unwrap();
    assert_eq!(vmm.mappings(), [(0, 0, 4096), (4096, 0, 4096)]);
}

#[test]
#[should_panic(expected = "over a range")]
fn does_not_tolerate_a_range_over_another() {
    let (vmm, file) = (TestVmm::new(), file());
    let long = vmm.open(file.as_fd(), 0, 8192).unwrap();
    let short = vmm.open(file.as_fd(), 0, 4096).unwrap();
    vmm.attach(long, 0).unwrap();
    let _ = vmm.attach(short, 4096);
}

#[test]
#[should_panic(expected = "attach of what is attached")]
fn does_not_tolerate_a_range_in_two_places() {
    let (vmm, file) = (TestVmm::new(), file());
    let range = vmm.open(file.as_fd(), 0, 4096).unwrap();
    vmm.attach(range, 0).unwrap();
    let _ = vmm.attach(range, 4096);
}

#[test]
#[should_panic(expected = "which is not open")]
fn does_not_tolerate_to_attach_what_was_closed() {
    let (vmm, file) = (TestVmm::new(), file());
    let range = vmm.open(file.as_fd(), 0, 4096).unwrap();
    vmm.close(range);
    let _ = vmm.attach(range, 0);
}

#[test]
#[should_panic(expected = "which is not attached")]
fn does_not_tolerate_to_detach_twice() {
    let (vmm, file) = (TestVmm::new(), file());
    let range = vmm.open(file.as_fd(), 0, 4096).unwrap();
    vmm.attach(range, 0).unwrap();
    vmm.detach(range).unwrap();
    let _ = vmm.detach(range);
}

#[test]
#[should_panic(expected = "close of what is attached")]
fn does_not_tolerate_to_close_what_is_attached() {
    let (vmm, file) = (TestVmm::new(), file());
    let range = vmm.open(file.as_fd(), 0, 4096).unwrap();
    vmm.attach(range, 0).unwrap();
    vmm.close(range);
}

#[test]
#[should_panic(expected = "which is not open")]
fn does_not_tolerate_to_close_twice() {
    let (vmm, file) = (TestVmm::new(), file());
    let range = vmm.open(file.as_fd(), 0, 4096).unwrap();
    vmm.close(range);
    vmm.close(range);
}

#[test]
#[should_panic(expected = "behind the end")]
fn does_not_tolerate_a_page_behind_the_end_of_a_file() {
    let vmm = TestVmm::new();
    let file = File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    let pages = file.metadata().unwrap().len().next_multiple_of(4096);
    vmm.open(file.as_fd(), 0, pages).unwrap();
    let _ = vmm.open(file.as_fd(), pages, 4096);
}

#[test]
#[should_panic(expected = "in some thread")]
fn does_not_forget_what_another_thread_did() {
    let vmm = std::sync::Arc::new(TestVmm::new());
    let other = std::sync::Arc::clone(&vmm);
    let thread = std::thread::spawn(move || other.close(RangeId(0)));
    assert!(thread.join().is_err());
}

#[test]
#[should_panic(expected = "which is armed")]
fn does_not_tolerate_arming_twice() {
    let (vmm, file) = (TestVmm::new(), file());
    let source = vmm.create_source().unwrap();
    let arming = Arming {
        source,
        eventfd: file.as_fd(),
        message: MESSAGE,
    };
    vmm.arm(&[arming]).unwrap();
    let _ = vmm.arm(&[arming]);
}

#[test]
fn leaves_the_window_where_it_was_when_placing_fails() {
    let vmm = TestVmm::new();
    vmm.place(Some(0x1000)).unwrap();
    for guest_address in [Some(0x2000), None] {
        vmm.fail_nth(0, io::ErrorKind::Other);
        assert!(vmm.place(guest_address).is_err());
        assert_eq!(vmm.placed(), Some(0x1000));
    }
}
