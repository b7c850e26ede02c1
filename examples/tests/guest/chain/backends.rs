// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Backends on the crate `vhost-user-backend`, in a process of their own: they can
//! be killed there.
//!
//! Two releases are tried: the current one, and one of the many that drop a kick
//! which comes before its vring is enabled (rust-vmm/vhost#247).

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use vmm_sys_util::tempdir::TempDir;

use crate::frontend::Frontend;

/// Vrings that the backends announce, as DPDK does.
pub const QUEUES: usize = 64;
/// Says what a process is to be, and where it listens.
const VARIABLE: &str = "VHOST_GUEST_TEST_BACKEND";

/// A release of the crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    Current,
    Old,
}

pub const RELEASES: [Release; 2] = [Release::Current, Release::Old];

/// A backend that answers each request, a number, with its complement.
macro_rules! backend {
    ($name:ident, $backend:ident, $vhost:ident, $queue:ident, $memory:ident, $sys:ident) => {
        mod $name {
            use std::io;
            use std::mem::ManuallyDrop;
            use std::path::Path;
            use std::sync::{Arc, RwLock};

            use $backend::{VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT};
            use $memory::{Bytes, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
            use $queue::QueueOwnedT;
            use $sys::epoll::EventSet;
            use $vhost::vhost_user::message::{
                VhostUserProtocolFeatures as Protocol, VhostUserVirtioFeatures,
            };

            #[derive(Default)]
            struct Complement(Option<GuestMemoryAtomic<GuestMemoryMmap>>);

            impl VhostUserBackendMut for Complement {
                type Bitmap = ();
                type Vring = VringRwLock;

                fn num_queues(&self) -> usize {
                    super::QUEUES
                }

                fn max_queue_size(&self) -> usize {
                    256
                }

                fn features(&self) -> u64 {
                    1 << 32 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
                }

                fn protocol_features(&self) -> Protocol {
                    Protocol::MQ | Protocol::REPLY_ACK | Protocol::CONFIGURE_MEM_SLOTS
                }

                fn set_event_idx(&mut self, _: bool) {}

                fn update_memory(
                    &mut self,
                    memory: GuestMemoryAtomic<GuestMemoryMmap>,
                ) -> io::Result<()> {
                    self.0 = Some(memory);
                    Ok(())
                }

                fn handle_event(
                    &mut self,
                    vring: u16,
                    _: EventSet,
                    vrings: &[VringRwLock],
                    _: usize,
                ) -> io::Result<()> {
                    let memory = self.0.as_ref().expect("no memory").memory();
                    let vring = &vrings[usize::from(vring)];
                    let chains: Vec<_> = {
                        let mut state = vring.get_mut();
                        let chains = state.get_queue_mut().iter(memory.clone());
                        chains.expect("a broken ring").collect()
                    };
                    for chain in chains {
                        let head = chain.head_index();
                        let mut number = [0; 4];
                        for part in chain.clone().readable().filter(|part| part.len() == 4) {
                            memory.read_slice(&mut number, part.addr()).unwrap();
                        }
                        let answer = number.map(|byte| !byte);
                        for part in chain.writable() {
                            memory.write_slice(&answer, part.addr()).unwrap();
                        }
                        vring.add_used(head, 4).unwrap();
                    }
                    vring.signal_used_queue()
                }
            }

            /// One frontend after the other.
            pub fn serve(socket: &Path) -> ! {
                loop {
                    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::<()>::new());
                    let backend = Arc::new(RwLock::new(Complement::default()));
                    let daemon = VhostUserDaemon::new("backend".into(), backend, memory);
                    // Its end would wait for that of its worker, which has none.
                    let mut daemon = ManuallyDrop::new(daemon.unwrap());
                    if let Err(error) = daemon.serve(socket) {
                        eprintln!("backend: {error}");
                    }
                }
            }
        }
    };
}

backend!(
    current,
    vhost_user_backend,
    vhost,
    virtio_queue,
    vm_memory,
    vmm_sys_util
);
backend!(
    old,
    vhost_user_backend_0_15,
    vhost_0_11,
    virtio_queue_0_12,
    vm_memory_0_14,
    vmm_sys_util_0_12
);

/// A process with a backend.
pub struct Backend(Child);

impl Backend {
    /// Starts one that is going to listen on `socket`.
    pub fn start(release: Release, socket: &Path) -> Self {
        let what = format!("{release:?}:{}", socket.display());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "chain::backends::runs_in_a_process_of_its_own"]);
        command.env(VARIABLE, what).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }

    /// Kills it, whatever it is doing.
    pub fn kill(self) {}
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// This is the process, if it was started as one; or a frontend of it on the same
/// host, without anything in between: the control for all others.
#[test]
fn runs_in_a_process_of_its_own() {
    if let Ok(what) = std::env::var(VARIABLE) {
        let (release, socket) = what.split_once(':').unwrap();
        let socket = PathBuf::from(socket);
        match release {
            "Current" => current::serve(&socket),
            _ => old::serve(&socket),
        }
    }
    for release in RELEASES {
        let directory = TempDir::new().unwrap();
        let socket = directory.as_path().join("backend.sock");
        let backend = Backend::start(release, &socket);
        let frontend = loop {
            match Frontend::connect(&socket) {
                Ok(frontend) => break frontend,
                Err(_) => std::thread::yield_now(),
            }
        };
        let mut vm = super::new_vm();
        vm.negotiate(&frontend, super::PROTOCOL).unwrap();
        vm.start_ring(&frontend, 0).unwrap();
        super::answers(&mut vm, 8);
        backend.kill();
    }
}
