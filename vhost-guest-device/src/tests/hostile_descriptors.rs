// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Descriptors and memory that no frontend should send. The messages are
//! well-formed, so a frontend that asks for an acknowledgement gets a negative
//! one, and one that does not is disconnected.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::epoll;
use rustix::fs::{fcntl_add_seals, open, Mode, OFlags, SealFlags};
use vhost_guest_msg::ProtocolFeatures;

use super::rig::{event, memory_file, message, words, Frontend, Rig, DOORBELLS, VRINGS, WINDOW};
use super::siege::{assert_closed, assert_nothing_connected, receive_patiently, send, signalled};
use super::siege::{Siege, NEED_REPLY, PLAIN, REPLY, SIZE, USER};
use super::stage::word;
use crate::connection::carried;

const NACK: u64 = 1;

fn answer(code: u32, value: u64) -> Vec<u8> {
    message(code, REPLY, &words(&[value]))
}

/// Every kind of descriptor that is at hand, with its name.
fn kinds() -> Vec<(&'static str, OwnedFd)> {
    let path = |path: &str, flags| open(path, flags, Mode::empty()).unwrap();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    // Several tests do this at the same time.
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = format!("vhost-guest-test-{}-bait-{number}.sock", std::process::id());
    let bait = std::env::temp_dir().join(name);
    let _ = std::fs::remove_file(&bait);
    let listener = UnixListener::bind(&bait).unwrap();
    let named = UnixStream::connect(&bait).unwrap();
    let accepted = listener.accept().unwrap().0;
    std::fs::remove_file(&bait).unwrap();
    let read_only = {
        let file = memory_file(SIZE);
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        open(path, OFlags::RDONLY, Mode::empty()).unwrap()
    };
    let channel = UnixStream::pair().unwrap().0;
    let sealed = memory_file(SIZE);
    fcntl_add_seals(&sealed, SealFlags::WRITE).unwrap();
    vec![
        ("eventfd", event()),
        ("memfd", memory_file(SIZE).into()),
        ("empty memfd", memory_file(0).into()),
        ("read-only memfd", read_only),
        ("sealed memfd", sealed.into()),
        ("pipe reader", reader),
        ("pipe writer", writer),
        ("epoll", epoll::create(epoll::CreateFlags::CLOEXEC).unwrap()),
        ("directory", path("/", OFlags::RDONLY | OFlags::DIRECTORY)),
        ("path", path("/", OFlags::PATH)),
        ("null", path("/dev/null", OFlags::RDWR)),
        ("zero", path("/dev/zero", OFlags::RDWR)),
        (
            "file",
            File::open(std::env::current_exe().unwrap()).unwrap().into(),
        ),
        ("channel", channel.into()),
        ("datagram", UnixDatagram::pair().unwrap().0.into()),
        ("listener", listener.into()),
        ("named peer", named.into()),
        ("accepted", accepted.into()),
    ]
}

/// As [`assert_closed`], for files that no other test has opened and that are
/// not anonymous.
fn assert_own_closed(fd: OwnedFd, name: &str) {
    if !["epoll", "directory", "path", "null", "zero", "file"].contains(&name) {
        assert_closed(fd, name);
    }
}

#[test]
fn eventfds_that_are_none() {
    let mut siege = Siege::new();
    for (name, fd) in kinds().into_iter().filter(|(name, _)| *name != "eventfd") {
        for (code, payload) in [(12, &[1u64][..]), (13, &[1]), (14, &[1]), (7, &[])] {
            let what = format!("{name} for request {code}");
            siege.refuses(carried(), code, &what, &mut |frontend, flags| {
                frontend.send(&message(code, flags, &words(payload)), &[fd.as_fd()]);
            });
        }
        assert_own_closed(fd, name);
    }
    siege.serves_the_next();
}

#[test]
fn memory_that_is_none() {
    let mut siege = Siege::new();
    for (name, fd) in kinds().into_iter().filter(|(name, _)| *name != "memfd") {
        for (code, payload) in [
            (5, words(&[1, 0, SIZE, USER, 0])),
            (37, words(&[0, 0, SIZE, USER, 0])),
            (6, words(&[SIZE, 0])),
            (32, words(&[SIZE, 0, 1 | 256 << 16])),
        ] {
            let what = format!("{name} for request {code}");
            siege.refuses(carried(), code, &what, &mut |frontend, flags| {
                frontend.send(&message(code, flags, &payload), &[fd.as_fd()]);
            });
        }
        assert_own_closed(fd, name);
    }
    siege.serves_the_next();
}

