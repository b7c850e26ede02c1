// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A frontend whose guest has an IOMMU.

use super::*;
use crate::fake_packed::PackedRing;
use crate::fake_ring::{INDIRECT, WRITE};
use crate::vring::RingFault;
use std::collections::BTreeMap;
use vhost_guest_msg::{
    decode_whole, BackendRequest, Context, Inflight, Iotlb, IotlbKind, Limits, LogArea, LogBase,
    OnlyFd, Permission, RemMemReg, SetInflight, VringAddr,
};

const PAGE: u64 = 0x1000;
/// I/O virtual address of the ring.
const RING: u64 = 0xffff_f000_0000;
const BUFFERS: u64 = 0x7000_0000;

const FEATURES: VirtioFeatures = VirtioFeatures::VERSION_1
    .union(VirtioFeatures::PROTOCOL_FEATURES)
    .union(VirtioFeatures::ACCESS_PLATFORM)
    .union(VirtioFeatures::RING_INDIRECT_DESC);

/// Pages of the IOMMU: where each is from the start of the memory.
struct Iommu {
    pages: BTreeMap<u64, u64>,
    permission: Permission,
    /// What was asked for.
    misses: Vec<(u64, Permission)>,
}

impl Iommu {
    /// The ring in one piece, its buffers scattered.
    fn new() -> Self {
        let mut pages = BTreeMap::new();
        for page in 0..4 {
            pages.insert(RING + page * PAGE, page * PAGE);
        }
        for page in 0..8 {
            pages.insert(BUFFERS + page * PAGE, 0xf_0000 - 3 * page * PAGE);
        }
        Self {
            pages,
            permission: Permission::ReadWrite,
            misses: Vec::new(),
        }
    }

    fn guest_address(&self, iova: u64) -> u64 {
        GPA + self.pages[&(iova & !(PAGE - 1))] + iova % PAGE
    }

    /// The next miss that the backend sends.
    fn take_miss(&mut self, setup: &Setup) -> Option<u64> {
        let message = setup.fake.take(3)?;
        let limits = Limits::default();
        let context = Context {
            features: VirtioFeatures::ACCESS_PLATFORM,
            ..Context::default()
        };
        let frame = decode_whole(&message, Endian::Little, &limits).unwrap();
        let message = BackendRequest::<()>::decode(frame, Endian::Little, &limits, &context);
        let message = message.unwrap();
        assert!(!message.need_reply);
        let BackendRequest::IotlbMsg(entry) = message.request else {
            panic!("not a miss");
        };
        assert_eq!(entry.kind(), IotlbKind::Miss);
        self.misses.push((entry.iova(), entry.permission()));
        Some(entry.iova())
    }

    fn update(&self, iova: u64) -> Request {
        let page = iova & !(PAGE - 1);
        let user = USER + self.pages[&page];
        let kind = IotlbKind::Update;
        Request::IotlbMsg(Iotlb::new(kind, page, PAGE, user, self.permission).unwrap())
    }

    /// Answers until nothing is asked any more; returns how often.
    fn answer(&mut self, setup: &mut Setup) -> usize {
        let mut count = 0;
        while let Some(iova) = self.take_miss(setup) {
            assert!(setup.acked(&self.update(iova)));
            count += 1;
            assert!(count < 100, "asked for ever");
        }
        count
    }

    fn write(&self, ring: &GuestRing, iova: u64, data: &[u8]) {
        for (at, byte) in (iova..).zip(data) {
            ring.write(self.guest_address(at), &[*byte]);
        }
    }

    fn read(&self, ring: &GuestRing, iova: u64, len: u64) -> Vec<u8> {
        let byte = |at| ring.read(self.guest_address(at), 1)[0];
        (iova..iova + len).map(byte).collect()
    }
}

fn invalidate(iova: u64, size: u64) -> Request {
    let kind = IotlbKind::Invalidate;
    Request::IotlbMsg(Iotlb::new(kind, iova, size, 0, Permission::None).unwrap())
}

fn translated() -> (Setup, GuestRing, Iommu) {
    let backend = Echo {
        translated: true,
        ..Echo::default()
    };
    let mut setup = Setup::with_backend(Fake::new(4), backend);
    setup.negotiate();
    assert!(setup.acked(&Request::SetFeatures(FEATURES)));
    assert!(setup.acked(&Request::SetBackendReqFd(OnlyFd { fd: () })));
    setup.share_memory();
    let ring = GuestRing::new(setup.fake.window.clone(), 8, 0);
    (setup, ring, Iommu::new())
}

