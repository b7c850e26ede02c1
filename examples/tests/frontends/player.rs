// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Plays a script on a device with the driver and a backend, and checks what
//! comes back.

mod replies;
mod requests;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec};
use vhost_guest_examples::wire;
use vhost_guest_msg::FRONTEND_ROWS;

use crate::lab::{nameless, Lab};
use crate::memory::Memory;
use crate::script::{Device, Reply, Script, Step};
use crate::still::{Still, Told, PATTERN};

/// More rings than any script has.
const RINGS: usize = 8;
/// A request of the backend's that it misses a translation.
const IOTLB_MISS: u32 = 1;
/// After this time something hangs. Nothing is expected to come close.
const PATIENCE: Duration = Duration::from_secs(120);

/// The eventfds of a ring.
struct Events {
    kick: OwnedFd,
    call: OwnedFd,
    error: OwnedFd,
    /// The backend has been given `call`.
    callable: bool,
}

impl Events {
    fn new() -> Self {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        Self {
            kick: event(),
            call: event(),
            error: event(),
            callable: false,
        }
    }
}

/// A frontend that follows a script.
struct Player {
    lab: Lab,
    /// The host that the frontend's guest may be migrated to.
    other: Option<Lab>,
    told: Arc<Mutex<Vec<Told>>>,
    socket: UnixStream,
    memory: Memory,
    events: Vec<Events>,
    offered: u64,
    offered_protocol: u64,
    /// Where rings stopped.
    bases: [Option<u32>; RINGS],
    record: Option<(Vec<u8>, OwnedFd)>,
    log: Option<File>,
    channel: Option<UnixStream>,
    /// Our end of what the device's state goes through, and the state.
    pipe: Option<File>,
    state: Vec<u8>,
    /// Which step this is about.
    place: String,
}

/// Plays `script` from its beginning to its end.
pub fn play(script: &Script<'_>) {
    let steps = script.parts.iter().flat_map(|part| part.iter());
    let steps: Vec<_> = steps.collect();
    let migrates = |step: &&Step| matches!(step, Step::Migrate);
    let mut player = Player::new(script, steps.iter().copied().any(|step| migrates(&step)));
    for (number, step) in steps.iter().enumerate() {
        player.place = format!("step {number}, {}", name(step));
        player.step(step);
    }
    assert!(player.is_connected(), "disconnected behind the last step");
}

fn name(step: &Step) -> String {
    let Step::Message { code, .. } = step else {
        return format!("{step:?}");
    };
    let name = FRONTEND_ROWS[*code as usize - 1].name;
    format!("{name}, {step:?}")
}

fn lab(device: &Device, told: &Arc<Mutex<Vec<Told>>>) -> Lab {
    match *device {
        Device::Disk { queues } => {
            let mut image = nameless();
            image.write_all(&[PATTERN; 1 << 20]).unwrap();
            Lab::with_disk(&image, queues)
        }
        Device::Still {
            device_type,
            features,
            queues,
        } => Lab::start(Still {
            device_type,
            features,
            queues,
            told: told.clone(),
            ..Still::default()
        }),
    }
}

