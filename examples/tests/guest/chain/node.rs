// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the kernel driver does for the relay, in user space: a device on an
//! emulated bus, and files that a program can wait for.
//!
//! One thread drives the device, as its driver; another one wakes it when there
//! is something for it in a file.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{eventfd, EventfdFlags, PollFlags};
use rustix::io::Errno;
use rustix::net::{socketpair, AddressFamily, SocketFlags, SocketType};
use vhost_guest_driver::emulated::Emulated;
use vhost_guest_driver::module::Notification;
use vhost_guest_driver::{Device, Inbound, Outbound, Status, Wake};
use vhost_guest_examples::vmm::Machine;
use vhost_guest_msg::Limits;

/// What the thread that drives the device is told to do.
type Command = Box<dyn FnOnce(&mut Driver) + Send>;

/// The device's file, as the relay knows it.
pub struct Node {
    machine: Arc<Machine>,
    messages: OwnedFd,
    requests: OwnedFd,
    news: OwnedFd,
    max_queues: u16,
    commands: Mutex<Option<Sender<Command>>>,
    waker: Arc<dyn Wake>,
    wires: Arc<Wires>,
    threads: Vec<JoinHandle<()>>,
}

/// Eventfds that are connected with the device.
struct Wires {
    connected: Mutex<HashMap<Notification, OwnedFd>>,
    /// Kicks that nobody was there for.
    missed: Mutex<BTreeSet<u16>>,
    /// Vrings that have been kicked.
    kicked: Mutex<BTreeSet<u16>>,
    /// What wakes the driver.
    files: OwnedFd,
    ended: AtomicBool,
}

/// One kind of messages in both directions: a queue for each, and a socket whose
/// other end the relay has.
struct Lane {
    socket: OwnedFd,
    inbound: Inbound,
    outbound: Outbound,
    /// What there is no room for.
    held: [Option<Vec<u8>>; 2],
}

/// The thread that drives the device.
struct Driver {
    device: Device<Emulated>,
    lanes: [Lane; 2],
    news: OwnedFd,
    wires: Arc<Wires>,
}

fn signal(fd: &OwnedFd) {
    rustix::io::write(fd, &1_u64.to_ne_bytes()).unwrap();
}

fn datagrams() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap()
}

fn drain(socket: &OwnedFd) {
    while rustix::io::read(socket, &mut [0; 8]).is_ok() {}
}

impl Wires {
    fn new() -> Self {
        Self {
            connected: Mutex::default(),
            missed: Mutex::default(),
            kicked: Mutex::default(),
            files: epoll::create(CreateFlags::CLOEXEC).unwrap(),
            ended: AtomicBool::new(false),
        }
    }

    fn watch(&self, fd: &OwnedFd) {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        epoll::add(&self.files, fd, EventData::new_u64(0), flags).unwrap();
    }

    fn connect(&self, what: Notification, fd: Option<OwnedFd>) {
        let mut connected = self.connected.lock().unwrap();
        if let Some(old) = connected.remove(&what) {
            let _ = epoll::delete(&self.files, &old);
        }
        let Some(fd) = fd else {
            return;
        };
        match what {
            Notification::Kick(vring) if self.missed.lock().unwrap().remove(&vring) => signal(&fd),
            Notification::Kick(_) => {}
            _ => self.watch(&fd),
        }
        connected.insert(what, fd);
    }

    fn kick(&self, vring: u16) {
        match self
            .connected
            .lock()
            .unwrap()
            .get(&Notification::Kick(vring))
        {
            Some(fd) => {
                signal(fd);
                self.kicked.lock().unwrap().insert(vring);
            }
            None => drop(self.missed.lock().unwrap().insert(vring)),
        }
    }

    /// Rings the doorbells of what was signalled.
    fn ring(&self, device: &Device<Emulated>) {
        for (what, fd) in &*self.connected.lock().unwrap() {
            if matches!(what, Notification::Kick(_)) {
                continue;
            }
            if rustix::io::read(fd, &mut [0; 8]).is_ok() {
                match *what {
                    Notification::Call(vring) => device.call(vring),
                    Notification::Err(vring) => device.signal_error(vring),
                    _ => device.signal_log(),
                }
            }
        }
    }

    fn disconnect_all(&self) {
        for (_, fd) in self.connected.lock().unwrap().drain() {
            let _ = epoll::delete(&self.files, &fd);
        }
        self.missed.lock().unwrap().clear();
    }

