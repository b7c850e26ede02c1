// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The transport, against a kernel that says what the tests want it to say.

use std::thread;

use super::abi::Request;
use super::fake::{capability, list, Fake, Noise, State, CAPS, MIB, MMAP, READ_WRITE};
use super::*;
use crate::vectors::MAX_VECTORS;

fn malformed(outcome: Result<Vfio, VfioError>, what: &str) {
    match outcome.err() {
        Some(VfioError::Malformed(found)) => assert!(found.contains(what), "{found}"),
        error => panic!("{what}: {error:?}"),
    }
}

#[test]
fn reaches_registers_and_configuration_space() {
    let fake = Fake::new();
    let vfio = fake.open().unwrap();
    assert_eq!(fake.state().resets, 1);
    for (bar, len) in [(0, 0x4000), (1, 0), (2, 0x1000), (4, 4 * MIB), (6, 0)] {
        assert_eq!(vfio.bar_len(bar), len);
    }
    for (region, len) in [(0, 1), (0, 2), (0, 4), (2, 8)] {
        let data = &[1, 2, 3, 4, 5, 6, 7, 8][..len];
        vfio.bar_write(region, 64, data);
        let (mut back, mut file) = (vec![0; len], vec![0; len]);
        vfio.bar_read(region, 64, &mut back);
        let at = (u64::from(region) << 40) + 64;
        fake.file.read_exact_at(&mut file, at).unwrap();
        assert_eq!((&*back, &*file), (data, data));
    }
    vfio.config_write(4, &[6, 0]);
    let (mut config, mut file) = ([0; 2], [0; 2]);
    vfio.config_read(4, &mut config);
    fake.file.read_exact_at(&mut file, (7 << 40) + 4).unwrap();
    assert_eq!((config, file), ([6, 0], [6, 0]));
}

#[test]
fn answers_like_a_bus_where_nothing_is() {
    let vfio = Fake::new().open().unwrap();
    let mut data = [0; 4];
    vfio.config_read(254, &mut data);
    assert_eq!(data, [0xff; 4]);
    vfio.config_write(254, &data);
    for (bar, offset) in [(0, 0x4000), (1, 0), (2, u64::MAX - 3), (9, 0), (0, 2)] {
        data = [0; 4];
        vfio.bar_read(bar, offset, &mut data);
        assert_eq!(data, [0xff; 4], "BAR {bar} at {offset:#x}");
        vfio.bar_write(bar, offset, &data);
    }
    assert!(vfio.window(4, MIB, 4 * MIB).is_none());
    assert!(vfio.window(4, u64::MAX, 2).is_none());
    assert!(vfio.window(1, 0, 1).is_none() && vfio.window(200, 0, 1).is_none());
}

#[test]
fn accesses_what_cannot_be_mapped_through_the_file() {
    let fake = Fake::new();
    {
        let regions = &mut fake.state().regions;
        regions[2].flags = READ_WRITE;
        // All but the page of the MSI-X table, as old kernels do.
        regions[0].flags |= CAPS;
        let areas = list(2, &[0, 0x1000, 0x2000, 0x2000]);
        regions[0].capabilities = capability(1, 0, &areas);
    }
    let vfio = fake.open().unwrap();
    for (bar, at) in [(2, 0x10), (2, 0xffc), (0, 0xffc), (0, 0x1008), (0, 0x3ffc)] {
        vfio.bar_write(bar, at, &[9, 8, 7, 6]);
        let (mut back, mut file) = ([0; 4], [0; 4]);
        vfio.bar_read(bar, at, &mut back);
        let place = (u64::from(bar) << 40) + at;
        fake.file.read_exact_at(&mut file, place).unwrap();
        assert_eq!((back, file), ([9, 8, 7, 6], [9, 8, 7, 6]), "{bar} {at:#x}");
    }
    // A window is memory, or it is none.
    assert!(vfio.window(2, 0, 8).is_none());
    assert!(vfio.window(0, 0x800, 0x1000).is_none());
    assert_eq!(vfio.window(0, 0x2000, 0x2000).unwrap().len(), 0x2000);
    let mut past = [0; 4];
    vfio.bar_read(2, 0xffe, &mut past);
    assert_eq!(past, [0xff; 4]);
}

#[test]
fn keeps_windows_when_it_is_gone() {
    let fake = Fake::new();
    let vfio = fake.open().unwrap();
    let window = vfio.window(4, MIB, MIB).unwrap();
    drop(vfio);
    window.store_le(8, 7u8).unwrap();
    let mut file = [0];
    fake.file
        .read_exact_at(&mut file, (4 << 40) + MIB + 8)
        .unwrap();
    assert_eq!(file, [7]);
}

