// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One connection to the backend: negotiation, memory, rings.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VringConfigData};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::memory::{table, user_address, QueueLayout, RING_SIZE};
use super::ring::Ring;
use super::watchdog::Watchdog;
use crate::loopback::failure::{Context, Failure};

const VIRTIO_BLK_F_RO: u64 = 1 << 5;
const VIRTIO_BLK_F_FLUSH: u64 = 1 << 9;
const VIRTIO_BLK_F_MQ: u64 = 1 << 12;
const VIRTIO_BLK_F_DISCARD: u64 = 1 << 13;
const VIRTIO_BLK_F_WRITE_ZEROES: u64 = 1 << 14;
const VIRTIO_RING_F_EVENT_IDX: u64 = 1 << 29;
const VIRTIO_F_VERSION_1: u64 = 1 << 32;

/// What the backend said about its disk.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// There is a flush request.
    pub flush: bool,
    /// There is a discard request.
    pub discard: bool,
    /// There is a request that writes zeroes.
    pub write_zeroes: bool,
}

/// A ring with its notifications.
pub struct Queue {
    /// The ring.
    pub ring: Ring,
    /// Where its parts are.
    pub layout: QueueLayout,
    /// Tells the backend of new requests.
    pub kick: EventFd,
    /// Tells us of finished ones.
    pub call: EventFd,
    /// Tells us of a ring that the backend found broken.
    pub error: EventFd,
    /// Readable when one of the latter two is.
    pub wake: Epoll,
}

impl Queue {
    fn new(ring: Ring, layout: QueueLayout) -> io::Result<Self> {
        let call = EventFd::new(EFD_NONBLOCK)?;
        let error = EventFd::new(EFD_NONBLOCK)?;
        let wake = Epoll::new()?;
        for eventfd in [&call, &error] {
            let event = EpollEvent::new(EventSet::IN, 0);
            wake.ctl(ControlOperation::Add, eventfd.as_raw_fd(), event)?;
        }
        Ok(Self {
            ring,
            layout,
            kick: EventFd::new(EFD_NONBLOCK)?,
            call,
            error,
            wake,
        })
    }
}

/// A negotiated connection.
pub struct Session<'a> {
    wire: Wire<'a>,
    features: u64,
    queues: u16,
    /// The backend's disk.
    pub disk: Disk,
}

/// The frontend's library, with names and a time limit for what is asked.
struct Wire<'a> {
    frontend: Frontend,
    watchdog: &'a Watchdog,
}

impl Wire<'_> {
    fn ask<T>(
        &mut self,
        what: &'static str,
        request: impl FnOnce(&mut Frontend) -> vhost::Result<T>,
    ) -> Result<T, Failure> {
        let _expected = self.watchdog.expect(what);
        request(&mut self.frontend).map_err(|source| Failure::Conversation { what, source })
    }
}

impl<'a> Session<'a> {
    /// Connects, and negotiates as a VMM does before its guest starts.
    pub fn open(socket: &Path, queues: u16, watchdog: &'a Watchdog) -> Result<Self, Failure> {
        let stream = UnixStream::connect(socket).context("connect")?;
        let optional = VhostUserProtocolFeatures::REPLY_ACK;
        Self::over(stream, queues, optional, watchdog)
    }

    /// The same on a connection that exists, with `optional` protocol
    /// features as far as they are offered.
    pub fn over(
        stream: UnixStream,
        queues: u16,
        optional: VhostUserProtocolFeatures,
        watchdog: &'a Watchdog,
    ) -> Result<Self, Failure> {
        let frontend = Frontend::from_stream(stream, queues.into());
        let mut wire = Wire { frontend, watchdog };

        wire.ask("SET_OWNER", |f| f.set_owner())?;
        let offered = wire.ask("GET_FEATURES", |f| f.get_features())?;
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let needed = protocol | VIRTIO_F_VERSION_1;
        if offered & needed != needed {
            let text = format!("offers features {offered:#x}; {needed:#x} are needed");
            return Err(Failure::Backend(text));
        }
        negotiate_protocol(&mut wire, queues, optional)?;

        let mut sectors = [0; 8];
        let (_, config) = wire.ask("GET_CONFIG", |f| {
            f.get_config(0, 8, VhostUserConfigFlags::empty(), &[0; 8])
        })?;
        sectors.copy_from_slice(&config);

        let optional = VIRTIO_BLK_F_RO
            | VIRTIO_BLK_F_FLUSH
            | VIRTIO_BLK_F_MQ
            | VIRTIO_BLK_F_DISCARD
            | VIRTIO_BLK_F_WRITE_ZEROES
            | VIRTIO_RING_F_EVENT_IDX;
        let features = offered & (needed | optional);
        wire.ask("SET_FEATURES", |f| f.set_features(features))?;
        let disk = Disk {
            sectors: u64::from_le_bytes(sectors),
            read_only: features & VIRTIO_BLK_F_RO != 0,
            flush: features & VIRTIO_BLK_F_FLUSH != 0,
            discard: features & VIRTIO_BLK_F_DISCARD != 0,
            write_zeroes: features & VIRTIO_BLK_F_WRITE_ZEROES != 0,
        };
        Ok(Self {
            wire,
            features,
            queues,
            disk,
        })
    }

