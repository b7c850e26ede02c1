// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The frontend of the crate `vhost`, which Cloud Hypervisor and others use:
//! all that it can ask for of such a device.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::pipe::{pipe_with, PipeFlags};
use vhost::vhost_user::message::{
    VhostTransferStateDirection as Direction, VhostTransferStatePhase as Phase,
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight,
    VhostUserProtocolFeatures as Protocol,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserDirtyLogRegion, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use crate::lab::{nameless, Lab};
use crate::memory::{Memory, Plan, Region};
use crate::script::virtio;
use crate::still::Still;

const VRINGS: u64 = 2;
const NUM: u16 = 128;
const FEATURES: u64 = virtio::VERSION_1 | virtio::PROTOCOL;
/// After this time something hangs. Nothing is expected to come close.
const PATIENCE_MS: i32 = 120_000;

const MEMORY: Plan = Plan {
    files: &[1 << 20, 0x3b10],
    regions: &[
        Region {
            guest: 0x4000_0000,
            size: 1 << 20,
            user: 0x7f12_3456_7000,
            file: 0,
            offset: 0,
        },
        Region {
            guest: 0x5000_0000,
            size: 0x3b10,
            user: 0x7f12_4456_7000,
            file: 1,
            offset: 0,
        },
    ],
    rings: 0x4000_0000,
    num: NUM,
};

/// A frontend with the memory and the eventfds of its guest.
struct Vmm {
    /// One of its handles; the connection lasts as long as any.
    connection: Option<Frontend>,
    memory: Memory,
    kicks: [EventFd; 2],
    calls: [EventFd; 2],
}

fn lab() -> Lab {
    Lab::start(Still {
        device_type: 2,
        queues: VRINGS as u16,
        ..Still::default()
    })
}

fn connect(lab: &Lab) -> Frontend {
    let mut frontend = Frontend::connect(lab.socket(), VRINGS).unwrap();
    frontend.set_owner().unwrap();
    let offered = frontend.get_features().unwrap();
    assert_eq!(offered & FEATURES, FEATURES);
    frontend.set_features(FEATURES).unwrap();
    let offered = frontend.get_protocol_features().unwrap();
    let wanted = Protocol::MQ
        | Protocol::CONFIG
        | Protocol::REPLY_ACK
        | Protocol::INFLIGHT_SHMFD
        | Protocol::LOG_SHMFD
        | Protocol::CONFIGURE_MEM_SLOTS
        | Protocol::RESET_DEVICE
        | Protocol::BACKEND_REQ
        | Protocol::DEVICE_STATE;
    assert!(offered.contains(wanted), "{offered:?}");
    frontend.set_protocol_features(wanted).unwrap();
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    assert_eq!(frontend.get_queue_num().unwrap(), VRINGS);
    frontend
}

impl Vmm {
    fn new(lab: &Lab) -> Self {
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        Self {
            connection: Some(connect(lab)),
            memory: Memory::new(&MEMORY, VRINGS as usize),
            kicks: [event(), event()],
            calls: [event(), event()],
        }
    }

    fn region(&self, region: usize) -> VhostUserMemoryRegionInfo {
        let described = self.memory.plan().regions[region];
        VhostUserMemoryRegionInfo {
            guest_phys_addr: described.guest,
            memory_size: described.size,
            userspace_addr: described.user,
            mmap_offset: described.offset,
            mmap_handle: self.memory.file(region).as_raw_fd(),
        }
    }

    fn addresses(&self, ring: u32, log: Option<u64>) -> VringConfigData {
        let parts = self.memory.user_parts(ring);
        VringConfigData {
            queue_max_size: NUM,
            queue_size: NUM,
            flags: log.is_some().into(),
            desc_table_addr: parts.descriptors,
            used_ring_addr: parts.used,
            avail_ring_addr: parts.available,
            log_addr: log,
        }
    }

    fn start(&self, ring: u32, base: u16) {
        let (mut frontend, index) = (self.frontend(), ring as usize);
        frontend.set_vring_num(index, NUM).unwrap();
        let addresses = self.addresses(ring, None);
        frontend.set_vring_addr(index, &addresses).unwrap();
        frontend.set_vring_base(index, base).unwrap();
        frontend.set_vring_call(index, &self.calls[index]).unwrap();
        frontend.set_vring_kick(index, &self.kicks[index]).unwrap();
        frontend.set_vring_enable(index, true).unwrap();
    }

    fn frontend(&self) -> Frontend {
        self.connection.clone().unwrap()
    }

    /// Hangs up, and only then connects again.
    fn reconnect(&mut self, lab: &Lab) {
        self.connection = None;
        self.connection = Some(connect(lab));
    }

    fn serve(&mut self, ring: u32, region: Option<usize>) {
        self.memory.request(ring, region);
        self.kicks[ring as usize].write(1).unwrap();
        let (call, wake) = (&self.calls[ring as usize], Epoll::new().unwrap());
        let event = EpollEvent::new(EventSet::IN, 0);
        wake.ctl(ControlOperation::Add, call.as_raw_fd(), event)
            .unwrap();
        while !self.memory.answered(ring) {
            let mut events = [EpollEvent::default()];
            let ready = wake.wait(PATIENCE_MS, &mut events);
            assert_eq!(ready.unwrap(), 1, "no call");
            call.read().unwrap();
        }
        self.memory.check(ring, region);
    }

    fn stop(&self, ring: u32) -> u16 {
        let base = self.frontend().get_vring_base(ring as usize).unwrap();
        base.try_into().unwrap()
    }
}

#[test]
fn the_crate_uses_tables_slots_and_resets() {
    let lab = lab();
    let mut vmm = Vmm::new(&lab);
    let mut frontend = vmm.frontend();
    let config = frontend.get_config(0, 60, VhostUserConfigFlags::WRITABLE, &[0; 60]);
    assert_eq!(config.unwrap().1.len(), 60);
    frontend
        .set_config(32, VhostUserConfigFlags::WRITABLE, &[1])
        .unwrap();
    let (_ours, theirs) = UnixStream::pair().unwrap();
    frontend.set_backend_request_fd(&theirs).unwrap();

    frontend.set_mem_table(&[vmm.region(0)]).unwrap();
    vmm.start(0, 0);
    vmm.start(1, 0);
    vmm.serve(0, None);
    vmm.serve(1, None);
    // Memory comes and goes while vrings run.
    assert!(frontend.get_max_mem_slots().unwrap() > 1);
    for _ in 0..2 {
        frontend.add_mem_region(&vmm.region(1)).unwrap();
        vmm.serve(0, Some(1));
        frontend.remove_mem_region(&vmm.region(1)).unwrap();
        vmm.serve(0, None);
    }
    // And a table in place of the other.
    let both = [vmm.region(0), vmm.region(1)];
    frontend.set_mem_table(&both).unwrap();
    vmm.serve(1, Some(1));

    frontend.set_vring_enable(0, false).unwrap();
    let base = vmm.stop(0);
    assert_eq!(base, 5);
    vmm.serve(1, None);
    vmm.start(0, base);
    vmm.serve(0, None);
    frontend.reset_device().unwrap();
    let bases = [vmm.stop(0), vmm.stop(1)];
    assert_eq!(bases, [6, 3]);
    frontend.set_features(FEATURES).unwrap();
    vmm.start(0, bases[0]);
    vmm.start(1, bases[1]);
    vmm.serve(0, None);
    vmm.serve(1, None);
}

#[test]
fn the_crate_keeps_a_record_over_connections() {
    let lab = lab();
    let mut vmm = Vmm::new(&lab);
    let wanted = VhostUserInflight {
        num_queues: VRINGS as u16,
        queue_size: NUM,
        ..VhostUserInflight::default()
    };
    let (inflight, file) = vmm.frontend().get_inflight_fd(&wanted).unwrap();
    for round in 0..4 {
        let mut frontend = vmm.frontend();
        frontend.set_mem_table(&[vmm.region(0)]).unwrap();
        frontend
            .set_inflight_fd(&inflight, file.as_raw_fd())
            .unwrap();
        vmm.start(0, round);
        vmm.serve(0, None);
        drop(frontend);
        vmm.reconnect(&lab);
    }
}

#[test]
fn the_crate_logs_and_moves_state() {
    let lab = lab();
    let mut vmm = Vmm::new(&lab);
    let frontend = vmm.frontend();
    frontend.set_mem_table(&[vmm.region(0)]).unwrap();
    vmm.start(0, 0);
    vmm.serve(0, None);

    // One bit for each page up to the end of memory.
    let log = nameless();
    let len = 0x4010_0000 / 4096 / 8 + 1;
    log.set_len(len).unwrap();
    let region = VhostUserDirtyLogRegion {
        mmap_size: len,
        mmap_offset: 0,
        mmap_handle: log.as_raw_fd(),
    };
    frontend.set_log_base(0, Some(region)).unwrap();
    frontend.set_features(FEATURES | virtio::LOG_ALL).unwrap();
    let used = vmm.memory.guest_parts(0).used;
    let addresses = vmm.addresses(0, Some(used));
    frontend.set_vring_addr(0, &addresses).unwrap();
    vmm.serve(0, None);
    let mut marked = Vec::new();
    (&log).read_to_end(&mut marked).unwrap();
    assert!(marked.iter().any(|byte| *byte != 0), "nothing is logged");
    let addresses = vmm.addresses(0, None);
    frontend.set_vring_addr(0, &addresses).unwrap();
    frontend.set_features(FEATURES).unwrap();

    assert_eq!(vmm.stop(0), 2);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let from = frontend.set_device_state_fd(Direction::SAVE, Phase::STOPPED, theirs.into());
    assert!(from.unwrap().is_none(), "a descriptor of the backend's");
    let mut state = Vec::new();
    ours.read_to_end(&mut state).unwrap();
    frontend.check_device_state().unwrap();

    drop(frontend);
    vmm.reconnect(&lab);
    let frontend = vmm.frontend();
    let (theirs, ours): (OwnedFd, OwnedFd) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let to = frontend.set_device_state_fd(Direction::LOAD, Phase::STOPPED, theirs);
    assert!(to.unwrap().is_none(), "a descriptor of the backend's");
    std::fs::File::from(ours).write_all(&state).unwrap();
    frontend.check_device_state().unwrap();
    frontend.set_mem_table(&[vmm.region(0)]).unwrap();
    vmm.start(0, 2);
    vmm.serve(0, None);
}
