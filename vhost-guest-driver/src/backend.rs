// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a vhost-user device is made of.

use vhost_guest_msg::{ProtocolFeatures, Transfer, VirtioFeatures};

use crate::vring::Ring;

/// State of a device that is not in its vrings, its features and its
/// configuration, and that has to go along when the frontend's guest is
/// migrated (vhost-user, migrating back-end state).
///
/// It moves as a stream of bytes, in pieces of any length, while all vrings
/// are stopped. What the bytes mean is up to the device. What is loaded comes
/// from another host, by way of the frontend: nothing of it can be trusted.
///
/// QEMU stops a device by SET_STATUS 0, before it saves its state. So if
/// DEVICE_STATE is negotiated, the server calls [`Backend::reset`] for that
/// only when the frontend uses the device again; a [`reset`](Backend::reset)
/// may clear the state. RESET_DEVICE resets "all internal device state"
/// (vhost-user), at once.
pub trait State {
    /// A transfer begins. One that has not ended is given up. `false` if
    /// there can be none now.
    fn begin(&mut self, direction: Transfer) -> bool;

    /// Saves the next bytes at the start of `data`, which is not empty;
    /// returns how many, 0 if nothing is left. `None`: the transfer has
    /// failed.
    fn save(&mut self, data: &mut [u8]) -> Option<usize>;

    /// Loads the next bytes; `false` if they are wrong, and nothing more is
    /// loaded then.
    fn load(&mut self, data: &[u8]) -> bool;

    /// Everything has been loaded; `false` if something was missing.
    fn loaded(&mut self) -> bool;
}

/// The [`State`] of a device that has none: nothing is saved, and nothing but
/// nothing loaded.
///
/// A backend that returns it as [`Backend::state`] can be saved and migrated by
/// frontends that do so only if DEVICE_STATE is offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stateless;

impl State for Stateless {
    fn begin(&mut self, _direction: Transfer) -> bool {
        true
    }

    fn save(&mut self, _data: &mut [u8]) -> Option<usize> {
        Some(0)
    }

    fn load(&mut self, data: &[u8]) -> bool {
        data.is_empty()
    }

    fn loaded(&mut self) -> bool {
        true
    }
}

/// A vhost-user device, as [`serve`](crate::serve) drives it.
///
/// The server answers every message; a backend has the features, the
/// configuration and the requests of its type of device.
///
/// ```
/// use vhost_guest_driver::{Backend, Ring};
/// use vhost_guest_msg::VirtioFeatures;
///
/// /// An entropy source, not a very good one.
/// struct Rng(u8);
///
/// impl Backend for Rng {
///     fn device_type(&self) -> u16 {
///         4
///     }
///
///     fn features(&self) -> VirtioFeatures {
///         VirtioFeatures::empty()
///     }
///
///     fn queues(&self) -> u16 {
///         1
///     }
///
///     fn process(&mut self, _queue: u16, ring: &mut Ring<'_>) {
///         while let Some(mut request) = ring.next_chain() {
///             let mut written = 0;
///             while request.writable_len() > 0 {
///                 self.0 = self.0.wrapping_mul(5).wrapping_add(1);
///                 written += request.write(&[self.0]) as u32;
///             }
///             ring.complete(request, written);
///         }
///     }
/// }
/// ```
pub trait Backend {
    /// The virtio type of the device.
    fn device_type(&self) -> u16;

    /// The features of the device type that the backend offers.
    ///
    /// The server adds those of rings and of the protocol: VERSION_1,
    /// RING_INDIRECT_DESC, RING_EVENT_IDX, RING_PACKED, PROTOCOL_FEATURES and
    /// LOG_ALL.
    /// ACCESS_PLATFORM is the backend's to offer: the server then translates
    /// addresses as the IOMMU of the frontend's guest does, and asks the
    /// frontend for what it does not know.
    fn features(&self) -> VirtioFeatures;

    /// The features that the frontend acknowledged, a subset of those
    /// offered.
    fn set_features(&mut self, _features: VirtioFeatures) {}

    /// How many vrings the device has. The server clamps it to what the
    /// vhost-guest device carries.
    fn queues(&self) -> u16;

    /// The vhost-guest device carries only so many vrings, fewer than
    /// [`queues`](Self::queues): what the configuration says of them has to
    /// say so, too.
    fn limit_queues(&mut self, _most: u16) {}

    /// Reads the configuration of the device at `offset` into `data`, which
    /// is all zero: what lies behind the end stays so. `false` if there is
    /// none there, or `offset` is behind its end: the frontend gets an error.
    fn config_read(&mut self, _offset: u32, _data: &mut [u8]) -> bool {
        false
    }

    /// Writes the configuration of the device; `false` if that is not
    /// allowed.
    fn config_write(&mut self, _offset: u32, _data: &[u8]) -> bool {
        false
    }

    /// Whether the configuration has changed by itself since the last call.
    /// Asked after each turn; the frontend is told.
    fn take_config_change(&mut self) -> bool {
        false
    }

    /// What the backend offers of the protocol features that are for some
    /// types of device only: `RARP`, for [`send_rarp`](Self::send_rarp), and
    /// `MTU`, for [`set_mtu`](Self::set_mtu). Others are the server's affair.
    fn protocol_features(&self) -> ProtocolFeatures {
        ProtocolFeatures::empty()
    }

    /// Makes the network know, by a broadcast, that the guest with this MAC
    /// address is here now; `false` if that cannot be done.
    fn send_rarp(&mut self, _mac: [u8; 6]) -> bool {
        false
    }

    /// The MTU of the network, as the frontend knows it; `false` if it is out
    /// of the question.
    fn set_mtu(&mut self, _mtu: u64) -> bool {
        false
    }

    /// The state that has to be migrated, if the device has any. It is
    /// offered to the frontend where the vhost-guest device carries it.
    fn state(&mut self) -> Option<&mut dyn State> {
        None
    }

    /// Back to the state before a frontend came: it left, or reset the
    /// device. If that was by SET_STATUS 0, and DEVICE_STATE is negotiated,
    /// its [`state`](Self::state) may be saved before.
    fn reset(&mut self) {}

    /// How many requests of a vring are handled in one turn, before other
    /// vrings, calls and messages have theirs. A turn also ends behind a few
    /// megabytes of requests, whatever this says. The request that is
    /// begun is finished: one may have 4 GiB to read and 4 GiB to write, and a
    /// backend that can cut or refuse larger ones bounds its turns by that.
    fn budget(&self) -> u16 {
        32
    }

    /// Handles the requests of vring `queue`, and completes all that it
    /// takes, before it returns.
    fn process(&mut self, queue: u16, ring: &mut Ring<'_>);
}
