// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Whole services: a scripted device on one side, a scripted backend on the
//! other.

mod duties;
mod endings;
mod fake;
mod wire;

use std::io::{Read, Write};
use std::os::fd::AsFd;

use rustix::fs::fstat;
use vhost_guest_driver::module::Notification;
use vhost_guest_msg::{
    DeviceState, FrontendRequest, Inflight, LogArea, LogBase, MemRegion, MemTable, OnlyFd,
    ProtocolFeatures, Region, Reply, SetInflight, Transfer, VringFd, VringNum,
};

use fake::{is_same_eventfd, Rig};

type Request = FrontendRequest<()>;

fn region(guest: u64, size: u64, window: u64) -> Region {
    Region::new(guest, size, window, 0x5000).unwrap()
}

#[test]
fn passes_messages_and_replies_unchanged() {
    let mut rig = Rig::new();
    let num = Request::SetVringNum(VringNum::new(1, 128).unwrap());
    rig.frontend_sends(&num);
    let (received, fds) = rig.backend_receives();
    assert_eq!((received, fds.len()), (num, 0));
    rig.frontend_sends(&Request::GetFeatures);
    rig.backend_receives();
    rig.backend_replies(1, &Reply::U64(1 << 32 | 1 << 30));
    assert_eq!(rig.frontend_receives(1), Reply::U64(1 << 32 | 1 << 30));
}

#[test]
fn gives_each_region_a_file_that_begins_with_it() {
    let mut rig = Rig::new();
    let (low, high) = (
        region(0, 0xa_0000, 0x20_0000),
        region(0x10_0000, 0x8000, 0x40_0000),
    );
    rig.frontend_sends(&Request::SetMemTable(
        MemTable::new(vec![(low, ()), (high, ())]).unwrap(),
    ));
    let (received, fds) = rig.backend_receives();
    let Request::SetMemTable(table) = received else {
        panic!("{received:?}")
    };
    let found: Vec<_> = table
        .regions()
        .map(|r| {
            (
                r.guest_address(),
                r.size(),
                r.user_address(),
                r.mmap_offset(),
            )
        })
        .collect();
    let expected = [
        (0, 0xa_0000, 0x20_0000, 0),
        (0x10_0000, 0x8000, 0x40_0000, 0),
    ];
    assert_eq!(found, expected);
    assert_eq!(
        rig.regions_opened(),
        [(0x20_0000, 0xa_0000), (0x40_0000, 0x8000)]
    );
    let sizes: Vec<_> = fds.iter().map(|fd| fstat(fd).unwrap().st_size).collect();
    assert_eq!(sizes, [0xa_0000, 0x8000]);

    let added = region(0x20_0000, 0x1000, 0x60_0000);
    rig.frontend_sends(&Request::AddMemReg(MemRegion {
        region: added,
        fd: (),
    }));
    let (received, fds) = rig.backend_receives();
    let Request::AddMemReg(MemRegion { region, .. }) = received else {
        panic!("{received:?}")
    };
    assert_eq!(
        (region.user_address(), region.mmap_offset()),
        (0x60_0000, 0)
    );
    assert_eq!(fds.len(), 1);
}

#[test]
fn presents_a_region_that_begins_within_a_page_at_an_offset_below_one() {
    let mut rig = Rig::new();
    let region = region(0x3b10, 0x14f0, 0x20_3b10);
    rig.frontend_sends(&Request::AddMemReg(MemRegion { region, fd: () }));
    let (received, fds) = rig.backend_receives();
    let Request::AddMemReg(MemRegion { region: seen, .. }) = received else {
        panic!("{received:?}")
    };
    assert_eq!((seen.user_address(), seen.size()), (0x20_3b10, 0x14f0));
    assert_eq!((seen.mmap_offset(), fds.len()), (0xb10, 1));
    assert_eq!(rig.regions_opened(), [(0x20_3000, 0x2000)]);
}

