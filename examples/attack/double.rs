// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A device as one would write it first: one lock, and everything is done
//! under it. It shows what each attack does to such a one, and that the
//! measurements see it.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{fcntl_add_seals, SealFlags};
use rustix::net::{recvmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use vhost_guest_msg::frontend as code;
use vhost_guest_vmm_traits::{Access, AddressTranslator, RangeId, SharedMemoryMapper};

use super::frontend::MEMORY;
use super::machine::{OnKvm, PageByPage, Setup, FIRST, REPEATED, WINDOW};
use super::victim::Victim;
use crate::vmm::Slots;
use crate::wire::{message, words};

/// Room for descriptors: more than any message has.
const ROOM: usize = 8;
/// Flags of a reply.
const REPLY: u32 = 5;
const NEED_REPLY: u32 = 8;
/// PROTOCOL_FEATURES and VERSION_1.
const FEATURES: u64 = 1 << 30 | 1 << 32;
/// MQ, REPLY_ACK, BACKEND_REQ and CONFIGURE_MEM_SLOTS.
const PROTOCOL_FEATURES: u64 = 1 | 1 << 3 | 1 << 5 | 1 << 15;
/// A look at whether there is something to do.
const POLL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};
/// More vrings than any attack uses.
const VRINGS: u64 = 64;
/// Where the window is, in turn.
const PLACES: [u64; 2] = [1 << 40, 1 << 41];
/// Pages of the chains that `guest-chains` has the device translate in a turn.
const PAGES: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// The device, the VMM's part of it, and a driver that always says yes.
pub struct Double {
    state: Mutex<State>,
    dead: AtomicBool,
    window: Arc<dyn SharedMemoryMapper>,
    /// The window of a guest whose memory is not KVM's.
    slots: Option<Arc<Slots>>,
    iommu: PageByPage,
}

#[derive(Default)]
struct State {
    connection: Option<Arc<UnixStream>>,
    channel: Option<Arc<OwnedFd>>,
    /// Kicks and calls, by message and vring.
    eventfds: BTreeMap<(u32, u64), OwnedFd>,
    /// Memory, by guest address.
    memory: BTreeMap<u64, RangeId>,
}

