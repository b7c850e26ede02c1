// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Accesses to registers that are mapped: 1, 2, 4 or 8 bytes, each in one
//! load or store.

use crate::window::{Window, Word};

/// Loads `data.len()` bytes; whether there are any, so long and so aligned.
pub fn load(window: &Window, offset: u64, data: &mut [u8]) -> bool {
    fn word<W: Word, const N: usize>(
        window: &Window,
        offset: u64,
        data: &mut [u8],
        bytes: impl Fn(W) -> [u8; N],
    ) -> bool {
        let value = window.load_le::<W>(offset);
        if let Ok(value) = value {
            data.copy_from_slice(&bytes(value));
        }
        value.is_ok()
    }
    match data.len() {
        1 => word(window, offset, data, u8::to_le_bytes),
        2 => word(window, offset, data, u16::to_le_bytes),
        4 => word(window, offset, data, u32::to_le_bytes),
        8 => word(window, offset, data, u64::to_le_bytes),
        _ => false,
    }
}

/// Stores `data`; whether there is a place for it.
pub fn store(window: &Window, offset: u64, data: &[u8]) -> bool {
    let stored = match *data {
        [a] => window.store_le(offset, a),
        [a, b] => window.store_le(offset, u16::from_le_bytes([a, b])),
        [a, b, c, d] => window.store_le(offset, u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => {
            window.store_le(offset, u64::from_le_bytes([a, b, c, d, e, f, g, h]))
        }
        _ => return false,
    };
    stored.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_what_was_stored_in_words_only() {
        let window = Window::allocate(4096).unwrap();
        for len in [1, 2, 4, 8] {
            let data = &[1, 2, 3, 4, 5, 6, 7, 8][..len];
            assert!(store(&window, 64, data));
            let mut back = vec![0; len];
            assert!(load(&window, 64, &mut back));
            assert_eq!(back, data);
            assert!(!store(&window, 4096, data) && !load(&window, 4096, &mut back));
        }
        for len in [0, 3, 5, 9] {
            let mut data = vec![0; len];
            assert!(!store(&window, 0, &data) && !load(&window, 0, &mut data));
        }
        assert!(!store(&window, 2, &[0; 4]) && !load(&window, 2, &mut [0; 4]));
    }
}
