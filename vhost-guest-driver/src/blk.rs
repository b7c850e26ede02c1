// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A virtio-blk device on an image file (virtio 1.2 §5.2).

mod config;
mod holes;
mod image;
mod request;

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use vhost_guest_msg::VirtioFeatures;

use crate::backend::{Backend, State, Stateless};
use crate::vring::Ring;
use config::{Config, CAPACITY_LEN};
use image::Image;

/// Bytes of a sector, in which virtio-blk counts.
pub const SECTOR_SIZE: u64 = 512;
/// Bytes of the name that a guest can ask for.
pub const ID_LEN: usize = 20;

const DEVICE_TYPE: u16 = 2;

const F_SIZE_MAX: u64 = 1 << 1;
const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_TOPOLOGY: u64 = 1 << 10;
const F_MQ: u64 = 1 << 12;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

/// Block sizes that other backends have, too.
const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 512..=2 << 20;

/// A virtio-blk device on an image file or a block device.
///
/// A write is acknowledged when the file has it; it survives a crash of the
/// machine once a flush after it has been acknowledged. A driver without
/// flushes (VIRTIO_BLK_F_FLUSH not negotiated) gets each write
/// acknowledged only when it is on stable storage.
///
/// What the driver discards (VIRTIO_BLK_F_DISCARD) becomes a hole in the file,
/// where the file system has any.
///
/// The image may become longer or shorter while it is served. The disk follows
/// when it notices: when a frontend asks for the configuration, when a request
/// finds it out, or when [`Resize`] says so. The frontend is told. What lies
/// behind a new end cannot be read or written; the file does not become longer
/// by it.
///
/// ```no_run
/// use vhost_guest_driver::blk::Blk;
/// use vhost_guest_driver::{serve, Device, Error, Transport};
///
/// fn disk(transport: impl Transport) -> Result<(), Box<dyn std::error::Error>> {
///     let blk = Blk::open("disk.img", false)?.with_queues(4).with_id("disk0");
///     serve(Device::open(transport)?, blk)?;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Blk {
    image: Image,
    read_only: bool,
    queues: u16,
    id: [u8; ID_LEN],
    /// The driver flushes when it wants to.
    flushes: bool,
    /// The guest may have an IOMMU in front of the disk.
    access_platform: bool,
    buffer: Vec<u8>,
    /// Bytes that were discarded or zeroed for this request.
    cleared: u64,
    resize: Resize,
    /// The capacity that a frontend has last asked for. It knows it when it
    /// comes back, too.
    known: Option<u64>,
    /// The capacity that this frontend was told of last, without asking.
    announced: Option<u64>,
    /// It has found another capacity than before by asking.
    found: bool,
    state: Stateless,
}

/// Makes a disk as large as its image is now, from another thread.
///
/// ```no_run
/// # use vhost_guest_driver::blk::Blk;
/// # use vhost_guest_driver::{Port, Server};
/// # fn example(device: impl Port) -> Result<(), Box<dyn std::error::Error>> {
/// let blk = Blk::open("disk.img", false)?;
/// let resize = blk.resize_handle();
/// let mut server = Server::new(device, blk)?;
/// let waker = server.waker();
/// // In another thread, when the image has become longer or shorter:
/// resize.resize();
/// waker.wake();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Resize {
    wanted: Arc<AtomicBool>,
}

impl Resize {
    /// The disk looks at its image in the server's next turn, for which
    /// [`Server::waker`](crate::Server::waker) wakes it.
    pub fn resize(&self) {
        self.wanted.store(true, Ordering::Release);
    }

    fn take(&self) -> bool {
        // Most turns need no more than a look.
        self.wanted.load(Ordering::Relaxed) && self.wanted.swap(false, Ordering::Acquire)
    }
}

impl Blk {
    /// Opens an image. What is behind its last whole block is left alone.
    pub fn open(path: impl AsRef<Path>, read_only: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(!read_only).open(path)?;
        Self::new(file, read_only)
    }

    /// A disk on an open file.
    pub fn new(file: File, read_only: bool) -> io::Result<Self> {
        Ok(Self {
            image: Image::new(file, SECTOR_SIZE as u32)?,
            read_only,
            queues: 1,
            id: *b"vhost-guest\0\0\0\0\0\0\0\0\0",
            flushes: false,
            access_platform: false,
            buffer: Vec::new(),
            cleared: 0,
            resize: Resize::default(),
            known: None,
            announced: None,
            found: false,
            state: Stateless,
        })
    }

