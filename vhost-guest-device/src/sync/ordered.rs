// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A lock that is given to threads in the order in which they ask for it.
//!
//! With the standard library's, a thread that unlocks and locks again is faster
//! than one that has to be woken up. A worker with work without end would keep
//! every vCPU waiting, and vCPUs that hammer registers the VMM.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[cfg(test)]
use {super::testing, std::panic::Location};

/// A value behind a lock that is first come, first served.
///
/// A thread that panicked while it held the lock takes no other thread with it.
#[derive(Debug)]
pub(crate) struct Ordered<T> {
    queue: Mutex<Queue>,
    next: Condvar,
    value: Mutex<T>,
    #[cfg(test)]
    record: testing::Record,
}

/// As at a counter where numbers are drawn. They may wrap around: no two threads
/// that wait have the same.
#[derive(Debug, Default)]
struct Queue {
    /// The number that is drawn next.
    free: u64,
    /// The number whose turn it is.
    served: u64,
}

impl<T> Ordered<T> {
    /// Puts a value behind a lock, by the name of its room. In tests, nobody may hold
    /// it for longer than `bound`.
    #[cfg_attr(not(test), expect(unused_variables, reason = "recorded in tests only"))]
    pub(crate) fn new(name: &'static str, bound: Duration, value: T) -> Self {
        Self {
            queue: Mutex::default(),
            next: Condvar::new(),
            value: Mutex::new(value),
            #[cfg(test)]
            record: testing::Record::new(name, bound),
        }
    }

    /// Takes the lock when everybody who asked for it before has had it.
    #[cfg_attr(test, track_caller)]
    pub(crate) fn lock(&self) -> OrderedGuard<'_, T> {
        #[cfg(test)]
        let asked = std::time::Instant::now();
        let mut queue = self.queue();
        let number = queue.free;
        queue.free = number.wrapping_add(1);
        while queue.served != number {
            queue = self
                .next
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(queue);
        let turn = Turn {
            queue: &self.queue,
            next: &self.next,
        };
        // Nobody else has this number.
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        OrderedGuard {
            #[cfg(test)]
            _hold: Hold {
                record: &self.record,
                since: self.record.taken(asked),
                by: Location::caller(),
            },
            value,
            _turn: turn,
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many threads have the lock or wait for it.
    #[cfg(test)]
    pub(crate) fn demand(&self) -> u64 {
        let queue = self.queue();
        queue.free.wrapping_sub(queue.served)
    }
}

/// The lock, until it is dropped.
#[derive(Debug)]
pub(crate) struct OrderedGuard<'a, T> {
    #[cfg(test)]
    _hold: Hold<'a>,
    // Unlocked first: whose turn is next must find it so.
    value: MutexGuard<'a, T>,
    _turn: Turn<'a>,
}

/// What is being recorded of a hold.
#[cfg(test)]
#[derive(Debug)]
struct Hold<'a> {
    record: &'a testing::Record,
    since: testing::Moment,
    by: &'static Location<'static>,
}

#[cfg(test)]
impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.record.given_back(self.since, self.by);
    }
}

impl<T> Deref for OrderedGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for OrderedGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

/// The turn of one thread, which is over when this is dropped.
#[derive(Debug)]
struct Turn<'a> {
    queue: &'a Mutex<Queue>,
    next: &'a Condvar,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.served = queue.served.wrapping_add(1);
        drop(queue);
        self.next.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{catch_unwind, AssertUnwindSafe};
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn serves_in_the_order_of_asking() {
        let lock = Arc::new(Ordered::new("a lock", Duration::MAX, Vec::new()));
        let held = lock.lock();
        let mut threads = Vec::new();
        for number in 0..8 {
            let waiting = Arc::clone(&lock);
            threads.push(thread::spawn(move || {
                // Who was served comes back behind all others.
                waiting.lock().push(number);
                waiting.lock().push(number + 100);
            }));
            while lock.demand() < number + 2 {
                thread::yield_now();
            }
        }
        drop(held);
        threads.into_iter().for_each(|t| t.join().unwrap());
        let first: Vec<_> = lock.lock().iter().copied().filter(|n| *n < 100).collect();
        assert_eq!(first, (0..8).collect::<Vec<_>>());
        assert_eq!(lock.demand(), 0);
    }

    #[test]
    fn survives_a_panic_and_numbers_that_wrap_around() {
        let lock = Ordered::new("a lock", Duration::MAX, 1);
        *lock.queue() = Queue {
            free: u64::MAX,
            served: u64::MAX,
        };
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let mut value = lock.lock();
            *value = 2;
            std::panic::resume_unwind(Box::new("quiet"));
        }));
        assert!(panicked.is_err());
        assert_eq!(*lock.lock(), 2);
        assert_eq!(lock.demand(), 0);
    }
}
