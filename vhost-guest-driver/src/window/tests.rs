// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::*;

#[test]
fn rejects_every_access_beyond_the_end() {
    let window = Window::allocate(24).unwrap();
    assert!(window.load_le::<u64>(16).is_ok());
    assert!(window.load_le::<u64>(24).is_err());
    assert!(window.load_le::<u8>(24).is_err());
    assert!(window.store_le(24, 0u8).is_err());
    assert!(window.load_le::<u32>(u64::MAX - 3).is_err());
    assert!(window.read(20, &mut [0; 5]).is_err());
    assert!(window.write(u64::MAX, &[0; 2]).is_err());
    assert!(window.check(0, 25).is_err());
    assert!(window.check(u64::MAX, u64::MAX).is_err());
    assert!(window.read(24, &mut []).is_ok());
}

#[test]
fn rejects_misaligned_words() {
    let window = Window::allocate(16).unwrap();
    assert!(window.load_le::<u16>(1).is_err());
    assert!(window.store_le(4, 0u64).is_err());
}

#[test]
fn copies_at_any_offset_and_length() {
    let window = Window::allocate(64).unwrap();
    for offset in 0..16 {
        for len in 0..32 {
            let data: Vec<u8> = (0..len).map(|i| (i * 7 + offset + 1) as u8).collect();
            window.write(0, &[0xee; 64]).unwrap();
            window.write(offset as u64, &data).unwrap();
            let mut all = [0; 64];
            window.read(0, &mut all).unwrap();
            assert!(all[..offset].iter().all(|b| *b == 0xee));
            assert_eq!(all[offset..offset + len], data[..]);
            assert!(all[offset + len..].iter().all(|b| *b == 0xee));
            let mut back = vec![0; len];
            window.read(offset as u64, &mut back).unwrap();
            assert_eq!(back, data);
        }
    }
}

#[test]
fn slices_see_the_same_memory_and_their_own_bounds() {
    let window = Window::allocate(64).unwrap();
    let slice = window.slice(16, 8).unwrap();
    slice.store_le(0, 0x1122_3344_5566_7788u64).unwrap();
    assert_eq!(window.load_le::<u64>(16).unwrap(), 0x1122_3344_5566_7788);
    assert!(slice.load_le::<u8>(8).is_err());
    assert!(window.slice(60, 8).is_err());
    assert!(window.slice(4, 8).is_err());
    drop(window);
    assert_eq!(slice.load_le::<u8>(0).unwrap(), 0x88);
}

#[test]
fn sets_bits_and_leaves_the_others() {
    let window = Window::allocate(8).unwrap();
    window.store_le(3, 0x12u8).unwrap();
    window.set_bits(3, 0x0a).unwrap();
    assert_eq!(window.load_le::<u64>(0), Ok(0x1a00_0000));
    assert!(window.set_bits(8, 1).is_err());
    assert_eq!((window.take_bits(3), window.take_bits(3)), (0x1a, 0));
}

#[test]
fn loses_no_bit_that_others_set_in_the_same_byte() {
    let window = Window::allocate(0x1_0000).unwrap();
    std::thread::scope(|scope| {
        for bits in [0x55, 0x80, 0x2a] {
            let window = &window;
            scope.spawn(move || {
                for byte in 0..window.len() {
                    window.set_bits(byte, bits).unwrap();
                }
            });
        }
    });
    let mut all = vec![0; 0x1_0000];
    window.read(0, &mut all).unwrap();
    assert!(all.iter().all(|byte| *byte == 0xff));
}

#[test]
fn leaves_alone_what_reads_as_all_ones() {
    // A page that cannot be written: an atomic instruction would fault.
    static ONES: [u64; 2] = [u64::MAX; 2];
    let base = NonNull::from(&ONES).cast();
    // SAFETY: the array lives for ever; the test shows that nothing is
    // stored, which is what its being a shared reference asks for.
    let window = unsafe { Window::from_raw(base, 16, None) }.unwrap();
    window.set_bits(5, 0x81).unwrap();
}

/// Two pieces of memory in a window of 64 KiB, at 4 KiB and 8 KiB.
struct Two(Window);

// SAFETY: the memory is the window's, which lives as long.
unsafe impl Pieces for Two {
    fn look(&self, offset: u64, access: &mut dyn FnMut(Option<NonNull<u8>>, u64)) {
        let Memory::Fixed { base, .. } = self.0.memory else {
            unreachable!("it was allocated in one piece");
        };
        match offset {
            0..0x1000 => access(None, 0x1000 - offset),
            0x1000..0x3000 => {
                let there = 0x1000 - offset % 0x1000;
                // SAFETY: the memory has two pages.
                access(Some(unsafe { base.add(offset as usize - 0x1000) }), there);
            }
            _ => access(None, 1),
        }
    }
}

#[test]
fn sees_pieces_and_ones_between_them() {
    let memory = Window::allocate(0x2000).unwrap();
    let window = Window::from_pieces(Arc::new(Two(memory.clone())), 0x1_0000);
    window.write(0xffc, &[7; 0x2008]).unwrap();
    let mut all = [0; 0x2008];
    window.read(0xffc, &mut all).unwrap();
    let ones = [0xff; 4];
    assert!(all.starts_with(&ones) && all.ends_with(&ones));
    assert!(all[4..0x2004].iter().all(|byte| *byte == 7));
    assert_eq!(memory.load_le::<u64>(0x1ff8), Ok(0x0707_0707_0707_0707));
    let slice = window.slice(0x1ff8, 16).unwrap();
    slice.store_le(8, 5_u32).unwrap();
    assert_eq!(memory.load_le::<u32>(0x1000), Ok(5));
    slice.set_bits(15, 0x80).unwrap();
    assert_eq!(memory.load_le::<u8>(0x1007), Ok(0x87));
    assert!(slice.load_le::<u8>(16).is_err());
    // Holes have no bits to set, and keep nothing.
    window.store_le(0x8000, 1_u64).unwrap();
    window.set_bits(0x8000, 1).unwrap();
    assert_eq!(window.load_le::<u64>(0x8000), Ok(u64::MAX));
    assert!(window.read(0xffff, &mut [0; 2]).is_err());
}

#[test]
fn rejects_a_misaligned_base_and_an_endless_length() {
    let memory = Window::allocate(16).unwrap();
    // SAFETY: nothing is accessed through windows that are refused.
    unsafe {
        let Memory::Fixed { base, .. } = memory.memory else {
            unreachable!("it was allocated in one piece");
        };
        assert!(Window::from_raw(base.add(4), 8, None).is_none());
        assert!(Window::from_raw(base, u64::MAX, None).is_none());
    }
    assert!(Window::allocate(0).is_none());
}