impl Double {
    /// Serves the frontends of `listener`.
    pub fn start(listener: UnixListener, setup: &Setup) -> io::Result<Arc<Self>> {
        let (window, slots): (Arc<dyn SharedMemoryMapper>, _) = match setup.kvm {
            true => (Arc::new(OnKvm::new()?.window), None),
            false => {
                let slots = Arc::new(Slots::new(WINDOW));
                (slots.clone(), Some(slots))
            }
        };
        let double = Arc::new(Self {
            state: Mutex::default(),
            dead: AtomicBool::new(false),
            window,
            slots,
            iommu: PageByPage::default(),
        });
        let poller = Poller::new()?;
        let device = double.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                device.serve(&poller, stream);
                if device.is_dead() {
                    // For good: whoever connects waits.
                    loop {
                        thread::park();
                    }
                }
            }
        });
        Ok(double)
    }

    /// What the guest has, where its memory is not KVM's.
    pub fn slots(&self) -> Option<Arc<Slots>> {
        self.slots.clone()
    }

    /// The guest's driver posts chains.
    pub fn translate_chains(&self) {
        let _state = self.lock();
        for page in 0..PAGES {
            let iova = REPEATED + page * PAGE;
            let _ = self.iommu.translate(iova, PAGE, Access::Write);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, poller: &Poller, stream: UnixStream) {
        let stream = Arc::new(stream);
        self.lock().connection = Some(stream.clone());
        while self.turn(poller, &stream).is_ok() {}
        self.take_everything(&mut self.lock());
    }

    /// Waits, and does what there is to do.
    fn turn(&self, poller: &Poller, stream: &UnixStream) -> io::Result<()> {
        let channel = self.lock().channel.clone();
        let mut fds = vec![PollFd::new(stream, PollFlags::IN)];
        fds.extend(channel.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        poll(&mut fds, Some(&POLL))?;
        let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut state = self.lock();
        if let (Some(true), Some(channel)) = (ready.get(1), &channel) {
            // There is nothing to be said on it, and no room for descriptors.
            let (bytes, _) = receive(channel.as_fd(), 64, false)?;
            if bytes.is_empty() {
                state.channel = None;
            }
        }
        if ready.first() == Some(&true) {
            let (bytes, fds) = receive(stream.as_fd(), 12, true)?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            return self.handle(&mut state, poller, &bytes, fds);
        }
        Ok(())
    }

    /// Handles a message, of which the header is there.
    fn handle(
        &self,
        state: &mut State,
        poller: &Poller,
        header: &[u8],
        fds: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let stream = state
            .connection
            .clone()
            .ok_or(io::ErrorKind::NotConnected)?;
        let number = |at: usize| {
            let bytes = header.get(at..at + 4).and_then(<[u8]>::first_chunk);
            bytes.map(|bytes| u32::from_ne_bytes(*bytes))
        };
        let (Some(code), Some(flags), Some(size)) = (number(0), number(4), number(8)) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let (body, _) = match size {
            0 => (Vec::new(), Vec::new()),
            _ => receive(stream.as_fd(), size.min(4096) as usize, false)?,
        };
        let body: Vec<u64> = body
            .chunks_exact(8)
            .filter_map(|word| word.first_chunk().copied())
            .map(u64::from_ne_bytes)
            .collect();
        let reply = match code {
            code::GET_FEATURES => Some(vec![FEATURES]),
            code::GET_PROTOCOL_FEATURES => Some(vec![PROTOCOL_FEATURES]),
            code::GET_VRING_BASE => Some(vec![0]),
            _ => {
                let done = self.carry_out(state, poller, code, &body, fds);
                (flags & NEED_REPLY != 0).then(|| vec![u64::from(!done)])
            }
        };
        if let Some(reply) = reply {
            let bytes = message(code, REPLY, &words(&reply));
            rustix::io::writev(&stream, &[IoSlice::new(&bytes)])?;
        }
        Ok(())
    }

    fn carry_out(
        &self,
        state: &mut State,
        poller: &Poller,
        code: u32,
        body: &[u64],
        mut fds: Vec<OwnedFd>,
    ) -> bool {
        let fd = fds.pop();
        match (code, body, fd) {
            (code::SET_BACKEND_REQ_FD, _, Some(fd)) => {
                if poller.add(&fd).is_err() {
                    // A system call has failed.
                    self.dead.store(true, Ordering::SeqCst);
                    return false;
                }
                state.channel = Some(Arc::new(fd));
                true
            }
            (code::SET_VRING_KICK | code::SET_VRING_CALL, [vring, ..], Some(fd)) => {
                let known = is_eventfd(&fd);
                if known {
                    state.eventfds.insert((code, *vring), fd);
                }
                known
            }
            (code::SET_MEM_TABLE, [_, region @ ..], Some(fd)) => {
                self.take_memory(state);
                self.add(state, region, &fd)
            }
            (code::ADD_MEM_REG, [_, region @ ..], Some(fd)) => self.add(state, region, &fd),
            (code::REM_MEM_REG, [_, guest_address, ..], _) => {
                let range = state.memory.remove(guest_address);
                range.inspect(|range| self.give_up(*range)).is_some()
            }
            _ => true,
        }
    }

    fn add(&self, state: &mut State, region: &[u64], fd: &OwnedFd) -> bool {
        let &[guest_address, size, user_address, offset, ..] = region else {
            return false;
        };
        // Not that anybody needs it: the file shall not grow.
        let _ = fcntl_add_seals(fd, SealFlags::GROW);
        let place = user_address.wrapping_sub(MEMORY) + FIRST;
        let attach = |range| self.window.attach(range, place).map(|()| range);
        let range = self.window.open(fd.as_fd(), offset, size).and_then(attach);
        match range {
            Ok(range) => state.memory.insert(guest_address, range).is_none(),
            Err(_) => false,
        }
    }

    fn give_up(&self, range: RangeId) {
        let _ = self.window.detach(range);
        self.window.close(range);
    }

    fn take_memory(&self, state: &mut State) {
        for range in std::mem::take(&mut state.memory).into_values() {
            self.give_up(range);
        }
    }

    fn take_everything(&self, state: &mut State) {
        self.take_memory(state);
        if let Some(connection) = state.connection.take() {
            let _ = connection.shutdown(Shutdown::Both);
        }
        state.channel = None;
        state.eventfds.clear();
    }
}

impl Victim for Double {
    fn read_register(&self) {
        drop(self.lock());
    }

    fn write_register(&self, turn: u64) {
        let state = self.lock();
        let eventfd = |code, vring| state.eventfds.get(&(code, vring));
        match turn % 3 {
            0 => {}
            1 => {
                if let Some(call) = eventfd(code::SET_VRING_CALL, turn / 3 % 4) {
                    let _ = rustix::io::write(call, &1_u64.to_ne_bytes());
                }
            }
            _ => {
                // It masks all vectors and unmasks them, as KVM does that.
                for vring in 0..VRINGS {
                    let Some(kick) = eventfd(code::SET_VRING_KICK, vring) else {
                        continue;
                    };
                    let _ = rustix::io::write(kick, &1_u64.to_ne_bytes());
                    let _ = rustix::io::read(kick, &mut [0; 8]);
                }
            }
        }
    }

    fn statistics(&self) {
        drop(self.lock());
    }

    fn move_bar(&self, turn: u64) {
        let _state = self.lock();
        let place = PLACES[turn as usize % PLACES.len()];
        let _ = self.window.place(Some(place));
    }

    fn innocent_fault(&self) {
        drop(self.lock());
    }

    fn fault(&self, _: bool) -> bool {
        // It does not know of any fault.
        drop(self.lock());
        false
    }

    fn revoke(&self) {
        self.take_everything(&mut self.lock());
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }
}

/// The device's epoll set, which is in the VMM's.
struct Poller {
    inner: OwnedFd,
    _outer: OwnedFd,
}

impl Poller {
    fn new() -> io::Result<Self> {
        let inner = epoll::create(CreateFlags::CLOEXEC)?;
        let outer = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&outer, &inner, EventData::new_u64(0), EventFlags::IN)?;
        Ok(Self {
            inner,
            _outer: outer,
        })
    }

    fn add(&self, fd: impl AsFd) -> rustix::io::Result<()> {
        epoll::add(&self.inner, fd, EventData::new_u64(0), EventFlags::IN)
    }
}

fn is_eventfd(fd: &OwnedFd) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    link.is_ok_and(|link| link.to_string_lossy().contains("eventfd"))
}

/// Receives without waiting, as its author thinks, with room for descriptors
/// or without.
fn receive(fd: BorrowedFd<'_>, size: usize, room: bool) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; size];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(ROOM))];
    let space = match room {
        true => &mut space[..],
        false => &mut [],
    };
    let mut control = RecvAncillaryBuffer::new(space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(fd, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let fds = control.drain().flat_map(|part| match part {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
        _ => Vec::new(),
    });
    let fds = fds.collect();
    bytes.truncate(received.bytes);
    Ok((bytes, fds))
}
