// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A control message to the guest and its reply, through the device, against
//! the same number of thread hops over plain sockets.
//!
//! ```text
//! frontend ─socket─▶ device ─queue, interrupt─▶ guest ─queue, doorbell─▶ device ─socket─▶ frontend
//! frontend ─socket─▶ relay  ─socket───────────▶ echo  ─socket──────────▶ relay  ─socket─▶ frontend
//! ```

use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use criterion::Criterion;
use vhost_guest_driver::emulated::Emulated;
use vhost_guest_driver::{Device, Inbound, Outbound, Transport, Wake};
use vhost_guest_examples::vmm::{Config, Machine};
use vhost_guest_msg::{frontend, Endian, FrontendRequest, Reply, VirtioFeatures};

use crate::ratio::ratio;

const REQUEST: usize = 12;
const REPLY: usize = 20;
const CONFIG: Config = Config {
    queues: 2,
    window_size: 64 << 20,
    device_type: 2,
    irqfd: true,
    ioeventfd: true,
    state_piece: None,
};
const PATIENCE: Duration = Duration::from_secs(10);

fn request() -> Vec<u8> {
    FrontendRequest::<()>::GetFeatures.to_vec(false, Endian::NATIVE)
}

fn reply() -> [u8; REPLY] {
    let mut bytes = [0; REPLY];
    let reply = Reply::Features(VirtioFeatures::VERSION_1);
    let encoded = reply.encode(frontend::GET_FEATURES, false, Endian::NATIVE, &mut bytes);
    assert_eq!(encoded, Ok(REPLY));
    bytes
}

/// The frontend's end of a path.
struct Path {
    stream: UnixStream,
    request: Vec<u8>,
}

impl Path {
    fn new(stream: UnixStream) -> io::Result<Self> {
        // A benchmark that hangs tells nothing.
        stream.set_read_timeout(Some(PATIENCE))?;
        let request = request();
        Ok(Self { stream, request })
    }

    fn round_trip(&mut self) -> [u8; REPLY] {
        let mut bytes = [0; REPLY];
        self.stream.write_all(&self.request).expect("a peer");
        self.stream.read_exact(&mut bytes).expect("a reply");
        bytes
    }
}

/// The device, and a guest that answers in a thread of its own.
struct ThroughDevice {
    path: Path,
    stop: Arc<AtomicBool>,
    waker: Arc<dyn Wake>,
    guest: Option<JoinHandle<()>>,
    _machine: Machine,
}

impl ThroughDevice {
    fn new() -> io::Result<Self> {
        let name = format!("vhost-guest-bench-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name)?;
        let machine = Machine::new(UnixListener::bind_addr(&address)?, &CONFIG)?;
        let transport = Emulated::new(machine.platform()?).map_err(io::Error::other)?;
        let waker = transport.waker();
        let device = Device::open(transport).map_err(io::Error::other)?;
        let stop = Arc::new(AtomicBool::new(false));
        let guest = thread::spawn({
            let stop = Arc::clone(&stop);
            move || answer(device, &stop)
        });
        Ok(Self {
            path: Path::new(UnixStream::connect_addr(&address)?)?,
            stop,
            waker,
            guest: Some(guest),
            _machine: machine,
        })
    }
}

impl Drop for ThroughDevice {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.waker.wake();
        if let Some(guest) = self.guest.take() {
            // It has reported a panic already.
            let _ = guest.join();
        }
    }
}

/// The guest: every request gets the same reply.
fn answer(mut device: Device<Emulated>, stop: &AtomicBool) {
    assert!(device.set_backend_up(true));
    let reply = reply();
    let mut message = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        device.wait(None);
        while device
            .receive(Inbound::Requests, &mut message)
            .expect("a device that works")
        {
            let sent = device.send(Outbound::Replies, &reply);
            assert_eq!(sent, Ok(true));
        }
    }
}

/// Two threads and three sockets; they end when the frontend does.
fn through_sockets() -> io::Result<Path> {
    let (ours, frontend) = UnixStream::pair()?;
    let (backend, echo) = UnixStream::pair()?;
    thread::spawn(move || forward(frontend, backend));
    thread::spawn(move || echo_replies(echo));
    Path::new(ours)
}

fn forward(mut frontend: UnixStream, mut backend: UnixStream) -> io::Result<()> {
    let (mut request, mut reply) = ([0; REQUEST], [0; REPLY]);
    loop {
        frontend.read_exact(&mut request)?;
        backend.write_all(&request)?;
        backend.read_exact(&mut reply)?;
        frontend.write_all(&reply)?;
    }
}

fn echo_replies(mut stream: UnixStream) -> io::Result<()> {
    let (mut request, reply) = ([0; REQUEST], reply());
    loop {
        stream.read_exact(&mut request)?;
        stream.write_all(&reply)?;
    }
}

/// Criterion's figures for both.
pub fn bench(criterion: &mut Criterion) {
    let mut device = ThroughDevice::new().expect("a machine");
    let mut sockets = through_sockets().expect("sockets");
    assert_eq!(device.path.round_trip(), sockets.round_trip());
    let mut group = criterion.benchmark_group("control round trip");
    group.bench_function("device", |bencher| {
        bencher.iter(|| device.path.round_trip());
    });
    group.bench_function("sockets", |bencher| bencher.iter(|| sockets.round_trip()));
    group.finish();
}

/// Prints how they compare.
pub fn compare() {
    let mut device = ThroughDevice::new().expect("a machine");
    let mut sockets = through_sockets().expect("sockets");
    let ratio = ratio(
        || {
            device.path.round_trip();
        },
        || {
            sockets.round_trip();
        },
    );
    println!("    {:<20} {ratio:.2}", "control round trip");
}