fn address(index: u8) -> VringAddr {
    VringAddr {
        index,
        log_used: false,
        descriptor: RING,
        available: RING + 0x2000,
        used: RING + 0x3000,
        log: RING + 0x3000,
    }
}

fn start(setup: &mut Setup, address: VringAddr) {
    start_at(setup, address, 0);
}

fn start_at(setup: &mut Setup, address: VringAddr, base: u32) {
    let index = address.index;
    let fd = Some(());
    for request in [
        Request::SetVringNum(VringNum::new(index, 8).unwrap()),
        Request::SetVringBase(VringBase { index, base }),
        Request::SetVringAddr(address),
        Request::SetVringCall(VringFd { index, fd }),
        Request::SetVringKick(VringFd { index, fd }),
        Request::SetVringEnable(VringEnable {
            index,
            enable: true,
        }),
    ] {
        assert!(setup.acked(&request), "{request:?}");
    }
}

/// A vring that knows where it is.
fn running() -> (Setup, GuestRing, Iommu) {
    let (mut setup, ring, mut iommu) = translated();
    start(&mut setup, address(0));
    assert_eq!(iommu.answer(&mut setup), 3);
    iommu.misses.clear();
    // To be sure, the guest is called when a vring starts.
    setup.calls();
    (setup, ring, iommu)
}

#[test]
fn asks_for_what_it_needs_and_goes_on_when_it_knows() {
    let (mut setup, mut ring, mut iommu) = translated();
    start(&mut setup, address(0));
    let data: Vec<u8> = (0..0x1800u32).map(|i| (i / 7) as u8).collect();
    iommu.write(&ring, BUFFERS + 0x234, &data);
    let (len, room) = (data.len() as u32, 0x1100);
    ring.add(&[(BUFFERS + 0x234, len, 0), (BUFFERS + 0x4f80, room, WRITE)]);
    setup.kick(0);
    iommu.answer(&mut setup);
    assert_eq!(ring.used(), Some((0, room)));
    assert_eq!(setup.server.backend().seen, [(0, data)]);
    let answer = iommu.read(&ring, BUFFERS + 0x4f80, room.into());
    assert_eq!(answer, vec![0x77; room as usize]);
    assert_eq!(iommu.read(&ring, BUFFERS + 0x6080, 1), [0]);
    use Permission::{Read, ReadWrite, Write};
    let asked = [
        (RING, Read),
        (RING + 0x2000, Read),
        (RING + 0x3000, ReadWrite),
        (BUFFERS + 0x234, Read),
        (BUFFERS + 0x1000, Read),
        (BUFFERS + 0x4f80, Write),
        (BUFFERS + 0x5000, Write),
        (BUFFERS + 0x6000, Write),
    ];
    assert_eq!(iommu.misses, asked);
    // All of that is known the next time.
    ring.add(&[(BUFFERS + 0x234, 1, 0)]);
    setup.kick(0);
    assert_eq!(iommu.answer(&mut setup), 0);
    assert!(ring.used().is_some());
}

#[test]
fn packed_rings_wait_for_translations_too() {
    let (mut setup, _, mut iommu) = translated();
    let features = FEATURES | VirtioFeatures::RING_PACKED;
    assert!(setup.acked(&Request::SetFeatures(features)));
    let mut ring = PackedRing::new(setup.fake.window.clone(), 8, 0);
    start_at(&mut setup, address(0), 0x8000_8000);
    assert_eq!(iommu.answer(&mut setup), 3);
    assert_eq!(iommu.misses[0], (RING, Permission::ReadWrite));
    for id in 1..20 {
        let data = iommu.guest_address(BUFFERS + 8);
        ring.write(data, &u16::to_le_bytes(id));
        // What is written is in two pieces.
        ring.add(id, &[(BUFFERS + 8, 2, 0), (BUFFERS + PAGE - 1, 2, WRITE)]);
        setup.kick(0);
        if id % 3 == 1 {
            // It was taken up to there, and is taken once more.
            assert_eq!(ring.used(), None);
            assert_eq!(iommu.answer(&mut setup), 2);
        }
        assert_eq!(ring.used(), Some((id, 2)));
        if id % 3 == 0 {
            assert!(setup.acked(&invalidate(BUFFERS, 8 * PAGE)));
        }
    }
    let seen = setup.server.backend().seen.iter();
    assert!(seen.map(|(_, data)| data).eq(&(1..20u16)
        .map(|id| id.to_le_bytes().to_vec())
        .collect::<Vec<_>>()));
    for at in [PAGE - 1, PAGE] {
        let at = iommu.guest_address(BUFFERS + at);
        assert_eq!(ring.read(at, 1), [0x77]);
    }
}