    /// Shares `memory` and starts all rings in it.
    pub fn start(&mut self, memory: &Arc<GuestMemoryMmap>) -> Result<Vec<Queue>, Failure> {
        self.wire.ask("SET_MEM_TABLE", |f| {
            f.set_mem_table(&table(memory)?).map(drop)
        })?;
        (0..self.queues)
            .map(|index| self.start_ring(index, memory))
            .collect()
    }

    fn start_ring(&mut self, index: u16, memory: &Arc<GuestMemoryMmap>) -> Result<Queue, Failure> {
        let layout = QueueLayout::new(index);
        let event_idx = self.features & VIRTIO_RING_F_EVENT_IDX != 0;
        let ring = Ring::new(memory.clone(), layout, event_idx)
            .map_err(|error| Failure::Backend(error.to_string()))?;
        let queue = Queue::new(ring, layout).context("eventfds of a queue")?;
        let addresses = VringConfigData {
            queue_max_size: RING_SIZE,
            queue_size: RING_SIZE,
            flags: 0,
            desc_table_addr: user_address(memory, layout.descriptors)?,
            used_ring_addr: user_address(memory, layout.used)?,
            avail_ring_addr: user_address(memory, layout.available)?,
            log_addr: None,
        };
        let (wire, i) = (&mut self.wire, index.into());
        wire.ask("SET_VRING_NUM", |f| f.set_vring_num(i, RING_SIZE))?;
        wire.ask("SET_VRING_ADDR", |f| f.set_vring_addr(i, &addresses))?;
        wire.ask("SET_VRING_BASE", |f| f.set_vring_base(i, 0))?;
        wire.ask("SET_VRING_CALL", |f| f.set_vring_call(i, &queue.call))?;
        wire.ask("SET_VRING_ERR", |f| f.set_vring_err(i, &queue.error))?;
        wire.ask("SET_VRING_KICK", |f| f.set_vring_kick(i, &queue.kick))?;
        wire.ask("SET_VRING_ENABLE", |f| f.set_vring_enable(i, true))?;
        Ok(queue)
    }

    /// Stops all rings, which must be idle, and hangs up.
    pub fn close(mut self) -> Result<(), Failure> {
        for index in 0..self.queues.into() {
            let wire = &mut self.wire;
            wire.ask("SET_VRING_ENABLE", |f| f.set_vring_enable(index, false))?;
            wire.ask("GET_VRING_BASE", |f| f.get_vring_base(index))?;
        }
        Ok(())
    }
}

fn negotiate_protocol(
    wire: &mut Wire<'_>,
    queues: u16,
    optional: VhostUserProtocolFeatures,
) -> Result<(), Failure> {
    type Features = VhostUserProtocolFeatures;

    let offered = wire.ask("GET_PROTOCOL_FEATURES", |f| f.get_protocol_features())?;
    let needed = Features::MQ | Features::CONFIG;
    if !offered.contains(needed) {
        let text = format!(
            "offers protocol features {:#x}; {:#x} are needed",
            offered.bits(),
            needed.bits()
        );
        return Err(Failure::Backend(text));
    }
    let features = offered & (needed | optional);
    wire.ask("SET_PROTOCOL_FEATURES", |f| {
        f.set_protocol_features(features)
    })?;
    if features.contains(Features::REPLY_ACK) {
        // From now on each request waits until the backend has carried it out.
        wire.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    }
    let carried = wire.ask("GET_QUEUE_NUM", |f| f.get_queue_num())?;
    if carried < queues.into() {
        let text = format!("has {carried} queues; --queues asks for {queues}");
        return Err(Failure::Backend(text));
    }
    Ok(())
}
