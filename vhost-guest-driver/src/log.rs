// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The dirty log: which pages the backend has written to while the
//! frontend's guest is migrated (vhost-user, migration).

use vhost_guest_msg::LogArea;

use crate::window::Window;

/// Bytes that a bit of the log stands for, whatever the guest's pages are.
const PAGE: u64 = 0x1000;

/// The log in the window: a bit per page, the lowest bit of the first byte
/// for guest physical address 0.
#[derive(Clone, Debug)]
pub(crate) struct DirtyLog {
    window: Window,
    area: LogArea,
}

impl DirtyLog {
    /// A log, or `None` if it is not inside the window.
    pub fn new(window: &Window, area: LogArea) -> Option<Self> {
        window.check(area.offset(), area.size()).ok()?;
        let window = window.clone();
        Some(Self { window, area })
    }

    /// The first and the last page of `len` bytes, not 0, at `address`, if
    /// the log has a bit for each.
    fn pages(&self, address: u64, len: u64) -> Option<(u64, u64)> {
        let last = address.checked_add(len - 1)? / PAGE;
        (last / 8 < self.area.size()).then_some((address / PAGE, last))
    }

    /// Whether there is a bit for each of `len` bytes at the guest physical
    /// `address`.
    pub fn covers(&self, address: u64, len: u64) -> bool {
        len == 0 || self.pages(address, len).is_some()
    }

    /// Marks the pages of `len` bytes at the guest physical `address`, which
    /// have been written; `false`, and nothing is marked, if the log is too
    /// short for them.
    ///
    /// Whoever takes a mark away reads what was written before it was set.
    pub fn mark(&self, address: u64, len: u64) -> bool {
        if len == 0 {
            return true;
        }
        let Some((first, last)) = self.pages(address, len) else {
            return false;
        };
        for byte in first / 8..=last / 8 {
            let low = if byte == first / 8 { first % 8 } else { 0 };
            let high = if byte == last / 8 { last % 8 } else { 7 };
            let bits = (0xff << low) & (0xff >> (7 - high));
            // The log is inside the window: `new` sees to that.
            let _ = self.window.set_bits(self.area.offset() + byte, bits);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFSET: u64 = 35;
    const LEN: usize = 64;

    fn log(size: u64) -> (Window, DirtyLog) {
        let window = Window::allocate(LEN).unwrap();
        let log = DirtyLog::new(&window, LogArea::new(size, OFFSET).unwrap()).unwrap();
        (window, log)
    }

    fn bytes(window: &Window) -> Vec<u8> {
        let mut bytes = vec![0; LEN];
        window.read(0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn marks_the_pages_that_were_written_and_no_others() {
        for first in 0..20 {
            for last in first..20 {
                for (into, short) in [(0, 0), (0xfff, 0xfff), (0, 0xfff), (17, 3)] {
                    let (window, log) = log(3);
                    let address = first * PAGE + into;
                    let end = (last + 1) * PAGE - short;
                    if end <= address {
                        continue;
                    }
                    assert!(log.mark(address, end - address));
                    let all = bytes(&window);
                    for (at, byte) in (0u64..).zip(&all) {
                        for bit in 0..8 {
                            let page = (at.wrapping_sub(OFFSET)).wrapping_mul(8) + bit;
                            let dirty = at >= OFFSET && (first..=last).contains(&page);
                            assert_eq!(byte >> bit & 1 == 1, dirty, "{address:#x} {end:#x}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn keeps_the_marks_of_others() {
        let (window, log) = log(1);
        window.store_le(OFFSET, 0x41u8).unwrap();
        assert!(log.mark(0x3000, 1) && log.mark(0x6000, 1));
        assert_eq!(window.load_le::<u8>(OFFSET), Ok(0x49));
    }

    #[test]
    fn never_marks_beyond_its_end() {
        let (window, log) = log(3);
        for (address, len) in [
            (24 * PAGE, 1),
            (24 * PAGE - 1, 2),
            (0, 24 * PAGE + 1),
            (0, u64::MAX),
            (u64::MAX, 1),
            (u64::MAX, 2),
            (u64::MAX, u64::MAX),
        ] {
            assert!(!log.covers(address, len) && !log.mark(address, len));
        }
        assert_eq!(bytes(&window), [0; LEN]);
        assert!(log.covers(0, 24 * PAGE) && log.mark(24 * PAGE - 1, 1));
    }

    #[test]
    fn writes_of_nothing_leave_no_mark() {
        let (window, log) = log(1);
        for address in [0, u64::MAX] {
            assert!(log.covers(address, 0) && log.mark(address, 0));
        }
        assert_eq!(bytes(&window), [0; LEN]);
    }

    #[test]
    fn rejects_logs_outside_the_window() {
        let window = Window::allocate(0x1000).unwrap();
        for (size, offset) in [
            (0x1001, 0),
            (1, 0x1000),
            (2, 0xfff),
            (u64::MAX, 0),
            (1, u64::MAX - 1),
        ] {
            let area = LogArea::new(size, offset).unwrap();
            assert!(DirtyLog::new(&window, area).is_none());
        }
    }
}
