// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A device that is unplugged while a frontend reads and writes a disk behind
//! it: nobody dies, and nothing is left. A process of its own, since it counts
//! what this one has.

use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vhost_guest_driver::blk::Blk;
use vhost_guest_driver::emulated::Emulated;
use vhost_guest_driver::{Device, Server, Stop};
use vhost_guest_examples::vmm::{Config, Machine};
use vmm_sys_util::tempdir::TempDir;

/// After this time something hangs.
const PATIENCE: Duration = Duration::from_secs(60);
const DISK: u64 = 8 << 20;
const CONFIG: Config = Config {
    queues: 2,
    window_size: 16 << 30,
    device_type: 2,
    irqfd: true,
    ioeventfd: true,
    state_piece: None,
};

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "hangs: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The loopback example as a frontend; `cargo test` builds it.
struct Frontend {
    child: Child,
    /// It wants to see how often the VMM wakes up, and waits for it to be
    /// idle. This process is not.
    idle: Child,
}

impl Frontend {
    fn start(socket: &Path, disk: &Path, length: &str) -> Self {
        let mut idle = Command::new("cat");
        let idle = idle.stdin(Stdio::piped()).spawn().unwrap();
        let mut program: PathBuf = std::env::current_exe().unwrap();
        program.pop();
        program.pop();
        program.push("examples/loopback");
        let mut command = Command::new(program);
        command.arg("--socket").arg(socket).arg("--disk").arg(disk);
        let arguments = format!("--frontend-of {} {length}", idle.id());
        command.args(arguments.split_whitespace());
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        Self { child, idle }
    }

    /// It is still there, with nobody to serve it.
    fn survives(mut self) {
        assert_eq!(self.child.try_wait().unwrap(), None, "it ended");
    }

    fn succeeds(mut self) {
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Frontend {
    fn drop(&mut self) {
        for child in [&mut self.child, &mut self.idle] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The guest: how to stop it, and how it ended.
fn serve(machine: &Machine, disk: &Path) -> (Stop, JoinHandle<Result<(), String>>) {
    let platform = machine.platform().unwrap();
    let image = File::options().read(true).write(true).open(disk).unwrap();
    let (ready, stop) = channel();
    let run = move || {
        let transport = Emulated::new(platform).unwrap();
        let disk = Blk::new(image, false).unwrap().with_queues(CONFIG.queues);
        let device = Device::open(transport).unwrap();
        let mut server = Server::new(device, disk).unwrap();
        ready.send(server.stop_handle()).unwrap();
        server.run().map_err(|error| error.to_string())
    };
    let guest = thread::spawn(run);
    (stop.recv().unwrap(), guest)
}

/// What this process, and the machine in it, have.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    shared_mappings: usize,
    window: usize,
    ioeventfds: usize,
}

fn held(machine: &Machine) -> Held {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    Held {
        descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
        shared_mappings: maps.lines().filter(|line| line.contains("memfd:")).count(),
        window: machine.slots().attached(),
        ioeventfds: machine.doorbells().registered(),
    }
}

/// Waits until the frontend keeps the guest busy.
fn under_load(machine: &Machine) {
    let (interrupts, doorbells) = (machine.interrupts(), machine.doorbells());
    let (before, rung) = (interrupts.delivered(), doorbells.rung());
    wait_until("load", || {
        interrupts.delivered() > before + 100 && doorbells.rung() > rung + 100
    });
}

#[test]
fn a_device_that_is_unplugged_under_load_leaves_nothing_and_kills_nobody() {
    let dir = TempDir::new().unwrap();
    let (socket, disk) = (dir.as_path().join("s"), dir.as_path().join("d"));
    File::create(&disk).unwrap().set_len(DISK).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let machine = Machine::new(listener, &CONFIG).unwrap();
    let (stop, guest) = serve(&machine, &disk);
    wait_until("the guest", || held(&machine).ioeventfds == 4);
    let before = held(&machine);
    // Everything is taken, and the guest may serve the next one.
    for _ in 0..2 {
        let frontend = Frontend::start(&socket, &disk, "--seconds 60");
        under_load(&machine);
        machine.device().revoke();
        let after = held(&machine);
        assert_eq!(after.window, 0);
        assert_eq!(after.ioeventfds, before.ioeventfds);
        frontend.survives();
        wait_until("descriptors", || held(&machine) == before);
    }
    Frontend::start(&socket, &disk, "--requests 100").succeeds();
    // And for good.
    let frontend = Frontend::start(&socket, &disk, "--seconds 60");
    under_load(&machine);
    machine.unplug();
    let after = held(&machine);
    assert_eq!(after.window, 0);
    frontend.survives();
    wait_until("mappings", || held(&machine).shared_mappings == 0);
    // A guest that finds no device says so and goes on with other things.
    let why = guest.join().expect("the guest died").unwrap_err();
    assert!(!why.is_empty());
    stop.stop();
    drop(machine);
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains("memfd:"), "{maps}");
}
