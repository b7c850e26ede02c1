// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};

mod limits;
mod resize;
mod served;

use super::config::MAX_WRITE_ZEROES_SECTORS;
use super::*;
use crate::fake_ring::{Bench, GPA, INDIRECT, WRITE};

const HEADER: u64 = GPA + 0x5000;
const DATA: u64 = GPA + 0x1_0000;
const STATUS: u64 = GPA + 0x6000;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

const SECTORS: u64 = 64;

/// A disk whose sectors are filled with their number plus 1, and a vring.
struct Disk {
    blk: Blk,
    file: File,
    bench: Bench,
}

/// A file that is gone when it is closed.
fn temporary_file() -> File {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("vhost-guest-blk-{}-{count}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    std::fs::remove_file(path).unwrap();
    file
}

impl Disk {
    fn new(read_only: bool) -> Self {
        let file = temporary_file();
        for sector in 0..SECTORS {
            let data = [sector as u8 + 1; SECTOR_SIZE as usize];
            file.write_all_at(&data, sector * SECTOR_SIZE).unwrap();
        }
        let mut blk = Blk::new(file.try_clone().unwrap(), read_only).unwrap();
        blk.set_features(VirtioFeatures::from_bits_retain(F_FLUSH));
        let bench = Bench::new(16, VirtioFeatures::RING_INDIRECT_DESC);
        Self { blk, file, bench }
    }

    fn header(&self, kind: u32, sector: u64) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.bench.guest.write(HEADER, &header);
    }

    /// Processes a chain; returns the used length.
    fn process(&mut self, chain: &[(u64, u32, u16)]) -> u32 {
        self.bench.guest.write(STATUS, &[0xee]);
        let head = self.bench.guest.add(chain);
        self.blk.process(0, &mut self.bench.ring());
        let (id, len) = self.bench.guest.used().expect("not completed");
        assert_eq!(id, head.into());
        assert_eq!(self.bench.guest.used(), None);
        len
    }

    fn status(&self) -> u8 {
        self.bench.guest.read(STATUS, 1)[0]
    }

    /// A request as drivers send it; returns the status.
    fn request(&mut self, kind: u32, sector: u64, data: &[(u64, u32, u16)]) -> u8 {
        self.header(kind, sector);
        let mut chain = vec![(HEADER, 16, 0)];
        chain.extend(data);
        chain.push((STATUS, 1, WRITE));
        self.process(&chain);
        self.status()
    }

    fn sector(&self, sector: u64) -> Vec<u8> {
        let mut data = vec![0; SECTOR_SIZE as usize];
        self.file
            .read_exact_at(&mut data, sector * SECTOR_SIZE)
            .unwrap();
        data
    }
}

#[test]
fn reads_sectors_into_scattered_buffers() {
    let mut disk = Disk::new(false);
    disk.header(IN, 3);
    let used = disk.process(&[
        (HEADER, 16, 0),
        (DATA + 1, 511, WRITE),
        (DATA + 0x1000, 513, WRITE),
        (STATUS, 1, WRITE),
    ]);
    assert_eq!((used, disk.status()), (1025, OK));
    assert_eq!(
        disk.bench.guest.read(DATA, 513),
        [&[0][..], &[4; 511], &[0]].concat()
    );
    let second = disk.bench.guest.read(DATA + 0x1000, 514);
    assert_eq!(second, [&[4][..], &[5; 512], &[0]].concat());
}

#[test]
fn writes_sectors_from_scattered_buffers() {
    let mut disk = Disk::new(false);
    let data: Vec<u8> = (0..1024u32).map(|i| (i % 251) as u8).collect();
    disk.bench.guest.write(DATA + 3, &data[..700]);
    disk.bench.guest.write(DATA + 0x1001, &data[700..]);
    let status = disk.request(OUT, 7, &[(DATA + 3, 700, 0), (DATA + 0x1001, 324, 0)]);
    assert_eq!(status, OK);
    assert_eq!([disk.sector(7), disk.sector(8)].concat(), data);
    assert_eq!(disk.sector(6), [7; 512]);
    assert_eq!(disk.sector(9), [10; 512]);
}

#[test]
fn moves_more_than_its_buffer_holds() {
    let mut disk = Disk::new(false);
    let sectors = 1024 + 3;
    disk.file.set_len(sectors * SECTOR_SIZE).unwrap();
    disk.blk = Blk::new(disk.file.try_clone().unwrap(), false).unwrap();
    let len = (sectors * SECTOR_SIZE) as u32;
    let data: Vec<u8> = (0..len).map(|i| (i / 7 % 253) as u8).collect();
    disk.bench.guest.write(DATA, &data);
    assert_eq!(disk.request(OUT, 0, &[(DATA, len, 0)]), OK);
    disk.bench.guest.write(DATA, &vec![0; len as usize]);
    assert_eq!(disk.request(IN, 0, &[(DATA, len, WRITE)]), OK);
    assert!(disk.bench.guest.read(DATA, len as usize) == data);
}