#[test]
fn maps_memory_where_the_iommu_has_room() {
    let cases: [(u32, u64, &[u64], u64, u64); 6] = [
        // No pages and no ranges are told.
        (0, 0, &[], MIB, 512 << 10),
        (3, 0x1000, &[0, u64::MAX], MIB, 512 << 10),
        (3, 0x20_0000, &[0, u64::MAX], 2 * MIB, 2 * MIB),
        // The first one is too short, by a byte.
        (
            3,
            0x1000,
            &[MIB, MIB + 0x7_fffe, 4 * MIB, 5 * MIB],
            4 * MIB,
            512 << 10,
        ),
        // Long enough to the byte.
        (
            3,
            0x1000,
            &[4 * MIB, 4 * MIB + 0x7_ffff],
            4 * MIB,
            512 << 10,
        ),
        // Less than a page of ours.
        (3, 0x200, &[0x101_0001, 0x200_0000], 0x101_1000, 512 << 10),
    ];
    for (flags, pages, ranges, address, len) in cases {
        let fake = Fake::new();
        let words = list(ranges.len() as u32 / 2, ranges);
        fake.state().iommu = (flags, pages, capability(1, 0, &words));
        let vfio = fake.open().unwrap();
        assert_eq!(fake.state().mapped, [(address, len)]);
        assert!(vfio.is_behind_iommu());
        let first = vfio.allocate_dma(0x1001).unwrap();
        assert_eq!((first.address, first.memory.len()), (address, 0x2000));
        let start = first.memory.base().unwrap().addr().get() as u64;
        assert!(start.is_multiple_of(pages.max(0x1000)));
        let second = vfio.allocate_dma(1).unwrap();
        assert_eq!(second.address, address + 0x2000);
        assert!(vfio.allocate_dma(2 << 20).is_none());
    }
}

#[test]
fn has_memory_for_all_queues_of_a_device() {
    let vfio = Fake::new().open().unwrap();
    assert!(vfio.allocate_dma(6 * crate::queue::QUEUE_LEN).is_some());
}

#[test]
fn rejects_an_iommu_without_room() {
    let with = |pages, ranges: &[u64]| {
        Fake::with(|state| {
            let words = list(ranges.len() as u32 / 2, ranges);
            state.iommu = (3, pages, capability(1, 0, &words));
        })
    };
    for ranges in [
        &[][..],
        &[0, MIB],
        &[u64::MAX - 0xfff, u64::MAX],
        // Backwards.
        &[8 * MIB, 4 * MIB],
    ] {
        let outcome = with(0x1000, ranges);
        assert!(matches!(outcome, Err(VfioError::NoRange)), "{ranges:x?}");
    }
    // Long enough for the memory, but not for whole pages.
    let outcome = with(0x20_0000, &[2 * MIB, 3 * MIB - 1]);
    assert!(matches!(outcome, Err(VfioError::NoRange)));
    malformed(with(0, &[0, u64::MAX]), "no pages");
    malformed(with(1 << 30, &[0, u64::MAX]), "too large");
    malformed(with(1 << 63, &[0, u64::MAX]), "too large");
}

#[test]
fn rejects_unsound_regions() {
    let with = |index: usize, offset, size, flags| {
        Fake::with(|state| {
            let region = &mut state.regions[index];
            (region.offset, region.size) = (offset, size);
            region.flags = flags;
        })
    };
    let mapped = READ_WRITE | MMAP;
    malformed(with(0, u64::MAX - 0xfff, 0x2000, mapped), "does not end");
    malformed(with(0, 0, u64::MAX, mapped), "does not end");
    malformed(with(4, i64::MAX as u64 - 0xffe, 0x1000, READ_WRITE), "end");
    malformed(with(0, 0x800, 0x1000, mapped), "not of pages");
    // Each in the other, equal, and by the last byte.
    malformed(with(0, 2 << 40, 0x1000, mapped), "overlap");
    malformed(with(2, 0x1000, 0x1000, mapped), "overlap");
    malformed(with(7, (2 << 40) + 0xfff, 256, READ_WRITE), "overlap");
    malformed(with(7, 7 << 40, 255, READ_WRITE), "256 bytes");
    malformed(with(7, 7 << 40, 256, 1), "256 bytes");
    malformed(Fake::with(|state| state.num_regions = 7), "configuration");
    // Not to be written, or of no size, is not to be used.
    assert_eq!(with(2, 0, 0x1000, 1 | MMAP).unwrap().bar_len(2), 0);
    assert_eq!(with(2, 0, 0, mapped).unwrap().bar_len(2), 0);
    // Neighbours do not overlap, on either side.
    with(2, 0x4000, 0x1000, mapped).unwrap();
    with(0, (2 << 40) + 0x1000, 0x1000, mapped).unwrap();
}

