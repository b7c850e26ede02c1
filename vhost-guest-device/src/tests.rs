// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device as a whole, between hostile peers.

mod account;
mod admission;

mod blkio;
mod bus_reset;
mod channel;
mod conformance;
mod device_state;
mod event_loop;
mod eventfds;
mod frontends;
mod gates;
mod held_locks;
mod host_faults;
mod hostile_descriptors;
mod hostile_flow;
mod hostile_frontend;
mod hostile_guest;
mod hostile_reset;
mod hostile_waits;
mod inflight;
mod iotlb;
mod life_cycle;
mod limits;
mod log;
mod memory_map;
mod messages;
mod options;
mod pause;
mod peer;
mod prior_art;
mod qemu;
mod random;
mod replay;
mod requests;
mod reset_in_pieces;
mod resets;
pub(crate) mod rig;
mod session;
mod shrinking;
pub(crate) mod siege;
mod slow_slots;
mod snapshot;
mod snapshot_hostile;
mod stage;
mod start;
mod translation;
mod unwaitable;
mod vmm_choices;
mod vmm_faults;
