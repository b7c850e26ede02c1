// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The transport on a directory that looks like a function's in sysfs.

use std::process;
use std::sync::atomic::AtomicU32;

use super::*;

/// The file `resource` of a vhost-guest device.
pub const RESOURCE: &str = "\
0x00000000fe000000 0x00000000fe003fff 0x0000000000140204
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x00000000fe004000 0x00000000fe004fff 0x0000000000140204
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000800000000 0x00000008001fffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000000000000 0x0000000000000000 0x0000000000000000
";

/// A directory like /sys/bus/pci/devices, removed in the end.
pub struct FakeSysfs(PathBuf);

impl FakeSysfs {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("vhost-guest-sysfs-{}-{number}", process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn function(&self, name: &str, vendor: &str, device: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir(&path).unwrap();
        let ids = [("vendor", vendor), ("device", device), ("enable", "0")];
        for (file, content) in ids.into_iter().chain([("resource", RESOURCE)]) {
            fs::write(path.join(file), content).unwrap();
        }
        fs::write(path.join("config"), [0; 256]).unwrap();
        for (file, len) in [
            ("resource0", 0x4000),
            ("resource2", 0x1000),
            ("resource4", 0x20_0000),
            ("resource4_wc", 0x20_0000),
        ] {
            File::create(path.join(file)).unwrap().set_len(len).unwrap();
        }
        path
    }
}

impl Drop for FakeSysfs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn dma() -> DmaMemory {
    DmaMemory {
        memory: Window::allocate(0x4000).unwrap(),
        address: 0x1000_0000,
    }
}

fn open(sysfs: &FakeSysfs, options: Options) -> (PathBuf, Sysfs) {
    let place = sysfs.function("0000:00:03.0", "0x1af4\n", "0x1075\n");
    let transport = Sysfs::with_dma(&place, dma(), options).unwrap();
    (place, transport)
}

#[test]
fn enables_the_function_and_reaches_its_registers() {
    let sysfs = FakeSysfs::new();
    let (place, transport) = open(&sysfs, Options::default());
    assert_eq!(fs::read(place.join("enable")).unwrap(), b"1");
    transport.config_write(4, &[6, 0]);
    assert_eq!(fs::read(place.join("config")).unwrap()[4], 6);
    let mut config = [0; 4];
    transport.config_read(4, &mut config);
    assert_eq!(config, [6, 0, 0, 0]);
    for len in [1, 2, 4, 8] {
        let data = &[1, 2, 3, 4, 5, 6, 7, 8][..len];
        transport.bar_write(0, 64, data);
        let mut back = vec![0; len];
        transport.bar_read(0, 64, &mut back);
        assert_eq!(back, data);
        let file = fs::read(place.join("resource0")).unwrap();
        assert_eq!(file[64..64 + len], *data);
    }
}

#[test]
fn answers_like_a_bus_where_nothing_is() {
    let sysfs = FakeSysfs::new();
    let (_, transport) = open(&sysfs, Options::default());
    let mut data = [0; 4];
    transport.config_read(256, &mut data);
    assert_eq!(data, [0xff; 4]);
    for (bar, offset) in [(0, 0x4000), (1, 0), (2, u64::MAX - 3), (9, 0), (0, 2)] {
        data = [0; 4];
        transport.bar_read(bar, offset, &mut data);
        assert_eq!(data, [0xff; 4], "BAR {bar} at {offset:#x}");
        transport.bar_write(bar, offset, &data);
    }
    assert_eq!(
        [0, 1, 2, 6].map(|bar| transport.bar_len(bar)),
        [0x4000, 0, 0x1000, 0]
    );
}

#[test]
fn maps_the_window_write_combining_if_it_can() {
    let sysfs = FakeSysfs::new();
    let (place, transport) = open(&sysfs, Options::default());
    let window = transport.window(4, 0, 0x20_0000).unwrap();
    window.store_le(0x1000, 7u8).unwrap();
    drop(transport);
    assert_eq!(window.load_le::<u8>(0x1000).unwrap(), 7);
    assert_eq!(fs::read(place.join("resource4_wc")).unwrap()[0x1000], 7);
    assert_eq!(fs::read(place.join("resource4")).unwrap()[0x1000], 0);
}

#[test]
fn rejects_windows_outside_of_bars() {
    let sysfs = FakeSysfs::new();
    let (_, transport) = open(&sysfs, Options::default());
    assert!(transport.window(4, 0x1000, 0x20_0000).is_none());
    assert!(transport.window(4, u64::MAX, 2).is_none());
    assert!(transport.window(5, 0, 1).is_none());
    assert!(transport.window(200, 0, 1).is_none());
}

#[test]
fn hands_out_dma_memory_once() {
    let sysfs = FakeSysfs::new();
    let (_, transport) = open(&sysfs, Options::default());
    let first = transport.allocate_dma(1).unwrap();
    let second = transport.allocate_dma(0x3000).unwrap();
    assert_eq!(first.address, 0x1000_0000);
    assert_eq!(second.address, 0x1000_1000);
    assert_eq!(second.memory.len(), 0x3000);
    assert!(transport.allocate_dma(1).is_none());
    assert!(transport.allocate_dma(usize::MAX).is_none());
}

#[test]
fn sends_interrupts_only_where_they_are_wanted() {
    let sysfs = FakeSysfs::new();
    let (place, transport) = open(&sysfs, Options::default());
    assert_eq!(transport.interrupts(9), InterruptMode::Polling);
    let options = Options {
        interrupts: Some(COUNTED_INTERRUPT),
        ..Options::default()
    };
    let transport = Sysfs::with_dma(&place, dma(), options).unwrap();
    let mode = transport.interrupts(9);
    assert_eq!(mode, InterruptMode::Unheard { vectors: 9 });
    assert_eq!(transport.msi_message(3), COUNTED_INTERRUPT);
}

#[test]
fn never_waits_for_an_interrupt() {
    let sysfs = FakeSysfs::new();
    let (place, transport) = open(&sysfs, Options::default());
    assert!(transport.wait(None).is_empty());
    let options = Options {
        idle: Duration::MAX,
        ..Options::default()
    };
    let transport = Sysfs::with_dma(&place, dma(), options).unwrap();
    assert!(transport.wait(Some(Duration::ZERO)).is_empty());
    // Woken before it sleeps, it does not sleep.
    transport.waker().wake();
    transport.wait(None);
}

#[test]
fn sleeps_longer_until_there_is_work() {
    let sysfs = FakeSysfs::new();
    let place = open(&sysfs, Options::default()).0;
    let options = Options {
        idle: Duration::from_micros(300),
        ..Options::default()
    };
    let transport = Sysfs::with_dma(&place, dma(), options).unwrap();
    let sleeps = |count| -> Vec<_> {
        let sleeps = (0..count).map(|_| transport.next_sleep(None).as_micros());
        sleeps.collect()
    };
    assert_eq!(sleeps(5), [50, 100, 200, 300, 300]);
    transport.wait(Some(Duration::ZERO));
    assert_eq!(sleeps(2), [50, 100]);
    let timeout = Duration::from_micros(10);
    assert_eq!(transport.next_sleep(Some(timeout)), timeout);
    // The default does not change, and zero stays zero.
    let transport = Sysfs::with_dma(&place, dma(), Options::default()).unwrap();
    assert_eq!(transport.next_sleep(None), transport.next_sleep(None));
    let options = Options {
        idle: Duration::ZERO,
        ..Options::default()
    };
    let transport = Sysfs::with_dma(&place, dma(), options).unwrap();
    assert_eq!(transport.next_sleep(None), Duration::ZERO);
}

#[test]
fn names_the_file_that_is_missing() {
    let sysfs = FakeSysfs::new();
    let place = sysfs.function("0000:00:03.0", "0x1af4\n", "0x1075\n");
    fs::remove_file(place.join("resource2")).unwrap();
    let outcome = Sysfs::with_dma(&place, dma(), Options::default());
    let error = outcome.err().unwrap().to_string();
    assert!(error.contains("resource2"), "{error}");
}
