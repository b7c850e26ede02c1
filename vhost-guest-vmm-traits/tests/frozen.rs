// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! An adapter as the first release will find it. From then on, what makes this
//! file fail to compile breaks the adapters of VMMs, and it must not be changed
//! any more.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex};

use vhost_guest_vmm_traits::{
    Access, AddressTranslator, Arming, DeviceNotifier, InterruptManager, IoEventFdRegistrar,
    MsiMessage, RangeId, SharedMemoryMapper, SourceId, ThreadHook, Translation,
};

/// Implements what has to be implemented, and nothing else.
#[derive(Default)]
struct Adapter {
    armed: Mutex<Vec<(SourceId, MsiMessage)>>,
}

impl InterruptManager for Adapter {
    fn create_source(&self) -> io::Result<SourceId> {
        Ok(SourceId(7))
    }

    fn arm(&self, sources: &[Arming<'_>]) -> io::Result<()> {
        for arming in sources {
            let Arming {
                source,
                eventfd,
                message,
            } = *arming;
            let _: BorrowedFd<'_> = eventfd;
            self.armed.lock().unwrap().push((source, message));
        }
        Ok(())
    }

    fn disarm(&self, sources: &[Arming<'_>]) -> io::Result<()> {
        let mut armed = self.armed.lock().unwrap();
        armed.retain(|(source, _)| sources.iter().all(|arming| arming.source != *source));
        Ok(())
    }

    fn destroy_source(&self, _: SourceId) {}
}

impl IoEventFdRegistrar for Adapter {
    fn register(&self, _: BorrowedFd<'_>, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn unregister(&self, _: BorrowedFd<'_>, _: u64) -> io::Result<()> {
        Ok(())
    }
}

impl SharedMemoryMapper for Adapter {
    fn open(&self, _: BorrowedFd<'_>, _: u64, _: u64) -> io::Result<RangeId> {
        Ok(RangeId(3))
    }

    fn attach(&self, _: RangeId, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn detach(&self, _: RangeId) -> io::Result<()> {
        Ok(())
    }

    fn close(&self, _: RangeId) {}

    fn place(&self, _: Option<u64>) -> io::Result<()> {
        Ok(())
    }
}

impl AddressTranslator for Adapter {
    fn translate(&self, iova: u64, length: u64, access: Access) -> io::Result<Translation> {
        match access {
            Access::Read | Access::Write => Ok(Translation {
                guest_address: iova,
                length,
            }),
        }
    }
}

impl ThreadHook for Adapter {
    fn thread_started(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
}

impl DeviceNotifier for Adapter {}

#[test]
fn runs_an_adapter_of_the_first_day() {
    let adapter = Arc::new(Adapter::default());
    let file = std::fs::File::open("/dev/null").unwrap();
    let message = MsiMessage {
        address: 0xFEE0_0000,
        data: 1,
    };

    let interrupts: Arc<dyn InterruptManager> = adapter.clone();
    let source = interrupts.create_source().unwrap();
    let arming = Arming {
        source,
        eventfd: file.as_fd(),
        message,
    };
    interrupts.arm(&[arming]).unwrap();
    assert_eq!(*adapter.armed.lock().unwrap(), [(source, message)]);
    interrupts.disarm(&[arming]).unwrap();
    assert!(adapter.armed.lock().unwrap().is_empty());
    interrupts.destroy_source(source);

    let doorbells: Arc<dyn IoEventFdRegistrar> = adapter.clone();
    doorbells.register(file.as_fd(), 0x1000).unwrap();
    doorbells.unregister(file.as_fd(), 0x1000).unwrap();

    let window: Arc<dyn SharedMemoryMapper> = adapter.clone();
    let range = window.open(file.as_fd(), 0, 4096).unwrap();
    window.attach(range, 0).unwrap();
    window.place(Some(1 << 40)).unwrap();
    window.place(None).unwrap();
    window.detach(range).unwrap();
    window.close(range);

    let none: [RawFd; 0] = [];
    assert_eq!(interrupts.fds_to_keep(), none);
    assert_eq!(doorbells.fds_to_keep(), none);
    assert_eq!(window.fds_to_keep(), none);

    let translator: Arc<dyn AddressTranslator> = adapter.clone();
    let found = translator.translate(0x1000, 16, Access::Write).unwrap();
    assert_eq!((found.guest_address, found.length), (0x1000, 16));
    let hook: Arc<dyn ThreadHook> = adapter.clone();
    hook.thread_started("vhost-guest").unwrap();
    let notifier: Arc<dyn DeviceNotifier> = adapter;
    notifier.needs_reset();
    notifier.dead(&io::ErrorKind::Other.into());
}
