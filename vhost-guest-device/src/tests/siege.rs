// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One device and one hostile frontend after another: what an attack has to
//! end in, whatever it was.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use vhost_guest_msg::{frontend, FdRule, Layout, ProtocolFeatures, Row};
use vhost_guest_vmm_traits::test_utils::Call;
use vhost_guest_vmm_traits::MsiMessage;

use super::rig::VRINGS;
use super::rig::{event, memory_file, message, words, Frontend, Rig, DOORBELLS, FIRST_KICK};

/// Flags of a request.
pub(crate) const PLAIN: u32 = 0x1;
/// Flags of a request that asks for an acknowledgement.
pub(crate) const NEED_REPLY: u32 = 0x9;
/// Flags of a reply.
pub(crate) const REPLY: u32 = 0x5;

/// Where the samples' memory is in the frontend.
pub(crate) const USER: u64 = 0x7000_0000;
/// How much of it there is.
pub(crate) const SIZE: u64 = 1 << 20;

/// A device under attack.
pub(crate) struct Siege {
    pub(crate) rig: Rig,
}

impl Siege {
    pub(crate) fn new() -> Self {
        Self::of(Rig::new())
    }

    /// One that carries whatever a device can, device state too.
    pub(crate) fn with_migration() -> Self {
        Self::of(Rig::with(|builder| builder.migration(4096)))
    }

    /// Any device; its guest need not have done anything yet.
    pub(crate) fn of(mut rig: Rig) -> Self {
        rig.initialise();
        Self { rig }
    }

    /// The next frontend, which finds what the first one found, and has
    /// negotiated `features`.
    pub(crate) fn frontend(&mut self, features: ProtocolFeatures) -> Frontend {
        let rig = &mut self.rig;
        rig.start();
        assert_eq!(rig.vmm.mappings(), [], "memory stayed after the reset");
        for kick in 0..VRINGS {
            let both = [kick, FIRST_KICK + kick].map(u16::to_le_bytes).concat();
            rig.write(crate::guest::pci::bars::DRIVER_AUX, &both);
        }
        rig.backend_up();
        let mut frontend = rig.connect();
        rig.run();
        // While the one before has left much to close, the listener rests.
        for _ in 0..50 {
            if rig.up() != 3 {
                wait_for_turn(rig);
                rig.run();
            }
        }
        assert_eq!(rig.up(), 3, "the next frontend was not served");
        if !features.is_empty() {
            rig.negotiate(&mut frontend, features);
        }
        take_config_interrupt(rig);
        rig.vmm.take_calls();
        frontend
    }

    /// The frontend is gone, the guest knows it and saw nothing of the attack,
    /// and nothing of the frontend's is connected any more.
    pub(crate) fn assert_lost(&mut self, mut frontend: Frontend, what: &str) {
        let rig = &mut self.rig;
        assert!(rig.needs_reset(), "{what}: still connected");
        assert!(take_config_interrupt(rig), "{what}: no interrupt");
        assert!(rig.vmm.calls().contains(&Call::NeedsReset), "{what}");
        assert_nothing_connected(rig, what);
        assert!(frontend.is_disconnected(), "{what}: the socket is open");
        assert_eq!(rig.receive(0), None, "{what}: forwarded");
    }

    /// An attack by a frontend that has negotiated `features` costs it the
    /// connection.
    pub(crate) fn costs_the_connection(
        &mut self,
        features: ProtocolFeatures,
        what: &str,
        attack: impl FnOnce(&mut Rig, &mut Frontend),
    ) {
        let mut frontend = self.frontend(features);
        attack(&mut self.rig, &mut frontend);
        self.assert_lost(frontend, what);
    }