#[test]
fn takes_requests_of_any_framing() {
    // Header and data in one descriptor, data and status in one, all of it
    // in an indirect table (virtio 1.2 §2.7.4.1).
    let mut disk = Disk::new(false);
    disk.header(OUT, 1);
    disk.bench.guest.write(HEADER + 16, &[0x5a; 512]);
    assert_eq!(disk.process(&[(HEADER, 528, 0), (STATUS, 1, WRITE)]), 1);
    assert_eq!((disk.status(), disk.sector(1)), (OK, vec![0x5a; 512]));
    disk.header(IN, 1);
    let used = disk.process(&[(HEADER, 9, 0), (HEADER + 9, 7, 0), (DATA, 513, WRITE)]);
    assert_eq!(used, 513);
    assert_eq!(
        disk.bench.guest.read(DATA, 513),
        [&[0x5a; 512][..], &[OK]].concat()
    );
    let table = crate::fake_ring::USER + 0x9000;
    disk.header(IN, 2);
    disk.bench.guest.put_at(table, HEADER, 16, 1, 1);
    disk.bench.guest.put_at(table + 16, DATA, 512, 1 | WRITE, 2);
    disk.bench.guest.put_at(table + 32, STATUS, 1, WRITE, 0);
    assert_eq!(disk.process(&[(GPA + 0x9000, 48, INDIRECT)]), 513);
    assert_eq!(
        (disk.status(), disk.bench.guest.read(DATA, 512)),
        (OK, vec![3; 512])
    );
}

#[test]
fn rejects_sectors_outside_the_disk() {
    let mut disk = Disk::new(false);
    for (sector, len) in [
        (SECTORS, 512),
        (SECTORS - 1, 1024),
        (u64::MAX, 512),
        (u64::MAX / 512, 512),
        (u64::MAX / 512 + 1, 512),
        (0, 513),
        (0, 1),
    ] {
        assert_eq!(disk.request(IN, sector, &[(DATA, len, WRITE)]), IOERR);
        assert_eq!(disk.bench.guest.read(DATA, 1), [0], "data was written");
        assert_eq!(disk.request(OUT, sector, &[(DATA, len, 0)]), IOERR);
    }
    assert_eq!(disk.sector(0), [1; 512]);
    assert_eq!(disk.file.metadata().unwrap().len(), SECTORS * SECTOR_SIZE);
    assert_eq!(disk.request(IN, SECTORS - 1, &[(DATA, 512, WRITE)]), OK);
}

#[test]
fn rejects_data_of_the_wrong_direction() {
    let mut disk = Disk::new(false);
    // A read without a buffer but with data; a write with one to write to.
    assert_eq!(disk.request(IN, 0, &[(DATA, 512, 0)]), OK);
    assert_eq!(disk.bench.guest.read(DATA, 1), [0]);
    assert_eq!(disk.request(OUT, 0, &[(DATA, 512, WRITE)]), OK);
    assert_eq!(disk.sector(0), [1; 512]);
}

#[test]
fn completes_requests_without_room_for_a_status() {
    let mut disk = Disk::new(false);
    disk.header(OUT, 0);
    assert_eq!(disk.process(&[(HEADER, 16, 0), (DATA, 512, 0)]), 0);
    assert_eq!(disk.sector(0), [1; 512], "not acknowledged, not written");
    assert_eq!(disk.process(&[(HEADER, 16, 0), (STATUS, 0, WRITE)]), 0);
    assert_eq!(disk.status(), 0xee);
}

#[test]
fn rejects_a_header_that_is_cut_off() {
    let mut disk = Disk::new(false);
    for len in [0, 1, 15] {
        assert_eq!(disk.process(&[(HEADER, len, 0), (STATUS, 1, WRITE)]), 1);
        assert_eq!(disk.status(), IOERR);
    }
    assert_eq!(disk.process(&[(STATUS, 1, WRITE)]), 1);
    assert_eq!(disk.status(), IOERR);
}

#[test]
fn says_what_it_does_not_know() {
    let mut disk = Disk::new(false);
    for kind in [2, 12, 14, 0x100, u32::MAX] {
        assert_eq!(disk.request(kind, 0, &[]), UNSUPP);
    }
}