#[test]
fn rejects_a_region_larger_than_the_address_space() {
    let outcome = Fake::with(|state| {
        state.regions[4].offset = 8 << 40;
        state.regions[4].size = 1 << 62;
    });
    assert!(matches!(outcome, Err(VfioError::Map(4, _))));
}

#[test]
fn rejects_unsound_areas() {
    let with = |count: u32, areas: &[u64]| {
        let words = list(count, areas);
        Fake::with(|state| {
            state.regions[0].flags |= CAPS;
            state.regions[0].capabilities = capability(1, 0, &words);
        })
    };
    for areas in [
        [0x3000, 0x2000],
        [0x4000, 0x1000],
        [0x800, 0x1000],
        [0x1000, 0x800],
        [0x1000, 0],
        [u64::MAX - 0xfff, 0xfff],
    ] {
        malformed(with(1, &areas), "mappable");
    }
    malformed(with(1, &[0x1000, u64::MAX]), "do not end");
    malformed(with(u32::MAX, &[0, 0x1000]), "longer");
    malformed(with(300, &[0, 0x1000]), "longer");
    // What is there, but says nothing.
    malformed(with(2, &[0, 0x1000]), "mappable");
    assert!(with(0, &[]).unwrap().window(0, 0, 8).is_none());
}

#[test]
fn rejects_lists_of_capabilities_that_do_not_end() {
    let with = |capabilities: Vec<u8>| {
        Fake::with(move |state| {
            state.regions[0].flags |= CAPS;
            state.regions[0].capabilities = capabilities;
        })
    };
    malformed(with(capability(3, 32, &[])), "loop");
    let two = [capability(3, 40, &[]), capability(3, 32, &[])].concat();
    malformed(with(two), "loop");
    malformed(with(capability(3, 4094, &[])), "outside");
    malformed(with(capability(3, 4096, &[])), "outside");
    malformed(with(capability(3, u32::MAX, &[])), "outside");
    // Others come before, and are none of our business.
    let areas = list(1, &[0x1000, 0x1000]);
    let both = [capability(3, 40, &[]), capability(1, 0, &areas)].concat();
    let vfio = with(both).unwrap();
    assert!(vfio.window(0, 0, 8).is_none() && vfio.window(0, 0x1000, 8).is_some());
    assert!(with(capability(3, 0, &[]))
        .unwrap()
        .window(0, 0, 8)
        .is_some());
}

#[test]
fn rejects_more_capabilities_than_it_has_room_for() {
    let outcome = Fake::with(|state| {
        state.regions[0].flags |= CAPS;
        state.wanted = Some(4097);
    });
    malformed(outcome, "too many");
}

#[test]
fn hears_as_many_vectors_as_there_are() {
    let vectors = |change: fn(&mut State)| {
        let vfio = Fake::with(change).unwrap();
        match vfio.interrupts(u16::MAX) {
            InterruptMode::Platform { vectors } => vectors,
            mode => {
                assert_eq!(mode, InterruptMode::Polling);
                0
            }
        }
    };
    assert_eq!(vectors(|_| {}), 9);
    assert_eq!(vectors(|state| state.msix.1 = u32::MAX), MAX_VECTORS);
    assert_eq!(vectors(|state| state.most_vectors = 3), 3);
    assert_eq!(vectors(|state| state.msix.1 = 0), 0);
    // 263, 131, 65.
    let untold = |state: &mut State| {
        state.msix.1 = 263;
        (state.most_vectors, state.tells_vectors) = (130, false);
    };
    assert_eq!(vectors(untold), 65);
    // Not by eventfds, or none of the index.
    assert_eq!(vectors(|state| state.msix.0 = 8), 0);
    assert_eq!(vectors(|state| state.num_irqs = 2), 0);
    let vfio = Fake::new().open().unwrap();
    assert_eq!(vfio.interrupts(4), InterruptMode::Platform { vectors: 4 });
    assert_eq!(vfio.msi_message(0), MsiMessage::default());
}

