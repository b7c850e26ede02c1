// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Services that do what they are asked for, and keep books of it: KVM's where
//! there is KVM, else those of an emulated machine.
//!
//! The books are those of the test double, contracts and failures on demand
//! included. Whatever takes something from the guest is done before the books
//! say whether it was, so that nothing outlives its device in this process.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kvm_ioctls::{Kvm, VmFd};
use vhost_guest_vmm_traits::test_utils::TestVmm;
use vhost_guest_vmm_traits::{
    Arming, InterruptManager, IoEventFdRegistrar, RangeId, SharedMemoryMapper, SourceId,
};

use crate::adapter;
use crate::window::Window;

/// Lines of KVM's interrupt controllers, and memory slots for a window.
const LINES: u32 = 24;
const SLOTS: u32 = 4000;

/// The virtual machine of this process, which all devices are plugged into, one
/// after the other: to end one takes longer than an input.
struct Vm {
    vm: Arc<VmFd>,
    interrupts: adapter::Interrupts,
    doorbells: adapter::Doorbells,
}

impl Vm {
    fn get() -> Option<&'static Self> {
        static VM: OnceLock<Option<Vm>> = OnceLock::new();
        VM.get_or_init(|| {
            let vm = Arc::new(Kvm::new().ok()?.create_vm().ok()?);
            vm.create_irq_chip().ok()?;
            Some(Self {
                interrupts: adapter::Interrupts::new(vm.clone(), Vec::new(), LINES),
                doorbells: adapter::Doorbells(vm.clone()),
                vm,
            })
        })
        .as_ref()
    }
}

/// Makes the virtual machine, if there is KVM; tells whether there is.
pub fn has_kvm() -> bool {
    Vm::get().is_some()
}

/// What one device is lent.
pub struct Lent {
    books: Arc<TestVmm>,
    vm: Option<&'static Vm>,
    /// KVM's window, if it is KVM's.
    slots: Option<adapter::Window>,
    /// The window of an emulated guest.
    pub window: Window,
    /// Sources and ranges as the other side knows them.
    sources: Mutex<BTreeMap<SourceId, SourceId>>,
    ranges: Mutex<BTreeMap<RangeId, RangeId>>,
}

impl Lent {
    /// Of KVM, or of an emulated machine.
    pub fn new(books: Arc<TestVmm>, kvm: bool, size: u64) -> Self {
        let vm = Vm::get().filter(|_| kvm);
        Self {
            books,
            vm,
            slots: vm.map(|vm| adapter::Window::new(vm.vm.clone(), size, 0..SLOTS)),
            window: Window::default(),
            sources: Mutex::default(),
            ranges: Mutex::default(),
        }
    }

    /// Whether it is KVM's.
    pub fn is_kvm(&self) -> bool {
        self.vm.is_some()
    }

    fn mapper(&self) -> &dyn SharedMemoryMapper {
        match &self.slots {
            Some(slots) => slots,
            None => &self.window,
        }
    }

    fn range(&self, range: RangeId) -> RangeId {
        let ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        *ranges.get(&range).expect("a range that is open")
    }

    /// The same for KVM's sources.
    fn with_sources(
        &self,
        sources: &[Arming<'_>],
        call: impl FnOnce(&adapter::Interrupts, &[Arming<'_>]) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(vm) = self.vm else {
            return Ok(());
        };
        let known = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = sources.iter().map(|arming| Arming {
            source: *known.get(&arming.source).expect("a source that exists"),
            ..*arming
        });
        call(&vm.interrupts, &theirs.collect::<Vec<_>>())
    }
}

impl InterruptManager for Lent {
    fn create_source(&self) -> io::Result<SourceId> {
        let source = self.books.create_source()?;
        if let Some(vm) = self.vm {
            let theirs = vm.interrupts.create_source()?;
            let mut known = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(source, theirs);
        }
        Ok(source)
    }

    fn arm(&self, sources: &[Arming<'_>]) -> io::Result<()> {
        self.books.arm(sources)?;
        let armed = self.with_sources(sources, |kvm, theirs| kvm.arm(theirs));
        if armed.is_err() {
            let _ = self.with_sources(sources, |kvm, theirs| kvm.disarm(theirs));
            let _ = self.books.disarm(sources);
        }
        armed
    }

    fn disarm(&self, sources: &[Arming<'_>]) -> io::Result<()> {
        let disarmed = self.with_sources(sources, |kvm, theirs| kvm.disarm(theirs));
        self.books.disarm(sources)?;
        disarmed
    }

    fn destroy_source(&self, source: SourceId) {
        let mut known = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(vm), Some(theirs)) = (self.vm, known.remove(&source)) {
            vm.interrupts.destroy_source(theirs);
        }
        self.books.destroy_source(source);
    }

    fn fds_to_keep(&self) -> Vec<RawFd> {
        self.vm.map_or(Vec::new(), |vm| vm.interrupts.fds_to_keep())
    }
}

impl IoEventFdRegistrar for Lent {
    fn register(&self, fd: BorrowedFd<'_>, address: u64) -> io::Result<()> {
        self.books.register(fd, address)?;
        let registered = self.vm.map(|vm| vm.doorbells.register(fd, address));
        let registered = registered.unwrap_or(Ok(()));
        if registered.is_err() {
            let _ = self.books.unregister(fd, address);
        }
        registered
    }

    fn unregister(&self, fd: BorrowedFd<'_>, address: u64) -> io::Result<()> {
        // One that was to stay, according to the books, is not there any more.
        let _ = self.vm.map(|vm| vm.doorbells.unregister(fd, address));
        self.books.unregister(fd, address)
    }
}

impl SharedMemoryMapper for Lent {
    fn open(&self, fd: BorrowedFd<'_>, fd_offset: u64, length: u64) -> io::Result<RangeId> {
        let theirs = self.mapper().open(fd, fd_offset, length)?;
        let range = self.books.open(fd, fd_offset, length);
        match range {
            Ok(range) => {
                let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
                ranges.insert(range, theirs);
            }
            Err(_) => self.mapper().close(theirs),
        }
        range
    }

    fn attach(&self, range: RangeId, window_offset: u64) -> io::Result<()> {
        self.books.attach(range, window_offset)?;
        let attached = self.mapper().attach(self.range(range), window_offset);
        if attached.is_err() {
            let _ = self.books.detach(range);
        }
        attached
    }

    fn detach(&self, range: RangeId) -> io::Result<()> {
        // It may have been taken in a call that failed, according to the books.
        let detached = self.mapper().detach(self.range(range));
        self.books.detach(range)?;
        detached.or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
    }

    fn close(&self, range: RangeId) {
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = ranges.remove(&range).expect("a range that is open");
        drop(ranges);
        self.mapper().close(theirs);
        self.books.close(range);
    }

    fn place(&self, guest_address: Option<u64>) -> io::Result<()> {
        self.books.place(guest_address)?;
        self.mapper().place(guest_address)
    }
}