#[test]
fn tells_its_name() {
    let mut disk = Disk::new(false);
    disk.blk = disk.blk.with_id("a name of more than twenty bytes");
    assert_eq!(disk.request(GET_ID, 0, &[(DATA, 20, WRITE)]), OK);
    assert_eq!(disk.bench.guest.read(DATA, 20), b"a name of more than ");
    assert_eq!(disk.request(GET_ID, 0, &[(DATA + 64, 4, WRITE)]), OK);
    assert_eq!(disk.bench.guest.read(DATA + 64, 5), b"a na\0");
    disk.header(GET_ID, 0);
    let used = disk.process(&[(HEADER, 16, 0), (DATA, 30, WRITE), (STATUS, 1, WRITE)]);
    assert_eq!((used, disk.status()), (20, OK), "only what was written");
}

fn segment(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let [s, n, f] = [
        sector.to_le_bytes().to_vec(),
        sectors.to_le_bytes().to_vec(),
        flags.to_le_bytes().to_vec(),
    ];
    [s, n, f].concat()
}

/// A disk on a file system that has holes.
#[cfg(target_os = "linux")]
fn disk_with_holes() -> Disk {
    use rustix::fs::{memfd_create, MemfdFlags};
    let file = File::from(memfd_create("disk", MemfdFlags::CLOEXEC).unwrap());
    file.write_all_at(&[7; 64 * 512], 0).unwrap();
    let mut disk = Disk::new(false);
    disk.blk = Blk::new(file.try_clone().unwrap(), false).unwrap();
    disk.file = file;
    disk
}

#[test]
#[cfg(target_os = "linux")]
fn makes_holes_of_what_is_discarded_or_may_be() {
    use std::os::unix::fs::MetadataExt;
    let blocks = |disk: &Disk| disk.file.metadata().unwrap().blocks();
    for (kind, flags, frees) in [
        (DISCARD, 0, true),
        (WRITE_ZEROES, 1, true),
        (WRITE_ZEROES, 0, false),
    ] {
        let mut disk = disk_with_holes();
        let before = blocks(&disk);
        disk.bench.guest.write(DATA, &segment(16, 32, flags));
        assert_eq!(disk.request(kind, 0, &[(DATA, 16, 0)]), OK);
        assert_eq!(blocks(&disk) < before, frees, "{kind} {flags}");
        for (sector, byte) in [(15, 7), (16, 0), (47, 0), (48, 7)] {
            assert_eq!(disk.sector(sector), [byte; 512], "{kind} {flags}");
        }
        assert_eq!(disk.file.metadata().unwrap().len(), 64 * 512);
    }
}

#[test]
fn discards_nothing_but_what_it_is_told() {
    let mut disk = Disk::new(false);
    for (sector, sectors, flags, len, status) in [
        (4, 2, 0, 16, OK),
        (7, 0, 0, 16, OK),
        // Not for this one (virtio 1.2 §5.2.6.2).
        (8, 1, 1, 16, UNSUPP),
        (8, 1, 2, 16, UNSUPP),
        (8, 1, 0, 15, IOERR),
        (8, 1, 0, 32, IOERR),
        (SECTORS - 1, 2, 0, 16, IOERR),
        (8, u32::MAX, 0, 16, IOERR),
        (u64::MAX, 1, 0, 16, IOERR),
    ] {
        let segment = segment(sector, sectors, flags);
        disk.bench.guest.write(DATA, &segment);
        assert_eq!(disk.request(DISCARD, 0, &[(DATA, len, 0)]), status);
    }
    for sector in [0, 3, 6, 7, 8, SECTORS - 1] {
        assert_eq!(disk.sector(sector), [sector as u8 + 1; 512]);
    }
}

#[test]
fn zeroes_sectors() {
    let mut disk = Disk::new(false);
    for (sector, sectors, flags, len, status) in [
        (4, 2, 1, 16, OK),
        (0, 0, 0, 16, OK),
        (0, 1, 2, 16, UNSUPP),
        (0, 1, 0, 15, IOERR),
        (0, 1, 0, 32, IOERR),
        (SECTORS, 1, 0, 16, IOERR),
        (0, MAX_WRITE_ZEROES_SECTORS + 1, 0, 16, IOERR),
        (u64::MAX, 1, 0, 16, IOERR),
    ] {
        disk.bench
            .guest
            .write(DATA, &segment(sector, sectors, flags));
        assert_eq!(disk.request(WRITE_ZEROES, 0, &[(DATA, len, 0)]), status);
    }
    assert_eq!([disk.sector(4), disk.sector(5)].concat(), [0; 1024]);
    for sector in [0, 3, 6, SECTORS - 1] {
        assert_eq!(disk.sector(sector), [sector as u8 + 1; 512]);
    }
}

