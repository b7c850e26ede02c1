// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a reset takes, what a loss takes, and what fails meanwhile.

use super::*;

#[test]
fn resets_what_virtio_defines_and_nothing_else() {
    let mut guest = Guest::running();
    guest.write(0, COMMON + 0x10, 2, 0);
    guest.write(0, COMMON + 0x1A, 2, 1);
    guest.write(0, COMMON + 0x1C, 2, 1);
    guest.write(0, DRIVER_AUX, 4, 2 << 16 | 5);
    guest.write(0, DEVICE + 32, 4, 0x0001_0002);
    guest.connect(5);
    assert!(guest.registers.queue(0).is_some());
    assert!(matches!(
        guest.write(0, COMMON + 0x14, 1, 0),
        Some(Effect::Reset)
    ));
    // What comes before its end is lost.
    assert!(guest.registers.reset_pending() && !guest.registers.is_running());
    assert!(guest.write(0, DEVICE + 34, 1, 0).is_none());
    assert!(guest.write(0, NOTIFY, 2, 0).is_none());
    guest.registers.reset().unwrap();

    assert_eq!(guest.vmm.doorbells(), notify_addresses());
    assert_eq!((guest.armed().len(), guest.vmm.source_count()), (0, 0));
    assert_eq!(guest.registers.queue(0), None);
    assert_eq!(
        (guest.registers.features(), guest.registers.device_type()),
        (0, 0)
    );
    assert_eq!(guest.read(0, DRIVER_AUX, 4), 0xFFFF_0000);
    assert_eq!(guest.read(0, COMMON + 0x10, 2), u64::from(NO_VECTOR));
    assert_eq!(guest.read(0, COMMON + 0x14, 1), 0);
    assert_eq!(guest.read(0, MSIX_TABLE + 16 + 8, 4), 1);
    assert_eq!(guest.config_dword(0x04) & 6, 6);
}

#[test]
fn resets_the_function() {
    let mut guest = Guest::running();
    guest.write(0, COMMON + 0x10, 2, 0);
    guest.connect(5);
    let effects = guest.config(0xE4, 1, 1);
    assert!(
        matches!(&effects[..], [Effect::BarMoves(m), Effect::Interrupts, Effect::Reset] if m.len() == 3)
    );
    // The reset is not over before the core says so.
    guest.config(0x04, 2, 2);
    assert!(guest.registers.reset_pending());
    assert_ne!(guest.read(0, COMMON + 0x14, 1), 0);
    guest.config(0x04, 2, 0);
    guest.registers.reset().unwrap();
    assert!(guest.vmm.doorbells().is_empty());
    assert_eq!((guest.armed().len(), guest.vmm.source_count()), (0, 0));
    assert_eq!(guest.config_dword(0x04), 0x0010_0000);
    assert_eq!(guest.config_dword(0x10), 4);
    assert_eq!(guest.config_dword(0xD4) >> 30, 0);
    guest.config(0x04, 2, 2);
    assert_eq!(guest.read(0, MSIX_TABLE + 12, 4), 1);
    assert_eq!(guest.read(0, COMMON + 0x14, 1), 0);
}

#[test]
fn completes_the_reset_even_if_a_doorbell_stays() {
    let mut guest = Guest::running();
    guest.connect(5);
    guest.write(0, COMMON + 0x14, 1, 0);
    guest.vmm.fail_nth(0, io::ErrorKind::Other);
    let outcome = guest.registers.reset();
    assert!(matches!(outcome, Err(ServiceError::Dead(_))));
    assert_eq!(guest.read(0, COMMON + 0x14, 1), 0);
    guest.registers.reset().unwrap();
    assert_eq!(guest.vmm.doorbells(), notify_addresses());
}

#[test]
fn forgets_a_frontend_that_is_lost() {
    let mut guest = Guest::running();
    guest.write(0, DRIVER_AUX, 4, 2 << 16 | 5);
    guest.connect(5);
    assert_eq!(guest.armed(), [2]);
    guest.registers.detach_frontend().unwrap();
    assert!(guest.armed().is_empty());
    assert_eq!(guest.vmm.doorbells(), notify_addresses());
    // The vector is the guest's.
    assert_eq!(guest.read(0, DRIVER_AUX, 4), 2 << 16 | 5);
}

#[test]
fn tells_the_core_of_interrupts_that_fail() {
    struct Refuses;
    impl InterruptManager for Refuses {
        fn create_source(&self) -> io::Result<vhost_guest_vmm_traits::SourceId> {
            Ok(vhost_guest_vmm_traits::SourceId(1))
        }
        fn arm(&self, _: &[vhost_guest_vmm_traits::Arming<'_>]) -> io::Result<()> {
            Err(io::ErrorKind::OutOfMemory.into())
        }
        fn disarm(&self, _: &[vhost_guest_vmm_traits::Arming<'_>]) -> io::Result<()> {
            Ok(())
        }
        fn destroy_source(&self, _: vhost_guest_vmm_traits::SourceId) {}
    }
    let peer = Peer::new();
    let (vmm, signaller) = (Arc::new(TestVmm::new()), Arc::clone(&peer.signaller));
    let mut registers = Registers::new(&setup(), Arc::new(Refuses), Some(vmm), signaller).unwrap();
    let failed = |registers: &mut Registers| {
        let failures = registers.sync_all_interrupts();
        matches!(&failures[..], [failure] if failure.event == Event::Config)
    };
    let _ = registers.config_write(0x04, &[6, 0]);
    let _ = registers.bar_write(0, MSIX_TABLE + 12, &[0; 4]);
    assert!(registers.bar_write(0, COMMON + 0x10, &[0, 0]).is_none());
    assert!(!failed(&mut registers));
    let _ = registers.config_write(0xD6, &[0, 0x80]);
    assert!(failed(&mut registers));
    let _ = registers.bar_write(0, MSIX_TABLE + 12, &[1, 0, 0, 0]);
    assert!(!failed(&mut registers));
    let _ = registers.bar_write(0, MSIX_TABLE + 12, &[0; 4]);
    assert!(failed(&mut registers));
    let _ = registers.config_write(0x04, &[2, 0]);
    assert!(!failed(&mut registers));
    let _ = registers.config_write(0x04, &[6, 0]);
    assert!(failed(&mut registers));
}
