// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A backend whose requests have an effect that cannot be done twice
//! unnoticed, done in another order than they were taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use vhost_guest_driver::{Backend, Chain, Ring};
use vhost_guest_msg::VirtioFeatures;

use crate::host::Fuse;
use crate::Noise;

pub const DEVICE_TYPE: u16 = 4;

/// What all lives of the backend have done.
#[derive(Debug, Default)]
pub struct Book {
    /// How often each request was done.
    pub done: BTreeMap<u32, u32>,
    /// Those that were given back to the guest.
    completed: BTreeSet<u32>,
    /// Those that were done by the last life.
    at_work: BTreeSet<u32>,
    /// Those that were done although they were complete, or twice in one
    /// life.
    pub repeated: Vec<u32>,
    /// Crashes of lives that had requests under way.
    pub hard_crashes: u32,
    /// Requests that were taken by the last life, and not completed.
    taken: usize,
}

/// The backend, in one of its lives.
pub struct Ledger {
    book: Arc<Mutex<Book>>,
    fuse: Fuse,
    noise: Noise,
}

impl Ledger {
    /// Another life.
    pub fn new(book: &Arc<Mutex<Book>>, fuse: &Fuse, seed: u64) -> Self {
        let mut last = book.lock().unwrap();
        last.hard_crashes += u32::from(last.taken > 0);
        last.at_work.clear();
        last.taken = 0;
        Self {
            book: book.clone(),
            fuse: fuse.clone(),
            noise: Noise::new(seed),
        }
    }

    fn handle<'m>(&mut self, ring: &mut Ring<'m>, mut chain: Chain<'m>) {
        // Nothing to read, where a ring has been mistaken.
        let tag = u32::from_le_bytes(chain.read_array().unwrap_or_default());
        self.fuse.step();
        self.book.lock().unwrap().note(tag);
        self.fuse.step();
        chain.write(&answer(tag).to_le_bytes());
        self.fuse.step();
        ring.complete(chain, 4);
        let mut book = self.book.lock().unwrap();
        book.completed.insert(tag);
        book.taken -= 1;
        drop(book);
        self.fuse.step();
    }
}

/// What a request is answered with.
pub fn answer(tag: u32) -> u32 {
    !tag
}

impl Book {
    fn note(&mut self, tag: u32) {
        *self.done.entry(tag).or_default() += 1;
        let again = !self.at_work.insert(tag);
        if again || self.completed.contains(&tag) {
            self.repeated.push(tag);
        }
    }
}

impl Backend for Ledger {
    fn device_type(&self) -> u16 {
        DEVICE_TYPE
    }

    fn features(&self) -> VirtioFeatures {
        VirtioFeatures::empty()
    }

    fn queues(&self) -> u16 {
        1
    }

    fn process(&mut self, _: u16, ring: &mut Ring<'_>) {
        loop {
            let depth = 1 + self.noise.below(5);
            let mut chains = Vec::new();
            for _ in 0..depth {
                let Some(chain) = ring.next_chain() else {
                    break;
                };
                chains.push(chain);
                self.book.lock().unwrap().taken += 1;
                self.fuse.step();
            }
            if chains.is_empty() {
                return;
            }
            while !chains.is_empty() {
                let at = self.noise.below(chains.len() as u64) as usize;
                let chain = chains.swap_remove(at);
                self.handle(ring, chain);
            }
        }
    }
}
