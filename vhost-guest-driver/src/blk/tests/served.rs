// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The disk behind a server, as frontends know it.

use std::time::Duration;

use vhost_guest_msg::{
    Config, DeviceState, Endian, FrontendRequest, OnlyFd, ProtocolFeatures, Transfer,
};

use super::*;
use crate::fake::{Fake, FakeTransport};
use crate::{Device, Server, Turn};

type Request = FrontendRequest<()>;

struct Served {
    fake: Arc<Fake>,
    server: Server<Device<FakeTransport>, Blk>,
    image: File,
    resize: Resize,
}

impl Served {
    /// A disk of 8 MiB with 4 queues, behind a device of `vrings` and with
    /// pieces of state of `piece` bytes, and a frontend that is connected.
    fn new(vrings: u16, piece: Option<u32>) -> Self {
        let image = temporary_file();
        image.set_len(8 << 20).unwrap();
        let blk = Blk::new(image.try_clone().unwrap(), false).unwrap();
        let blk = blk.with_queues(4);
        let resize = blk.resize_handle();
        let fake = match piece {
            Some(piece) => Fake::with_state(vrings, piece),
            None => Fake::new(vrings),
        };
        let device = Device::open(FakeTransport(fake.clone())).unwrap();
        let server = Server::new(device, blk).unwrap();
        fake.connect();
        Self {
            fake,
            server,
            image,
            resize,
        }
    }

    fn run(&mut self) {
        while self.server.run_once(Some(Duration::ZERO)).unwrap() == Turn::Busy {}
    }

    fn send(&mut self, request: &Request) {
        let message = request.to_vec(false, Endian::Little);
        self.fake.give(0, &message);
        self.run();
    }

    /// The payload of the reply.
    fn ask(&mut self, request: &Request) -> Vec<u8> {
        self.send(request);
        self.fake.take(1).expect("no reply")[12..].to_vec()
    }

    fn config(&mut self, offset: u32, len: usize) -> Vec<u8> {
        let config = Config::new(offset, 0, vec![0; len]).unwrap();
        self.ask(&Request::GetConfig(config))
    }

    fn negotiate(&mut self, features: ProtocolFeatures) {
        self.send(&Request::SetFeatures(VirtioFeatures::PROTOCOL_FEATURES));
        self.send(&Request::SetProtocolFeatures(features));
    }
}

#[test]
fn refuses_a_question_for_what_is_no_configuration() {
    let mut served = Served::new(4, None);
    served.negotiate(ProtocolFeatures::CONFIG);
    let capacity = served.config(0, 60)[12..20].to_vec();
    assert_eq!(capacity, (16u64 << 10).to_le_bytes());
    assert_eq!(served.config(0, 256).len(), 12 + 256);
    // As Cloud Hypervisor asked until its version 50: no disk of size 0.
    assert_eq!(served.config(0x100, 60), []);
    assert_eq!(served.config(60, 1), []);
    assert_eq!(served.config(0, 60)[12..20], capacity, "still there");
}

#[test]
fn announces_the_queues_that_there_are() {
    let mut served = Served::new(2, None);
    served.negotiate(ProtocolFeatures::CONFIG | ProtocolFeatures::MQ);
    assert_eq!(served.ask(&Request::GetQueueNum), 2u64.to_le_bytes());
    assert_eq!(served.config(34, 2)[12..], 2u16.to_le_bytes());
}

#[test]
fn tells_the_frontend_of_another_size() {
    let mut served = Served::new(4, None);
    served.negotiate(ProtocolFeatures::CONFIG | ProtocolFeatures::BACKEND_REQ);
    served.send(&Request::SetBackendReqFd(OnlyFd { fd: () }));
    served.config(0, 60);
    served.resize.resize();
    served.run();
    assert_eq!(served.fake.take(3), None, "it has not changed");
    for mebibytes in [32u64, 4] {
        served.image.set_len(mebibytes << 20).unwrap();
        served.resize.resize();
        served.run();
        let message = served.fake.take(3).expect("CONFIG_CHANGE_MSG");
        assert_eq!(message[..4], [2, 0, 0, 0]);
        assert_eq!(served.config(0, 8)[12..], (mebibytes << 11).to_le_bytes());
        served.run();
        assert_eq!(served.fake.take(3), None, "told twice");
    }
}

#[test]
fn is_saved_and_loaded_without_a_state() {
    let mut served = Served::new(4, Some(4096));
    let offered = served.ask(&Request::GetProtocolFeatures);
    let offered = u64::from_le_bytes(offered.try_into().unwrap());
    let state = ProtocolFeatures::DEVICE_STATE;
    assert!(offered & state.bits() != 0);
    served.negotiate(state);
    for direction in [Transfer::Save, Transfer::Load] {
        let begin = Request::SetDeviceStateFd(DeviceState { direction, fd: () });
        // Bit 8: no descriptor. 0: it can be done.
        assert_eq!(served.ask(&begin), 0x100u64.to_le_bytes());
        match direction {
            Transfer::Save => assert_eq!(served.fake.take(4).unwrap(), [], "the end"),
            Transfer::Load => served.fake.give(5, &[]),
        }
        served.run();
        assert_eq!(served.ask(&Request::CheckDeviceState), [0; 8]);
    }
    // What another kind of disk has saved is not for this one.
    let (direction, fd) = (Transfer::Load, ());
    served.ask(&Request::SetDeviceStateFd(DeviceState { direction, fd }));
    served.fake.give(5, &[0]);
    served.fake.give(5, &[]);
    served.run();
    assert_eq!(served.ask(&Request::CheckDeviceState), 1u64.to_le_bytes());
}
