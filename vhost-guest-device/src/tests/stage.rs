// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A frontend whose rings run while its memory changes, and what has to hold
//! at each step: what stays is where the guest was told, what goes is there
//! until the guest has acknowledged it and not longer, and rings that are in
//! memory are where they were and ring.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use vhost_guest_msg::{frontend, ProtocolFeatures};
use vhost_guest_vmm_traits::MsiMessage;

use super::rig::{event, memory_file, message, words, Frontend, Rig, DOORBELLS, FIRST_KICK};
use super::siege::{assert_closed, signalled, NEED_REPLY, PLAIN, REPLY};
use crate::guest::pci::bars::DRIVER_AUX;

const PAGE: u64 = 0x1000;

/// How a frontend finds out that a message was processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acks {
    /// It asks each time (rust-vmm's frontend, and so Cloud Hypervisor).
    Asked,
    /// It asks where it has to know (QEMU).
    AskedAtTimes,
    /// It has negotiated REPLY_ACK and does not ask (crosvm).
    Offered,
    /// There is no REPLY_ACK.
    Absent,
}

/// Memory of the frontend's guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// Which file it is in.
    pub(crate) file: usize,
    pub(crate) guest: u64,
    pub(crate) size: u64,
    pub(crate) user: u64,
    pub(crate) offset: u64,
}

impl Region {
    fn words(&self) -> [u64; 4] {
        [self.guest, self.size, self.user, self.offset]
    }

    fn has(&self, user: u64) -> bool {
        (self.user..self.user + self.size).contains(&user)
    }
}

/// A ring that runs.
struct Ring {
    user: u64,
    /// Where the guest was told to find it.
    window: u64,
    kick: OwnedFd,
    call: OwnedFd,
}

/// A frontend, a guest, and what they believe.
pub(crate) struct Stage {
    pub(crate) rig: Rig,
    pub(crate) frontend: Frontend,
    acks: Acks,
    files: Vec<File>,
    /// What the guest was told, and where.
    pub(crate) regions: Vec<(Region, u64)>,
    rings: Vec<Ring>,
}

fn connect(rig: &mut Rig, acks: Acks, mut features: ProtocolFeatures) -> Frontend {
    let mut frontend = rig.connect();
    rig.run();
    features.set(ProtocolFeatures::REPLY_ACK, acks != Acks::Absent);
    rig.negotiate(&mut frontend, features);
    frontend
}

impl Stage {
    /// A frontend that has negotiated `features`, with memory files of these
    /// sizes.
    pub(crate) fn new(acks: Acks, features: ProtocolFeatures, files: &[u64]) -> Self {
        let mut rig = Rig::with(|builder| builder.window_size(1 << 32).migration(4096));
        rig.initialise();
        rig.backend_up();
        let frontend = connect(&mut rig, acks, features);
        Self {
            rig,
            frontend,
            acks,
            files: files.iter().map(|size| memory_file(*size)).collect(),
            regions: Vec::new(),
            rings: Vec::new(),
        }
    }

    /// The frontend has found that the backend is there again.
    pub(crate) fn reconnect(&mut self, features: ProtocolFeatures) {
        assert!(self.frontend.is_disconnected());
        self.rig.backend_up();
        self.frontend = connect(&mut self.rig, self.acks, features);
        self.regions.clear();
        self.rings.clear();
    }

    /// Whether the frontend asks for an acknowledgement of a request.
    pub(crate) fn asks(&self, code: u32) -> bool {
        use frontend::{ADD_MEM_REG, REM_MEM_REG, SET_MEM_TABLE, SET_VRING_ENABLE};
        use frontend::{SET_VRING_CALL, SET_VRING_KICK};
        match self.acks {
            Acks::Asked => true,
            Acks::AskedAtTimes => {
                let memory = [ADD_MEM_REG, REM_MEM_REG, SET_MEM_TABLE];
                let rings = [SET_VRING_ENABLE, SET_VRING_KICK, SET_VRING_CALL];
                memory.contains(&code) || rings.contains(&code)
            }
            Acks::Offered | Acks::Absent => false,
        }
    }

    /// Sends a request; what the guest gets.
    pub(crate) fn tell(&mut self, code: u32, payload: &[u8], fds: &[OwnedFd]) -> Vec<u8> {
        let flags = if self.asks(code) { NEED_REPLY } else { PLAIN };
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        self.frontend.send(&message(code, flags, payload), &fds);
        let seen = self.rig.receive(0);
        seen.unwrap_or_else(|| panic!("request {code} did not arrive"))
    }