#[test]
fn channels_that_are_none() {
    let mut siege = Siege::new();
    // Connected, and the other end has no name: as good as any.
    let good = ["channel", "accepted"];
    for (name, fd) in kinds().into_iter().filter(|(name, _)| !good.contains(name)) {
        siege.refuses(carried(), 21, name, &mut |frontend, flags| {
            frontend.send(&message(21, flags, &[]), &[fd.as_fd()]);
        });
        assert_own_closed(fd, name);
    }
    // Its own end of the connection, whose peer is the listener's socket.
    let mut frontend = siege.frontend(carried());
    let own = frontend.stream.try_clone().unwrap();
    frontend.send(&message(21, NEED_REPLY, &[]), &[own.as_fd()]);
    siege.rig.run();
    assert_eq!(frontend.receive(), Some(answer(21, NACK)));
    drop(own);
    assert_closed(&frontend.stream, "its own end");
    drop(frontend);
    assert!(siege.rig.needs_reset());
    siege.serves_the_next();
}

/// Regions as [guest address, size, user address, offset].
type Regions = Vec<[u64; 4]>;

fn table(regions: &[[u64; 4]]) -> Vec<u8> {
    let mut payload = words(&[regions.len() as u64]);
    payload.extend(words(regions.as_flattened()));
    payload
}

#[test]
fn tables_that_no_memory_has_are_refused() {
    const TOP: u64 = u64::MAX - 0xFFF;
    let mut siege = Siege::new();
    let cases: Vec<(&str, Regions)> = vec![
        ("no region", vec![]),
        ("zero size", vec![[0, 0, USER, 0]]),
        ("guest overflow", vec![[TOP, 0x2000, USER, 0]]),
        ("user overflow", vec![[0, 0x2000, TOP, 0]]),
        ("offset overflow", vec![[0, 0x2000, USER, TOP]]),
        (
            "guest overlap",
            vec![[0, SIZE, USER, 0], [SIZE - 1, SIZE, 2 * USER, 0]],
        ),
        (
            "user overlap",
            vec![[0, SIZE, USER, 0], [2 * SIZE, SIZE, USER + 1, 0]],
        ),
        ("twice", vec![[0, SIZE, USER, 0]; 2]),
        (
            "one user address in two files",
            vec![[0, SIZE, USER, 0], [2 * SIZE, SIZE, USER, 0]],
        ),
    ];
    for (what, regions) in cases {
        siege.refuses(carried(), 5, what, &mut |frontend, flags| {
            let fds: Vec<OwnedFd> = regions.iter().map(|_| memory_file(SIZE).into()).collect();
            send(frontend, &message(5, flags, &table(&regions)), &fds);
        });
    }
    siege.serves_the_next();
}

/// RAM of which the frontend's guest sees a part twice.
#[test]
fn two_guest_ranges_of_one_user_range_are_served() {
    let mut siege = Siege::new();
    let mut frontend = siege.frontend(carried());
    let rig = &mut siege.rig;
    let file = memory_file(2 * SIZE);
    let regions = [[0, 2 * SIZE, USER, 0], [8 * SIZE, SIZE, USER + SIZE, SIZE]];
    frontend.send(
        &message(5, NEED_REPLY, &table(&regions)),
        &[file.as_fd(), file.as_fd()],
    );
    let seen = rig.receive(0).expect("the table");
    let [ram, alias] = [3, 7].map(|at| word(&seen, at));
    assert!(alias >= ram + 2 * SIZE || alias + SIZE <= ram, "two places");
    rig.reply(5, &words(&[0]));
    assert_eq!(frontend.receive(), Some(answer(5, 0)));
    rig.vmm.write_window(ram + SIZE, b"the same").unwrap();
    let mut bytes = [0; 8];
    rig.vmm.read_window(alias, &mut bytes).unwrap();
    assert_eq!(&bytes, b"the same");
    // And a slot, over both.
    let region = [0, 16 * SIZE, 2 * SIZE, USER, 0];
    frontend.send(&message(37, NEED_REPLY, &words(&region)), &[file.as_fd()]);
    let seen = rig.receive(0).expect("the slot");
    rig.vmm
        .read_window(word(&seen, 3) + SIZE, &mut bytes)
        .unwrap();
    assert_eq!(&bytes, b"the same");
    rig.reply(37, &words(&[0]));
    assert_eq!(frontend.receive(), Some(answer(37, 0)));
    // A ring has one place.
    frontend.send(
        &message(9, PLAIN, &words(&[0, USER, USER, USER + SIZE, 0])),
        &[],
    );
    let ring = rig.receive(0).expect("the ring");
    assert_eq!([1, 3].map(|at| word(&ring, at)), [ram, ram + SIZE]);
}

