// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The frontend's VM, which goes on while its backend comes and goes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec};
use vhost_guest_msg::{
    Endian, Inflight, Limits, ProtocolFeatures, Reply, ReplyShape, SetInflight, VirtioFeatures,
    VringBase, VringEnable, VringFd, VringNum, VringSelect,
};

use crate::frontend::{Frontend, Request};
use crate::ring::{Ring, NUM};

/// What is tried.
#[derive(Clone, Copy)]
pub struct Plan {
    pub packed: bool,
    pub event_idx: bool,
    pub recorded: bool,
}

/// The VM: its guest's ring, and what its VMM knows.
pub struct Vm {
    pub plan: Plan,
    pub ring: Ring,
    kick: OwnedFd,
    call: OwnedFd,
    record: Option<(Inflight, OwnedFd)>,
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap()
}

impl Vm {
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            ring: Ring::new(plan.packed),
            kick: event(),
            call: event(),
            record: None,
        }
    }

    /// What it negotiates.
    pub fn features(&self) -> VirtioFeatures {
        let mut features = VirtioFeatures::VERSION_1 | VirtioFeatures::PROTOCOL_FEATURES;
        features.set(VirtioFeatures::RING_PACKED, self.plan.packed);
        features.set(VirtioFeatures::RING_EVENT_IDX, self.plan.event_idx);
        features
    }

    /// What a VMM does when its backend is there again.
    pub fn connect(&mut self, socket: &Path) -> io::Result<Frontend> {
        self.connect_with(socket, ProtocolFeatures::INFLIGHT_SHMFD)
    }

    /// The same with other protocol features than usual.
    pub fn connect_with(
        &mut self,
        socket: &Path,
        protocol: ProtocolFeatures,
    ) -> io::Result<Frontend> {
        let frontend = Frontend::connect(socket)?;
        self.negotiate(&frontend, protocol)?;
        if self.plan.recorded {
            self.bring_record(&frontend)?;
        }
        let base = self.ring.known_base();
        self.start_ring(&frontend, base)?;
        Ok(frontend)
    }

    /// Negotiates these protocol features, and shares the memory.
    pub fn negotiate(&self, frontend: &Frontend, protocol: ProtocolFeatures) -> io::Result<()> {
        let offered = frontend.ask_u64(&Request::GetFeatures)?;
        let features = self.features();
        assert_eq!(features.bits() & !offered, 0);
        let offered = frontend.ask_u64(&Request::GetProtocolFeatures)?;
        let protocol = ProtocolFeatures::REPLY_ACK | protocol;
        assert_eq!(protocol.bits() & !offered, 0);
        frontend.tell(&Request::SetProtocolFeatures(protocol))?;
        frontend.order(&Request::SetFeatures(features), &[])?;
        frontend.order(&Request::SetOwner, &[])?;
        frontend.order(&self.ring.table(), &[self.ring.fd()])
    }

    /// The same record in all lives of the backend.
    fn bring_record(&mut self, frontend: &Frontend) -> io::Result<()> {
        if self.record.is_none() {
            let wanted = Inflight::new(0, 0, 1, NUM).unwrap();
            let request = Request::GetInflightFd(wanted);
            let (payload, mut fds) = frontend.ask_for_fds(&request, &[])?;
            let (shape, limits) = (ReplyShape::Inflight, Limits::default());
            let reply = Reply::decode(shape, &payload, Endian::Little, &limits);
            let Ok(Reply::Inflight(inflight)) = reply else {
                panic!("{reply:?}");
            };
            self.record = fds.pop().map(|fd| (inflight, fd));
        }
        let (inflight, fd) = self.record.as_ref().unwrap();
        let set = SetInflight::new(*inflight, ()).unwrap();
        frontend.order(&Request::SetInflightFd(set), &[fd.as_fd()])
    }

    pub fn start_ring(&self, frontend: &Frontend, base: u32) -> io::Result<()> {
        self.prepare_ring(frontend, base)?;
        let (index, enable) = (0, true);
        frontend.order(&Request::SetVringEnable(VringEnable { index, enable }), &[])
    }

    /// All but the end of it.
    pub fn prepare_ring(&self, frontend: &Frontend, base: u32) -> io::Result<()> {
        let index = 0;
        let num = VringNum::new(index, NUM).unwrap();
        frontend.order(&Request::SetVringNum(num), &[])?;
        frontend.order(&Request::SetVringBase(VringBase { index, base }), &[])?;
        frontend.order(&self.ring.address(), &[])?;
        self.send_call(frontend)?;
        self.send_kick(frontend)
    }

    fn send_call(&self, frontend: &Frontend) -> io::Result<()> {
        let (index, fd) = (0, Some(()));
        let call = Request::SetVringCall(VringFd { index, fd });
        frontend.order(&call, &[self.call.as_fd()])
    }

    fn send_kick(&self, frontend: &Frontend) -> io::Result<()> {
        let (index, fd) = (0, Some(()));
        let kick = Request::SetVringKick(VringFd { index, fd });
        frontend.order(&kick, &[self.kick.as_fd()])
    }

    /// Stops the ring; where it goes on.
    pub fn stop_ring(&self, frontend: &Frontend) -> io::Result<u32> {
        let body = frontend.ask(&Request::GetVringBase(VringSelect { index: 0 }))?;
        Ok(u32::from_le_bytes(body[4..].try_into().unwrap()))
    }

    /// Takes another eventfd for calls, and looks at the old one no more.
    pub fn replace_call(&mut self, frontend: &Frontend) -> io::Result<()> {
        self.call = event();
        self.send_call(frontend)
    }

    /// Takes another eventfd for kicks.
    pub fn replace_kick(&mut self, frontend: &Frontend) -> io::Result<()> {
        self.kick = event();
        self.send_kick(frontend)
    }

    /// Waits for a call for as long as anybody could take for it.
    pub fn wait_for_call(&self) {
        let mut fds = [PollFd::new(&self.call, PollFlags::IN)];
        let patience = Timespec {
            tv_sec: 120,
            tv_nsec: 0,
        };
        assert_eq!(poll(&mut fds, Some(&patience)), Ok(1), "no call");
        rustix::io::read(&self.call, &mut [0; 8]).unwrap();
    }

    /// Kicks, and waits a moment for a call; `false` if the backend is gone.
    pub fn kick_and_wait(&self, frontend: &Frontend) -> bool {
        self.kick();
        let events = PollFlags::IN;
        let mut fds = [
            PollFd::new(&self.call, events),
            PollFd::new(frontend, events),
        ];
        // A crash may have taken a call with it: look all the same.
        let soon = Timespec {
            tv_sec: 0,
            tv_nsec: 2_000_000,
        };
        let _ = poll(&mut fds, Some(&soon));
        let _ = rustix::io::read(&self.call, &mut [0; 8]);
        fds[1].revents().is_empty()
    }

    pub fn kick(&self) {
        rustix::io::write(&self.kick, &1u64.to_ne_bytes()).unwrap();
    }

    /// Waits until the backend has nothing left to do. One without a record
    /// may never get there.
    pub fn finish(&mut self, frontend: &Frontend) -> io::Result<()> {
        let rounds = if self.plan.recorded { u32::MAX } else { 100 };
        for _ in 0..rounds {
            self.kick();
            let base = self.stop_ring(frontend)?;
            if self.ring.is_all_taken(base) {
                break;
            }
            self.start_ring(frontend, base)?;
        }
        Ok(())
    }
}
