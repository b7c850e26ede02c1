// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The life of one frontend: it connects, works, and dies.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use rustix::event::{eventfd, EventfdFlags};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_guest_msg::frontend as code;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::loopback::failure::{Context, Failure};
use crate::loopback::frontend::lane::{Counters, Lane, Next};
use crate::loopback::frontend::memory;
use crate::loopback::frontend::pattern::{Model, Random};
use crate::loopback::frontend::session::Session;
use crate::loopback::frontend::watchdog::Watchdog;
use crate::wire::{message, receive, send, words};

/// Vrings of each frontend.
pub const QUEUES: u16 = 2;
/// Requests on each vring.
const REQUESTS: u64 = 6;
/// Flags of a request that wants no acknowledgement.
const PLAIN: u32 = 1;
/// Flags of one that does.
const NEED_REPLY: u32 = 9;
/// Size of the files for a log and for additional memory.
const FILE: u64 = 1 << 20;
/// Where the frontend says its additional memory is.
const ELSEWHERE: u64 = 1 << 40;

/// How a frontend ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Death {
    /// It stops its rings before it hangs up.
    Polite,
    /// It hangs up.
    HangUp,
    /// In the middle of a header.
    InHeader,
    /// In the middle of a payload, whose descriptor came with its beginning.
    InPayload,
    /// With descriptors in the socket that nobody has received.
    FdsInFlight,
    /// While the guest works on a table of regions.
    TablePending,
    /// While the guest works on a region that is added.
    SlotPending,
    /// With requests in its rings.
    RequestsUnderWay,
    /// It says something that does not exist.
    Malformed,
    /// Another one has given up waiting for its turn.
    Impatient,
}

const DEATHS: [Death; 10] = [
    Death::Polite,
    Death::HangUp,
    Death::InHeader,
    Death::InPayload,
    Death::FdsInFlight,
    Death::TablePending,
    Death::SlotPending,
    Death::RequestsUnderWay,
    Death::Malformed,
    Death::Impatient,
];

/// All frontends, one after the other.
pub struct Frontends<'a> {
    socket: &'a Path,
    watchdog: Watchdog,
    random: Random,
    /// What each vring's part of the disk must hold.
    models: Vec<Model>,
    /// What they have done together.
    pub counters: Counters,
    /// How they died.
    pub deaths: BTreeMap<Death, u64>,
}

/// A frontend's own, beside its session.
struct Belongings<'a> {
    stream: UnixStream,
    lanes: Vec<Lane<'a>>,
    memory: Arc<GuestMemoryMmap>,
    /// Other ends of what it has sent.
    ends: Vec<OwnedFd>,
}

fn event() -> Result<OwnedFd, Failure> {
    let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
    eventfd(0, flags).context("eventfd")
}

fn file() -> Result<OwnedFd, Failure> {
    let fd = memfd_create("cycles", MemfdFlags::CLOEXEC).context("memfd")?;
    ftruncate(&fd, FILE).context("memfd")?;
    Ok(fd)
}

impl<'a> Frontends<'a> {
    /// Frontends of the device behind `socket`, for a disk of `blocks` blocks.
    pub fn new(socket: &'a Path, seed: u64, blocks: u64) -> Self {
        let part = blocks / u64::from(QUEUES);
        let parts = (0..u64::from(QUEUES)).map(|queue| Model::new(queue * part, part));
        Self {
            socket,
            watchdog: Watchdog::start(),
            random: Random::new(seed, 0),
            models: parts.collect(),
            counters: Counters::default(),
            deaths: BTreeMap::new(),
        }
    }

    /// The next one lives and dies.
    pub fn cycle(&mut self) -> Result<(), Failure> {
        // Each kind of death as often as the others, in a random order.
        let death = DEATHS[self.random.below(DEATHS.len() as u64) as usize];
        *self.deaths.entry(death).or_default() += 1;
        let stream = UnixStream::connect(self.socket).context("connect")?;
        let own = stream.try_clone().context("socket")?;
        let optional = VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::LOG_SHMFD
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD
            | VhostUserProtocolFeatures::BACKEND_REQ
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
        let mut session = Session::over(stream, QUEUES, optional, &self.watchdog)?;
        let memory = memory::allocate(QUEUES)?;
        let queues = session.start(&memory)?;
        let models = std::mem::take(&mut self.models).into_iter();
        let lanes = (0..)
            .zip(queues)
            .zip(models)
            .map(|((index, queue), model)| {
                let (memory, seed) = (memory.clone(), self.random.next());
                let counters = &self.counters;
                Lane::new(index, queue, model, session.disk, memory, seed, counters)
            });
        let mut belongings = Belongings {
            stream: own,
            lanes: lanes.collect(),
            memory,
            ends: Vec::new(),
        };
        belongings.borrow_more(self.random.next())?;
        for lane in &mut belongings.lanes {
            let mut left = REQUESTS;
            lane.run(|lane| match left {
                0 => Next::End,
                _ => {
                    left -= 1;
                    lane.random_request()
                }
            })?;
        }
        belongings.die(death, session, self.socket)?;
        let lanes = belongings.lanes.into_iter();
        self.models = lanes.map(|lane| lane.model).collect();
        Ok(())
    }
}

