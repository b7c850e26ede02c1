// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Any order of anything: what guest and frontends do, sensible or not, while
//! services of the VMM's fail, translations go, and time limits pass. The
//! device never panics, always comes to rest, has mapped what its books say,
//! connects nothing of a frontend's without a frontend, keeps to its bounds,
//! serves again in the end, and leaves nothing behind.
//!
//! Rude peers do not get far. Civil ones say what they may say, mostly, so that
//! their sessions are long.

mod world;

use std::io::ErrorKind;

use proptest::collection::vec;
use proptest::prelude::*;
use vhost_guest_msg::{Verdict, VirtioFeatures, BACKEND_ROWS, FRONTEND_ROWS};
use vhost_guest_vmm_traits::test_utils::Call;

use super::rig::{words, NEEDS_RESET};
use super::session::assert_recovers;
use crate::guest::pci::bars::{COMMON, DEVICE, DRIVER_AUX, MSIX_TABLE, NOTIFY};
use world::World;

/// What the VMM chose.
#[derive(Clone, Copy, Debug)]
struct Kind {
    /// The device carries device state.
    migration: bool,
    /// A virtual IOMMU is in front of it.
    translator: bool,
    /// Guests and orphaned memory have time limits.
    limits: bool,
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// A driver starts from scratch, with or without `BACKEND_UP`.
    Start(bool),
    /// A register write: structure, offset in it, bytes.
    Write(u64, Vec<u8>),
    /// A configuration space write.
    Configure(u16, Vec<u8>),
    /// A doorbell store that reaches userspace.
    Ring(u64),
    /// The driver resets a queue and perhaps enables it again.
    ResetQueue(u16, bool),
    /// Buffers are posted.
    Post(u16, u8),
    /// A descriptor of any kind is made available.
    Publish(u16, u64, u32, u16, u16),
    /// `avail_idx` is anything.
    Jump(u16, u16),
    /// The guest sends bytes.
    Send(u16, Vec<u8>),
    /// The guest takes a request and answers it, rightly or with this status.
    Answer(Option<u64>),
    /// The guest answers all that it got.
    AnswerAll,
    /// A backend request: row, flags.
    Ask(usize, u32),
    /// A frontend connects; or, unless one is connected, the driver resets the
    /// device if it has to, and a frontend connects and negotiates.
    Connect(bool),
    /// The guest saves so many bytes of device state.
    Save(u16),
    /// The last frontend, or one that waits, hangs up.
    HangUp(u8),
    /// A request of the last frontend's: row, flags.
    Request(usize, u32),
    /// A table of regions: offsets and sizes in pages, which file.
    Table(Vec<(u8, u8, u8)>, u32),
    /// A slot comes or goes.
    Slot(bool, u8, u8, u32),
    /// A ring in memory.
    RingAt(u8, u8),
    /// Any bytes, with some descriptors.
    Noise(Vec<u8>, u8),
    /// The first bytes of a message.
    Part(usize, u8),
    /// What the device sent is read.
    Read,
    /// A reply on the backend channel.
    ChannelReply(u32, Vec<u8>),
    /// The channel is closed.
    ChannelHangUp,
    /// A file is truncated, and a vCPU notices.
    Truncate(u8),
    /// A dirty log: offset in and size of it in a file.
    Log(u16, u16, u8, u32),
    /// A record of requests under way is asked for, or handed over.
    Inflight(Option<(u16, u16, u8)>, u32),
    /// An I/O translation: type, page, size.
    Iotlb(u8, u8, u16, u32),
    /// Virtio features.
    Features(u64),
    /// A transfer of device state: direction, socket or pipe.
    State(u8, bool, u32),
    /// The frontend's ends of the transfers: bytes in, bytes out, closed.
    StateBytes(u16),
    StateRead,
    StateHangUp,
    /// Time passes: for the guest, for the memory of a frontend that is gone.
    Late(bool),
    /// The driver's addresses mean nothing, or something again.
    Unmap(bool),
    /// The n-th call of a service of the VMM's fails.
    Fail(u8, ErrorKind),
    /// The VMM takes everything.
    Revoke,
    /// The VMM resets the function.
    ResetBus,
    /// The VMM, which keeps the MSI-X table, sets an entry or masks it.
    Vector(u16, bool),
    /// The VMM pauses the device, or lets it go on.
    Pause(bool),
    /// The VMM makes a snapshot.
    Snapshot,
    /// The VM goes back to the last one, but for its memory.
    GoBack,
    /// The device takes its turns.
    Run,
}

fn flags() -> impl Strategy<Value = u32> {
    prop_oneof![4 => Just(1), 4 => Just(9), 1 => Just(5), 1 => any::<u32>()]
}

fn right_flags() -> impl Strategy<Value = u32> {
    prop_oneof![1 => Just(1), 4 => Just(9)]
}