#[test]
fn presents_logs_and_records_at_offsets_below_a_page() {
    let mut rig = Rig::new();
    rig.negotiate(ProtocolFeatures::LOG_SHMFD | ProtocolFeatures::INFLIGHT_SHMFD);
    for (window, offset) in [(0x7000, 0), (0x8010, 0x10)] {
        let area = LogArea::new(0x2000, window).unwrap();
        rig.frontend_sends(&Request::SetLogBase(LogBase::Shared { area, fd: () }));
        let (received, fds) = rig.backend_receives();
        let area = LogArea::new(0x2000, offset).unwrap();
        assert_eq!(
            received,
            Request::SetLogBase(LogBase::Shared { area, fd: () })
        );
        assert_eq!(fds.len(), 1);
    }
    assert_eq!(rig.regions_opened(), [(0x7000, 0x2000), (0x8000, 0x2010)]);

    let record = |offset| {
        let inflight = Inflight::new(0x840, offset, 1, 128).unwrap();
        Request::SetInflightFd(SetInflight::new(inflight, ()).unwrap())
    };
    rig.frontend_sends(&record(0x9040));
    let (received, fds) = rig.backend_receives();
    assert_eq!((received, fds.len()), (record(0x40), 1));
}

#[test]
fn connects_eventfds_with_the_device_and_not_with_itself() {
    let mut rig = Rig::new();
    type ToRequest = fn(VringFd<()>) -> Request;
    type ToNotification = fn(u16) -> Notification;
    let kinds: [(ToRequest, ToNotification); 3] = [
        (Request::SetVringKick, Notification::Kick),
        (Request::SetVringCall, Notification::Call),
        (Request::SetVringErr, Notification::Err),
    ];
    for (request, what) in kinds {
        let vring = |fd| VringFd { index: 3, fd };
        rig.frontend_sends(&request(vring(Some(()))));
        let (received, fds) = rig.backend_receives();
        assert_eq!(received, request(vring(Some(()))));
        let connected = rig.connected(what(3)).expect("an eventfd");
        assert!(is_same_eventfd(&fds[0], &connected));

        rig.frontend_sends(&request(vring(None)));
        let (received, fds) = rig.backend_receives();
        assert_eq!((received, fds.len()), (request(vring(None)), 0));
        assert!(rig.connected(what(3)).is_none());
    }
    rig.frontend_sends(&Request::SetLogFd(OnlyFd { fd: () }));
    let (_, fds) = rig.backend_receives();
    assert_eq!(fds.len(), 1);
    assert!(rig.connected(Notification::Log).is_some());
}

#[test]
fn a_vring_keeps_its_eventfds_while_the_frontend_replaces_its_own() {
    let mut rig = Rig::new();
    let kinds = [
        Request::SetVringKick,
        Request::SetVringCall,
        Request::SetVringErr,
    ];
    for request in kinds {
        let mut set = |index: u8, fd| {
            rig.frontend_sends(&request(VringFd { index, fd }));
            rig.backend_receives().1
        };
        let before = set(3, Some(()));
        let after = set(3, Some(()));
        // What the backend has done with the one, and not yet looked at in it,
        // is in the other.
        assert!(is_same_eventfd(&before[0], &after[0]));
        assert!(!is_same_eventfd(&before[0], &set(4, Some(()))[0]));
        set(3, None);
        assert!(!is_same_eventfd(&before[0], &set(3, Some(()))[0]));
    }
}

#[test]
fn calls_once_more_when_the_frontend_replaces_its_call() {
    let mut rig = Rig::new();
    let mut set = |request: Request| {
        rig.frontend_sends(&request);
        let (_, fds) = rig.backend_receives();
        let what = match request {
            Request::SetVringKick(_) => Notification::Kick(3),
            Request::SetVringCall(_) => Notification::Call(3),
            _ => Notification::Err(3),
        };
        let connected = rig.connected(what).expect("an eventfd");
        assert!(is_same_eventfd(&fds[0], &connected));
        rig.rung()
    };
    let fd = Some(());
    let vring = VringFd { index: 3, fd };
    assert!(set(Request::SetVringCall(vring)).is_empty());
    for _ in 0..2 {
        // What was called before went to what the frontend had before.
        assert_eq!(set(Request::SetVringCall(vring)), ["Call(3)"]);
        for other in [Request::SetVringKick, Request::SetVringErr] {
            assert!(set(other(vring)).is_empty());
        }
    }
}