impl Belongings<'_> {
    fn say(&self, code: u32, flags: u32, payload: &[u64], fds: &[OwnedFd]) -> Result<(), Failure> {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let bytes = message(code, flags, &words(payload));
        send(&self.stream, &bytes, &fds).context("sending a message")?;
        Ok(())
    }

    fn hear(&self) -> Result<Vec<OwnedFd>, Failure> {
        let (_, fds) = receive(&self.stream, 4096).context("receiving a reply")?;
        Ok(fds)
    }

    /// Has more of the device than every frontend: any of a dirty log, a
    /// record of requests under way, a backend channel, new eventfds.
    fn borrow_more(&mut self, choice: u64) -> Result<(), Failure> {
        if choice & 1 != 0 {
            self.say(code::SET_LOG_BASE, PLAIN, &[FILE, 0], &[file()?])?;
            self.hear()?;
            self.say(code::SET_LOG_FD, NEED_REPLY, &[], &[event()?])?;
            self.hear()?;
        }
        if choice & 2 != 0 {
            let vrings = u64::from(QUEUES) | 64 << 16;
            self.say(code::GET_INFLIGHT_FD, PLAIN, &[0, 0, vrings], &[])?;
            let (reply, fds) = receive(&self.stream, 4096).context("GET_INFLIGHT_FD")?;
            let record = reply.get(12..).unwrap_or_default();
            let bytes = message(code::SET_INFLIGHT_FD, NEED_REPLY, record);
            let lent: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            send(&self.stream, &bytes, &lent).context("SET_INFLIGHT_FD")?;
            self.hear()?;
            self.ends.extend(fds);
        }
        if choice & 4 != 0 {
            let (ours, theirs) = UnixStream::pair().context("socket pair")?;
            self.say(code::SET_BACKEND_REQ_FD, NEED_REPLY, &[], &[theirs.into()])?;
            self.hear()?;
            self.ends.push(ours.into());
        }
        if choice & 8 != 0 {
            for vring in 0..u64::from(QUEUES) {
                self.say(code::SET_VRING_ERR, NEED_REPLY, &[vring], &[event()?])?;
                self.hear()?;
            }
        }
        Ok(())
    }

    /// The last thing that it does.
    fn die(&mut self, death: Death, session: Session<'_>, socket: &Path) -> Result<(), Failure> {
        match death {
            Death::Polite => return session.close(),
            Death::HangUp => {}
            Death::InHeader => {
                send(&self.stream, &[1; 7], &[]).context("half a header")?;
            }
            Death::InPayload => {
                let whole = message(
                    code::ADD_MEM_REG,
                    PLAIN,
                    &words(&[0, ELSEWHERE, FILE, 0, 0]),
                );
                let part = whole.get(..20).unwrap_or_default();
                send(&self.stream, part, &[file()?.as_fd()]).context("half a message")?;
            }
            Death::FdsInFlight => self.burst()?,
            Death::TablePending => self.replace_table()?,
            Death::SlotPending => {
                let region = [0, ELSEWHERE, FILE, ELSEWHERE, 0];
                self.say(code::ADD_MEM_REG, NEED_REPLY, &region, &[file()?])?;
            }
            Death::RequestsUnderWay => {
                let mut lanes = self.lanes.iter_mut();
                lanes.try_for_each(|lane| lane.leave_under_way(8))?;
            }
            Death::Malformed => self.say(9999, PLAIN, &[1, 2, 3], &[event()?, file()?])?,
            Death::Impatient => {
                let other = UnixStream::connect(socket).context("connect")?;
                let hello = message(code::SET_BACKEND_REQ_FD, PLAIN, &[]);
                send(&other, &hello, &[event()?.as_fd()]).context("sending a message")?;
            }
        }
        Ok(())
    }

    /// More messages with descriptors than the device takes at a time, as far
    /// as the socket does.
    fn burst(&self) -> Result<(), Failure> {
        self.stream.set_nonblocking(true).context("socket")?;
        for round in 0..32 {
            for code in [
                code::SET_VRING_CALL,
                code::SET_VRING_KICK,
                code::SET_VRING_ERR,
            ] {
                let vring = words(&[round % u64::from(QUEUES)]);
                let bytes = message(code, PLAIN, &vring);
                if send(&self.stream, &bytes, &[event()?.as_fd()]).is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The same table with one more region.
    fn replace_table(&self) -> Result<(), Failure> {
        let what = "SET_MEM_TABLE";
        let table = memory::table(&self.memory);
        let table = table.map_err(|source| Failure::Conversation { what, source })?;
        let mut payload = vec![table.len() as u64 + 1];
        for region in &table {
            payload.extend([
                region.guest_phys_addr,
                region.memory_size,
                region.userspace_addr,
                region.mmap_offset,
            ]);
        }
        payload.extend([ELSEWHERE, FILE, ELSEWHERE, 0]);
        let more = file()?;
        let files = self.memory.iter().filter_map(|region| region.file_offset());
        let mut fds: Vec<BorrowedFd<'_>> = files.map(|file| file.file().as_fd()).collect();
        fds.push(more.as_fd());
        debug_assert_eq!(fds.len(), table.len() + 1);
        let bytes = message(code::SET_MEM_TABLE, NEED_REPLY, &words(&payload));
        send(&self.stream, &bytes, &fds).context(what)?;
        Ok(())
    }
}
