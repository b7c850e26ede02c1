// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A frontend, the scripted device, and a server between them.

mod budget;
mod frontends;
mod inflight;
mod iotlb;
mod lifecycle;
mod messages;
mod migration;
mod network;
mod resets;
mod rings;
mod state;

use std::sync::Arc;

use vhost_guest_msg::{
    Endian, FrontendRequest, Header, MemTable, ProtocolFeatures, Region, VirtioFeatures, VringBase,
    VringEnable, VringFd, VringNum, VringSelect, HEADER_SIZE,
};

use super::*;
use crate::backend::State;
use crate::device::Device;
use crate::fake::{Fake, FakeTransport};
use crate::fake_ring::{GuestRing, GPA, LEN, USER};
use crate::vring::Ring;

/// Reads requests and answers with as many bytes as there is room for.
#[derive(Default)]
struct Echo {
    config: [u8; 8],
    changed: bool,
    seen: Vec<(u16, Vec<u8>)>,
    features: VirtioFeatures,
    resets: u32,
    /// Added to each byte of the answers.
    salt: u8,
    /// It is behind an IOMMU.
    translated: bool,
    /// It is on a network: what it was told of it.
    network: Option<Vec<Told>>,
    state: Option<state::Notebook>,
    /// More than 64.
    vrings: u16,
}

/// What a device on a network is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Rarp([u8; 6]),
    Mtu(u64),
}

const F_OWN: VirtioFeatures = VirtioFeatures::from_bits_retain(1 << 3);

impl Backend for Echo {
    fn device_type(&self) -> u16 {
        2
    }

    fn features(&self) -> VirtioFeatures {
        let mut features = F_OWN;
        features.set(VirtioFeatures::ACCESS_PLATFORM, self.translated);
        features
    }

    fn set_features(&mut self, features: VirtioFeatures) {
        self.features = features;
    }

    fn queues(&self) -> u16 {
        self.vrings.max(64)
    }

    fn protocol_features(&self) -> ProtocolFeatures {
        match self.network {
            // The last is not a backend's to offer.
            Some(_) => ProtocolFeatures::RARP | ProtocolFeatures::MTU | ProtocolFeatures::PAGEFAULT,
            None => ProtocolFeatures::empty(),
        }
    }

    fn send_rarp(&mut self, mac: [u8; 6]) -> bool {
        let told = self.network.as_mut();
        told.map(|told| told.push(Told::Rarp(mac))).is_some()
    }

    fn set_mtu(&mut self, mtu: u64) -> bool {
        let told = self.network.as_mut().filter(|_| mtu < 9000);
        told.map(|told| told.push(Told::Mtu(mtu))).is_some()
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        self.state.as_mut().map(|state| state as &mut dyn State)
    }

    fn config_read(&mut self, offset: u32, data: &mut [u8]) -> bool {
        let rest = self.config.get(offset as usize..).unwrap_or(&[]);
        for (to, from) in data.iter_mut().zip(rest) {
            *to = *from;
        }
        offset < 8
    }

    fn config_write(&mut self, offset: u32, data: &[u8]) -> bool {
        let start = offset as usize;
        let Some(field) = self.config.get_mut(start..start + data.len()) else {
            return false;
        };
        field.copy_from_slice(data);
        true
    }

    fn take_config_change(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn reset(&mut self) {
        self.resets += 1;
    }

    fn budget(&self) -> u16 {
        4
    }

    fn process(&mut self, queue: u16, ring: &mut Ring<'_>) {
        while let Some(mut chain) = ring.next_chain() {
            let mut data = vec![0; chain.readable_len() as usize];
            chain.read(&mut data);
            self.seen.push((queue, data));
            let answer = vec![self.salt.wrapping_add(0x77); chain.writable_len() as usize];
            let written = chain.write(&answer) as u32;
            ring.complete(chain, written);
        }
    }
}

/// The whole of it: what the tests call is the frontend's doing.
struct Setup {
    fake: Arc<Fake>,
    server: Server<Device<FakeTransport>, Echo>,
}

type Request = FrontendRequest<()>;

impl Setup {
    /// A server with a frontend that has sent nothing yet.
    fn new() -> Self {
        Self::with(Fake::new(4))
    }

    fn with(fake: Arc<Fake>) -> Self {
        Self::with_backend(fake, Echo::default())
    }

    fn with_backend(fake: Arc<Fake>, backend: Echo) -> Self {
        let device = Device::open(FakeTransport(fake.clone())).unwrap();
        let server = Server::new(device, backend).unwrap();
        fake.connect();
        Self { fake, server }
    }

    /// With the features of a usual frontend.
    fn negotiated() -> Self {
        let mut this = Self::new();
        this.negotiate();
        this
    }