    /// With so many queues, at least one.
    #[must_use]
    pub fn with_queues(mut self, queues: u16) -> Self {
        self.queues = queues.max(1);
        self
    }

    /// With blocks of so many bytes, a power of two from 512 to 2 MiB. 512 by
    /// default.
    ///
    /// It is what requests should be made of, and a driver may need no more:
    /// sectors are served one by one (virtio 1.2 §5.2.5).
    ///
    /// # Errors
    ///
    /// `InvalidInput` for other sizes.
    pub fn with_block_size(mut self, block_size: u32) -> io::Result<Self> {
        if !block_size.is_power_of_two() || !BLOCK_SIZES.contains(&block_size) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.image = self.image.with_block_size(block_size)?;
        Ok(self)
    }

    /// For guests that have an IOMMU in front of the disk: offers
    /// VIRTIO_F_ACCESS_PLATFORM.
    #[must_use]
    pub fn with_access_platform(mut self) -> Self {
        self.access_platform = true;
        self
    }

    /// With a name that the guest can ask for; its first 20 bytes count.
    #[must_use]
    pub fn with_id(mut self, id: &str) -> Self {
        self.id = [0; ID_LEN];
        for (to, from) in self.id.iter_mut().zip(id.bytes()) {
            *to = from;
        }
        self
    }

    /// Size of the disk in [sectors](SECTOR_SIZE).
    pub fn sectors(&self) -> u64 {
        self.image.sectors()
    }

    /// What makes the disk as large as its image is, while it is served.
    pub fn resize_handle(&self) -> Resize {
        self.resize.clone()
    }
}

impl Backend for Blk {
    fn device_type(&self) -> u16 {
        DEVICE_TYPE
    }

    fn features(&self) -> VirtioFeatures {
        let access = match self.read_only {
            true => F_RO,
            false => F_DISCARD | F_WRITE_ZEROES,
        };
        let limits = F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_TOPOLOGY;
        let mut features = VirtioFeatures::from_bits_retain(limits | F_FLUSH | F_MQ | access);
        features.set(VirtioFeatures::ACCESS_PLATFORM, self.access_platform);
        features
    }

    fn set_features(&mut self, features: VirtioFeatures) {
        self.flushes = features.bits() & F_FLUSH != 0;
    }

    fn queues(&self) -> u16 {
        self.queues
    }

    fn limit_queues(&mut self, most: u16) {
        self.queues = self.queues.min(most);
    }

    /// A frontend may ask for what later versions of virtio have behind the
    /// end, which is zero then; but what begins there is nothing of this disk's.
    fn config_read(&mut self, offset: u32, data: &mut [u8]) -> bool {
        // The size that was is better than none.
        let _ = self.image.measure();
        let config = Config {
            capacity: self.image.sectors(),
            block_size: self.image.block_size(),
            queues: self.queues,
        };
        let bytes = config.to_bytes();
        let rest = bytes.get(offset as usize..).unwrap_or(&[]);
        for (to, from) in data.iter_mut().zip(rest) {
            *to = *from;
        }
        if offset < CAPACITY_LEN {
            let sectors = Some(config.capacity);
            let before = self.known.replace(config.capacity);
            // It may have asked for another reason than to tell its guest.
            self.found |= before.is_some() && before != sectors && self.announced != sectors;
        }
        !rest.is_empty()
    }

    fn take_config_change(&mut self) -> bool {
        let asked = self.resize.take();
        if asked {
            let _ = self.image.measure();
        }
        let sectors = self.image.sectors();
        // One that has not asked may know the image of an earlier backend. It
        // is not told without need: QEMU 6 asks at once, even while it waits
        // for the reply to another request, and mixes the two up.
        let other = self.known.map_or(asked, |known| known != sectors);
        if !self.found && (!other || self.announced == Some(sectors)) {
            return false;
        }
        self.found = false;
        self.announced = Some(sectors);
        true
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        Some(&mut self.state)
    }

    fn reset(&mut self) {
        self.flushes = false;
        self.announced = None;
    }

    fn budget(&self) -> u16 {
        // A request may be a long one.
        16
    }

    fn process(&mut self, _queue: u16, ring: &mut Ring<'_>) {
        while let Some(mut chain) = ring.next_chain() {
            let written = self.handle(&mut chain);
            ring.complete(chain, written);
            ring.spend(std::mem::take(&mut self.cleared));
        }
    }
}

#[cfg(test)]
mod tests;
