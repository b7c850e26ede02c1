// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The VMM gives the device another map of the guest's memory.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use vhost_guest_vmm_traits::test_utils::TestVmm;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryMmap};

use super::rig::message;
use crate::function::Builder;
use crate::function::VhostGuest;
use crate::guest::pci::bars::{COMMON, DEVICE};
use crate::vmm::services::Services;

type Map = Arc<GuestMemoryMmap>;

const STATUS: u64 = COMMON + 0x14;
/// Parts of queue 0, and its only buffer.
const DESCRIPTORS: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
const BUFFER: u64 = 0x4000;

/// The guest's memory as the VMM has it now.
#[derive(Clone)]
struct Space {
    map: Arc<Mutex<Map>>,
    /// Tells that the device has a map, and keeps it in the middle of its turn.
    stop: Arc<Mutex<Option<Stop>>>,
}

/// Says that somebody has come here, and waits until he may go on.
struct Stop(Sender<()>, Receiver<()>);

impl GuestAddressSpace for Space {
    type M = GuestMemoryMmap;
    type T = Map;

    fn memory(&self) -> Map {
        let map = Arc::clone(&self.map.lock().unwrap());
        if let Some(Stop(arrived, go_on)) = self.stop.lock().unwrap().take() {
            arrived.send(()).unwrap();
            go_on.recv().unwrap();
        }
        map
    }
}

/// Memory with queue 0 in it, which has one buffer.
fn map() -> Map {
    let map = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 16)]).unwrap();
    let descriptor = u128::from(BUFFER) | 4096 << 64 | 2 << 96;
    map.write_obj(descriptor.to_le(), GuestAddress(DESCRIPTORS))
        .unwrap();
    map.write_obj(1_u16, GuestAddress(AVAIL + 2)).unwrap();
    Arc::new(map)
}

fn used_idx(map: &Map) -> u16 {
    map.read_obj(GuestAddress(USED + 2)).unwrap()
}

/// A device whose driver has one queue, and a frontend that is connected to it.
fn connected(name: &str) -> (VhostGuest<Space>, Space, UnixStream) {
    let name = format!("vhost-guest-{}-{name}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let vmm = Arc::new(TestVmm::new());
    let space = Space {
        map: Arc::new(Mutex::new(map())),
        stop: Arc::default(),
    };
    let services = Services {
        interrupts: vmm.clone(),
        doorbells: None,
        window: vmm,
        memory: space.clone(),
        translator: None,
        notifier: None,
        thread_hook: None,
    };
    let builder = Builder::new(listener).queues(1).device_type(2);
    let function = builder.build_without_thread(services).unwrap();
    let _ = function.config_write(0x04, &[6, 0]);
    for status in [0, 1, 3] {
        function.bar_write(0, STATUS, &[status]);
    }
    function.bar_write(0, COMMON + 8, &[1, 0, 0, 0]);
    function.bar_write(0, COMMON + 12, &[1, 0, 0, 0]);
    function.bar_write(0, STATUS, &[11]);
    function.bar_write(0, COMMON + 0x16, &[0, 0]);
    function.bar_write(0, COMMON + 0x18, &[1, 0]);
    for (register, address) in [(0x20, DESCRIPTORS), (0x28, AVAIL), (0x30, USED)] {
        let address = (address as u32).to_le_bytes();
        function.bar_write(0, COMMON + register, &address);
    }
    function.bar_write(0, COMMON + 0x1C, &[1, 0]);
    function.bar_write(0, STATUS, &[15]);
    function.bar_write(0, DEVICE + 34, &[1]);
    let frontend = UnixStream::connect_addr(&address).unwrap();
    run(&function);
    let mut up = [0];
    function.bar_read(0, DEVICE + 34, &mut up);
    assert_eq!(up, [3]);
    (function, space, frontend)
}

fn run(function: &VhostGuest<Space>) {
    for _ in 0..10 {
        function.process_events();
    }
}

#[test]
fn uses_the_new_map_and_lets_go_of_the_one_before() {
    let (function, space, mut frontend) = connected("new-map");
    let new = map();
    let before = std::mem::replace(&mut *space.map.lock().unwrap(), Arc::clone(&new));
    function.memory_changed();
    assert_eq!(Arc::strong_count(&before), 1);
    frontend.write_all(&message(1, 1, &[])).unwrap();
    run(&function);
    assert_eq!((used_idx(&before), used_idx(&new)), (0, 1));
    assert_eq!(Arc::strong_count(&before), 1);
}

#[test]
fn waits_for_the_turn_that_uses_the_map_before() {
    let (function, space, mut frontend) = connected("turn");
    let (arrived, arrival) = channel();
    let (go_on, gone_on) = channel();
    frontend.write_all(&message(1, 1, &[])).unwrap();
    *space.stop.lock().unwrap() = Some(Stop(arrived, gone_on));
    let function = &function;
    thread::scope(|threads| {
        threads.spawn(|| run(function));
        arrival.recv().unwrap();
        let before = std::mem::replace(&mut *space.map.lock().unwrap(), map());
        assert_eq!(Arc::strong_count(&before), 2);
        let barrier = threads.spawn(move || {
            function.memory_changed();
            Arc::strong_count(&before)
        });
        // It has its chance to return too early.
        for _ in 0..100 {
            thread::yield_now();
        }
        go_on.send(()).unwrap();
        assert_eq!(barrier.join().unwrap(), 1);
    });
}

#[test]
fn a_queue_that_is_not_in_the_new_map_is_the_guests_fault() {
    let (function, space, mut frontend) = connected("no-queue");
    let far = GuestMemoryMmap::from_ranges(&[(GuestAddress(1 << 32), 1 << 16)]).unwrap();
    *space.map.lock().unwrap() = Arc::new(far);
    function.memory_changed();
    frontend.write_all(&message(1, 1, &[])).unwrap();
    run(&function);
    let mut status = [0];
    function.bar_read(0, STATUS, &mut status);
    assert_eq!(status, [15 | 0x40]);
    assert_eq!(frontend.read(&mut [0]).unwrap_or(0), 0);
}
