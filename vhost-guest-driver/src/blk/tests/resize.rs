// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Images that become longer or shorter while they are served.

use std::thread;

use super::*;

impl Disk {
    /// A disk whose frontend knows how large it is.
    fn known() -> Self {
        let mut this = Self::new(false);
        assert_eq!(this.capacity(), SECTORS);
        assert!(!this.blk.take_config_change());
        this
    }

    fn capacity(&mut self) -> u64 {
        let mut capacity = [0; 8];
        assert!(self.blk.config_read(0, &mut capacity));
        u64::from_le_bytes(capacity)
    }

    fn set_sectors(&self, sectors: u64) {
        self.file.set_len(sectors * SECTOR_SIZE).unwrap();
    }

    fn read(&mut self, sector: u64) -> u8 {
        self.request(IN, sector, &[(DATA, 512, WRITE)])
    }

    fn write(&mut self, sector: u64) -> u8 {
        self.request(OUT, sector, &[(DATA, 512, 0)])
    }

    fn clear(&mut self, kind: u32, sector: u64) -> u8 {
        self.bench.guest.write(DATA, &segment(sector, 1, 0));
        self.request(kind, 0, &[(DATA, 16, 0)])
    }
}

#[test]
fn follows_an_image_that_grows_when_its_owner_says_so() {
    let mut disk = Disk::known();
    disk.set_sectors(4 * SECTORS);
    // Nobody has told the driver.
    assert_eq!(disk.read(SECTORS), IOERR);
    disk.blk.resize_handle().resize();
    assert!(disk.blk.take_config_change());
    assert!(!disk.blk.take_config_change(), "told twice");
    assert_eq!(disk.blk.sectors(), 4 * SECTORS);
    assert_eq!(disk.read(SECTORS), OK);
    assert_eq!(disk.write(4 * SECTORS - 1), OK);
    assert_eq!(disk.read(4 * SECTORS), IOERR);
    assert_eq!(disk.capacity(), 4 * SECTORS);
    assert!(!disk.blk.take_config_change(), "it knows");
}

#[test]
fn follows_an_image_that_grows_when_a_frontend_asks() {
    let mut disk = Disk::known();
    disk.set_sectors(SECTORS + 1);
    assert_eq!(disk.capacity(), SECTORS + 1);
    // It may have asked for another reason, or for another part.
    assert!(disk.blk.take_config_change());
    disk.set_sectors(SECTORS + 2);
    assert!(disk.blk.config_read(34, &mut [0; 2]));
    assert!(disk.blk.take_config_change());
    assert_eq!(disk.read(SECTORS + 1), OK);
}

#[test]
fn a_handle_without_a_change_tells_nobody() {
    let mut disk = Disk::known();
    disk.blk.resize_handle().resize();
    assert!(!disk.blk.take_config_change());
    // Less than a sector is none.
    disk.file.set_len(SECTORS * SECTOR_SIZE + 511).unwrap();
    disk.blk.resize_handle().resize();
    assert!(!disk.blk.take_config_change());
}

#[test]
fn follows_an_image_that_shrinks() {
    let mut disk = Disk::known();
    disk.set_sectors(8);
    disk.blk.resize_handle().resize();
    assert!(disk.blk.take_config_change());
    assert_eq!((disk.blk.sectors(), disk.read(7)), (8, OK));
    for sector in [8, SECTORS - 1] {
        assert_eq!(disk.read(sector), IOERR);
        assert_eq!(disk.write(sector), IOERR);
        assert_eq!(disk.clear(DISCARD, sector), IOERR);
        assert_eq!(disk.clear(WRITE_ZEROES, sector), IOERR);
    }
    disk.set_sectors(0);
    assert_eq!((disk.capacity(), disk.read(0)), (0, IOERR));
}