#[test]
fn rejects_answers_that_get_nowhere() {
    for answer in [9, 10, u32::MAX] {
        let outcome = Fake::with(|state| state.answers = vec![answer]);
        let error = outcome.err().unwrap().to_string();
        assert!(error.contains("SET_IRQS"), "{error}");
    }
    let outcome = Fake::with(|state| (state.most_vectors, state.tells_vectors) = (0, false));
    assert!(outcome.err().unwrap().to_string().contains("SET_IRQS"));
    // Less and less is an answer, as long as it is less.
    Fake::with(|state| state.answers = vec![2, 5, 8]).unwrap();
}

#[test]
fn returns_each_vector_once_however_often_it_was_raised() {
    let fake = Fake::new();
    let vfio = fake.open().unwrap();
    assert!(vfio.wait(Some(Duration::ZERO)).is_empty());
    for vector in [8, 2, 8, 8] {
        fake.raise(vector);
    }
    let raised = vfio.wait(None);
    assert_eq!(raised.iter().collect::<Vec<_>>(), [2, 8]);
    assert!(vfio.wait(Some(Duration::ZERO)).is_empty());
    fake.raise(2);
    assert!(vfio.wait(None).contains(2));
    assert!(vfio.wait(Some(Duration::from_millis(1))).is_empty());
}

#[test]
fn returns_all_vectors_at_last() {
    let fake = Fake::new();
    fake.state().msix.1 = 300;
    let vfio = fake.open().unwrap();
    (0..300).for_each(|vector| fake.raise(vector));
    let mut raised = VectorSet::new();
    while raised.iter().count() < 300 {
        let more = vfio.wait(None);
        assert!(!more.is_empty());
        raised.merge(&more);
    }
    assert!(vfio.wait(Some(Duration::ZERO)).is_empty());
}

#[test]
fn sleeps_until_it_is_told() {
    let fake = Fake::new();
    let vfio = fake.open().unwrap();
    // Before the wait, and only for one.
    vfio.waker().wake();
    vfio.waker().wake();
    assert!(vfio.wait(None).is_empty());
    let waker = vfio.waker();
    let other = thread::spawn(move || {
        waker.wake();
        fake.raise(1);
    });
    let mut raised = VectorSet::new();
    while !raised.contains(1) {
        raised.merge(&vfio.wait(None));
    }
    other.join().unwrap();
}

#[test]
fn says_which_call_was_refused() {
    for (request, name) in [
        (Request::DeviceInfo, "DEVICE_GET_INFO"),
        (Request::RegionInfo, "REGION_INFO"),
        (Request::IrqInfo, "IRQ_INFO"),
        (Request::IommuInfo, "IOMMU_GET_INFO"),
        (Request::MapDma, "ulimit"),
        (Request::SetIrqs, "SET_IRQS"),
    ] {
        let error = Fake::with(|state| state.refused = Some(request));
        let error = error.err().unwrap().to_string();
        assert!(error.contains(name), "{error}");
    }
    // What is refused is not asked for again and again.
    let fake = Fake::new();
    fake.state().refused = Some(Request::SetIrqs);
    assert!(fake.open().is_err());
    assert_eq!(fake.state().attempts, 1);
    let error = Fake::with(|state| state.refuse_reset = true).err().unwrap();
    assert!(error.to_string().contains("RESET"));
}

#[test]
fn resets_a_function_that_can_be_reset() {
    let fake = Fake::new();
    fake.state().device_flags = 2;
    fake.open().unwrap();
    assert_eq!(fake.state().resets, 0);
    let outcome = Fake::with(|state| state.device_flags = 4);
    assert!(matches!(outcome, Err(VfioError::NotPci)));
}

#[test]
fn survives_whatever_the_kernel_says() {
    let (mut opened, mut refused) = (0, 0);
    for seed in 1..4000u64 {
        let file = rustix::fs::memfd_create("vfio", rustix::fs::MemfdFlags::CLOEXEC);
        let file = std::fs::File::from(file.unwrap());
        // Whatever ends is inside of it.
        file.set_len(i64::MAX as u64).unwrap();
        let calls = Noise::new(seed, file);
        match Vfio::new(Box::new(calls)) {
            Ok(vfio) => {
                opened += 1;
                for bar in 0..6 {
                    let len = vfio.bar_len(bar);
                    vfio.bar_read(bar, len.wrapping_sub(4), &mut [0; 4]);
                }
            }
            Err(_) => refused += 1,
        }
    }
    // Both ways were taken.
    assert!(opened > 100 && refused > 100, "{opened} {refused}");
}
