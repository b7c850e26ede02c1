// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What libFuzzer asks of a sanitizer to tell which code was reached, where there
//! is no sanitizer: places are told as addresses in the program's file, for others
//! to look up.

use std::ffi::{c_char, c_int, c_void};
use std::io::Write;

extern "C" {
    /// The linker's: where the program's file is in memory.
    static __executable_start: u8;
}

/// Writes the address of `pc` in the program's file as text, whatever `_format`
/// asks for (`sanitizer/common_interface_defs.h`).
///
/// # Safety
///
/// `text` is valid for writes of `size` bytes.
#[no_mangle]
pub unsafe extern "C" fn __sanitizer_symbolize_pc(
    pc: *mut c_void,
    _format: *const c_char,
    text: *mut c_char,
    size: usize,
) {
    let start = (&raw const __executable_start).addr();
    // SAFETY: the caller promises it. Bytes of text have no wrong values.
    let mut text = unsafe { std::slice::from_raw_parts_mut(text.cast::<u8>(), size) };
    // What does not fit is not told.
    let _ = write!(text, " {:#x}\0", pc.addr().wrapping_sub(start));
}

/// There is one program only, and its name is known.
#[no_mangle]
pub extern "C" fn __sanitizer_get_module_and_offset_for_pc(
    _pc: *mut c_void,
    _path: *mut c_char,
    _size: usize,
    _offset: *mut *mut c_void,
) -> c_int {
    0
}
