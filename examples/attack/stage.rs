// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is attacked: the device in a machine, or the double.

use std::os::unix::net::UnixListener;
use std::sync::Arc;

use super::double::Double;
use super::guest::Guest;
use super::machine::{start_event_loop, Machine, Setup};
use super::victim::Victim;
use crate::loopback::failure::{Context, Failure};
use crate::vmm::Slots;

/// What is attacked.
pub enum Stage {
    /// The device.
    Device(Arc<Machine>),
    /// The double.
    Double(Arc<Double>),
}

impl Stage {
    /// Makes it, for the frontends of `listener`, with a guest that serves.
    pub fn set(
        listener: UnixListener,
        setup: &Setup,
        double: bool,
    ) -> Result<(Self, Guest), Failure> {
        let stage = match double {
            true => Self::Double(Double::start(listener, setup).context("the double")?),
            false => {
                let machine = Machine::new(listener, setup).context("the machine")?;
                Self::Device(Arc::new(machine))
            }
        };
        if let (Self::Device(machine), true) = (&stage, setup.event_loop) {
            start_event_loop(machine).context("the event loop")?;
        }
        let guest = stage.boot()?;
        Ok((stage, guest))
    }

    /// A guest that serves.
    pub fn boot(&self) -> Result<Guest, Failure> {
        match self {
            Self::Device(machine) => Guest::boot(machine),
            // It has a driver that says yes, and that nobody can stop.
            Self::Double(_) => Ok(Guest::without_driver(true)),
        }
    }

    /// What vCPUs and the VMM use.
    pub fn victim(&self) -> Arc<dyn Victim> {
        match self {
            Self::Device(machine) => machine.clone(),
            Self::Double(double) => double.clone(),
        }
    }

    /// What the guest has of the frontend's memory, where it is not KVM's.
    pub fn slots(&self) -> Option<Arc<Slots>> {
        match self {
            Self::Device(machine) => machine.slots(),
            Self::Double(double) => double.slots(),
        }
    }
}