#[test]
fn a_backend_that_fills_its_eventfd_and_wants_it_to_block_holds_nobody_up() {
    let mut rig = Rig::new();
    let call = Request::SetVringCall(VringFd {
        index: 3,
        fd: Some(()),
    });
    rig.frontend_sends(&call);
    let (_, fds) = rig.backend_receives();
    rustix::io::write(&fds[0], &(u64::MAX - 1).to_ne_bytes()).unwrap();
    rustix::io::ioctl_fionbio(&fds[0], false).unwrap();
    rig.frontend_sends(&call);
    assert_eq!(rig.backend_receives().0, call);
}

#[test]
fn masks_features_that_need_more_than_a_guest_has() {
    let mut rig = Rig::new();
    rig.frontend_sends(&Request::GetProtocolFeatures);
    rig.backend_receives();
    let good = ProtocolFeatures::REPLY_ACK | ProtocolFeatures::DEVICE_STATE;
    let bad = ProtocolFeatures::HOST_NOTIFIER | ProtocolFeatures::SHMEM;
    rig.backend_replies(15, &Reply::ProtocolFeatures(good | bad));
    assert_eq!(rig.frontend_receives(15), Reply::U64(good.bits()));
}

#[test]
fn announces_no_more_than_the_device_carries() {
    let mut rig = Rig::new();
    rig.negotiate(ProtocolFeatures::MQ | ProtocolFeatures::CONFIGURE_MEM_SLOTS);
    for (request, of_backend, of_both) in [
        (Request::GetQueueNum, 128, 8),
        (Request::GetQueueNum, 2, 2),
        (Request::GetMaxMemSlots, u64::MAX, 509),
        (Request::GetMaxMemSlots, 8, 8),
    ] {
        rig.frontend_sends(&request);
        rig.backend_receives();
        rig.backend_replies(request.code(), &Reply::U64(of_backend));
        assert_eq!(rig.frontend_receives(request.code()), Reply::U64(of_both));
    }
}

#[test]
fn leaves_the_memory_for_a_record_to_the_device() {
    let mut rig = Rig::new();
    rig.negotiate(ProtocolFeatures::INFLIGHT_SHMFD);
    let asked = Inflight::new(0, 0x9000, 1, 128).unwrap();
    rig.frontend_sends(&Request::GetInflightFd(asked));
    assert_eq!(rig.backend_receives().0, Request::GetInflightFd(asked));
    let made = Inflight::new(0x840, 0, 1, 128).unwrap();
    let (memory, _) = std::io::pipe().unwrap();
    rig.backend_replies_with(31, &Reply::Inflight(made), &[memory.as_fd()]);
    assert_eq!(rig.frontend_receives_inflight(), made);
}

