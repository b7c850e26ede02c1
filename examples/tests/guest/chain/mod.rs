// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Backends that others wrote, unmodified, behind the relay, in a guest on the
//! emulated machine: frontend, device, relay, backend, and back.

mod backends;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vhost_guest_examples::chain::node::Node;
use vhost_guest_examples::vmm::{Config, Machine};
use vhost_guest_msg::{ProtocolFeatures, VringEnable};
use vhost_guest_relay::{Peer, Service};
use vmm_sys_util::tempdir::TempDir;

use crate::frontend::{Frontend, Request};
use crate::vm::{Plan, Vm};
use backends::{Backend, Release, RELEASES};

/// What the backends offer.
const PROTOCOL: ProtocolFeatures =
    ProtocolFeatures::MQ.union(ProtocolFeatures::CONFIGURE_MEM_SLOTS);
/// Vrings of the device.
const QUEUES: u16 = 8;
/// After this time something hangs. Nothing is expected to come close.
const PATIENCE: Duration = Duration::from_secs(120);

/// Lines of the relay's log.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Log {
    /// Waits for a line, and takes it, with all before it.
    fn wait_for(&self, line: &str) {
        let mut lines = self.lines.lock().unwrap();
        loop {
            if let Some(at) = lines.iter().position(|known| known == line) {
                lines.drain(..=at);
                return;
            }
            let (more, timeout) = self.more.wait_timeout(lines, PATIENCE).unwrap();
            lines = more;
            assert!(!timeout.timed_out(), "{line}: {lines:?}");
        }
    }

    fn push(&self, line: &str) {
        self.lines.lock().unwrap().push(line.to_owned());
        self.more.notify_all();
    }
}

/// A machine whose guest runs the relay.
struct Chain {
    directory: TempDir,
    node: Arc<Node>,
    log: Arc<Log>,
    stop: Option<UnixStream>,
    relay: Option<JoinHandle<()>>,
}