fn register() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0..0x40u64).prop_map(|at| COMMON + at),
        2 => (0..40u64).prop_map(|at| DEVICE + at),
        1 => (0..20u64).prop_map(|at| NOTIFY + at),
        2 => (0..4u64).prop_map(|at| DRIVER_AUX + at),
        2 => (0..200u64).prop_map(|at| MSIX_TABLE + at),
    ]
}

fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
    let small = prop_oneof![
        Just(0u8),
        Just(1),
        Just(2),
        Just(4),
        Just(0xFF),
        any::<u8>()
    ];
    prop_oneof![Just(1usize), Just(2), Just(4), Just(8), 0..9usize]
        .prop_flat_map(move |length| vec(small.clone(), length))
}

fn guest_step() -> impl Strategy<Value = Step> {
    let queue = 0..6u16;
    prop_oneof![
        1 => any::<bool>().prop_map(Step::Start),
        4 => (register(), some_bytes()).prop_map(|(at, bytes)| Step::Write(at, bytes)),
        2 => (0..0x100u16, some_bytes()).prop_map(|(at, bytes)| Step::Configure(at, bytes)),
        1 => (0..64u64).prop_map(Step::Ring),
        2 => (queue.clone(), any::<bool>()).prop_map(|(q, back)| Step::ResetQueue(q, back)),
        2 => (queue.clone(), 0..10u8).prop_map(|(q, n)| Step::Post(q, n)),
        1 => (queue.clone(), 0..0x90_0000u64, 0..9000u32, 0..8u16, 0..20u16)
            .prop_map(|(q, at, length, flags, next)| Step::Publish(q, at, length, flags, next)),
        1 => (queue.clone(), any::<u16>()).prop_map(|(q, idx)| Step::Jump(q, idx)),
        1 => (queue, vec(any::<u8>(), 0..40)).prop_map(|(q, bytes)| Step::Send(q, bytes)),
        6 => proptest::option::weighted(0.2, 0..3u64).prop_map(Step::Answer),
        6 => Just(Step::AnswerAll),
        2 => (0..BACKEND_ROWS.len(), flags()).prop_map(|(row, flags)| Step::Ask(row, flags)),
    ]
}

fn frontend_step() -> impl Strategy<Value = Step> {
    let row = 0..FRONTEND_ROWS.len();
    prop_oneof![
        3 => any::<bool>().prop_map(Step::Connect),
        1 => any::<u8>().prop_map(Step::HangUp),
        8 => (row.clone(), flags()).prop_map(|(row, flags)| Step::Request(row, flags)),
        4 => (vec((0..8u8, 0..5u8, 0..3u8), 0..4), flags()).prop_map(|(r, f)| Step::Table(r, f)),
        4 => (any::<bool>(), 0..8u8, 0..3u8, flags())
            .prop_map(|(add, at, file, flags)| Step::Slot(add, at, file, flags)),
        2 => (0..5u8, 0..9u8).prop_map(|(vring, page)| Step::RingAt(vring, page)),
        1 => (vec(any::<u8>(), 0..40), 0..5u8).prop_map(|(b, n)| Step::Noise(b, n)),
        1 => (row, any::<u8>()).prop_map(|(row, length)| Step::Part(row, length)),
        4 => Just(Step::Read),
        2 => (0..4u32, vec(0..2u8, 8)).prop_map(|(code, bytes)| Step::ChannelReply(code, bytes)),
        1 => Just(Step::ChannelHangUp),
        1 => (0..3u8).prop_map(Step::Truncate),
    ]
}

/// Memory beside that of the frontend's guest, and translations of addresses.
fn other_memory_step() -> impl Strategy<Value = Step> {
    let offset = prop_oneof![Just(0u16), Just(0x1000), any::<u16>()];
    let size = prop_oneof![Just(0x1000u16), any::<u16>()];
    let file = 0..3u8;
    let features = [
        VirtioFeatures::LOG_ALL,
        VirtioFeatures::ACCESS_PLATFORM,
        VirtioFeatures::RING_PACKED,
    ];
    let features = prop::sample::subsequence(features.to_vec(), 0..4);
    let record = proptest::option::of((offset.clone(), size.clone(), file.clone()));
    prop_oneof![
        4 => (offset, size.clone(), file, right_flags())
            .prop_map(|(at, size, file, flags)| Step::Log(at, size, file, flags)),
        4 => (record, right_flags()).prop_map(|(record, flags)| Step::Inflight(record, flags)),
        3 => (0..6u8, 0..9u8, size, right_flags())
            .prop_map(|(kind, page, size, flags)| Step::Iotlb(kind, page, size, flags)),
        2 => (features, prop::bool::weighted(0.95)).prop_map(|(features, protocol)| {
            let mut all: VirtioFeatures = features.into_iter().collect();
            all.set(VirtioFeatures::PROTOCOL_FEATURES, protocol);
            Step::Features(all.bits())
        }),
    ]
}