    /// Wakes the driver when there is something for it.
    fn run(&self, waker: &dyn Wake) {
        while !self.ended.load(Ordering::SeqCst) {
            let mut events = Vec::<epoll::Event>::with_capacity(8);
            let buffer = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.files, buffer, None) {
                Ok(_) | Err(Errno::INTR) => waker.wake(),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Lane {
    /// Moves what can be moved.
    fn step(&mut self, device: &mut Device<Emulated>) {
        let [to_relay, to_device] = &mut self.held;
        loop {
            if to_relay.is_none() {
                let mut message = Vec::new();
                if !device.receive(self.inbound, &mut message).unwrap() {
                    break;
                }
                *to_relay = Some(message);
            }
            let Some(message) = &to_relay else { break };
            match rustix::io::write(&self.socket, message) {
                Ok(_) => *to_relay = None,
                Err(error) => {
                    assert_eq!(error, Errno::AGAIN);
                    break;
                }
            }
        }
        loop {
            if to_device.is_none() {
                let mut message = vec![0; Limits::default().max_message_size];
                let Ok(length) = rustix::io::read(&self.socket, &mut message) else {
                    return;
                };
                message.truncate(length);
                *to_device = Some(message);
            }
            let Some(message) = &to_device else { return };
            if !device.send(self.outbound, message).unwrap() {
                return;
            }
            *to_device = None;
        }
    }
}

impl Driver {
    fn run(&mut self, commands: &Receiver<Command>) {
        loop {
            let events = self.device.wait(None);
            loop {
                match commands.try_recv() {
                    Ok(command) => command(self),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            if events.config {
                signal(&self.news);
            }
            for vring in 0..self.device.max_queues() {
                if self.device.kicked(&events, vring) {
                    self.wires.kick(vring);
                }
            }
            self.wires.ring(&self.device);
            for lane in &mut self.lanes {
                lane.step(&mut self.device);
            }
        }
    }

    fn reset(&mut self) {
        self.wires.disconnect_all();
        self.device.reset().unwrap();
        for lane in &mut self.lanes {
            lane.held = [None, None];
            drain(&lane.socket);
        }
    }
}

impl Node {
    /// The device of `machine`.
    pub fn open(machine: Arc<Machine>) -> Self {
        machine.slots().keep_files();
        let transport = Emulated::new(machine.platform().unwrap()).unwrap();
        let device = Device::open(transport).unwrap();
        let (messages, its_messages) = datagrams();
        let (requests, its_requests) = datagrams();
        let news = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let wires = Arc::new(Wires::new());
        let lane = |socket, inbound, outbound| {
            wires.watch(&socket);
            let held = [None, None];
            Lane {
                socket,
                inbound,
                outbound,
                held,
            }
        };
        let lanes = [
            lane(its_messages, Inbound::Requests, Outbound::Replies),
            lane(its_requests, Inbound::Replies, Outbound::Requests),
        ];
        let waker = {
            use vhost_guest_driver::Transport;
            device.transport().waker()
        };
        let max_queues = device.max_queues();
        let (commands, received) = channel();
        let mut driver = Driver {
            device,
            lanes,
            news: news.try_clone().unwrap(),
            wires: wires.clone(),
        };
        let (watching, its_waker) = (wires.clone(), waker.clone());
        let threads = vec![
            thread::spawn(move || driver.run(&received)),
            thread::spawn(move || watching.run(&*its_waker)),
        ];
        Self {
            machine,
            messages,
            requests,
            news,
            max_queues,
            commands: Mutex::new(Some(commands)),
            waker,
            wires,
            threads,
        }
    }

    /// Has the driver do something.
    fn ask<T: Send + 'static>(&self, what: impl FnOnce(&mut Driver) -> T + Send + 'static) -> T {
        let (done, outcome) = channel();
        let command: Command = Box::new(move |driver| done.send(what(driver)).unwrap());
        let commands = self.commands.lock().unwrap();
        commands.as_ref().unwrap().send(command).unwrap();
        self.waker.wake();
        outcome.recv().expect("the driver has ended")
    }

    /// Whether a vring was kicked, and the backend has looked at that.
    pub fn has_been_kicked(&self, vring: u16) -> bool {
        let kicked = self.wires.kicked.lock().unwrap().contains(&vring);
        kicked && self.kicks_left(vring) == 0
    }

    fn kicks_left(&self, vring: u16) -> u64 {
        let connected = self.wires.connected.lock().unwrap();
        let fd = &connected[&Notification::Kick(vring)];
        let path = format!("/proc/self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(fd));
        let information = std::fs::read_to_string(path).unwrap();
        let mut lines = information.lines();
        let count = lines.find_map(|line| line.strip_prefix("eventfd-count:"));
        u64::from_str_radix(count.unwrap().trim(), 16).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        *self.commands.lock().unwrap() = None;
        self.waker.wake();
        self.wires.ended.store(true, Ordering::SeqCst);
        let end = eventfd(1, EventfdFlags::CLOEXEC).unwrap();
        self.wires.watch(&end);
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok() || thread::panicking());
        }
    }
}

impl vhost_guest_relay::Device for Node {
    fn messages(&self) -> BorrowedFd<'_> {
        self.messages.as_fd()
    }

    fn news(&self) -> (BorrowedFd<'_>, PollFlags) {
        (self.news.as_fd(), PollFlags::IN)
    }

    fn read(&self, message: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.messages, message)?)
    }

    fn write(&self, message: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.messages, message)?)
    }

    fn status(&self) -> io::Result<Status> {
        drain(&self.news);
        Ok(self.ask(|driver| driver.device.status()))
    }

    fn reset(&self) -> io::Result<()> {
        self.ask(Driver::reset);
        for fd in [&self.messages, &self.requests, &self.news] {
            drain(fd);
        }
        Ok(())
    }

    fn set_device_type(&self, device_type: u16) -> io::Result<()> {
        self.ask(move |driver| driver.device.set_device_type(device_type))
            .map_err(io::Error::other)
    }

    fn set_backend_up(&self, up: bool) -> io::Result<()> {
        match self.ask(move |driver| driver.device.set_backend_up(up)) {
            true => Ok(()),
            false => Err(Errno::IO.into()),
        }
    }

    fn connect(&self, what: Notification, eventfd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let eventfd = eventfd.map(|fd| fd.try_clone_to_owned()).transpose()?;
        self.wires.connect(what, eventfd);
        Ok(())
    }

    fn open_region(&self, offset: u64, size: u64) -> io::Result<OwnedFd> {
        self.machine.slots().file(offset, size)
    }

    fn open_backend(&self) -> io::Result<File> {
        Ok(self.requests.try_clone()?.into())
    }

    fn open_state(&self) -> io::Result<Option<File>> {
        Ok(None)
    }

    fn max_queues(&self) -> u16 {
        self.max_queues
    }

    fn max_message_size(&self) -> usize {
        Limits::default().max_message_size
    }

    fn state_piece(&self) -> usize {
        0
    }

    fn device_type(&self) -> u16 {
        0
    }
}