impl Chain {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let config = Config {
            queues: QUEUES,
            window_size: 64 << 20,
            device_type: 0,
            irqfd: true,
            ioeventfd: true,
            state_piece: None,
        };
        let listener = UnixListener::bind(directory.as_path().join("frontend.sock")).unwrap();
        let machine = Machine::new(listener, &config).unwrap();
        let node = Arc::new(Node::open(Arc::new(machine)).unwrap());
        let (stop, stopped) = UnixStream::pair().unwrap();
        let log = Arc::new(Log::default());
        let peer = Peer::Connect(directory.as_path().join("backend.sock"));
        let (device, its_log) = (node.clone(), log.clone());
        let relay = thread::spawn(move || {
            let service = Service {
                device: &*device,
                peer: &peer,
                device_type: Some(4),
                allow_direct: false,
                stop: stopped.as_fd(),
                log: &|line| its_log.push(line),
            };
            service.run().unwrap();
        });
        Self {
            directory,
            node,
            log,
            stop: Some(stop),
            relay: Some(relay),
        }
    }

    fn start_backend(&self, release: Release) -> Backend {
        Backend::start(release, &self.directory.as_path().join("backend.sock"))
    }

    fn socket(&self) -> PathBuf {
        self.directory.as_path().join("frontend.sock")
    }

    /// A frontend that has negotiated, and shared its memory. The relay may have come
    /// to a backend that was about to end, so it tries again.
    fn connect(&self, vm: &mut Vm) -> Frontend {
        loop {
            let frontend = Frontend::connect(&self.socket()).unwrap();
            match vm.negotiate(&frontend, PROTOCOL) {
                Ok(()) => return frontend,
                Err(error) => assert!(is_gone(&error), "{error}"),
            }
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    [BrokenPipe, ConnectionReset, UnexpectedEof].contains(&error.kind())
}

impl Drop for Chain {
    fn drop(&mut self) {
        self.stop = None;
        let ended = self.relay.take().map(JoinHandle::join);
        assert!(ended.is_some_and(|ended| ended.is_ok()) || thread::panicking());
    }
}

fn new_vm() -> Vm {
    Vm::new(Plan {
        packed: false,
        event_idx: false,
        recorded: false,
    })
}

/// Makes requests, each of which is kicked once, and waits for their answers.
fn answers(vm: &mut Vm, count: u32) {
    for number in 0..count {
        ask(vm, number);
        vm.kick();
        expect(vm, number);
    }
}

fn ask(vm: &mut Vm, number: u32) {
    vm.ring.write(0, 0, &number.to_le_bytes());
    vm.ring.write(0, 4, &[0; 4]);
    vm.ring.offer(0, &[(0, 4, false), (4, 4, true)]);
}

fn expect(vm: &mut Vm, number: u32) {
    // A call may be one of before, or one too many.
    while vm.ring.used().is_none() {
        vm.wait_for_call();
    }
    let mut answer = [0; 4];
    vm.ring.read(0, 4, &mut answer);
    assert_eq!(u32::from_le_bytes(answer), !number);
}

#[test]
fn requests_are_answered() {
    for release in RELEASES {
        let chain = Chain::new();
        let _backend = chain.start_backend(release);
        let mut vm = new_vm();
        let frontend = chain.connect(&mut vm);
        vm.start_ring(&frontend, 0).unwrap();
        answers(&mut vm, 64);
    }
}

#[test]
fn announces_no_more_than_the_device_has() {
    for release in RELEASES {
        let chain = Chain::new();
        let _backend = chain.start_backend(release);
        let frontend = chain.connect(&mut new_vm());
        let queues = frontend.ask_u64(&Request::GetQueueNum).unwrap();
        assert_eq!(queues, u64::from(QUEUES));
        let slots = frontend.ask_u64(&Request::GetMaxMemSlots).unwrap();
        assert!((1..=509).contains(&slots), "{slots}");
    }
}

#[test]
fn a_kick_that_comes_before_its_vring_is_enabled_is_not_lost() {
    for (release, acknowledged) in RELEASES.into_iter().flat_map(|r| [(r, true), (r, false)]) {
        let chain = Chain::new();
        let _backend = chain.start_backend(release);
        let mut vm = new_vm();
        let frontend = chain.connect(&mut vm);
        vm.prepare_ring(&frontend, 0).unwrap();
        ask(&mut vm, 7);
        vm.kick();
        // The old one looks at it, and drops it; the current one waits.
        while release == Release::Old && !chain.node.has_been_kicked(0) {
            thread::yield_now();
        }
        let (index, enable) = (0, true);
        let enable = Request::SetVringEnable(VringEnable { index, enable });
        match acknowledged {
            true => frontend.order(&enable, &[]).unwrap(),
            false => frontend.tell(&enable).unwrap(),
        }
        expect(&mut vm, 7);
        answers(&mut vm, 8);
    }
}

#[test]
fn eventfds_can_be_replaced_while_requests_run() {
    for release in RELEASES {
        let chain = Chain::new();
        let _backend = chain.start_backend(release);
        let mut vm = new_vm();
        let frontend = chain.connect(&mut vm);
        vm.start_ring(&frontend, 0).unwrap();
        for number in 0..64 {
            ask(&mut vm, number);
            vm.kick();
            match number % 2 {
                0 => vm.replace_call(&frontend).unwrap(),
                _ => vm.replace_kick(&frontend).unwrap(),
            }
            expect(&mut vm, number);
            answers(&mut vm, 1);
        }
    }
}

#[test]
fn a_backend_that_is_killed_can_be_replaced() {
    for release in RELEASES {
        let chain = Chain::new();
        let mut vm = new_vm();
        for _ in 0..3 {
            let backend = chain.start_backend(release);
            let frontend = chain.connect(&mut vm);
            let base = vm.ring.known_base();
            vm.start_ring(&frontend, base).unwrap();
            answers(&mut vm, 8);
            backend.kill();
            let expected = "the backend is gone; SET_VRING_ENABLE was the last message passed \
                            on, no reply is owed";
            chain.log.wait_for(expected);
            assert!(frontend.has_been_left());
        }
    }
}

#[test]
fn a_frontend_that_leaves_can_come_back() {
    for release in RELEASES {
        let chain = Chain::new();
        let _backend = chain.start_backend(release);
        let mut vm = new_vm();
        for _ in 0..3 {
            let frontend = chain.connect(&mut vm);
            let base = vm.ring.known_base();
            vm.start_ring(&frontend, base).unwrap();
            answers(&mut vm, 8);
            drop(frontend);
            let expected = "the frontend is gone; SET_VRING_ENABLE was the last message passed \
                            on, no reply is owed";
            chain.log.wait_for(expected);
        }
    }
}

#[test]
fn a_vring_can_be_stopped_and_started_again() {
    for release in RELEASES {
        let chain = Chain::new();
        let _backend = chain.start_backend(release);
        let mut vm = new_vm();
        let frontend = chain.connect(&mut vm);
        let mut base = 0;
        for round in 1..=8 {
            vm.start_ring(&frontend, base).unwrap();
            answers(&mut vm, 3);
            base = vm.stop_ring(&frontend).unwrap();
            assert_eq!(base, 3 * round);
        }
    }
}
