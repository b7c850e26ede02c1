// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the device asks of the host for itself, and may be refused for want of
//! memory, descriptors or watches. In tests any of it may fail.

use rustix::io::Result;

/// Makes a call that the host may refuse.
pub(crate) fn ask<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    #[cfg(test)]
    failure::count()?;
    call()
}

/// One call that fails, of those of this process: for a test that has one of its
/// own.
#[cfg(test)]
pub(crate) mod failure {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use rustix::io::{Errno, Result};

    /// How many calls are before it, and how it fails.
    static NEXT: Mutex<Option<(usize, Errno)>> = Mutex::new(None);

    fn next() -> MutexGuard<'static, Option<(usize, Errno)>> {
        NEXT.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The call behind the next `calls` fails.
    pub(crate) fn after(calls: usize, errno: Errno) {
        *next() = Some((calls, errno));
    }

    /// No call fails any more. Tells whether one did.
    pub(crate) fn happened() -> bool {
        next().take().is_none()
    }

    pub(super) fn count() -> Result<()> {
        let mut next = next();
        match &mut *next {
            None => Ok(()),
            Some((0, errno)) => {
                let errno = *errno;
                *next = None;
                Err(errno)
            }
            Some((calls, _)) => {
                *calls -= 1;
                Ok(())
            }
        }
    }
}
