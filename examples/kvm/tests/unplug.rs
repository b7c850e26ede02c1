// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A device that goes while the guest uses it.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::fstat;
use rustix::io::fcntl_dupfd_cloexec;

use crate::driver::kick_vector;
use crate::frontend::{memory_file, signal, take};
use crate::guest::{Op, Variable};
use crate::rig::{settle, Rig};

const SIZE: u64 = 2 << 20;
/// Below 4 GiB, where the guest can reach it.
const PLACE: u64 = 0xD000_0000;
/// Rounds of the guest's program.
const ROUNDS: Variable = Variable(0);

/// Mappings and descriptors of a file in this process.
fn holders(file: &fs::File) -> (usize, usize) {
    let inode = file.metadata().unwrap().ino();
    let field = format!(" {inode} ");
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let maps = maps.lines().filter(|line| line.contains("memfd:frontend"));
    let maps = maps.filter(|line| line.contains(&field)).count();
    let same = |entry: &fs::DirEntry| fs::metadata(entry.path()).is_ok_and(|m| m.ino() == inode);
    let fds = fs::read_dir("/proc/self/fd").unwrap().flatten();
    (maps, fds.filter(same).count())
}

/// Descriptors of an eventfd in this process.
fn eventfd_holders(eventfd: impl AsFd) -> usize {
    assert!(fstat(&eventfd).is_ok());
    let id = |info: String| {
        let mut lines = info.lines();
        lines
            .find(|line| line.starts_with("eventfd-id"))
            .map(str::to_owned)
    };
    let ours = fcntl_dupfd_cloexec(&eventfd, 0).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&ours);
    let wanted = id(fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap());
    drop(ours);
    let all = fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
    all.filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .filter(|info| wanted.is_some() && id(info.clone()) == wanted)
        .count()
}

fn some_rounds(rig: &mut Rig) {
    let before = rig.guest.get(ROUNDS);
    rig.wait("rounds", |rig| rig.guest.get(ROUNDS) > before + 1000);
}

#[test]
fn nothing_is_left_of_a_device_that_goes_while_it_is_used() {
    let Some(mut rig) = Rig::start(1) else {
        return;
    };
    for _ in 0..3 {
        rig.driver.move_bar(4, PLACE);
        let frontend = rig.connect();
        let vring = rig.set_vring(&frontend, 0);
        let file = memory_file(SIZE, 0x11);
        let at = rig.share(&frontend, &file, SIZE);
        assert_eq!(holders(&file), (1, 2));
        // The guest stores to memory and doorbell, and is kicked.
        rig.guest.set(ROUNDS, 0);
        let bell = rig.call_doorbell(0);
        let program = [
            Op::Store32(at, 0x2222_2222),
            Op::Store16(bell, 1),
            Op::Increment(ROUNDS),
        ];
        rig.give(&program, u64::MAX);
        some_rounds(&mut rig);
        let before = rig.guest.interrupts(kick_vector(0));
        signal(&vring.kick);
        rig.wait("the kick", |rig| {
            rig.guest.interrupts(kick_vector(0)) > before
        });
        assert!(take(&vring.call) > 0);

        rig.machine.unplug(&rig.function);
        // Not a store later.
        let _ = (take(&vring.call), take(&vring.kick));
        file.write_all_at(&[0x33; 8], 0).unwrap();
        let kicks = rig.guest.interrupts(kick_vector(0));
        signal(&vring.kick);
        some_rounds(&mut rig);
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [0x33; 8], "memory is still there");
        assert_eq!(take(&vring.call), 0, "the doorbell is still there");
        assert_eq!(rig.guest.interrupts(kick_vector(0)), kicks);
        assert_eq!(take(&vring.kick), 1, "somebody has taken the kick");
        assert_eq!(holders(&file).0, 0, "still mapped");
        // The next device, in its place. The guest has not stopped meanwhile.
        rig.replace(1);
        settle("descriptors", || {
            let eventfds = [&vring.kick, &vring.call];
            holders(&file) == (0, 1) && eventfds.iter().all(|fd| eventfd_holders(fd) == 1)
        });
        rig.stop_program();
        rig.driver.initialise();
    }
    rig.connect();
}
