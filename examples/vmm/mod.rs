// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A small userspace VMM: one PCI bus with a vhost-guest device, guest memory,
//! and an emulated guest with one vCPU, played by a thread.
//!
//! There is no KVM. What KVM does in the kernel for a real guest, the thread
//! that plays the vCPU does itself: it waits for the eventfds of interrupts
//! while it has nothing to do, and it signals the eventfd of a doorbell
//! when it stores there. So the VMM's own threads have as little to do as they
//! have on KVM.
//!
//! | of KVM's | here |
//! |---|---|
//! | `KVM_IRQFD` | [`InterruptController`] |
//! | `KVM_IOEVENTFD` | [`Doorbells`] |
//! | `KVM_SET_USER_MEMORY_REGION` | [`Arena`] |

mod doorbells;
mod eventfd;
mod interrupts;
mod sources;
mod window;

pub use doorbells::Doorbells;
pub use interrupts::InterruptController;
pub use window::Arena;