#[test]
fn tables_that_cannot_be_mapped_are_refused() {
    let mut siege = Siege::new();
    let many: Regions = (0..32).map(|n| [n << 32, 4 << 20, n << 40, 0]).collect();
    let cases: Vec<(&str, Regions)> = vec![
        ("beyond the file", vec![[0, SIZE + 0x1000, USER, 0]]),
        ("offset beyond the file", vec![[0, 0x1000, USER, SIZE]]),
        ("far beyond the file", vec![[0, 0x1000, USER, 1 << 62]]),
        ("a byte beyond the file", vec![[0, SIZE - 1, USER, 2]]),
        ("too large for the window", vec![[0, WINDOW, USER, 0]]),
        ("too much for the window", many),
        ("huge", vec![[0, 1 << 62, 0, 0]]),
        ("everything", vec![[0, u64::MAX, 0, 0]]),
    ];
    for (what, regions) in cases {
        // The last ones are not too large for their file.
        let size = match what {
            "too large for the window" | "too much for the window" => WINDOW,
            _ => SIZE,
        };
        let files: Vec<OwnedFd> = regions.iter().map(|_| memory_file(size).into()).collect();
        siege.refuses(carried(), 5, what, &mut |frontend, flags| {
            send(frontend, &message(5, flags, &table(&regions)), &files);
        });
        for file in files {
            assert_closed(file, what);
        }
    }
    siege.serves_the_next();
}

#[test]
fn a_refused_table_leaves_the_old_one_and_its_rings() {
    let mut siege = Siege::new();
    let mut frontend = siege.frontend(carried());
    let rig = &mut siege.rig;
    let file = memory_file(SIZE);
    frontend.send(
        &message(5, PLAIN, &table(&[[0, SIZE, USER, 0]])),
        &[file.as_fd()],
    );
    rig.receive(0).expect("the table");
    frontend.send(&message(9, PLAIN, &words(&[0, USER, USER, USER, 0])), &[]);
    let ring = rig.receive(0).expect("the ring");
    let before = rig.vmm.mappings();
    // The second region does not fit; the first, moved in the file, would.
    let other = memory_file(SIZE);
    let bad = table(&[[0, 0x1000, USER, 0x1000], [SIZE, 2 * SIZE, 2 * USER, 0]]);
    frontend.send(
        &message(5, NEED_REPLY, &bad),
        &[file.as_fd(), other.as_fd()],
    );
    rig.run();
    assert_eq!(frontend.receive(), Some(answer(5, NACK)));
    assert_eq!(rig.vmm.mappings(), before);
    // A ring that the guest knows would move.
    let moving = table(&[[0, 0x1000, USER, 0x2000]]);
    frontend.send(&message(5, NEED_REPLY, &moving), &[file.as_fd()]);
    rig.run();
    assert_eq!(frontend.receive(), Some(answer(5, NACK)));
    assert_eq!(rig.vmm.mappings(), before);
    frontend.send(&message(9, PLAIN, &words(&[0, USER, USER, USER, 0])), &[]);
    assert_eq!(rig.receive(0), Some(ring));
}

#[test]
fn memory_slots_that_overlap_or_do_not_exist_are_refused() {
    let mut siege = Siege::new();
    let mut frontend = siege.frontend(carried());
    let rig = &mut siege.rig;
    let file = memory_file(4 * SIZE);
    let add = |region: [u64; 4]| words(&[&[0], &region[..]].concat());
    frontend.send(
        &message(37, NEED_REPLY, &add([0, SIZE, USER, 0])),
        &[file.as_fd()],
    );
    rig.receive(0).expect("the slot");
    rig.reply(37, &words(&[0]));
    assert_eq!(frontend.receive(), Some(answer(37, 0)));
    let before = rig.vmm.mappings();
    let page = 0x1000;
    for region in [
        [0, SIZE, 2 * USER, 0],
        [SIZE - page, SIZE, 2 * USER, 0],
        [2 * SIZE, SIZE, USER, page],
        [2 * SIZE, SIZE, USER - SIZE + page, 0],
    ] {
        frontend.send(&message(37, NEED_REPLY, &add(region)), &[file.as_fd()]);
        rig.run();
        assert_eq!(frontend.receive(), Some(answer(37, NACK)), "{region:x?}");
    }
    for region in [
        [page, SIZE, USER, 0],
        [0, SIZE - page, USER, 0],
        [0, SIZE, USER + page, 0],
    ] {
        frontend.send(&message(38, NEED_REPLY, &add(region)), &[]);
        rig.run();
        assert_eq!(frontend.receive(), Some(answer(38, NACK)), "{region:x?}");
    }
    assert_eq!(rig.receive(0), None);
    assert_eq!(rig.vmm.mappings(), before);
}