    /// The guest has processed a request, which took memory away or not.
    pub(crate) fn settle(&mut self, code: u32, took_away: bool) {
        let answer = message(code, REPLY, &words(&[0]));
        if self.asks(code) {
            assert_eq!(self.frontend.receive(), None, "not before the guest");
            self.rig.send(1, &answer);
            assert_eq!(self.frontend.receive(), Some(answer));
        } else if took_away && self.acks == Acks::Absent {
            let barrier = message(frontend::GET_FEATURES, PLAIN, &[]);
            assert_eq!(self.rig.receive(0), Some(barrier));
            self.rig.reply(frontend::GET_FEATURES, &words(&[0]));
        } else if took_away {
            self.rig.send(1, &answer);
        }
        assert_eq!(self.frontend.receive(), None, "it did not ask");
        assert!(!self.rig.needs_reset());
    }

    /// Sends a request that the guest acknowledges, and that is not about
    /// memory.
    pub(crate) fn say(&mut self, code: u32, payload: &[u8], fds: &[OwnedFd]) -> Vec<u8> {
        let seen = self.tell(code, payload, fds);
        self.settle(code, false);
        seen
    }

    pub(crate) fn fd(&self, file: usize) -> OwnedFd {
        self.files[file].try_clone().unwrap().into()
    }

    /// A frontend is given more memory.
    pub(crate) fn new_file(&mut self, size: u64) -> usize {
        self.files.push(memory_file(size));
        self.files.len() - 1
    }

    /// ADD_MEM_REG.
    pub(crate) fn add(&mut self, region: Region) {
        let payload = [words(&[0]), words(&region.words())].concat();
        let seen = self.tell(frontend::ADD_MEM_REG, &payload, &[self.fd(region.file)]);
        self.regions.push((region, word(&seen, 3)));
        self.check();
        self.settle(frontend::ADD_MEM_REG, false);
        self.check();
    }

    /// REM_MEM_REG, without mmap offset, as QEMU sends it.
    pub(crate) fn remove(&mut self, region: Region) {
        self.remove_with(region, 0, &[]);
    }

    /// REM_MEM_REG with any mmap offset and descriptors.
    pub(crate) fn remove_with(&mut self, region: Region, offset: u64, fds: &[OwnedFd]) {
        let at = self.place(&region);
        let payload = words(&[0, region.guest, region.size, region.user, offset]);
        let seen = self.tell(frontend::REM_MEM_REG, &payload, fds);
        let known = [0, region.guest, region.size, at, offset];
        assert_eq!(seen[12..], words(&known), "as the guest knows it");
        self.check();
        self.regions.retain(|(other, _)| *other != region);
        let after: Vec<_> = self.regions.iter().map(|(other, _)| *other).collect();
        self.settle(frontend::REM_MEM_REG, loses(&[(region, at)], &after));
        self.check();
    }

    /// SET_MEM_TABLE.
    pub(crate) fn replace(&mut self, regions: &[Region]) {
        let (payload, fds) = self.table(regions);
        let seen = self.tell(frontend::SET_MEM_TABLE, &payload, &fds);
        // All that was there is, until the guest has processed it.
        self.check_contents();
        let places = (0..regions.len()).map(|index| word(&seen, 1 + 4 * index + 2));
        let next: Vec<_> = regions.iter().copied().zip(places).collect();
        let before = std::mem::replace(&mut self.regions, next);
        self.check_contents();
        self.settle(frontend::SET_MEM_TABLE, loses(&before, regions));
        self.check();
    }

    /// A table's payload and descriptors.
    pub(crate) fn table(&self, regions: &[Region]) -> (Vec<u8>, Vec<OwnedFd>) {
        let mut payload = words(&[regions.len() as u64]);
        payload.extend(regions.iter().flat_map(|region| words(&region.words())));
        let fds = regions.iter().map(|region| self.fd(region.file)).collect();
        (payload, fds)
    }

    /// Where the guest was told to find a region.
    pub(crate) fn place(&self, region: &Region) -> u64 {
        let known = self.regions.iter().find(|(other, _)| other == region);
        known.expect("a region that the guest knows").1
    }

    /// The messages of one ring, in the order of `codes`: size, base,
    /// addresses, call, kick, on.
    pub(crate) fn start_ring(&mut self, user: u64, codes: &[u32]) {
        let index = self.rings.len() as u64;
        let fds = [event(), event()];
        let mut window = 0;
        for code in codes {
            match *code {
                frontend::SET_VRING_NUM => self.say(*code, &words(&[index | 64 << 32]), &[]),
                frontend::SET_VRING_ADDR => {
                    let [desc, used, avail] = [user, user + 2 * PAGE, user + PAGE];
                    let parts = words(&[index, desc, used, avail, 0]);
                    let seen = self.say(*code, &parts, &[]);
                    window = word(&seen, 1);
                    seen
                }
                frontend::SET_VRING_KICK => {
                    self.say(*code, &words(&[index]), &[fds[0].try_clone().unwrap()])
                }
                frontend::SET_VRING_CALL => {
                    self.say(*code, &words(&[index]), &[fds[1].try_clone().unwrap()])
                }
                _ => {
                    let on = u64::from(*code == frontend::SET_VRING_ENABLE);
                    self.say(*code, &words(&[index | on << 32]), &[])
                }
            };
        }
        let vector = u64::from(FIRST_KICK) + index;
        let both = (index | vector << 16) as u32;
        self.rig.write(DRIVER_AUX, &both.to_le_bytes());
        let [kick, call] = fds;
        self.rings.push(Ring {
            user,
            window,
            kick,
            call,
        });
        self.check();
    }