    /// A well-formed request is refused and changes nothing. It costs no more
    /// than that if its frontend reads the answer; else it costs the connection.
    pub(crate) fn refuses(
        &mut self,
        features: ProtocolFeatures,
        code: u32,
        what: &str,
        attack: &mut dyn FnMut(&mut Frontend, u32),
    ) {
        for flags in [NEED_REPLY, PLAIN] {
            let Some(refusal) = refusal(code, flags == NEED_REPLY) else {
                self.costs_the_connection(features, what, |_, frontend| attack(frontend, flags));
                continue;
            };
            let mut frontend = self.frontend(features);
            let before = self.rig.vmm.mappings();
            attack(&mut frontend, flags);
            assert!(!self.rig.needs_reset(), "{what}: lost");
            assert_eq!(frontend.receive(), Some(refusal), "{what}");
            assert_eq!(self.rig.receive(0), None, "{what}: forwarded");
            assert_eq!(self.rig.vmm.mappings(), before, "{what}");
            assert_nothing_connected(&self.rig, what);
            // The same frontend goes on.
            let next = message(frontend::GET_FEATURES, PLAIN, &[]);
            frontend.send(&next, &[]);
            assert_eq!(self.rig.receive(0), Some(next), "{what}");
            drop(frontend);
            assert!(self.rig.needs_reset());
        }
    }

    /// A frontend that behaves is served.
    pub(crate) fn serves_the_next(&mut self) {
        let mut frontend = self.frontend(ProtocolFeatures::MQ);
        frontend.send(&message(frontend::GET_FEATURES, PLAIN, &[]), &[]);
        let request = self.rig.receive(0);
        assert_eq!(request, Some(message(frontend::GET_FEATURES, PLAIN, &[])));
        self.rig.reply(frontend::GET_FEATURES, &words(&[5]));
        let reply = message(frontend::GET_FEATURES, REPLY, &words(&[5]));
        assert_eq!(frontend.receive(), Some(reply));
    }
}

/// How a request is refused, if that can be said. Those with a reply of their
/// own are refused in its terms.
fn refusal(code: u32, asked: bool) -> Option<Vec<u8>> {
    use frontend::{GET_CONFIG, GET_INFLIGHT_FD, SET_DEVICE_STATE_FD, SET_LOG_BASE};
    use frontend::{GET_VRING_BASE, GET_VRING_BASE_SKIP_DRAIN};
    let payload = match code {
        GET_CONFIG => vec![],
        GET_INFLIGHT_FD => words(&[0, 0, 0]),
        SET_DEVICE_STATE_FD => words(&[0x101]),
        GET_VRING_BASE | GET_VRING_BASE_SKIP_DRAIN => return None,
        _ if !asked => return None,
        SET_LOG_BASE => words(&[0, 0]),
        _ => words(&[1]),
    };
    Some(message(code, REPLY, &payload))
}

/// Neither doorbells nor kicks of a frontend's are connected.
pub(crate) fn assert_nothing_connected(rig: &Rig, what: &str) {
    let doorbells = rig.vmm.doorbells();
    let window = DOORBELLS..DOORBELLS + 0x1_0000;
    assert!(!doorbells.iter().any(|at| window.contains(at)), "{what}");
    let armed = rig.vmm.armed();
    let first = u32::from(FIRST_KICK);
    let kicks = armed.iter().filter(|(_, m)| m.data >= first);
    assert_eq!(kicks.count(), 0, "{what}: {armed:?}");
}

/// Whether a configuration change interrupt is under way; it is taken.
pub(crate) fn take_config_interrupt(rig: &Rig) -> bool {
    let message = MsiMessage {
        address: 0xFEE0_0000,
        data: 0,
    };
    let armed = rig.vmm.armed_with(message);
    armed.iter().any(signalled)
}

/// Whether an eventfd was signalled; it is drained.
pub(crate) fn signalled(eventfd: &OwnedFd) -> bool {
    rustix::io::read(eventfd, &mut [0; 8]).is_ok()
}

/// A correct payload for a request.
pub(crate) fn sample(row: &Row) -> Vec<u8> {
    let region = [0, SIZE, USER, 0];
    match row.layout {
        Layout::Nothing => vec![],
        Layout::U64 | Layout::Rarp | Layout::VringFd => words(&[1]),
        // The second number is one that all of them take.
        Layout::VringState => words(&[1 | u64::from(takes_number(row)) << 32]),
        Layout::VringAddr => words(&[1, USER, USER + 0x1000, USER + 0x2000, 0]),
        Layout::MemTable => [words(&[1]), words(&region)].concat(),
        Layout::MemRegion => [words(&[0]), words(&region)].concat(),
        Layout::Log => words(&[SIZE, 0]),
        Layout::Iotlb => words(&[0x1000, 0x1000, USER, 0x203]),
        Layout::Config => [words(&[4 << 32 | 4]), vec![0; 8]].concat(),
        Layout::Inflight => words(&[SIZE, 0, 1 | 256 << 16]),
        Layout::DeviceState => words(&[1]),
        Layout::Opaque => words(&[0]),
    }
}