#[test]
fn a_read_only_disk_does_not_change() {
    let mut disk = Disk::new(true);
    assert!(disk.blk.features().bits() & F_RO != 0);
    assert!(disk.blk.features().bits() & (F_DISCARD | F_WRITE_ZEROES) == 0);
    assert_eq!(disk.request(OUT, 0, &[(DATA, 512, 0)]), IOERR);
    for kind in [DISCARD, WRITE_ZEROES] {
        disk.bench.guest.write(DATA, &segment(0, 1, 0));
        assert_eq!(disk.request(kind, 0, &[(DATA, 16, 0)]), UNSUPP);
    }
    assert_eq!(disk.sector(0), [1; 512]);
    assert_eq!(disk.request(IN, 0, &[(DATA, 512, WRITE)]), OK);
    assert_eq!(disk.request(FLUSH, 0, &[]), OK);
}

#[test]
fn never_acknowledges_a_write_or_flush_that_failed() {
    let mut disk = Disk::new(false);
    // Written through a descriptor that cannot write.
    let path = std::env::temp_dir().join(format!("vhost-guest-ro-{}", std::process::id()));
    std::fs::write(&path, [0; 4096]).unwrap();
    let file = File::open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    disk.blk = Blk::new(file, false).unwrap();
    assert_eq!(disk.request(OUT, 0, &[(DATA, 512, 0)]), IOERR);
}

#[test]
fn writes_through_until_the_driver_can_flush() {
    let mut disk = Disk::new(false);
    assert!(disk.blk.flushes);
    disk.blk.reset();
    assert!(!disk.blk.flushes);
    assert_eq!(disk.request(OUT, 0, &[(DATA, 512, 0)]), OK);
    assert_eq!(disk.sector(0), [0; 512]);
    disk.blk
        .set_features(VirtioFeatures::from_bits_retain(F_FLUSH));
    assert!(disk.blk.flushes);
}

/// The next process with the same file, vring and record of its requests.
fn restart(disk: &mut Disk, used: u16) {
    let inflight = vhost_guest_msg::Inflight::new(0x140, 0x1_0000, 1, 16).unwrap();
    let Bench {
        guest,
        vring,
        memory,
    } = &mut disk.bench;
    *vring = Default::default();
    vring.place = Some(crate::inflight::Place { inflight, index: 0 });
    assert!(vring.set_num(16) && vring.set_base(used.into()));
    assert!(vring.set_address(guest.address(0), memory));
    assert!(vring.start(memory, VirtioFeatures::VERSION_1));
    vring.enabled = true;
}

#[test]
fn survives_a_crash_before_every_single_store() {
    for stores in 0.. {
        let mut disk = Disk::new(false);
        restart(&mut disk, 0);
        disk.header(OUT, 5);
        disk.bench.guest.write(HEADER + 16, &[0x5a; 512]);
        let mut header = [0; 16];
        header[8] = 6;
        disk.bench.guest.write(HEADER + 0x400, &header);
        disk.bench.guest.write(STATUS, &[0xee; 2]);
        let write = [(HEADER, 528, 0), (STATUS, 1, WRITE)];
        let read = [
            (HEADER + 0x400, 16, 0),
            (DATA, 512, WRITE),
            (STATUS + 1, 1, WRITE),
        ];
        let heads = [disk.bench.guest.add(&write), disk.bench.guest.add(&read)];
        let (blk, bench) = (&mut disk.blk, &mut disk.bench);
        let crashed = crate::crash::after(stores, || blk.process(0, &mut bench.ring())).is_none();
        let mut used: Vec<u32> = std::iter::from_fn(|| disk.bench.guest.used())
            .map(|(head, _)| head)
            .collect();
        restart(&mut disk, used.len() as u16);
        disk.blk.process(0, &mut disk.bench.ring());
        used.extend(std::iter::from_fn(|| disk.bench.guest.used()).map(|(head, _)| head));
        assert_eq!(used, heads.map(u32::from), "{stores} stores");
        assert_eq!(disk.bench.guest.read(STATUS, 2), [OK, OK]);
        assert_eq!(disk.sector(5), [0x5a; 512]);
        assert_eq!(disk.bench.guest.read(DATA, 512), [7; 512]);
        if !crashed {
            assert!(stores > 64);
            return;
        }
    }
}