#[test]
fn rings_outside_of_memory_are_refused() {
    let mut siege = Siege::new();
    let mut frontend = siege.frontend(carried());
    let rig = &mut siege.rig;
    let file = memory_file(SIZE);
    frontend.send(
        &message(5, PLAIN, &table(&[[0, SIZE, USER, 0]])),
        &[file.as_fd()],
    );
    rig.receive(0).expect("the table");
    frontend.send(&message(8, PLAIN, &words(&[256 << 32])), &[]);
    rig.receive(0).expect("the size");
    let end = USER + SIZE;
    for (descriptor, used, available) in [
        (end, USER, USER),
        (USER, end, USER),
        (USER, USER, end),
        (end - 16, USER, USER),
        (USER - 16, USER, USER),
        (0, 0, 0),
        (u64::MAX - 15, USER, USER),
        (USER, u64::MAX - 3, USER),
    ] {
        let ring = words(&[0, descriptor, used, available, 0]);
        frontend.send(&message(9, NEED_REPLY, &ring), &[]);
        rig.run();
        assert_eq!(frontend.receive(), Some(answer(9, NACK)), "{descriptor:x}");
    }
    assert_eq!(rig.receive(0), None);
}

#[test]
fn ten_thousand_call_eventfds_leave_one() {
    let mut siege = Siege::new();
    let mut frontend = siege.frontend(ProtocolFeatures::MQ);
    let rig = &mut siege.rig;
    let eventfd = event();
    for n in 0..10_000 {
        let other = event();
        let fd = if n % 2 == 0 { &eventfd } else { &other };
        frontend.send(&message(13, PLAIN, &words(&[n % 4])), &[fd.as_fd()]);
        assert!(receive_patiently(rig).is_some(), "message {n}");
    }
    let bells = rig
        .vmm
        .doorbells()
        .into_iter()
        .filter(|at| *at >= DOORBELLS);
    assert_eq!(bells.count(), usize::from(VRINGS));
    frontend.send(&message(13, PLAIN, &words(&[0])), &[eventfd.as_fd()]);
    rig.run();
    assert!(!signalled(&eventfd));
    let bell = rig.vmm.doorbell(DOORBELLS).expect("a doorbell");
    rustix::io::write(&bell, &1u64.to_ne_bytes()).unwrap();
    assert!(signalled(&eventfd), "the newest one counts");
    drop((bell, frontend));
    assert!(siege.rig.needs_reset());
    assert_closed(eventfd, "a call");
}

#[test]
fn one_eventfd_for_everything_is_let_go_of_everywhere() {
    let mut siege = Siege::new();
    let mut frontend = siege.frontend(ProtocolFeatures::MQ);
    let eventfd = event();
    // One kick: a second one of the same eventfd would cost the connection.
    for (code, vrings) in [(12, 1), (13, VRINGS), (14, VRINGS)] {
        for vring in 0..u64::from(vrings) {
            frontend.send(&message(code, PLAIN, &words(&[vring])), &[eventfd.as_fd()]);
            siege.rig.run();
        }
    }
    assert!(!siege.rig.needs_reset());
    drop(frontend);
    assert!(siege.rig.needs_reset());
    assert_nothing_connected(&siege.rig, "one eventfd");
    assert_closed(eventfd, "one eventfd");
}

#[test]
fn a_kick_that_is_in_use_already_is_the_frontends_fault() {
    use std::io::ErrorKind::{InvalidInput, ResourceBusy};
    let mut siege = Siege::new();
    for kind in [InvalidInput, ResourceBusy] {
        for code in [12, 13] {
            let mut frontend = siege.frontend(carried());
            siege.rig.vmm.fail_nth(0, kind);
            let eventfd = event();
            frontend.send(&message(code, NEED_REPLY, &words(&[0])), &[eventfd.as_fd()]);
            siege.rig.run();
            assert_eq!(frontend.receive(), Some(answer(code, NACK)));
            assert_nothing_connected(&siege.rig, "in use");
            assert!(!siege.rig.needs_reset());
            assert_closed(eventfd, "in use");
        }
    }
}

fn with_slots(rig: &mut Rig, frontend: &mut Frontend, count: u64) -> File {
    let file = memory_file(count * 0x1000);
    for n in 0..count {
        let region = words(&[0, n << 20, 0x1000, USER + (n << 20), n << 12]);
        frontend.send(&message(37, PLAIN, &region), &[file.as_fd()]);
        assert!(receive_patiently(rig).is_some(), "slot {n}");
        // Asked for by nobody, as nothing went away.
    }
    file
}

#[test]
fn more_memory_slots_than_carried_are_refused() {
    let mut siege = Siege::new();
    let mut frontend = siege.frontend(carried());
    let file = with_slots(&mut siege.rig, &mut frontend, 509);
    let one_more = words(&[0, 1 << 40, 0x1000, 1 << 41, 0]);
    frontend.send(&message(37, NEED_REPLY, &one_more), &[file.as_fd()]);
    siege.rig.run();
    assert_eq!(frontend.receive(), Some(answer(37, NACK)));
    drop(frontend);
    assert!(siege.rig.needs_reset());
    siege.serves_the_next();
    assert_closed(file, "the memory");
}
