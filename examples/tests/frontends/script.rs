// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What scripts are made of: tables of messages, with what has to come back.

use vhost_guest_msg::frontend as code;

use crate::memory::Plan;
use crate::still::Told;

/// Virtio feature bits.
pub mod virtio {
    pub const LOG_ALL: u64 = 1 << 26;
    pub const INDIRECT: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const PROTOCOL: u64 = 1 << 30;
    pub const VERSION_1: u64 = 1 << 32;
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
    pub const ORDER_PLATFORM: u64 = 1 << 36;
    pub const IN_ORDER: u64 = 1 << 35;
    /// All that virtio-blk has but RO and zones.
    pub const BLK: u64 = 0x7e56;
    pub const NET_MTU: u64 = 1 << 3;
    pub const NET_MRG_RXBUF: u64 = 1 << 15;
    pub const NET_STATUS: u64 = 1 << 16;
}

/// Protocol feature bits.
pub mod protocol {
    pub const MQ: u64 = 1 << 0;
    pub const LOG_SHMFD: u64 = 1 << 1;
    pub const REPLY_ACK: u64 = 1 << 3;
    pub const BACKEND_REQ: u64 = 1 << 5;
    pub const CONFIG: u64 = 1 << 9;
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    pub const RESET_DEVICE: u64 = 1 << 13;
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
    pub const DEVICE_STATE: u64 = 1 << 19;
}

/// What is behind the device.
#[derive(Clone, Copy, Debug)]
pub enum Device {
    /// The driver's disk.
    Disk { queues: u16 },
    /// Another type of device, that only answers.
    Still {
        device_type: u16,
        features: u64,
        queues: u16,
    },
}

/// What a frontend says from its first connection on.
#[derive(Clone, Copy, Debug)]
pub struct Script<'a> {
    pub device: Device,
    pub memory: &'static Plan,
    /// In parts, which several scripts may share.
    pub parts: &'a [&'a [Step]],
}

/// What a message says; and what goes beside it.
#[derive(Clone, Copy, Debug)]
pub enum Body {
    Empty,
    Number(u64),
    /// These virtio features, as far as they were offered.
    Features(u64),
    /// These protocol features, likewise.
    ProtocolFeatures(u64),
    /// A vring and a number.
    Vring(u32, u32),
    /// The vring's parts, at user addresses.
    Address(u32),
    /// The same, with a log of what is used.
    LoggedAddress(u32),
    /// The same, at addresses in front of the guest's IOMMU.
    IovaAddress(u32),
    /// Where the vring stopped, or what it has used if nobody knows.
    Base(u32),
    /// How many requests the guest has made there.
    AvailableIndex(u32),
    /// The vring's eventfd, for kicks, calls or errors.
    EventFd(u32),
    /// For calls, another vring's eventfd.
    CallOf(u32, u32),
    /// Regions, each with its file.
    Table(&'static [usize]),
    /// A region with its file.
    Slot(usize),
    /// A region without, as if it began where its file does.
    SlotWithoutFile(usize),
    /// Room for the configuration: offset, size, flags.
    Config(u32, u32, u32),
    /// A byte of the configuration: offset, flags, value.
    ConfigByte(u32, u32, u8),
    /// How many vrings are to be recorded, and how large they are.
    Inflight(u16, u16),
    /// The record that there is, or was.
    Record,
    /// A fresh log of so many bytes.
    Log(u64),
    /// The other end of a channel for the backend's requests.
    Channel,
    /// A page of the guest's IOMMU is mapped: the address in it.
    Translation(u64),
    /// An end of a pipe: 0 to save, 1 to load.
    Pipe(u32),
    /// The same with a socket in its place.
    StateSocket(u32),
}

/// What has to come back.
#[derive(Clone, Copy, Debug)]
pub enum Reply {
    Nothing,
    /// Zero.
    Ack,
    /// Features, these among them. They are what was offered from now on.
    Features(u64),
    ProtocolFeatures(u64),
    Number(u64),
    AtLeast(u64),
    /// The vring stopped behind the requests that were answered.
    Base,
    /// As many bytes as were asked for.
    Config,
    /// A record with its file.
    Inflight,
    /// The log's own size and offset.
    Log,
}

/// A line of a script.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Message {
        code: u32,
        need_reply: bool,
        body: Body,
        reply: Reply,
    },
    /// The guest makes a request, is answered, and is called if it can be.
    Serve(u32),
    /// The same with data at the end of a region.
    ServeIn(u32, usize),
    /// The guest makes a request; nobody waits.
    Request(u32),
    /// All requests are answered.
    Answered(u32),
    /// Something is marked in the log.
    Logged,
    /// State is saved to the pipe until it ends, and kept.
    Save,
    /// What was kept is loaded.
    Load,
    /// The backend was told all this.
    Told(&'static [Told]),
    /// The frontend hangs up, and connects again.
    Reconnect,
    /// It hangs up, and connects to another host's backend, where its memory
    /// has gone, too.
    Migrate,
}

/// A request without a reply.
pub const fn tell(code: u32, body: Body) -> Step {
    message(code, false, body, Reply::Nothing)
}

/// A request with NEED_REPLY, for the want of another reply.
pub const fn order(code: u32, body: Body) -> Step {
    message(code, true, body, Reply::Ack)
}

/// A request that has a reply of its own.
pub const fn ask(code: u32, body: Body, reply: Reply) -> Step {
    message(code, false, body, reply)
}

/// The same with NEED_REPLY, which changes nothing.
pub const fn demand(code: u32, body: Body, reply: Reply) -> Step {
    message(code, true, body, reply)
}

const fn message(code: u32, need_reply: bool, body: Body, reply: Reply) -> Step {
    Step::Message {
        code,
        need_reply,
        body,
        reply,
    }
}

/// GET_VRING_BASE without NEED_REPLY.
pub const fn stop(vring: u32) -> Step {
    ask(code::GET_VRING_BASE, Body::Vring(vring, 0), Reply::Base)
}