fn takes_number(row: &Row) -> bool {
    use frontend::{SET_VRING_BASE, SET_VRING_ENABLE, SET_VRING_ENDIAN, SET_VRING_NUM};
    let codes = [
        SET_VRING_BASE,
        SET_VRING_ENABLE,
        SET_VRING_ENDIAN,
        SET_VRING_NUM,
    ];
    codes.contains(&row.code)
}

/// The descriptors for [`sample`], of the right kinds; nobody holds the other
/// ends.
pub(crate) fn sample_fds(row: &Row) -> Vec<OwnedFd> {
    match (row.fds, row.layout) {
        (FdRule::None | FdRule::AtMostOneIgnored | FdRule::Any, _) => vec![],
        (_, Layout::VringFd) => vec![event()],
        (FdRule::One, Layout::Nothing) if row.code == frontend::SET_LOG_FD => vec![event()],
        (FdRule::One, Layout::Nothing | Layout::DeviceState) => {
            vec![UnixStream::pair().unwrap().0.into()]
        }
        _ => vec![memory_file(SIZE).into()],
    }
}

/// Sends a message with descriptors.
pub(crate) fn send(frontend: &mut Frontend, bytes: &[u8], fds: &[OwnedFd]) {
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    frontend.send(bytes, &fds);
}

/// What is known about this process's descriptors.
const FDINFO: &str = "/proc/self/fdinfo";

/// What tells an open file from others, as far as the kernel shows it.
fn identity(fdinfo: &Path) -> Option<Vec<String>> {
    let text = fs::read_to_string(fdinfo).ok()?;
    let told = |line: &str| {
        let (field, value) = line.split_once(':')?;
        match field {
            // Its last digit is the access mode: which end of a pipe it is.
            "flags" => value.chars().last().map(String::from),
            "mnt_id" | "ino" | "eventfd-id" => Some(line.to_owned()),
            _ => None,
        }
    };
    Some(text.lines().filter_map(told).collect())
}

/// How many descriptors of this process are of the same file as `fd`.
pub(crate) fn descriptors_of(fd: impl AsFd) -> usize {
    let wanted = [identity_of(fd.as_fd())];
    count(&wanted)[0]
}

fn identity_of(fd: BorrowedFd<'_>) -> Vec<String> {
    let own = Path::new(FDINFO).join(fd.as_raw_fd().to_string());
    identity(&own).expect("an open descriptor")
}

/// How many descriptors of this process are of each of these files.
fn count(wanted: &[Vec<String>]) -> Vec<usize> {
    let all = fs::read_dir(FDINFO).unwrap();
    let open: Vec<_> = all
        .filter_map(|entry| identity(&entry.ok()?.path()))
        .collect();
    let of = |file: &Vec<String>| open.iter().filter(|other| *other == file).count();
    wanted.iter().map(of).collect()
}

/// Only this descriptor of the file is left: the device has closed its own,
/// which another thread does for it.
pub(crate) fn assert_closed(fd: impl AsFd, what: &str) {
    assert_all_closed(&[fd.as_fd()], what);
}

/// The same for several files.
pub(crate) fn assert_all_closed(fds: &[BorrowedFd<'_>], what: &str) {
    let files: Vec<_> = fds.iter().map(|fd| identity_of(*fd)).collect();
    for _ in 0..1000 {
        if count(&files).iter().all(|count| *count == 1) {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("{what}: a descriptor stayed open");
}

/// Waits until the device wants a turn.
pub(crate) fn wait_for_turn(rig: &Rig) {
    let epoll = rig.device.poller_fd().unwrap();
    let patience = Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(&epoll, PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&patience)), Ok(1), "nothing happens");
}

/// The next request, even if the device has to pause for its closing of
/// descriptors first.
pub(crate) fn receive_patiently(rig: &mut Rig) -> Option<Vec<u8>> {
    let at_once = rig.receive(0);
    at_once.or_else(|| {
        wait_for_turn(rig);
        rig.receive(0)
    })
}