fn connect(lab: &Lab) -> UnixStream {
    let socket = UnixStream::connect(lab.socket()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

impl Player {
    fn new(script: &Script<'_>, migrates: bool) -> Self {
        let told = Arc::default();
        let first = lab(&script.device, &told);
        Self {
            socket: connect(&first),
            other: migrates.then(|| lab(&script.device, &told)),
            lab: first,
            told,
            memory: Memory::new(script.memory, RINGS),
            events: std::iter::repeat_with(Events::new).take(RINGS).collect(),
            offered: 0,
            offered_protocol: 0,
            bases: [None; RINGS],
            record: None,
            log: None,
            channel: None,
            pipe: None,
            state: Vec::new(),
            place: String::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Message {
                code,
                need_reply,
                body,
                reply,
            } => {
                self.say(code, need_reply, &body);
                if !matches!(reply, Reply::Nothing) {
                    self.hear(code, &body, reply);
                }
            }
            Step::Serve(ring) => self.serve(ring, None),
            Step::ServeIn(ring, region) => self.serve(ring, Some(region)),
            Step::Request(ring) => self.request(ring, None),
            Step::Answered(ring) => self.wait_for_answers(ring),
            Step::Logged => self.check_log(),
            Step::Save => {
                self.state.clear();
                let pipe = self.pipe.take();
                pipe.unwrap().read_to_end(&mut self.state).unwrap();
            }
            Step::Load => {
                let pipe = self.pipe.take();
                pipe.unwrap().write_all(&self.state).unwrap();
            }
            Step::Told(what) => assert_eq!(*self.told.lock().unwrap(), what),
            Step::Reconnect => self.reconnect(),
            Step::Migrate => {
                let there = self.other.take().expect("one more host");
                self.lab = there;
                self.reconnect();
            }
        }
    }

    fn reconnect(&mut self) {
        self.socket = connect(&self.lab);
        self.channel = None;
        for events in &mut self.events {
            events.callable = false;
        }
    }

    /// A request that is answered.
    fn serve(&mut self, ring: u32, region: Option<usize>) {
        self.request(ring, region);
        self.wait_for_answers(ring);
        self.memory.check(ring, region);
    }

    fn request(&mut self, ring: u32, region: Option<usize>) {
        self.memory.request(ring, region);
        let kick = &self.events[ring as usize].kick;
        rustix::io::write(kick, &1u64.to_ne_bytes()).unwrap();
    }

    /// Waits until all requests of a ring are answered. A ring with an eventfd
    /// for calls has to call.
    fn wait_for_answers(&mut self, ring: u32) {
        while !self.memory.answered(ring) {
            let events = &self.events[ring as usize];
            let mut fds = vec![PollFd::new(&self.socket, PollFlags::RDHUP)];
            if events.callable {
                fds.push(PollFd::new(&events.call, PollFlags::IN));
            }
            if let Some(channel) = &self.channel {
                fds.push(PollFd::new(channel, PollFlags::IN));
            }
            // A ring that does not call is looked at again and again.
            let limit = match events.callable {
                true => PATIENCE,
                false => Duration::from_millis(1),
            };
            let limit = Timespec::try_from(limit).unwrap();
            let ready = poll(&mut fds, Some(&limit)).unwrap();
            assert!(ready > 0 || !events.callable, "{}: no call", self.place);
            assert!(fds[0].revents().is_empty(), "{}: disconnected", self.place);
            let _ = rustix::io::read(&events.call, &mut [0; 8]);
            self.answer_the_backend();
        }
    }

    /// Translates what the backend misses, as an IOMMU that maps all memory.
    fn answer_the_backend(&mut self) {
        let Some(channel) = &self.channel else {
            return;
        };
        channel.set_nonblocking(true).unwrap();
        let header = wire::receive(channel, 12);
        channel.set_nonblocking(false).unwrap();
        let Ok((header, _)) = header else {
            return;
        };
        assert_eq!(header.len(), 12, "{}: half a header", self.place);
        let code = u32::from_ne_bytes(header[..4].try_into().unwrap());
        let size = u32::from_ne_bytes(header[8..].try_into().unwrap());
        let payload = exactly(channel, size as usize).unwrap().0;
        if code == IOTLB_MISS {
            let iova = u64::from_ne_bytes(payload[..8].try_into().unwrap());
            self.translate(iova);
        }
    }

    fn check_log(&mut self) {
        let log = self.log.as_mut().expect("a log");
        let mut bytes = Vec::new();
        let mut log = log.try_clone().unwrap();
        io::Seek::rewind(&mut log).unwrap();
        log.read_to_end(&mut bytes).unwrap();
        assert!(bytes.iter().any(|byte| *byte != 0), "nothing is logged");
    }

    /// The connection is there, as far as one side can say without a message.
    fn is_connected(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        let now = Timespec::default();
        poll(&mut fds, Some(&now)).unwrap() == 0
    }
}

/// Reads exactly so many bytes; the descriptors that came with them.
fn exactly(socket: impl AsFd, size: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut bytes, mut fds) = (Vec::new(), Vec::new());
    while bytes.len() < size {
        let (part, more) = wire::receive(socket.as_fd(), size - bytes.len())?;
        if part.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend(part);
        fds.extend(more);
    }
    Ok((bytes, fds))
}