    /// The frontend's rings have no addresses any more.
    pub(crate) fn forget_rings(&mut self) {
        self.rings.clear();
    }

    /// GET_VRING_BASE for all rings, after they were switched off.
    pub(crate) fn stop_rings(&mut self) {
        for index in 0..self.rings.len() as u64 {
            self.say(frontend::SET_VRING_ENABLE, &words(&[index]), &[]);
            let code = frontend::GET_VRING_BASE;
            self.tell(code, &words(&[index]), &[]);
            let base = message(code, REPLY, &words(&[index | 7 << 32]));
            self.rig.send(1, &base);
            assert_eq!(self.frontend.receive(), Some(base));
        }
        assert!(self.rig.vmm.doorbells().iter().all(|at| *at < DOORBELLS));
        self.rings.clear();
    }

    /// Everything that has to hold between two messages.
    pub(crate) fn check(&self) {
        self.check_contents();
        let mapped = self.rig.vmm.mappings();
        let bytes: u64 = mapped.iter().map(|(_, _, length)| length).sum();
        // A region that is being taken away is counted by who takes it.
        let pages = |(region, window): &(Region, u64)| pages(*window, region.size);
        let known: BTreeSet<u64> = self.regions.iter().flat_map(pages).collect();
        let known = known.len() as u64 * PAGE;
        assert_eq!(bytes, known, "{mapped:x?} for {:x?}", self.regions);
        for (index, ring) in (0..).zip(&self.rings) {
            self.check_ring(index, ring);
        }
    }

    /// The guest finds each region's bytes where it was told.
    fn check_contents(&self) {
        for (region, window) in &self.regions {
            for at in [0, (region.size / 2) & !(PAGE - 1), region.size - 8] {
                let offset = region.offset + at;
                let tag = ((region.file as u64 + 1) << 48 | offset).to_ne_bytes();
                self.files[region.file].write_all_at(&tag, offset).unwrap();
                let mut bytes = [0; 8];
                let read = self.rig.vmm.read_window(window + at, &mut bytes);
                assert_eq!((read, bytes), (Some(()), tag), "{region:x?} at {at:x}");
            }
        }
    }

    fn check_ring(&self, index: u64, ring: &Ring) {
        let home = self
            .regions
            .iter()
            .find(|(region, _)| region.has(ring.user));
        if let Some((region, window)) = home {
            let now = window + (ring.user - region.user);
            assert_eq!(now, ring.window, "ring {index} has moved");
        }
        // In memory or not, its notifications are as they were.
        let bell = self.rig.vmm.doorbell(DOORBELLS + 4 * index);
        rustix::io::write(bell.expect("a doorbell"), &1u64.to_ne_bytes()).unwrap();
        assert!(signalled(&ring.call), "call of ring {index}");
        let armed = self.rig.vmm.armed_with(MsiMessage {
            address: 0xFEE0_0000,
            data: u32::from(FIRST_KICK) + index as u32,
        });
        rustix::io::write(&ring.kick, &1u64.to_ne_bytes()).unwrap();
        assert!(armed.iter().any(signalled), "kick of ring {index}");
    }

    /// The frontend goes away and the driver resets: nothing is left.
    pub(crate) fn finish(mut self) {
        drop(self.frontend);
        assert!(self.rig.needs_reset());
        self.rig.start();
        assert_eq!(self.rig.vmm.mappings(), []);
        assert!(self.rig.vmm.doorbells().iter().all(|at| *at < DOORBELLS));
        for file in self.files {
            assert_closed(file, "memory");
        }
        for ring in self.rings {
            assert_closed(ring.kick, "a kick");
            assert_closed(ring.call, "a call");
        }
    }
}

/// A number in a message's payload.
pub(crate) fn word(bytes: &[u8], index: usize) -> u64 {
    let at = 12 + 8 * index;
    let bytes = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
    u64::from_ne_bytes(bytes.expect("a number"))
}

/// Whether some of the files' bytes are in the first table only.
fn loses(before: &[(Region, u64)], after: &[Region]) -> bool {
    let kept = |file: usize, page: u64| {
        let mut after = after.iter();
        after.any(|r| r.file == file && pages(r.offset, r.size).contains(&page))
    };
    before.iter().any(|(region, _)| {
        let mut pages = pages(region.offset, region.size);
        pages.any(|page| !kept(region.file, page))
    })
}

/// The numbers of the pages that a range is on.
fn pages(start: u64, size: u64) -> std::ops::Range<u64> {
    start / PAGE..(start + size).div_ceil(PAGE)
}
