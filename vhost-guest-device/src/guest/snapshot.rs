// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Snapshots: the registers of a device as bytes, and back.
//!
//! Plain bytes of a known length, little-endian, without padding:
//!
//! | bytes | part |
//! |---|---|
//! | 16 | [`Header`] |
//! | 52 | [`ShapeRecord`]: what the VMM chose |
//! | 256 | configuration space |
//! | 4 | [`FunctionRecord`]: what else the function remembers |
//! | 20 | [`CommonRecord`]: virtio common configuration |
//! | 6 | [`DeviceRecord`]: device configuration |
//! | 32 per virtqueue | [`QueueRecord`] |
//! | 4 per event | [`EventRecord`]: configuration change, virtqueues, kicks |
//! | 16 per vector | MSI-X table, as the guest reads it |
//!
//! The frontend is not part of it, nor is its memory: a device that showed one
//! (`FRONTEND_UP`) comes back as one that has lost it.
//!
//! What comes in is not trusted: nothing of it reaches a register before all of
//! it has been checked, and what passes is a state that a guest could have
//! brought the device to.

mod error;

pub(crate) use error::{ensure, flag};
pub use error::{Damage, SnapshotError};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The version of the format.
const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"vhostgst";
/// Bytes of configuration space.
pub(crate) const CONFIG_SPACE: usize = 256;
/// Bytes of an entry of the MSI-X table.
const TABLE_ENTRY: usize = 16;

/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | "vhostgst" |
/// | 8 | 4 | version: 1 |
/// | 12 | 4 | length of the snapshot, this header included |
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    length: U32,
}

/// What the VMM chose, as far as the guest sees it. All of it has to be the
/// same in a device that is restored.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | virtio features offered |
/// | 8 | 8 | size of the window |
/// | 16 | 4 | `max_message_size` |
/// | 20 | 4 | `max_migration_message_size` |
/// | 24 | 2 | `max_vhost_queues` |
/// | 26 | 2 | virtqueues: 4 or 6 |
/// | 28 | 2 | largest size of a virtqueue |
/// | 30 | 2 | `max_chained_rx_descriptors` |
/// | 32 | 2 | `max_chained_tx_descriptors` |
/// | 34 | 2 | the VMM's `vhost_user_device_type` |
/// | 36 | 16 | `uuid` |
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct ShapeRecord {
    pub(crate) features: U64,
    pub(crate) window_size: U64,
    pub(crate) max_message_size: U32,
    pub(crate) max_migration_message_size: U32,
    pub(crate) max_vhost_queues: U16,
    pub(crate) virtqueues: U16,
    pub(crate) max_queue_size: U16,
    pub(crate) max_chained_rx_descriptors: U16,
    pub(crate) max_chained_tx_descriptors: U16,
    pub(crate) device_type: U16,
    pub(crate) uuid: [u8; 16],
}

/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 1 | halves of BARs that hold a size probe, one bit each |
/// | 1 | 1 | ISR status |
/// | 2 | 2 | `select` of the driver auxiliary notifications |
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct FunctionRecord {
    pub(crate) probed: u8,
    pub(crate) isr: u8,
    pub(crate) kick_select: U16,
}

/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | `device_feature_select` |
/// | 4 | 4 | `driver_feature_select` |
/// | 8 | 8 | features that the driver has written |
/// | 16 | 2 | `queue_select` |
/// | 18 | 1 | `device_status`, without what a pending reset makes of it |
/// | 19 | 1 | whether a reset is pending |
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct CommonRecord {
    pub(crate) device_feature_select: U32,
    pub(crate) driver_feature_select: U32,
    pub(crate) driver_features: U64,
    pub(crate) queue_select: U16,
    pub(crate) device_status: u8,
    pub(crate) reset_pending: u8,
}

/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 2 | `vhost_user_device_type` |
/// | 2 | 2 | `status` |
/// | 4 | 1 | `config_generation` |
/// | 5 | 1 | whether a field was read since it moved last |
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct DeviceRecord {
    pub(crate) device_type: U16,
    pub(crate) status: U16,
    pub(crate) generation: u8,
    pub(crate) read: u8,
}

/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `queue_desc` |
/// | 8 | 8 | `queue_driver` |
/// | 16 | 8 | `queue_device` |
/// | 24 | 2 | `queue_size` |
/// | 26 | 2 | `queue_enable` |
/// | 28 | 2 | how far the device has read the available ring |
/// | 30 | 2 | how far it has written the used ring |
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct QueueRecord {
    pub(crate) descriptors: U64,
    pub(crate) avail: U64,
    pub(crate) used: U64,
    pub(crate) size: U16,
    pub(crate) enabled: U16,
    pub(crate) next_avail: U16,
    pub(crate) next_used: U16,
}

/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 2 | vector, or 0xFFFF |
/// | 2 | 1 | whether the event waits to be raised; 0 for kicks |
/// | 3 | 1 | 0 |
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct EventRecord {
    pub(crate) vector: U16,
    pub(crate) pending: u8,
    pub(crate) zero: u8,
}

/// A whole snapshot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Snapshot<Q, E, T> {
    pub(crate) shape: ShapeRecord,
    pub(crate) config: [u8; CONFIG_SPACE],
    pub(crate) function: FunctionRecord,
    pub(crate) common: CommonRecord,
    pub(crate) device: DeviceRecord,
    pub(crate) queues: Q,
    pub(crate) events: E,
    pub(crate) table: T,
}

