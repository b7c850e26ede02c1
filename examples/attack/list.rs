// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The attacks, a file each.
//!
//! Each file begins with what the peer does and why it hurts, then has
//! `ATTACK`, and what the attacker's process does in a round.

mod channel_descriptor;
mod epoll_lock;
mod guest_chains;
mod guest_hammer;
mod huge_pages;
mod inode_lock;
mod io_lock;
mod lingering;
mod lost_races;
mod many_descriptors;
mod mappings;
mod no_huge_pages;
mod no_pages;
mod oob_descriptor;
mod punches;
mod slots;
mod slow_close;
mod truncation;
mod unwatchable;
mod waiters;
mod wakeup_paths;
mod watches;

use std::io;

use super::attacker::Strike;
use super::guest::Guest;
use super::machine::Setup;
use super::stage::Stage;
use crate::loopback::failure::Failure;

pub use mappings::map as map_for_mappings;

/// An attack.
pub struct Attack {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a line.
    pub what: &'static str,
    /// The VMM must not be privileged.
    pub unprivileged: bool,
    /// A setting of the kernel's that is chosen for the run, if it may be: a file
    /// below `/proc/sys`, and a number.
    pub knob: Option<(&'static str, u64)>,
    /// What it needs of a VMM.
    pub setup: Setup,
    /// What becomes of the guest: it may attack, too.
    pub guest: fn(&Stage, Guest, bool) -> Result<Guest, Failure>,
    /// Prepares the attacker's process, which may attack or behave.
    pub prepare: fn(bool) -> io::Result<Box<dyn Strike>>,
}

/// All attacks.
pub const ATTACKS: &[&Attack] = &[
    &io_lock::ATTACK,
    &epoll_lock::ATTACK,
    &channel_descriptor::ATTACK,
    &oob_descriptor::ATTACK,
    &many_descriptors::ATTACK,
    &slow_close::ATTACK,
    &wakeup_paths::ATTACK,
    &watches::ATTACK,
    &mappings::ATTACK,
    &punches::ATTACK,
    &inode_lock::ATTACK,
    &huge_pages::ATTACK,
    &no_pages::ATTACK,
    &no_huge_pages::ATTACK,
    &unwatchable::ATTACK,
    &truncation::ATTACK,
    &slots::ATTACK,
    &waiters::ATTACK,
    &lost_races::ATTACK,
    &guest_chains::ATTACK,
    &guest_hammer::ATTACK,
];

/// A guest that behaves.
fn behaves(_: &Stage, guest: Guest, _: bool) -> Result<Guest, Failure> {
    Ok(guest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `cargo xtask attack` goes by the files.
    #[test]
    fn every_file_with_an_attack_is_in_the_list() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/attack/list");
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let source = std::fs::read_to_string(&path).unwrap();
            if source.contains("\npub const ATTACK: Attack") {
                let name = path.file_stem().unwrap().to_string_lossy();
                files.push(name.replace('_', "-"));
            }
        }
        let mut names: Vec<_> = ATTACKS
            .iter()
            .map(|attack| attack.name.to_owned())
            .collect();
        files.sort();
        names.sort();
        assert_eq!(files, names);
    }
}
