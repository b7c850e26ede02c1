// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Backends that crash before any store to memory that outlives them.

use std::cell::Cell;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

struct Crash;

thread_local! {
    static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// A store is about to happen.
pub(crate) fn step() {
    LEFT.set(match LEFT.get() {
        Some(0) => {
            LEFT.set(None);
            // Not a panic that is reported.
            resume_unwind(Box::new(Crash))
        }
        left => left.map(|left| left - 1),
    });
}

/// Lets `backend` make so many stores, and no more; `None` if it crashed.
pub(crate) fn after<R>(stores: u32, backend: impl FnOnce() -> R) -> Option<R> {
    LEFT.set(Some(stores));
    let result = catch_unwind(AssertUnwindSafe(backend));
    LEFT.set(None);
    match result {
        Ok(value) => Some(value),
        Err(panic) if panic.is::<Crash>() => None,
        Err(panic) => resume_unwind(panic),
    }
}

/// What somebody else does meanwhile, whose stores do not count.
pub(crate) fn aside<R>(other: impl FnOnce() -> R) -> R {
    let left = LEFT.take();
    let result = other();
    LEFT.set(left);
    result
}