fn state_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2u8, any::<bool>(), right_flags())
            .prop_map(|(direction, socket, flags)| Step::State(direction, socket, flags)),
        4 => (0..5000u16).prop_map(Step::StateBytes),
        2 => Just(Step::StateRead),
        1 => Just(Step::StateHangUp),
    ]
}

/// What peers do that know the protocol. Their mistakes are in what they ask
/// for, and they want to be told.
fn civil_step() -> impl Strategy<Value = Step> {
    let refused = |row: &usize| matches!(FRONTEND_ROWS[*row].verdict, Verdict::Refuse(_));
    let rows: Vec<_> = (0..FRONTEND_ROWS.len())
        .filter(|row| !refused(row))
        .collect();
    let backend_rows = 0..BACKEND_ROWS.len();
    prop_oneof![
        6 => Just(Step::AnswerAll),
        3 => proptest::option::weighted(0.2, 0..3u64).prop_map(Step::Answer),
        6 => Just(Step::Connect(true)),
        1 => any::<u8>().prop_map(Step::HangUp),
        8 => (prop::sample::select(rows), right_flags()).prop_map(|(row, flags)| Step::Request(row, flags)),
        4 => (vec((0..8u8, 1..5u8, 0..3u8), 1..4), right_flags()).prop_map(|(r, f)| Step::Table(r, f)),
        4 => (any::<bool>(), 0..8u8, 0..3u8, right_flags())
            .prop_map(|(add, at, file, flags)| Step::Slot(add, at, file, flags)),
        3 => (0..4u8, 0..9u8).prop_map(|(vring, page)| Step::RingAt(vring, page)),
        1 => (backend_rows, Just(9)).prop_map(|(row, flags)| Step::Ask(row, flags)),
        2 => Just(Step::ChannelReply(2, words(&[0]))),
        1 => Just(Step::ChannelHangUp),
        2 => (0..6u16, 0..4u8).prop_map(|(queue, count)| Step::Post(queue & !1, count)),
        3 => prop_oneof![Just(0), 0..4097u16].prop_map(Step::Save),
        4 => Just(Step::Read),
        1 => (0..3u8).prop_map(Step::Truncate),
    ]
}

/// What happens around the device.
fn vmm_step() -> impl Strategy<Value = Step> {
    let kinds = [
        ErrorKind::Other,
        ErrorKind::InvalidInput,
        ErrorKind::ResourceBusy,
        ErrorKind::PermissionDenied,
    ];
    prop_oneof![
        1 => Just(Step::Revoke),
        1 => Just(Step::ResetBus),
        1 => (0..16u16, any::<bool>()).prop_map(|(vector, on)| Step::Vector(vector, on)),
        1 => Just(Step::Snapshot),
        1 => Just(Step::GoBack),
        2 => any::<bool>().prop_map(Step::Late),
        1 => any::<bool>().prop_map(Step::Unmap),
        2 => (0..8u8, prop::sample::select(kinds.to_vec())).prop_map(|(n, k)| Step::Fail(n, k)),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    any::<[bool; 3]>().prop_map(|[migration, translator, limits]| Kind {
        migration,
        translator,
        limits,
    })
}

fn rude_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        10 => guest_step(),
        10 => frontend_step(),
        4 => other_memory_step(),
        4 => state_step(),
        2 => vmm_step(),
        1 => prop::bool::weighted(0.4).prop_map(Step::Pause),
        8 => Just(Step::Run),
    ];
    vec(step, 1..80)
}

fn civil_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        48 => civil_step(),
        12 => other_memory_step(),
        8 => state_step(),
        2 => vmm_step(),
        1 => prop::bool::weighted(0.2).prop_map(Step::Pause),
    ];
    vec(step, 1..120)
}

fn run(kind: Kind, civil: bool, steps: Vec<Step>) {
    let mut world = World::new(kind, civil);
    for step in steps {
        world.step(step);
        world.check();
    }
    world.hang_up();
    let rig = &mut world.rig;
    rig.vmm.clear_failure();
    rig.device.resume();
    rig.run();
    rig.config_write(0x04, &6u16.to_le_bytes());
    rig.write(COMMON + 0x14, &[0]);
    rig.run();
    if rig.vmm.calls().contains(&Call::Dead) {
        // It promises nothing any more but to let go in the end.
        rig.initialise();
        rig.backend_up();
        assert!(rig.device.server().connection.is_none());
    } else {
        assert_eq!(rig.status() & NEEDS_RESET, 0);
        assert_eq!(rig.vmm.mappings(), []);
        assert_eq!(rig.vmm.armed(), []);
        assert_recovers(rig, "any order of anything");
    }
    world.finish();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_brings_it_down(kind in kind(), steps in rude_steps()) {
        run(kind, false, steps);
    }

    #[test]
    fn nothing_that_is_allowed_brings_it_down(kind in kind(), steps in civil_steps()) {
        run(kind, true, steps);
    }
}
