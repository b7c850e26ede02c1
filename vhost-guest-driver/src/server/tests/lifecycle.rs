// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::*;

#[test]
fn serves_the_next_frontend_after_a_loss() {
    let mut setup = Setup::new();
    for round in 1..4 {
        setup.negotiate();
        setup.share_memory();
        let mut ring = setup.start_ring(0);
        ring.add(&[(GPA, 1, 0)]);
        setup.kick(0);
        assert!(ring.used().is_some());
        let dma = setup.fake.state().dma_used;
        setup.fake.disconnect();
        setup.run();
        assert!(setup.disconnected(), "BACKEND_UP is set again");
        assert_eq!(setup.fake.state().status, 0xf);
        assert_eq!(setup.fake.state().dma_used, dma);
        assert_eq!(setup.server.statistics().frontends, round);
        // Nothing of the last frontend's is left.
        ring.add(&[(GPA, 1, 0)]);
        setup.kick(0);
        assert_eq!(ring.used(), None);
        assert!(setup.server.session.memory.regions().is_empty());
        setup.fake.connect();
    }
    assert_eq!(setup.server.backend().resets, 3);
    assert_eq!(setup.server.statistics().faults, 0);
}

#[test]
fn forgets_what_the_last_frontend_negotiated() {
    let mut setup = Setup::negotiated();
    setup.fake.disconnect();
    setup.run();
    setup.fake.connect();
    setup.send_bytes(&Request::SetOwner.to_vec(true, Endian::Little));
    assert_eq!(setup.reply(), None, "REPLY_ACK was the last one's");
}

#[test]
fn survives_a_frontend_that_leaves_without_a_word() {
    let mut setup = Setup::new();
    for _ in 0..50 {
        setup.fake.disconnect();
        setup.run();
        setup.fake.connect();
    }
    assert_eq!(setup.server.statistics().frontends, 0);
    setup.negotiate();
    assert!(setup.acked(&Request::SetOwner));
}

#[test]
fn drops_a_reply_that_the_next_frontend_must_not_see() {
    let mut setup = Setup::negotiated();
    let get = Request::GetFeatures.to_vec(false, Endian::Little);
    for _ in 0..17 {
        setup.send_bytes(&get);
    }
    assert!(setup.server.session.reply().is_some());
    setup.fake.disconnect();
    setup.run();
    setup.fake.connect();
    assert_eq!(setup.reply(), None);
    assert_eq!(setup.server.session.reply(), None);
}

#[test]
fn stops_when_told_to_and_disconnects() {
    let mut setup = Setup::negotiated();
    let stop = setup.server.stop_handle();
    stop.clone().stop();
    setup.server.run().unwrap();
    assert_eq!(setup.fake.state().device[34], 0);
    drop(setup.server);
    assert_eq!(setup.fake.state().status, 0);
}

#[test]
fn another_thread_can_stop_it() {
    let mut setup = Setup::negotiated();
    let stop = setup.server.stop_handle();
    let thread = std::thread::spawn(move || stop.stop());
    setup.server.run().unwrap();
    thread.join().unwrap();
}

#[test]
fn rejects_devices_for_other_backends() {
    let fake = Fake::new(1);
    let device = Device::open(FakeTransport(fake.clone())).unwrap();
    fake.state().device[32] = 1;
    assert_eq!(
        Server::new(device, Echo::default()).err(),
        Some(Error::WrongDeviceType {
            device: 1,
            backend: 2
        })
    );
    let device = Device::open(FakeTransport(fake.clone())).unwrap();
    fake.state().backend_up_sticks = false;
    assert_eq!(
        serve(device, Echo::default()).err(),
        Some(Error::BackendRefused)
    );
}

#[test]
fn ends_with_an_error_when_the_device_lies() {
    let mut setup = Setup::negotiated();
    setup.fake.push(0, 99, 12);
    let result = setup.server.run();
    assert_eq!(result, Err(Error::UsedId { queue: 0, id: 99 }));
    let mut setup = Setup::negotiated();
    setup.fake.state().reset_hangs = true;
    setup.fake.disconnect();
    assert_eq!(setup.server.run(), Err(Error::ResetTimeout));
}

#[test]
fn works_without_interrupts() {
    let fake = Fake::new(4);
    fake.state().refuse_vectors = true;
    let mut setup = Setup::with(fake);
    setup.negotiate();
    setup.share_memory();
    let mut ring = setup.start_ring(0);
    ring.add(&[(GPA, 1, 0)]);
    setup.run();
    assert!(ring.used().is_some());
    setup.fake.disconnect();
    // The status is not looked at in each turn.
    for _ in 0..32 {
        setup.run();
    }
    assert!(setup.disconnected());
}
