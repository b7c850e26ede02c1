// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask e2e net-migrate`: a VM goes from one network card to another,
//! while another VM sends to it.
//!
//! A part of what it gets stays in its socket's queue: in memory that only the
//! backend has written to, once the first pass of the migration is over. Nothing
//! but the dirty log tells QEMU of that.

mod bench;
mod card;
mod chain;

use super::steps::{self, Steps, Way};
use crate::arguments::Arguments;
use crate::error::Result;
use bench::Bench;

/// The ways: testpmd has the frontends' sockets, or the device has them.
const WAYS: [Way; 2] = ["control", "chain"];

pub const HELP: &str = "\
Boots two stock VMs (QEMU without KVM, Debian's cloud kernel) with network cards
(-netdev vhost-user, two pairs of queues, offloads) that a stock dpdk-testpmd
connects: first by itself, as a control, and then through the example `chain`, from
behind device and relay. Both times, one VM sends to the other one, which is
migrated meanwhile to a QEMU with another card: what it gets is what was sent, and
the sender hears by RARP where it is now. In the chain, it is counted that device
and relay sleep while frames pass.

Usage: cargo xtask e2e net-migrate [OPTIONS]

Options:
  --only WAY       control or chain (default: both)
  --control        The chain loses what testpmd marks in the dirty log: passes if
                   that ruins what the migrated VM has got

Logs and consoles are kept in target/e2e/.
";

pub fn run(arguments: &mut Arguments) -> Result<()> {
    let ways = steps::ways(arguments, WAYS)?;
    let lossy = arguments.flag("--control");
    arguments.finish()?;
    if lossy {
        return Bench::new(WAYS[1], true)?.run_lossy();
    }
    let mut steps = Steps::new(&ways);
    for way in ways {
        Bench::new(way, false)?.run(&mut steps)?;
    }
    print!("{}", steps.table()?);
    Ok(())
}
