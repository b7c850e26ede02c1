// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Scripts: what frontends send, in which order, with which flags. Each says
//! what it was written from.

mod cloud_hypervisor;
mod cloud_hypervisor_state;
mod crosvm;
mod dpdk;
mod libblkio;
mod openvmm;
mod qemu;
mod qemu_net;
mod qemu_others;
mod spdk;

use crate::memory::{Plan, Region};

/// The memory of a PC with 16 MiB, as QEMU describes it: one file, without the
/// range of the VGA card.
const PC: Plan = Plan {
    files: &[16 << 20],
    regions: &[
        Region {
            guest: 0,
            size: 0xa_0000,
            user: 0x7f39_abff_f000,
            file: 0,
            offset: 0,
        },
        Region {
            guest: 0xc_0000,
            size: 0xf4_0000,
            user: 0x7f39_ac0b_f000,
            file: 0,
            offset: 0xc_0000,
        },
    ],
    rings: 0x10_0000,
    num: 128,
};