#[test]
fn notices_an_image_that_has_shrunk_without_a_word() {
    type Request = fn(&mut Disk) -> u8;
    let requests: [Request; 4] = [
        |disk| disk.read(10),
        |disk| disk.write(10),
        |disk| disk.clear(DISCARD, 10),
        |disk| disk.clear(WRITE_ZEROES, 10),
    ];
    for request in requests {
        let mut disk = Disk::known();
        disk.set_sectors(10);
        assert_eq!(request(&mut disk), IOERR);
        // It does not become longer again.
        assert_eq!(disk.file.metadata().unwrap().len(), 10 * SECTOR_SIZE);
        assert_eq!(disk.blk.sectors(), 10);
        assert!(disk.blk.take_config_change());
        assert_eq!((disk.read(9), disk.write(9)), (OK, OK));
    }
    let mut disk = Disk::known();
    disk.set_sectors(10);
    let four = 4 * SECTOR_SIZE as u32;
    assert_eq!(disk.request(IN, 8, &[(DATA, four, WRITE)]), IOERR);
    assert_eq!(disk.request(OUT, 8, &[(DATA, four, 0)]), IOERR);
    assert_eq!(disk.sector(8), [9; 512], "in part");
    assert_eq!(disk.request(IN, 6, &[(DATA, four, WRITE)]), OK);
}

#[test]
fn does_not_fall_over_an_image_that_shrinks_in_a_request() {
    let mut disk = Disk::known();
    // In several pieces.
    let sectors = 1536;
    disk.set_sectors(sectors);
    assert_eq!(disk.capacity(), sectors);
    let file = disk.file.try_clone().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let shrinking = thread::spawn(move || {
        for len in (0..=sectors).rev().cycle() {
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            file.set_len(len * SECTOR_SIZE).unwrap();
        }
    });
    let len = (sectors * SECTOR_SIZE) as u32;
    for _ in 0..50 {
        disk.blk.resize_handle().resize();
        disk.blk.take_config_change();
        assert!(disk.blk.sectors() <= sectors);
        for data in [(DATA, len, WRITE), (DATA, len, 0)] {
            let kind = if data.2 == WRITE { IN } else { OUT };
            let status = disk.request(kind, 0, &[data]);
            assert!([OK, IOERR].contains(&status), "{status}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    shrinking.join().unwrap();
    // Whole again, it is served again.
    disk.set_sectors(sectors);
    disk.blk.resize_handle().resize();
    disk.blk.take_config_change();
    assert_eq!((disk.read(sectors - 1), disk.write(0)), (OK, OK));
}

#[test]
fn each_piece_of_a_write_asks_for_the_end() {
    let mut image = Disk::new(false).blk.image;
    let len = SECTORS * SECTOR_SIZE;
    image.write(&[1; 512], len - 512).unwrap();
    let error = image.write(&[1; 1024], len - 512).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(image.write(&[1; 512], u64::MAX - 511).is_err());
    assert!(image.clear(len - 512, 1024, true).is_err());
}

#[test]
fn tells_a_frontend_that_comes_back_without_asking() {
    let mut disk = Disk::known();
    disk.blk.reset();
    assert_eq!(disk.read(0), OK);
    assert!(!disk.blk.take_config_change(), "it knows");
    // The image changes while it is away, or it left before it could ask.
    disk.set_sectors(8);
    disk.blk.resize_handle().resize();
    assert!(disk.blk.take_config_change());
    disk.blk.reset();
    assert!(disk.blk.take_config_change());
    assert!(!disk.blk.take_config_change(), "told twice");
    assert_eq!(disk.capacity(), 8);
    disk.blk.reset();
    assert!(!disk.blk.take_config_change());
}

#[test]
fn tells_a_frontend_of_an_earlier_backend_when_its_owner_says_so() {
    let mut disk = Disk::new(false);
    assert_eq!(disk.read(0), OK);
    assert!(!disk.blk.take_config_change());
    disk.blk.resize_handle().resize();
    assert!(disk.blk.take_config_change());
    assert!(!disk.blk.take_config_change(), "told twice");
}

#[test]
fn a_block_device_is_as_long_as_it_says() {
    // Its metadata say 0; so do those of a character device.
    let zero = File::open("/dev/null").unwrap();
    assert_eq!(Blk::new(zero, true).unwrap().sectors(), 0);
    let (pipe, _writer) = std::io::pipe().unwrap();
    let pipe = File::from(std::os::fd::OwnedFd::from(pipe));
    assert!(Blk::new(pipe, true).is_err());
}