    fn negotiate(&mut self) {
        self.negotiate_with(ProtocolFeatures::empty());
    }

    fn negotiate_with(&mut self, more: ProtocolFeatures) {
        self.negotiate_protocol(more);
        let features = VirtioFeatures::VERSION_1 | VirtioFeatures::PROTOCOL_FEATURES | F_OWN;
        self.send(&Request::SetFeatures(features));
    }

    fn negotiate_protocol(&mut self, more: ProtocolFeatures) {
        self.send(&Request::SetProtocolFeatures(
            more | ProtocolFeatures::REPLY_ACK
                | ProtocolFeatures::LOG_SHMFD
                | ProtocolFeatures::INFLIGHT_SHMFD
                | ProtocolFeatures::MQ
                | ProtocolFeatures::CONFIG
                | ProtocolFeatures::BACKEND_REQ
                | ProtocolFeatures::CONFIGURE_MEM_SLOTS
                | ProtocolFeatures::RESET_DEVICE
                | ProtocolFeatures::STATUS,
        ));
    }

    /// Runs the server until it has nothing left to do.
    fn run(&mut self) {
        for _ in 0..1000 {
            if self.server.run_once(Some(Duration::ZERO)).unwrap() == Turn::Idle {
                return;
            }
        }
        panic!("the server never rests");
    }

    fn send_bytes(&mut self, bytes: &[u8]) {
        self.fake.give(0, bytes);
        self.run();
    }

    fn send(&mut self, request: &Request) {
        self.send_bytes(&request.to_vec(false, Endian::Little));
    }

    fn reply(&mut self) -> Option<(Header, Vec<u8>)> {
        let message = self.fake.take(1)?;
        let (header, body) = message.split_first_chunk::<HEADER_SIZE>().unwrap();
        let header = Header::parse(header, Endian::Little).unwrap();
        assert_eq!(header.size as usize, body.len());
        assert_eq!(header.flags, vhost_guest_msg::HeaderFlags::REPLY);
        Some((header, body.to_vec()))
    }

    /// Sends `request` and returns the payload of the reply.
    fn ask(&mut self, request: &Request) -> Vec<u8> {
        self.send(request);
        let (header, body) = self.reply().expect("no reply");
        assert_eq!(header.code, request.code());
        body
    }

    fn ask_u64(&mut self, request: &Request) -> u64 {
        u64::from_le_bytes(self.ask(request).try_into().unwrap())
    }

    /// Sends `request` with NEED_REPLY; whether it was acknowledged.
    fn acked(&mut self, request: &Request) -> bool {
        self.send_bytes(&request.to_vec(true, Endian::Little));
        let (header, body) = self.reply().expect("no acknowledgement");
        assert_eq!(header.code, request.code());
        assert_eq!(self.reply(), None, "two replies");
        body == [0; 8]
    }

    fn share_memory(&mut self) {
        let region = Region::new(GPA, LEN, USER, 0).unwrap();
        let table = MemTable::new(vec![(region, ())]).unwrap();
        assert!(self.acked(&Request::SetMemTable(table)));
    }

    /// Sets vring `index` up and starts it.
    fn start_ring(&mut self, index: u8) -> GuestRing {
        let base = 0x4000 * u64::from(index);
        let ring = GuestRing::new(self.fake.window.clone(), 8, base);
        self.restart_ring(index, &ring, 0);
        ring
    }

    fn restart_ring(&mut self, index: u8, ring: &GuestRing, base: u32) {
        for request in [
            Request::SetVringNum(VringNum::new(index, ring.num).unwrap()),
            Request::SetVringBase(VringBase { index, base }),
            Request::SetVringAddr(ring.address(index)),
            Request::SetVringCall(VringFd {
                index,
                fd: Some(()),
            }),
            Request::SetVringKick(VringFd {
                index,
                fd: Some(()),
            }),
            Request::SetVringEnable(VringEnable {
                index,
                enable: true,
            }),
        ] {
            assert!(self.acked(&request), "{request:?}");
        }
        self.fake.state().doorbells.clear();
    }

    fn stop_ring(&mut self, index: u8) -> u32 {
        let body = self.ask(&Request::GetVringBase(VringSelect { index }));
        u32::from_le_bytes(body[4..].try_into().unwrap())
    }

    fn kick(&mut self, index: u16) {
        self.fake.kick(index);
        self.run();
    }

    fn calls(&self) -> Vec<u16> {
        std::mem::take(&mut self.fake.state().doorbells)
    }

    /// Whether the frontend was disconnected since the last look.
    fn disconnected(&mut self) -> bool {
        let state = self.fake.state();
        state.device[34] == 1
    }
}
