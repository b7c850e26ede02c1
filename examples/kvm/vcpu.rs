// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The vCPU: a thread that runs the guest and serves its exits.

use std::os::raw::{c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::signal::{register_signal_handler, Killable, SIGRTMIN};

use super::bus::{Bus, Effect};
use super::{Error, Memory};

/// How long a stopped vCPU is given before it is asked again.
const PATIENCE: Duration = Duration::from_millis(1);

/// Why a vCPU runs no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest reset or shut down its machine.
    Guest,
    /// [`Vcpu::stop`].
    Stopped,
}

/// A vCPU that runs.
pub struct Vcpu {
    thread: JoinHandle<Result<Ending, Error>>,
    stop: Arc<AtomicBool>,
}

impl Vcpu {
    /// Starts a thread that runs the vCPU. It keeps the guest's memory for as
    /// long as that takes.
    pub fn start(mut fd: VcpuFd, bus: Arc<Bus>, memory: Memory) -> Result<Self, Error> {
        extern "C" fn ignore(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {}
        // The signal has to be handled, if only by nothing, to end `KVM_RUN`.
        register_signal_handler(SIGRTMIN(), ignore).map_err(Error::kvm("signal handler"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().name("vcpu0".to_owned()).spawn({
            let stop = Arc::clone(&stop);
            move || {
                let outcome = run(&mut fd, &bus, &stop);
                drop((fd, memory));
                outcome
            }
        })?;
        Ok(Self { thread, stop })
    }

    /// Whether the vCPU has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until the vCPU ends by itself.
    pub fn wait(self) -> Result<Ending, Error> {
        let panicked = |_| Err(Error::Vcpu("its thread panicked".to_owned()));
        self.thread.join().unwrap_or_else(panicked)
    }

    /// Stops the vCPU.
    pub fn stop(self) -> Result<Ending, Error> {
        self.stop.store(true, Ordering::SeqCst);
        // A signal that comes between the look at `stop` and `KVM_RUN` is
        // lost, so one is not enough.
        while !self.thread.is_finished() {
            let _ = self.thread.kill(SIGRTMIN());
            thread::sleep(PATIENCE);
        }
        self.wait()
    }
}

fn run(fd: &mut VcpuFd, bus: &Bus, stop: &AtomicBool) -> Result<Ending, Error> {
    while !stop.load(Ordering::SeqCst) {
        match fd.run() {
            Ok(exit) => {
                if let Some(ending) = serve(exit, bus)? {
                    return Ok(ending);
                }
            }
            Err(error) => match error.errno() {
                libc::EINTR | libc::EAGAIN => {}
                // Memory that a frontend shared, and that is not there: it is
                // taken out of the window, and what the guest did is done again.
                // KVM does not say where, before `KVM_CAP_MEMORY_FAULT_INFO`.
                libc::EFAULT if bus.memory_fault(None) => {}
                _ => return Err(Error::Vcpu(error.to_string())),
            },
        }
    }
    Ok(Ending::Stopped)
}

fn serve(exit: VcpuExit<'_>, bus: &Bus) -> Result<Option<Ending>, Error> {
    match exit {
        VcpuExit::MmioRead(address, data) => bus.read(address, data),
        VcpuExit::MmioWrite(address, data) => bus.write(address, data),
        VcpuExit::IoIn(port, data) => bus.port_read(port, data),
        VcpuExit::IoOut(port, data) => {
            if bus.port_write(port, data) == Effect::End {
                return Ok(Some(Ending::Guest));
            }
        }
        VcpuExit::MemoryFault { gpa, .. } => {
            if !bus.memory_fault(Some(gpa)) {
                return Err(Error::Vcpu(format!("no memory at {gpa:#x}")));
            }
        }
        VcpuExit::Intr | VcpuExit::IrqWindowOpen => {}
        VcpuExit::Shutdown => {
            // Some kernels reset this way, and some just crash.
            eprintln!("kvm: the guest ended with a triple fault");
            return Ok(Some(Ending::Guest));
        }
        VcpuExit::SystemEvent(..) | VcpuExit::Hlt => return Ok(Some(Ending::Guest)),
        exit => return Err(Error::Vcpu(format!("{exit:?}"))),
    }
    Ok(None)
}