#[test]
fn carries_requests_of_the_backend() {
    let mut rig = Rig::new();
    rig.negotiate(ProtocolFeatures::CONFIG | ProtocolFeatures::REPLY_ACK);
    let mut channel = rig.opens_channel();
    let request = [2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    channel.write_all(&request).unwrap();
    assert_eq!(rig.device_takes_backend_request(), request);
    let mut reply = vec![2, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0];
    reply.extend([0; 8]);
    rig.device_answers_backend(&reply);
    let mut received = vec![0; reply.len()];
    channel.read_exact(&mut received).unwrap();
    assert_eq!(received, reply);
    // The end of the channel is not the end of the session.
    drop(channel);
    rig.frontend_sends(&Request::SetOwner);
    assert_eq!(rig.backend_receives().0, Request::SetOwner);
}

#[test]
fn checks_loaded_state_only_when_all_of_it_has_passed() {
    let mut rig = Rig::new();
    rig.negotiate(ProtocolFeatures::DEVICE_STATE);
    let direction = Transfer::Load;
    rig.frontend_sends(&Request::SetDeviceStateFd(DeviceState {
        direction,
        fd: (),
    }));
    let (_, mut fds) = rig.backend_receives();
    let mut pipe = std::fs::File::from(fds.remove(0));
    rig.backend_replies(42, &Reply::U64(0));
    assert_eq!(rig.frontend_receives(42), Reply::U64(0x100));

    rig.device_gives_state(b"state");
    rig.frontend_sends(&Request::CheckDeviceState);
    assert!(rig.backend_has_nothing());
    rig.device_gives_state(b"");
    assert_eq!(rig.backend_receives().0, Request::CheckDeviceState);
    let mut state = Vec::new();
    pipe.read_to_end(&mut state).unwrap();
    assert_eq!(state, b"state");
}

#[test]
fn saves_through_the_channel_that_the_backend_prefers() {
    let mut rig = Rig::new();
    rig.negotiate(ProtocolFeatures::DEVICE_STATE);
    let direction = Transfer::Save;
    rig.frontend_sends(&Request::SetDeviceStateFd(DeviceState {
        direction,
        fd: (),
    }));
    let (_, fds) = rig.backend_receives();
    let (theirs, ours) = std::io::pipe().unwrap();
    rig.backend_replies_with(42, &Reply::U64(0), &[theirs.as_fd()]);
    assert_eq!(rig.frontend_receives(42), Reply::U64(0x100));
    drop(fds);
    { ours }.write_all(b"saved").unwrap();
    assert_eq!(rig.device_takes_state(), b"saved");
    assert_eq!(rig.device_takes_state(), b"");
}

#[test]
fn leaves_the_frontend_when_the_backend_ends_and_finds_the_next() {
    let mut rig = Rig::new();
    rig.frontend_sends(&Request::SetOwner);
    rig.backend_receives();
    assert!(rig.is_backend_up());
    rig.backend_ends();
    // The device was reset, and a new backend is offered.
    rig.next_session();
    rig.frontend_sends(&Request::GetFeatures);
    assert_eq!(rig.backend_receives().0, Request::GetFeatures);
    assert_eq!(rig.resets(), 1);
}

#[test]
fn leaves_the_backend_when_the_frontend_ends_and_offers_the_next() {
    let mut rig = Rig::new();
    rig.frontend_sends(&Request::SetOwner);
    rig.backend_receives();
    rig.frontend_ends();
    assert!(rig.backend_was_left());
    rig.next_session();
    rig.frontend_sends(&Request::SetOwner);
    assert_eq!(rig.backend_receives().0, Request::SetOwner);
}

#[test]
fn ends_the_session_of_a_frontend_that_breaks_the_rules() {
    for bad in [
        // No message.
        &[1, 2, 3][..],
        // Number 99.
        &[99, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        // POSTCOPY_ADVISE, which needs descriptors of the backend.
        &[28, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        // A kick of a vring that there is not.
        &[
            12, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 200, 0, 0, 0, 0, 0, 0, 0,
        ],
    ] {
        let mut rig = Rig::new();
        rig.frontend_sends_bytes(bad);
        assert!(rig.backend_was_left(), "{bad:?}");
    }
}

#[test]
fn ends_the_session_of_a_backend_that_breaks_the_rules() {
    let mut rig = Rig::new();
    let number = [0; 8];
    for (resets, bad) in [
        // A request where replies belong.
        [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0].to_vec(),
        // A reply that nobody waits for.
        [&[1, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0], &number[..]].concat(),
    ]
    .iter()
    .enumerate()
    {
        rig.backend_sends_bytes(bad);
        assert!(rig.backend_was_left());
        rig.next_session();
        assert_eq!(rig.resets(), resets as u64 + 1);
    }
}

#[test]
fn loses_nothing_when_neither_side_takes_anything_for_a_while() {
    let mut rig = Rig::new();
    let count = rig.frontend_sends_until_full(&Request::SetOwner);
    for _ in 0..count {
        assert_eq!(rig.backend_receives().0, Request::SetOwner);
    }
    // As many as the frontend may wait for; they do not fit into the device.
    for _ in 0..64 {
        rig.frontend_sends(&Request::GetFeatures);
        rig.backend_receives();
    }
    for _ in 0..64 {
        rig.backend_replies(1, &Reply::U64(7));
    }
    for _ in 0..64 {
        assert_eq!(rig.frontend_receives(1), Reply::U64(7));
    }
}

#[test]
fn sleeps_while_nothing_happens() {
    let mut rig = Rig::new();
    rig.frontend_sends(&Request::SetOwner);
    rig.backend_receives();
    let before = rig.device_reads();
    // As many rounds of the loop as a busy one would make in this time.
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(rig.device_reads() <= before + 1);
}