/// One to be written.
pub(crate) type Owned = Snapshot<Vec<QueueRecord>, Vec<EventRecord>, Vec<u8>>;
/// One that was read; it has as many records as its device has things.
pub(crate) type Read<'a> = Snapshot<&'a [QueueRecord], &'a [EventRecord], &'a [u8]>;

/// How many records there are of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) queues: usize,
    pub(crate) events: usize,
    pub(crate) vectors: usize,
}

impl Counts {
    /// Bytes of a snapshot.
    fn length(self) -> usize {
        size_of::<Header>()
            + size_of::<ShapeRecord>()
            + CONFIG_SPACE
            + size_of::<FunctionRecord>()
            + size_of::<CommonRecord>()
            + size_of::<DeviceRecord>()
            + self.queues * size_of::<QueueRecord>()
            + self.events * size_of::<EventRecord>()
            + self.vectors * TABLE_ENTRY
    }
}

impl Owned {
    /// The bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let body = [
            self.shape.as_bytes(),
            &self.config,
            self.function.as_bytes(),
            self.common.as_bytes(),
            self.device.as_bytes(),
            self.queues.as_bytes(),
            self.events.as_bytes(),
            &self.table,
        ]
        .concat();
        // A snapshot has at most 6 KiB.
        let length = size_of::<Header>() + body.len();
        let header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            length: u32::try_from(length).unwrap_or(u32::MAX).into(),
        };
        [header.as_bytes(), &body].concat()
    }
}

impl<'a> Read<'a> {
    /// Divides `bytes`, which are to be a snapshot of a device with `shape`,
    /// into their parts. Their contents are not checked.
    pub(crate) fn parse(
        bytes: &'a [u8],
        own: &ShapeRecord,
        counts: Counts,
    ) -> Result<Self, SnapshotError> {
        let expected = counts.length();
        let length = SnapshotError::Length {
            found: bytes.len(),
            expected,
        };
        let Ok((header, rest)) = Header::read_from_prefix(bytes) else {
            return Err(SnapshotError::Foreign);
        };
        if header.magic != MAGIC {
            return Err(SnapshotError::Foreign);
        }
        if header.version != VERSION {
            return Err(SnapshotError::Version {
                found: header.version.get(),
                known: VERSION,
            });
        }
        let Ok((shape, _)) = ShapeRecord::read_from_prefix(rest) else {
            return Err(length);
        };
        // What differs says more than the length that differs with it.
        check_shape(&shape, own)?;
        if bytes.len() != expected || header.length.get() as usize != expected {
            return Err(length);
        }
        Self::divide(rest, counts).ok_or(length)
    }

    fn divide(bytes: &'a [u8], counts: Counts) -> Option<Self> {
        let (shape, rest) = ShapeRecord::read_from_prefix(bytes).ok()?;
        let (config, rest) = rest.split_first_chunk()?;
        let (function, rest) = FunctionRecord::read_from_prefix(rest).ok()?;
        let (common, rest) = CommonRecord::read_from_prefix(rest).ok()?;
        let (device, rest) = DeviceRecord::read_from_prefix(rest).ok()?;
        let (queues, rest) = <[_]>::ref_from_prefix_with_elems(rest, counts.queues).ok()?;
        let (events, table) = <[_]>::ref_from_prefix_with_elems(rest, counts.events).ok()?;
        Some(Self {
            shape,
            config: *config,
            function,
            common,
            device,
            queues,
            events,
            table,
        })
    }
}

/// Refuses a snapshot of a device that the guest sees as another one.
fn check_shape(saved: &ShapeRecord, own: &ShapeRecord) -> Result<(), SnapshotError> {
    let numbers = |shape: &ShapeRecord| -> [(&'static str, u64); 10] {
        [
            ("vrings:", shape.max_vhost_queues.into()),
            ("virtqueues:", shape.virtqueues.into()),
            ("a window of", shape.window_size.into()),
            ("features", shape.features.into()),
            ("device type", shape.device_type.into()),
            ("a message size of", shape.max_message_size.into()),
            (
                "a migration message size of",
                shape.max_migration_message_size.into(),
            ),
            ("a virtqueue size of", shape.max_queue_size.into()),
            (
                "chains for reading of",
                shape.max_chained_tx_descriptors.into(),
            ),
            (
                "chains for writing of",
                shape.max_chained_rx_descriptors.into(),
            ),
        ]
    };
    for ((what, saved), (_, own)) in numbers(saved).into_iter().zip(numbers(own)) {
        if saved != own {
            return Err(SnapshotError::Different {
                what,
                saved: format!("{saved:#x}"),
                own: format!("{own:#x}"),
            });
        }
    }
    if saved.uuid != own.uuid {
        let text = |uuid: &[u8; 16]| format!("{:032x}", u128::from_be_bytes(*uuid));
        return Err(SnapshotError::Different {
            what: "uuid",
            saved: text(&saved.uuid),
            own: text(&own.uuid),
        });
    }
    Ok(())
}

// The format is a promise.
const _: () = {
    assert!(size_of::<Header>() == 16);
    assert!(size_of::<ShapeRecord>() == 52);
    assert!(size_of::<FunctionRecord>() == 4);
    assert!(size_of::<CommonRecord>() == 20);
    assert!(size_of::<DeviceRecord>() == 6);
    assert!(size_of::<QueueRecord>() == 32);
    assert!(size_of::<EventRecord>() == 4);
};
