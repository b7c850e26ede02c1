// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The guest: a driver with a backend that does nothing with its rings, and
//! whatever else an attack has vCPUs do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use vhost_guest_driver::emulated::{Emulated, Platform};
use vhost_guest_driver::{Backend, Device, Ring, Server, Stop};
use vhost_guest_msg::VirtioFeatures;

use super::attacker::have_no_priority;
use super::machine::Machine;
use crate::loopback::failure::{Context, Failure};

/// A running guest.
pub struct Guest {
    /// It answers frontends.
    pub serves: bool,
    stop: Option<Stop>,
    flag: Arc<AtomicBool>,
    driver: Option<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
    faults: Faults,
}

/// What vCPUs found that is not as it has to be.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<Vec<String>>>);

impl Faults {
    /// Something is not.
    pub fn add(&self, fault: impl Into<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(fault.into());
    }

    fn take(&self) -> Vec<String> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *all)
    }
}

impl Guest {
    /// One whose vCPUs are to be added, and which answers frontends, or not.
    pub fn without_driver(serves: bool) -> Self {
        Self {
            serves,
            stop: None,
            flag: Arc::default(),
            driver: None,
            others: Vec::new(),
            faults: Faults::default(),
        }
    }

    /// One with a driver that serves.
    pub fn boot(machine: &Machine) -> Result<Self, Failure> {
        let mut guest = Self::without_driver(false);
        let platform = machine.platform().context("memory of the guest")?;
        let vrings = machine.setup().vrings;
        let (ready, started) = channel();
        let faults = guest.faults.clone();
        guest.driver = Some(thread::spawn(move || {
            if let Err(error) = serve(platform, vrings, &ready) {
                faults.add(format!("the guest's driver ended: {error}"));
            }
        }));
        let stop = started.recv();
        guest.stop = stop.ok();
        guest.serves = guest.stop.is_some();
        match guest.serves {
            true => Ok(guest),
            false => Err(Failure::Guest(guest.end().join("; "))),
        }
    }

    /// Another vCPU, which does this again and again.
    pub fn add_vcpu(&mut self, mut work: impl FnMut(&Faults) + Send + 'static) {
        let (flag, faults) = (self.flag.clone(), self.faults.clone());
        self.others.push(thread::spawn(move || {
            have_no_priority();
            while !flag.load(Ordering::Relaxed) {
                work(&faults);
            }
        }));
    }

    /// Stops the other vCPUs; what they found.
    pub fn end_others(&mut self) -> Vec<String> {
        self.flag.store(true, Ordering::Relaxed);
        for thread in self.others.drain(..) {
            let _ = thread.join();
        }
        self.faults.take()
    }

    /// Stops it; what vCPUs found.
    pub fn end(mut self) -> Vec<String> {
        if let Some(stop) = self.stop.take() {
            stop.stop();
        }
        if let Some(driver) = self.driver.take() {
            let _ = driver.join();
        }
        self.end_others()
    }
}

fn serve(
    platform: Platform,
    vrings: u16,
    ready: &Sender<Stop>,
) -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::open(Emulated::new(platform)?)?;
    let mut server = Server::new(device, Idle(vrings))?;
    let _ = ready.send(server.stop_handle());
    server.run()?;
    Ok(())
}

/// A backend that does nothing with its rings.
struct Idle(u16);

impl Backend for Idle {
    fn device_type(&self) -> u16 {
        2
    }

    fn features(&self) -> VirtioFeatures {
        VirtioFeatures::empty()
    }

    fn queues(&self) -> u16 {
        self.0
    }

    fn process(&mut self, _: u16, _: &mut Ring<'_>) {}
}