#[test]
fn follows_indirect_tables_that_are_scattered() {
    let (mut setup, mut ring, mut iommu) = running();
    iommu.write(&ring, BUFFERS, b"scattered");
    // The second descriptor lies on both sides of the end of a page.
    let table = BUFFERS + 0x2000 - 24;
    for (at, address, len, next) in [(0, BUFFERS, 4, 1), (16, BUFFERS + 4, 5, 0)] {
        let mut descriptor = u64::to_le_bytes(address).to_vec();
        descriptor.extend(u32::to_le_bytes(len));
        descriptor.extend(u16::to_le_bytes(next));
        descriptor.extend(u16::to_le_bytes(next));
        iommu.write(&ring, table + at, &descriptor);
    }
    ring.add(&[(table, 32, INDIRECT)]);
    setup.kick(0);
    assert_eq!(iommu.answer(&mut setup), 3);
    let seen = &setup.server.backend().seen;
    assert_eq!(seen[..], [(0, b"scattered".to_vec())]);
    assert!(ring.used().is_some());
}

#[test]
fn asks_once_for_each_translation_and_rests() {
    let (mut setup, mut ring, mut iommu) = running();
    ring.add(&[(BUFFERS, 1, 0)]);
    setup.kick(0);
    assert_eq!(iommu.take_miss(&setup), Some(BUFFERS));
    // Neither kicks nor other translations are a reason to ask again.
    setup.kick(0);
    assert!(setup.acked(&iommu.update(BUFFERS + 0x5000)));
    assert_eq!(iommu.take_miss(&setup), None);
    assert_eq!((ring.used(), setup.calls()), (None, vec![]));
    // One that forgets it in the meantime is.
    assert!(setup.acked(&invalidate(BUFFERS, PAGE)));
    assert_eq!(iommu.take_miss(&setup), Some(BUFFERS));
    // Where it stops, the request is still to come.
    assert_eq!(setup.stop_ring(0), 0);
    start(&mut setup, address(0));
    assert_eq!(iommu.answer(&mut setup), 1);
    assert!(ring.used().is_some());
}

#[test]
fn loses_no_request_of_a_crashed_backend_while_it_waits() {
    let (mut setup, mut ring, mut iommu) = translated();
    // Request 3 was taken, and was the only one.
    let record = Inflight::new(0x1000, 0x1_0000, 1, 8).unwrap();
    let header: [u16; 4] = [1, 8, 0, 0];
    for (at, value) in (0x1_0008..).step_by(2).zip(header) {
        ring.window.store_le(at, value).unwrap();
    }
    ring.window.store_le(0x1_0010 + 16 * 3, 1u8).unwrap();
    ring.put(3, BUFFERS, 1, 0, 0);
    ring.offer(3);
    let set = SetInflight::new(record, ()).unwrap();
    assert!(setup.acked(&Request::SetInflightFd(set)));
    start(&mut setup, address(0));
    assert_eq!(iommu.answer(&mut setup), 4);
    assert_eq!((ring.used(), ring.used()), (Some((3, 0)), None));
    assert_eq!(setup.stop_ring(0), 1);
}

#[test]
fn waits_for_a_channel_to_ask_on() {
    let backend = Echo {
        translated: true,
        ..Echo::default()
    };
    let mut setup = Setup::with_backend(Fake::new(4), backend);
    setup.negotiate();
    assert!(setup.acked(&Request::SetFeatures(FEATURES)));
    setup.share_memory();
    let mut ring = GuestRing::new(setup.fake.window.clone(), 8, 0);
    let mut iommu = Iommu::new();
    start(&mut setup, address(0));
    ring.add(&[(BUFFERS, 1, 0)]);
    setup.kick(0);
    assert_eq!(iommu.take_miss(&setup), None);
    assert!(setup.acked(&Request::SetBackendReqFd(OnlyFd { fd: () })));
    iommu.answer(&mut setup);
    assert!(ring.used().is_some());
}

#[test]
fn never_uses_a_translation_that_was_taken_back() {
    let (mut setup, mut ring, mut iommu) = running();
    let mut request = |setup: &mut Setup, iommu: &mut Iommu| {
        ring.add(&[(BUFFERS, 4, WRITE)]);
        setup.kick(0);
        let asked = iommu.answer(setup);
        assert!(ring.used().is_some());
        asked
    };
    assert_eq!(request(&mut setup, &mut iommu), 1);
    iommu.pages.insert(BUFFERS, 0x8_0000);
    assert!(setup.acked(&invalidate(BUFFERS + 8, 1)));
    assert_eq!(request(&mut setup, &mut iommu), 1);
    assert_eq!(iommu.read(&ring, BUFFERS, 4), [0x77; 4]);
    // Everything: the ring itself must be found again.
    assert!(setup.acked(&invalidate(0, u64::MAX)));
    assert_eq!(iommu.answer(&mut setup), 3);
    let memory = Region::new(GPA, LEN, USER, 0).unwrap();
    assert!(setup.acked(&Request::RemMemReg(RemMemReg { region: memory })));
    assert!(iommu.take_miss(&setup).is_some(), "the ring is gone, too");
    assert!(!setup.acked(&iommu.update(RING)), "to memory that is gone");
    setup.share_memory();
    assert!(setup.acked(&iommu.update(RING)));
    iommu.answer(&mut setup);
}

#[test]
fn logs_guest_addresses() {
    let (mut setup, mut ring, mut iommu) = running();
    let (size, offset) = ((GPA + LEN) / PAGE / 8, 0x1_0000);
    let area = LogArea::new(size, offset).unwrap();
    setup.ask(&Request::SetLogBase(LogBase::Shared { area, fd: () }));
    assert!(setup.acked(&Request::SetFeatures(FEATURES | VirtioFeatures::LOG_ALL)));
    let logged = VringAddr {
        log_used: true,
        ..address(0)
    };
    assert!(setup.acked(&Request::SetVringAddr(logged)));
    ring.add(&[(BUFFERS + 0xfff, 2, WRITE)]);
    setup.kick(0);
    iommu.answer(&mut setup);
    assert!(ring.used().is_some());
    let mut pages = Vec::new();
    for byte in 0..size {
        let bits = setup.fake.window.take_bits(offset + byte);
        pages.extend(
            (0..8)
                .filter(|bit| bits >> bit & 1 == 1)
                .map(|bit| 8 * byte + bit),
        );
    }
    let first = GPA / PAGE;
    assert_eq!(pages, [first + 3, first + 0xed, first + 0xf0]);
}

#[test]
fn breaks_a_vring_that_uses_what_it_may_not() {
    let (mut setup, mut ring, mut iommu) = running();
    iommu.permission = Permission::Read;
    ring.add(&[(BUFFERS, 4, WRITE)]);
    setup.kick(0);
    assert_eq!(iommu.answer(&mut setup), 1);
    let fault = Disconnect::Ring(RingFault::Address(BUFFERS));
    assert_eq!(setup.server.last_fault(), Some(&fault));
    assert_eq!(ring.used(), None);
    assert!(!setup.disconnected());
}

#[test]
fn rejects_vrings_in_pieces_and_translations_that_make_no_sense() {
    let (mut setup, mut ring, mut iommu) = translated();
    // The descriptors go on elsewhere.
    let split = VringAddr {
        descriptor: BUFFERS + 0xfc0,
        ..address(0)
    };
    start(&mut setup, split);
    iommu.answer(&mut setup);
    ring.add(&[(BUFFERS, 1, 0)]);
    setup.kick(0);
    assert_eq!(ring.used(), None);
    assert!(setup.acked(&Request::SetVringAddr(address(0))));
    iommu.answer(&mut setup);
    assert!(ring.used().is_some());
    let entry = |kind, user| {
        let entry = Iotlb::new(kind, 0, PAGE, user, Permission::Read);
        Request::IotlbMsg(entry.unwrap())
    };
    for bad in [
        entry(IotlbKind::Update, USER + LEN - PAGE + 1),
        entry(IotlbKind::Update, 1 << 60),
        entry(IotlbKind::Miss, USER),
        entry(IotlbKind::AccessFail, USER),
    ] {
        assert!(!setup.acked(&bad));
    }
    // Without ACCESS_PLATFORM there are none.
    let mut setup = Setup::negotiated();
    assert!(!setup.acked(&entry(IotlbKind::Invalidate, 0)));
    assert!(!setup.acked(&Request::SetFeatures(FEATURES)), "not offered");
}
